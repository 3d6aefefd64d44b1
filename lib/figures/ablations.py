"""The figures of notebook 04: one thing changed at a time, and masks deprived of one thing."""

import re

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..study.analysis import choice_gaps
from ..study.statistics import paired
from . import style
from .style import LOOKS

CHECKS = {  # by the names of study/checks.py
    "unchanged": "unchanged",
    "shuffled": "shuffled\nin layers",
    "reinitialised": "new initial\nweights",
    "inverted": "lowest\nscores kept",
    "pixels": "pixels\nshuffled",
    "labels": "labels\nshuffled",
}


def _number(setting: str) -> int:
    """The number in a setting, so that 3 comes before 10; those without one come first."""
    found = re.search(r"\d+", setting)
    return int(found[0]) if found else -1


def ablations(table: pd.DataFrame, confidence: float) -> Figure:
    """Each setting minus the reference, in points, paired by seed, at each sparsity."""
    gaps = choice_gaps(table, confidence)
    key = ["sparsity", "seed"]
    reference = table[table["study"] == "reference"].set_index(key)["accuracy"]
    order = gaps[["study", "setting"]].drop_duplicates().itertuples(index=False, name=None)
    lines: list[tuple[str, str]] = []
    for study, setting in sorted(order, key=lambda one: (one[0], _number(one[1]))):
        if (study, "") not in lines:
            lines.append((study, ""))  # the heading of its settings
        lines.append((study, setting))
    targets = sorted(gaps["sparsity"].unique())
    figure, axes = style.panels(1, len(targets), 0.0245 * len(lines) + 0.13, sharey=True)
    for ax, rho in zip(axes[0], targets, strict=True):
        style.symlog(ax.xaxis, 1)
        for gap in gaps[gaps["sparsity"] == rho].itertuples():
            same = (table["study"] == gap.study) & (table["setting"] == gap.setting)
            own = table[same & (table["sparsity"] == rho)].set_index(key)["accuracy"]
            told = gap.low > 0 or gap.high < 0
            style.row(
                ax, lines.index((gap.study, gap.setting)), 100 * (own - reference).dropna(),
                confidence, LOOKS["panning"].color if told else "0.5", "o",
            )  # fmt: skip
        ax.axvline(0, color="0.4", lw=0.8)
        ax.set(title=style.percent(rho), xlabel="points against Panning unchanged")
        ax.grid(visible=False, axis="y")
    ticks = axes[0, 0].set_yticks(range(len(lines)), [setting or study for study, setting in lines])
    for tick, (_, setting) in zip(ticks, lines, strict=True):
        tick.label1.set_fontweight("normal" if setting else "bold")
    axes[0, 0].set_ylim(len(lines) - 0.4, -0.6)
    style.note(
        figure,
        f"dots: seeds; bar: {style.percent(confidence)} t-interval, coloured where it leaves out 0",
    )
    return figure


def checks(table: pd.DataFrame, confidence: float) -> Figure:
    """The accuracy of each method, and its change in points when deprived of one thing."""
    table = table.assign(accuracy=100 * table["accuracy"])
    targets = sorted(table["sparsity"].unique())
    methods = style.in_order(table["method"])
    names = [name for name in CHECKS if name in set(table["check"])]
    figure, axes = style.panels(
        len(targets), 1, len(targets) * (0.034 * len(methods) + 0.04) + 0.08, 0.9, sharex=True
    )
    for ax, rho in zip(axes[:, 0], targets, strict=True):
        cells: dict[tuple[str, str], tuple[float, str]] = {}
        for method, part in table[table["sparsity"] == rho].groupby("method"):
            for name in (name for name in names if name in set(part["check"])):
                if name == "unchanged":
                    accuracy = part.loc[part["check"] == name, "accuracy"].mean()
                    cells[method, name] = np.nan, f"{accuracy:.1f} %"
                    continue
                by = (["sparsity"], "accuracy", confidence)
                for gap in paired(part, "check", name, "unchanged", *by).itertuples():
                    cells[method, name] = gap.mean, style.signed(gap.mean, gap.low, gap.high)
        style.heat(ax, methods, names, cells)
        ax.set_title(style.percent(rho))
    axes[-1, 0].set_xticks(range(len(names)), [CHECKS[name] for name in names])
    text = "test accuracy, and points against it when one thing is taken away"
    style.note(figure, f"{text}; *: the paired {style.percent(confidence)} t-interval leaves out 0")
    return figure
