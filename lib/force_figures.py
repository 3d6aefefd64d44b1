"""The figures of claim C and of the choice of metrics, from the tables of the full study alone."""

import re

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .analysis import choice_gaps
from .plotting import LOOKS, difference_axis, figure_width, percent
from .results import interval

CHECKS = {
    "unchanged": ("0.15", "o"),
    "shuffled": ("#D55E00", "s"),
    "reinitialised": ("#0072B2", "D"),
    "inverted": ("#882255", "v"),
    "pixels": ("#E69F00", "x"),
    "labels": ("#117733", "+"),
}


def force(layers: pd.DataFrame, departures: pd.DataFrame) -> Figure:
    """Notebook 10: how often weights left, when they return, and where the scores lie."""
    figure, axes = plt.subplots(1, 3, figsize=(figure_width(), 0.4 * figure_width()))
    targets = sorted(departures["sparsity"].unique())
    shades = sns.color_palette("viridis", len(targets) + 1)
    for color, rho in zip(shades, targets, strict=False):
        part = departures[departures["sparsity"] == rho]
        mean = part.groupby("times")["share"].sum() / part["seed"].nunique()
        axes[0].plot(mean.index, 100 * mean, "o-", ms=3, color=color, label=percent(rho))
        flow = layers[layers["sparsity"] == rho]
        total = flow.groupby(["seed", "iteration"])[["reactivated", "removed"]].sum()
        share = (total["reactivated"] / total["removed"].where(total["removed"] > 0)).fillna(0)
        mean = share.groupby("iteration").mean()
        axes[1].plot(mean.index, mean, color=color, label=percent(rho))
    axes[0].set_yscale("symlog", linthresh=0.1)
    axes[0].set(xlabel="times a weight had left", ylabel="final weights (%)", title="a  departures")
    axes[0].set_xlim(-0.5, 12.5)
    axes[0].legend()
    axes[1].set(xlabel="iteration t", ylabel="returning / removed", title="b  weights that return")
    highest = layers[layers["sparsity"] == targets[-1]]
    names = list(dict.fromkeys(highest["layer"]))
    for color, name in zip(sns.color_palette("viridis", len(names) + 1), names, strict=False):
        share = highest[highest["layer"] == name].groupby("iteration")["score_share"].mean()
        axes[2].plot(share.index, share, color=color, label=name)
    axes[2].set(
        xlabel="iteration t",
        ylabel="share of the scores",
        title=f"c  layers, {percent(targets[-1])}",
    )
    axes[2].set_ylim(0, 1)
    axes[2].legend()
    return figure


def agreement(table: pd.DataFrame) -> Figure:
    """Notebook 10: overlap of Panning's mask with other methods', beside what chance gives."""
    targets = sorted(table["sparsity"].unique())
    figure, axes = plt.subplots(
        1, len(targets), figsize=(figure_width(), 0.42 * figure_width()), sharey=True, squeeze=False
    )
    order = table[["other", "steps"]].drop_duplicates().itertuples(index=False)
    order = [(other, steps) for other, steps in order]
    for ax, rho in zip(axes[0], targets, strict=True):
        for y, (other, steps) in enumerate(order):
            part = table[
                (table["sparsity"] == rho) & (table["other"] == other) & (table["steps"] == steps)
            ]
            ax.plot(part["overlap"], [y] * len(part), LOOKS[other].marker, color=LOOKS[other].color)
            ax.plot(part["by_layer_densities"].mean(), y, "|", color="0.15", ms=12)
        ax.axvline(1 - rho, color="0.6", ls=":")
        ax.set(title=percent(rho), xlabel="kept by both / kept", xlim=(0, 1), xticks=(0, 0.5, 1))
    axes[0, 0].set_yticks(
        range(len(order)),
        [f"{LOOKS[o].label}, T = {s}" if s > 1 else LOOKS[o].label for o, s in order],
    )
    axes[0, 0].invert_yaxis()
    figure.suptitle(
        "tick: by chance with both masks' layer densities; dotted: by chance", color="0.4"
    )
    return figure


def checks(table: pd.DataFrame, confidence: float) -> Figure:
    """Notebook 10: each method, and each deprived of one thing."""
    targets = sorted(table["sparsity"].unique())
    methods = list(dict.fromkeys(table["method"]))
    methods = [name for name in LOOKS if name in methods]
    figure, axes = plt.subplots(
        *(1, len(targets)),
        figsize=(figure_width(), 0.6 * len(methods) + 1.1),
        sharey=True,
        squeeze=False,
    )
    for ax, rho in zip(axes[0], targets, strict=True):
        for index, (check, (color, marker)) in enumerate(CHECKS.items()):
            for row, method in enumerate(methods):
                part = table[
                    (table["sparsity"] == rho)
                    & (table["method"] == method)
                    & (table["check"] == check)
                ]
                mean, low, high = interval(100 * part["accuracy"], confidence)
                error = None if np.isnan(low) else [[mean - low], [high - mean]]
                y = row + (index - 2.5) * 0.13
                ax.errorbar(
                    mean, y, xerr=error, fmt=marker, color=color, ms=4, linewidth=1,
                    label=check if row == 0 else None,
                )  # fmt: skip
        ax.set(title=percent(rho), xlabel="test accuracy, last epoch (%)", xlim=(0, 100))
    axes[0, 0].set_yticks(range(len(methods)), [LOOKS[name].label for name in methods])
    axes[0, 0].invert_yaxis()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.suptitle(f"bar: {confidence:.0%} t-interval over the seeds", color="0.4")
    return figure


