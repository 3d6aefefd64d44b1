"""What `make bench` measured, as ratios: cost in training steps, speed-up, steps to break even.

Seconds belong to one machine and one run; ratios within the run travel further. They are outside
the promise of same bytes, so they are read from benchmarks/results.csv, which only `make bench`
writes.
"""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from . import config
from .plotting import LOOKS, density_axis

NAMES = {
    "lenet5": "LeNet-5",
    "resnet20": "ResNet-20",
    "resnet32": "ResNet-32",
    "vgg11": "VGG-11",
    "vgg16": "VGG-16",
    "vgg19": "VGG-19",
}
BATCH = 100  # images in the training step that is the unit
FORMS = {"plain": ("the plain program", "#7F7F7F", "s"), "fast": ("lib", "#D55E00", "o")}


def read() -> pd.DataFrame:
    """benchmarks/results.csv: a row a measurement, `value` in seconds or in bytes."""
    return pd.read_csv(config.root() / "benchmarks" / "results.csv")


def in_steps(table: pd.DataFrame) -> pd.DataFrame:
    """Every time in units of the plain training step of its network and number of threads.

    Adds the column `steps`; what has no such unit in the table is left out.
    """
    key = ["network", "threads"]
    unit = table[(table["what"] == "training step") & (table["form"] == "plain")]
    unit = unit[[*key, "value"]].rename(columns={"value": "unit"})
    times = table[(table["unit"] == "s") & (table["what"] != "training")]
    merged = times.drop(columns="unit").merge(unit, on=key)
    return merged.assign(steps=merged["value"] / merged["unit"]).drop(columns="unit")


def speedups(table: pd.DataFrame) -> pd.DataFrame:
    """How many times faster a sparse training step is than the dense one, in the same layout.

    Adds `speedup`, and `limit`, which no program beats that leaves out multiplications alone. Dead
    networks, of which no weight is effective, are left out: nothing of them is trained.
    """
    steps = table[(table["what"] == "training") & (table["form"] == "fast")]
    dense = steps[steps["method"] == "dense"].set_index("network")["value"]
    sparse = steps[(steps["method"] != "dense") & (steps["kept"] > 0)]
    return sparse.assign(
        speedup=sparse["network"].map(dense) / sparse["value"], limit=1 / (1 - sparse["sparsity"])
    )


def break_even(table: pd.DataFrame, iterations: int, images: int) -> pd.DataFrame:
    """After how many epochs the time that Panning took is won back.

    Args:
        table: The measurements.
        iterations: T.
        images: In an epoch.

    Returns:
        For each network and sparsity: `pruning`, its cost in epochs of dense training, and
        `epochs`, those after which pruning and sparse training took less than dense training;
        infinite where a sparse step is no faster.
    """
    fast = table[(table["form"] == "fast") & (table["threads"] == 2)].set_index("network")
    cost = fast[fast["what"] == "panning iteration"]["value"]
    step = fast[fast["what"] == "training step"]["value"]
    found = speedups(table).query("method == 'panning'")[["network", "sparsity", "speedup"]]
    pruning = iterations * found["network"].map(cost / step) * BATCH / images
    saved = (1 - 1 / found["speedup"]).clip(lower=0)
    epochs = np.where(saved > 0, pruning / saved.where(saved > 0, 1), np.inf)
    return found.assign(pruning=pruning, epochs=epochs).reset_index(drop=True)


def _logarithmic(ax: Axes, label: str) -> None:
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_ylabel(label)


def panning_cost(table: pd.DataFrame) -> Figure:
    """What an iteration costs, over the size of the network; and what its pieces cost."""
    steps = in_steps(table)
    figure, axes = plt.subplots(1, 2, width_ratios=(1, 1.15))
    for form, (label, color, marker) in FORMS.items():
        part = steps[(steps["what"] == "panning iteration") & (steps["form"] == form)]
        part = part.sort_values("weights")
        axes[0].plot(part["weights"], part["steps"], color=color, marker=marker, ls="", label=label)
    for turn, row in enumerate(part.itertuples()):  # above and below: names keep off each other
        offset = {"textcoords": "offset points", "xytext": (0, -13 if turn % 2 else 7)}
        place = (row.weights, row.steps)
        axes[0].annotate(NAMES[row.network], place, fontsize=7, ha="center", **offset)
    axes[0].set_xscale("log")
    axes[0].margins(x=0.15, y=0.15)
    axes[0].set(xlabel="prunable weights", title="a  one iteration (T = 100, all included)")
    _logarithmic(axes[0], "training steps")
    axes[0].legend(loc="center left")
    pieces = ["snip and grasp", "synflow", "effective mask", "torch.topk", "top_k"]
    networks = [name for name in NAMES if name in set(steps["network"])]
    shades = dict(zip(networks, plt.cm.viridis(np.linspace(0, 0.85, len(networks))), strict=True))
    for network in networks:
        part = steps[(steps["network"] == network) & steps["what"].isin(pieces)]
        for form, (_, _, marker) in FORMS.items():
            some = part[part["form"] == form]
            axes[1].plot(
                some["steps"],
                [pieces.index(what) for what in some["what"]],
                marker,
                color=shades[network],
                fillstyle="full" if form == "fast" else "none",
                label=NAMES[network] if form == "fast" and len(some) else None,
            )
    axes[1].set_xscale("log")
    axes[1].set_yticks(range(len(pieces)), pieces)
    axes[1].invert_yaxis()
    axes[1].set(xlabel="training steps", title="b  its pieces (squares: the plain program)")
    axes[1].legend(loc="lower right")
    return figure


def training_speedup(table: pd.DataFrame) -> Figure:
    """How much faster a sparse network trains, over sparsity, below the limit of its arithmetic."""
    found = speedups(table)
    networks = [name for name in NAMES if name in set(found["network"])]
    figure, axes = plt.subplots(1, len(networks), sharey=True)
    for ax, network in zip(np.atleast_1d(axes), networks, strict=True):
        here = found[found["network"] == network]
        limit = here.drop_duplicates("sparsity").sort_values("sparsity")
        ax.plot(1 - limit["sparsity"], limit["limit"], ":", color="0.3", label="1 / density")
        ax.axhline(1, color=LOOKS["dense"].color, ls=LOOKS["dense"].style, label="dense")
        for method, look in LOOKS.items():
            part = here[here["method"] == method].sort_values("sparsity")
            if len(part):
                ax.plot(
                    1 - part["sparsity"],
                    part["speedup"],
                    look.style,
                    color=look.color,
                    marker=look.marker,
                    label=look.label,
                )
        density_axis(ax, here["sparsity"])
        ax.tick_params(axis="x", rotation=60)
        ax.set_title(NAMES[network])
    _logarithmic(np.atleast_1d(axes)[0], "times faster than a dense step")
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure
