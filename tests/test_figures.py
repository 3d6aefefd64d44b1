"""Figures show what their tables hold, at any size of study, and are the same bytes twice."""

import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from lib.figures import ablations, agents, beyond, metrics, panning, speed, style
from lib.figures.style import LOOKS
from lib.methods import METHODS
from lib.study import analysis, checks

CONFIDENCE = 0.95


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    mpl.use("agg")
    style.use(SimpleNamespace(width=7.0, font_size=9, dpi=50))
    yield
    plt.close("all")


# --- a study of any size --------------------------------------------------------------------------


class Study:
    """Made-up tables: a full study, or one with a single seed, two methods and dead networks."""

    def __init__(self, tiny: bool) -> None:
        self.tiny = tiny
        self.seeds = range(1 if tiny else 3)
        self.tasks = {"LeNet-300-100": (0.9, 0.98)}
        self.methods = ("snip", "panning")
        if not tiny:
            self.tasks = {"LeNet-300-100": (0.9, 0.98, 0.99, 0.999), "ResNet-20": (0.9, 0.98)}
            self.methods = tuple(name for name in LOOKS if name != "dense")
        self.targets = ("as trained",) if tiny else ("as trained", "width 2", "LeNet-5")
        self.layers = ("fc1", "fc2")
        self.random = np.random.default_rng(0)

    def table(self, **columns: object) -> pd.DataFrame:
        return pd.DataFrame(itertools.product(*columns.values()), columns=list(columns))

    def drawn(self, table: pd.DataFrame, **ranges: tuple[float, float]) -> pd.DataFrame:
        """Uniform random columns; the lower end in a tiny study, where nothing was learned."""
        for name, (low, high) in ranges.items():
            table[name] = low if self.tiny else self.random.uniform(low, high, len(table))
        return table

    def comparison(self) -> pd.DataFrame:
        parts = []
        for task, sparsities in self.tasks.items():
            one = self.table(task=[task], method=self.methods, sparsity=sparsities, seed=self.seeds)
            dense = self.table(task=[task], method=["dense"], sparsity=[0.0], seed=self.seeds)
            parts += [self.drawn(one, accuracy=(0.1, 0.95)), dense.assign(accuracy=0.97)]
        table = pd.concat(parts, ignore_index=True)
        table["sparsity_reached"] = table["sparsity"]
        dead = (table["method"] == "snip") & (table["sparsity"] > 0.95)
        half = 1 - (1 - table["sparsity"]) / 2
        return table.assign(effective_sparsity=half.where(~dead, 1.0))

    def moment(self) -> list[dict[str, np.ndarray]]:
        sizes = {"fc1.weight": (300, 784), "fc2.weight": (100, 300), "fc3.weight": (10, 100)}
        draw = np.random.default_rng(0).random
        return [{name: draw(size) < 0.1 for name, size in sizes.items()} for _ in range(2)]

    def motion(self) -> pd.DataFrame:
        table = self.table(iteration=(1, 3, 6), row=range(4), column=range(5))
        return table.assign(kept=0 if self.tiny else 7 - table["iteration"])

    def flow_layers(self) -> pd.DataFrame:
        table = self.table(
            sparsity=(0.9, 0.99), seed=self.seeds, iteration=range(1, 7), layer=self.layers
        )
        return table.assign(
            density=(1 - table["sparsity"]) ** (table["iteration"] / 6),
            removed=0 if self.tiny else 50 - table["iteration"],
            reactivated=0 if self.tiny else 2 * (table["iteration"] - 1),
            score_share=table["layer"].map({"fc1": 0.7, "fc2": 0.3}),
        )

    def flow(self) -> pd.DataFrame:
        table = self.table(
            sparsity=(0.9, 0.99), seed=self.seeds,
            method=("iterative_fused", "panning"), iteration=range(1, 7),
        )  # fmt: skip
        return self.drawn(table, removed=(0, 60), reactivated=(0, 9), of_final=(0.5, 1))

    def departures(self) -> pd.DataFrame:
        table = self.table(sparsity=(0.9, 0.99), seed=self.seeds, times=range(3))
        return table.assign(share=table["times"].map({0: 0.7, 1: 0.2, 2: 0.1}))

    def agreement(self) -> pd.DataFrame:
        others = [("iterative_fused", 1), ("iterative_fused", 5), ("snip", 1), ("synflow", 5)]
        table = self.table(sparsity=(0.9, 0.99), seed=self.seeds, both=others)
        table[["other", "steps"]] = table.pop("both").tolist()
        return table.assign(
            overlap=0.1 + 0.01 * table["seed"], by_chance=0.1, by_layer_densities=0.05
        )

    def collapse(self) -> pd.DataFrame:
        table = self.table(method=self.methods, seed=self.seeds, compression=(10, 1000, 80000))
        smallest = 1e5 // table["compression"]
        return table.assign(smallest_layer=0 if self.tiny else smallest, effective_share=0.5)

    def vetoes(self) -> pd.DataFrame:
        places = {("LeNet-300-100 on FashionMNIST", 0.999): True}
        if not self.tiny:
            places |= {("LeNet-300-100", 0.98): True, ("ResNet-20, width ¼", 0.98): False}
        methods = ("panning",) if self.tiny else ("synflow", "force", "panning", "panning_masked")
        parts = []
        for (task, rho), reads in places.items():
            one = self.table(task=[task], method=methods, sparsity=[rho], seed=self.seeds,
                             layer=self.layers)  # fmt: skip
            one["kept"] = one["layer"].map({"fc1": 60, "fc2": 40})
            few = self.drawn(one, worthless_synflow=(0, 9), worthless_snip=(0, 20), dead=(0, 30))
            dark = few["layer"].eq("fc1") & reads
            parts.append(few.assign(dark=np.where(dark, 6.0, np.nan),
                                    inputs_dark=np.where(dark, 0.16, np.nan)))  # fmt: skip
        return pd.concat(parts, ignore_index=True)

    def checked(self) -> pd.DataFrame:
        names = ("unchanged", *checks.CHECKS)
        methods = ("snip", "panning")
        table = self.table(method=methods, check=names, sparsity=(0.9, 0.99), seed=self.seeds)
        return self.drawn(table, accuracy=(0.1, 1))

    def choices(self) -> pd.DataFrame:
        settings = [("reference", "Panning"), ("samples", "10 a class"), ("samples", "3 a class")]
        settings += [("metrics", "SNIP"), ("schedule", "linear")]
        table = self.table(both=settings, sparsity=(0.98, 0.998), seed=self.seeds)
        table[["study", "setting"]] = table.pop("both").tolist()
        return self.drawn(table, accuracy=(0.1, 0.9))

    def developed(self) -> pd.DataFrame:
        rivals = ["synflow"] if self.tiny else ["synflow", "force", "panning_product"]
        names = [*rivals, "1 1 0", "1 .5 0, none"]
        table = self.table(task=self.tasks, method=names, sparsity=(0.9, 0.98), seed=self.seeds)
        return self.drawn(table, accuracy=(0.1, 0.9))

    def pairs(self) -> pd.DataFrame:
        what = ["return of the paper", "-|L - L_s|, temperature 200", "-loss after 20 steps"]
        rows = [(first, second) for first in what for second in what if first <= second]
        table = pd.DataFrame(rows, columns=["first", "second"])
        tasks = ["LeNet-300-100"] if self.tiny else ["LeNet-300-100", "LeNet-300-100 on digits"]
        places = [f"{task}, {rho} %" for task in (*tasks, "LeNet-5") for rho in (98, 99.8)]
        table = self.drawn(table, **dict.fromkeys(["mean", "smallest", *places], (-0.5, 0.9)))
        return table.sort_values("mean", ascending=False, ignore_index=True)

    def exponents(self) -> tuple[pd.DataFrame, dict[str, list[str]]]:
        groups = {
            "paper's reward, many networks": [
                f"paper's reward, many networks, {s}" for s in self.seeds
            ],
            "random exponents": [f"random {seed}" for seed in range(3)],
        }
        names = [
            "1 ½ 0",
            "search, schedule",
            "force",
            *(name for own in groups.values() for name in own),
        ]
        table = self.table(task=self.tasks, policy=names, sparsity=(0.98, 0.999), seed=range(2))
        return self.drawn(table, accuracy=(0.1, 0.9)), groups

    def greedy(self) -> pd.DataFrame:
        learners = ("sensitivity, one network", "sensitivity, many networks")
        table = self.table(
            learner=learners, seed=self.seeds, step=(1000, 2000), sparsity=(0.9, 0.998)
        )
        return self.drawn(table, **{"return": (-12, -6)})

    def scores(self) -> list[pd.DataFrame]:
        names = ("fused", "snip", "grasp", "synflow")
        scores = self.table(metric=names, log10_z=np.linspace(-4, 2, 9)).assign(fraction=0.1)
        correlation = self.table(first=names, second=names)
        correlation["spearman"] = (correlation["first"] == correlation["second"]) * 0.5 + 0.5
        pairs = [("snip", "grasp"), ("synflow", "snip"), ("synflow", "grasp")]
        overlap = self.table(both=pairs, sparsity=(0.9, 0.99))
        overlap[["first", "second"]] = overlap.pop("both").tolist()
        densities = self.table(metric=names, sparsity=(0.9, 0.99), layer=self.layers)
        density = 0.0 if self.tiny else densities["layer"].map({"fc1": 0.003, "fc2": 0.2})
        return [scores, correlation, overlap.assign(overlap=0.4), densities.assign(density=density)]

    def returns(self) -> pd.DataFrame:
        policies = [f"agent {seed}" for seed in self.seeds]
        policies += ["best constant", "SynFlow alone", "hand-made", "random"]
        table = self.table(
            settings=("design", "tuned"), policy=policies, seed=self.seeds, sparsity=(0.9, 0.99)
        )
        return self.drawn(table, **{"return": (-40, -20)})

    def episodes(self) -> pd.DataFrame:
        names = ("design",) if self.tiny else ("design", "short", "SAC", "tuned")
        table = self.table(settings=names, seed=self.seeds, step=range(10, 60, 10))
        return self.drawn(table, **{"return": (-40, -20)})

    def judged(self) -> list[pd.DataFrame]:
        table = self.table(sparsity=(0.95, 0.998), policy=range(8)).assign(seed=0)
        names = ["return of the paper", "-|L - L_s|, temperature 1", "-loss after 20 steps"]
        means = {"what": names, "mean": [0.1, -0.2, 0.9], "smallest": [0.0, -0.4, 0.8]}
        drawn = self.drawn(table, accuracy=(0.1, 1), **{"return": (-12, -6)})
        return [drawn, pd.DataFrame(means)]

    def gaps(self) -> pd.DataFrame:
        kinds = ("agent",) if self.tiny else ("agent", "trainability")
        opponents = ("hand-made", "SynFlow alone", "best constant", "random", "native agent")
        names = [f"{kind} {seed}" for kind in kinds for seed in self.seeds]
        table = self.table(target=self.targets, opponent=opponents, agent=names, seed=range(2))
        table["kind"] = table["agent"].str.partition(" ")[0]
        return self.drawn(table, accuracy=(-3, 3), **{"return": (-3, 3)})

    def actions(self) -> pd.DataFrame:
        names = [f"agent {seed}" for seed in self.seeds] + ["hand-made"]
        names += [] if self.tiny else ["trainability 0"]
        table = self.table(policy=names, sparsity=(0.9, 0.99), iteration=range(1, 6))
        return self.drawn(table, p_synflow=(0, 1), p_snip=(0, 1), p_grasp=(0, 1))

    def measured(self) -> pd.DataFrame:
        def row(what, value, form="fast", method=None, sparsity=None, beside=2.0):
            place = {"network": "lenet5", "weights": 1000, "threads": 2, "beside": beside}
            return place | {
                "what": what, "value": value, "form": form, "method": method,
                "sparsity": sparsity, "kept": {"snip": 0, "grasp": 5}.get(method, 20),
            }  # fmt: skip

        return pd.DataFrame(
            [
                row("training step", 1.0), row("agent step", 7.0, beside=np.nan),
                row("panning iteration", 6.0, "plain"), row("panning iteration", 0.5),
                row("pruning", 80.0, "plain", "panning_masked"),
                row("pruning", 20.0, "fast", "panning_masked"), row("synflow", 0.25),
                row("training", 0.4, "cut", "panning", 0.98, 1.2),
                row("training", 1.2, "cut", "panning", 0.99, 1.2),
                row("training", 0.6, "cut", "panning_masked", 0.98, 1.2),
                row("training", 0.3, "sparse", "panning_masked", 0.98, 1.2),
                row("training", 0.2, "cut", "grasp", 0.98, 1.2),
                row("training", 0.1, "cut", "snip", 0.98, 1.2),
            ]
        )  # fmt: skip

    def race(self) -> pd.DataFrame:
        """Two epochs of each run, the sparse one later by its pruning; one network if tiny."""
        return pd.DataFrame(
            {
                "network": network, "sparsity": rho, "epochs": epochs, "pruning": 5 * rho,
                "epoch": i + 1, "accuracy": 0.7 + 0.1 * i - 0.05 * rho,
                "seconds": 5 * rho + (i + 1) * (1 if rho else 3),
            }
            for network in (("lenet5",) if self.tiny else ("lenet300", "lenet5"))
            for rho, epochs in [(0.0, 2), (0.0, 1), (0.98, 2)]
            for i in range(epochs)
        )  # fmt: skip


