"""The full study's figures are drawn from small tables, and show what these hold."""

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from lib import (
    analysis,
    claim_a_figures,
    claim_b_figures,
    force_figures,
    inference,
    plotting,
    sanity,
)
from lib.plotting import LOOKS

SPARSITIES = {"LeNet-300-100": (0.9, 0.98, 0.99, 0.999), "ResNet-20": (0.9, 0.98)}
METHODS = ("erk", "panning+shuffled", "snip", "synflow", "iterative_fused", "panning", "rlpanning")
RNG_SEED = 0


@pytest.fixture(autouse=True)
def closed_figures():
    mpl.use("agg")
    plotting.style()
    yield
    plt.close("all")


def drawn(figure: Figure) -> Figure:
    figure.canvas.draw()  # the layout, too
    return figure


def colors(ax) -> dict[tuple, list]:
    """Colour: the lines of an axis that have it."""
    found: dict[tuple, list] = {}
    for line in ax.lines:
        found.setdefault(to_rgba(line.get_color()), []).append(line)
    return found


def color(method: str) -> tuple:
    return to_rgba(LOOKS[method].color)


# --- tables --------------------------------------------------------------------------------------


def comparison() -> pd.DataFrame:
    rng = np.random.default_rng(RNG_SEED)
    rows = []
    for task, sparsities in SPARSITIES.items():
        for seed in range(3):
            key = {"task": task, "seed": seed}
            rows.append(key | {"method": "dense", "sparsity": 0.0, "accuracy": 0.97 + 0.01 * seed})
            for method, rho in itertools.product(METHODS, sparsities):
                reached = 1.0 if method == "snip" and rho > 0.98 else rho + (1 - rho) / 4
                rows.append(
                    key
                    | {"method": method, "sparsity": rho, "accuracy": rng.uniform(0.1, 0.95)}
                    | {"sparsity_reached": rho, "effective_sparsity": reached}
                )
    return pd.DataFrame(rows)


def ranked() -> tuple[pd.DataFrame, dict[str, float]]:
    tables, differences = [], {}
    sparse = comparison().query("method != 'dense'")
    for task, part in sparse.groupby("task"):
        won = inference.wins(part, "panning", ["sparsity"], "accuracy", 0.95)
        for method, one in part.groupby("method"):
            found = inference.iqm_over_tasks(one, ["sparsity"], "accuracy", 0.95)
            won.loc[won["method"] == method, ["iqm", "iqm_low", "iqm_high"]] = found
        tables.append(won.assign(task=task))
        differences[task] = inference.critical_difference(
            len(won), part["sparsity"].nunique(), 0.95
        )
    return pd.concat(tables), differences


def returns() -> pd.DataFrame:
    rng = np.random.default_rng(RNG_SEED)
    policies = ("agent 0", "agent 1", "best constant", "SynFlow alone", "hand-made", "random")
    index = itertools.product(("design", "tuned"), policies, range(2), (0.9, 0.99))
    rows = pd.DataFrame(index, columns=["settings", "policy", "seed", "final_target"])
    return rows.assign(reward=rng.normal(-30, 10, len(rows)))


def judged() -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(RNG_SEED)
    rows = pd.DataFrame(
        itertools.product((0.95, 0.99, 0.998), range(8)), columns=["sparsity", "policy"]
    )
    rows = rows.assign(accuracy=rng.random(24), seed=0, **{"return": rng.normal(-9, 3, 24)})
    names = ["return of the paper", "return, w = 0", "-loss after 20 steps"]
    correlations = {"what": names, "mean": [0.1, -0.2, 0.9], "smallest": [0.0, -0.4, 0.8]}
    return rows, pd.DataFrame(correlations)


TARGETS = ("as trained", "width 2", "LeNet-5")


