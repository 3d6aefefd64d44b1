"""What a handful of seeds can say agrees with the textbooks, and with hand-made tables."""

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.inference import (
    bootstrap,
    bootstrap_p,
    critical_difference,
    crossed,
    holm,
    iqm,
    iqm_over_tasks,
    p_value,
    rank_correlation,
    spearman,
    wins,
)
from lib.results import interval

# --- bootstrap -----------------------------------------------------------------------------------


def test_a_single_value_has_no_bootstrap_interval() -> None:
    mean, low, high = bootstrap([0.7], 0.95)
    assert mean == 0.7
    assert math.isnan(low) and math.isnan(high)


def test_equal_values_have_a_bootstrap_interval_of_no_length() -> None:
    assert bootstrap([0.5] * 4, 0.95) == (0.5, 0.5, 0.5)


def test_many_values_have_the_interval_of_normal_theory() -> None:
    values = np.random.default_rng(1).normal(3, 2, 600)
    mean, low, high = bootstrap(values, 0.95)
    half = 1.959964 * values.std(ddof=1) / math.sqrt(len(values))
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


def test_more_confidence_is_a_wider_interval_around_the_narrower_one() -> None:
    values = np.random.default_rng(2).normal(size=9)
    ends = [bootstrap(values, confidence)[1:] for confidence in (0.5, 0.8, 0.95, 0.99)]
    for (low, high), (lower, higher) in itertools.pairwise(ends):
        assert lower < low < values.mean() < high < higher
    assert values.min() <= ends[-1][0] and ends[-1][1] <= values.max()


def test_half_of_the_resamples_lie_within_an_interval_of_a_half() -> None:
    values = np.random.default_rng(3).normal(size=40)
    low, high = bootstrap(values, 0.5)[1:]
    drawn = np.random.default_rng(99).choice(values, (4000, 40)).mean(axis=1)
    assert ((drawn > low) & (drawn < high)).mean() == pytest.approx(0.5, abs=0.05)


def test_with_five_values_the_bootstrap_is_too_narrow_and_students_t_is_not() -> None:
    samples = np.random.default_rng(4).normal(size=(300, 5))

    def coverage(method) -> float:
        ends = np.array([method(sample, 0.95)[1:] for sample in samples])
        return float(((ends[:, 0] < 0) & (ends[:, 1] > 0)).mean())

    assert coverage(interval) == pytest.approx(0.95, abs=0.03)
    assert 0.75 < coverage(bootstrap) < 0.9


def test_a_bootstrap_is_the_same_again_by_its_seed() -> None:
    values = np.random.default_rng(5).normal(size=8)
    assert bootstrap(values, 0.9, seed=1) == bootstrap(list(values), 0.9, seed=1)
    assert bootstrap(values, 0.9, seed=1)[1:] != bootstrap(values, 0.9, seed=2)[1:]


@pytest.mark.parametrize("statistic", [np.mean, np.median, iqm])
def test_the_interval_moves_and_stretches_with_the_values(statistic) -> None:
    values = np.random.default_rng(6).normal(size=12)
    expected = [5 + 3 * end for end in bootstrap(values, 0.9, statistic)]
    assert bootstrap(5 + 3 * values, 0.9, statistic) == pytest.approx(expected)
    assert expected[0] == pytest.approx(5 + 3 * statistic(values))


# --- interquartile means -------------------------------------------------------------------------


def test_the_interquartile_mean_of_eight_is_that_of_the_middle_four() -> None:
    values = np.array([6.0, 1000.0, 3.0, -500.0, 5.0, 4.0, 70.0, 0.0])
    assert iqm(values) == (3 + 4 + 5 + 6) / 4


@pytest.mark.parametrize(("count", "dropped"), [(3, 0), (4, 1), (5, 1), (9, 2), (45, 11)])
def test_a_quarter_is_dropped_at_either_end_rounded_down(count: int, dropped: int) -> None:
    values = np.arange(count) ** 3.0
    assert iqm(values[::-1]) == pytest.approx(values[dropped : count - dropped].mean())


def test_the_interquartile_mean_is_taken_along_an_axis() -> None:
    values = np.random.default_rng(7).normal(size=(5, 8))
    assert iqm(values) == pytest.approx([np.sort(row)[2:6].mean() for row in values])
    assert np.array_equal(iqm(values.T, axis=0), iqm(values))


