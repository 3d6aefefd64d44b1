"""The figure of notebook 07: candidates for a fixed fusion, and their rivals."""

import pandas as pd
from matplotlib.figure import Figure

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