def transfer() -> pd.DataFrame:
    rng = np.random.default_rng(RNG_SEED)
    opponents = ("hand-made", "SynFlow alone", "best constant", "random")
    agents = [f"{kind} {seed}" for kind in ("agent", "trainability") for seed in range(3)]
    rows = pd.DataFrame(
        itertools.product(TARGETS, agents, opponents, range(2)),
        columns=["target", "agent", "opponent", "seed"],
    )
    rows["kind"] = rows["agent"].str.split().str[0]
    return rows.assign(
        accuracy=rng.normal(size=len(rows)), **{"return": rng.normal(size=len(rows))}
    )


def actions(policies: tuple[str, ...] = ("agent 0", "agent 1", "trainability 0", "hand-made")):
    rng = np.random.default_rng(RNG_SEED)
    index = itertools.product(policies, (0.9, 0.99), range(1, 6))
    rows = pd.DataFrame(index, columns=["policy", "final_target", "iteration"])
    return rows.assign(**{name: rng.random(len(rows)) for name in analysis.P})


def flows() -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(RNG_SEED)
    index = itertools.product((0.9, 0.99), range(2), range(1, 7), ("fc1", "fc2", "fc3"))
    layers = pd.DataFrame(index, columns=["sparsity", "seed", "iteration", "layer"])
    count = len(layers)
    layers = layers.assign(
        removed=rng.integers(5, 50, count), reactivated=rng.integers(0, 5, count)
    )
    layers["score_share"] = layers["layer"].map({"fc1": 0.6, "fc2": 0.3, "fc3": 0.1})
    departures = pd.DataFrame(
        itertools.product((0.9, 0.99), range(2), range(3)), columns=["sparsity", "seed", "times"]
    )
    return layers, departures.assign(share=departures["times"].map({0: 0.9, 1: 0.08, 2: 0.02}))


def overlaps() -> pd.DataFrame:
    others = [("iterative_fused", 1), ("iterative_fused", 5), ("snip", 1), ("synflow", 5)]
    rows = [
        {"sparsity": rho, "seed": seed, "other": other, "steps": steps}
        | {"overlap": 0.1 * i + 0.01 * seed, "by_chance": 1 - rho, "by_layer_densities": 0.05}
        for rho, seed, (i, (other, steps)) in itertools.product(
            (0.9, 0.99), range(2), enumerate(others)
        )
    ]
    return pd.DataFrame(rows)


def checked() -> pd.DataFrame:
    rng = np.random.default_rng(RNG_SEED)
    names = ("unchanged", *sanity.CHECKS)
    index = itertools.product(("snip", "panning"), names, (0.9, 0.99), range(3))
    rows = pd.DataFrame(index, columns=["method", "check", "sparsity", "seed"])
    return rows.assign(accuracy=rng.random(len(rows)))


def collapsing() -> pd.DataFrame:
    index = itertools.product(("snip", "synflow", "panning"), range(2), (10, 1000, 80000))
    rows = pd.DataFrame(index, columns=["method", "seed", "compression"])
    return rows.assign(smallest_layer=(1e5 / rows["compression"]).astype(int), effective_share=0.5)


def foretelling() -> pd.DataFrame:
    rows = [
        {"task": task, "sparsity": rho, "what": what, "spearman": 0.1, "n": 9}
        for task, sparsities in SPARSITIES.items()
        for rho, what in itertools.product(sparsities, force_figures.FORETELLS)
    ]
    return pd.DataFrame(rows)


def chosen() -> pd.DataFrame:
    rng = np.random.default_rng(RNG_SEED)
    settings = [("reference", "Panning"), ("metrics", "SNIP"), ("metrics", "GraSP")]
    index = itertools.product([*settings, ("schedule", "linear")], (0.98, 0.998), range(3))
    rows = [
        {"study": study, "setting": setting, "sparsity": rho, "seed": seed}
        for (study, setting), rho, seed in index
    ]
    return pd.DataFrame(rows).assign(accuracy=rng.uniform(0.5, 0.9, len(rows)))