FIGURES: dict[Callable[..., Figure], Callable[[Study], list]] = {
    metrics.metrics_overview: lambda s: s.scores(),
    panning.accuracy: lambda s: [s.comparison(), CONFIDENCE],
    panning.gains: lambda s: [s.comparison(), "panning", CONFIDENCE],
    panning.panning_vs_iterative: lambda s: [s.comparison(), CONFIDENCE],
    panning.effective: lambda s: [s.comparison()],
    panning.motion: lambda s: [s.motion(), s.flow_layers()],
    panning.moment: lambda s: s.moment(),
    panning.flow: lambda s: [s.flow(), s.flow_layers(), s.departures()],
    panning.agreement: lambda s: [s.agreement()],
    panning.collapse: lambda s: [s.collapse()],
    panning.vetoes: lambda s: [s.vetoes()],
    agents.overview: lambda s: [],
    agents.learning: lambda s: [s.returns(), ["tuned", "design"], CONFIDENCE],
    agents.learning_curve: lambda s: [s.episodes()],
    agents.reward: lambda s: s.judged(),
    agents.learned_policy: lambda s: [s.actions()],
    agents.transfer: lambda s: [s.gaps(), s.targets, CONFIDENCE],
    ablations.ablations: lambda s: [s.choices(), CONFIDENCE],
    ablations.checks: lambda s: [s.checked(), CONFIDENCE],
    beyond.foretold: lambda s: [s.pairs()],
    beyond.choosers: lambda s: [*s.exponents(), "1 ½ 0", CONFIDENCE],
    beyond.progress: lambda s: [s.greedy()],
    beyond.development: lambda s: [s.developed(), ["1 1 0", "1 .5 0, none"]],
    speed.panning_cost: lambda s: [s.measured()],
    speed.training_speedup: lambda s: [s.measured()],
    speed.race: lambda s: [s.race()],
}


