"""One function for each figure, fed by the tables of data/results/ alone.

A method has one colour and one marker in every figure. The colours are told apart by the
colour-blind too (after Okabe & Ito, and Tol), and the markers do without colour.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from . import config
from .files import whole
from .results import interval, paired, summary


class Look(NamedTuple):
    """How a method is written and drawn."""

    label: str
    color: str
    marker: str = "o"
    style: str = "-"


LOOKS = {
    "dense": Look("dense", "#7F7F7F", "", "--"),
    "random": Look("random", "#A6A6A6", "x", ":"),
    "magnitude": Look("magnitude", "#56B4E9", "v", ":"),
    "snip": Look("SNIP", "#0072B2", "s"),
    "grasp": Look("GraSP", "#009E73", "D"),
    "erk": Look("ERK random", "#DDCC77", "+", ":"),
    "panning+shuffled": Look("random at Panning's densities", "#CC6677", "1", ":"),
    "force": Look("FORCE", "#117733", "p", "--"),
    "synflow": Look("SynFlow", "#E69F00", "^"),
    "iterative_snip": Look("iterative SNIP", "#332288", "P", "--"),
    "iterative_fused": Look("iterative, fused (no return)", "#882255", "X", "--"),
    "panning": Look("Panning", "#D55E00", "o"),
    "rlpanning": Look("RLPanning", "#CC79A7", "*"),
}
UNCHANGED = ("hand-made", "Panning")  # how an ablation study calls Panning itself
METRIC_LOOKS = {name: LOOKS[name] for name in ("synflow", "snip", "grasp")} | {
    "fused": LOOKS["panning"]._replace(label="fused")
}


def style(settings: config.Figures | None = None) -> None:
    """Set the look of every figure of this process, and what makes its SVG reproducible.

    Sizes live in matplotlib's own settings, where every function below finds them. Without
    `settings` figures are sized for reading in a notebook.
    """
    sns.set_theme(context="paper", style="whitegrid", palette="colorblind")
    width, font, dpi = (7.0, 9.0, 110)
    if settings is not None:
        width, font, dpi = settings.width, settings.font_size, settings.dpi
    mpl.rcParams.update(
        {
            "figure.figsize": (width, 0.6 * width),
            "figure.dpi": dpi,
            "savefig.dpi": dpi,
            "figure.constrained_layout.use": True,
            "font.size": font,
            "axes.titlesize": font,
            "axes.labelsize": font,
            "figure.titlesize": font,
            "legend.fontsize": font - 1,
            "legend.title_fontsize": font - 1,
            "legend.frameon": False,
            "xtick.labelsize": font - 1,
            "ytick.labelsize": font - 1,
            "svg.hashsalt": "neural-network-panning",
            "svg.fonttype": "none",
        }
    )


def figure_width() -> float:
    """Width of a whole figure, in inches."""
    return mpl.rcParams["figure.figsize"][0]


def save(figure: Figure, name: str) -> list[Path]:
    """Write figures/NAME.svg and .png, without a date, each whole or not at all."""
    written = []
    for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        written.append(config.root() / "figures" / f"{name}.{kind}")
        with whole(written[-1]) as file:
            figure.savefig(file, format=kind, metadata=metadata)
    return written


# --- what several figures share --------------------------------------------------------------


def percent(sparsity: float) -> str:
    """A sparsity as people write it: 0.999 is "99.9 %"."""
    return f"{100 * sparsity:.6g} %"


def density_axis(ax: Axes, sparsities: Iterable[float]) -> None:
    """A sparsity axis on which each decade of density has the same width."""
    ax.set_xscale("log")
    ax.invert_xaxis()
    densities = sorted({round(1 - rho, 9) for rho in sparsities})
    ax.xaxis.set_major_locator(FixedLocator(densities))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda density, _: percent(1 - density)))
    ax.set_xlabel("sparsity")


def difference_axis(ax: Axes, linear: float = 2) -> None:
    """A horizontal axis for differences: linear near 0, logarithmic beyond, plain numbers."""
    ax.axvline(0, color="0.4", linewidth=0.8)
    ax.set_xscale("symlog", linthresh=linear)
    marks = [m for m in (0.1, 1, 10, 100) if m >= linear / 3]
    ax.xaxis.set_major_locator(FixedLocator([-m for m in marks[::-1]] + [0, *marks]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _curve(ax: Axes, x: np.ndarray, band: pd.DataFrame, look: Look) -> None:
    """Means of percentages over seeds, and their confidence interval as a shade."""
    ax.plot(x, band["mean"], look.style, color=look.color, marker=look.marker, label=look.label)
    low, high = band["low"].clip(0, 100), band["high"].clip(0, 100)
    ax.fill_between(x, low, high, color=look.color, alpha=0.15, linewidth=0)


def _shade_note(confidence: float, n: int, what: str = "seeds") -> str:
    return f"shade: {confidence:.0%} t-interval of the mean over {n} {what}"


def _accuracy_curves(
    ax: Axes, table: pd.DataFrame, methods: Iterable[str], confidence: float
) -> None:
    """Test accuracy of the last epoch over sparsity, the dense network as a grey line."""
    table = table.assign(accuracy=100 * table["accuracy"])
    sparse = table[table["method"] != "dense"]
    for method in methods:
        band = summary(sparse[sparse["method"] == method], ["sparsity"], "accuracy", confidence)
        _curve(ax, 1 - band["sparsity"].to_numpy(), band, LOOKS[method])
    dense = interval(table.loc[table["method"] == "dense", "accuracy"], confidence)
    ax.axhline(dense[0], color=LOOKS["dense"].color, linestyle="--", label="dense")
    ax.axhspan(*np.clip(dense[1:], 0, 100), color=LOOKS["dense"].color, alpha=0.15, linewidth=0)
    density_axis(ax, sparse["sparsity"])
    ax.set_ylabel("test accuracy, last epoch (%)")


# --- figures ---------------------------------------------------------------------------------


def metrics_overview(
    scores: pd.DataFrame, correlation: pd.DataFrame, overlap: pd.DataFrame, densities: pd.DataFrame
) -> Figure:
    """Notebook 01: distributions, rank correlation, overlap of masks, layer densities."""
    figure, axes = plt.subplots(2, 2, figsize=(figure_width(), 0.72 * figure_width()))
    for name, part in scores.groupby("metric", sort=False):
        look = METRIC_LOOKS[name]
        axes[0, 0].plot(part["log10_z"], part["fraction"], color=look.color, label=look.label)
    axes[0, 0].set(
        xlabel=r"$\log_{10} Z$ of a weight", ylabel="fraction of weights", title="a  scores"
    )
    axes[0, 0].legend()
    names = list(dict.fromkeys(correlation["first"]))
    square = correlation.pivot(index="first", columns="second", values="spearman")
    labels = [METRIC_LOOKS[name].label for name in names]
    sns.heatmap(
        square.loc[names, names],
        ax=axes[0, 1],
        annot=True,
        fmt=".2f",
        vmin=-1,
        vmax=1,
        cmap="vlag",
        xticklabels=labels,
        yticklabels=labels,
    )
    axes[0, 1].set(xlabel="", ylabel="", title="b  rank correlation of Z")
    axes[0, 1].tick_params(rotation=0)
    pairs = overlap.assign(
        pair=[
            f"{METRIC_LOOKS[a].label}, {METRIC_LOOKS[b].label}"
            for a, b in zip(overlap["first"], overlap["second"], strict=True)
        ]
    )
    markers = iter("osD^vP")
    for pair, part in pairs.groupby("pair", sort=False):
        axes[1, 0].plot(
            1 - part["sparsity"], part["overlap"], marker=next(markers), color="0.25", label=pair
        )
    by_chance = 1 - overlap["sparsity"].drop_duplicates()
    axes[1, 0].plot(by_chance, by_chance, ":", color="0.6", label="by chance")
    density_axis(axes[1, 0], overlap["sparsity"])
    axes[1, 0].set(ylabel="weights kept by both / kept", title="c  overlap of the masks")
    axes[1, 0].set_ylim(0, 1)
    axes[1, 0].legend(loc="upper right", ncols=2)
    highest = densities[densities["sparsity"] == densities["sparsity"].max()]
    for name, part in highest.groupby("metric", sort=False):
        look = METRIC_LOOKS[name]
        axes[1, 1].plot(
            part["layer"], 100 * part["density"], look.style, color=look.color, marker=look.marker
        )
    # A layer that a metric leaves empty has no place on a logarithmic axis: linear near 0.
    axes[1, 1].set_yscale("symlog", linthresh=100 * densities["density"][lambda d: d > 0].min())
    axes[1, 1].set(
        ylim=(0, None),
        ylabel="weights kept (%)",
        title=f"d  layer densities at {percent(densities['sparsity'].max())}",
    )
    return figure


def force_transfer(flow: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    """Notebook 02: weights that leave and return, settling of the mask, layer densities."""
    figure, axes = plt.subplots(1, 3, figsize=(figure_width(), 0.36 * figure_width()))
    panning = flow[flow["method"] == "panning"]
    axes[0].plot(panning["iteration"], panning["removed"], color="0.35", label="removed")
    axes[0].plot(
        panning["iteration"],
        panning["reactivated"],
        color=LOOKS["panning"].color,
        label="reactivated",
    )
    axes[0].set_yscale("symlog", linthresh=10)
    axes[0].set(xlabel="iteration t", ylabel="weights", title="a  leaving and returning")
    axes[0].legend()
    for method, part in flow.groupby("method", sort=False):
        look = LOOKS[method]
        axes[1].plot(
            part["iteration"], part["of_final"], look.style, color=look.color, label=look.label
        )
    axes[1].set(xlabel="iteration t", ylabel="final weights already kept", title="b  settling")
    axes[1].set_ylim(None, 1.02)
    axes[1].legend()
    greys = sns.color_palette("viridis", layers["layer"].nunique() + 1)
    for color, (layer, part) in zip(greys, layers.groupby("layer", sort=False), strict=False):
        axes[2].plot(part["iteration"], 100 * part["density"], color=color, label=layer)
    axes[2].set_yscale("log")
    axes[2].set(xlabel="iteration t", ylabel="weights kept (%)", title="c  layers, Panning")
    axes[2].legend()
    return figure


def panning_vs_iterative(table: pd.DataFrame, confidence: float) -> Figure:
    """Notebook 02: the poster's figure, Panning against iterative pruning."""
    figure, ax = plt.subplots(figsize=(0.62 * figure_width(), 0.45 * figure_width()))
    _accuracy_curves(ax, table, ["iterative_snip", "iterative_fused", "panning"], confidence)
    ax.set_title(_shade_note(confidence, table["seed"].nunique()), color="0.4")
    ax.legend(loc="lower left")
    return figure


