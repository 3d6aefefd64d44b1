"""Writes README's results and docs/findings.md from the committed tables: no number is typed.

``python -m tools.readme`` after a rebuild; a test holds the three together.
"""

import yaml

from tools import findings
from tools.measured import ROOT, rows

NETWORKS = {"lenet5": "LeNet-5", "resnet32": "ResNet-32", "vgg16": "VGG-16"}
START, END = "<!-- results: written by tools/readme.py -->", "<!-- end of results -->"


def markdown(table: list[dict[str, str]]) -> str:
    """Return a table as Markdown, its first column as text and the others as numbers."""
    head = list(table[0])
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *(list(row.values()) for row in table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


UNITS = {"points": "points", "reward": "reward", "rank correlation": "rank corr."}


def claim(row: dict[str, str]) -> dict[str, str]:
    """Return a row of the full study's table of claims as README shows it."""
    digits = 2 if row["unit"] == "rank correlation" else 1
    value, low, high = (f"{float(row[k]):+.{digits}f}" for k in ("difference", "low", "high"))
    lost = row["verdict"] != "open" and float(row["p_holm"]) > 0.05
    note = ", not after correction" if lost else ""
    if row["of"].startswith("policies") and row["verdict"] != "open":
        note = ", uncorrected"
    return {
        "claim": row["claim"],
        "statement": row["statement"],
        "measured": f"{value} {UNITS[row['unit']]} ({low} to {high}), {row['n']} {row['of']}",
        "verdict": f"**{row['verdict']}**{note}",
        "shown in": f"[{row['notebook'][:2]}](notebooks/{row['notebook']}.ipynb)",
    }


def speed(row: dict[str, str]) -> dict[str, str]:
    """Return a row of the table of speed as README shows it."""
    return {
        "network": NETWORKS[row["network"]],
        "sparsity": f"{float(row['sparsity']):g} %",
        "times faster": f"{float(row['speedup']):.1f}",
        "pruning, in epochs": f"{float(row['pruning']):.1f}",
        "won back after": "never" if row["epochs"] == "inf" else f"{float(row['epochs']):.1f}",
    }


def section() -> str:
    """Return the results part of README.md, from the tables in figures/."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    grid, level = params["comparison"], params["statistics"]["confidence"]
    seeds = len(grid["seeds"])
    claims = [claim(row) for row in rows("full/table_claims") if row["headline"] == "True"]
    return f"""{START}
{findings.summary()}

![Accuracy over sparsity on three networks](figures/full/accuracy.png)

What became of the claims, in the full study (`make full`,
[`profiles/full.yaml`](profiles/full.yaml)): each row is a statement that the data could
contradict, a difference that the claim says is positive, with its interval. The verdict follows
from the interval by rule: the statement *holds* where all of it is above 0, is *contradicted*
where all is below, and stays *open* where these data do not tell. *Not after correction*: the
verdict does not survive Holm's correction for the number of statements of the same claim;
*uncorrected*: resampled over policies, with no *p* small enough to be corrected. The intervals
speak of other initialisations and, for B, other agents; not of other test images. These
are the headlines; [`12_claims`](notebooks/12_claims.ipynb) has all of them ([as a
table](figures/full/table_claims.csv)).

{markdown(claims).replace("---:", "---")}

![What Panning gains on each method](figures/full/gains.png)

![What the choice of weights rests on](figures/full/checks.png)

What `make rebuild` makes in minutes is a chosen part of this. Test accuracy (%) of the last epoch,
`{grid["network"]}` on `{params["data"]["name"]}`, {seeds} paired seeds, mean ± half the
{level:.0%} *t*-interval:

{markdown(rows("table_comparison"))}

![Speed-up of a training step over sparsity](figures/training_speedup.png)

Does it accelerate training, on the clock? A step of a pruned network without its dead channels
(`lib.compact`), against a dense step, one thread, no GPU. With Panning's masks, pruning (T =
{params["panning"]["steps"]}) costs so many epochs of dense training on 4,000 images, and is won
back after so many (VGG-16 and ResNet-32 were pruned, not trained: their accuracy was not measured):

{markdown([speed(row) for row in rows("table_speed")])}

![Cost of an iteration of Panning](figures/panning_cost.png)

[`06_speed`](notebooks/06_speed.ipynb) tells what these times are made of; `make bench` measures
them.
{END}"""


def main() -> None:
    """Put the section into README.md, and write docs/findings.md."""
    path = ROOT / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    path.write_text(before + section() + after, encoding="utf-8")
    findings.DOCUMENT.write_text(findings.document(), encoding="utf-8")


if __name__ == "__main__":
    main()
