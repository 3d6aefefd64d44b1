"""Writes the results part of README.md from the committed tables, so that no number is typed.

``python tools/readme.py`` after a rebuild; a test holds the two together.
"""

import csv
import textwrap
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = {"lenet5": "LeNet-5", "resnet32": "ResNet-32", "vgg16": "VGG-16"}
START, END = "<!-- results: written by tools/readme.py -->", "<!-- end of results -->"


def rows(name: str) -> list[dict[str, str]]:
    """Return the rows of figures/NAME.csv."""
    with (ROOT / "figures" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


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
    return {
        "claim": row["claim"],
        "statement": row["statement"],
        "measured": f"{value} {UNITS[row['unit']]} ({low} to {high}), {row['n']} {row['of']}",
        "verdict": f"**{row['verdict']}**" + (", not after correction" if lost else ""),
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


def said(statement: str, verdict: str) -> str:
    """Return what the full study measured of a statement, for prose that presumes its verdict.

    A dagger marks what survives the correction. A ValueError says where a rebuild has overturned
    the prose.
    """
    (row,) = (row for row in rows("full/table_claims") if row["statement"] == statement)
    if row["verdict"] != verdict:
        raise ValueError(f"{statement!r} is {row['verdict']} now: write the prose of README anew")
    digits = 2 if row["unit"] == "rank correlation" else 1
    value, low, high = (f"{float(row[k]):+.{digits}f}" for k in ("difference", "low", "high"))
    survives = verdict != "open" and float(row["p_holm"]) <= 0.05
    return f"{value} ({low} to {high}){'†' * survives}"


def summary() -> str:
    """Return what the full study found, in words, with the numbers of its table of claims."""

    def panning(name: str, verdict: str) -> str:
        return said(f"Panning is above {name} on LeNet-300-100, mean over sparsities", verdict)

    def itself(how: str, verdict: str) -> str:
        return said(f"Panning is above itself {how}", verdict)

    def agents(what: str, where: str, verdict: str) -> str:
        verb = "make better networks" if what != "best constant" else "earn more"
        return said(f"the unchanged agents {verb} than {what} {where}", verdict)

    learns = said("agents (design) earn more than the best constant p on unseen networks", "holds")
    reward = said("policies with a higher return make networks that train better", "open")
    trial = said("networks with a lower loss after 100 steps of a trial train better", "holds")
    images, widths, others = "with fewer images", "on other widths", "on other architectures"
    # fmt: off
    paragraphs = [
        "**In short**, from the full study: three small networks, 4,000 images of MNIST. "
        "Differences are "
        "in points of test accuracy, with 95 % intervals, unless it says otherwise. The study "
        "makes "
        "many statements on few seeds: only those marked † survive a correction for their number.",
        "* **A, strong at every compression ratio: not here.** Up to 99 % sparsity the iterated "
        "methods "
        "lie within a few points of each other. Beyond, Panning is above one-shot methods, most "
        "where those "
        f"die (on LeNet-300-100, mean over nine sparsities: SNIP {panning('SNIP', 'holds')}, GraSP "
        f"{panning('GraSP', 'holds')}, magnitude {panning('magnitude', 'holds')}), and below the "
        f"other iterated ones (FORCE {panning('FORCE', 'contradicted')}, SynFlow "
        f"{panning('SynFlow', 'contradicted')}, iterative SNIP "
        f"{panning('iterative SNIP', 'contradicted')}).",
        "* **B, the learned policy withstands changes: by its reward those of data set size and "
        "width, "
        "not of architecture.** The agents earn more than the best constant *p* of a search on "
        f"unseen networks of their kind ({learns}, of reward), with fewer images "
        f"({agents('best constant', images, 'holds')}) and on other widths "
        f"({agents('best constant', widths, 'holds')}), less on other architectures "
        f"({agents('best constant', others, 'contradicted')}). Better networks are another matter: "
        f"against the hand-made table {agents('hand-made', images, 'holds')} with fewer images, "
        "but "
        f"against random actions {agents('random', images, 'contradicted')}; "
        f"{agents('hand-made', others, 'contradicted')} on other architectures. For the reward "
        "does "
        f"not say what one wants: its rank correlation with the trained accuracy of random "
        f"policies is {reward}. The loss after a short trial of training does better ({trial}).",
        "* **C, force transfer: most removed weights return, but the return is not what helps** "
        "(Panning against itself without return "
        f"{panning('iterative, fused (no return)', 'contradicted')}). What helps is to go "
        "gradually "
        f"(against a single step {itself('in a single step', 'holds')}) and the choice of weights, "
        "beyond the densities of the layers "
        f"({panning('random at Panning' + chr(39) + 's densities', 'holds')}). It is a choice of "
        "paths, not "
        "of values: no difference is seen to weights drawn anew in the same places "
        f"({itself('with its weights drawn anew', 'open')}), or scored on shuffled classes "
        f"({itself('scored on shuffled classes', 'open')}).",
        "* **The fusion**: the sum is below the product "
        f"({said('the hand-made fusion is above the product', 'contradicted')}), and the gradients "
        "of "
        "the dense network below those of the masked one "
        f"({itself('with the gradients of the masked network', 'contradicted')}).",
    ]
    filled = [
        textwrap.fill(text, 120, subsequent_indent="  " * text.startswith("* "))
        for text in paragraphs
    ]
    return "\n\n".join([filled[0], "\n".join(filled[1:])])


def section() -> str:
    """Return the results part of README.md, from the tables in figures/."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    grid, level = params["comparison"], params["statistics"]["confidence"]
    seeds = len(grid["seeds"])
    claims = [claim(row) for row in rows("full/table_claims") if row["headline"] == "True"]
    return f"""{START}
{summary()}

![Accuracy over sparsity on three networks](figures/full/accuracy.png)

What became of the claims, in the full study (`make full`,
[`profiles/full.yaml`](profiles/full.yaml)): each row is a statement that the data could
contradict, a difference that the claim says is positive, with its interval. The verdict follows
from the interval by rule: the statement *holds* where all of it is above 0, is *contradicted*
where all is below, and stays *open* where these data do not tell. *Not after correction*: the
verdict does not survive Holm's correction for the number of statements of the same claim. The
intervals speak of other initialisations and, for B, other agents; not of other test images. These
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
back after so many:

{markdown([speed(row) for row in rows("table_speed")])}

![Cost of an iteration of Panning](figures/panning_cost.png)

[`06_speed`](notebooks/06_speed.ipynb) tells what these times are made of; `make bench` measures
them.
{END}"""


def main() -> None:
    """Put the section into README.md."""
    path = ROOT / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    path.write_text(before + section() + after, encoding="utf-8")


if __name__ == "__main__":
    main()
