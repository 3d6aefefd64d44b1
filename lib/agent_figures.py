"""Figures of the environment and of its policies, each from tables alone."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from .plotting import LOOKS, METRIC_LOOKS, figure_width, percent
from .results import summary


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
    agents = [name for name in actions["policy"].unique() if name != "hand-made"]
    shades = sns.blend_palette([LOOKS["rlpanning"].color, "black"], 2 * len(agents))
    colors = dict(zip(agents, shades, strict=False)) | {"hand-made": LOOKS["panning"].color}
    for row, target in enumerate(targets):
        for column, metric in enumerate(("synflow", "snip", "grasp")):
            ax = axes[row, column]
            part = actions[actions["sparsity"] == target]
            for policy, one in part.groupby("policy", sort=False):
                by_hand = policy == "hand-made"
                ax.plot(
                    one["iteration"],
                    one[f"p_{metric}"],
                    color=colors[policy],
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
