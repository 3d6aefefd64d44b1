"""How figures look, and what several of them share.

A method has one colour, one marker and one kind of line in every figure. Colour-blind readers can
tell the colours apart (after Okabe & Ito, and Tol; tested), and the markers work without colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from scipy.optimize import isotonic_regression

from ..data.files import whole
from ..study.statistics import interval, summary

if TYPE_CHECKING:
    from ..study.parameters import Figures


class Look(NamedTuple):
    """How a method is written and drawn."""

    label: str
    color: str
    marker: str = "o"
    style: str = "-"


LOOKS = {
    "dense": Look("dense", "#808080", "", "--"),
    "random": Look("random", "#B4B4B4", "x", ":"),
    "erk": Look("ERK random", "#DDCC77", "+", ":"),
    "panning+shuffled": Look("Panning, shuffled", "#FFB399", "1", ":"),
    "magnitude": Look("magnitude", "#56B4E9", "v", ":"),
    "snip": Look("SNIP", "#0072B2", "s"),
    "grasp": Look("GraSP", "#22BB88", "D"),
    "synflow": Look("SynFlow", "#E69F00", "^"),
    "iterative_snip": Look("iterative SNIP", "#332288", "P", "--"),
    "force": Look("FORCE", "#117733", "p", "--"),
    "iterative_fused": Look("Panning without return", "#7A1F4B", "X", "--"),
    "panning": Look("Panning", "#D55E00", "o"),
    "panning_product": Look("Panning, product", "#4B1EF0", "h", "--"),
    "rlpanning": Look("RLPanning", "#E377C2", "*"),
    "panning_masked": Look("masked product (ours)", "#000000", "d"),
    "panning_select": Look("selection by trial (ours)", "#5A78FF", "<", "--"),
    "trained_magnitude": Look("magnitude after training", "#A0522D", "3", "-."),
    "lottery_ticket": Look("lottery ticket", "#6A0DAD", "4", "-."),
}
FEW = 5  # seeds; up to this many are drawn one by one


def use(settings: Figures | None = None) -> None:
    """Set the look of every figure of this process, and what makes its SVG reproducible.

    Sizes live in matplotlib's own settings, where every function finds them. Without `settings`
    figures are sized for reading in a notebook.
    """
    sns.set_theme(context="paper", style="whitegrid", palette="colorblind")
    width, font, dpi = (7.0, 9.0, 110)
    if settings is not None:
        width, font, dpi = settings.width, settings.font_size, settings.dpi
    small = ("legend.fontsize", "legend.title_fontsize", "xtick.labelsize", "ytick.labelsize")
    large = ("font.size", "axes.titlesize", "axes.labelsize", "figure.titlesize")
    mpl.rcParams.update(dict.fromkeys(small, font - 1) | dict.fromkeys(large, font))
    mpl.rcParams.update(
        {
            "figure.figsize": (width, 0.6 * width),
            "figure.dpi": dpi,
            "savefig.dpi": dpi,
            "figure.constrained_layout.use": True,
            "grid.color": "0.9",
            "axes.edgecolor": "0.8",
            "lines.markersize": 4,
            "lines.linewidth": 1.2,
            "legend.frameon": False,
            "svg.hashsalt": "neural-network-panning",
            "svg.fonttype": "none",
        }
    )


def save(figure: Figure, path: Path | str) -> list[Path]:
    """Write PATH.svg and PATH.png, without a date, each whole or not at all."""
    written = []
    for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        written.append(Path(f"{path}.{kind}"))
        with whole(written[-1]) as file:
            figure.savefig(file, format=kind, metadata=metadata)
    return written


# --- what several figures share -------------------------------------------------------------------


def panels(
    rows: int, columns: int, height: float, width: float = 1.0, **settings: object
) -> tuple[Figure, np.ndarray]:
    """A figure of `rows` x `columns` axes; its size is in widths of a whole figure."""
    whole_width = mpl.rcParams["figure.figsize"][0]
    size = (width * whole_width, height * whole_width)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, **settings)


def named_panels(
    names: Sequence[str], height: float, **settings: object
) -> tuple[Figure, np.ndarray, dict[str, Axes]]:
    """A panel for each name, three in a row; also all axes, those that stay empty hidden."""
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    width = max(0.65, columns / 3)
    figure, axes = panels(rows, columns, height * rows + 0.08, width, **settings)
    for ax, name in zip(axes.flat, [*names, *[""] * (rows * columns - len(names))], strict=True):
        ax.set_title(name)
        ax.set_visible(bool(name))
        ax.locator_params(axis="x", nbins=4)
    return figure, axes, dict(zip(names, axes.flat, strict=False))


def percent(sparsity: float) -> str:
    """A sparsity as people write it: 0.999 is "99.9 %"."""
    return f"{100 * sparsity:.6g} %"


def shades(count: int) -> np.ndarray:
    """Colours for what has an order and no look of its own: layers, seeds, sparsities."""
    return plt.cm.viridis(np.linspace(0, 0.85, count))


def in_order(methods: Iterable[str]) -> list[str]:
    """The methods as all figures list them, the dense network left out."""
    return [name for name in LOOKS if name in set(methods) and name != "dense"]


def note(figure: Figure, text: str) -> None:
    """How to read a figure, above it, in as many lines as it needs."""
    size = mpl.rcParams["legend.fontsize"]
    letters = int(figure.get_figwidth() * 72 / (0.56 * size))
    figure.suptitle("\n".join(textwrap.wrap(text, letters)), color="0.4", fontsize=size)


def seeds_note(table: pd.DataFrame, by: Sequence[str], confidence: float) -> str:
    """What line, dots and shade of `curve` are, in words."""
    counts = table.groupby(list(by)).size()
    text = "line: mean over seeds" if counts.max() > 1 else "one seed"
    text += "; dots: seeds" if counts.max() > 1 and counts.min() <= FEW else ""
    return text + f"; shade: {percent(confidence)} t-interval" * bool(counts.max() > 1)


class _Apart(FixedLocator):
    """Ticks at given places, without those whose labels would overlap another's."""

    def __call__(self) -> Sequence[float]:
        size = self.axis.get_tick_params().get("labelsize", mpl.rcParams["xtick.labelsize"])
        em = mpl.font_manager.FontProperties(size=size).get_size_in_points()
        em *= self.axis.figure.dpi / 72
        x = self.axis.axes.transData.transform([(place, 1) for place in self.locs])[:, 0]
        half = [em * (0.31 * len(self.axis.major.formatter(one)) + 0.2) for one in self.locs]
        # Round densities first, 10 % and 1 %; then from the densest on.
        order = sorted(
            range(len(self.locs)), key=lambda i: (abs(np.log10(self.locs[i])) % 1 > 1e-6, -i)
        )
        kept: list[int] = []
        for i in order:
            if all(abs(x[i] - x[j]) >= half[i] + half[j] for j in kept):
                kept.append(i)
        return [self.locs[i] for i in sorted(kept)]