FIGURES = {
    "accuracy": lambda: claim_a_figures.accuracy(comparison(), 0.95),
    "effective": lambda: claim_a_figures.effective(comparison()),
    "gains": lambda: claim_a_figures.gains(comparison(), "panning", 0.95),
    "ranks": lambda: claim_a_figures.ranks(*ranked()),
    "learning": lambda: claim_b_figures.learning(returns(), ["design", "tuned"], 0.95),
    "reward": lambda: claim_b_figures.reward(*judged()),
    "transfer": lambda: claim_b_figures.transfer(transfer(), TARGETS, 0.95),
    "learned_policy": lambda: claim_b_figures.learned_policy(actions()),
    "force": lambda: force_figures.force(*flows()),
    "agreement": lambda: force_figures.agreement(overlaps()),
    "checks": lambda: force_figures.checks(checked(), 0.95),
    "collapse": lambda: force_figures.collapse(collapsing()),
    "foretell": lambda: force_figures.foretell(foretelling()),
    "choices": lambda: force_figures.choices(chosen(), 0.95),
}


# --- all figures ---------------------------------------------------------------------------------


def test_there_is_a_test_for_every_figure() -> None:
    public = {
        name
        for module in (claim_a_figures, claim_b_figures, force_figures)
        for name, function in vars(module).items()
        if getattr(function, "__module__", "") == module.__name__ and not name.startswith("_")
    }
    assert public == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_fits_its_page_and_every_axis_of_it_says_something(name: str) -> None:
    figure = drawn(FIGURES[name]())
    assert figure.get_size_inches()[0] <= plotting.figure_width()
    for ax in figure.axes:
        assert ax.lines or ax.patches or ax.collections or ax.images
    texts = [text.get_text() for ax in figure.axes for text in (ax.xaxis.label, ax.yaxis.label)]
    assert any(texts)


@pytest.mark.parametrize("name", ["accuracy", "checks", "learned_policy"])
def test_a_figure_is_the_same_bytes_twice(name: str, workspace) -> None:
    kept = []
    for _ in range(2):
        written = plotting.save(FIGURES[name](), name)
        kept.append([path.read_bytes() for path in written])
    assert kept[0] == kept[1]


@pytest.mark.parametrize("name", ["accuracy", "effective", "collapse", "agreement"])
def test_a_method_has_its_own_colour_and_marker_in_every_figure(name: str) -> None:
    figure = drawn(FIGURES[name]())
    by_color = {color(method): LOOKS[method] for method in LOOKS}
    seen = set()
    for ax in figure.axes:
        for line in ax.lines:
            if look := by_color.get(to_rgba(line.get_color())):
                assert line.get_marker() in (look.marker, "None", ""), look
                seen.add(look.label)
    assert {LOOKS["snip"].label, LOOKS["synflow"].label} <= seen


@pytest.mark.parametrize("name", ["accuracy", "effective"])
def test_the_legend_names_the_methods_that_are_drawn(name: str) -> None:
    (legend,) = FIGURES[name]().legends
    handles = {
        text.get_text(): to_rgba(handle.get_color())
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
    }
    methods = ("dense", *METHODS) if name == "accuracy" else METHODS
    assert handles == {LOOKS[method].label: color(method) for method in methods}


# --- claim A -------------------------------------------------------------------------------------


def test_accuracy_is_the_mean_over_seeds_once_among_its_like() -> None:
    table = comparison()
    figure = claim_a_figures.accuracy(table, 0.95)
    axes = np.reshape(figure.axes, (2, 2))
    for column, task in enumerate(SPARSITIES):
        part = table[table["task"] == task]
        for row, methods in enumerate(
            (("erk", "panning+shuffled", "snip", "panning"), ("synflow", "panning", "rlpanning"))
        ):
            lines = colors(axes[row, column])
            assert lines[color("dense")][0].get_ydata() == pytest.approx([98, 98])
            for method in methods:
                (line,) = lines[color(method)]
                mean = part[part["method"] == method].groupby("sparsity")["accuracy"].mean()
                assert line.get_ydata() == pytest.approx(100 * mean.to_numpy())
                assert line.get_xdata() == pytest.approx(1 - mean.index.to_numpy())
        assert color("synflow") not in colors(axes[0, column])
        assert color("snip") not in colors(axes[1, column])


