"""What the tables say: each difference and correlation on tables whose answer is known."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.study import analysis, parameters
from lib.study.statistics import crossed, interval

ENVIRONMENT = SimpleNamespace(alpha=100.0, grad_weight=0.2)

# --- what agents earn ----------------------------------------------------------------------------

EARNED = {  # settings: policy: how far above the environment's own level
    "tuned": {"agent 0": -1.0, "agent 1": 2.0, "best constant": 1.0, "random": -7.0},
    "design": {"agent 0": -5.0, "agent 1": -3.0, "best constant": 0.5, "random": -4.0},
}


def earned(settings: str, policy: str, seed: int) -> float:
    """Agent 1 has another network's luck; over the targets, agent 0's luck averages to 0."""
    return EARNED[settings][policy] + 0.3 * seed * (policy == "agent 1")


def returns() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for settings, policies in EARNED.items():
        for seed, rho in itertools.product(range(3), (0.9, 0.99)):
            level = rng.normal(-50, 20)  # of a network at a target, whoever prunes it
            luck = (0.0, 0.2 if rho == 0.9 else -0.2)
            rows += [
                {"settings": settings, "policy": policy, "seed": seed, "sparsity": rho}
                | {"return": level + earned(settings, policy, seed) + luck[policy == "agent 0"]}
                for policy in policies
            ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("opponent", ["best constant", "random"])
def test_a_gap_is_the_return_beside_the_opponents_in_the_same_environment(opponent: str) -> None:
    gaps = analysis.learning_gaps(returns(), opponent)
    assert set(gaps.columns) == {"settings", "seed", "policy", "gap"}
    found = gaps.set_index(["settings", "seed", "policy"])["gap"]
    assert len(found) == len(set(found.index)) == 2 * 3 * 3
    assert opponent not in gaps["policy"].unique()
    for (settings, seed, policy), gap in found.items():
        expected = earned(settings, policy, seed) - earned(settings, opponent, seed)
        assert gap == pytest.approx(expected)


def test_ways_to_train_stay_in_the_order_of_the_table() -> None:
    assert list(dict.fromkeys(analysis.learning_gaps(returns())["settings"])) == list(EARNED)
    backwards = returns().iloc[::-1]
    found = dict.fromkeys(analysis.learning_gaps(backwards)["settings"])
    assert list(found) == list(reversed(EARNED))


def test_a_way_to_train_with_fewer_agents_has_no_rows_for_those_it_lacks() -> None:
    table = returns()
    lacking = (table["settings"] == "design") & (table["policy"] == "agent 1")
    gaps = analysis.learning_gaps(table[~lacking])
    found = set(gaps[["settings", "policy"]].itertuples(index=False, name=None))
    everyone = itertools.product(EARNED, ("agent 0", "agent 1", "random"))
    assert found == set(everyone) - {("design", "agent 1")}
    assert len(gaps) == 3 * len(found)  # networks
    assert gaps["gap"].notna().all()


# --- what goes along with the accuracy -----------------------------------------------------------


def judged(count: int = 9) -> pd.DataFrame:
    """Policies that are better the higher their number, in every quantity there is."""
    rows = []
    for (shift, rho), seed in itertools.product(((0.0, 0.9), (-0.5, 0.99)), (0, 1)):
        for good in range(count):
            bad = count - good
            row = {"policy": f"{good:03d}", "sparsity": rho, "seed": seed}
            row |= {"accuracy": 0.6 + shift + 0.01 * good - 0.001 * seed}
            row |= {"reward_loss": -0.1 * bad, "reward_grad_norm": -0.02 * bad}
            row |= {"reward_sparsity": -1.0 * bad, "reward_dead": 0.0}
            row["return"] = sum(value for name, value in row.items() if name.startswith("reward"))
            row |= {"final_loss": 2.3, "final_loss_sparse": 2.3 + 0.1 * bad * (-1) ** good}
            row |= {"final_grad_norm_sq": 9.9, "final_grad_norm_sq_sparse": 9.9 - bad}
            row |= {"gap_loss_200": 1e-5 * bad, "gap_flow_200": 1e-7 * bad}
            row |= {"effective_sparsity": 0.9 + 0.001 * bad, "jacobian_mean": 0.1 * good}
            row |= {"ntk_trace": 5.0 * good, "path_norm": 1e9 * good}
            row |= {"loss_after_20": 2 - 0.1 * good, "loss_after_20_elsewhere": 2.1 - 0.1 * good}
            rows.append(row | {"loss_after_100": 1 + 0.1 * bad})
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_every_quantity_has_the_sign_with_which_it_should_go_along_with_the_accuracy() -> None:
    found = analysis.reward_correlations(judged(), ENVIRONMENT).set_index("what")
    assert len(found) == len(set(found.index)) == 10 + 9 + 3
    assert found["mean"].tolist() == pytest.approx([1.0] * len(found))
    assert found["smallest"].tolist() == pytest.approx([1.0] * len(found))
    assert set(found["groups"]) == {4}
    steps = {f"-loss after {what}" for what in ("20 steps", "100 steps", "20 steps, other images")}
    assert steps <= set(found.index)


def test_what_speaks_against_a_quantity_is_negative() -> None:
    table = judged()
    table["accuracy"] = -table["accuracy"]
    found = analysis.reward_correlations(table, ENVIRONMENT)
    assert found["mean"].tolist() == pytest.approx([-1.0] * len(found))


def noisy(count: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    table = judged(count).reset_index(drop=True)
    for column in table.columns.drop(["policy", "sparsity", "seed"]):
        table[column] = -rng.uniform(0.1, 1, len(table))
    names = ("loss", "grad_norm", "sparsity", "dead")
    table["return"] = sum(table[f"reward_{name}"] for name in names)
    return table


def spearman(table: pd.DataFrame, values: pd.Series) -> float:
    groups = table.assign(values=values).groupby(["sparsity", "seed"])
    return float(
        np.mean([stats.spearmanr(g["values"], g["accuracy"]).statistic for _, g in groups])
    )


@pytest.mark.parametrize(
    ("what", "weights"),
    [  # of the terms for loss, gradient norm and sparsity, in units of those of the returns
        ("return of the paper", (1, 1, 1)),
        ("return, w = 1", (1, 1 / 0.2, 1)),
        ("return, w = 0", (1, 0, 1)),
        ("return, α = 0", (1, 1, 0)),
        ("return, α = 1", (1, 1, 1 / 100)),
        ("return, α = 10", (1, 1, 10 / 100)),
        ("return, α = 1000", (1, 1, 10)),
    ],
)
def test_returns_of_other_weights_are_put_together_from_their_terms(what: str, weights) -> None:
    table = noisy()
    loss, grad, waste = weights
    expected = loss * table["reward_loss"] + grad * table["reward_grad_norm"]
    expected = expected + waste * table["reward_sparsity"] + table["reward_dead"]
    found = analysis.reward_correlations(table, ENVIRONMENT).set_index("what").loc[what]
    assert found["mean"] == pytest.approx(spearman(table, expected), abs=1e-12)


@pytest.mark.parametrize(
    ("what", "quantity"),
    [
        ("-|L - L_s|, temperature 1", lambda t: -(t["final_loss"] - t["final_loss_sparse"]).abs()),
        (
            "-|ΔL - ΔL_s|, temperature 1",
            lambda t: -(t["final_grad_norm_sq"] - t["final_grad_norm_sq_sparse"]).abs(),
        ),
        ("effective weights", lambda t: 1 - t["effective_sparsity"]),
    ],
)
def test_gaps_and_effective_weights_are_those_of_their_columns(what: str, quantity) -> None:
    table = noisy()
    found = analysis.reward_correlations(table, ENVIRONMENT).set_index("what").loc[what]
    assert found["mean"] == pytest.approx(spearman(table, quantity(table)), abs=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("weight", "symbol"), [("grad_weight", "w"), ("alpha", "α")])
def test_a_term_whose_weight_was_0_cannot_be_given_another_one(weight: str, symbol: str) -> None:
    table = noisy(12)
    full = analysis.reward_correlations(table, ENVIRONMENT).set_index("what")
    without = SimpleNamespace(**vars(ENVIRONMENT) | {weight: 0.0})
    found = analysis.reward_correlations(table, without).set_index("what")
    lacking = [what for what in full.index if what.startswith(f"return, {symbol} = ")]
    assert list(found.index) == [what for what in full.index if what not in lacking]
    assert len(lacking) == {"w": 2, "α": 4}[symbol]
    assert np.allclose(found["mean"], full.loc[found.index, "mean"])


# --- transfer ------------------------------------------------------------------------------------

WORTH = {  # policy: (return, accuracy), above the level of a target
    "agent 0": (-1.0, 0.03),
    "agent 1": (-2.0, 0.01),
    "trainability 0": (-9.0, 0.05),
    "hand-made": (-4.0, 0.02),
    "random": (-8.0, 0.00),
}


def luck(policy: str, seed: int, rho: float | None = None) -> float:
    """Of agent 0 on the second network; what it has at one target averages to 0 over both."""
    at = 0 if rho is None else 0.5 if rho == 0.9 else -0.5
    return (seed + at) * (policy == "agent 0")


def transfer() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    rows = []
    for target, rho, seed in itertools.product(("home", "width 2"), (0.9, 0.99), (0, 1)):
        level, base = rng.normal(-30, 9), rng.uniform(0.3, 0.9)
        worth = WORTH | ({"native agent": (-3.0, 0.04)} if target == "width 2" else {})
        rows += [
            {"target": target, "policy": policy, "sparsity": rho, "seed": seed}
            | {"return": level + above + 3 * luck(policy, seed, rho)}
            | {"accuracy": base + better + 0.01 * luck(policy, seed, rho)}
            for policy, (above, better) in worth.items()
        ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_an_agents_gap_is_its_own_value_minus_the_opponents_on_the_same_networks() -> None:
    gaps = analysis.transfer_gaps(transfer(), ["width 2", "home"])
    worth = WORTH | {"native agent": (-3.0, 0.04)}
    columns = {"target", "kind", "agent", "opponent", "seed", "return", "accuracy"}
    assert set(gaps.columns) == columns
    for row in gaps.to_dict("records"):
        mine, theirs = worth[row["agent"]], worth[row["opponent"]]
        own = luck(row["agent"], row["seed"])
        assert row["return"] == pytest.approx(mine[0] - theirs[0] + 3 * own)
        assert row["accuracy"] == pytest.approx(100 * (mine[1] - theirs[1]) + own)
        assert row["kind"] == row["agent"].split()[0]
    assert list(dict.fromkeys(gaps["target"])) == ["width 2", "home"]


def test_agents_meet_every_opponent_and_no_other_agent_but_a_native_one() -> None:
    gaps = analysis.transfer_gaps(transfer(), ["home", "width 2"])
    learned = ["agent 0", "agent 1", "trainability 0"]
    for target, opponents in (
        ("home", {"hand-made", "random"}),
        ("width 2", {"hand-made", "random", "native agent"}),
    ):
        here = gaps[gaps["target"] == target]
        found = set(here[["agent", "opponent", "seed"]].itertuples(index=False, name=None))
        assert found == set(itertools.product(learned, opponents, (0, 1)))
        assert len(here) == len(found)


# --- what was learned ----------------------------------------------------------------------------


def actions(
    weights: np.ndarray, policy: str = "agent 0", target: float = 0.9, seed: int = 3
) -> pd.DataFrame:
    """A roll-out: what stands beside p in a row came after it, but the target and the iteration."""
    steps = len(weights)
    rng = np.random.default_rng(seed)
    seen = {name: rng.permutation(steps) for name in analysis.SEEN}
    columns = dict(zip(analysis.P, weights.T, strict=True))
    where = {"policy": policy, "sparsity": target}
    return pd.DataFrame({**where, **columns, **seen, "iteration": range(1, steps + 1)})


def test_proportions_sum_to_1_and_do_not_know_the_scale() -> None:
    weights = np.random.default_rng(4).uniform(0.01, 1, (20, 3))
    one, other = (analysis.proportions(actions(f * weights))[analysis.P] for f in (1, 0.1))
    assert one.sum(axis=1).tolist() == pytest.approx([1] * 20)
    assert np.allclose(one, other)
    assert np.allclose(one, weights / weights.sum(axis=1, keepdims=True))


def test_no_weight_at_all_is_no_proportion() -> None:
    found = analysis.proportions(actions(np.array([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5]])))
    assert found[analysis.P].to_numpy().tolist() == [[0, 0, 0], [0, 0.5, 0.5]]


def test_dependence_is_the_rank_correlation_of_a_share_with_what_is_seen() -> None:
    t = np.arange(1, 31)
    agent = actions(np.stack([t / 100, np.full(30, 0.3), np.full(30, 0.2)], axis=1))
    agent["target_sparsity"] = np.sqrt(t)
    hand_made = actions(np.stack([1 / t, 1 - 1 / t, 0 * t], axis=1), "hand-made")
    found = analysis.dependence(pd.concat([agent, hand_made], ignore_index=True))
    assert list(found.columns) == analysis.P and set(found.index) == set(analysis.SEEN)
    for seen in ("iteration", "target_sparsity"):
        assert found.loc[seen, "p_synflow"] == pytest.approx(1)
        assert found.loc[seen, "p_snip"] == pytest.approx(-1)
    expected = stats.spearmanr(agent["loss_sparse"][:-1], t[1:]).statistic
    assert found.loc["loss_sparse", "p_synflow"] == pytest.approx(expected)
    less = analysis.dependence(agent.assign(p_snip=0.01))
    assert less.loc["iteration", "p_grasp"] == pytest.approx(-1)  # its share of what is left


@pytest.mark.parametrize("what", analysis.SEEN)
def test_an_agent_depends_on_what_it_saw_before_it_acted(what: str) -> None:
    episodes, before = [], what not in ("target_sparsity", "iteration")
    for index, target in enumerate((0.9, 0.99)):
        episode = actions(np.full((12, 3), 0.2), target=target, seed=index)
        seen = episode[what].shift().fillna(5) if before else episode[what]
        share = 0.1 + 0.02 * seen
        episode["p_synflow"], episode["p_snip"] = share, 1 - share
        episode["p_grasp"] = 0.0
        if before:  # an action that nothing came before
            episode.loc[0, analysis.P[:2]] = (0.99, 0.01) if index else (0.01, 0.99)
        episodes.append(episode)
    for table in (pd.concat(episodes), pd.concat(episodes[::-1]).sample(frac=1, random_state=1)):
        found = analysis.dependence(table.reset_index(drop=True))
        assert found.loc[what, "p_synflow"] == pytest.approx(1)
        assert found.loc[what, "p_snip"] == pytest.approx(-1)
        others = found.drop(index=what)["p_synflow"].abs()
        assert (others < 0.9).all()


def test_each_agent_and_target_has_an_episode_of_its_own() -> None:
    one = [actions(np.random.default_rng(i).uniform(0.1, 1, (2, 3))) for i in range(6)]
    names = itertools.product(("agent 0", "agent 1", "agent 2"), (0.9, 0.99))
    table = pd.concat(
        [t.assign(policy=p, sparsity=rho) for t, (p, rho) in zip(one, names, strict=True)],
        ignore_index=True,
    )
    table["loss_sparse"] = np.arange(len(table))
    last = analysis.proportions(table)[1::2]  # the only actions that came after something
    expected = stats.spearmanr(table["loss_sparse"][::2], last["p_snip"]).statistic
    found = analysis.dependence(table)
    assert found.loc["loss_sparse", "p_snip"] == pytest.approx(expected)
    assert (found.loc["iteration"] == 0).all()  # it is always the second


@pytest.mark.filterwarnings("error")
def test_an_agent_that_ignores_its_state_depends_on_nothing() -> None:
    found = analysis.dependence(actions(np.full((10, 3), 0.25)))
    assert (found == 0).all(axis=None)


# --- what is changed -----------------------------------------------------------------------------


def settings(values: dict[tuple[str, str], float], seeds: int = 3) -> pd.DataFrame:
    """Rows (study, setting); a seed has an accuracy of its own, and a setting a small part in it.

    Over the seeds a setting's part averages to 0.
    """
    rows = []
    for (index, ((study, setting), value)), (low, rho), seed in itertools.product(
        enumerate(values.items()), ((0, 0.9), (0.3, 0.99)), range(seeds)
    ):
        jitter = 0.001 * index * (seed - (seeds - 1) / 2)
        row = {"study": study, "setting": setting, "sparsity": rho, "seed": seed}
        rows.append(row | {"accuracy": value - low + 0.1 * seed + jitter})
    return pd.DataFrame(rows)


CHOICES = {
    ("samples", "1 a class"): 0.45,
    ("reference", "Panning"): 0.5,
    ("metrics", "SNIP"): 0.53,
    ("metrics", "GraSP"): 0.4,
}


def test_a_choice_is_measured_against_the_reference_in_points_by_seed() -> None:
    gaps = analysis.choice_gaps(settings(CHOICES), 0.95)
    assert len(gaps) == 3 * 2 and "reference" not in set(gaps["study"])
    assert list(dict.fromkeys(gaps["setting"])) == ["1 a class", "SNIP", "GraSP"]
    jitter = {"1 a class": -0.1, "SNIP": 0.1, "GraSP": 0.2}  # of the outer seeds, in points
    for row in gaps.to_dict("records"):
        expected = 100 * (CHOICES[row["study"], row["setting"]] - 0.5)
        step = jitter[row["setting"]]
        ends = interval([expected - step, expected, expected + step], 0.95)
        assert (row["mean"], row["low"], row["high"]) == pytest.approx(ends)
        assert row["n"] == 3


# --- 07, and the selection of 02 -----------------------------------------------------------------


def developed(values: dict[str, list[float]]) -> pd.DataFrame:
    """Two tasks, the first with two sparsities: {method: accuracy at the three places}."""
    places = [("one", 0.9), ("one", 0.99), ("two", 0.9)]
    return pd.DataFrame(
        {"task": task, "method": name, "sparsity": rho, "seed": seed, "accuracy": value + wobble}
        for name, at in values.items()
        for (task, rho), value in zip(places, at, strict=True)
        for seed, wobble in enumerate((-0.01, 0.01))
    )


def test_a_candidate_stands_against_the_best_rival_of_each_place() -> None:
    values = {"a": [0.9, 0.5, 0.8], "b": [0.8, 0.7, 0.6], "x": [0.92, 0.66, 0.9]}
    table = developed(values | {"y": [0.5, 0.5, 0.79]})
    found = analysis.standing(table, ["a", "b"]).set_index("method")
    # Best rivals: 0.9, 0.7, 0.8. x: +2 and -4 points in one, +10 in two.
    assert found.loc["x", ["mean", "worst", "one", "two"]].tolist() == pytest.approx(
        [(-1 + 10) / 2, -4, -1, 10]
    )
    assert found.loc["x", "where"] == "one, 0.99"
    assert found.loc["a", "mean"] == pytest.approx(((10 - 20) / 2 + 20) / 2)  # against b alone
    assert list(found.index)[0] == "a" and list(found.index)[-1] == "y"


def test_who_is_not_in_every_task_does_not_stand() -> None:
    table = developed({"a": [0.9, 0.5, 0.8], "x": [0.9, 0.5, 0.8]})
    table = table[(table["method"] != "x") | (table["task"] == "one")]
    table = pd.concat([table, developed({"b": [0.1] * 3})])
    assert set(analysis.standing(table, ["a", "b"])["method"]) == {"a", "b"}


def test_a_selection_is_judged_by_what_its_candidates_came_to() -> None:
    table = developed({"a": [0.9, 0.5, 0.8], "b": [0.8, 0.7, 0.8]}).assign(selected="")
    own = developed({"panning_select": [0.8, 0.7, 0.8]}).assign(selected="b")
    found = analysis.selections(pd.concat([table, own]), ["a", "b"])
    assert found[["task", "sparsity"]].to_numpy().tolist() == [
        ["one", 0.9],
        ["one", 0.99],
        ["two", 0.9],
    ]
    assert found["best"].tolist() == [0, 1, 1]
    assert found["lost"].tolist() == pytest.approx([10, 0, 0])
    assert found["gained"].tolist() == pytest.approx([-5, 10, 0])
    assert found["a"].tolist() == [0, 0, 0] and found["b"].tolist() == [2, 2, 2]


def test_a_trial_that_diverged_is_the_worst_of_all() -> None:
    table = judged()
    last = table["loss_after_20"] == table["loss_after_20"].max()
    table.loc[last, "loss_after_20"] = math.nan
    found = analysis.reward_correlations(table, ENVIRONMENT).set_index("what")
    assert found.loc["-loss after 20 steps", "mean"] == pytest.approx(1)


# --- who chooses the exponents -------------------------------------------------------------------


def test_two_quantities_together_are_the_sum_of_their_ranks_at_each_place() -> None:
    table = noisy(20).assign(task="one")
    table = pd.concat([table, noisy(20).assign(task="two", accuracy=lambda t: -t["accuracy"])])
    within = ["task", "sparsity", "seed"]
    found = analysis.reward_pairs(table, ENVIRONMENT, within)
    places = [f"{task}, {rho:g} %" for task in ("one", "two") for rho in (90, 99)]
    assert set(found.columns) == {"first", "second", "mean", "smallest", *places}
    names = set(found["first"])
    assert len(found) == len(names) * (len(names) + 1) // 2
    assert not any(name.startswith("return,") for name in names)
    assert found["mean"].is_monotonic_decreasing
    found = found.set_index(["first", "second"])
    row = found.loc[("trace of the tangent kernel", "SynFlow's path norm")]
    for place in places:
        task, rho = place.split(", ")
        rho = float(rho[:-2]) / 100
        own = []
        for _, g in table[(table["task"] == task) & (table["sparsity"] == rho)].groupby("seed"):
            total = g["ntk_trace"].rank() + g["path_norm"].rank()
            own.append(stats.spearmanr(total, g["accuracy"]).statistic)
        assert row[place] == pytest.approx(np.mean(own))
    assert row["mean"] == pytest.approx(row[places].mean())
    assert row["smallest"] == row[places].min()
    alone = analysis.reward_correlations(table, ENVIRONMENT, within).set_index("what")["mean"]
    for name in names:
        assert found.loc[(name, name), "mean"] == pytest.approx(alone[name])


def chosen() -> tuple[pd.DataFrame, dict[str, list[str]]]:
    rng = np.random.default_rng(0)
    names = {"learned": ["a, 0", "a, 1", "a, 2"], "random": ["r 0", "r 1"]}
    rows = [
        {"task": task, "policy": policy, "sparsity": rho, "seed": seed, "accuracy": rng.random()}
        for task in ("one", "two")
        for policy in ("1 ½ 0", "force", "a, 0", "a, 1", "a, 2", "r 0", "r 1")
        for rho in (0.9, 0.99)
        for seed in range(3)
    ]
    return pd.DataFrame(rows), names


def test_a_policy_is_compared_with_the_reference_pair_by_pair() -> None:
    table, groups = chosen()
    found = analysis.choosers(table, groups, "1 ½ 0", 0.95).set_index(["task", "policy"])
    assert list(found.loc["one"].index) == ["learned", "random", "force"]
    mean = 100 * table.groupby(["task", "policy", "seed"])["accuracy"].mean()
    for task in ("one", "two"):
        gap = mean[task, "force"] - mean[task, "1 ½ 0"]
        half = stats.t.ppf(0.975, 2) * gap.std() / 3**0.5
        row = found.loc[(task, "force")]
        expected = (gap.mean(), gap.mean() - half, gap.mean() + half, 1)
        assert tuple(row[["difference", "low", "high", "policies"]]) == pytest.approx(expected)
        own = [mean[task, name] - mean[task, "1 ½ 0"] for name in groups["learned"]]
        cells = [{"agent": i, "network": n, "gap": g}
                 for i, gaps in enumerate(own) for n, g in gaps.items()]  # fmt: skip
        row = found.loc[(task, "learned")]
        expected = crossed(pd.DataFrame(cells), "gap", 0.95)[:3]
        assert tuple(row[["difference", "low", "high"]]) == pytest.approx(expected)
        assert row["policies"] == 3


def test_policies_that_a_task_does_not_have_are_left_out_there() -> None:
    table, groups = chosen()
    table = table[(table["task"] == "one") | ~table["policy"].isin(["force", "a, 0", "r 0", "r 1"])]
    found = analysis.choosers(table, groups, "1 ½ 0", 0.95).set_index(["task", "policy"])
    assert list(found.loc["two"].index) == ["learned"]
    assert found.loc[("two", "learned"), "policies"] == 2


# --- how few iterations --------------------------------------------------------------------------


def test_fewer_iterations_are_compared_with_the_candidate_that_differs_in_them_alone() -> None:
    def candidate(name: str, steps: int, half: float = 0.5) -> parameters.Candidate:
        same = {"settings": {"fusion": "product"}, "scoring": {}}
        return parameters.Candidate(name=name, p=(1.0, half, 0.0), steps=steps, **same)

    candidates = [candidate("long", 100), candidate("few", 14), candidate("other", 14, 0.25)]
    gains = {("a", 0): 2.0, ("a", 1): 4.0, ("b", 0): -3.0}  # in points, by task and seed
    rows = [
        {"task": task, "seed": seed, "method": name, "sparsity": rho, "accuracy": 0.8 + part / 100}
        for (task, seed), gain in gains.items()
        for rho, more in ((0.9, 1.0), (0.99, -1.0))
        for name, part in (("long", 0.0), ("few", gain + more), ("other", 9.0))
    ]
    found = analysis.fewer_iterations(pd.DataFrame(rows), candidates, 100, 0.95)
    (row,) = found.to_dict("records")
    assert (row["method"], row["steps"], row["networks"]) == ("few", 14, 3)
    assert (row["difference"], row["a"], row["b"]) == pytest.approx((1.0, 3.0, -3.0))
    assert (row["low"], row["high"]) == pytest.approx(interval([2.0, 4.0, -3.0], 0.95)[1:])
    assert analysis.fewer_iterations(pd.DataFrame(rows), candidates[:1], 100, 0.95).empty
