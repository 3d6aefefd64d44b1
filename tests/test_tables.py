"""Tables are the same bytes for the same rows, and lie where the size of the study says."""

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.study.tables import Results, write_csv

ROWS = [
    {"accuracy": 0.1 + 0.2, "method": "snip", "sparsity": 0.9, "seed": 1},
    {"accuracy": 1 / 3, "method": "snip", "sparsity": 0.9, "seed": 0},
    {"accuracy": math.nan, "method": "erk", "sparsity": 0.999, "seed": 10},
    {"accuracy": 2e-7, "method": "erk", "sparsity": 0.999, "seed": 2},
]
KEYS = ["method", "sparsity", "seed"]
TABLE = """\
method,sparsity,seed,accuracy
erk,0.999,2,2e-07
erk,0.999,10,
snip,0.9,0,0.333333
snip,0.9,1,0.3
"""


@pytest.fixture
def results(workspace: Path) -> Results:
    return Results()


def written(name: str) -> str:
    return Path("data/results", name).read_bytes().decode()


# --- tables --------------------------------------------------------------------------------------


def test_a_table_is_sorted_by_its_keys_which_stand_first_to_six_digits(results) -> None:
    results.write("table", ROWS, KEYS)
    assert written("table.csv") == TABLE


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_the_order_of_the_rows_does_not_show(results, order: tuple[int, ...]) -> None:
    results.write("table", pd.DataFrame([ROWS[i] for i in order], index=order), KEYS)
    assert written("table.csv") == TABLE


def test_keys_are_sorted_as_numbers_and_in_the_order_given(results) -> None:
    results.write("table", ROWS, ["seed", "method", "sparsity"])
    assert [line.split(",")[0] for line in written("table.csv").split()] == [
        *("seed", "0", "1", "2", "10")
    ]


def test_rows_of_different_columns_make_one_table(results) -> None:
    results.write("table", [{"a": 2, "b": 0.5}, {"a": 1, "c": "x"}], ["a"])
    assert written("table.csv") == "a,b,c\n1,,x\n2,0.5,\n"


def test_two_rows_with_the_same_keys_are_refused_by_name(results) -> None:
    with pytest.raises(ValueError, match="table: two rows for {'method': 'snip', 'sparsity': 0.9}"):
        results.write("table", ROWS, ["method", "sparsity"])
    assert not results.tables.exists()


def test_a_table_read_back_is_the_table(results) -> None:
    results.write("table", ROWS, KEYS)
    expected = pd.DataFrame(ROWS).sort_values(KEYS)[[*KEYS, "accuracy"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(results.read("table"), expected, rtol=1e-5, check_dtype=False)


def test_masks_are_read_as_they_were_written_whatever_digits_they_have(results) -> None:
    masks = ["012345678901", "120000000000", "12e400000000"]
    rows = [{"seed": seed, "mask": mask} for seed, mask in enumerate([*masks, ""])]
    results.write("table", rows, ["seed"])
    found = results.read("table")["mask"]
    assert found[:3].tolist() == masks and found.isna().tolist() == [False] * 3 + [True]


def test_a_missing_table_is_named_with_what_to_do(results) -> None:
    with pytest.raises(FileNotFoundError, match="absent.csv is missing: `dvc repro` writes it"):
        results.read("absent")


# --- scalars -------------------------------------------------------------------------------------


def test_scalars_are_sorted_and_of_fixed_precision_at_every_level(results) -> None:
    values = {"b": {"y": 1 / 3, 0.9: np.float64(2 / 3)}, "a": math.nan, "c": 3, "d": "μ"}
    results.write_scalars("found", values)
    text = written("found.json")
    assert json.loads(text) == {"a": None, "b": {"y": 0.333333, "0.9": 0.666667}, "c": 3, "d": "μ"}
    assert [line.strip()[1] for line in text.split("\n") if line.startswith('  "')] == list("abcd")
    assert text.endswith("}\n") and "μ" in text
    results.write_scalars("found", dict(reversed(values.items())))
    assert written("found.json") == text


# --- places --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "below"), [("", ""), ("full", "/full")])
@pytest.mark.parametrize("tried", [False, True])
def test_each_size_has_its_folders_and_what_is_tried_has_others(
    workspace, size: str, below: str, tried: bool
) -> None:
    results = Results(size, tried)
    base = workspace / ".cache/tried" if tried else workspace
    assert results.tables == base / f"data/results{below}"
    assert results.figures == base / f"figures{below}"
    assert results.agents == base / f"data/agents{below}"
    results.write("table", [{"a": 1}], ["a"])
    results.write_scalars("found", {"a": 1})
    files = [path for path in workspace.rglob("*") if path.suffix in (".csv", ".json")]
    assert {path.parent for path in files} == {results.tables} and len(files) == 2


def test_what_was_tried_is_read_first_and_what_was_not_as_it_is_committed(workspace) -> None:
    committed, tried, full = Results(), Results(tried=True), Results("full", tried=True)
    for name in ("one", "two"):
        committed.write(name, [{"a": 1}], ["a"])
    tried.write("one", [{"a": 2}], ["a"])
    assert [tried.read(name)["a"].item() for name in ("one", "two")] == [2, 1]
    assert [committed.read(name)["a"].item() for name in ("one", "two")] == [1, 1]
    assert tried.committed == committed.tables
    assert tried.committed_agents == committed.agents
    with pytest.raises(FileNotFoundError, match="results/full/one.csv is missing"):
        full.read("one")


def test_a_csv_has_the_format_asked_for_and_no_index(workspace) -> None:
    write_csv(workspace / "deep/table.csv", pd.DataFrame({"a": ["x"], "b": [1 / 3]}), "%.2f")
    assert (workspace / "deep/table.csv").read_text() == "a,b\nx,0.33\n"


# --- whole files ---------------------------------------------------------------------------------

WRITERS = {
    "table.csv": lambda results, value: results.write("table", [{"a": value}], ["a"]),
    "found.json": lambda results, value: results.write_scalars("found", {"a": value}),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("fault", ["replace", "write"])
def test_a_failure_leaves_the_old_file_and_no_part_of_the_new(
    results, monkeypatch, name: str, fault: str
) -> None:
    WRITERS[name](results, 1)
    old = written(name)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    if fault == "replace":
        for owner, method in itertools.product((os, Path), ("replace", "rename")):
            monkeypatch.setattr(owner, method, fail)
        with pytest.raises(OSError, match="no space"):
            WRITERS[name](results, 2)
    else:
        with pytest.raises(UnicodeEncodeError):
            WRITERS[name](results, "\ud800")  # half a character
    assert [path.name for path in results.tables.iterdir()] == [name]
    assert written(name) == old