def test_the_shade_is_the_bootstrap_interval() -> None:
    table = comparison()
    ax = claim_a_figures.accuracy(table, 0.9).axes[3]  # iterated methods on the second task
    part = table[(table["task"] == "ResNet-20") & (table["method"] == "rlpanning")]
    shades = [
        s for s in ax.collections if np.allclose(s.get_facecolor()[0][:3], color("rlpanning")[:3])
    ]
    (shade,) = shades
    found = shade.get_paths()[0].vertices[:, 1]
    ends = [
        inference.bootstrap(100 * values, 0.9)[1:]
        for _, values in part.groupby("sparsity")["accuracy"]
    ]
    assert (found.min(), found.max()) == pytest.approx((np.min(ends), np.max(ends)))


def test_effective_weights_and_dead_networks_are_shares_in_percent() -> None:
    left, right = claim_a_figures.effective(comparison().iloc[::-1]).axes[:2]
    assert colors(left)[color("panning")][0].get_ydata() == pytest.approx([75] * 4)
    assert colors(left)[color("snip")][0].get_ydata() == pytest.approx([75, 75, 0, 0])
    assert colors(right)[color("snip")][0].get_ydata() == pytest.approx([0, 0, 100, 100])
    assert colors(right)[color("panning")][0].get_ydata() == pytest.approx([0] * 4)


def test_gains_are_written_as_points_of_the_paired_difference() -> None:
    table = comparison()
    figure = claim_a_figures.gains(table, "panning", 0.95)
    sparse = table[table["method"] != "dense"]
    wide = sparse.pivot(index=["task", "sparsity", "seed"], columns="method", values="accuracy")
    for ax, task in zip(figure.axes, SPARSITIES, strict=True):
        rows = [name for name in LOOKS if name in METHODS and name != "panning"]
        expected = [
            100 * (wide["panning"] - wide[name]).loc[task].groupby("sparsity").mean()
            for name in rows
        ]
        written = [float(text.get_text().rstrip("*")) for text in ax.texts]
        assert written == pytest.approx(np.concatenate(expected), abs=0.051)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == [LOOKS[name].label for name in rows]


def test_a_star_stands_where_the_interval_leaves_out_0() -> None:
    table = comparison()
    sure = (table["task"] == "ResNet-20") & (table["method"] == "erk")
    panning = (table["task"] == "ResNet-20") & (table["method"] == "panning")
    table.loc[panning, "accuracy"] = 0.9 + 0.001 * table.loc[panning, "seed"]
    table.loc[sure, "accuracy"] = 0.5
    ax = claim_a_figures.gains(table, "panning", 0.95).axes[1]
    first = [name for name in LOOKS if name in METHODS and name != "panning"].index("erk")
    written = [text.get_text() for text in ax.texts][2 * first : 2 * first + 2]
    assert written == ["+40.1*", "+40.1*"]
    table.loc[sure, "accuracy"] = 0.9 + 0.05 * (table.loc[sure, "seed"] - 1)
    ax = claim_a_figures.gains(table, "panning", 0.95).axes[1]
    assert not [t for t in ax.texts[2 * first : 2 * first + 2] if "*" in t.get_text()]


def test_ranks_are_drawn_from_the_best_down_with_a_bar_of_the_critical_difference() -> None:
    wins, differences = ranked()
    figure = claim_a_figures.ranks(wins, differences)
    axes = np.reshape(figure.axes, (2, 2))
    for (left, right), (task, difference) in zip(axes, differences.items(), strict=True):
        part = wins[wins["task"] == task].sort_values("mean_rank")
        labels = [text.get_text() for text in left.get_yticklabels()]
        assert labels == [LOOKS[name].label for name in part["method"]]
        bar = left.lines[-1].get_xdata()
        assert bar[1] - bar[0] == pytest.approx(difference)
        for ax, value in ((left, "mean_rank"), (right, "iqm")):
            shown = [container.lines[0].get_xdata()[0] for container in ax.containers]
            assert shown == pytest.approx(part[value].tolist())


