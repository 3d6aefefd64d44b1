"""Writes the table of README.md and docs/results.md from the committed tables.

README's prose is written by hand. Where it quotes a number, a comment after the number names the
fact, `86.4 %<!-- accuracy/LeNet-5/panning/0.999 -->`, and tests/test_readme.py compares the two.
"""

import json
from pathlib import Path

import pandas as pd

from lib.figures.style import LOOKS, in_order, percent
from lib.study import analysis, parameters
from lib.study.statistics import interval

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- table: written by `make readme` -->", "<!-- end of table -->"
SIZES = {"": "the default study (`params.yaml`)", "full": "the full study (`profiles/full.yaml`)"}


def comparison(size: str = "") -> pd.DataFrame:
    """The networks of every method, RLPanning included, with accuracy in %."""
    folder = ROOT / "data" / "results" / size
    parts = [pd.read_csv(folder / f"{name}.csv") for name in ("comparison", "rlpanning")]
    return pd.concat(parts).assign(accuracy=lambda table: 100 * table["accuracy"])


def standings() -> pd.DataFrame:
    """The candidates of the full study's notebook 07 and their rivals, see `analysis.standing`."""
    table = pd.read_csv(ROOT / "data" / "results" / "full" / "development.csv")
    study = parameters.load(ROOT / "profiles" / "full.yaml").development
    candidates = {each.name for each in study.candidates}
    return analysis.standing(table, sorted(set(table["method"]) - candidates))


def choosers() -> pd.DataFrame:
    """Who chooses exponents in the full study, against three numbers, see `analysis.choosers`."""
    table = pd.read_csv(ROOT / "data" / "results" / "full" / "exponents.csv")
    params = parameters.load(ROOT / "profiles" / "full.yaml")
    groups = analysis.exponent_groups(params.exponents)
    return analysis.choosers(table, groups, analysis.THREE, params.statistics.confidence)


def facts(size: str = "") -> dict[str, float]:
    """Every number that prose may quote, by name."""
    found = {}
    for key, part in comparison(size).groupby(["task", "method", "sparsity"]):
        found["accuracy/{}/{}/{:g}".format(*key)] = part["accuracy"].mean()
    claims = pd.read_csv(ROOT / "figures" / size / "table_claims.csv")
    for row in claims.itertuples():
        for what in ("difference", "low", "high"):
            found[f"{what}/{row.statement}"] = getattr(row, what)
        found[f"below/{row.statement}"] = -row.difference
    for row in pd.read_csv(ROOT / "figures" / "table_speed.csv").itertuples():
        for what in ("speedup", "pruning", "epochs"):
            place = f"{row.network}/{row.method}/{row.form}/{row.sparsity:g}"
            found[f"{what}/{place}"] = getattr(row, what)
    race = pd.read_csv(ROOT / "benchmarks" / "race.csv")
    for key, run in race.groupby(["network", "sparsity", "epochs"]):
        found["race/accuracy/{}/{:g}/{}".format(*key)] = 100 * run["accuracy"].iloc[-1]
        found["race/seconds/{}/{:g}/{}".format(*key)] = run["seconds"].iloc[-1]
    for row in choosers().itertuples():
        for what in ("difference", "low", "high"):
            found[f"exponents/{what}/{row.policy}/{row.task}"] = getattr(row, what)
    folder = ROOT / "data" / "results" / size
    headline = json.loads((folder / "headline.json").read_text())
    return found | {f"headline/{name}": value for name, value in headline.items()}


def accuracy_table(size: str = "") -> str:
    """Mean accuracy (%) and half its 95 % t-interval over the seeds, a row a method, as Markdown."""
    table = comparison(size)
    sparse = table[table["method"] != "dense"]
    places = list(sparse.groupby(["task", "sparsity"], sort=False).groups)
    places = [place for task in table["task"].unique() for place in places if place[0] == task]
    heads = [f"{task}, {percent(rho)}" for task, rho in places]
    lines = ["| method | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    for method in ["dense", *in_order(table["method"])]:
        cells = []
        for task, rho in places:
            here = table[(table["method"] == method) & (table["task"] == task)]
            here = here if method == "dense" else here[here["sparsity"] == rho]
            if here.empty:  # a method that this task leaves out
                cells.append("–")
                continue
            mean, low, high = interval(here["accuracy"], 0.95)
            cells.append(f"{mean:.1f} ± {(high - low) / 2:.1f}")
        lines.append(f"| {LOOKS[method].label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def readme(text: str) -> str:
    """README.md with its table written anew."""
    before, rest = text.split(START)
    return f"{before}{START}\n{accuracy_table()}\n{rest[rest.index(END) :]}"


def statements(size: str) -> str:
    """All statements of a study, claim by claim, as Markdown."""
    table = pd.read_csv(ROOT / "figures" / size / "table_claims.csv")
    lines = [f"## {SIZES[size][0].upper()}{SIZES[size][1:]}", ""]
    for claim, part in table.groupby("claim", sort=False):
        lines += [f"### {claim}", "", "| statement | measured | n | verdict |", "|---|---|---|---|"]
        for row in part.itertuples():
            measured = (
                f"{row.difference:+.2g}" if abs(row.difference) < 1 else f"{row.difference:+.1f}"
            )
            if row.low == row.low:
                measured += f" ({row.low:+.1f} to {row.high:+.1f})"
            firm = "" if row.verdict == "open" or row.p_holm < 0.05 else ", not after correction"
            lines.append(
                f"| {row.statement} | {measured} {row.unit} | {row.n} {row.of} | "
                f"{row.verdict}{firm} |"
            )
        lines.append("")
    return "\n".join(lines)


HEAD = """<!-- written by `make readme` from figures/table_claims.csv -->
# Every statement and its verdict

A statement is a difference that a claim of the paper says is positive, with its 95 % interval. It *holds* where all of
the interval is above 0, is *contradicted* where all of it is below, and stays *open* where these data do not tell.
*Not after correction*: the verdict does not survive Holm's correction for the number of statements of the same claim.
The intervals speak of other initialisations, other agents or other policies, not of other test images.
[Notebook 5](../executed/05_figures.ipynb) computes them.

An earlier, larger study on the same 5,000 images of MNIST (LeNet-300-100, LeNet-5 and ResNet-20, five seeds, 128
statements) is kept with its tables in commit 557d1ef: see `docs/findings.md` and `data/results/full/` there.

"""


def results() -> str:
    """docs/results.md."""
    sizes = [size for size in SIZES if (ROOT / "figures" / size / "table_claims.csv").is_file()]
    return HEAD + "\n".join(statements(size) for size in sizes).rstrip() + "\n"


def main() -> None:
    """Write both files."""
    page = ROOT / "README.md"
    page.write_text(readme(page.read_text()))
    (ROOT / "docs" / "results.md").write_text(results())


if __name__ == "__main__":
    main()