def collapse(table: pd.DataFrame) -> Figure:
    """Notebook 10: the smallest layer, and the effective part of the mask, over compression."""
    figure, axes = plt.subplots(1, 2, figsize=(figure_width(), 0.48 * figure_width()))
    for method in (name for name in LOOKS if name in set(table["method"])):
        look = LOOKS[method]
        mean = table[table["method"] == method].groupby("compression").mean(numeric_only=True)
        for ax, column in zip(axes, ("smallest_layer", "effective_share"), strict=True):
            ax.plot(
                mean.index, mean[column], look.style, color=look.color, marker=look.marker,
                ms=4, label=look.label,
            )  # fmt: skip
    for ax in axes:
        ax.set_xscale("log")
        ax.set_xlabel("compression, N / kept weights")
    axes[0].set_yscale("symlog", linthresh=1)
    axes[0].set(ylabel="weights in the smallest layer", title="a  collapse: a layer at 0")
    axes[0].set_ylim(0, None)
    axes[1].set(ylabel="effective / kept weights", title="b  what is not wasted")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


FORETELLS = {
    "effective_sparsity": "effective sparsity",
    "initial_loss": "loss",
    "initial_grad_norm_sq": "squared gradient norm",
    "jacobian_mean": "Jacobian: mean singular value",
    "jacobian_max": "Jacobian: largest singular value",
}


def foretell(table: pd.DataFrame) -> Figure:
    """Notebook 10: what can be seen before training, and how it ranks the accuracy after it."""
    tasks = list(dict.fromkeys(table["task"]))
    figure, axes = plt.subplots(
        *(1, len(tasks)),
        figsize=(figure_width(), 0.4 * figure_width()),
        width_ratios=[table[table["task"] == t]["sparsity"].nunique() + 1 for t in tasks],
        sharey=True,
        squeeze=False,
    )
    for ax, task in zip(axes[0], tasks, strict=True):
        part = table[table["task"] == task]
        square = part.pivot(index="what", columns="sparsity", values="spearman").loc[
            list(FORETELLS)
        ]
        sns.heatmap(
            square, ax=ax, annot=True, fmt=".1f", vmin=-1, vmax=1, cmap="PuOr_r", cbar=False,
            annot_kws={"fontsize": 7},
        )  # fmt: skip
        ax.set_xticklabels([percent(rho) for rho in square.columns], rotation=60)
        ax.set_yticklabels(FORETELLS.values(), rotation=0)
        ax.set(title=task, xlabel="sparsity", ylabel="")
    figure.suptitle("Spearman's correlation with accuracy, over methods and seeds", color="0.4")
    return figure


def _number(setting: str) -> int:
    """The number in a setting, so that 3 comes before 10; those without one come first."""
    found = re.search(r"\d+", setting)
    return int(found[0]) if found else -1


def choices(table: pd.DataFrame, confidence: float) -> Figure:
    """Notebook 11: each setting minus the reference, in points, at each sparsity."""
    gaps = choice_gaps(table, confidence)
    order = gaps[["study", "setting"]].drop_duplicates().itertuples(index=False, name=None)
    order = sorted(order, key=lambda row: (row[0], _number(row[1])))
    places, labels, starts, y = {}, [], [], 0.0
    for study, setting in order:
        if not starts or starts[-1][1] != study:
            y += 0.6 if starts else 0
            starts.append((y, study))
        places[study, setting] = y
        labels.append("1 batch" if setting == "1 batches" else setting)
        y += 1
    targets = sorted(gaps["sparsity"].unique())
    figure, axes = plt.subplots(
        *(1, len(targets)), figsize=(figure_width(), 0.17 * y + 1), sharey=True, squeeze=False
    )
    for ax, rho in zip(axes[0], targets, strict=True):
        for row in gaps[gaps["sparsity"] == rho].itertuples():
            told = row.low > 0 or row.high < 0
            ax.errorbar(
                row.mean, places[row.study, row.setting],
                xerr=[[row.mean - row.low], [row.high - row.mean]],
                fmt="o", ms=4, linewidth=1, color=LOOKS["panning"].color if told else "0.5",
            )  # fmt: skip
        difference_axis(ax, 3)
        ax.set(title=percent(rho), xlabel="points against the reference")
    axes[0, 0].set_yticks(list(places.values()), labels, fontsize=7)
    axes[0, 0].invert_yaxis()
    for start, study in starts:
        axes[0, -1].text(
            1.02, start, study, transform=axes[0, -1].get_yaxis_transform(), va="center", fontsize=7
        )
    figure.suptitle(
        f"bar: {confidence:.0%} t-interval over seeds; coloured where it leaves out 0", color="0.4"
    )
    return figure
