"""Tables are the same bytes for the same rows, and their intervals those of the textbook."""

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib import results
from lib.results import interval, paired, read_table, summary, write_scalars, write_table

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


def written(name: str) -> str:
    return (results.folder() / name).read_bytes().decode()


# --- tables --------------------------------------------------------------------------------------


def test_a_table_is_sorted_by_its_keys_which_stand_first_to_six_digits(workspace) -> None:
    write_table("table", ROWS, KEYS)
    assert results.folder() == workspace / "data/results"
    assert written("table.csv") == TABLE


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_the_order_of_the_rows_does_not_show(workspace, order: tuple[int, ...]) -> None:
    write_table("table", pd.DataFrame([ROWS[i] for i in order], index=order), KEYS)
    assert written("table.csv") == TABLE


def test_keys_are_sorted_as_numbers_and_in_the_order_given(workspace) -> None:
    write_table("table", ROWS, ["seed", "method", "sparsity"])
    assert [line.split(",")[0] for line in written("table.csv").split()] == [
        *("seed", "0", "1", "2", "10")
    ]


def test_rows_of_different_columns_make_one_table(workspace) -> None:
    write_table("table", [{"a": 2, "b": 0.5}, {"a": 1, "c": "x"}], ["a"])
    assert written("table.csv") == "a,b,c\n1,,x\n2,0.5,\n"


def test_two_rows_with_the_same_keys_are_refused_by_name(workspace) -> None:
    with pytest.raises(ValueError, match="table: two rows for {'method': 'snip', 'sparsity': 0.9}"):
        write_table("table", ROWS, ["method", "sparsity"])
    assert not results.folder().exists()


