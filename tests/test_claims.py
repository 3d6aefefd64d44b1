"""A statement's difference has the sign that its sentence says, and its verdict follows by rule."""

import itertools
from collections.abc import Callable, Iterable
from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.figures.style import LOOKS, percent
from lib.study import analysis, checks, claims
from lib.study.statistics import crossed, interval

JITTER = (-1.0, 0.0, 1.0)  # of the seeds; it averages to 0

# --- tables --------------------------------------------------------------------------------------

LEVELS = {
    "random": 0.30,
    "magnitude": 0.40,
    "snip": 0.62,
    "grasp": 0.55,
    "synflow": 0.71,
    "iterative_snip": 0.64,
    "force": 0.66,
    "iterative_fused": 0.68,
    "panning+shuffled": 0.72,
    "panning": 0.70,
    "rlpanning": 0.69,
    "panning_masked": 0.75,
    "panning_select": 0.74,
}
SLOPES = {"snip": -0.05, "synflow": 0.01, "panning": 0.0}  # a sparsity further
TASKS = {"wide": (0.8, 0.9, 0.95, 0.98, 0.99), "narrow": (0.9, 0.98)}


def comparison() -> pd.DataFrame:
    rows = []
    for task, sparsities in TASKS.items():
        for seed in range(3):
            key = {"task": task, "seed": seed}
            rows.append(key | {"method": "dense", "sparsity": 0.0, "accuracy": 0.97})
            for (index, method), (step, rho) in itertools.product(
                enumerate(LEVELS), enumerate(sparsities)
            ):
                value = LEVELS[method] + SLOPES.get(method, 0.0) * step
                value += 0.02 * seed + 0.0001 * index * JITTER[seed]
                rows.append(key | {"method": method, "sparsity": rho, "accuracy": value})
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def settings(columns: tuple[str, ...], values: dict) -> pd.DataFrame:
    rows = []
    for (index, (names, value)), rho, seed in itertools.product(
        enumerate(values.items()), (0.9, 0.99), range(3)
    ):
        names = (names,) if isinstance(names, str) else names
        row = dict(zip(columns, names, strict=True)) | {"sparsity": rho, "seed": seed}
        row["accuracy"] = value - 0.1 * (rho > 0.9) + 0.02 * seed + 0.0001 * index * JITTER[seed]
        rows.append(row)
    return pd.DataFrame(rows)


ABLATIONS = {
    ("reference", "Panning"): 0.70,
    ("metrics", "SynFlow"): 0.71,
    ("metrics", "SNIP + GraSP"): 0.60,
    ("fusion", "product"): 0.65,
    ("normalisation", "ranks"): 0.50,
    ("gradients", "masked"): 0.67,
    ("schedule", "linear"): 0.68,
    ("iterations", "T = 1"): 0.55,
}
CHECKS = {
    ("panning", "unchanged"): 0.70,
    ("panning", "shuffled"): 0.69,
    ("panning", "reinitialised"): 0.705,
    ("panning", "inverted"): 0.10,
    ("panning", "pixels"): 0.65,
    ("panning", "labels"): 0.66,
    ("snip", "unchanged"): 0.10,
    ("snip", "labels"): 0.90,
}
SEARCH = {"hand-made": 0.70, "search 0": 0.73, "search 1": 0.68, "SynFlow alone": 0.72}


@cache
def all_tables() -> dict[str, pd.DataFrame]:
    return {
        "comparison": comparison(),
        "ablations": settings(("study", "setting"), ABLATIONS),
        "checks": settings(("method", "check"), CHECKS),
        "search": settings(("policy",), SEARCH),
        "learning_gaps": learning_table(),
        "reward": policies(0.5, 0.9),
        "transfer_gaps": transfer(),
    }


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    return dict(all_tables())


def differences(statements: Iterable[dict]) -> dict[str, float]:
    """Statement: difference; no two statements are the same."""
    pairs = [(one["statement"], one["difference"]) for one in statements]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def verdict(one: dict) -> str:
    return claims.verdict(one["low"], one["high"])


def better(table: pd.DataFrame, where: dict[str, object]) -> pd.DataFrame:
    """The same table, accuracies of some rows higher by a point."""
    rows = (table[list(where)] == list(where.values())).all(axis=1)
    assert rows.any()
    return table.assign(accuracy=table["accuracy"] + 0.01 * rows)


def shifts(
    statements: Callable[[pd.DataFrame], Iterable[dict]], table: pd.DataFrame, **where: object
) -> dict[str, float]:
    """By how much each statement's difference moves when some rows are a point better."""
    before, after = (differences(statements(t)) for t in (table, better(table, where)))
    return {name: round(after[name] - before[name], 6) for name in before}


# --- claim A -------------------------------------------------------------------------------------


def strong(table: pd.DataFrame) -> list[dict]:
    return list(claims.strong(table, 0.95))


@cache
def compared() -> list[dict]:
    """Every method on every task, once for all tests."""
    return strong(comparison())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("rival", claims.RIVALS)