def density_axis(ax: Axes, sparsities: Iterable[float]) -> None:
    """A sparsity axis on which each decade of density has the same width."""
    densities = sorted({round(1 - rho, 9) for rho in sparsities})
    ax.set_xscale("log")
    ax.set_xlim(densities[-1] * 1.15, densities[0] / 1.15)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda d, _=None: percent(1 - d)[:-2]))
    ax.xaxis.set_minor_locator(FixedLocator(densities))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(_Apart(densities))
    ax.grid(visible=True, which="minor", axis="x")
    ax.set_xlabel("sparsity (%)")


def curve(
    ax: Axes, table: pd.DataFrame, x: str, value: str, look: Look, confidence: float | None = None
) -> None:
    """Mean over seeds; with a confidence also its t-interval in 0..100, and few seeds as dots."""
    mean = table.groupby(x)[value].mean()
    name = {"color": look.color, "marker": look.marker, "label": look.label}
    ax.plot(mean.index, mean, look.style, **name)
    if confidence is None:
        return
    band = summary(table, [x], value, confidence)
    low, high = band["low"].clip(0, 100), band["high"].clip(0, 100)
    ax.fill_between(band[x], low, high, color=look.color, alpha=0.13, linewidth=0)
    few = table[table[x].isin(band.loc[band["n"].between(2, FEW), x])]
    ax.plot(few[x], few[value], ".", color=look.color, alpha=0.5, ms=2.5)