def comparison(table: pd.DataFrame, methods: Iterable[str], confidence: float) -> Figure:
    """Notebook 05: every method; left the accuracy, right what Panning gains on each of them."""
    methods = list(methods)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(figure_width(), 0.5 * figure_width()), width_ratios=(1.25, 1)
    )
    _accuracy_curves(left, table, methods, confidence)
    left.set_title(_shade_note(confidence, table["seed"].nunique()), color="0.4")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=(len(methods) + 2) // 2
    )
    others = [method for method in methods if method != "panning"]
    sparse = table[table["method"] != "dense"]
    sparse = sparse.assign(accuracy=100 * sparse["accuracy"])
    densities = np.array(sorted(1 - sparse["sparsity"].unique())[::-1])
    for index, method in enumerate(others):
        band = paired(*(sparse, "method", "panning", method, ["sparsity"], "accuracy", confidence))
        look = LOOKS[method]
        place = np.arange(len(densities)) + (index - (len(others) - 1) / 2) * 0.8 / len(others)
        right.errorbar(
            band["mean"],
            place[: len(band)],
            xerr=(band["mean"] - band["low"], band["high"] - band["mean"]),
            fmt=look.marker,
            color=look.color,
            markersize=4,
            linewidth=1,
        )
    difference_axis(right)
    right.set_yticks(range(len(densities)), [percent(1 - density) for density in densities])
    right.invert_yaxis()
    right.set(
        xlabel="Panning - method (points)",
        ylabel="sparsity",
        title=f"paired by seed; bar: {confidence:.0%} t-interval",
    )
    return figure