def test_panning_is_compared_with_each_rival_over_all_sparsities(task: str, rival: str) -> None:
    found = differences(compared())
    steps = np.arange(len(TASKS[task]))
    gap = LEVELS["panning"] - LEVELS[rival] - SLOPES.get(rival, 0) * steps
    label = LOOKS[rival].label
    name = f"Panning is above {label} on {task}, mean over sparsities"
    assert found[name] == pytest.approx(100 * gap.mean())
    ends = gap[-2:].mean() - gap[:2].mean() if task == "wide" else gap[-1] - gap[0]
    name = f"the gain on {label} is larger at the highest sparsities, {task}"
    assert found[name] == pytest.approx(100 * ends, abs=1e-9)
    start = f"Panning is above {label} on {task} at its worst sparsity, "
    ((name, worst),) = [pair for pair in found.items() if pair[0].startswith(start)]
    assert worst == pytest.approx(100 * gap.min())
    assert found[f"RLPanning is above Panning on {task}, mean over sparsities"] == pytest.approx(-1)
    if rival in SLOPES:
        assert name == start + percent(TASKS[task][gap.argmin()])


def test_panning_without_return_is_a_control_of_claim_c_and_no_rival() -> None:
    assert "iterative_fused" not in claims.RIVALS
    assert set(claims.HEADLINE_RIVALS) < set(claims.RIVALS)
    label = LOOKS["iterative_fused"].label
    assert not [name for name in differences(compared()) if label in name]


def test_what_holds_on_average_and_what_holds_everywhere_are_two_claims() -> None:
    claims = {one["statement"]: one["claim"] for one in compared()}
    for name, claim in claims.items():
        if name.startswith("Panning is above"):
            average = name.endswith(", mean over sparsities")
            assert average != (" at its worst sparsity, " in name)
            expected = "A: strong on average" if average else "A: strong at every sparsity"
            assert claim == expected


def noisy(rivals: tuple[str, ...] = ("snip",), seeds: int = 5) -> pd.DataFrame:
    """Panning is two points above, give or take as much; at 95 % it is three."""
    rng = np.random.default_rng(3)
    rows = [
        {"task": "noisy", "seed": seed, "sparsity": rho, "method": method}
        | {"accuracy": 0.5 + (0.02 + 0.01 * (rho == 0.95)) * above + rng.normal(0, 0.01)}
        for seed, rho in itertools.product(range(seeds), (0.9, 0.95, 0.99))
        for method, above in (("panning", 1), *((rival, 0) for rival in rivals))
    ]
    return pd.DataFrame(rows)


def worst(table: pd.DataFrame, confidence: float = 0.95) -> dict:
    (one,) = [s for s in claims.strong(table, confidence) if "worst" in s["statement"]]
    return one


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_worst_sparsity_pays_for_having_been_chosen(confidence: float) -> None:
    table = noisy()
    wide = table.pivot(index=["sparsity", "seed"], columns="method", values="accuracy")
    gaps = 100 * (wide["panning"] - wide["snip"]).unstack("sparsity")
    level = 1 - (1 - confidence) / 3
    ends = {r: stats.ttest_1samp(gaps[r], 0).confidence_interval(level) for r in gaps}
    below = [r for r in gaps if ends[r].high < 0]
    undecided = [r for r in gaps if ends[r].low <= 0]
    rho = gaps.mean()[below or undecided or list(gaps)].idxmin()
    test = stats.ttest_1samp(gaps[rho], 0)
    one = worst(table, confidence)
    assert one["statement"].endswith(f"worst sparsity, {percent(rho)}")
    assert one["difference"] == pytest.approx(gaps[rho].mean())
    assert (one["low"], one["high"]) == pytest.approx((ends[rho].low, ends[rho].high))
    assert one["p"] == pytest.approx(3 * test.pvalue) and 3 * test.pvalue < 1
    assert (one["n"], one["of"]) == (5, "seeds")
    assert (one["p"] < 1 - confidence) == (one["low"] > 0 or one["high"] < 0)


def test_a_wide_interval_does_not_hide_a_sparsity_that_contradicts() -> None:
    noise = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    gaps = {0.8: 0.001 * noise, 0.9: -0.05 + 0.001 * noise, 0.99: -0.2 + 0.2 * noise}
    rows = [
        {"task": "t", "method": method, "sparsity": rho, "seed": seed, "accuracy": 0.5 + gain}
        for rho, values in gaps.items()
        for seed, value in enumerate(values)
        for method, gain in (("panning", value), ("snip", 0.0))
    ]
    one = worst(pd.DataFrame(rows))
    assert one["statement"].endswith(f"worst sparsity, {percent(0.9)}")
    assert one["high"] < 0 and one["difference"] == pytest.approx(-5)


def test_p_at_the_worst_sparsity_is_capped() -> None:
    table = noisy()
    rho = float(worst(table)["statement"].rpartition(", ")[2].split()[0]) / 100
    at = np.isclose(table["sparsity"], rho) & (table["method"] == "panning")
    assert at.sum() == 5
    table["accuracy"] -= at * (worst(table)["difference"] - 0.01) / 100
    one = worst(table)
    assert one["difference"] == pytest.approx(0.01)
    assert one["p"] == 1 and one["low"] < 0 < one["high"]