# --- claim B -------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["design", "tuned"], ["tuned", "design"]])
def test_each_agent_stands_at_its_gap_to_the_best_constant(names: list[str]) -> None:
    table = returns()
    ax = claim_b_figures.learning(table, names, 0.95).axes[0]
    gaps = analysis.learning_gaps(table)
    gaps = gaps.groupby(["settings", "policy"], sort=False)["gap"].mean().reset_index()
    assert [text.get_text() for text in ax.get_yticklabels()] == names
    stars = [line for line in colors(ax)[color("rlpanning")] if line.get_marker() == "*"]
    for y, (name, line) in enumerate(zip(names, stars, strict=True)):
        part = gaps[(gaps["settings"] == name) & gaps["policy"].str.startswith("agent")]
        assert line.get_xdata() == pytest.approx(part["gap"].tolist())
        assert set(line.get_ydata()) == {y}
    for policy, method in (("hand-made", "panning"), ("SynFlow alone", "synflow")):
        shown = [line.get_xdata()[0] for line in colors(ax)[color(method)]]
        theirs = gaps[gaps["policy"] == policy].set_index("settings")["gap"]
        assert shown == pytest.approx(theirs[names].tolist())


def test_correlations_are_bars_from_the_lowest_to_the_highest() -> None:
    ax = claim_b_figures.reward(*judged()).axes[-1]
    assert [bar.get_width() for bar in ax.patches] == [-0.2, 0.1, 0.9]
    assert to_rgba(ax.patches[1].get_facecolor()) == color("panning")
    assert len({bar.get_facecolor() for bar in ax.patches}) == 3


def test_each_target_has_every_agent_and_their_mean_beside_each_opponent() -> None:
    gaps = transfer()
    left, right = claim_b_figures.transfer(gaps, TARGETS, 0.95).axes
    assert [text.get_text() for text in left.get_yticklabels()] == list(TARGETS)
    own = gaps[gaps["kind"] == "agent"]
    opponents = ("hand-made", "SynFlow alone", "best constant", "random")
    for ax, value in ((left, "return"), (right, "accuracy")):
        shown = [container.lines[0].get_xdata()[0] for container in ax.containers]
        expected = [
            own[(own["opponent"] == opponent) & (own["target"] == target)][value].mean()
            for opponent, target in itertools.product(opponents, TARGETS)
        ]
        assert shown == pytest.approx(expected)
        dots = [line.get_xdata() for line in ax.lines if line.get_marker() == "."]
        agents = own.groupby(["opponent", "target", "agent"])[value].mean()
        places = itertools.product(opponents, TARGETS)
        assert len(dots) == 4 * 3
        for found, place in zip(dots, places, strict=True):  # a dot an agent, not a network
            assert sorted(found) == pytest.approx(sorted(agents[place]))


def test_opponents_have_colours_that_cannot_be_taken_for_each_other() -> None:
    ax = claim_b_figures.transfer(transfer(), TARGETS, 0.95).axes[0]
    shown = [container.lines[0].get_color() for container in ax.containers][::3]
    assert len({to_rgba(one) for one in shown}) == 4
    assert to_rgba(shown[3]) == color("random")
    assert to_rgba(shown[2]) not in {color(method) for method in LOOKS}


def test_a_learned_policy_is_the_mean_share_over_agents() -> None:
    table = actions()
    figure = claim_b_figures.learned_policy(table)
    shares = analysis.proportions(table)
    images = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    assert len(images) == 3 * 3
    part = shares[shares["policy"].str.startswith("agent")]
    expected = part.pivot_table(index="final_target", columns="iteration", values="p_snip")
    assert np.allclose(images[3 + 1], expected)
    assert np.allclose(sum(images[:3]), 1)


def test_kinds_of_policies_that_are_not_there_have_no_row() -> None:
    figure = claim_b_figures.learned_policy(actions(("hand-made", "agent 0")))
    assert len([ax for ax in figure.axes if ax.images]) == 2 * 3


# --- claim C, and the metrics --------------------------------------------------------------------


