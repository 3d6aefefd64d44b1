"""The report is one file that needs nothing else, and says what is missing from it."""

import base64
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import report

ROOT = Path(__file__).parents[1]
PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
        "0000000d4944415478da63f8ffff3f0005fe02fea135818f0000000049454e44ae426082"
    )
).decode()
LITERAL = "data = {\n    'name': 'digits',\n}"
INJECTED = "# Parameters\ndata = {'name': 'mnist5k'}\nagent = {'steps': 10}"


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Three notebooks, of which two have run: one made a picture, the other took its time."""
    first = [
        new_markdown_cell(
            "# 1 · A picture\n\nSee [the second](02_bar.ipynb); $s = \\lvert x\\rvert$."
        ),
        new_code_cell(LITERAL, metadata={"tags": ["parameters"]}),
        new_code_cell("draw()"),
    ]
    second = [new_markdown_cell("# 2 · A bar"), new_code_cell("work()")]
    third = [new_markdown_cell("# 3 · Not yet, see [the first](01_picture.ipynb)")]
    written, executed = tmp_path / "notebooks", tmp_path / "executed"
    written.mkdir()
    executed.mkdir()
    for name, cells in {"01_picture": first, "02_bar": second, "03_not_yet": third}.items():
        nbformat.write(new_notebook(cells=cells), written / f"{name}.ipynb")
    first[2].outputs = [new_output("display_data", {"image/png": PIXEL, "text/plain": "a figure"})]
    first.insert(2, new_code_cell(INJECTED, metadata={"tags": ["injected-parameters"]}))
    bars = "work:   0%|  | 0/2", "work:  50%|# | 1/2", "work: 100%|##| 2/2", "work: 100%|##| 2/2\n"
    second[1].outputs = [new_output("stream", name="stderr", text=f"\r{bar}") for bar in bars]
    for name, cells in {"01_picture": first, "02_bar": second}.items():
        nbformat.write(new_notebook(cells=cells), executed / f"{name}.ipynb")
    return written, executed


def contents(html: str) -> str:
    """The table of contents, up to the first notebook."""
    return html[html.index("<body") : html.index('<a id="01_picture">')]


def test_both_notebooks_are_in_the_contents_and_in_the_text(folders) -> None:
    html = report.report(*folders)
    for anchor, name in (("01_picture", "1 · A picture"), ("02_bar", "2 · A bar")):
        assert f'<a href="#{anchor}">{name}</a>' in contents(html)
        assert f'<a id="{anchor}">' in html
        assert f"<h1>{name}</h1>" in re.sub(r' id="[^"]*"', "", html)
    assert html.count("<html") == html.count("</html>") == 1
    assert html.index('<a id="01_picture">') < html.index('<a id="02_bar">')


def test_a_notebook_that_has_not_run_is_named_as_missing(folders) -> None:
    assert re.findall(r"<strong>(.*?)</strong>", contents(report.report(*folders))) == [
        "missing: it has not run"
    ]


def test_a_run_that_failed_or_is_of_another_text_is_named(folders) -> None:
    written, executed = folders
    for folder, name, change in (
        (executed, "01_picture", lambda book: book.metadata.update(papermill={"exception": True})),
        (written, "02_bar", lambda book: book.cells[1].update(source="work_more()")),
    ):
        book = nbformat.read(folder / f"{name}.ipynb", as_version=4)
        change(book)
        nbformat.write(book, folder / f"{name}.ipynb")
    assert re.findall(r"<strong>(.*?)</strong>", contents(report.report(*folders))) == [
        "it stopped with an error",
        "it has been changed since",
        "missing: it has not run",
    ]


def test_it_needs_no_other_file_and_no_network(folders) -> None:
    html = report.report(*folders)
    assert f"data:image/png;base64,{PIXEL}" in html.replace("\n", "")
    assert not re.findall(r'\bsrc="(?!data:)', html)
    assert not re.findall(r'\bhref="(?!#)', html)
    assert not re.findall(r"url\((?!data:)", html)
    assert "<script" not in html and ".ipynb" not in html
    for target in re.findall(r'href="#([^"]+)"', html):
        assert f'id="{target}"' in html


def test_a_progress_bar_is_there_once_as_it_ended(folders) -> None:
    html = report.report(*folders)
    assert html.count("work: ") == html.count("work: 100%") == 1
    assert "\r" not in html


def test_parameters_are_those_of_the_run_and_only_those_that_are_read(folders) -> None:
    plain = re.sub(r"<[^>]+>", "", report.report(*folders))
    assert "mnist5k" in plain
    assert "digits" not in plain and "steps" not in plain


def test_formulas_are_set(folders) -> None:
    html = report.report(*folders)
    assert 'alt="s = \\lvert x\\rvert"' in html and "$" not in contents(html)
    assert report.formula(r"\nonsense{x}") is None


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_every_formula_of_our_notebooks_can_be_set(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            assert "$" not in report.markdown(cell.source)


def test_the_report_is_written_beside_the_notebooks_that_ran(folders, monkeypatch, capsys) -> None:
    written, executed = folders
    monkeypatch.setattr(report, "ROOT", written.parent)
    report.main()
    assert [path.name for path in executed.glob("*report*")] == ["report.html"]
    assert "executed/report.html: " in capsys.readouterr().out
