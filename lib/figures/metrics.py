"""The figure of notebook 01: what the metrics say about a fresh network."""

import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from . import style
from .style import LOOKS

METRICS = {name: LOOKS[name] for name in ("synflow", "snip", "grasp")} | {
    "fused": LOOKS["panning"]._replace(label="fused")
}


def metrics_overview(
    scores: pd.DataFrame, correlation: pd.DataFrame, overlap: pd.DataFrame, densities: pd.DataFrame
) -> Figure:
    """Distributions, rank correlation, overlap of masks, and the density of each layer."""
    figure, ((a, b), (c, d)) = style.panels(2, 2, 0.72)
    for name, part in scores.groupby("metric", sort=False):
        look = METRICS[name]
        a.plot(part["log10_z"], part["fraction"], color=look.color, label=look.label)
    a.set(xlabel=r"$\log_{10} Z$ of a weight", ylabel="fraction of weights", title="a  scores")
    a.legend()
    names = [name for name in METRICS if name in set(correlation["first"])]
    cells = {(row.first, row.second): (row.spearman, f"{row.spearman:.2f}")
             for row in correlation.itertuples()}  # fmt: skip
    style.heat(b, names, names, cells, Normalize(-1, 1))
    labels = [METRICS[name].label for name in names]
    b.set(xticks=range(len(names)), xticklabels=labels, yticklabels=labels)
    b.set_title("b  rank correlation of Z")
    pairs = overlap.groupby(["first", "second"], sort=False)
    for ((first, second), part), marker, grey in zip(pairs, "osD^vP", "135246", strict=False):
        c.plot(
            1 - part["sparsity"], 100 * part["overlap"], marker=marker, color=f"0.{grey}",
            label=f"{METRICS[first].label}, {METRICS[second].label}",
        )  # fmt: skip
    by_chance = 1 - overlap["sparsity"].drop_duplicates()
    c.plot(by_chance, 100 * by_chance, ":", color="0.6", label="by chance")
    style.density_axis(c, overlap["sparsity"])
    c.set(ylabel="kept by both (% of kept)", title="c  overlap of the masks", ylim=(0, 100))
    highest = densities["sparsity"].max()
    for name, part in densities[densities["sparsity"] == highest].groupby("metric", sort=False):
        look = METRICS[name]
        d.plot(
            *(part["layer"], 100 * part["density"], look.style),
            color=look.color, marker=look.marker, label=look.label,
        )  # fmt: skip
    # A layer that a metric leaves empty has no place on a logarithmic axis: linear near 0.
    positive = densities["density"][densities["density"] > 0]
    style.symlog(d.yaxis, 100 * positive.min() if len(positive) else 1)
    d.set(ylim=(0, None), ylabel="weights kept (%)", title=f"d  layers, {style.percent(highest)}")
    style.label_ends(figure)
    return figure