def runs(values: np.ndarray) -> pd.DataFrame:
    """values[task][seed] as a table, in no order."""
    table = pd.DataFrame(
        {"sparsity": 0.1 * task, "seed": seed, "accuracy": value}
        for task, row in enumerate(values)
        for seed, value in enumerate(row)
    )
    return table.sample(frac=1, random_state=0)


def test_over_tasks_it_is_the_interquartile_mean_of_all_runs() -> None:
    values = np.random.default_rng(8).normal(size=(4, 6)) + 3 * np.arange(4)[:, None]
    found, low, high = iqm_over_tasks(runs(values), ["sparsity"], "accuracy", 0.95)
    assert found == pytest.approx(np.sort(values.ravel())[6:18].mean())
    assert low < found < high


def test_where_the_seeds_of_each_task_agree_there_is_no_uncertainty() -> None:
    table = runs(np.repeat([[1.0], [5.0], [20.0], [21.0]], 3, axis=1))
    assert iqm_over_tasks(table, ["sparsity"], "accuracy", 0.95) == pytest.approx((12.5,) * 3)


def test_one_task_has_the_interval_of_a_plain_bootstrap() -> None:
    values = np.random.default_rng(9).normal(size=40)
    found = iqm_over_tasks(runs(values[None]), ["sparsity"], "accuracy", 0.9)
    assert found == pytest.approx(bootstrap(values, 0.9, iqm, seed=1), abs=0.05)


def test_tasks_that_share_their_luck_are_no_more_certain_than_one_of_them() -> None:
    luck = np.random.default_rng(16).normal(size=8)
    _, low, high = found = iqm_over_tasks(
        runs(np.tile(luck, (6, 1))), ["sparsity"], "accuracy", 0.95
    )
    assert found == pytest.approx(iqm_over_tasks(runs(luck[None]), ["sparsity"], "accuracy", 0.95))
    # Seeds drawn anew in each task would average the luck away.
    drawn = np.random.default_rng(17).choice(luck, (4000, 6 * 8))
    ends = np.quantile(iqm(drawn), [0.025, 0.975])
    assert ends[1] - ends[0] < 0.6 * (high - low)


# --- wins and ranks ------------------------------------------------------------------------------

WON = {  # method: sparsity: a value a seed; "b" loses, wins and ties against "a", "c" always loses
    "a": {0.5: [0.9, 0.9, 0.9], 0.9: [0.9, 0.9, 0.9], 0.99: [0.9, 0.9, 0.9]},
    "b": {0.5: [0.8, 0.79, 0.78], 0.9: [1.0, 1.01, 1.02], 0.99: [0.8, 1.0, 0.87]},
    "c": {0.5: [0.5, 0.51, 0.52], 0.9: [0.5, 0.51, 0.52], 0.99: [0.5, 0.51, 0.52]},
}


def competition(**methods: dict) -> pd.DataFrame:
    return pd.DataFrame(
        {"method": method, "sparsity": rho, "seed": seed, "accuracy": value}
        for method, tasks in methods.items()
        for rho, values in tasks.items()
        for seed, value in enumerate(values)
    ).sample(frac=1, random_state=1)


def test_wins_ties_losses_and_ranks_are_those_of_the_table() -> None:
    found = wins(competition(**WON), "a", ["sparsity"], "accuracy", 0.95).set_index("method")
    assert list(found.index) == ["a", "b", "c"]  # by mean rank
    assert found["mean_rank"].tolist() == pytest.approx([4 / 3, 5 / 3, 3])
    assert found.loc["b", ["wins", "ties", "losses"]].tolist() == [1, 1, 1]
    assert found.loc["c", ["wins", "ties", "losses"]].tolist() == [3, 0, 0]
    assert found.loc["b", "mean_gain"] == pytest.approx((0.11 - 0.11 + 0.01) / 3)
    assert found.loc["c", "mean_gain"] == pytest.approx(0.39)
    assert found.loc["a", ["wins", "ties", "losses", "mean_gain"]].isna().all()


def test_the_other_side_has_wins_where_this_one_has_losses() -> None:
    table = competition(a=WON["a"], b=WON["c"])
    mine, theirs = (
        wins(table, first, ["sparsity"], "accuracy", 0.95).set_index("method").loc[other]
        for first, other in (("a", "b"), ("b", "a"))
    )
    assert (mine["wins"], mine["losses"]) == (theirs["losses"], theirs["wins"]) == (3, 0)
    assert mine["mean_gain"] == pytest.approx(-theirs["mean_gain"])


