"""The figures of claim B, from the tables of the full study alone: agents, reward and transfer."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .analysis import P, learning_gaps, proportions
from .plotting import LOOKS, difference_axis, figure_width, percent
from .results import interval

TERMS = ("synflow", "snip", "grasp")


def learning(returns: pd.DataFrame, names: Sequence[str], confidence: float) -> Figure:
    """Notebook 07: what each way to train an agent, in this order, earns beside the best constant.

    The bar says how far agents agree on these networks; of other networks speaks the table of
    statements, which knows their spread.
    """
    gaps = learning_gaps(returns)
    figure, ax = plt.subplots(figsize=(0.85 * figure_width(), 0.38 * len(names) + 1.1))
    shown = {
        "hand-made": (LOOKS["panning"].color, "o"),
        "SynFlow alone": (LOOKS["synflow"].color, "^"),
        "random": (LOOKS["random"].color, "x"),
    }
    for y, name in enumerate(names):
        part = gaps[gaps["settings"] == name].groupby("policy")["gap"].mean()
        learned = part[part.index.str.startswith("agent")]
        mean, low, high = interval(learned, confidence)
        error = None if np.isnan(low) else [[mean - low], [high - mean]]
        ax.errorbar(mean, y, xerr=error, color=LOOKS["rlpanning"].color, fmt="none", linewidth=1)
        ax.plot(
            learned, [y] * len(learned), LOOKS["rlpanning"].marker, color=LOOKS["rlpanning"].color
        )
        for other, (color, marker) in shown.items():
            ax.plot(part[other], y, marker, color=color, fillstyle="none")
    difference_axis(ax, 0.2)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(
        xlabel="return minus that of the best constant p, in the same environment",
        title=f"bar: {confidence:.0%} t-interval over agents",
    )
    handles = [
        plt.Line2D([], [], ls="", marker="*", color=LOOKS["rlpanning"].color, label="an agent")
    ]
    handles += [
        plt.Line2D([], [], ls="", marker=m, color=c, fillstyle="none", label=name)
        for name, (c, m) in shown.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def reward(table: pd.DataFrame, correlations: pd.DataFrame) -> Figure:
    """Notebook 07: return against trained accuracy, and what goes along with the accuracy."""
    targets = sorted(table["sparsity"].unique())
    figure = plt.figure(figsize=(figure_width(), 0.9 * figure_width()))
    grid = figure.add_gridspec(2, len(targets), height_ratios=(1, 1.9))
    for column, rho in enumerate(targets):
        ax = figure.add_subplot(grid[0, column])
        part = table[table["sparsity"] == rho]
        ax.plot(part["return"], 100 * part["accuracy"], ".", color="0.3", alpha=0.4, ms=3)
        ax.set(xlabel="return of the paper", title=f"{percent(rho)}, a policy each")
        if column == 0:
            ax.set_ylabel("test accuracy (%)")
    ax = figure.add_subplot(grid[1, :])
    part = correlations.sort_values("mean")
    colors = [
        LOOKS["panning"].color
        if name == "return of the paper"
        else "#004488"
        if "steps" in name
        else "0.6"
        for name in part["what"]
    ]
    ax.barh(part["what"], part["mean"], color=colors)
    ax.plot(part["smallest"], part["what"], "|", color="0.1", ms=8)
    ax.axvline(0, color="0.4", linewidth=0.8)
    ax.set(xlabel="rank correlation with accuracy; tick: the smallest over targets")
    return figure


def transfer(gaps: pd.DataFrame, targets: Sequence[str], confidence: float) -> Figure:
    """Notebook 09: agents minus opponents on each target, in return and in accuracy."""
    opponents = {
        "hand-made": (LOOKS["panning"].color, "o"),
        "SynFlow alone": (LOOKS["synflow"].color, "^"),
        "best constant": ("#44AA99", "s"),
        "random": (LOOKS["random"].color, "x"),
    }
    figure, axes = plt.subplots(
        1, 2, figsize=(figure_width(), 0.42 * len(targets) + 1.2), sharey=True
    )
    own = gaps[gaps["kind"] == "agent"]
    for ax, value in zip(axes, ("return", "accuracy"), strict=True):
        for index, (name, (color, marker)) in enumerate(opponents.items()):
            for row, target in enumerate(targets):
                part = own[(own["target"] == target) & (own["opponent"] == name)]
                values = part.groupby("agent")[value].mean()
                y = row + (index - 1.5) * 0.2
                mean, low, high = interval(values, confidence)
                ax.plot(values, [y] * len(values), ".", color=color, alpha=0.4, ms=3)
                error = None if np.isnan(low) else [[mean - low], [high - mean]]
                ax.errorbar(mean, y, xerr=error, fmt=marker, color=color, ms=4, linewidth=1)
        difference_axis(ax, 1)
    axes[0].set_yticks(range(len(targets)), targets)
    axes[0].invert_yaxis()
    axes[0].set(xlabel="return: agent minus opponent", title="reward")
    axes[1].set(xlabel="accuracy: agent minus opponent (points)", title="after training")
    handles = [
        plt.Line2D([], [], ls="", marker=m, color=c, label=name)
        for name, (c, m) in opponents.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    figure.suptitle(
        f"small dot: an agent; bar: {confidence:.0%} t-interval over agents", color="0.4"
    )
    return figure


def learned_policy(actions: pd.DataFrame) -> Figure:
    """Notebook 09: the proportions of p over iteration and target, mean over agents."""
    actions = proportions(actions)
    kinds = {"hand-made": "hand-made", "agent": "agents", "trainability": "agents, trainability"}
    kinds = {k: v for k, v in kinds.items() if actions["policy"].str.startswith(k).any()}
    figure, axes = plt.subplots(
        *(len(kinds), 3),
        figsize=(figure_width(), 1.25 * len(kinds) + 0.6),
        sharex=True,
        squeeze=False,
    )
    for row, (prefix, label) in zip(axes, kinds.items(), strict=True):
        row[0].set_ylabel(f"{label}\nsparsity in the end")
        part = actions[actions["policy"].str.startswith(prefix)]
        for ax, name in zip(row, P, strict=True):
            square = part.pivot_table(index="final_target", columns="iteration", values=name)
            image = ax.imshow(square, aspect="auto", vmin=0, vmax=1, cmap="viridis")
            ax.set_yticks(range(len(square)), [percent(rho) for rho in square.index])
            ax.grid(visible=False)
    for top, bottom, metric in zip(axes[0], axes[-1], TERMS, strict=True):
        top.set_title(f"share of {LOOKS[metric].label}")
        bottom.set_xlabel("iteration t")
    figure.colorbar(image, ax=axes, shrink=0.7, label=r"$p_i / \sum p$")
    return figure
