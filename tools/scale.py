"""Prints the tables of docs/scale.md and writes them there: what the paper's grid costs.

``python tools/scale.py`` after a change of profiles/paper.yaml or a run of the benchmarks; a test
holds the document to it, so that no number in it is typed. Measured are the seconds in
benchmarks/results.csv, on two cores and no GPU. What is not measured is counted, or assumed by a
constant below.
"""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch
import torchvision

from lib import grids, plan, speed
from lib.methods import METHODS
from lib.models import build_model, prunable

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "scale.md"
DAY = 24 * 3600

# Training images, side of an image, classes.
SETS = {
    "mnist": (60_000, 28, 10),
    "fashion_mnist": (60_000, 28, 10),
    "cifar10": (50_000, 32, 10),
    "cifar100": (50_000, 32, 100),
    "tiny_imagenet": (100_000, 64, 200),
}
# Assumed, not measured: how many times as fast as the two cores one GPU is. Bounds to think with.
GPU_FACTORS = (25, 100)
GPUS = (1, 8, 64)
BATCHES = (10, 100)  # in a score bank


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, its first column text and the others numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured() -> pd.Series:
    """Seconds on the two cores of one machine, by (what, network)."""
    table = speed.read().query("form == 'fast' and threads == 2")
    return table.set_index(["what", "network"])["value"]


def pixels(cell: dict) -> float:
    """Assumed: work grows with the pixels of an image, from those that were measured."""
    return (SETS[cell["data"]][1] / (28 if cell["network"].startswith("lenet") else 32)) ** 2


def steps_of(cell: dict) -> int:
    """Training steps: epochs times batches."""
    return cell["training"].epochs * math.ceil(SETS[cell["data"]][0] / cell["training"].batch_size)


def step_seconds(cell: dict, seconds: pd.Series) -> float:
    """A dense step. A sparse one is faster where channels are dead: this is an upper bound."""
    images = cell["training"].batch_size / speed.BATCH
    return seconds["training step", cell["network"]] * images * pixels(cell)


def pruning_seconds(cell: dict, seconds: pd.Series) -> float:
    """As if each iteration of each method were one of Panning on a batch of its own: a bound."""
    if cell["method"] == "dense":
        return 0.0
    iterations = cell["steps"] if METHODS[cell["method"]].steps is None else 1
    images = SETS[cell["data"]][2] * cell["scoring"].per_class / speed.BATCH
    once = seconds["snip and grasp", cell["network"]] * images * pixels(cell)
    rest = ("synflow", "effective mask", "top_k")
    return iterations * (once + sum(seconds[what, cell["network"]] for what in rest))


def costs(params: SimpleNamespace, seconds: pd.Series) -> pd.DataFrame:
    """A row for each network that is pruned and trained; times in days of the two cores."""
    named = {task.name: grids.comparison(params, task, {}) for task in params.claim_a.tasks}
    named |= {"Checks (notebook 10)": grids.checks(params)}
    named |= {"Choices (notebook 11)": grids.choices(params)}
    return pd.DataFrame(
        {
            "task": task,
            "steps": steps_of(cell),
            "second": step_seconds(cell, seconds),
            "training": steps_of(cell) * step_seconds(cell, seconds) / DAY,
            "pruning": pruning_seconds(cell, seconds) / DAY,
        }
        for task, some in named.items()
        for _, cell in some
    )


def grid_table(cells: pd.DataFrame) -> str:
    """What each task costs on the two cores."""
    head = (
        "task",
        "networks",
        "steps of each",
        "seconds a step",
        "training (days)",
        "pruning (days)",
    )
    rows = [
        (
            task,
            f"{len(some):,}",
            f"{some['steps'].iloc[0]:,}",
            f"{some['second'].iloc[0]:.3f}",
            f"{some['training'].sum():,.1f}",
            f"{some['pruning'].sum():,.1f}",
        )
        for task, some in cells.groupby("task", sort=False)
    ]
    sums = (f"{cells[key].sum():,.1f}" for key in ("training", "pruning"))
    return markdown(head, [*rows, ("all", f"{len(cells):,}", "", "", *sums)])


def gpu_table(cells: pd.DataFrame) -> str:
    """How long all tasks take, if a GPU is so many times as fast; no cell is ever split."""
    days = cells["training"] + cells["pruning"]
    head = ("GPUs", *(f"days, at {factor} times" for factor in GPU_FACTORS))
    return markdown(
        head,
        [
            (f"{n}", *(f"{max(days.sum() / n, days.max()) / f:,.1f}" for f in GPU_FACTORS))
            for n in GPUS
        ],
    )


def bank_table() -> str:
    """What the dense scores weigh: two metrics in float32 for each weight and batch."""
    with torch.device("meta"):  # shapes alone
        models = {
            "LeNet-5": build_model("lenet5"),
            "ResNet-32": build_model("resnet32", 3),
            "VGG-19": build_model("vgg19", 3),
            "ResNet-50 on ImageNet": torchvision.models.resnet50(),
        }
    rows = []
    for name, model in models.items():
        n = sum(weight.numel() for weight in prunable(model).values())
        rows.append((name, f"{n:,}", *(f"{n * 4 * 2 * count / 1e9:.2f}" for count in BATCHES)))
    head = ("network", "weights N", *(f"{count} batches (GB)" for count in BATCHES))
    return markdown(head, rows)


def tables() -> dict[str, str]:
    """Every table of the document, by name."""
    cells = costs(plan.load(ROOT / "profiles" / "paper.yaml"), measured())
    return {"grid": grid_table(cells), "gpus": gpu_table(cells), "bank": bank_table()}


def written(text: str) -> str:
    """The document with its tables as they are now, each between two comments."""
    for name, table in tables().items():
        between = rf"(?<=<!-- {name}: written by tools/scale.py -->\n).*?(?=<!-- end of {name} -->)"
        text, places = re.subn(between, f"{table}\n", text, flags=re.DOTALL)
        if places != 1:
            raise ValueError(f"{DOCUMENT.name} must have one place for the table {name!r}")
    return text


def main() -> None:
    """Print the tables, and put them into the document."""
    print(*tables().values(), sep="\n\n")
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
