"""The figures of notebook 07: candidates for a fixed fusion, and agents that choose one."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ..study.analysis import choosers as compared
from ..study.analysis import standing
from . import style
from .style import LOOKS


def development(table: pd.DataFrame, candidates: list[str]) -> Figure:
    """Mean accuracy over the sparsities of each task, the best candidate on top, then the rivals.

    Args:
        table: The development table.
        candidates: The names of its methods that are no rivals.
    """
    rivals = [name for name in table["method"].unique() if name not in candidates]
    order = [name for name in standing(table, rivals)["method"] if name in candidates]
    partial = [name for name in candidates if name not in order]  # not in every task
    lines = [*order, *partial, *style.in_order(rivals)]
    tasks = list(table["task"].unique())
    figure, axes = style.panels(1, len(tasks), 0.026 * len(lines) + 0.12, sharey=True)
    for ax, task in zip(axes[0], tasks, strict=True):
        here = table[table["task"] == task]
        seeds = here.groupby(["method", "seed"])["accuracy"].mean().mul(100).reset_index()
        for name in seeds["method"].unique():
            look = LOOKS["panning_masked" if name in candidates else name]
            values = seeds.loc[seeds["method"] == name, "accuracy"]
            ax.plot(values.mean(), lines.index(name), look.marker, color=look.color, ms=5)
            ax.plot(values, [lines.index(name)] * len(values), ".", color=look.color, alpha=0.6)
        best = seeds[seeds["method"].isin(rivals)].groupby("method")["accuracy"].mean().max()
        ax.axvline(best, color="0.6", lw=0.8, ls="--")
        ax.set(title=task.replace(" on ", "\non "), xlabel="accuracy (%)")
        ax.grid(visible=False, axis="y")
    names = [LOOKS[name].label if name in rivals else name for name in lines]
    axes[0, 0].set_yticks(range(len(lines)), names)
    axes[0, 0].set_ylim(len(lines) - 0.4, -0.6)
    style.note(
        figure,
        "accuracy on held-out training images, mean over sparsities; small dots: seeds; dashed: "
        "the best rival. Candidates: exponents of SynFlow, SNIP and GraSP in the product, and when "
        "removed weights may return",
    )
    return figure


SEARCH = style.Look("search", "#555555", "P")


def foretold(pairs: pd.DataFrame, best: int = 4) -> Figure:
    """What foretells the accuracy of a policy's networks, alone and with the best companions.

    Args:
        pairs: See `analysis.reward_pairs`.
        best: How many pairs to show.
    """
    alone = pairs[pairs["first"] == pairs["second"]]
    two = pairs[pairs["first"] != pairs["second"]].head(best)
    shown = pd.concat([alone, two])
    names = [*alone["first"], *(two["first"] + " and " + two["second"])]
    names = [name.replace("-", "−").replace("L_s", "Lₛ") for name in names]
    places = list(pairs.columns.drop(["first", "second", "smallest"]))
    cells = {
        (name, place): (row[place], f"{row[place]:+.2f}".replace("-", "−"))
        for name, (_, row) in zip(names, shown.iterrows(), strict=True)
        for place in places
    }
    figure, ((ax,),) = style.panels(1, 1, 0.032 * len(names) + 0.12)
    style.heat(ax, names, places, cells, Normalize(-1, 1))
    labels = [textwrap.fill(place.replace(",", ""), 8) for place in places]
    ax.set_xticks(range(len(places)), labels, fontsize=mpl.rcParams["legend.fontsize"] - 1)
    style.note(figure, "rank correlation with the accuracy of random policies' networks")
    return figure


def choosers(
    table: pd.DataFrame,
    groups: Mapping[str, Sequence[str]],
    reference: str,
    confidence: float,
) -> Figure:
    """Accuracy of each policy's networks minus that of the reference, task by task.

    The arguments are those of `analysis.choosers`; a group's policies are dots.
    """
    found = compared(table, groups, reference, confidence)
    tasks = list(dict.fromkeys(found["task"]))
    lines = sorted(dict.fromkeys(found["policy"]), key=lambda name: name in LOOKS)  # rivals last
    figure, axes = style.panels(1, len(tasks), 0.034 * len(lines) + 0.16, sharey=True)
    for ax, task in zip(axes[0], tasks, strict=True):
        mean = 100 * table[table["task"] == task].groupby("policy")["accuracy"].mean()
        for row in found[found["task"] == task].itertuples():
            y, several = lines.index(row.policy), row.policy in groups
            learned = several and not row.policy.startswith("random")
            look = LOOKS["rlpanning"] if learned else LOOKS.get(row.policy, LOOKS["random"])
            look = SEARCH if row.policy.startswith("search") else look
            ax.plot(row.difference, y, look.marker, color=look.color, ms=5)
            ax.plot([row.low, row.high], [y, y], color=look.color)
            if several:
                own = mean[[each for each in groups[row.policy] if each in mean]] - mean[reference]
                ax.plot(own, [y] * len(own), ".", color=look.color, alpha=0.6)
        ax.axvline(0, color="0.4", lw=0.8)
        reach = max(2.0, 2.5 * found.loc[found["task"] == task, "difference"].abs().max())
        ax.set(title=task.replace(" on ", "\non "), xlim=(-reach, reach))
        ax.grid(visible=False, axis="y")
    labels = [LOOKS[name].label if name in LOOKS else name for name in lines]
    axes[0, 0].set_yticks(range(len(lines)), labels)
    axes[0, 0].set_ylim(len(lines) - 0.4, -0.6)
    size = mpl.rcParams["axes.labelsize"]
    figure.supxlabel(f"accuracy minus that of {reference}, points", fontsize=size)
    style.note(
        figure,
        "test images, mean over sparsities; stars: agents, x: random policies, plus: searches; "
        f"dots: each of several; bar: {style.percent(confidence)} t-interval over networks, "
        "and over policies where there are several, cut off at the edge",
    )
    return figure


def progress(evaluations: pd.DataFrame) -> Figure:
    """Greedy evaluations while agents learn: the mean return over the targets, a line an agent."""
    names = list(dict.fromkeys(evaluations["learner"]))
    figure, axes, panel = style.named_panels(names, 0.27)
    for name, ax in panel.items():
        runs = evaluations[evaluations["learner"] == name].groupby("seed")
        for color, (_, part) in zip(style.shades(len(runs)), runs, strict=True):
            mean = part.groupby("step")["return"].mean()
            ax.plot(mean.index, mean, ".-", color=color)
        ax.xaxis.set_major_formatter("{x:,g}")
    for ax in axes[:, 0]:
        ax.set_ylabel("return")
    figure.supxlabel("environment steps", fontsize=mpl.rcParams["axes.labelsize"])
    style.note(figure, "without exploration, on a network that no agent prunes; each reward has its"
                       " own axis")  # fmt: skip
    return figure
