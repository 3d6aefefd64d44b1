"""The figures of notebook 03: the environment, its agents, the reward, and the transfer."""

from collections.abc import Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from ..study.analysis import P, learning_gaps, proportions
from ..study.statistics import interval
from . import style
from .style import LOOKS

SHORT = {
    "SynFlow alone": "SynFlow\nalone",
    "hand-made": "hand-\nmade",
    "best constant": "best\nconst.",
    "native agent": "own\nagent",
}
OTHERS = {"SynFlow alone": "synflow", "hand-made": "panning", "random": "random"}


def overview() -> Figure:
    """RLPanning at a glance; the agent on the left, the environment on the right."""
    figure, ((ax,),) = style.panels(1, 1, 0.4)
    ax.set(xlim=(0, 100), ylim=(0, 40))
    ax.axis("off")
    small = mpl.rcParams["legend.fontsize"]

    def box(x: float, y: float, width: float, height: float, text: str, color: str) -> None:
        shape = "round,pad=0.2,rounding_size=1.2"
        ax.add_patch(
            FancyBboxPatch((x, y), width, height, boxstyle=shape, fc=color, ec="0.3", lw=0.8)
        )
        ax.text(x + width / 2, y + height / 2, text, ha="center", va="center")

    def arrow(start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
        ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color="0.25"))
        middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.6
        ax.text(*middle, text, ha="center", va="bottom", fontsize=small)

    box(1, 3, 25, 34, "", "#F8EDF3")
    ax.text(13.5, 34, "agent: TD3", ha="center", weight="bold")
    box(4, 21, 19, 9, "actor\n7 → 256 → 256 → 3", "white")
    box(4, 6, 19, 9, "two critics\nreplay buffer", "white")
    arrow((13.5, 15.4), (13.5, 20.6))
    box(46, 3, 53, 34, "", "#FBEFE6")
    ax.text(72.5, 34, "environment: one iteration of Panning", ha="center", weight="bold")
    box(48, 20, 14, 10, "three scores\nof every\nweight", "white")
    box(66, 20, 13, 10, "$S=\\sum p_i Z(s_i)$", "white")
    box(83, 20, 14, 10, "keep the top\n$N(1-\\rho_t)$ of all", "white")
    masked = "sparse network:\n$L_s$, $\\Delta L_s$, effective sparsity $\\rho_e$"
    box(66, 6, 31, 8, masked, "white")
    for start, end in (((62.4, 25), (65.6, 25)), ((79.4, 25), (82.6, 25)), ((90, 19.6), (90, 14.6)),
                       ((65.6, 10), (55, 19.6))):  # fmt: skip
        arrow(start, end)
    ax.text(48, 10, "removed\nweights\ncompete again", va="center", fontsize=small)
    arrow((26.4, 26), (45.6, 26), "action $a$:\nthree weights $p_i$")
    arrow((45.6, 15), (26.4, 15), "state $s_t$: 7 numbers")
    arrow((45.6, 7), (26.4, 7), "reward $R_t$")
    return figure


def learning(returns: pd.DataFrame, variants: Sequence[str], confidence: float) -> Figure:
    """What agents earn beside the best constant p, for each way to train them.

    The bar says how far agents agree on these networks, and nothing about other networks.
    """
    gaps = learning_gaps(returns)
    figure, axes, panel = style.named_panels(variants, 0.17, sharey=True)
    for name, ax in panel.items():
        part = gaps[gaps["settings"] == name].groupby("policy")["gap"].mean()
        agents = part[part.index.str.startswith("agent")]
        look = LOOKS["rlpanning"]
        if len(agents):
            style.row(ax, 0, agents, confidence, look.color, look.marker)
        for y, (other, method) in enumerate(OTHERS.items(), start=1):
            if other in part.index:
                ax.plot(part[other], y, LOOKS[method].marker, color=LOOKS[method].color)
        ax.axvline(0, color="0.4", lw=0.8)
    axes[0, 0].set_yticks(range(len(OTHERS) + 1), ["agents", *OTHERS])
    axes[0, 0].set_ylim(len(OTHERS) + 0.5, -0.5)
    figure.supxlabel("return minus the best constant p's, same environment",
                     fontsize=mpl.rcParams["axes.labelsize"])  # fmt: skip
    bar = f"star: mean of the agents; dots: agents; bar: {style.percent(confidence)} t-interval"
    style.note(figure, f"{bar}; each panel has its own reward and its own axis")
    return figure


def learning_curve(episodes: pd.DataFrame, window: int = 20) -> Figure:
    """The return of the training episodes, which differ by their targets."""
    names = list(dict.fromkeys(episodes["settings"]))
    figure, axes, panel = style.named_panels(names, 0.27)
    for name, ax in panel.items():
        runs = episodes[episodes["settings"] == name].groupby("seed")
        for color, (_, part) in zip(style.shades(len(runs)), runs, strict=True):
            ax.plot(part["step"], part["return"], ".", color=color, alpha=0.2, ms=2)
            smooth = part["return"].rolling(window, min_periods=1).mean()
            ax.plot(part["step"], smooth, color=color)
        ax.xaxis.set_major_formatter("{x:,g}")
    for ax in axes[:, 0]:
        ax.set_ylabel("return")
    figure.supxlabel("environment steps", fontsize=mpl.rcParams["axes.labelsize"])
    style.note(figure, f"dot: an episode; line: mean of the last {window}, an agent each")
    return figure


