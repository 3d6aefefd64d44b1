"""Cleans a notebook that papermill has run, so that two runs give the same bytes.

``python tools/clean_notebook.py executed/NN.ipynb`` keeps what a reader wants: the text, the code,
what was printed and the pictures. It drops or replaces what changes from one run to the next:
times, progress bars and warnings (all of stderr), widgets, the ids of cells and of pandas' styles,
addresses in memory and the path of the repository.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
STYLE = re.compile(r"\bT_[0-9a-f]{5}(?=_|\b)")  # the random id of a pandas Styler
REDRAWN = re.compile(r"[^\n]*\r(?!\n)")  # what a terminal has overwritten


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """The notebook without the traces of its run; cleaning it again changes nothing."""
    ids: dict[str, str] = {}

    def text(source: str) -> str:
        source = REDRAWN.sub("", source.replace(f"{ROOT}/", "").replace(str(ROOT), "."))
        return STYLE.sub(lambda at: _number(ids, at[0]), ADDRESS.sub("", source))

    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {key: cell.metadata[key] for key in ("tags",) if cell.metadata.get(key)}
        if cell.cell_type == "code":
            cell.outputs = _outputs(cell.outputs, text)
    notebook.metadata = METADATA
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return nbformat.from_dict(notebook)


def _number(ids: dict[str, str], name: str) -> str:
    return ids.setdefault(name, f"T_{len(ids):05x}")


def _outputs(outputs: list[NotebookNode], text: Callable[[str], str]) -> list[NotebookNode]:
    """The outputs to keep. How a kernel splits printed text depends on timing: it is joined."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        elif any("widget" in kind for kind in output.get("data", {})):
            continue
        kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            output.text = text(output.text)
        for kind, content in output.get("data", {}).items():
            if kind.startswith("text/"):
                output.data[kind] = text(content)
    return [output for output in kept if output.output_type != "stream" or output.text]


def main(path: Path) -> None:
    """Clean a file in place, whole or not at all."""
    notebook = cleaned(nbformat.read(path, as_version=4))
    nbformat.validate(notebook)
    part = path.with_name(f".{path.name}.partial")
    part.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8", newline="\n")
    part.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