def draw(figure: Callable[..., Figure], tiny: bool = False) -> Figure:
    return figure(*FIGURES[figure](Study(tiny)))


def color(method: str) -> tuple:
    return to_rgba(LOOKS[method].color)


def lines(ax: Axes, method: str) -> list:
    """The curves of a method: what has its colour and its marker."""
    look = LOOKS[method]
    return [
        line for line in ax.lines
        if to_rgba(line.get_color()) == color(method) and line.get_label() == look.label
    ]  # fmt: skip


def words(ax: Axes) -> list[list[str]]:
    """What is written into a heat map, row by row."""
    found = np.full(ax.images[0].get_array().shape, "", dtype=object)
    for text in ax.texts:
        column, row = (round(place) for place in text.get_position())
        found[row, column] = text.get_text()
    return found.tolist()


# --- all figures ----------------------------------------------------------------------------------


def test_there_is_a_test_for_every_figure() -> None:
    public = {
        function
        for module in (metrics, panning, agents, ablations, beyond, speed)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
        and function.__annotations__.get("return") is Figure
    }  # fmt: skip
    assert public == set(FIGURES)


@pytest.mark.parametrize("tiny", [False, True], ids=["full", "tiny"])
@pytest.mark.parametrize("name", FIGURES, ids=lambda f: f.__name__)
def test_a_figure_fits_its_page_and_is_drawn_without_a_warning(name, tiny: bool) -> None:
    """No rotated labels, none on top of another; also with one seed and nothing learned."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw(name, tiny)
        figure.draw_without_rendering()
    assert figure.get_size_inches()[0] <= 7
    for ax in filter(Axes.get_visible, figure.axes):
        assert ax.lines or ax.patches or ax.collections or ax.images
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            labels = [
                tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high
            ]
            labels = [label for label in labels if label.get_text() and label.get_visible()]
            assert {label.get_rotation() for label in labels} <= {0.0}
            boxes = [Text.get_window_extent(label) for label in labels]
            edges = [box.intervalx if axis is ax.xaxis else box.intervaly for box in boxes]
            for (_, end), (start, _) in itertools.pairwise(sorted(map(tuple, edges))):
                assert end <= start + 1.5, [label.get_text() for label in labels]


def test_a_saved_figure_is_the_same_bytes_twice_without_a_date(tmp_path: Path) -> None:
    kept = []
    for _ in range(2):
        written = style.save(
            draw(panning.panning_vs_iterative, tiny=True), tmp_path / "full" / "poster"
        )
        kept.append([path.read_bytes() for path in written])
    assert kept[0] == kept[1]
    assert b"<dc:date>" not in kept[0][0]
    found = sorted(path.name for path in (tmp_path / "full").iterdir())
    assert found == ["poster.png", "poster.svg"]


def test_settings_reach_the_figure() -> None:
    style.use(SimpleNamespace(dpi=60, width=5.0, font_size=11.0))
    figure = agents.overview()
    assert figure.get_size_inches()[0] == 5 and figure.dpi == 60
    assert mpl.rcParams["axes.labelsize"] == 11


# --- looks ----------------------------------------------------------------------------------------

# Machado, Oliveira & Fernandes (2009), severity 1, in linear RGB.
EYES = {
    "usual": np.eye(3),
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}  # fmt: skip


def lab(look: style.Look, eyes: str) -> np.ndarray:
    """CIE L*a*b* of a colour, as these eyes see it."""
    rgb = np.array(to_rgb(look.color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(EYES[eyes] @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(to_xyz @ linear / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", EYES)
def test_methods_are_told_apart_by_every_eye(eyes: str) -> None:
    """By colour; two that are close differ in marker and line. The dense one has no marker."""
    for one, other in itertools.combinations(LOOKS.values(), 2):
        apart = np.linalg.norm(lab(one, eyes) - lab(other, eyes))
        assert one.marker != other.marker and one.label != other.label
        limit = 14 if "dense" in (one.label, other.label) or one.style == other.style else 5
        assert apart > limit, (one.label, other.label, apart)


def test_every_method_has_a_look() -> None:
    assert set(METHODS) <= set(LOOKS)


@pytest.mark.parametrize(
    ("sparsity", "text"), [(0.9, "90 %"), (0.999, "99.9 %"), (0.9995, "99.95 %"), (0, "0 %")]
)
def test_a_sparsity_is_written_as_people_write_it(sparsity: float, text: str) -> None:
    assert style.percent(sparsity) == text


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ((1.04, 0.1, 2), "+1.0*"),
        ((-12.6, -14, -11), "−13*"),
        ((-0.01, -1, 1), "+0.0"),
        ((3.0, np.nan, np.nan), "+3.0"),
        ((3.0, 0.0, 6.0), "+3.0"),
    ],
)
def test_a_star_says_that_the_interval_leaves_out_0(found: tuple, text: str) -> None:
    assert style.signed(*found) == text


def test_names_stand_beside_the_ends_of_their_curves_and_keep_off_each_other() -> None:
    figure, ((ax,),) = style.panels(1, 1, 0.4)
    for end in (0.5, 0.5, 0.51, 3):
        ax.plot([0, 1], [0, end], label=f"to {end}")
    ax.plot([0, 1], [1, 1])
    style.label_ends(figure)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in ax.texts]
    assert [text.get_text() for text in ax.texts] == ["to 0.5", "to 0.5", "to 0.51", "to 3"]
    for low, high in itertools.pairwise(boxes):
        assert high.y0 >= low.y1
    middle = [(box.y0 + box.y1) / 2 for box in boxes]
    assert middle[3] == pytest.approx(ax.transData.transform((1, 3))[1], abs=4)
    assert np.mean(middle[:3]) == pytest.approx(ax.transData.transform((1, 0.503))[1], abs=4)


# --- 02 -------------------------------------------------------------------------------------------


def test_accuracy_is_the_mean_over_seeds_on_an_axis_of_falling_density() -> None:
    table = Study(tiny=False).comparison()
    axes = np.reshape(panning.accuracy(table, CONFIDENCE).axes, (2, 2))
    for row, (task, part) in zip(axes, table.groupby("task"), strict=True):
        seen = set()
        for ax, method in itertools.product(row, LOOKS):
            for line in lines(ax, method):
                seen.add(method)
                own = part[part["method"] == method]
                if method == "dense":
                    assert line.get_ydata() == pytest.approx([97, 97])
                    continue
                mean = 100 * own.groupby("sparsity")["accuracy"].mean()[::-1]
                assert line.get_ydata() == pytest.approx(mean.tolist()), (task, method)
                assert line.get_xdata() == pytest.approx(1 - mean.index.to_numpy())
                assert (line.get_marker(), line.get_linestyle()) == LOOKS[method][2:]
        assert seen == set(LOOKS)
        for ax in row:
            assert ax.get_xscale() == "log" and ax.get_xlim()[0] > ax.get_xlim()[1]
            assert lines(ax, "panning") and lines(ax, "dense")


def test_a_shade_is_the_interval_within_0_and_100_and_few_seeds_are_dots() -> None:
    table = pd.DataFrame({"x": [1, 1, 2, 2], "y": [60.0, 100.0, 50.0, 50.0]})
    ax = plt.figure().add_subplot()
    style.curve(ax, table, "x", "y", LOOKS["snip"], CONFIDENCE)
    (shade,) = ax.collections
    corners = shade.get_paths()[0].vertices
    assert corners[:, 1].min() == 0 and corners[:, 1].max() == 100
    assert sorted(ax.lines[1].get_ydata()) == [50, 50, 60, 100]


def test_the_posters_figure_has_the_posters_methods() -> None:
    for ax in draw(panning.panning_vs_iterative).axes:
        named = {line.get_label() for line in ax.lines if not line.get_label().startswith("_")}
        wanted = ("dense", "iterative_snip", "iterative_fused", "panning")
        assert named == {LOOKS[name].label for name in wanted}


def test_gains_are_paired_by_seed_and_starred_where_they_are_sure() -> None:
    table = Study(tiny=False).comparison()
    where = table["task"] == "ResNet-20"
    table.loc[where & (table["method"] == "panning"), "accuracy"] = 0.9
    table.loc[where & (table["method"] == "synflow"), "accuracy"] = 0.5 + 0.01 * table["seed"]
    unsure = where & (table["method"] == "snip")
    table.loc[unsure, "accuracy"] = 0.9 + 0.05 * (table["seed"] - 1)
    first, other = panning.gains(table, "panning", CONFIDENCE).axes
    labels = [text.get_text() for text in first.get_yticklabels()]
    written = dict(zip(labels, words(other), strict=True))
    assert written["SynFlow"] == ["+39*", "+39*"]
    assert written["SNIP"] == ["+0.0", "+0.0"]
    assert "Panning" not in labels
    drawn = np.asarray(other.images[0].get_array())
    assert drawn[labels.index("SynFlow")] == pytest.approx([39, 39])


def test_dead_networks_are_marked() -> None:
    ax = draw(panning.effective).axes[0]
    labels = [text.get_text() for text in ax.get_yticklabels()]
    written = dict(zip(labels, words(ax), strict=True))
    assert written["SNIP"] == ["50", "0†", "0†", "0†"] and written["Panning"] == ["50"] * 4


def test_a_moment_shows_what_each_layer_keeps_and_what_leaves_and_returns() -> None:
    before = {"a": np.array([1, 1, 1, 0, 0], bool), "b": np.array([[1, 0], [0, 0]], bool)}
    after = {"a": np.array([1, 0, 0, 1, 0], bool), "b": np.array([[0, 1], [1, 1]], bool)}
    (ax,) = panning.moment(before, after).axes
    drawn = {bars.get_label(): [bar.get_width() for bar in bars] for bars in ax.containers}
    assert drawn == {"kept": [2, 3], "leave": [2, 1], "return": [1, 3]}
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]


def test_motion_shows_each_frame_and_the_sparsity_that_was_reached() -> None:
    """The weights gone for good by t, of those gone by T, times the sparsity at T."""
    study = Study(tiny=False)
    motion, layers = study.motion(), study.flow_layers()
    figure = panning.motion(motion, layers)
    frames = [ax for ax in figure.axes if ax.images]
    for ax, (t, frame) in zip(frames, motion.groupby("iteration"), strict=True):
        square = frame.pivot(index="row", columns="column", values="kept")
        assert np.array_equal(ax.images[0].get_array(), square)
        assert len({one.images[0].norm.vmax for one in frames}) == 1
        left = sum(50 - i - 2 * (i - 1) for i in range(1, t + 1))
        reached = 0.99 * left / sum(50 - i - 2 * (i - 1) for i in range(1, 7))
        number = float(ax.get_xlabel().split("\n")[1].removesuffix(" %"))
        assert number == pytest.approx(100 * reached, abs=0.06)
    densities, moved = figure.axes[-2:]
    assert densities.get_yscale() == "log"
    assert densities.lines[0].get_ydata()[-1] == pytest.approx(1)
    assert moved.lines[0].get_ydata() == pytest.approx([2 * (50 - t) for t in range(1, 7)])
    assert moved.lines[1].get_ydata() == pytest.approx([4 * (t - 1) for t in range(1, 7)])


def test_flow_shows_the_mean_over_seeds_at_the_largest_sparsity() -> None:
    study = Study(tiny=False)
    flow = study.flow()
    a, b, c, d = panning.flow(flow, study.flow_layers(), study.departures()).axes
    mean = flow[flow["sparsity"] == 0.99].groupby(["method", "iteration"]).mean()
    assert a.lines[0].get_ydata() == pytest.approx(mean.loc["panning", "removed"].tolist())
    assert a.lines[1].get_ydata() == pytest.approx(mean.loc["panning", "reactivated"].tolist())
    for method in ("panning", "iterative_fused"):
        (line,) = lines(b, method)
        assert line.get_ydata() == pytest.approx((100 * mean.loc[method, "of_final"]).tolist())
    assert {tuple(np.round(line.get_ydata(), 9)) for line in c.lines} == {(0.7,) * 6, (0.3,) * 6}
    for line in d.lines:  # at least so often
        assert line.get_ydata() == pytest.approx([100, 30, 10])


def test_collapse_and_agreement_are_drawn_as_they_are() -> None:
    left, right = draw(panning.collapse).axes[:2]
    assert [line.get_ydata().tolist() for line in left.lines] == [[10000, 100, 1]] * len(left.lines)
    assert set(lines(right, "panning")[0].get_ydata()) == {50}
    figure = draw(panning.agreement)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    fused = LOOKS["iterative_fused"].label
    assert labels == ["SNIP", "SynFlow, T = 5", fused, f"{fused}, T = 5"]
    for ax, rho in zip(figure.axes, (0.9, 0.99), strict=True):
        assert ax.lines[0].get_xdata() == pytest.approx([10, 11, 12])
        assert ax.lines[-1].get_xdata() == pytest.approx([100 * (1 - rho)] * 2)


def test_vetoes_are_stacked_by_layer_in_per_cent_of_what_is_kept() -> None:
    table = Study(tiny=False).vetoes()
    axes = np.reshape(panning.vetoes(table).axes, (3, 4))
    methods = ["synflow", "force", "panning", "panning_masked"]
    assert [one.get_text() for one in axes[0, 0].get_yticklabels()] == [
        LOOKS[name].label for name in methods
    ]
    for row, task in zip(axes, table["task"].unique(), strict=True):
        part = table[table["task"] == task]
        for ax, what in zip(row, panning.QUESTIONS, strict=True):
            assert ax.get_visible() == part[what].notna().any()
            if what == "dark":  # of what the first layer keeps
                assert {round(bar.get_width(), 6) for bar in ax.patches} <= {10}
                assert not ax.get_visible() or ax.lines[0].get_xdata() == pytest.approx([16, 16])
                continue
            mean = part.groupby(["method", "layer"])[what].mean()
            assert len(ax.patches) == len(mean)
            for i, bar in enumerate(ax.patches):
                method, layer = methods[i // 2], ("fc1", "fc2")[i % 2]
                assert bar.get_width() == pytest.approx(mean[method, layer])  # 100 are kept
                assert to_rgb(bar.get_facecolor()) == to_rgb(LOOKS[method].color)
                assert bar.get_x() == pytest.approx(mean[method, "fc1"] * (i % 2))


# --- 01, 03, 04 -----------------------------------------------------------------------------------


def test_agents_stand_at_their_gap_to_the_best_constant() -> None:
    table = Study(tiny=False).returns()
    gaps = analysis.learning_gaps(table).groupby(["settings", "policy"])["gap"].mean()
    axes = agents.learning(table, ["tuned", "design"], CONFIDENCE).axes
    assert [ax.get_title() for ax in axes] == ["tuned", "design"]
    for ax in axes:
        own = gaps[ax.get_title()]
        by_agent = own[own.index.str.startswith("agent")]
        star, _, dots, *others, _ = ax.lines
        assert star.get_xdata() == pytest.approx([by_agent.mean()])
        assert dots.get_xdata() == pytest.approx(by_agent.tolist())
        shown = [line.get_xdata()[0] for line in others]
        assert shown == pytest.approx(own[list(agents.OTHERS)].tolist())


def test_correlations_go_from_the_lowest_up() -> None:
    ax = draw(agents.reward).axes[-1]
    assert [line.get_xdata()[0] for line in ax.lines[1:-1:2]] == [-0.2, 0.1, 0.9]
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels[0] == "−|L − Lₛ|, temperature 1"


def test_transfer_is_the_mean_over_agents() -> None:
    study = Study(tiny=False)
    gaps = study.gaps()
    figure = agents.transfer(gaps, study.targets, CONFIDENCE)
    kinds = [("agent", "return"), ("agent", "accuracy"), ("trainability", "accuracy")]
    for ax, (kind, value) in zip(figure.axes, kinds, strict=True):
        own = gaps[gaps["kind"] == kind]
        mean = own.groupby(["target", "opponent"])[value].mean().unstack()
        order = ["SynFlow alone", "hand-made", "random", "best constant", "native agent"]
        assert np.allclose(ax.images[0].get_array(), mean.loc[list(study.targets), order])


def test_a_learned_policy_is_the_mean_share_over_agents() -> None:
    table = Study(tiny=False).actions()
    images = [ax.images[0].get_array() for ax in agents.learned_policy(table).axes if ax.images]
    assert len(images) == 3 * 3
    shares = analysis.proportions(table)
    part = shares[shares["policy"].str.startswith("agent")]
    expected = part.pivot_table(index="sparsity", columns="iteration", values="p_snip")
    assert np.allclose(images[3 + 1], expected)
    assert np.allclose(sum(images[:3]), 1)


def test_ablations_are_told_where_the_interval_leaves_out_0() -> None:
    table = Study(tiny=False).choices()
    table.loc[table["study"] == "reference", "accuracy"] = 0.7
    table.loc[table["setting"] == "linear", "accuracy"] = 0.6 + 0.001 * table["seed"]
    table.loc[table["setting"] == "SNIP", "accuracy"] = 0.7 + 0.1 * (table["seed"] - 1)
    figure = ablations.ablations(table, CONFIDENCE)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["metrics", "SNIP", "samples", "3 a class", "10 a class", "schedule", "linear"]
    for ax in figure.axes:
        means = {labels[int(line.get_ydata()[0])]: line for line in ax.lines[:-1:3]}
        assert means["linear"].get_xdata() == pytest.approx([-9.9])
        assert to_rgba(means["linear"].get_color()) == color("panning")
        assert means["SNIP"].get_xdata() == pytest.approx([0], abs=1e-9)
        assert to_rgba(means["SNIP"].get_color()) == to_rgba("0.5")


def test_checks_are_points_against_the_method_unchanged() -> None:
    assert set(ablations.CHECKS) == {"unchanged", *checks.CHECKS}
    table = Study(tiny=False).checked()
    mean = 100 * table.groupby(["sparsity", "check", "method"])["accuracy"].mean()
    for ax, rho in zip(ablations.checks(table, CONFIDENCE).axes, (0.9, 0.99), strict=True):
        drawn = np.asarray(ax.images[0].get_array())
        methods = style.in_order(table["method"])
        for column, check in enumerate(ablations.CHECKS):
            gap = (mean[rho, check] - mean[rho, "unchanged"])[methods]
            if check != "unchanged":
                assert drawn[:, column] == pytest.approx(gap.to_numpy())
        assert words(ax)[0][0] == f"{mean[rho, 'unchanged', methods[0]]:.1f} %"


# --- 06 -------------------------------------------------------------------------------------------


def test_times_are_in_plain_training_steps() -> None:
    found = speed.in_steps(Study(tiny=False).measured())
    assert list(found["steps"]) == [0.5, 3.0, 0.25, 40.0, 10.0, 0.125]


def test_all_of_pruning_is_a_hundred_iterations_or_what_our_method_takes() -> None:
    found = speed.prunings(Study(tiny=False).measured()).set_index(["method", "form"])["steps"]
    assert found.to_dict() == {
        ("panning", "plain"): 300, ("panning", "fast"): 25,
        ("panning_masked", "plain"): 40, ("panning_masked", "fast"): 10,
    }  # fmt: skip


def test_a_speed_up_is_against_the_dense_step_in_the_same_layout() -> None:
    """And a dead network, SNIP's, has none; GraSP's wasted mask is ringed."""
    table = Study(tiny=False).measured()
    found = speed.speedups(table).set_index(["method", "form", "sparsity"])["speedup"]
    assert found.to_dict() == pytest.approx(
        {
            ("panning", "cut", 0.98): 3.0, ("panning", "cut", 0.99): 1.0,
            ("panning_masked", "cut", 0.98): 2.0, ("panning_masked", "sparse", 0.98): 4.0,
            ("grasp", "cut", 0.98): 6.0,
        }
    )  # fmt: skip
    rings = [line for line in speed.training_speedup(table).axes[0].lines
             if line.get_markersize() == 9]  # fmt: skip
    assert [ring.get_ydata().tolist() for ring in rings] == [[pytest.approx(6.0)]]


def test_breaking_even() -> None:
    """Panning: 100 iterations are 50 dense steps, 1.25 epochs of 40; each sparse step saves 2/3."""
    table = speed.break_even(Study(tiny=False).measured(), 4000)
    found = table.set_index(["method", "form", "sparsity"])
    assert found["pruning"].to_dict() == pytest.approx(
        {
            ("panning", "cut", 0.98): 1.25, ("panning", "cut", 0.99): 1.25,
            ("panning_masked", "cut", 0.98): 0.5, ("panning_masked", "sparse", 0.98): 0.5,
        }
    )  # fmt: skip
    assert found["epochs"].to_dict() == pytest.approx(
        {
            ("panning", "cut", 0.98): 1.875, ("panning", "cut", 0.99): float("inf"),
            ("panning_masked", "cut", 0.98): 1.0, ("panning_masked", "sparse", 0.98): 2 / 3,
        }
    )  # fmt: skip


def test_a_race_begins_with_the_pruning() -> None:
    table = Study(False).race()
    figure = speed.race(table)
    assert len(figure.axes) == 2
    for ax in figure.axes:
        drawn = {line.get_label(): line.get_xdata().tolist() for line in ax.lines}
        assert drawn == {
            "dense, 2 epochs": [3, 6], "dense, 1 epochs": [3], "98 %": pytest.approx([5.9, 6.9]),
        }  # fmt: skip


def test_agents_are_dots_around_their_mean_against_the_reference() -> None:
    table, groups = Study(False).exponents()
    figure = beyond.choosers(table, groups, "1 ½ 0", CONFIDENCE)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [*groups, "search, schedule", "FORCE"]
    means = 100 * table.groupby(["task", "policy"])["accuracy"].mean()
    for ax, task in zip(figure.axes, table["task"].unique(), strict=True):
        dots = {x.get_ydata()[0]: x.get_xdata() for x in ax.lines if x.get_marker() == "."}
        for place, own in enumerate(groups.values()):
            expected = [means[task, name] - means[task, "1 ½ 0"] for name in own]
            assert dots[place] == pytest.approx(expected)
            (mean,) = [x.get_xdata()[0] for x in ax.lines
                       if x.get_marker() == "*x"[place] and x.get_ydata()[0] == place]  # fmt: skip
            assert mean == pytest.approx(np.mean(expected))


def test_each_candidate_has_its_mean_and_its_seeds_and_the_best_rival_is_marked() -> None:
    table = Study(False).developed()
    figure = beyond.development(table, ["1 1 0", "1 .5 0, none"])
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert sorted(names[:2]) == ["1 .5 0, none", "1 1 0"]
    assert names[2:] == ["SynFlow", "FORCE", "Panning, product"]
    means = 100 * table.groupby(["task", "method"])["accuracy"].mean()
    for ax, task in zip(figure.axes, table["task"].unique(), strict=True):
        points = {
            line.get_ydata()[0]: line.get_xdata()
            for line in ax.lines
            if line.get_marker() not in (".", "None")
        }
        for place, name in enumerate([*names[:2], "synflow", "force", "panning_product"]):
            assert points[place] == pytest.approx([means[task, name]])
        (mark,) = [
            line.get_xdata()[0]
            for line in ax.lines
            if line.get_linestyle() == "--" and line.get_marker() == "None"
        ]
        assert mark == pytest.approx(means[task][["synflow", "force", "panning_product"]].max())
