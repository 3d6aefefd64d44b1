"""Writes the results part of README.md from the committed tables, so that no number is typed.

``python tools/readme.py`` after a rebuild; a test holds the two together.
"""

import csv
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


def claim(row: dict[str, str]) -> dict[str, str]:
    """Return a row of the table of claims as README shows it."""
    low, high = float(row["low"]), float(row["high"])
    measured = f"{float(row['difference']):+.1f} {row['unit']} ({low:+.1f} to {high:+.1f})"
    return {
        "claim": row["claim"],
        "statement": row["statement"],
        "measured": measured,
        "verdict": f"**{row['verdict']}**",
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
    claims = [claim(row) for row in rows("table_claims")]
    return f"""{START}
![Test accuracy over sparsity, and what Panning gains on each method](figures/comparison.png)

Test accuracy (%) of the last epoch, `{grid["network"]}` on `{params["data"]["name"]}`, {seeds}
paired seeds, mean ± half the {level:.0%} *t*-interval:

{markdown(rows("table_comparison"))}

What became of the claims, on these data. The verdict follows from the interval by rule: the
statement *holds* where all of it is above 0, is *contradicted* where all is below, and stays *open*
where these seeds do not tell. The intervals speak of other initialisations, not of other test
images or of other agents. [`05_figures`](notebooks/05_figures.ipynb) makes the table.

{markdown(claims).replace("---:", "---")}

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