def learning_curve(episodes: pd.DataFrame, window: int = 20) -> Figure:
    """Notebook 03: return of the training episodes, which differ by their targets."""
    figure, ax = plt.subplots(figsize=(0.62 * figure_width(), 0.4 * figure_width()))
    colors = sns.color_palette("colorblind")
    for color, (seed, part) in zip(colors, episodes.groupby("seed"), strict=False):
        ax.plot(part["step"], part["return"], ".", color=color, alpha=0.25, markersize=3)
        smooth = part["return"].rolling(window, min_periods=1).mean()
        ax.plot(part["step"], smooth, color=color, label=f"agent {seed}")
    ax.set(
        xlabel="environment steps",
        ylabel="return of an episode",
        title=f"dot: an episode; line: mean of {window}",
    )
    ax.legend()
    return figure


def policies_over_time(actions: pd.DataFrame) -> Figure:
    """Notebook 03: p over t of the agents beside the hand-made policy, at each target."""
    targets = sorted(actions["sparsity"].unique())
    figure, axes = plt.subplots(
        *(len(targets), 3),
        figsize=(figure_width(), 0.2 * figure_width() * len(targets) + 0.3),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for row, target in enumerate(targets):
        for column, metric in enumerate(("synflow", "snip", "grasp")):
            ax = axes[row, column]
            part = actions[actions["sparsity"] == target]
            for policy, one in part.groupby("policy", sort=False):
                by_hand = policy == "hand-made"
                look = LOOKS["panning"] if by_hand else LOOKS["rlpanning"]
                ax.plot(
                    one["iteration"],
                    one[f"p_{metric}"],
                    color=look.color,
                    linewidth=2 if by_hand else 0.9,
                    alpha=1 if by_hand else 0.8,
                    linestyle="--" if by_hand else "-",
                    label=policy,
                )
            ax.set_ylim(-0.03, 1.03)
            if row == 0:
                ax.set_title(f"weight of {METRIC_LOOKS[metric].label}")
            if column == 0:
                ax.set_ylabel(f"p at {percent(target)}")
            if row == len(targets) - 1:
                ax.set_xlabel("iteration t")
    axes[0, 0].legend()
    return figure


def policy_returns(returns: pd.DataFrame, confidence: float) -> Figure:
    """Notebook 03: return of each policy on unseen networks, and the terms it is made of."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(figure_width(), 0.42 * figure_width()), sharey=True
    )
    mean = returns.groupby("policy")["return"].mean().sort_values(ascending=False)
    names = list(mean.index)
    by_network = returns.groupby(["policy", "seed"], as_index=False)["return"].mean()
    band = summary(by_network, ["policy"], "return", confidence).set_index("policy")
    band = band.loc[names]
    place = np.arange(len(names))
    colors = [LOOKS["rlpanning" if "agent" in name else "panning"].color for name in names]
    colors = [
        color if "agent" in name or name == "hand-made" else "0.5"
        for color, name in zip(colors, names, strict=True)
    ]
    left.barh(place, band["mean"], color=colors)
    left.errorbar(
        band["mean"],
        place,
        xerr=(band["mean"] - band["low"], band["high"] - band["mean"]),
        fmt="none",
        color="0.15",
        linewidth=1,
    )
    left.set_yticks(place, names)
    left.invert_yaxis()
    left.set(
        xlabel="return, mean over held-out targets",
        title=f"bar: {confidence:.0%} t-interval, {returns['seed'].nunique()} networks",
    )
    terms = ["reward_loss", "reward_grad_norm", "reward_sparsity", "reward_dead"]
    means = returns.groupby("policy")[terms].mean().loc[names]
    start = np.zeros(len(names))
    labels = ("loss", "gradient norm", "sparsity", "dead")
    shades = ("#004488", "#66A3D2", "#DDAA33", "#BB5566")
    for term, label, color in zip(terms, labels, shades, strict=True):
        right.barh(place, means[term], left=start, color=color, label=label)
        start += means[term].to_numpy()
    right.set(xlabel="terms of the return", title="what it is made of")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=4)
    return figure


def ablation_dots(
    table: pd.DataFrame, labels: Mapping[str, str], title: str, confidence: float
) -> Figure:
    """Notebook 04: accuracy of each setting with its interval, a panel for each sparsity."""
    sparsities = sorted(table["sparsity"].unique())
    figure, axes = plt.subplots(
        1,
        len(sparsities),
        figsize=(figure_width(), 0.055 * figure_width() * len(labels) + 0.9),
        sharey=True,
        squeeze=False,
    )
    for ax, rho in zip(axes[0], sparsities, strict=True):
        part = table[table["sparsity"] == rho].assign(accuracy=lambda t: 100 * t["accuracy"])
        for place, setting in enumerate(labels):
            values = part.loc[part["setting"] == setting, "accuracy"]
            mean, low, high = interval(values, confidence)
            color = LOOKS["panning"].color if setting in UNCHANGED else "0.3"
            ax.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=color)
            ax.plot(values, np.full(len(values), place), "|", color=color, alpha=0.7)
        ax.set_yticks(range(len(labels)), labels.values())
        ax.set(xlabel="test accuracy, last epoch (%)", title=percent(rho))
    axes[0, 0].invert_yaxis()
    note = f"dot: mean, bar: {confidence:.0%} t-interval, tick: a seed"
    figure.suptitle(f"{title} ({note})", color="0.4")
    return figure


def robustness(table: pd.DataFrame, axis: str, label: str, confidence: float) -> Figure:
    """Notebook 04, claim B: accuracy over data set size or width, a panel for each sparsity."""
    sparsities = sorted(table["sparsity"].unique())
    figure, axes = plt.subplots(
        1, len(sparsities), figsize=(figure_width(), 0.38 * figure_width()), squeeze=False
    )
    for ax, rho in zip(axes[0], sparsities, strict=True):
        part = table[table["sparsity"] == rho].assign(accuracy=lambda t: 100 * t["accuracy"])
        for method, one in part.groupby("method", sort=False):
            band = summary(one, [axis], "accuracy", confidence)
            _curve(ax, band[axis].to_numpy(), band, LOOKS[method])
        ax.set_xscale("log")
        ticks = sorted(table[axis].unique())
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set(xlabel=label, title=percent(rho))
    axes[0, 0].set_ylabel("test accuracy, last epoch (%)")
    axes[0, 0].legend()
    note = _shade_note(confidence, table["seed"].nunique())
    figure.suptitle(note, color="0.4")
    return figure


def overview() -> Figure:
    """Notebook 05: RLPanning at a glance; the agent on the left, the environment on the right."""
    figure, ax = plt.subplots(figsize=(figure_width(), 0.4 * figure_width()))
    ax.set(xlim=(0, 100), ylim=(0, 40))
    ax.axis("off")

    def box(x: float, y: float, width: float, height: float, text: str, color: str) -> None:
        ax.add_patch(
            FancyBboxPatch(
                *((x, y), width, height),
                boxstyle="round,pad=0.2,rounding_size=1.2",
                facecolor=color,
                edgecolor="0.3",
                linewidth=0.8,
            )
        )
        ax.text(x + width / 2, y + height / 2, text, ha="center", va="center")

    def arrow(start: tuple[float, float], end: tuple[float, float], text: str, dy: float) -> None:
        ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color="0.25"))
        middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + dy
        ax.text(*middle, text, ha="center", va="center", fontsize=mpl.rcParams["legend.fontsize"])

    box(1, 3, 25, 34, "", "#F8EDF3")
    ax.text(13.5, 34, "agent: TD3", ha="center", weight="bold")
    box(4, 21, 19, 9, "actor\n7 → 256 → 256 → 3", "white")
    box(4, 6, 19, 9, "two critics\nreplay buffer", "white")
    arrow((13.5, 15.4), (13.5, 20.6), "", 0)
    box(46, 3, 53, 34, "", "#FBEFE6")
    ax.text(72.5, 34, "environment: one iteration of Panning", ha="center", weight="bold")
    box(48, 20, 14, 10, "three scores\nof every\nweight", "white")
    box(66, 20, 13, 10, "$S=\\sum p_i Z(s_i)$", "white")
    box(83, 20, 14, 10, "keep the top\n$N(1-\\rho_t)$ of all", "white")
    box(
        66, 6, 31, 8, "sparse network:\n$L_s$, $\\Delta L_s$, effective sparsity $\\rho_e$", "white"
    )
    arrow((62.4, 25), (65.6, 25), "", 0)
    arrow((79.4, 25), (82.6, 25), "", 0)
    arrow((90, 19.6), (90, 14.6), "", 0)
    arrow((65.6, 10), (55, 19.6), "", 0)
    ax.text(
        48,
        10,
        "removed\nweights\ncompete again",
        va="center",
        fontsize=mpl.rcParams["legend.fontsize"],
    )
    arrow((26.4, 26), (45.6, 26), "action $a$:\nthree weights $p_i$", 3.4)
    arrow((45.6, 15), (26.4, 15), "state $s_t$: 7 numbers", 1.6)
    arrow((45.6, 7), (26.4, 7), "reward $R_t$", 1.6)
    return figure
