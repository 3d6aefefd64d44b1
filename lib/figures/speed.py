"""What `make bench` measured, as ratios: cost in training steps, speed-up, steps to break even.

Seconds hold for one machine and one run; ratios within the run hold more widely. Both are outside
the promise of same bytes, so they are read from benchmarks/results.csv, which only `make bench`
writes.
"""

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ..data import files
from . import style
from .style import LOOKS

NAMES = {
    "lenet5": "LeNet-5",
    "resnet20": "ResNet-20",
    "resnet32": "ResNet-32",
    "vgg11": "VGG-11",
    "vgg16": "VGG-16",
    "vgg19": "VGG-19",
}
BATCH = 100  # images in the training step that is the unit
FORMS = {  # label, colour, marker, fill
    "plain": ("the plain program", "0.5", "s", "none"),
    "fast": ("lib", LOOKS["panning"].color, "o", "full"),
}
PIECES = {
    "snip and grasp": "SNIP and GraSP",
    "synflow": "SynFlow",
    "effective mask": "effective mask",
    "torch.topk": "torch.topk",
    "top_k": "lib's top_k",
}


def read() -> pd.DataFrame:
    """benchmarks/results.csv: one row per measurement, `value` in seconds or in bytes."""
    return pd.read_csv(files.root() / "benchmarks" / "results.csv")


def in_steps(table: pd.DataFrame) -> pd.DataFrame:
    """Every time in units of the plain training step of its network and number of threads.

    Adds the column `steps`; rows without such a unit in the table are left out.
    """
    key = ["network", "threads"]
    unit = table[(table["what"] == "training step") & (table["form"] == "plain")]
    unit = unit[[*key, "value"]].rename(columns={"value": "unit"})
    times = table[(table["unit"] == "s") & (table["what"] != "training")]
    merged = times.drop(columns="unit").merge(unit, on=key)
    return merged.assign(steps=merged["value"] / merged["unit"]).drop(columns="unit")


def speedups(table: pd.DataFrame) -> pd.DataFrame:
    """How many times faster a sparse training step is than the dense one, in the same layout.

    Adds `speedup`, and `limit`, which no program that only leaves out multiplications can beat.
    Dead networks, without an effective weight, are left out: nothing in them is trained.
    """
    steps = table[(table["what"] == "training") & (table["form"] == "fast")]
    dense = steps[steps["method"] == "dense"].set_index("network")["value"]
    sparse = steps[(steps["method"] != "dense") & (steps["kept"] > 0)]
    return sparse.assign(
        speedup=sparse["network"].map(dense) / sparse["value"], limit=1 / (1 - sparse["sparsity"])
    )


def break_even(table: pd.DataFrame, iterations: int, images: int) -> pd.DataFrame:
    """After how many epochs the time spent on Panning is earned back.

    Args:
        table: The measurements.
        iterations: T.
        images: In an epoch.

    Returns:
        For each network and sparsity: `pruning`, its cost in epochs of dense training, and
        `epochs`, after which pruning and sparse training have taken less than dense training;
        infinite if a sparse step is no faster.
    """
    fast = table[(table["form"] == "fast") & (table["threads"] == 2)].set_index("network")
    cost = fast[fast["what"] == "panning iteration"]["value"]
    step = fast[fast["what"] == "training step"]["value"]
    found = speedups(table).query("method == 'panning'")[["network", "sparsity", "speedup"]]
    pruning = iterations * found["network"].map(cost / step) * BATCH / images
    saved = (1 - 1 / found["speedup"]).clip(lower=0)
    epochs = np.where(saved > 0, pruning / saved.where(saved > 0, 1), np.inf)
    return found.assign(pruning=pruning, epochs=epochs).reset_index(drop=True)


def _logarithmic(axis: Axis) -> None:
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def panning_cost(table: pd.DataFrame) -> Figure:
    """What an iteration costs on each network, and what its pieces cost."""
    steps = in_steps(table)
    figure, ((left, right),) = style.panels(1, 2, 0.36)
    whole = steps[steps["what"] == "panning iteration"].sort_values("weights")
    networks = [name for name in whole["network"].unique() if name in NAMES]
    labels = [
        f"{NAMES[name]}, {weights / 1e6:.2g} M"
        for name, weights in whole.groupby("network")["weights"].first()[networks].items()
    ]
    pieces = {name: label for name, label in PIECES.items() if name in set(steps["what"])}
    shades = style.shades(len(networks))
    for form, (label, color, marker, fill) in FORMS.items():
        part = whole[(whole["form"] == form) & whole["network"].isin(networks)]
        left.plot(
            *(part["steps"], [networks.index(name) for name in part["network"]], marker),
            color=color, fillstyle=fill, label=label,
        )  # fmt: skip
        part = steps[(steps["form"] == form) & steps["what"].isin(list(pieces))]
        for shade, network in zip(shades, networks, strict=True):
            one = part[part["network"] == network]
            right.plot(
                *(one["steps"], [list(pieces).index(what) for what in one["what"]], marker),
                color=shade, fillstyle=fill,
                label=NAMES[network] if len(one) and form == "fast" else "_",
            )  # fmt: skip
    for ax, names in ((left, labels), (right, list(pieces.values()))):
        ax.set(xscale="log", xlabel="training steps", yticks=range(len(names)), yticklabels=names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.legend()
    _logarithmic(left.xaxis)
    left.set_title("a  an iteration (T = 100, all included)")
    right.set_title("b  its pieces")
    return figure


def training_speedup(table: pd.DataFrame) -> Figure:
    """How much faster a sparse network trains, over sparsity.

    A mask most of whose weights lie on no path is fast but useless: it is ringed.
    """
    found = speedups(table)
    found = found.assign(density=1 - found["sparsity"])
    networks = [name for name in NAMES if name in set(found["network"])]
    figure, axes = style.panels(1, max(len(networks), 1), 0.42, sharey=True)
    for ax, network in zip(axes[0], networks, strict=False):
        here = found[found["network"] == network]
        limit = here.drop_duplicates("sparsity").sort_values("sparsity")
        ax.plot(limit["density"], limit["limit"], ":", color="0.3", label="_")
        ax.axhline(1, color=LOOKS["dense"].color, ls=LOOKS["dense"].style, label="dense")
        for method in style.in_order(here["method"]):
            style.curve(ax, here[here["method"] == method], "density", "speedup", LOOKS[method])
        wasted = here[here["kept"] < 0.5 * here["density"] * here["weights"]]
        ax.plot(wasted["density"], wasted["speedup"], "o", ms=9, mfc="none", mec="0.2", label="_")
        style.density_axis(ax, here["sparsity"])
        ax.set(title=NAMES[network], yscale="log", ylim=(0.8, 1.3 * found["speedup"].max()))
    _logarithmic(axes[0, 0].yaxis)
    axes[0, 0].set_ylabel("times faster than a dense step")
    limit = "dotted: 1 / density, the limit of arithmetic"
    style.note(figure, f"{limit}; ringed: more than half of the weights lie on no path")
    style.label_ends(figure)
    return figure
