"""What a handful of seeds can say agrees with the textbooks, and with hand-made tables."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.study.statistics import (
    bootstrap_p,
    crossed,
    holm,
    interval,
    p_value,
    paired,
    rank_correlation,
    spearman,
    summary,
)

# --- intervals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "confidence", "quantile"),
    [
        ([1.0, 2.0, 3.0], 0.95, 4.302653),  # of Student's t, from a printed table
        ([1.0, 2.0, 3.0], 0.9, 2.919986),
        ([0.0, 4.0], 0.95, 12.706205),
        ([2.0, 4.0, 4.0, 4.0, 6.0], 0.99, 4.604095),
    ],
)
def test_an_interval_is_students(values: list[float], confidence: float, quantile: float) -> None:
    count, center = len(values), sum(values) / len(values)
    variance = sum((value - center) ** 2 for value in values) / (count - 1)
    half = quantile * math.sqrt(variance / count)
    assert interval(values, confidence) == pytest.approx((center, center - half, center + half))


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
def test_an_interval_of_two_and_of_three_values_has_a_closed_form(confidence: float) -> None:
    low, high = interval([1.0, 3.0], confidence)[1:]  # of Cauchy's distribution
    half = math.tan(math.pi * confidence / 2)
    assert (low, high) == pytest.approx((2 - half, 2 + half))
    values = [1.0, 2.0, 4.0]
    mean, low, high = interval(values, confidence)
    t = confidence * math.sqrt(2 / (1 - confidence**2))  # the quantile at two degrees of freedom
    half = t * np.std(values, ddof=1) / math.sqrt(3)
    assert (mean, low, high) == pytest.approx((7 / 3, 7 / 3 - half, 7 / 3 + half))


def test_students_interval_covers_the_mean_as_often_as_it_says() -> None:
    samples = np.random.default_rng(4).normal(size=(400, 5))
    ends = np.array([interval(sample, 0.95)[1:] for sample in samples])
    covered = (ends[:, 0] < 0) & (ends[:, 1] > 0)
    assert covered.mean() == pytest.approx(0.95, abs=0.03)


def test_a_single_value_has_no_interval() -> None:
    mean, low, high = interval([0.7], 0.95)
    assert mean == 0.7
    assert math.isnan(low) and math.isnan(high)


@pytest.mark.filterwarnings("error")
def test_values_that_differ_by_rounding_have_an_interval_of_no_length() -> None:
    assert interval([0.5, 0.5, 0.5], 0.95) == (0.5, 0.5, 0.5)
    assert interval([0.0, 0.0], 0.95) == (0.0, 0.0, 0.0)
    values = [100 * (a - b) for a, b in ((0.3, 0.2), (0.6, 0.5), (0.2, 0.1))]
    assert len(set(values)) > 1
    mean, low, high = interval(values, 0.95)
    assert mean == low == high == pytest.approx(10)
    assert p_value(values) == 0


def accuracies() -> pd.DataFrame:
    values = {
        ("a", 0.9): [0.8, 0.9, 1.0],
        ("a", 0.5): [0.6, 0.8],
        ("b", 0.9): [0.7, 0.7, 0.9],
        ("b", 0.5): [0.5, 0.9],
        ("c", 0.9): [0.0, 0.0, 0.0],
    }
    return pd.DataFrame(
        {"method": method, "sparsity": rho, "seed": seed, "accuracy": value}
        for (method, rho), row in values.items()
        for seed, value in enumerate(row)
    )


@pytest.mark.parametrize("by", [["method", "sparsity"], ["sparsity"]])
def test_a_summary_has_the_interval_of_each_group(by: list[str]) -> None:
    table = accuracies()
    found = summary(table.sample(frac=1, random_state=0), by, "accuracy", 0.95)
    expected = sorted(set(table[by].itertuples(index=False, name=None)))
    assert list(found[by].itertuples(index=False, name=None)) == expected
    for row in found.to_dict("records"):
        group = table[(table[by] == [row[key] for key in by]).all(axis=1)].accuracy
        assert row["n"] == len(group)
        assert (row["mean"], row["low"], row["high"]) == pytest.approx(interval(group, 0.95))


def compare(table: pd.DataFrame) -> list[dict]:
    found = paired(table, "method", "a", "b", ["sparsity"], "accuracy", 0.95)
    return found.to_dict("records")


def test_a_paired_difference_is_taken_seed_by_seed() -> None:
    first, second = compare(accuracies().sample(frac=1, random_state=1))
    differences = {0.5: [0.1, -0.1], 0.9: [0.1, 0.2, 0.1]}
    for row, rho in ((first, 0.5), (second, 0.9)):
        assert (row["sparsity"], row["n"]) == (rho, len(differences[rho]))
        expected = interval(differences[rho], 0.95)
        assert (row["mean"], row["low"], row["high"]) == pytest.approx(expected, abs=1e-12)


def test_pairing_takes_out_what_the_two_share() -> None:
    table = accuracies()
    table.loc[table.seed == 0, "accuracy"] += 10
    for row, expected in zip(compare(table), compare(accuracies()), strict=True):
        assert row == pytest.approx(expected, abs=1e-12)


def test_a_seed_without_its_pair_does_not_count() -> None:
    table = accuracies().drop(index=0)  # method a, sparsity 0.9, seed 0
    assert [row["n"] for row in compare(table)] == [2, 2]
    assert compare(table)[1]["mean"] == pytest.approx(0.15)


def test_two_values_for_one_seed_are_no_pair() -> None:
    table = accuracies()
    with pytest.raises(ValueError, match="duplicate"):
        compare(pd.concat([table, table.iloc[:1]]))


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
    agents, networks = np.indices(values.shape).reshape(2, -1)
    table = pd.DataFrame({"agent": agents, "network": networks, "gap": values.ravel()})
    table["network"] = "width 2 " + table["network"].astype(str)
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


def test_two_agents_on_two_networks_are_worked_out_by_hand() -> None:
    # Means of agents 1.5 and 4.5, of networks 2 and 4: variances of the mean 4.5 / 2 and 2 / 2.
    found = crossed(grid(np.array([[1.0, 2.0], [3.0, 6.0]])), "gap", 0.95)
    error, freedom = math.sqrt(2.25 + 1), (2.25 + 1) ** 2 / (2.25**2 / 1 + 1**2 / 1)
    half = error * stats.t.ppf(0.975, freedom)
    p = 2 * stats.t.sf(3 / error, freedom)
    assert found == pytest.approx((3, 3 - half, 3 + half, p))


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

    assert np.mean([covered() for _ in range(300)]) > 0.93


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