def test_a_gain_elsewhere_does_nothing_for_the_worst_sparsity() -> None:
    table = comparison()
    table = table[table["method"].isin(["panning", "snip"]) & (table["task"] == "wide")]
    for rho in TASKS["wide"]:
        for name, shift in shifts(strong, table, method="panning", sparsity=rho).items():
            if "worst" in name:  # SNIP falls off with sparsity: the first one is the worst
                assert shift == float(rho == 0.8)
            elif "mean" in name:
                assert shift == pytest.approx(0.2)


def test_one_bad_sparsity_contradicts_what_holds_on_average() -> None:
    table = noisy()
    table.loc[(table["method"] == "panning") & (table["sparsity"] == 0.99), "accuracy"] -= 0.05
    table.loc[(table["method"] == "panning") & (table["sparsity"] == 0.9), "accuracy"] += 0.2
    rows = {one["claim"]: one for one in strong(table)}
    average, everywhere = (rows[f"A: strong {how}"] for how in ("on average", "at every sparsity"))
    assert average["difference"] > 0 and verdict(average) == "holds"
    assert everywhere["difference"] < 0 and verdict(everywhere) == "contradicted"


def test_only_sparsities_at_which_a_seed_has_both_are_compared() -> None:
    table = noisy(("snip", "synflow"), 4)
    lacking = (table["method"] == "synflow") & (table["sparsity"] == 0.9) & (table["seed"] == 1)
    easy = table["sparsity"] == 0.9  # where every method is better
    table["accuracy"] += 0.3 * easy
    full, found = (
        {s["statement"]: s for s in strong(t) if s["claim"] == "A: strong on average"}
        for t in (table, table[~lacking])
    )
    names = {
        rival: f"Panning is above {LOOKS[rival].label} on noisy, mean over sparsities"
        for rival in ("snip", "synflow")
    }
    assert found[names["snip"]] == full[names["snip"]]
    wide = table[~lacking].pivot(index=["seed", "sparsity"], columns="method", values="accuracy")
    gap = (wide["panning"] - wide["synflow"]).groupby("seed").mean()
    assert found[names["synflow"]]["difference"] == pytest.approx(100 * gap.mean())
    assert found[names["synflow"]]["n"] == 4


def test_what_is_said_to_be_above_adds_to_the_difference_and_what_is_below_takes_away() -> None:
    methods, task = ("panning", "rlpanning", "snip", "synflow"), "narrow"
    table = comparison()
    table = table[table["method"].isin(methods)]
    for method in methods:
        label = LOOKS[method].label
        for name, shift in shifts(strong, table, method=method, task=task).items():
            subject, _, rest = name.partition(" is above ")
            expected = 0.0
            ends = (f" on {task}, mean over sparsities", f" on {task} at its worst sparsity")
            if rest.partition(", ")[0].endswith(ends) or rest.endswith(ends):
                expected = float(subject == label) - float(rest.startswith(f"{label} on"))
            assert shift == pytest.approx(expected), (method, name)


def test_a_gain_at_the_highest_sparsities_speaks_for_the_claim_and_at_the_lowest_against() -> None:
    table = comparison()
    table = table[table["method"].isin(["panning", "snip", "synflow"])]

    def gains(table: pd.DataFrame) -> list[dict]:
        return [one for one in strong(table) if "larger" in one["statement"]]

    for rho, sign in ((0.99, 0.5), (0.98, 0.5), (0.95, 0), (0.9, -0.5), (0.8, -0.5)):
        larger = shifts(gains, table, method="panning", sparsity=rho, task="wide")
        assert {s for name, s in larger.items() if name.endswith("wide")} == {sign}
        assert {s for name, s in larger.items() if name.endswith("narrow")} == {0}


def test_the_interval_and_p_of_a_statement_are_those_of_the_paired_test() -> None:
    table = comparison()
    name = "Panning is above GraSP on wide, mean over sparsities"
    (one,) = [s for s in compared() if s["statement"] == name]
    wide = table[table["task"] == "wide"].pivot_table(
        index="seed", columns="method", values="accuracy"
    )
    values = 100 * (wide["panning"] - wide["grasp"])
    test = stats.ttest_1samp(values, 0)
    assert one["p"] == pytest.approx(test.pvalue)
    ends = test.confidence_interval(0.95)
    assert (one["low"], one["high"]) == pytest.approx((ends.low, ends.high))
    assert (one["n"], one["of"], one["unit"]) == (3, "seeds", "points")


# --- claim B -------------------------------------------------------------------------------------


def learning_table() -> pd.DataFrame:
    gaps = {
        "tuned": {"agent 0": 1.0, "agent 1": 3.0, "hand-made": -9.0, "random": 50.0},
        "design": {"agent 0": -4.0, "agent 1": -2.0, "hand-made": -9.0, "random": 50.0},
    }
    return pd.DataFrame(
        {"settings": settings, "seed": seed, "policy": policy, "gap": gap + luck}
        for settings, policies in gaps.items()
        for policy, gap in policies.items()
        for seed, luck in enumerate((-0.5, 0.2, 0.3))  # of the network
    )


def test_agents_are_the_unit_of_what_was_learned() -> None:
    found = list(claims.learns(learning_table(), 0.95))
    text = "agents ({}) earn more than the best constant p on unseen networks"
    expected = {text.format("tuned"): 2, text.format("design"): -3}
    assert differences(found) == pytest.approx(expected)
    assert {(one["n"], one["of"]) for one in found} == {(2, "agents, 3 networks")}
    for one in found:
        assert one["low"] < one["difference"] < one["high"]
        assert 0 < one["p"] < 1