def test_equal_methods_tie_everywhere_and_share_their_rank() -> None:
    table = competition(a=WON["b"], b=WON["b"], c=WON["c"])
    found = wins(table, "a", ["sparsity"], "accuracy", 0.95).set_index("method")
    assert found["mean_rank"].tolist() == [1.5, 1.5, 3]
    assert found.loc["b", ["wins", "ties", "losses"]].tolist() == [0, 3, 0]


def test_a_single_seed_wins_nothing() -> None:
    table = competition(**WON)
    found = wins(table[table["seed"] == 0], "a", ["sparsity"], "accuracy", 0.95)
    assert found.set_index("method").loc[["b", "c"], "ties"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("methods", "tasks", "confidence", "expected"),
    [  # Demšar's example, and its quantiles over √2 from his table 5
        (4, 14, 0.95, 1.25),
        (4, 14, 0.9, 1.12),
        (2, 1, 0.95, 1.960),
        (3, 2, 0.95, 2.343),
        (5, 5, 0.95, 2.728),
        (8, 12, 0.9, 2.780),
    ],
)
def test_the_critical_difference_is_that_of_demsar_2006(
    methods: int, tasks: int, confidence: float, expected: float
) -> None:
    assert critical_difference(methods, tasks, confidence) == pytest.approx(expected, abs=0.005)


# --- p-values ------------------------------------------------------------------------------------


def test_p_of_two_and_of_three_values_has_a_closed_form() -> None:
    for values in ([1.0, 3.0], [-0.2, 0.5]):  # t with one degree of freedom is Cauchy's
        t = abs(sum(values)) / abs(values[0] - values[1])
        assert p_value(values) == pytest.approx(1 - 2 / math.pi * math.atan(t))
    values = [1.0, 2.0, 4.0]
    t = np.mean(values) / (np.std(values, ddof=1) / math.sqrt(3))
    assert p_value(values) == pytest.approx(1 - t / math.sqrt(2 + t**2))


def test_p_is_that_of_a_t_test_and_knows_no_sign() -> None:
    values = np.random.default_rng(10).normal(0.4, 1, 12)
    assert p_value(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert p_value(-values) == pytest.approx(p_value(values))
    assert p_value(7 * values) == pytest.approx(p_value(values))


def test_p_of_paired_differences_is_that_of_the_paired_test() -> None:
    first, second = np.random.default_rng(11).normal(size=(2, 6))
    assert p_value(first - second) == pytest.approx(stats.ttest_rel(first, second).pvalue)


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.6, 0.9, 1.5])
def test_p_is_below_a_level_just_where_the_interval_leaves_out_0(shift: float) -> None:
    values = np.random.default_rng(12).normal(size=5) + shift
    for confidence in (0.8, 0.95, 0.99):
        _, low, high = interval(values, confidence)
        assert (p_value(values) < 1 - confidence) == (low > 0 or high < 0)


@pytest.mark.parametrize(
    ("values", "p"), [([], 1), ([0.3], 1), ([0.0, 0.0, 0.0], 1), ([0.5, 0.5], 0), ([-1, -1, -1], 0)]
)
def test_p_of_nothing_to_test_and_of_no_spread(values: list[float], p: float) -> None:
    assert p_value(values) == p


def test_holms_correction_of_a_known_example() -> None:
    # 4 x 0.005; 3 x 0.01; 2 x 0.03; and 1 x 0.04, which may not fall below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_corrected_p_is_ordered_bounded_and_never_below_the_raw_one() -> None:
    p = np.random.default_rng(13).uniform(size=20) ** 3
    corrected = holm(p)
    assert (np.diff(corrected[p.argsort()]) >= 0).all()
    assert (corrected >= p).all() and (corrected <= 1).all()
    assert (corrected <= np.minimum(1, 20 * p)).all()  # never worse than Bonferroni's
    assert corrected.min() == pytest.approx(20 * p.min())
    shuffle = np.random.default_rng(14).permutation(20)
    assert np.array_equal(holm(p[shuffle]), corrected[shuffle])


def test_a_single_p_is_left_as_it_is_and_equal_ones_stay_equal() -> None:
    assert holm([0.03]) == [0.03]
    assert holm([0.01, 0.01, 0.01]) == pytest.approx([0.03] * 3)