def test_a_table_read_back_is_the_table(workspace) -> None:
    write_table("table", ROWS, KEYS)
    expected = pd.DataFrame(ROWS).sort_values(KEYS)[[*KEYS, "accuracy"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(read_table("table"), expected, rtol=1e-5, check_dtype=False)


@pytest.mark.parametrize(
    ("select", "seeds"),
    [
        ({}, [2, 10, 0, 1]),
        ({"method": ["snip"]}, [0, 1]),
        ({"sparsity": (0.999, 0.5)}, [2, 10]),
        ({"seed": range(3), "method": ["erk", "snip"]}, [2, 0, 1]),
        ({"method": ["snip"], "sparsity": [0.999]}, []),
    ],
)
def test_rows_are_selected_by_their_values(workspace, select: dict, seeds: list[int]) -> None:
    write_table("table", ROWS, KEYS)
    found = read_table("table", **select)
    assert found.seed.tolist() == seeds
    assert found.index.tolist() == list(range(len(seeds)))


def test_a_missing_table_is_named_with_what_to_do(workspace) -> None:
    with pytest.raises(FileNotFoundError, match="absent.csv is missing: `dvc repro` writes it"):
        read_table("absent")


# --- scalars -------------------------------------------------------------------------------------


def test_scalars_are_sorted_and_of_fixed_precision_at_every_level(workspace) -> None:
    values = {"b": {"y": 1 / 3, 0.9: np.float64(2 / 3)}, "a": math.nan, "c": 3, "d": "μ"}
    write_scalars("found", values)
    text = written("found.json")
    assert json.loads(text) == {"a": None, "b": {"y": 0.333333, "0.9": 0.666667}, "c": 3, "d": "μ"}
    assert [line.strip()[1] for line in text.split("\n") if line.startswith('  "')] == list("abcd")
    assert text.endswith("}\n") and "μ" in text
    write_scalars("found", dict(reversed(values.items())))
    assert written("found.json") == text


# --- whole files ---------------------------------------------------------------------------------

WRITERS = {
    "table.csv": lambda value: write_table("table", [{"a": value}], ["a"]),
    "found.json": lambda value: write_scalars("found", {"a": value}),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("fault", ["replace", "write"])
def test_a_failure_leaves_the_old_file_and_no_part_of_the_new(
    workspace, monkeypatch, name: str, fault: str
) -> None:
    WRITERS[name](1)
    old = written(name)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    if fault == "replace":
        for owner, method in itertools.product((os, Path), ("replace", "rename")):
            monkeypatch.setattr(owner, method, fail)
        with pytest.raises(OSError, match="no space"):
            WRITERS[name](2)
    else:
        with pytest.raises(UnicodeEncodeError):
            WRITERS[name]("\ud800")  # half a character
    assert [path.name for path in results.folder().iterdir()] == [name]
    assert written(name) == old


# --- intervals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "confidence", "quantile"),
    [
        ([1.0, 2.0, 3.0], 0.95, 4.302653),  # of Student's t, from a printed table
        ([1.0, 2.0, 3.0], 0.9, 2.919986),
        ([0.0, 4.0], 0.95, 12.706205),
        ([2.0, 4.0, 4.0, 4.0, 6.0], 0.99, 4.604095),
    ],
)
def test_an_interval_is_students(values: list[float], confidence: float, quantile: float) -> None:
    count, center = len(values), sum(values) / len(values)
    variance = sum((value - center) ** 2 for value in values) / (count - 1)
    half = quantile * math.sqrt(variance / count)
    assert interval(values, confidence) == pytest.approx((center, center - half, center + half))


def test_a_single_value_has_no_interval() -> None:
    mean, low, high = interval([0.7], 0.95)
    assert mean == 0.7
    assert math.isnan(low) and math.isnan(high)


def test_equal_values_have_an_interval_of_no_length() -> None:
    assert interval([0.5, 0.5, 0.5], 0.95) == (0.5, 0.5, 0.5)


def accuracies() -> pd.DataFrame:
    values = {
        ("a", 0.9): [0.8, 0.9, 1.0],
        ("a", 0.5): [0.6, 0.8],
        ("b", 0.9): [0.7, 0.7, 0.9],
        ("b", 0.5): [0.5, 0.9],
        ("c", 0.9): [0.0, 0.0, 0.0],
    }
    return pd.DataFrame(
        {"method": method, "sparsity": rho, "seed": seed, "accuracy": value}
        for (method, rho), row in values.items()
        for seed, value in enumerate(row)
    )


@pytest.mark.parametrize("by", [["method", "sparsity"], ["sparsity"]])
def test_a_summary_has_the_interval_of_each_group(by: list[str]) -> None:
    table = accuracies()
    found = summary(table.sample(frac=1, random_state=0), by, "accuracy", 0.95)
    expected = sorted(set(table[by].itertuples(index=False, name=None)))
    assert list(found[by].itertuples(index=False, name=None)) == expected
    for row in found.to_dict("records"):
        group = table[(table[by] == [row[key] for key in by]).all(axis=1)].accuracy
        assert row["n"] == len(group)
        assert (row["mean"], row["low"], row["high"]) == pytest.approx(interval(group, 0.95))


def compare(table: pd.DataFrame) -> list[dict]:
    found = paired(table, "method", "a", "b", ["sparsity"], "accuracy", 0.95)
    return found.to_dict("records")


def test_a_paired_difference_is_taken_seed_by_seed() -> None:
    first, second = compare(accuracies().sample(frac=1, random_state=1))
    differences = {0.5: [0.1, -0.1], 0.9: [0.1, 0.2, 0.1]}
    for row, rho in ((first, 0.5), (second, 0.9)):
        assert (row["sparsity"], row["n"]) == (rho, len(differences[rho]))
        expected = interval(differences[rho], 0.95)
        assert (row["mean"], row["low"], row["high"]) == pytest.approx(expected, abs=1e-12)


def test_pairing_takes_out_what_the_two_share() -> None:
    table = accuracies()
    table.loc[table.seed == 0, "accuracy"] += 10
    for row, expected in zip(compare(table), compare(accuracies()), strict=True):
        assert row == pytest.approx(expected, abs=1e-12)


def test_a_seed_without_its_pair_does_not_count() -> None:
    table = accuracies().drop(index=0)  # method a, sparsity 0.9, seed 0
    assert [row["n"] for row in compare(table)] == [2, 2]
    assert compare(table)[1]["mean"] == pytest.approx(0.15)


def test_two_values_for_one_seed_are_no_pair() -> None:
    table = accuracies()
    with pytest.raises(ValueError, match="duplicate"):
        compare(pd.concat([table, table.iloc[:1]]))