def test_agents_that_agree_are_not_sure_of_networks_that_do_not() -> None:
    gaps = pd.DataFrame(
        {"settings": "tuned", "policy": f"agent {agent}", "seed": seed, "gap": gap}
        for agent in range(4)
        for seed, gap in enumerate((-1.0, 3.0))
    )
    (one,) = claims.learns(gaps, 0.95)
    ends = interval([-1.0, 3.0], 0.95)  # as if there were but one agent
    assert (one["difference"], one["low"], one["high"]) == pytest.approx(ends)
    assert verdict(one) == "open" and one["p"] > 0.3


def test_a_way_to_train_with_fewer_agents_is_judged_by_those_that_it_has() -> None:
    rows = [
        {"settings": settings, "policy": policy, "seed": seed, "sparsity": 0.9}
        | {"return": reward + 10 * seed}
        for seed in range(2)
        for settings, policies in {
            "tuned": {"agent 0": 3.0, "agent 1": 4.0, "agent 2": 5.0, "best constant": 1.0},
            "design": {"agent 0": 0.0, "agent 1": 2.0, "best constant": 3.0},
        }.items()
        for policy, reward in policies.items()
    ]
    tuned, design = claims.learns(analysis.learning_gaps(pd.DataFrame(rows)), 0.95)
    assert (tuned["difference"], tuned["n"], tuned["headline"]) == (3, 3, True)
    assert (design["difference"], design["n"], design["headline"]) == (-2, 2, False)
    for one in (tuned, design):
        assert one["low"] < one["difference"] < one["high"] and 0 < one["p"] < 1


AXIS = {
    "half": "images",
    "a tenth": "images",
    "width 2": "scale",
    "home": "none",
    "LeNet-5": "network",
    "VGG-11": "network",
}
WORDS = {  # how the statements say where, and the mean index of the targets there
    "with fewer images": 0.5,
    "on other widths": 2,
    "with nothing changed": 3,
    "on LeNet-5": 4,
    "on VGG-11": 5,
}


def transfer() -> pd.DataFrame:
    rows = []
    opponents = ("hand-made", "best constant", "SynFlow alone", "random")
    for (index, target), opponent, agent, seed in itertools.product(
        enumerate(AXIS), opponents, range(3), range(2)
    ):
        worse = opponents.index(opponent)
        for kind, extra in (("agent", 0.0), ("trainability", 1.5)):
            row = {"target": target, "kind": kind, "agent": f"{kind} {agent}", "seed": seed}
            row["opponent"] = opponent
            value = worse - index + extra + 0.1 * JITTER[agent] * (1 + (kind == "agent"))
            value += 0.05 * (2 * seed - 1)  # the luck of a network
            rows.append(row | {"return": 10 * value, "accuracy": value})
    for agent, seed in itertools.product(range(3), range(2)):
        row = {"target": "width 2", "kind": "agent", "agent": f"agent {agent}", "seed": seed}
        row |= {"opponent": "native agent", "return": 99 + JITTER[agent]}
        rows.append(row | {"accuracy": -2 + JITTER[agent]})
        rows.append(row | {"kind": "trainability", "agent": f"trainability {agent}"})
        rows[-1]["accuracy"] = 77.0
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def withstands(table: pd.DataFrame) -> list[dict]:
    return list(claims.transfers(table, AXIS, 0.95))


def test_unchanged_agents_are_judged_change_by_change_and_network_by_network() -> None:
    found = differences(withstands(transfer()))
    for worse, opponent in enumerate(("hand-made", "best constant", "SynFlow alone", "random")):
        for words, index in WORDS.items():
            name = f"the unchanged agents make better networks than {opponent} {words}"
            assert found[name] == pytest.approx(worse - index)
            name = f"the unchanged agents earn more than {opponent} {words}"
            assert found[name] == pytest.approx(10 * (worse - index))
    assert len(found) == len(WORDS) * 2 * 4 + 2 + 1


def test_a_native_agent_is_the_opponent_at_home() -> None:
    found = differences(withstands(transfer()))
    name = "the unchanged agents make better networks than one trained there (width 2)"
    assert found[name] == pytest.approx(-2)
    assert found[name.replace("make better networks", "earn more")] == pytest.approx(99)


def test_agents_of_another_reward_are_compared_with_the_papers_over_all_targets() -> None:
    table = transfer()
    table = table[table["agent"] != "trainability 1"]  # kinds may differ in number and in spread
    (one,) = [s for s in withstands(table) if s["claim"] == "B: a better reward"]
    assert one["statement"].startswith("agents rewarded for trainability make better networks than")
    made = table[table["opponent"] == "hand-made"].groupby(["kind", "agent"])["accuracy"].mean()
    test = stats.ttest_ind(made["trainability"], made["agent"], equal_var=False)  # Welch's
    ends = test.confidence_interval(0.95)
    assert (one["low"], one["high"]) == pytest.approx((ends.low, ends.high))
    assert (one["difference"], one["p"]) == pytest.approx((1.5, test.pvalue))
    assert (one["n"], one["of"]) == (2, "agents against 3")
    pooled = stats.ttest_ind(made["trainability"], made["agent"])
    assert one["p"] != pytest.approx(pooled.pvalue, rel=0.01)
    alone = withstands(table[table["kind"] == "agent"])
    assert "B: a better reward" not in {one["claim"] for one in alone}