def row(
    ax: Axes, place: float, values: Sequence[float], confidence: float, color: str, marker: str
) -> None:
    """Mean and t-interval of some values at the height `place`, and the values if they are few."""
    mean, low, high = interval(values, confidence)
    ax.plot(mean, place, marker, color=color, ms=5)
    ax.plot([low, high], [place, place], color=color)
    if 1 < len(values) <= FEW:
        ax.plot(values, [place] * len(values), ".", color=color, alpha=0.6)


def label_ends(figure: Figure) -> None:
    """Write each curve's name at its end, where there is no legend, without overlaps.

    A thin line leads from the curve to its name. Curves without a matplotlib label get none.
    """
    figure.get_layout_engine().execute(figure)  # then the heights of the axes are known
    size = mpl.rcParams["legend.fontsize"]
    for ax in figure.axes:
        named = []
        for line in ax.lines:
            at = line.get_transform().transform(line.get_xydata())
            at = at[np.isfinite(at).all(axis=1)]
            if len(at) and not line.get_label().startswith("_"):
                end = ax.transAxes.inverted().transform(at[at[:, 0].argmax()])
                named.append((np.clip(end[1], 0, 1), np.clip(end[0], 0, 1), line))
        named.sort(key=lambda one: one[0])
        if not named or ax.get_legend():
            continue
        # The places nearest to the ends that are a line of text apart: least squares, in order.
        step = 1.25 * size / 72 / (ax.bbox.height / figure.dpi)
        steps = step * np.arange(len(named))
        places = isotonic_regression([end[0] for end in named] - steps).x
        top = 1 - steps[-1]
        places = np.clip(places, min(0, top / 2), max(top, top / 2)) + steps
        for place, (y, x, line) in zip(places, named, strict=True):
            ax.annotate(
                line.get_label(), (x, y), (1.05, place), "axes fraction", va="center",
                color="0.15", fontsize=size, annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": line.get_color(), "lw": 0.7,
                            "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5)},
            )  # fmt: skip


POINTS = SymLogNorm(1, vmin=-100, vmax=100, base=10)  # the colour of a difference, in points


def signed(mean: float, low: float, high: float) -> str:
    """A difference for a heat map, with a star if its interval excludes 0."""
    digits = 0 if abs(mean) >= 9.95 else 1
    text = f"{round(mean, digits) + 0.0:+.{digits}f}".replace("-", "−")
    return text + "*" * bool(low > 0 or high < 0)


Cells = Mapping[tuple[Hashable, Hashable], tuple[float, str]]


def heat(
    ax: Axes, rows: Sequence, columns: Sequence, cells: Cells,
    norm: Normalize = POINTS, cmap: str = "PuOr_r",
) -> None:  # fmt: skip
    """A heat map of (row, column): (value, text); what is missing stays white."""
    values = np.full((len(rows), len(columns)), np.nan)
    places = {(r, c): (i, j) for i, r in enumerate(rows) for j, c in enumerate(columns)}
    for cell, (value, _) in cells.items():
        values[places[cell]] = value
    image = ax.imshow(np.ma.masked_invalid(values), norm=norm, cmap=cmap, aspect="auto")
    colors = image.cmap(image.norm(image.get_array()))
    dark = (colors[..., :3] @ (0.21, 0.72, 0.07) < 0.45) & (colors[..., 3] > 0)
    size = mpl.rcParams["legend.fontsize"] - 1
    for cell, (_, text) in cells.items():
        i, j = places[cell]
        color = "w" if dark[i, j] else "0.1"
        ax.text(j, i, text, ha="center", va="center", fontsize=size, color=color)
    ax.set_xticks(range(len(columns)))
    ax.set_yticks(range(len(rows)), [LOOKS[r].label if r in LOOKS else r for r in rows])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def symlog(axis: mpl.axis.Axis, linear: float) -> None:
    """A logarithmic axis that holds 0 and both signs: linear below the decade of `linear`."""
    set_scale = axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale
    first = np.floor(np.log10(linear))
    set_scale("symlog", linthresh=10**first)
    ticks = [10 ** (first + decade) for decade in range(12)]
    axis.set_major_locator(FixedLocator([-tick for tick in ticks] + [0, *ticks]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}".replace("-", "−")))
