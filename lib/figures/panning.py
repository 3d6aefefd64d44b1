"""The figures of notebook 02: Panning, its rivals, and the flow of weights, each from tables."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ..study.statistics import paired
from . import style
from .style import LOOKS

ONE_SHOT = ("random", "erk", "panning+shuffled", "magnitude", "snip", "grasp", "panning")


def _groups(methods: Sequence[str]) -> dict[str, list[str]]:
    """The methods in two groups, with Panning in both, to keep lines few."""
    methods = style.in_order(methods)
    groups = {
        "one shot, and controls": [name for name in methods if name in ONE_SHOT],
        "iterated": [name for name in methods if name not in ONE_SHOT or name == "panning"],
    }
    return {title: names for title, names in groups.items() if names and names != ["panning"]} or {
        "": methods
    }


def _points(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in per cent, and the density, of the tasks in their order."""
    return table.assign(accuracy=100 * table["accuracy"], density=(1 - table["sparsity"]).round(9))


def _curves(ax: Axes, table: pd.DataFrame, methods: Sequence[str], confidence: float) -> None:
    """Accuracy over sparsity; the dense network is a grey line."""
    sparse = table[table["method"] != "dense"]
    dense = table.loc[table["method"] == "dense", "accuracy"]
    if len(dense):
        look = LOOKS["dense"]
        ax.axhline(dense.mean(), color=look.color, ls=look.style, label=look.label)
    for method in methods:
        part = sparse[sparse["method"] == method]
        if len(part):
            style.curve(ax, part, "density", "accuracy", LOOKS[method], confidence)
    style.density_axis(ax, sparse["sparsity"])


def _panels(
    table: pd.DataFrame, choose: Callable[[Sequence[str]], Mapping], confidence: float
) -> Figure:
    """A row for each task, a panel for each group of methods."""
    table = _points(table)
    tasks = list(dict.fromkeys(table["task"]))
    groups = choose(table["method"])
    figure, axes = style.panels(
        len(tasks), len(groups), 0.32 * len(tasks) + 0.05, 0.5 * min(len(groups) + 0.3, 2),
        sharey="row",
    )  # fmt: skip
    for row, task in zip(axes, tasks, strict=True):
        part = table[table["task"] == task]
        for ax, (title, methods) in zip(row, groups.items(), strict=True):
            _curves(ax, part, methods, confidence)
            ax.set_title(": ".join(filter(None, (task, title))))
            ax.set_xlabel(ax.get_xlabel() if task == tasks[-1] else "")
        row[0].set_ylabel("test accuracy (%)")
    style.note(figure, style.seeds_note(table, ["task", "method", "sparsity"], confidence))
    style.label_ends(figure)
    return figure


def accuracy(table: pd.DataFrame, confidence: float) -> Figure:
    """Claim A: accuracy after training over sparsity, all methods, network by network."""
    return _panels(table, _groups, confidence)


def panning_vs_iterative(table: pd.DataFrame, confidence: float) -> Figure:
    """The poster's figure: Panning against iterative SNIP, and against itself without return."""
    rivals = ["dense", "iterative_snip", "iterative_fused", "panning"]
    return _panels(
        table[table["method"].isin(rivals)],
        lambda methods: {"": style.in_order(methods)},
        confidence,
    )


def _by_task(
    table: pd.DataFrame, names: Sequence[str], cells: Callable[[pd.DataFrame], style.Cells],
    text: str, **look: object,
) -> Figure:  # fmt: skip
    """Methods x sparsities, a heat map for each task."""
    sparse = table[table["method"] != "dense"]
    columns = {
        task: sorted(part.unique()) for task, part in sparse.groupby("task", sort=False)["sparsity"]
    }
    counts = [len(some) for some in columns.values()]
    figure, axes = style.panels(
        1, len(columns), 0.036 * len(names) + 0.17, min(1, max(0.6, 0.25 + 0.07 * sum(counts))),
        sharey=True, width_ratios=counts,
    )  # fmt: skip
    for ax, (task, some) in zip(axes[0], columns.items(), strict=True):
        style.heat(ax, names, some, cells(sparse[sparse["task"] == task]), **look)
        ax.set_xticks(range(len(some)), [style.percent(rho)[:-2] for rho in some])
        ax.set(title=task, xlabel="sparsity (%)")
    style.note(figure, text)
    return figure