def test_agents_of_both_kinds_are_compared_whatever_the_order_of_their_rows() -> None:
    found = [withstands(table) for table in (transfer(), transfer().iloc[::-1])]
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, abs=1e-9)


def test_better_agents_add_to_each_difference_and_agents_of_another_reward_to_one() -> None:
    for kind, sign in (("agent", -1), ("trainability", 1)):
        table = transfer()
        more = table.assign(accuracy=table["accuracy"] + (table["kind"] == kind))
        before, after = (differences(withstands(t)) for t in (table, more))
        for name, value in before.items():
            expected = float(kind == "agent" and "make better networks" in name)
            if name.startswith("agents rewarded"):
                expected = sign
            assert after[name] - value == pytest.approx(expected), name


def test_agents_and_networks_are_the_units_of_every_statement_on_transfer() -> None:
    for one in withstands(transfer()):
        if one["claim"] != "B: a better reward":
            assert (one["n"], one["of"]) == (3, "agents, 2 networks")
            assert 0 < one["p"] <= 1 and one["low"] < one["difference"] < one["high"]


def test_a_seed_is_one_network_however_many_targets_it_stands_on() -> None:
    table = transfer()
    half = table[table["target"] == "half"]
    twins = pd.concat([half, half.assign(target="a tenth")])
    name = "the unchanged agents make better networks than hand-made with fewer images"
    once, twice = ([s for s in withstands(t) if s["statement"] == name][0] for t in (half, twins))
    assert once == pytest.approx(twice)  # no more certain for having been asked twice
    part = half[(half["kind"] == "agent") & (half["opponent"] == "hand-made")]
    expected = crossed(part.assign(network=part["seed"]), "accuracy", 0.95)
    assert (once["difference"], once["low"], once["high"], once["p"]) == pytest.approx(expected)


# --- the reward ----------------------------------------------------------------------------------


def policies(told: float, trial: float, count: int = 40) -> pd.DataFrame:
    """Accuracies that follow the return and the trial's loss more or less; at two targets."""
    rng = np.random.default_rng(0)
    rows = []
    for rho, policy in itertools.product((0.9, 0.99), range(count)):
        worth = policy / count
        row = {"policy": f"{policy:03d}", "sparsity": rho, "seed": 0}
        row |= {"accuracy": worth - 0.3 * (rho > 0.9)}
        noise = rng.normal(size=2)
        row |= {"return": 50 * (told * worth + (1 - abs(told)) * 0.3 * noise[0])}
        row |= {"loss_after_7": 2 - trial * worth - (1 - abs(trial)) * 0.3 * noise[1]}
        rows.append(row)
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch) -> None:
    monkeypatch.setattr(claims, "RESAMPLES", 400)


def rewards(table: pd.DataFrame, confidence: float = 0.95) -> list[dict]:
    return list(claims.rewards(table, 7, confidence))


REWARD = (
    "policies with a higher return make networks that train better",
    "networks with a lower loss after 7 steps of a trial train better",
    "the trial ranks networks better than the return does",
)


@pytest.mark.parametrize(
    ("told", "trial", "expected"),
    [(1, 1, (1, 1, 0)), (-1, 1, (-1, 1, 2)), (1, -1, (1, -1, -2)), (-1, -1, (-1, -1, 0))],
)
def test_perfect_rankings_have_the_sign_of_their_sentence(told, trial, expected) -> None:
    found = rewards(policies(told, trial))
    assert [one["statement"] for one in found] == [
        f"{text} at {rho}" for rho in ("90 %", "99 %") for text in REWARD
    ]
    assert [one["difference"] for one in found] == pytest.approx(expected * 2)
    for one in found:
        assert (one["low"], one["high"]) == pytest.approx((one["difference"],) * 2)
        smallest = 2 / (claims.RESAMPLES + 1)  # (1 + 0) / (1 + B), on both sides
        assert one["p"] == (pytest.approx(smallest) if one["difference"] else 1)


def test_a_noisy_ranking_has_the_correlation_within_targets_and_an_interval_around_it() -> None:
    table = policies(0.3, 0.9)
    found = rewards(table)
    expected = []
    for _, group in table.groupby("sparsity"):
        first = stats.spearmanr(group["return"], group["accuracy"]).statistic
        second = stats.spearmanr(-group["loss_after_7"], group["accuracy"]).statistic
        expected += [first, second, second - first]
    assert [one["difference"] for one in found] == pytest.approx(expected)
    for one in found:
        assert one["low"] < one["difference"] < one["high"]
        assert (one["n"], one["unit"]) == (40, "rank correlation")
        assert one["of"] == "policies, 1 network"
    narrow = rewards(table, 0.5)
    for one, other in zip(found, narrow, strict=True):
        assert one["low"] < other["low"] < other["high"] < one["high"]


