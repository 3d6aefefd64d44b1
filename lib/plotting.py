"""How figures look, and what several of them share.

A method has one colour and one marker in every figure. The colours are told apart by the
colour-blind too (after Okabe & Ito, and Tol), and the markers do without colour.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from . import config
from .files import whole


class Look(NamedTuple):
    """How a method is written and drawn."""

    label: str
    color: str
    marker: str = "o"
    style: str = "-"


LOOKS = {
    "dense": Look("dense", "#7F7F7F", "", "--"),
    "random": Look("random", "#A6A6A6", "x", ":"),
    "magnitude": Look("magnitude", "#56B4E9", "v", ":"),
    "snip": Look("SNIP", "#0072B2", "s"),
    "grasp": Look("GraSP", "#009E73", "D"),
    "erk": Look("ERK random", "#DDCC77", "+", ":"),
    "panning+shuffled": Look("random at Panning's densities", "#CC6677", "1", ":"),
    "force": Look("FORCE", "#117733", "p", "--"),
    "synflow": Look("SynFlow", "#E69F00", "^"),
    "iterative_snip": Look("iterative SNIP", "#332288", "P", "--"),
    "iterative_fused": Look("iterative, fused (no return)", "#882255", "X", "--"),
    "panning": Look("Panning", "#D55E00", "o"),
    "rlpanning": Look("RLPanning", "#CC79A7", "*"),
}
UNCHANGED = ("hand-made", "Panning")  # how an ablation study calls Panning itself
METRIC_LOOKS = {name: LOOKS[name] for name in ("synflow", "snip", "grasp")} | {
    "fused": LOOKS["panning"]._replace(label="fused")
}


def style(settings: config.Figures | None = None) -> None:
    """Set the look of every figure of this process, and what makes its SVG reproducible.

    Sizes live in matplotlib's own settings, where every function below finds them. Without
    `settings` figures are sized for reading in a notebook.
    """
    sns.set_theme(context="paper", style="whitegrid", palette="colorblind")
    width, font, dpi = (7.0, 9.0, 110)
    if settings is not None:
        width, font, dpi = settings.width, settings.font_size, settings.dpi
    mpl.rcParams.update(
        {
            "figure.figsize": (width, 0.6 * width),
            "figure.dpi": dpi,
            "savefig.dpi": dpi,
            "figure.constrained_layout.use": True,
            "font.size": font,
            "axes.titlesize": font,
            "axes.labelsize": font,
            "figure.titlesize": font,
            "legend.fontsize": font - 1,
            "legend.title_fontsize": font - 1,
            "legend.frameon": False,
            "xtick.labelsize": font - 1,
            "ytick.labelsize": font - 1,
            "svg.hashsalt": "neural-network-panning",
            "svg.fonttype": "none",
        }
    )


def figure_width() -> float:
    """Width of a whole figure, in inches."""
    return mpl.rcParams["figure.figsize"][0]


def save(figure: Figure, name: str) -> list[Path]:
    """Write figures/NAME.svg and .png, without a date, each whole or not at all."""
    written = []
    for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        written.append(config.root() / "figures" / f"{name}.{kind}")
        with whole(written[-1]) as file:
            figure.savefig(file, format=kind, metadata=metadata)
    return written


# --- what several figures share --------------------------------------------------------------


def percent(sparsity: float) -> str:
    """A sparsity as people write it: 0.999 is "99.9 %"."""
    return f"{100 * sparsity:.6g} %"


def density_axis(ax: Axes, sparsities: Iterable[float]) -> None:
    """A sparsity axis on which each decade of density has the same width."""
    ax.set_xscale("log")
    ax.invert_xaxis()
    densities = sorted({round(1 - rho, 9) for rho in sparsities})
    ax.xaxis.set_major_locator(FixedLocator(densities))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda density, _: percent(1 - density)))
    ax.set_xlabel("sparsity")


def difference_axis(ax: Axes, linear: float = 2) -> None:
    """A horizontal axis for differences: linear near 0, logarithmic beyond, plain numbers."""
    ax.axvline(0, color="0.4", linewidth=0.8)
    ax.set_xscale("symlog", linthresh=linear)
    marks = [m for m in (0.1, 0.3, 1, 3, 10, 30, 100) if m >= linear / 3]
    ax.xaxis.set_major_locator(FixedLocator([-m for m in marks[::-1]] + [0, *marks]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def band_curve(ax: Axes, x: np.ndarray, band: pd.DataFrame, look: Look) -> None:
    """Means of percentages over seeds, and their confidence interval as a shade."""
    ax.plot(x, band["mean"], look.style, color=look.color, marker=look.marker, label=look.label)
    low, high = band["low"].clip(0, 100), band["high"].clip(0, 100)
    ax.fill_between(x, low, high, color=look.color, alpha=0.15, linewidth=0)


def shade_note(confidence: float, n: int, what: str = "seeds") -> str:
    """What the shade of `band_curve` is, in words."""
    return f"shade: {confidence:.0%} t-interval of the mean over {n} {what}"
