"""tools/clean_notebook.py leaves what a reader wants, and nothing that two runs do not share."""

from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import clean_notebook
from tools.clean_notebook import cleaned

# What differs from one run to the next: numbers at random, times, addresses, bars, and the cuts
# that a kernel makes in what is printed.
RESTLESS = """
import sys, time, uuid, warnings
import pandas as pd
from IPython.display import display
from tqdm.auto import tqdm
print("first", end="", flush=True)
for _ in tqdm(range(3)):
    time.sleep(0.01 * (uuid.uuid4().int % 9))
print(" and", flush=True)
warnings.warn(f"at {time.time()}")
print(f"second\\rat {time.time()}\\rlast")
display(object())
display(pd.DataFrame({"a": [1.0]}).style.format("{:.2f}"))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One notebook, run twice by papermill and cleaned."""
    folder, profile = tmp_path_factory.mktemp("runs"), "params.yaml"
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell("profile = 0", metadata={"tags": ["parameters"]}),
        new_code_cell(RESTLESS),
        new_code_cell(f"print(*{list(str(clean_notebook.ROOT / profile))}, sep='')"),
    ]
    source = new_notebook(cells=cells, metadata=clean_notebook.METADATA)
    nbformat.write(source, folder / "source.ipynb")
    paths = [folder / "one.ipynb", folder / "two.ipynb"]
    for path in paths:
        papermill.execute_notebook(
            folder / "source.ipynb", path, {"profile": profile}, progress_bar=False
        )
        clean_notebook.main(path)
    return paths


def test_two_runs_give_the_same_bytes_and_so_does_cleaning_twice(runs: list[Path]) -> None:
    first, second = (path.read_bytes() for path in runs)
    assert first == second
    clean_notebook.main(runs[0])
    assert runs[0].read_bytes() == first and first.endswith(b"}\n")
    assert sorted(path.name for path in runs[0].parent.iterdir()) == [
        *("one.ipynb", "source.ipynb", "two.ipynb")
    ]


def test_what_a_reader_wants_is_left(runs: list[Path]) -> None:
    notebook = nbformat.read(runs[0], as_version=4)
    nbformat.validate(notebook)
    title, default, injected, restless, place = notebook.cells
    assert title.source == "# Title"
    assert injected.source == '# Parameters\nprofile = "params.yaml"\n'
    assert [cell.metadata for cell in (default, injected, place)] == [
        {"tags": ["parameters"]},
        {"tags": ["injected-parameters"]},
        {},
    ]
    printed, thing, table = restless.outputs
    assert printed.text == "first and\nlast\n"
    assert thing.data["text/plain"] == "<object>"
    assert 'id="T_00000_row0_col0"' in table.data["text/html"] and "1.00" in str(table.data)
    assert place.outputs[0].text == "params.yaml\n"


def test_nothing_of_the_run_is_left(runs: list[Path]) -> None:
    notebook = nbformat.read(runs[0], as_version=4)
    assert notebook.metadata == clean_notebook.METADATA
    text = runs[0].read_text()
    for trace in ("papermill", 'execution"', "widget", "stderr", "0x", str(clean_notebook.ROOT)):
        assert trace not in text


def test_a_picture_keeps_its_bytes_and_ids_of_styles_stay_apart() -> None:
    picture = "T_0a1b2 at 0x7f00\r"  # as no picture would be, to see that it is not read
    styles = "#T_0a1b2 #T_ffff0_row0 #T_0a1b2_row0 T_0a1b23 iT_ffff0"
    output = new_output("display_data", {"image/png": picture, "text/html": styles})
    notebook = new_notebook(cells=[new_code_cell("", outputs=[output])])
    (kept,) = cleaned(notebook).cells[0].outputs
    assert kept.data["image/png"] == picture
    assert kept.data["text/html"] == "#T_00000 #T_00001_row0 #T_00000_row0 T_0a1b23 iT_ffff0"
