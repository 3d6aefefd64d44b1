"""What `make bench` measured: cost in training steps, speed-up, and accuracy over seconds.

Seconds hold for one machine and one run; ratios within the run hold more widely. Both are outside
the promise of same bytes, so they are read from the tables in benchmarks/, which only `make bench`
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
    "lenet300": "LeNet-300-100",
    "lenet5": "LeNet-5",
    "resnet20": "ResNet-20",
    "resnet32": "ResNet-32",
    "vgg11": "VGG-11",
    "vgg16": "VGG-16",
    "vgg19": "VGG-19",
}
T = 100  # iterations of Panning, as benchmarks/ has them
BATCH = 100  # images in the training step that is the unit
PROGRAMS = {"plain": ("the plain program", "none"), "fast": ("lib", "full")}  # label, fill
SPARSE = {"cut": ("-", ""), "sparse": (":", ", sparse layers")}  # line, what a label adds
PIECES = {
    "snip and grasp": "SNIP and GraSP",
    "masked snip": "masked SNIP",
    "synflow": "SynFlow",
    "effective mask": "effective mask",
    "torch.topk": "torch.topk",
    "top_k": "lib's top_k",
}


def read(name: str = "results") -> pd.DataFrame:
    """A table of `make bench`.

    benchmarks/results.csv has one row per measurement, `value` in seconds or in bytes;
    benchmarks/race.csv one per epoch, `seconds` since pruning began, without the time for tests.
    """
    return pd.read_csv(files.root() / "benchmarks" / f"{name}.csv")


def in_steps(table: pd.DataFrame) -> pd.DataFrame:
    """Every time in training steps of its network: those that were timed in turn with it.

    Adds the column `steps`; rows without such a unit are left out.
    """
    times = table[table["beside"].notna() & (table["what"] != "training")]
    return times.assign(steps=times["value"] / times["beside"])


def speedups(table: pd.DataFrame) -> pd.DataFrame:
    """How many times faster a sparse training step is than the dense one.

    Both in the faster layout. The form "cut" leaves out dead channels; "sparse" multiplies by the
    kept weights alone, too, in the layers in which that is faster. Adds `speedup`, and `limit`,
    which no program that only leaves out multiplications can beat. Dead networks, without an
    effective weight, are left out: nothing in them is trained.
    """
    sparse = table[(table["what"] == "training") & (table["kept"] > 0)]
    return sparse.assign(
        speedup=sparse["beside"] / sparse["value"], limit=1 / (1 - sparse["sparsity"])
    )


def prunings(table: pd.DataFrame) -> pd.DataFrame:
    """What all of pruning costs, in plain training steps: network, method, form, `steps`."""
    steps = in_steps(table)
    steps = steps[(steps["network"] != "lenet5") | (steps["threads"] == 2)]
    ours = steps[steps["what"] == "pruning"]
    paper = steps[steps["what"] == "panning iteration"]
    paper = paper.assign(method="panning", steps=T * paper["steps"])
    columns = ["network", "weights", "method", "form", "steps"]
    return pd.concat([paper, ours])[columns].reset_index(drop=True)


def break_even(table: pd.DataFrame, images: int) -> pd.DataFrame:
    """After how many epochs the time spent on pruning is earned back.

    Args:
        table: The measurements.
        images: In an epoch.

    Returns:
        For each network, method, form and sparsity: `pruning`, its cost in epochs of dense
        training in the faster layout, and `epochs`, after which pruning and sparse training have
        taken less than dense training; infinite if a sparse step is no faster.
    """
    places = ["network", "method"]
    cost = prunings(table).query("form == 'fast'").set_index(places)["steps"].rename("cost")
    fast = in_steps(table).query("what == 'training step' and threads == 2")
    found = speedups(table).join(cost, on=places, how="inner")
    unit = found["network"].map(fast.set_index("network")["steps"])
    pruning = found["cost"] / unit * BATCH / images
    saved = (1 - 1 / found["speedup"]).clip(lower=0)
    epochs = np.where(saved > 0, pruning / saved.where(saved > 0, 1), np.inf)
    columns = [*places, "form", "sparsity", "speedup"]
    return found[columns].assign(pruning=pruning, epochs=epochs).reset_index(drop=True)


def _logarithmic(axis: Axis, subs: tuple[int, ...] = (1, 2, 5)) -> None:
    axis.set_major_locator(LogLocator(10, subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def panning_cost(table: pd.DataFrame) -> Figure:
    """What pruning costs on each network, and what the pieces of an iteration cost."""
    figure, ((left, right),) = style.panels(1, 2, 0.4)
    whole = prunings(table).sort_values("weights")
    networks = list(whole["network"].unique())
    labels = [
        f"{NAMES[name]}, {weights / 1e6:.2g} M"
        for name, weights in whole.groupby("network")["weights"].first()[networks].items()
    ]
    steps = in_steps(table)
    steps = steps[steps["threads"] == 2]
    pieces = {name: label for name, label in PIECES.items() if name in set(steps["what"])}
    shades = style.shades(len(networks))
    for form, (label, fill) in PROGRAMS.items():
        for method in style.in_order(whole["method"]):
            part, look = whole[(whole["form"] == form) & (whole["method"] == method)], LOOKS[method]
            left.plot(
                *(part["steps"], [networks.index(name) for name in part["network"]], look.marker),
                color=look.color, fillstyle=fill, label=f"{look.label}: {label}",
            )  # fmt: skip
        part = steps[(steps["form"] == form) & steps["what"].isin(list(pieces))]
        for shade, network in zip(shades, networks, strict=True):
            one = part[part["network"] == network]
            right.plot(
                *(one["steps"], [list(pieces).index(what) for what in one["what"]], "o"),
                color=shade, fillstyle=fill,
                label=NAMES[network] if len(one) and form == "fast" else "_",
            )  # fmt: skip
    for ax, names in ((left, labels), (right, list(pieces.values()))):
        ax.set(xscale="log", xlabel="training steps", yticks=range(len(names)), yticklabels=names)
        ax.set_ylim(len(names) - 0.5, -0.5)
    _logarithmic(left.xaxis)
    _logarithmic(right.xaxis, (1,))
    right.legend()
    left.set_title("a  all of pruning")
    right.set_title("b  pieces of an iteration")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def training_speedup(table: pd.DataFrame) -> Figure:
    """How much faster a sparse network trains, over sparsity.

    A mask most of whose weights lie on no path is fast but useless: it is ringed.
    """
    found = speedups(table)
    found = found.assign(density=1 - found["sparsity"])
    networks = [name for name in NAMES if name in set(found["network"])]
    figure, axes = style.panels(1, max(len(networks), 1), 0.46, sharey=True)
    curves = {}
    for ax, network in zip(axes[0], networks, strict=False):
        here = found[found["network"] == network]
        limit = here.drop_duplicates("sparsity").sort_values("sparsity")
        ax.plot(limit["density"], limit["limit"], color="0.85", lw=3, label="_")
        ax.axhline(1, color=LOOKS["dense"].color, ls=LOOKS["dense"].style, label="dense")
        for method in style.in_order(here["method"]):
            for form, (line, more) in SPARSE.items():
                look = LOOKS[method]
                look = look._replace(label=look.label + more, style=line)
                part = here[(here["method"] == method) & (here["form"] == form)]
                if len(part):
                    style.curve(ax, part, "density", "speedup", look)
        wasted = here[here["kept"] < 0.5 * here["density"] * here["weights"]]
        ax.plot(wasted["density"], wasted["speedup"], "o", ms=9, mfc="none", mec="0.2", label="_")
        style.density_axis(ax, here["sparsity"])
        ax.set(title=NAMES[network], yscale="log", ylim=(0.8, 1.5 * found["speedup"].max()))
        handles, labels = ax.get_legend_handles_labels()
        curves |= dict(zip(labels, handles, strict=True))
    _logarithmic(axes[0, 0].yaxis)
    axes[0, 0].set_ylabel("times faster than a dense step")
    limit = "grey band: 1 / density, the limit of arithmetic"
    style.note(figure, f"{limit}; ringed: more than half of the weights lie on no path")
    figure.legend(curves.values(), curves, loc="outside lower center", ncols=3)
    return figure


def race(epochs: pd.DataFrame) -> Figure:
    """Accuracy over seconds, pruning included: the dense network, also with less time, and ours."""
    networks = [name for name in NAMES if name in set(epochs["network"])]
    figure, axes = style.panels(1, max(len(networks), 1), 0.42)
    for ax, network in zip(axes[0], networks, strict=False):
        here = epochs[epochs["network"] == network]
        rest = sorted(set(here["sparsity"]) - {0.0})
        colors = dict(zip(rest, style.shades(len(rest)), strict=True)) | {0.0: "0.5"}
        for (rho, length), part in here.groupby(["sparsity", "epochs"]):
            ax.plot(
                *(part["seconds"], 100 * part["accuracy"], "-" if rho else "--"), marker=".",
                color=colors[rho], label=style.percent(rho) if rho else f"dense, {length} epochs",
            )  # fmt: skip
        ax.set(title=NAMES[network], xlabel="seconds, pruning included", xscale="log")
        ends = here.groupby(["sparsity", "epochs"])["accuracy"].last()
        ax.set_ylim(100 * ends.min() - 2, 100 * ends.max() + 1)
        _logarithmic(ax.xaxis)
    axes[0, 0].set_ylabel("test accuracy (%)")
    style.note(figure, "each point an epoch; one thread, one seed; learning rates fall to 0")
    style.label_ends(figure)
    return figure
