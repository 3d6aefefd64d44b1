"""Writes executed/report.html: all notebooks as they last ran, in one file.

``python tools/report.py``, or ``make report``. The file needs nothing beside it and no network:
images are in it, and so are the formulas, which nbconvert alone would leave to a MathJax from the
network. matplotlib sets them, as far as it knows TeX; what it does not know is shown as typed. A
notebook that has not run is named as missing.
"""

import base64
import io
import re
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

import nbformat
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode

from lib.files import whole

ROOT = Path(__file__).resolve().parents[1]
TITLE = "Neural Network Panning: the notebooks as they ran"
# JupyterLab's look, without the three programs that it would fetch.
TEMPLATE = """{% extends 'index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block extra_css %}
<style>main { max-width: 62rem; margin: auto; padding: 1rem }</style>
{% endblock %}
"""
# How matplotlib spells it.
SPELLING = {
    r"\\[lr]vert(?![a-z])": "|",
    r"\\[lr]Vert(?![a-z])": r"\\Vert ",
    r"\\operatorname(?![a-z])": r"\\mathrm",
    r"\\mathcal (\w)": r"\\mathcal{\1}",
    r"\\big(?![a-z])": "",
}


def formula(tex: str) -> str | None:
    """A formula as an image that stands on the line; None if matplotlib cannot set it."""
    spelled = " ".join(tex.split())
    for pattern, replacement in SPELLING.items():
        spelled = re.sub(pattern, replacement, spelled)
    image, font = io.BytesIO(), FontProperties(size=11.5, math_fontfamily="cm")
    try:
        depth = math_to_image(f"${spelled}$", image, font, dpi=72, format="svg")
    except ValueError:
        return None
    data = base64.b64encode(image.getvalue()).decode()
    style = f"display: inline; vertical-align: -{depth:.1f}pt"
    return f'<img alt="{escape(tex)}" style="{style}" src="data:image/svg+xml;base64,{data}">'


class Renderer(IPythonRenderer):
    """Markdown with its formulas set, and links to notebooks that stay in the report."""

    def inline_math(self, body: str) -> str:
        """A formula in a line."""
        return formula(body) or super().inline_math(body)

    def block_math(self, body: str) -> str:
        """A formula in a line of its own."""
        image = formula(body.replace(r"\frac", r"\dfrac"))
        return f'<p style="text-align: center">{image}</p>' if image else super().block_math(body)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link."""
        return super().link(text, re.sub(r"^([\w-]+)\.ipynb$", r"#\1", url), title)


def markdown(source: str) -> str:
    """The HTML of a Markdown cell."""
    return MarkdownWithMath(Renderer(escape=False, exclude_anchor_links=True)).render(source)


class Exporter(HTMLExporter):
    """nbconvert's exporter, with our template and our Markdown."""

    def default_filters(self) -> Iterator[tuple[str, Callable]]:
        """What templates may call."""
        yield from super().default_filters()
        yield "markdown2html", markdown


def title(notebook: NotebookNode) -> str:
    """The first heading."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.search(r"^# (.+)$", text, re.M)[1]


def tagged(cell: NotebookNode, tag: str) -> bool:
    """Whether a cell has this tag."""
    return tag in cell.metadata.get("tags", [])


def with_its_parameters(cells: list[NotebookNode]) -> list[NotebookNode]:
    """The cells, the parameters being those of the run and only those that the notebook reads.

    papermill leaves the defaults where they are and puts all of the file behind them.
    """
    names = {
        name
        for cell in cells
        if tagged(cell, "parameters")
        for name in re.findall(r"^(\w+) = ", cell.source, re.M)
    }
    injected = [cell for cell in cells if tagged(cell, "injected-parameters")]
    for cell in injected:
        lines = cell.source.splitlines()
        cell.source = "\n".join(line for line in lines if line.partition(" = ")[0] in names)
    return [cell for cell in cells if not (injected and tagged(cell, "parameters"))]


def state(written: NotebookNode, ran: NotebookNode) -> str:
    """What a reader must know of a run: nothing, if it went well and is of today's text."""
    if ran.metadata.get("papermill", {}).get("exception"):
        return " (**it stopped with an error**)"
    then = [cell.source for cell in ran.cells if not tagged(cell, "injected-parameters")]
    if then != [cell.source for cell in written.cells]:
        return " (**it has been changed since**)"
    return ""


def report(notebooks: Path, executed: Path) -> str:
    """The HTML of all notebooks in a folder, as they stand executed in another, by number."""
    contents, cells = [], []
    for path in sorted(notebooks.glob("*.ipynb")):
        written = nbformat.read(path, as_version=4)
        anchor = f'<a id="{path.stem}"></a>'
        if not (executed / path.name).is_file():
            contents.append(f"* {anchor}{title(written)} (**missing: it has not run**)")
            continue
        ran = nbformat.read(executed / path.name, as_version=4)
        contents.append(f"* [{title(written)}](#{path.stem}){state(written, ran)}")
        here = with_its_parameters(ran.cells)
        here[0].source = f"{anchor}\n\n{here[0].source}"
        cells += here
    opening = nbformat.v4.new_markdown_cell("\n".join([f"# {TITLE}", "", *contents]))
    book = nbformat.v4.new_notebook(cells=[opening, *cells])
    book.metadata = {"title": TITLE, "language_info": {"name": "python"}}
    exporter = Exporter(raw_template=TEMPLATE)
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)
    html, _ = exporter.from_notebook_node(book)
    return html


def main() -> None:
    """Write the report."""
    path = ROOT / "executed" / "report.html"
    html = report(ROOT / "notebooks", path.parent)
    with whole(path) as file:
        file.write(html.encode())
    print(f"{path.relative_to(ROOT)}: {len(html.encode()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