def test_holm_rejects_no_true_hypothesis_more_often_than_the_level_says() -> None:
    p = np.random.default_rng(15).uniform(size=(2000, 5))
    wrong = np.mean([holm(row).min() < 0.05 for row in p])
    assert wrong == pytest.approx(0.05, abs=0.015)


# --- agents and networks -------------------------------------------------------------------------


def grid(values: np.ndarray) -> pd.DataFrame:
    """values[agent][network] as a table, in no order."""
    table = pd.DataFrame(
        {"agent": f"agent {agent}", "network": f"width 2 {network}", "gap": value}
        for agent, row in enumerate(values)
        for network, value in enumerate(row)
    )
    return table.sample(frac=1, random_state=0)


def length(found: tuple[float, ...]) -> float:
    return found[2] - found[1]


def test_agents_on_networks_have_their_plain_mean_within_its_interval() -> None:
    values = np.random.default_rng(18).normal(0.2, 1, (5, 4))
    found, low, high, p = crossed(grid(values), "gap", 0.95)
    assert found == pytest.approx(values.mean())
    assert low < found < high
    narrower = crossed(grid(values), "gap", 0.5)
    assert low < narrower[1] < found < narrower[2] < high
    assert narrower[3] == p  # which knows no level
    touching = crossed(grid(values), "gap", 1 - p)
    assert min(map(abs, touching[1:3])) == pytest.approx(0, abs=1e-9)


def test_where_networks_do_not_differ_it_is_students_t_of_the_agents_and_the_other_way_round() -> (
    None
):
    agents = np.array([0.9, 1.0, 1.1, 1.05, 0.95])
    for values in (np.tile(agents[:, None], 4), np.tile(agents, (4, 1))):
        found = crossed(grid(values), "gap", 0.95)
        assert found[:3] == pytest.approx(interval(agents, 0.95))
        assert found[3] == pytest.approx(p_value(agents))


def test_networks_that_differ_widen_what_agents_alone_would_say() -> None:
    agents = np.array([0.9, 1.0, 1.1, 1.05, 0.95])
    alone = interval(agents, 0.95)
    found = crossed(grid(agents[:, None] + [-2.0, -1.0, 0.5, 2.5]), "gap", 0.95)
    assert found[0] == pytest.approx(alone[0])
    assert alone[1] > 0 and found[1] < 0 < found[2]  # what seemed sure is open
    assert found[3] > 0.05


def test_the_variances_of_agents_and_of_networks_add_up() -> None:
    rng = np.random.default_rng(19)
    agents, luck = rng.normal(0, 1, (300, 1)), rng.normal(0, 2, (1, 400))
    half = 1.959964 * math.sqrt(agents.var() / 300 + luck.var() / 400)
    assert length(crossed(grid(agents + luck), "gap", 0.95)) / 2 == pytest.approx(half, rel=0.02)


@pytest.mark.parametrize("spread", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (1, 0.3, 0.5)])
def test_few_agents_on_few_networks_hold_the_level_whichever_of_them_differs(spread) -> None:
    rng = np.random.default_rng(21)

    def covered() -> bool:
        agents, networks, pairs = (
            scale * rng.normal(size=shape)
            for scale, shape in zip(spread, ((5, 1), (1, 4), (5, 4)), strict=True)
        )
        _, low, high, _ = crossed(grid(agents + networks + pairs), "gap", 0.95)
        return low < 0 < high

    assert np.mean([covered() for _ in range(600)]) > 0.93


def test_where_every_agent_has_one_value_on_every_network_the_interval_has_no_length() -> None:
    for value, p in ((0.25, 0.0), (-0.25, 0.0), (0.0, 1.0)):
        assert crossed(grid(np.full((3, 2), value)), "gap", 0.95) == (value, value, value, p)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (5, 1)])
def test_one_agent_or_one_network_says_nothing_of_others(shape: tuple[int, int]) -> None:
    values = 0.3 + np.arange(shape[0] * shape[1], dtype=float).reshape(shape)
    mean, low, high, p = crossed(grid(values), "gap", 0.95)
    assert mean == pytest.approx(values.mean())
    assert math.isnan(low) and math.isnan(high) and p == 1