def test_force_shows_departures_returns_and_shares_of_the_score() -> None:
    layers, departures = flows()
    left, middle, right = force_figures.force(layers, departures).axes[:3]
    for line in left.lines:
        assert line.get_ydata() == pytest.approx([90, 8, 2])
    assert [line.get_label() for line in left.lines] == ["90 %", "99 %"]
    part = layers[layers["sparsity"] == 0.9]
    total = part.groupby(["seed", "iteration"])[["reactivated", "removed"]].sum()
    mean = (total["reactivated"] / total["removed"]).groupby("iteration").mean()
    assert middle.lines[0].get_ydata() == pytest.approx(mean.tolist())
    shares = {line.get_label(): set(np.round(line.get_ydata(), 9)) for line in right.lines}
    assert shares == {"fc1": {0.6}, "fc2": {0.3}, "fc3": {0.1}}


def test_an_iteration_that_removes_nothing_returns_nothing() -> None:
    layers, departures = flows()
    layers.loc[layers["iteration"] == 1, ["removed", "reactivated"]] = 0
    middle = force_figures.force(layers, departures).axes[1]
    assert middle.lines[0].get_ydata()[0] == 0
    assert np.isfinite(middle.lines[0].get_ydata()).all()


def test_overlaps_are_drawn_seed_by_seed_beside_what_chance_gives() -> None:
    table = overlaps()
    figure = force_figures.agreement(table)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    fused = LOOKS["iterative_fused"].label
    assert labels == [fused, f"{fused}, T = 5", "SNIP", "SynFlow, T = 5"]
    for ax, rho in zip(figure.axes, (0.9, 0.99), strict=True):
        (line,) = colors(ax)[color("snip")]
        assert line.get_xdata() == pytest.approx([0.2, 0.21])
        assert ax.lines[-1].get_xdata() == pytest.approx([1 - rho] * 2)


def test_every_check_has_a_look_and_its_mean() -> None:
    assert set(force_figures.CHECKS) == {"unchanged", *sanity.CHECKS}
    table = checked()
    figure = force_figures.checks(table, 0.95)
    for ax, rho in zip(figure.axes, (0.9, 0.99), strict=True):
        shown = [container.lines[0].get_xdata()[0] for container in ax.containers]
        part = table[table["sparsity"] == rho].groupby(["check", "method"])["accuracy"].mean()
        expected = [
            100 * part[check, method]
            for check, method in itertools.product(force_figures.CHECKS, ("snip", "panning"))
        ]
        assert shown == pytest.approx(expected)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(force_figures.CHECKS)


def test_collapse_is_drawn_over_compression() -> None:
    left, right = force_figures.collapse(collapsing()).axes[:2]
    (line,) = colors(left)[color("panning")]
    assert line.get_xdata().tolist() == [10, 1000, 80000]
    assert line.get_ydata().tolist() == [10000, 100, 1]
    assert set(colors(right)[color("synflow")][0].get_ydata()) == {0.5}


def test_choices_are_drawn_study_by_study_and_coloured_where_they_tell() -> None:
    table = chosen()
    table.loc[table["study"] == "reference", "accuracy"] = 0.7
    linear = table["setting"] == "linear"
    table.loc[linear, "accuracy"] = 0.6 + 0.001 * table.loc[linear, "seed"]
    snip = table["setting"] == "SNIP"
    table.loc[snip, "accuracy"] = 0.7 + 0.1 * (table.loc[snip, "seed"] - 1)
    figure = force_figures.choices(table, 0.95)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["SNIP", "GraSP", "linear"]
    for ax in figure.axes:
        points = [container.lines[0] for container in ax.containers]
        assert points[2].get_xdata() == pytest.approx([-9.9])
        assert to_rgba(points[2].get_color()) == color("panning")
        assert points[0].get_xdata() == pytest.approx([0], abs=1e-9)
        assert to_rgba(points[0].get_color()) == to_rgba("0.5")
        places = [line.get_ydata()[0] for line in points]
        assert places[2] - places[1] > places[1] - places[0]  # a gap between studies
    assert [text.get_text() for text in figure.axes[-1].texts] == ["metrics", "schedule"]
