"""The figures of claim A, from the tables of the full study alone: every method compared."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .analysis import main_task
from .inference import bootstrap
from .plotting import LOOKS, density_axis, figure_width, percent
from .results import paired

ONE_SHOT = ("random", "erk", "panning+shuffled", "magnitude", "snip", "grasp")


def _curves(ax: Axes, table: pd.DataFrame, methods: Sequence[str], confidence: float) -> None:
    """Mean accuracy over sparsity; shade: bootstrap interval over the seeds."""
    for method in methods:
        part = table[table["method"] == method]
        if part.empty:
            continue
        grouped = (100 * part.set_index("sparsity")["accuracy"]).groupby(level=0)
        band = pd.DataFrame({rho: bootstrap(v, confidence) for rho, v in grouped}).T
        look, x = LOOKS[method], 1 - band.index.to_numpy()
        ax.plot(x, band[0], look.style, color=look.color, marker=look.marker, ms=4)
        ax.fill_between(x, band[1], band[2], color=look.color, alpha=0.15, linewidth=0)
    dense = 100 * table.loc[table["method"] == "dense", "accuracy"].mean()
    ax.axhline(dense, color=LOOKS["dense"].color, ls=LOOKS["dense"].style)
    density_axis(ax, table.loc[table["method"] != "dense", "sparsity"])
    ax.tick_params(axis="x", rotation=60)


def _legend(figure: Figure, methods: Sequence[str], columns: int = 4) -> None:
    handles = [
        plt.Line2D(
            [], [], color=look.color, marker=look.marker, ls=look.style, ms=4, label=look.label
        )
        for look in (LOOKS[method] for method in methods)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def accuracy(table: pd.DataFrame, confidence: float) -> Figure:
    """Claim A: accuracy over sparsity, network by network; one-shot methods, then iterated ones."""
    tasks = list(dict.fromkeys(table["task"]))
    methods = [m for m in LOOKS if m in set(table["method"]) and m != "dense"]
    rows = [
        [m for m in methods if m in ONE_SHOT] + ["panning"],
        [m for m in methods if m not in ONE_SHOT],
    ]
    figure, axes = plt.subplots(
        *(2, len(tasks)),
        figsize=(figure_width(), 0.85 * figure_width()),
        squeeze=False,
        width_ratios=[
            1.6 if table[table["task"] == t]["sparsity"].nunique() > 6 else 1 for t in tasks
        ],
    )
    for row, chosen in enumerate(rows):
        for column, task in enumerate(tasks):
            ax = axes[row, column]
            _curves(ax, table[table["task"] == task], chosen, confidence)
            ax.set_title(f"{'one shot' if row == 0 else 'iterated'}, {task}")
            if row == 0:
                ax.set_xlabel("")
        axes[row, 0].set_ylabel("test accuracy, last epoch (%)")
    _legend(figure, ["dense", *methods])
    figure.suptitle(f"shade: {confidence:.0%} bootstrap interval over the seeds", color="0.4")
    return figure


def effective(table: pd.DataFrame) -> Figure:
    """The effective part of the kept weights, and dead networks, where the grid is widest."""
    table = table[(table["task"] == main_task(table)) & (table["method"] != "dense")]
    figure, axes = plt.subplots(1, 2, figsize=(figure_width(), 0.5 * figure_width()))
    kept = 1 - table["sparsity_reached"]
    table = table.assign(
        share=100 * (1 - table["effective_sparsity"]) / kept,
        dead=100.0 * (table["effective_sparsity"] == 1),
    )
    methods = [m for m in LOOKS if m in set(table["method"])]
    for method in methods:
        look = LOOKS[method]
        mean = table[table["method"] == method].groupby("sparsity")[["share", "dead"]].mean()
        for ax, column in zip(axes, ("share", "dead"), strict=True):
            ax.plot(
                1 - mean.index, mean[column], look.style, color=look.color, marker=look.marker, ms=4
            )
    labels = ("effective / kept weights (%)", "dead networks (%)")
    for ax, label in zip(axes, labels, strict=True):
        density_axis(ax, table["sparsity"])
        ax.tick_params(axis="x", rotation=60)
        ax.set_ylabel(label)
    _legend(figure, methods)
    return figure


def gains(table: pd.DataFrame, method: str, confidence: float) -> Figure:
    """Points of accuracy that a method gains on each other one, task by task."""
    tasks = list(dict.fromkeys(table["task"]))
    sparse = table[table["method"] != "dense"].assign(accuracy=lambda t: 100 * t["accuracy"])
    counts = [sparse[sparse["task"] == task]["sparsity"].nunique() for task in tasks]
    names = [m for m in LOOKS if m in set(sparse["method"]) and m != method]
    figure, axes = plt.subplots(
        *(1, len(tasks)),
        figsize=(figure_width(), 0.36 * len(names) + 0.9),
        width_ratios=counts,
        squeeze=False,
        sharey=True,
    )
    for ax, task in zip(axes[0], tasks, strict=True):
        part = sparse[sparse["task"] == task]
        square, text = (
            pd.DataFrame(index=names, columns=sorted(part["sparsity"].unique()), dtype=kind)
            for kind in (float, object)
        )
        for other in set(names) & set(part["method"]):
            by = (["sparsity"], "accuracy", confidence)
            for row in paired(part, "method", method, other, *by).itertuples():
                star = "*" if row.low > 0 or row.high < 0 else ""
                square.loc[other, row.sparsity] = row.mean
                text.loc[other, row.sparsity] = f"{row.mean:+.1f}{star}"
        sns.heatmap(
            square,
            ax=ax,
            annot=text.fillna(""),
            fmt="",
            annot_kws={"fontsize": 6.5},
            norm=plt.matplotlib.colors.SymLogNorm(1, vmin=-90, vmax=90, base=10),
            cmap="PuOr_r",
            cbar=False,
            linewidths=0.5,
        )
        ax.set_xticklabels([percent(rho) for rho in square.columns], rotation=60)
        ax.set_yticklabels([LOOKS[name].label for name in names], rotation=0)
        ax.set(title=task, xlabel="sparsity", ylabel="")
    figure.suptitle(
        f"{LOOKS[method].label} minus each method, points; *: {confidence:.0%} interval without 0",
        color="0.4",
    )
    return figure


def ranks(wins: pd.DataFrame, differences: Mapping[str, float]) -> Figure:
    """Mean rank of each method with the critical difference, and interquartile mean accuracy."""
    tasks = [task for task in differences if task in set(wins["task"])]
    counts = [(wins["task"] == task).sum() for task in tasks]
    figure, axes = plt.subplots(
        *(len(tasks), 2),
        figsize=(figure_width(), 0.17 * sum(counts) + 0.75 * len(tasks)),
        height_ratios=counts,
        sharey="row",
        squeeze=False,
    )
    for (left, right), task in zip(axes, tasks, strict=True):
        part = wins[wins["task"] == task].sort_values("mean_rank")
        place = np.arange(len(part))
        for ax, value in ((left, "mean_rank"), (right, "iqm")):
            for y, row in zip(place, part.to_dict("records"), strict=True):
                look = LOOKS[row["method"]]
                error = None
                if value == "iqm":
                    error = [[row["iqm"] - row["iqm_low"]], [row["iqm_high"] - row["iqm"]]]
                ax.errorbar(row[value], y, xerr=error, fmt=look.marker, color=look.color, ms=5)
            ax.set_yticks(place, [LOOKS[name].label for name in part["method"]])
        left.invert_yaxis()  # of both: they share it
        start = part["mean_rank"].min()
        left.plot([start, start + differences[task]], [-0.7] * 2, color="0.3", linewidth=2)
        left.set_title(task)
    axes[-1, 0].set_xlabel("mean rank")
    axes[-1, 1].set_xlabel("interquartile mean of the accuracy (%)")
    figure.suptitle("bar, left: critical difference of the mean ranks", color="0.4")
    return figure