def test_correlations_of_different_sign_at_two_sparsities_do_not_cancel() -> None:
    table = policies(1, 1)
    turned = table["sparsity"] > 0.9
    table.loc[turned, "accuracy"] *= -1
    found = rewards(table)
    assert [one["difference"] for one in found] == pytest.approx([1, 1, 0, -1, -1, 0])


def test_networks_are_ranked_one_by_one_and_counted() -> None:
    first = policies(1, 1)
    second = first.assign(seed=1, accuracy=-first["accuracy"])
    found = rewards(pd.concat([first, second]))
    assert [one["difference"] for one in found] == pytest.approx([0] * 6)
    assert {(one["n"], one["of"]) for one in found} == {(40, "policies, 2 networks")}


def test_the_bootstrap_of_a_correlation_is_the_same_again() -> None:
    table = policies(0.3, 0.9)
    shuffled = table.sample(frac=1, random_state=5)
    assert rewards(table) == rewards(shuffled)


def test_p_of_a_correlation_is_small_where_there_is_one_and_large_where_there_is_none() -> None:
    found = rewards(policies(0.0, 0.9, 100))
    assert found[0]["p"] > 0.05 and found[1]["p"] <= 2 / 100
    assert found[0]["low"] < 0 < found[0]["high"]


@pytest.mark.filterwarnings("error")
def test_p_is_a_probability_even_where_nothing_ranks_anything() -> None:
    table = policies(0.3, 0.9).assign(accuracy=0.1)  # dead networks, all of them
    found = rewards(table)
    assert [one["difference"] for one in found] == [0] * 6
    assert [one["p"] for one in found] == [1] * 6


# --- beyond the paper ----------------------------------------------------------------------------


def test_our_methods_are_compared_with_each_rival_and_with_each_other() -> None:
    found = differences(list(claims.beyond(comparison(), 0.95)))
    assert len(found) == len(TASKS) * (6 + 1)
    for task, sparsities in TASKS.items():
        rivals = ("snip", "grasp", "synflow", "iterative_snip", "force", "panning")
        pairs = [("panning_masked", rival) for rival in rivals]
        for own, rival in (*pairs, ("panning_select", "panning_masked")):
            steps = (len(sparsities) - 1) / 2
            gap = LEVELS[own] - LEVELS[rival] - SLOPES.get(rival, 0) * steps
            name = f"{LOOKS[own].label} is above {LOOKS[rival].label} on {task}, "
            assert found[name + "mean over sparsities"] == pytest.approx(100 * gap)


# --- claim C, and the metrics --------------------------------------------------------------------


def helps(tables: dict) -> list[dict]:
    return list(claims.helps(tables, 0.95))


def test_what_panning_loses_without_a_part_is_what_the_part_is_worth(tables) -> None:
    found = differences(helps(tables))
    for task in TASKS:
        for other in ("iterative_fused", "panning+shuffled"):
            name = f"Panning is above {LOOKS[other].label} on {task}, mean over sparsities"
            expected = 100 * (LEVELS["panning"] - LEVELS[other])
            assert found[name] == pytest.approx(expected)
    for words, expected in {
        "in a single step at 90 %": 15,
        "in a single step at 99 %": 15,
        "on a linear schedule at 99 %": 2,
        "with the gradients of the masked network": 3,
        "shuffled within layers": 1,
        "with its weights drawn anew": -0.5,
        "keeping the worst weights": 60,
        "scored on shuffled pixels": 5,
        "scored on shuffled classes": 4,
    }.items():
        assert found[f"Panning is above itself {words}"] == pytest.approx(expected), words
    assert len(found) == 6 + 5 + 5


def test_what_is_taken_from_panning_has_words_of_its_own() -> None:
    taken = [*(setting for _, setting in ABLATIONS), *checks.CHECKS, "T = 3"]
    assert set(checks.CHECKS) <= set(claims.WITHOUT) <= set(taken)
    assert len(set(claims.WITHOUT.values())) == len(claims.WITHOUT) == 9


def test_a_setting_is_compared_where_it_was_run(tables) -> None:
    ablations = tables["ablations"]
    lacking = (ablations["setting"] == "T = 1") & (ablations["sparsity"] == 0.99)
    one, other = (
        differences(helps(tables | {"ablations": t})) for t in (ablations, ablations[~lacking])
    )
    assert lacking.sum() == 3
    one.pop("Panning is above itself in a single step at 99 %")
    assert one == pytest.approx(other)
    lacking = (ablations["setting"] == "masked") & (ablations["sparsity"] == 0.99)
    one = differences(helps(tables | {"ablations": ablations[~lacking]}))
    name = "Panning is above itself with the gradients of the masked network"
    assert one[name] == pytest.approx(other[name])  # a mean over what both were run at