def reward(table: pd.DataFrame, correlations: pd.DataFrame) -> Figure:
    """Return against trained accuracy, and what correlates with the accuracy."""
    targets = sorted(table["sparsity"].unique())
    width = mpl.rcParams["figure.figsize"][0]
    height = 0.37 + 0.03 * len(correlations)
    figure = plt.figure(figsize=(width, height * width))
    grid = figure.add_gridspec(2, len(targets), height_ratios=(0.27, height - 0.27))
    for column, rho in enumerate(targets):
        ax = figure.add_subplot(grid[0, column])
        part = table[table["sparsity"] == rho]
        ax.plot(part["return"], 100 * part["accuracy"], ".", color="0.3", alpha=0.4, ms=3)
        ax.locator_params(axis="x", nbins=4)
        ax.set(xlabel="return of the paper", title=style.percent(rho))
        ax.set_ylabel("test accuracy (%)" if column == 0 else "")
    ax = figure.add_subplot(grid[1, :])
    part = correlations.sort_values("mean")
    for y, one in enumerate(part.itertuples()):
        paper, trained = one.what == "return of the paper", "steps" in one.what
        color = LOOKS["panning"].color if paper else LOOKS["snip"].color if trained else "0.5"
        ax.plot([one.smallest, one.mean], [y, y], color=color)
        ax.plot(one.mean, y, "o", color=color)
    labels = [what.replace("-", "−").replace("L_s", "Lₛ") for what in part["what"]]
    ax.set_yticks(range(len(part)), labels)
    ax.axvline(0, color="0.4", lw=0.8)
    ax.set_ylim(-0.7, len(part) - 0.3)
    ax.set(xlabel="rank correlation with the accuracy after training", xlim=(-1, 1))
    style.note(
        figure,
        "above, dot: a policy; below, dot: mean correlation, line: to the smallest of all groups;"
        " orange: the paper's reward, blue: what needs some steps of training",
    )
    return figure


def transfer(gaps: pd.DataFrame, targets: Sequence[str], confidence: float) -> Figure:
    """Claim B: agents minus opponents on each target, in return and in accuracy."""
    shown = {
        "return": ("agent", "return"),
        "accuracy, points": ("agent", "accuracy"),
        "accuracy, points;\nagents trained for trainability": ("trainability", "accuracy"),
    }
    shown = {title: one for title, one in shown.items() if one[0] in set(gaps["kind"])}
    opponents = [name for name in dict.fromkeys([*OTHERS, *gaps["opponent"]])
                 if name in set(gaps["opponent"])]  # fmt: skip
    figure, axes = style.panels(1, len(shown), 0.036 * len(targets) + 0.16, sharey=True)
    for ax, (title, (kind, value)) in zip(axes[0], shown.items(), strict=True):
        own = gaps[(gaps["kind"] == kind) & gaps["target"].isin(targets)]
        cells = {}
        for cell, part in own.groupby(["target", "opponent"]):
            found = interval(part.groupby("agent")[value].mean(), confidence)
            cells[cell] = found[0], style.signed(*found)
        style.heat(ax, targets, opponents, cells)
        ax.set_xticks(range(len(opponents)), [SHORT.get(name, name) for name in opponents])
        ax.tick_params(axis="x", labelsize=mpl.rcParams["legend.fontsize"] - 1)
        ax.set_title(title)
    style.note(
        figure,
        "agents minus each opponent, mean over agents and networks; *: the"
        f" {style.percent(confidence)} t-interval over agents leaves out 0",
    )
    return figure


def learned_policy(actions: pd.DataFrame) -> Figure:
    """The proportions of p over iteration and target, mean over agents."""
    actions = proportions(actions)
    kinds = {"hand-made": "hand-made", "agent": "agents", "trainability": "agents, trainability"}
    kinds = {k: v for k, v in kinds.items() if actions["policy"].str.startswith(k).any()}
    figure, axes = style.panels(len(kinds), 3, 0.17 * len(kinds) + 0.09, sharex=True)
    for row, (prefix, label) in zip(axes, kinds.items(), strict=True):
        row[0].set_ylabel(f"{label}\nsparsity (%)")
        part = actions[actions["policy"].str.startswith(prefix)]
        for ax, name in zip(row, P, strict=True):
            square = part.pivot_table(index="sparsity", columns="iteration", values=name)
            last = square.columns.max()
            image = ax.imshow(
                square, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest",
                extent=(0.5, last + 0.5, len(square) - 0.5, -0.5),
            )  # fmt: skip
            names = [style.percent(rho)[:-2] for rho in square.index]
            ax.set_yticks(range(len(square)), names if ax is row[0] else [])
            ax.grid(visible=False)
    for top, bottom, name in zip(axes[0], axes[-1], P, strict=True):
        top.set_title(f"share of {LOOKS[name.removeprefix('p_')].label}")
        bottom.set_xlabel("iteration t")
    figure.colorbar(image, ax=axes, shrink=0.7, label=r"$p_i / \sum p$")
    return figure
