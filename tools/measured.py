"""What the committed tables say, as text: so that no number in README or docs/ is typed."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from lib.inference import spearman
from lib.statements import paired_gap, paired_statement

ROOT = Path(__file__).resolve().parents[1]


def rows(name: str) -> list[dict[str, str]]:
    """Return the rows of figures/NAME.csv."""
    with (ROOT / "figures" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def said(statement: str, verdict: str) -> str:
    """Return what the full study measured of a statement, for prose that presumes its verdict.

    A dagger marks what survives the correction.

    Raises:
        ValueError: A rebuild has overturned the prose, or the study makes no such statement.
    """
    found = [row for row in rows("full/table_claims") if row["statement"] == statement]
    if not found:
        raise ValueError(f"{statement!r} is no statement of figures/full/table_claims.csv")
    row = found[0]
    if row["verdict"] != verdict:
        raise ValueError(f"{statement!r} is {row['verdict']} now: write the prose anew")
    digits = 2 if row["unit"] == "rank correlation" else 1
    value, low, high = (f"{float(row[k]):+.{digits}f}" for k in ("difference", "low", "high"))
    # A bootstrap knows no p small enough to be corrected.
    resampled = row["of"].startswith("policies")
    survives = verdict != "open" and float(row["p_holm"]) <= 0.05 and not resampled
    return f"{value} ({low} to {high}){'†' * survives}"


def nowhere(words: str) -> None:
    """Check that no statement of these words holds; a ValueError says which does."""
    for row in rows("full/table_claims"):
        if words in row["statement"] and row["verdict"] == "holds":
            raise ValueError(f"{row['statement']!r} holds now: write the prose anew")


def claim_a(task: str, within: tuple[float, float] = (0, 1)) -> pd.DataFrame:
    """Return what notebook 8 measured on a network, within a range of sparsity."""
    table = pd.read_csv(ROOT / "data/results/full/claim_a.csv")
    return table[(table["task"] == task) & table["sparsity"].between(*within)]


def gap(
    first: str, second: str, within: tuple[float, float] = (0, 1), task: str = "LeNet-300-100"
) -> str:
    """Return the mean difference of two methods on a network, within a range of sparsity."""
    return interval(paired_gap(claim_a(task, within), "method", first, second))


def gap_of_gaps(first: tuple[str, str], second: tuple[str, str]) -> str:
    """Return how much more one pair of methods differs than another, on LeNet-300-100."""
    one, other = (paired_gap(claim_a("LeNet-300-100"), "method", *pair) for pair in (first, second))
    return interval(one - other)


def setting_gap(first: str, second: str, within: tuple[float, float] = (0, 1)) -> str:
    """Return the mean difference of two settings of notebook 11, within a range of sparsity."""
    table = pd.read_csv(ROOT / "data/results/full/choices.csv")
    table = table[table["sparsity"].between(*within)]
    return interval(paired_gap(table, "setting", first, second))


def check_gap(check: str, sparsity: float) -> str:
    """Return Panning minus itself with something taken from its scores, of notebook 10."""
    table = pd.read_csv(ROOT / "data/results/full/checks.csv")
    table = table[(table["method"] == "panning") & (table["sparsity"] == sparsity)]
    return interval(paired_gap(table, "check", "unchanged", check))


def interval(values: pd.Series) -> str:
    """Return the mean of one difference a seed, and its interval."""
    row = paired_statement("", "", values, "points", "seeds", 0.95)
    return "{difference:+.1f} ({low:+.1f} to {high:+.1f})".format(**row)


def closest() -> int:
    """Return within how many points Panning is of its rivals on LeNet-300-100, up to 99 %."""
    table = claim_a("LeNet-300-100", (0.01, 0.991))
    means = 100 * table.pivot_table(index="sparsity", columns="method", values="accuracy")
    rivals = ["snip", "grasp", "synflow", "iterative_snip", "force"]
    gaps = means[rivals].sub(means["panning"], axis=0).abs()
    return math.ceil(gaps.max().max())


def mean(method: str, sparsity: float, task: str = "LeNet-300-100") -> str:
    """Return the mean accuracy (%) of a method on a network at a sparsity."""
    table = claim_a(task, (sparsity, sparsity))
    return f"{100 * table[table['method'] == method]['accuracy'].mean():.0f}"


def speedups(sparsity: float) -> str:
    """Return how many times as fast a step is at a sparsity (%), over the networks."""
    return _span(
        row["speedup"] for row in rows("table_speed") if float(row["sparsity"]) == sparsity
    )


def won_back(network: str, least: float, most: float) -> str:
    """Return after how many epochs pruning is won back, over a range of sparsity (%)."""
    return _span(
        row["epochs"]
        for row in rows("table_speed")
        if row["network"] == network and least <= float(row["sparsity"]) <= most
    )


def _span(numbers: Iterable[str]) -> str:
    ends = sorted({f"{number:.1f}" for number in map(float, numbers)}, key=float)
    return ends[0] if len(ends) == 1 else f"{ends[0]} to {ends[-1]}"


def spread(sparsity: float) -> str:
    """Return the standard deviation (points) of the random policies' accuracies."""
    table = pd.read_csv(ROOT / "data/results/full/reward.csv")
    return f"{100 * table[table['sparsity'] == sparsity]['accuracy'].std():.1f}"


def span_over_steps(sparsity: float) -> str:
    """Return the range (points) of mean accuracy over the numbers of steps of notebook 11."""
    table = pd.read_csv(ROOT / "data/results/full/choices.csv")
    steps = table["setting"].str.startswith("T = ") | (table["setting"] == "Panning")
    means = table[steps & (table["sparsity"] == sparsity)].groupby("setting")["accuracy"].mean()
    return f"{100 * (means.max() - means.min()):.1f}"


def correlations(quantity: str) -> str:
    """Return the rank correlation of a quantity with accuracy, at each sparsity."""
    table = pd.read_csv(ROOT / "data/results/full/reward.csv")
    sign = -1 if quantity.startswith("loss") else 1
    parts = [
        f"{sign * spearman(part[quantity], part['accuracy']):+.2f} at {100 * rho:g} %"
        for rho, part in table.groupby("sparsity")
    ]
    return " and ".join(parts)