def test_every_statement_of_claim_c_grows_with_panning_and_falls_with_what_it_is_above(
    tables,
) -> None:
    def of(name: str) -> Callable[[pd.DataFrame], list[dict]]:
        return lambda table: helps(tables | {name: table})

    few = tables["comparison"]["method"].isin(["panning", "panning+shuffled", "iterative_fused"])
    tables["comparison"] = tables["comparison"][few]
    cases = [
        (
            "comparison",
            {"method": "panning"},
            {"method": "panning+shuffled"},
            "Panning, shuffled on",
        ),
        ("comparison", {"method": "panning"}, {"method": "iterative_fused"}, "without return on"),
        ("ablations", {"setting": "Panning"}, {"setting": "T = 1"}, "in a single step"),
        ("ablations", {"setting": "Panning"}, {"setting": "linear"}, "on a linear schedule"),
        ("ablations", {"setting": "Panning"}, {"setting": "masked"}, "of the masked network"),
    ]
    own_checks = {
        "shuffled": "shuffled within layers",
        "reinitialised": "weights drawn anew",
        "inverted": "the worst weights",
        "pixels": "shuffled pixels",
        "labels": "shuffled classes",
    }
    unchanged = {"method": "panning", "check": "unchanged"}
    cases += [
        ("checks", unchanged, {"method": "panning", "check": check}, own)
        for check, own in own_checks.items()
    ]
    groups = {
        "comparison": ("mean over sparsities",),
        "ablations": ("step at", "schedule at", "network"),
    }
    groups["checks"] = tuple(own_checks.values())
    for table, above, below, own in cases:
        for name, shift in shifts(of(table), tables[table], **above).items():
            grows = any(words in name for words in groups[table])
            assert shift == float(grows), (above, name)
        for name, shift in shifts(of(table), tables[table], **below).items():
            assert shift == -float(own in name), (below, name)


def test_what_the_return_alone_tells_apart_speaks_of_the_return(tables) -> None:
    table = tables["comparison"]
    own = table[table["method"] == "panning"]
    pair = [
        own.assign(method="force", accuracy=own["accuracy"] + 0.03),
        own.assign(method="iterative_snip"),
    ]
    others = table[~table["method"].isin(["force", "iterative_snip"])]
    found = helps(tables | {"comparison": pd.concat([others, *pair])})
    found = [row for row in found if row["statement"].startswith("FORCE is above iterative SNIP")]
    assert len(found) == table["task"].nunique()
    for row in found:
        assert row["claim"] == "C: the return of removed weights helps"
        assert row["difference"] == pytest.approx(3)


def test_what_other_methods_do_in_a_check_is_no_evidence_on_panning(tables) -> None:
    found = shifts(lambda table: helps(tables | {"checks": table}), tables["checks"], method="snip")
    assert set(found.values()) == {0.0}


def test_the_fusion_and_the_search_are_measured_against_the_hand_made_table(tables) -> None:
    found = differences(claims.screens(tables, 0.95))
    assert found == pytest.approx(
        {
            "the hand-made fusion is above SynFlow alone": -1,
            "the hand-made fusion is above SNIP + GraSP": 10,
            "the hand-made fusion is above the product": 5,
            "the table of search 0 is above the hand-made one": 3,
            "the table of search 1 is above the hand-made one": -2,
        }
    )
    headlines = {one["statement"] for one in claims.screens(tables, 0.95) if one["headline"]}
    assert {name for name in headlines if "fusion" in name} == {
        "the hand-made fusion is above SynFlow alone",
        "the hand-made fusion is above the product",
    }


# --- the table of claims -------------------------------------------------------------------------

PARAMS = SimpleNamespace(
    statistics=SimpleNamespace(confidence=0.95),
    reward=SimpleNamespace(trials=(3, 7)),
    transfer=SimpleNamespace(targets=[SimpleNamespace(name=n, axis=a) for n, a in AXIS.items()]),
)


@cache
def assembled() -> pd.DataFrame:
    return claims.assemble(all_tables(), PARAMS)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        *((0.1, 2, "holds"), (-2, -0.1, "contradicted"), (-1, 1, "open")),
        *((0, 1, "open"), (-1, 0, "open"), (np.nan, np.nan, "open")),
    ],
)
def test_a_verdict_follows_from_the_interval_by_rule(low, high, expected: str) -> None:
    assert claims.verdict(low, high) == expected


def test_the_table_has_every_statement_once_with_the_verdict_of_its_interval(tables) -> None:
    table = assembled()
    own = [*compared(), *claims.learns(tables["learning_gaps"], 0.95), *rewards(tables["reward"])]
    own += [*withstands(tables["transfer_gaps"]), *helps(tables), *claims.screens(tables, 0.95)]
    own += claims.beyond(tables["comparison"], 0.95)
    assert dict(zip(table["statement"], table["difference"], strict=True)) == differences(own)
    assert ((table["low"] > 0) == (table["verdict"] == "holds")).all()
    assert ((table["high"] < 0) == (table["verdict"] == "contradicted")).all()
    assert {"holds", "contradicted", "open"} == set(table["verdict"])
    assert (table["p_holm"] >= table["p"]).all() and not table.isna().any(axis=None)


def test_p_is_corrected_for_the_number_of_statements_of_its_own_claim(monkeypatch) -> None:
    p = {"A: x": [0.01, 0.02], "B: y": [0.03], "A: z": [0.004, 0.9], "Metrics: m": [0.02, 0.02]}
    ends = {"difference": 1.5, "low": 1.0, "high": 2.0}
    rows = [ends | {"claim": claim, "p": value} for claim, values in p.items() for value in values]
    for name in ("learns", "rewards", "transfers", "helps", "screens", "beyond"):
        monkeypatch.setattr(claims, name, lambda *_: [])
    monkeypatch.setattr(claims, "strong", lambda *_: rows)
    found = claims.assemble(all_tables(), PARAMS)
    # A: 4 x 0.004, 3 x 0.01, 2 x 0.02 and 0.9, whatever stands between them.
    expected = [0.03, 0.04, 0.03, 0.016, 0.9, 0.04, 0.04]
    assert found["p_holm"].tolist() == pytest.approx(expected)
    assert found["p"].tolist() == [value for values in p.values() for value in values]
    assert found["verdict"].tolist() == ["holds"] * 7