def gains(table: pd.DataFrame, reference: str, confidence: float) -> Figure:
    """Points of accuracy that a method gains on each other one, paired by seed, task by task."""
    names = [name for name in style.in_order(table["method"]) if name != reference]

    def cells(part: pd.DataFrame) -> style.Cells:
        present = set(part["method"])
        return {
            (other, gap.sparsity): (gap.mean, style.signed(gap.mean, gap.low, gap.high))
            for other in (names if reference in present else ()) if other in present
            for gap in paired(
                part, "method", reference, other, ["sparsity"], "accuracy", confidence
            ).itertuples()
        }  # fmt: skip

    text = f"{LOOKS[reference].label} minus each method, in points of accuracy; "
    text += f"*: the paired {style.percent(confidence)} t-interval leaves out 0"
    return _by_task(_points(table), names, cells, text)


def effective(table: pd.DataFrame) -> Figure:
    """The share of the kept weights that lie on a path from input to output; dead networks."""
    table = table.assign(
        share=100 * (1 - table["effective_sparsity"]) / (1 - table["sparsity_reached"]),
        dead=table["effective_sparsity"] == 1,
    )

    def cells(part: pd.DataFrame) -> style.Cells:
        mean = part.groupby(["method", "sparsity"])[["share", "dead"]].mean()
        return {key: (one.share, f"{one.share:.0f}" + "†" * (one.dead > 0))
                for key, one in zip(mean.index, mean.itertuples(), strict=True)}  # fmt: skip

    text = "effective weights in per cent of those kept, mean over seeds; †: some networks are dead"
    names = style.in_order(table["method"])
    return _by_task(table, names, cells, text, norm=Normalize(0, 100), cmap="cividis")


