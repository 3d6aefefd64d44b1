"""Figures of the metrics, of Panning and of its rivals, each from tables alone."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from .plotting import (
    LOOKS,
    METRIC_LOOKS,
    UNCHANGED,
    band_curve,
    density_axis,
    difference_axis,
    figure_width,
    percent,
    shade_note,
)
from .results import interval, paired, summary


def _accuracy_curves(
    ax: Axes, table: pd.DataFrame, methods: Iterable[str], confidence: float
) -> None:
    """Test accuracy of the last epoch over sparsity, the dense network as a grey line."""
    table = table.assign(accuracy=100 * table["accuracy"])
    sparse = table[table["method"] != "dense"]
    for method in methods:
        band = summary(sparse[sparse["method"] == method], ["sparsity"], "accuracy", confidence)
        band_curve(ax, 1 - band["sparsity"].to_numpy(), band, LOOKS[method])
    dense = interval(table.loc[table["method"] == "dense", "accuracy"], confidence)
    ax.axhline(dense[0], color=LOOKS["dense"].color, linestyle="--", label="dense")
    ax.axhspan(*np.clip(dense[1:], 0, 100), color=LOOKS["dense"].color, alpha=0.15, linewidth=0)
    density_axis(ax, sparse["sparsity"])
    ax.set_ylabel("test accuracy, last epoch (%)")


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
    axes[1, 0].legend(loc="upper right", ncols=2, handlelength=1, columnspacing=1)
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
        label = look.label.replace(" (", "\n(")  # there is little room
        axes[1].plot(part["iteration"], part["of_final"], look.style, color=look.color, label=label)
    axes[1].set(xlabel="iteration t", ylabel="final weights already kept", title="b  settling")
    axes[1].set_ylim(None, 1.02)
    axes[1].legend(loc="lower left")
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
    ax.set_title(shade_note(confidence, table["seed"].nunique()), color="0.4")
    ax.legend(loc="lower left")
    return figure


def comparison(table: pd.DataFrame, methods: Iterable[str], confidence: float) -> Figure:
    """Notebook 05: every method; left the accuracy, right what Panning gains on each of them."""
    methods = list(methods)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(figure_width(), 0.5 * figure_width()), width_ratios=(1.25, 1)
    )
    _accuracy_curves(left, table, methods, confidence)
    left.set_title(shade_note(confidence, table["seed"].nunique()), color="0.4")
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
            band_curve(ax, band[axis].to_numpy(), band, LOOKS[method])
        ax.set_xscale("log")
        ticks = sorted(table[axis].unique())
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set(xlabel=label, title=percent(rho))
    axes[0, 0].set_ylabel("test accuracy, last epoch (%)")
    axes[0, 0].legend()
    note = shade_note(confidence, table["seed"].nunique())
    figure.suptitle(note, color="0.4")
    return figure