def test_each_statement_names_the_notebook_that_it_comes_from() -> None:
    table = assembled()
    # What is taken from Panning is measured where the tables of the other claims are made.
    assert dict(zip(table["claim"], table["notebook"], strict=True)) == {
        "A: strong on average": "02_artificial_panning",
        "A: strong at every sparsity": "02_artificial_panning",
        "A: most where the network underfits": "02_artificial_panning",
        "A: RLPanning": "03_rl_training",
        "B: the agent learns": "03_rl_training",
        "B: the reward says what we want": "03_rl_training",
        "B: withstands changes": "03_rl_training",
        "B: a better reward": "03_rl_training",
        "C: the return of removed weights helps": "02_artificial_panning",
        "C: it is weights that are chosen, not only layer densities": "02_artificial_panning",
        "C: the gradual process helps": "04_ablations",
        "C: the dense network's gradients help": "04_ablations",
        "C: what the choice rests on": "04_ablations",
        "Metrics: the fusion screens best": "04_ablations",
        "Metrics: a search finds a better table": "04_ablations",
        "Beyond: masked product": "02_artificial_panning",
        "Beyond: selection by trial": "02_artificial_panning",
    }


def test_the_headline_is_of_the_first_task_at_its_highest_sparsity() -> None:
    table = comparison().sort_values("task", ascending=False, kind="stable")  # wide, narrow
    found, verdicts = claims.headline(table, assembled()), assembled()["verdict"]
    kinds = ["holds", "open", "contradicted"]
    assert list(found) == ["panning", "rlpanning", "panning_masked", "synflow", "force", *kinds]
    for name in (
        "panning",
        "rlpanning",
        "panning_masked",
        "synflow",
        "force",
    ):  # 0.02: the seeds' own part
        assert found[name] == pytest.approx(100 * (LEVELS[name] + 4 * SLOPES.get(name, 0) + 0.02))
    assert [found[kind] for kind in kinds] == [(verdicts == kind).sum() for kind in kinds]
    few = table[table["method"].isin(["dense", "panning"])]
    none = claims.headline(few, assembled().iloc[:0])
    alone = pytest.approx(found["panning"])  # the order of adding up may differ
    assert none == {"panning": alone, "holds": 0, "open": 0, "contradicted": 0}


# --- small studies -------------------------------------------------------------------------------

METHODS = [
    *({"panning"}, {"snip", "synflow"}, {"rlpanning"}, {"panning", "snip"}),
    *({"panning", "rlpanning"}, {"force", "iterative_snip"}, set(LEVELS)),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("methods", METHODS, ids=lambda names: ",".join(sorted(names)))
@pytest.mark.parametrize(("sparsities", "seeds"), [((0.9, 0.99), 3), ((0.9,), 2), ((0.9,), 1)])
def test_a_small_study_has_the_statements_that_it_can_make(
    tables, monkeypatch, methods: set[str], sparsities: tuple[float, ...], seeds: int
) -> None:
    monkeypatch.setattr(claims, "RESAMPLES", 20)
    for name, table in tables.items():
        keep = table["seed"] < seeds
        if "sparsity" in table:
            keep &= table["sparsity"].isin((0.0, *sparsities))
        if "method" in table:
            keep &= table["method"].isin({"dense", *methods})
        tables[name] = table[keep]
    found = claims.assemble(tables, PARAMS)
    assert found["statement"].is_unique
    count = found["claim"].value_counts()
    rivals = methods & set(claims.RIVALS) if "panning" in methods else set()
    assert count.get("A: strong on average", 0) == len(rivals) * len(TASKS)
    assert count.get("A: strong at every sparsity", 0) == len(rivals) * len(TASKS)
    ends = len(rivals) * (len(sparsities) > 1)  # of "narrow", at 90 % alone
    assert count.get("A: most where the network underfits", 0) == ends
    both = {"panning", "rlpanning"} <= methods
    assert count.get("A: RLPanning", 0) == both * len(TASKS)
    others = methods & {*claims.RIVALS[1:], "panning"} if "panning_masked" in methods else set()
    assert count.get("Beyond: masked product", 0) == len(others) * len(TASKS)
    chooses = {"panning_masked", "panning_select"} <= methods
    assert count.get("Beyond: selection by trial", 0) == chooses * len(TASKS)
    assert count.get("C: what the choice rests on", 0) == 5 * ("panning" in methods)
    if seeds == 1:  # but policies are many on a single network, and so are agents of two kinds
        others = ["B: the reward says what we want", "B: a better reward"]
        of_seeds = found[~found["claim"].isin(others)]
        assert set(of_seeds["verdict"]) == {"open"} and (of_seeds["p_holm"] == 1).sum() >= 10
        assert (of_seeds["p"] == 1).all()