def test_the_crossed_interval_has_units_and_a_sign_and_knows_no_order() -> None:
    values = np.random.default_rng(20).normal(0.4, 1, (5, 3))
    found = crossed(grid(values), "gap", 0.9)
    assert (
        crossed(grid(values).iloc[::-1], "gap", 0.9) == found == crossed(grid(values), "gap", 0.9)
    )
    turned = crossed(grid(-10 * values), "gap", 0.9)
    expected = (-10 * found[0], -10 * found[2], -10 * found[1], found[3])
    assert turned == pytest.approx(expected)


def test_p_of_a_bootstrap_counts_the_resamples_on_the_other_side_of_0() -> None:
    for beyond in (0, 1, 7, 49):
        resampled = np.repeat([-0.1, 2.0], [beyond, 99 - beyond])
        assert bootstrap_p(resampled) == pytest.approx(2 * (1 + beyond) / 100)
        assert bootstrap_p(-resampled) == bootstrap_p(resampled)


def test_p_of_a_bootstrap_is_never_0_and_never_above_1() -> None:
    assert bootstrap_p(np.full(399, 5.0)) == 2 / 400
    assert bootstrap_p(np.zeros(399)) == 1  # each is on both sides
    assert bootstrap_p(np.repeat([-1.0, 1.0], 50)) == 1


# --- rank correlations ---------------------------------------------------------------------------


def test_ranks_are_compared_within_groups_and_not_across() -> None:
    # Falling within each group, although the second group is above the first in both.
    table = pd.DataFrame(
        {"rho": [0.9] * 3 + [0.5] * 3, "x": [1, 2, 3, 11, 12, 13], "y": [3, 2, 1, 13, 12, 11]}
    )
    assert stats.spearmanr(table["x"], table["y"]).statistic > 0
    assert rank_correlation(table, ["rho"], "x", "y") == pytest.approx((-1, -1, 2))


def test_the_mean_and_the_smallest_are_over_the_groups() -> None:
    # ρ = 1 - 6 Σ d² / (n (n² - 1)): 1, -1, and for 1 2 3 4 against 2 1 4 3: 1 - 24 / 60.
    pairs = {"a": [1, 2, 3, 4], "b": [4, 3, 2, 1], "c": [2, 1, 4, 3]}
    table = pd.DataFrame(
        {"group": group, "half": "whole", "x": x, "y": y**3}
        for group, ys in pairs.items()
        for x, y in zip([1, 2, 3, 4], ys, strict=True)
    )
    found = rank_correlation(table, ["group", "half"], "x", "y")
    assert found == pytest.approx(((1 - 1 + 0.6) / 3, -1, 3))


def test_spearmans_rho_is_scipys() -> None:
    first, second = np.random.default_rng(21).normal(size=(2, 25)) ** 3
    ties = np.round(second)
    for other in (second, ties, -ties, first, -first):
        expected = stats.spearmanr(first, other).statistic
        assert spearman(first, other) == pytest.approx(expected)
        assert spearman(pd.Series(first), list(other)) == pytest.approx(expected)
    assert spearman(first, np.exp(first)) == pytest.approx(1)


def test_what_has_no_ranks_has_no_correlation_and_what_is_unknown_is_not_called_0() -> None:
    values, constant, gap = [3.0, 1.0, 2.0], [7.0] * 3, [1.0, float("nan"), 2.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert spearman(values, constant) == spearman(constant, values) == 0
        assert spearman(constant, constant) == 0
        for other in (values, constant, gap):
            assert math.isnan(spearman(gap, other)) and math.isnan(spearman(other, gap))


def test_a_group_with_an_unknown_value_makes_the_mean_unknown() -> None:
    table = pd.DataFrame({"g": [0, 0, 0, 1, 1, 1], "x": [1.0, 2, 3, 1, 2, 3], "y": [1.0, 2, 3] * 2})
    table.loc[4, "y"] = float("nan")
    mean, _, groups = rank_correlation(table, ["g"], "x", "y")
    assert math.isnan(mean) and groups == 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("constant", ["x", "y"])
def test_a_constant_column_has_no_ranks_and_counts_as_none(constant: str) -> None:
    table = pd.DataFrame({"g": [0, 0, 0, 1, 1, 1], "x": [1, 2, 3, 1, 2, 3], "y": [1, 2, 3] * 2})
    table.loc[table["g"] == 1, constant] = 7
    assert rank_correlation(table, ["g"], "x", "y") == pytest.approx((0.5, 0, 2))