def motion(motion: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    """The loop at work: the input pixels, the layers, and the weights that leave and return.

    Args:
        motion: iteration, row, column, kept: weights of the first layer that read the pixel.
        layers: sparsity, seed, iteration, layer, density, removed, reactivated. The run of the
            largest sparsity and the first seed is drawn; it should be that of `motion`.
    """
    rho = layers["sparsity"].max()
    layers = layers[layers["sparsity"] == rho]
    layers = layers[layers["seed"] == layers["seed"].min()]
    moved = layers.groupby("iteration")[["removed", "reactivated"]].sum()
    # In the end N ρ weights have left for good, which gives N.
    gone = (moved["removed"] - moved["reactivated"]).cumsum()
    reached = rho * gone / max(gone.iloc[-1], 1)
    frames = list(motion.groupby("iteration"))
    width = plt.rcParams["figure.figsize"][0]
    figure = plt.figure(figsize=(width, 0.62 * width))
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.75))
    strip = top.subplots(1, len(frames), squeeze=False)[0]
    norm = AsinhNorm(1, vmin=0, vmax=max(motion["kept"].max(), 1))
    for ax, (t, frame) in zip(strip, frames, strict=True):
        square = frame.pivot(index="row", columns="column", values="kept")
        image = ax.imshow(square, norm=norm, cmap="magma", interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        share = reached.get(t, 0.0)
        ax.set_xlabel(f"t = {t}\n{style.percent(round(share, 3 if share < 0.99 else 4))}")
    bar = top.colorbar(image, ax=strip, shrink=0.8, pad=0.01)
    bar.ax.yaxis.set_major_locator(
        FixedLocator([v for v in (0, 1, 10, 100, 1000) if v <= norm.vmax])
    )
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.ax.yaxis.set_minor_locator(NullLocator())
    style.note(figure, "kept weights that read each input pixel, and the sparsity reached")
    left, right = bottom.subplots(1, 2)
    _by_layer(left, layers.assign(density=100 * layers["density"]), "density")
    left.set_yscale("log")
    left.yaxis.set_major_formatter("{x:g}")
    left.set(ylabel="weights kept (%)", title="layers")
    _leave_and_return(right, moved)
    style.label_ends(figure)
    return figure


def moment(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> Figure:
    """One iteration: what each layer keeps, and how many of its weights leave and return.

    Args:
        before: {parameter name: bool}, the mask that the iteration found.
        after: The mask that it leaves.
    """
    names = list(after)
    counts = {
        "kept": [int(after[name].sum()) for name in names],
        "leave": [int((before[name] & ~after[name]).sum()) for name in names],
        "return": [int((after[name] & ~before[name]).sum()) for name in names],
    }
    figure, ((ax,),) = style.panels(1, 1, 0.06 * len(names) + 0.3)
    colors = ("0.75", "0.35", LOOKS["panning"].color)
    for i, ((label, values), color) in enumerate(zip(counts.items(), colors, strict=True)):
        places = np.arange(len(names)) + 0.27 * (i - 1)
        bars = ax.barh(places, values, 0.27, color=color, label=label)
        ax.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize="small")
    style.symlog(ax.xaxis, 1)
    ax.set_xlim(0, 3 * max(mask.size for mask in after.values()))
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(xlabel="weights")
    ax.legend(loc="lower right")
    return figure


def _by_layer(ax: Axes, layers: pd.DataFrame, value: str) -> None:
    """One curve per layer over t, mean over seeds."""
    names = list(dict.fromkeys(layers["layer"]))
    for color, name in zip(style.shades(len(names)), names, strict=True):
        mean = layers[layers["layer"] == name].groupby("iteration")[value].mean()
        ax.plot(mean.index, mean, color=color, label=name)
    ax.set_xlabel("iteration t")


def _leave_and_return(ax: Axes, moved: pd.DataFrame) -> None:
    """Weights removed and reactivated at each iteration."""
    ax.plot(moved.index, moved["removed"], color="0.35", label="removed")
    ax.plot(moved.index, moved["reactivated"], color=LOOKS["panning"].color, label="returning")
    style.symlog(ax.yaxis, 1)
    ax.set_ylim(0, None)
    ax.set(xlabel="iteration t", ylabel="weights", title="weights that leave and return")


def flow(flow: pd.DataFrame, layers: pd.DataFrame, departures: pd.DataFrame) -> Figure:
    """How expressive force is transferred, at the largest sparsity, mean over seeds.

    Args:
        flow: sparsity, seed, method, iteration, removed, reactivated, of_final.
        layers: sparsity, seed, iteration, layer, score_share.
        departures: sparsity, seed, times, share of the final weights that had left that often.
    """
    figure, ((a, b), (c, d)) = style.panels(2, 2, 0.72)
    highest = flow[flow["sparsity"] == flow["sparsity"].max()]
    mean = highest.groupby(["method", "iteration"])[["removed", "reactivated", "of_final"]].mean()
    for method in style.in_order(highest["method"]):
        look, one = LOOKS[method], mean.loc[method]
        b.plot(one.index, 100 * one["of_final"], look.style, color=look.color, label=look.label)
        if method == "panning":
            _leave_and_return(a, one)
    b.set(xlabel="iteration t", ylabel="final weights kept already (%)")
    _by_layer(c, layers[layers["sparsity"] == layers["sparsity"].max()], "score_share")
    c.set(ylabel="share of the score", ylim=(0, None))
    targets = sorted(departures["sparsity"].unique())
    for color, rho in zip(style.shades(len(targets)), targets, strict=True):
        part = departures[departures["sparsity"] == rho]
        share = part.groupby("times")["share"].sum() / part["seed"].nunique()
        least = 100 * share[::-1].cumsum()[::-1]
        d.plot(least.index, least, color=color, label=style.percent(rho))
    d.legend(title="sparsity")
    d.set(xlabel="times n", ylabel="had left at least n times (%)", ylim=(0, None))
    titles = ("leaving and returning", "the mask settles", "the score, by layer",
              "weights of the final mask")  # fmt: skip
    for ax, letter, title in zip((a, b, c, d), "abcd", titles, strict=True):
        ax.set_title(f"{letter}  {title}")
    style.note(figure, f"a to c at {style.percent(flow['sparsity'].max())}; mean over seeds")
    style.label_ends(figure)
    return figure


def agreement(table: pd.DataFrame) -> Figure:
    """Overlap of Panning's mask with other methods', beside what chance gives."""
    targets = sorted(table["sparsity"].unique())
    order = table[["other", "steps"]].drop_duplicates().itertuples(index=False, name=None)
    order = sorted(order, key=lambda one: (list(LOOKS).index(one[0]), one[1]))
    figure, axes = style.panels(1, len(targets), 0.04 * len(order) + 0.13, sharey=True)
    for ax, rho in zip(axes[0], targets, strict=True):
        for y, (other, steps) in enumerate(order):
            part = table[
                (table["sparsity"] == rho) & (table["other"] == other) & (table["steps"] == steps)
            ]
            look = LOOKS[other]
            ax.plot(100 * part["overlap"], [y] * len(part), look.marker, color=look.color)
            ax.plot(100 * part["by_layer_densities"].mean(), y, "|", color="0.15", ms=10)
        ax.axvline(100 * (1 - rho), color="0.6", ls=":")
        ax.set(title=style.percent(rho), xlim=(-3, 103), xticks=(0, 50, 100))
        ax.set_xlabel("kept by both (% of kept)")
    labels = [f"{LOOKS[o].label}, T = {s}" if s > 1 else LOOKS[o].label for o, s in order]
    axes[0, 0].set_yticks(range(len(order)), labels)
    axes[0, 0].invert_yaxis()
    style.note(
        figure,
        "marker: a seed; dotted: by chance; tick: by chance, given both masks' layer densities",
    )
    return figure


def collapse(table: pd.DataFrame) -> Figure:
    """The smallest layer, and the effective part of the mask, over compression."""
    groups = _groups(table["method"])
    table = table.assign(effective_share=100 * table["effective_share"])
    figure, axes = style.panels(len(groups), 2, 0.31 * len(groups) + 0.05, sharex=True)
    for row, (title, methods) in zip(axes, groups.items(), strict=True):
        for ax, value in zip(row, ("smallest_layer", "effective_share"), strict=True):
            for name in methods:
                part = table[table["method"] == name]
                style.curve(ax, part, "compression", value, LOOKS[name])
            ax.set(xscale="log", title=title)
            ax.set_xlabel("compression: weights / kept weights" if row[0] is axes[-1, 0] else "")
        row[0].set_ylabel("weights in the smallest layer")
        row[1].set(ylabel="effective weights (% of kept)", ylim=(-3, 103))
        style.symlog(row[0].yaxis, 1)
        row[0].set_ylim(0, None)
        for line in row[0].lines:  # the panel beside it names the methods
            line.set_label("_")
    style.note(figure, "mean over seeds")
    style.label_ends(figure)
    return figure


QUESTIONS = {
    "worthless_synflow": "worthless\nto SynFlow",
    "worthless_snip": "worthless\nto masked SNIP",
    "dead": "dead",
    "dark": "reading a\ndark pixel",
}


def vetoes(table: pd.DataFrame) -> Figure:
    """What each method keeps against a metric's word, dead or in the dark, layer by layer.

    Args:
        table: task, method, sparsity, seed, layer and numbers of weights, see `loops.vetoes`.
    """
    table = table.assign(place=list(zip(table["task"], table["sparsity"], strict=True)))
    names = style.in_order(table["method"])  # a control has no look of its own
    names += [name for name in dict.fromkeys(table["method"]) if name not in names]
    places = {
        place: [name for name in names if name in set(part["method"])]
        for place, part in table.groupby("place", sort=False)
    }
    counts = [len(methods) for methods in places.values()]
    figure, axes = style.panels(
        len(places), len(QUESTIONS), 0.026 * sum(counts) + 0.025 * len(places) + 0.12,
        sharex=True, sharey="row", height_ratios=counts,
    )  # fmt: skip
    for row, ((task, rho), methods) in zip(axes, places.items(), strict=True):
        part = table[table["place"] == (task, rho)]
        looks = [LOOKS.get(name, style.Look(name, "#808080")) for name in methods]
        for ax, what in zip(row, QUESTIONS, strict=True):
            ax.set_visible(part[what].notna().any())
            for y, (method, look) in enumerate(zip(methods, looks, strict=True)):
                _stack(ax, y, part[part["method"] == method], what, look.color)
            if what == "dark":
                ax.axvline(100 * part["inputs_dark"].max(), color="0.3", ls=":", lw=1, zorder=0.9)
            ax.grid(visible=False)
        row[0].set_yticks(range(len(methods)), [look.label for look in looks])
        row[0].set_ylim(len(methods) - 0.4, -0.6)
        row[0].annotate(f"{task}, {style.percent(rho)}", (0, 1), (-4, 2), "axes fraction",
                        textcoords="offset points", ha="right", va="bottom")  # fmt: skip
    ends = [bar.get_x() + bar.get_width() for ax in axes.flat for bar in ax.patches]
    axes[0, 0].set(xticks=[], xlim=(0, 1.3 * max(5, *ends)))
    for ax, title in zip(axes[0], QUESTIONS.values(), strict=True):
        ax.set_title(title)
    style.note(
        figure,
        "per cent of the kept weights, mean over seeds; dark to light: first to last layer. "
        "Worthless: not above the metric's median. Reading a dark pixel: per cent of those kept in "
        "the first layer; dotted: by chance",
    )
    return figure


def _stack(ax: Axes, y: float, part: pd.DataFrame, what: str, color: str) -> None:
    """A bar of one piece a layer, with its length written beside it."""
    layers = part[part[what].notna()].groupby("layer", sort=False)[[what, "kept"]].mean()
    if layers.empty:  # no weight is that of one pixel
        return
    of = layers["kept"].sum()
    shades = np.linspace(1, 0.35, len(layers))
    start = 0.0
    for shade, number in zip(shades, layers[what], strict=True):
        width = 100 * number / of if of else 0.0
        ax.barh(y, width, 0.7, left=start, color=color, alpha=shade, lw=0)
        start += width
    text = f"{start:.0f}" if start >= 9.5 or start == 0 else f"{start:.1f}"
    ax.annotate(text, (start, y), (3, 0), textcoords="offset points", va="center",
                fontsize=plt.rcParams["legend.fontsize"] - 1, color="0.15",
                bbox={"facecolor": "w", "lw": 0, "pad": 0.5})  # fmt: skip
