"""What a policy earns and is worth, and what is counted while the loop runs."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from lib import config, probes, studies
from lib.environment import PanningEnv, rollout
from lib.experiments import prune_and_train
from lib.masks import kept_count
from lib.methods import METHODS, pan
from lib.models import flatten
from lib.policies import STAGES, staged_policy, targets
from lib.studies import collapse, earn, judge, random_policies, trace
from lib.worlds import load, make_batches, make_environment, make_network, make_policy

SCORING = config.Scoring(per_class=2, count=2, temperature=200.0)
STEPS = 4
ENVIRONMENT = config.Environment("lenet300", 0.02, 5, STEPS, (0.5, 0.9), 100.0, 0.2, 4)
WORLD = {"data": "digits", "environment": ENVIRONMENT, "scoring": SCORING, "device": "cpu"}
PLACE = {"network": "lenet300", "width": 0.02, "seed": 1}  # 4,736 weights
HERE = PLACE | {"width": 0.15}  # wide enough to learn
TRAINING = config.Training(10, 10, 0.3, 0.9, 0.0)
POLICIES = {
    "staged": "staged",
    "SynFlow alone": [1.0, 0.0, 0.0],
    "random": ["random", 0],
    "table": [[0.7, 0.0, 1.0, 0.0], [1.0, 0.5, 0.0, 0.5]],
}


@pytest.fixture
def env(toy) -> PanningEnv:
    return make_environment(**WORLD, **PLACE)


# --- what a policy earns -------------------------------------------------------------------------


@pytest.mark.parametrize("description", POLICIES.values(), ids=POLICIES)
def test_a_return_is_the_sum_of_its_terms_and_of_the_rewards_of_an_episode(
    env, description
) -> None:
    found = earn(env, make_policy(description), 0.8)
    assert found["return"] == pytest.approx(sum(found[term] for term in studies.TERMS))
    rewards = [row["reward"] for row in rollout(env, make_policy(description), 0.8)]
    assert found["return"] == pytest.approx(sum(rewards))
    assert found["length"] == len(rewards) == STEPS
    assert found["return"] < 0
    assert {"reward_loss", "reward_grad_norm", "reward_sparsity"} < set(studies.TERMS)


def kill_and_revive(state: np.ndarray) -> tuple[float, float, float]:
    """At t = 1 the lowest indices alone are kept, which cuts the output off; then SNIP's choice."""
    return (0.0, 0.0, 0.0) if state[-1] == 0 else (0.0, 1.0, 0.0)


def test_an_episode_ends_with_a_dead_network_and_the_loop_does_not(env) -> None:
    found = earn(env, kill_and_revive, 0.8)
    (only,) = rollout(env, kill_and_revive, 0.8)  # it stops where the episode does
    assert found["length"] == 1
    assert found["return"] == pytest.approx(only["reward"])
    assert found["reward_dead"] == -STEPS  # -(T - t + 1)

    earn(env, kill_and_revive, 0.8)
    assert env.panning.t == STEPS and env.panning.done
    assert not env.panning.dead
    assert env.panning.history["reactivated"].iloc[1] > 0
    assert env.panning.mask.sum() == kept_count(env.panning.bank.total, 0.8)


def test_another_target_is_another_episode_and_leaves_nothing_behind(env) -> None:
    first = earn(env, staged_policy(), 0.8)
    other = earn(env, staged_policy(), 0.9)
    assert other != first
    assert earn(env, staged_policy(), 0.8) == first


def test_trainability_is_earned_at_the_end_alone(toy) -> None:
    environment = replace(ENVIRONMENT, objective="trainability", trial_steps=3)
    env = make_environment(**WORLD | {"environment": environment}, **PLACE)
    found = earn(env, staged_policy(), 0.8)
    bank = env.panning.bank
    loss = probes.trainability(bank.model, env.panning.effective, bank.batches, 3)
    assert found["return"] == found["reward_trainability"] == -loss
    assert found["reward_loss"] == found["reward_grad_norm"] == found["reward_sparsity"] == 0


# --- what its network is worth -------------------------------------------------------------------


def judged(policies: dict, **changes: object) -> dict[str, dict]:
    cell = {**WORLD, **HERE, "policies": policies, "sparsity": 0.9, "training": TRAINING}
    rows = judge(**cell | changes)
    assert [row["policy"] for row in rows] == list(policies)
    return {row["policy"]: row for row in rows}


def trained(policy: object, **changes: object) -> dict[str, float]:
    cell = {"data": "digits", "scoring": SCORING, "device": "cpu", **HERE, "sparsity": 0.9}
    cell |= {"training": TRAINING, "method": "panning", "policy": policy, "steps": STEPS}
    return prune_and_train(**cell | changes)


SAME = ("accuracy", "test_loss", "train_loss", "left_plateau", "effective_sparsity")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fraction": 0.5, "training": replace(TRAINING, epochs=20)},
        {"settings": {"schedule": "linear"}},
        {"seed": 2},
        {"width": 0.2},
    ],
    ids=lambda changes: next(iter(changes), "nothing"),
)
def test_a_judged_network_is_the_one_that_is_pruned_and_trained(toy, changes: dict) -> None:
    policies = {name: POLICIES[name] for name in ("staged", "random")}
    found = judged(policies, **changes)
    for name, policy in policies.items():
        alone = trained(policy, **changes)
        assert {key: found[name][key] for key in SAME} == {key: alone[key] for key in SAME}
    assert found["staged"]["test_loss"] != found["random"]["test_loss"]
    assert max(row["accuracy"] for row in found.values()) > 0.3  # chance is right once in ten


def test_policies_do_not_disturb_each_other(toy) -> None:
    short = {"trials": [2], "training": replace(TRAINING, epochs=2)}
    together = judged(POLICIES, **short)
    assert judged(dict(reversed(POLICIES.items())), **short) == together
    for name, policy in POLICIES.items():
        assert judged({name: policy}, **short) == {name: together[name]}
    assert len({row["effective_sparsity"] for row in together.values()}) > 1


def test_a_judgement_holds_the_return_of_the_episode(toy) -> None:
    found = judged({"staged": "staged"})["staged"]
    env = make_environment(**WORLD, **HERE)
    expected = earn(env, staged_policy(), 0.9)
    assert {key: found[key] for key in expected} == expected
    assert found["effective_sparsity"] == env.panning.effective_sparsity


def test_with_trials_the_network_is_looked_at_before_training(toy) -> None:
    plain, full = judged({"one": "staged"})["one"], judged({"one": "staged"}, trials=[0, 5])["one"]
    assert {key: full[key] for key in plain} == plain
    seen = trained("staged", probe=True)
    for key in ("initial_loss", "initial_grad_norm_sq", "jacobian_mean", "jacobian_max"):
        assert full[key] == pytest.approx(seen[key])
        assert key not in plain
    env = make_environment(**WORLD, **HERE)
    earn(env, staged_policy(), 0.9)
    bank = env.panning.bank
    for steps in (0, 5):
        expected = probes.trainability(bank.model, env.panning.effective, bank.batches, steps)
        assert full[f"loss_after_{steps}"] == expected
    observed = env.panning.observe()._asdict()
    assert {key: full[f"final_{key}"] for key in observed} == observed


def test_the_gaps_at_temperature_200_are_those_of_the_definition(toy) -> None:
    found = judged({"one": "staged"}, trials=[1])["one"]
    train_set, _ = load("digits", "cpu")
    model = make_network("lenet300", 0.15, 1, train_set, "cpu")
    batches = make_batches(train_set, SCORING, 1)
    masks = pan(model, batches, 0.9, STEPS).masks
    inputs, targets = batches[(STEPS - 1) % 2]
    model = model.double()
    values = []
    for masked in (False, True):
        with torch.no_grad():
            for name, mask in masks.items():
                model.get_parameter(name).mul_(mask if masked else 1)
        loss = functional.cross_entropy(model(inputs.double()) / 200, targets)
        weights = {name: model.get_parameter(name) for name in masks}
        gradients = torch.autograd.grad(loss, list(weights.values()))
        parts = zip(gradients, masks.values(), strict=True)
        flow = sum((g * (mask if masked else 1)).square().sum().item() for g, mask in parts)
        values.append((loss.item(), flow))
    (loss, flow), (sparse_loss, sparse_flow) = values
    assert 0 < found["gap_loss_200"] < 1e-3
    assert found["gap_loss_200"] == pytest.approx(abs(loss - sparse_loss), rel=1e-6)
    assert found["gap_flow_200"] == pytest.approx(abs(flow - sparse_flow), rel=1e-6)


# --- random policies -----------------------------------------------------------------------------


def test_random_policies_are_the_same_again_by_their_seed() -> None:
    assert random_policies(12, 0) == random_policies(12, 0)
    assert random_policies(12, 0) != random_policies(12, 1)
    few, many = random_policies(5, 3), random_policies(9, 3)
    assert list(many)[:5] == list(few) and all(many[name] == few[name] for name in few)


def weights(policies: dict[str, list]) -> np.ndarray:
    rows = [p if isinstance(p[0], list) else [[1.0, *p]] for p in policies.values()]
    return np.array([row[1:] for table in rows for row in table])


def test_random_policies_are_tables_and_constants_in_turn_that_can_be_followed() -> None:
    policies = random_policies(20, 0)
    assert len(policies) == len({str(p) for p in policies.values()}) == 20
    states = np.zeros((3, 7))
    states[:, 4] = (0.5, 0.95, 0.999)
    for index, description in enumerate(policies.values()):
        chosen = [make_policy(description)(state) for state in states]
        assert len({tuple(p) for p in chosen}) == (1 if index % 2 else 3)
        if index % 2 == 0:
            assert [row[0] for row in description] == [row[0] for row in STAGES]


def test_random_weights_spread_over_three_decades_and_leave_metrics_out() -> None:
    p = weights(random_policies(600, 1))
    assert ((p >= 0) & (p <= 1)).all() and (p.sum(axis=1) > 0).all()
    assert (p == 0).mean() == pytest.approx(0.25, abs=0.03)
    drawn = np.log10(p[(p > 0) & (p < 1)])
    assert drawn.min() >= -3.001 and drawn.max() <= 0
    shares = np.histogram(drawn, bins=[-3.001, -2, -1, 0])[0] / len(drawn)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.03)


# --- every weight watched ------------------------------------------------------------------------

TRACE = {"data": "digits", "network": "lenet300", "width": 0.02, "seed": 1, "device": "cpu"}
TRACE |= {"sparsity": 0.9, "steps": 6, "policy": "staged", "scoring": SCORING}
SIZES = {"fc1": 784 * 6, "fc2": 12, "fc3": 20}
N = sum(SIZES.values())


@pytest.fixture
def traced(toy) -> SimpleNamespace:
    found = trace(**TRACE)
    layers = pd.DataFrame(found["layers"])
    layers["kept"] = layers["density"] * layers["layer"].map(SIZES)
    return SimpleNamespace(**{**found, "layers": layers})


def finished(method: str = "panning", steps: int = 6, **changes: object):
    train_set, _ = load("digits", "cpu")
    model = make_network("lenet300", 0.02, 1, train_set, "cpu")
    batches = make_batches(train_set, SCORING, 1)
    return pan(model, batches, 0.9, steps, method=method, **changes)


def test_in_each_layer_what_is_kept_changes_by_what_leaves_and_returns(traced) -> None:
    assert list(traced.layers["layer"][:3]) == list(SIZES)
    assert len(traced.layers) == 3 * 6
    for layer, part in traced.layers.groupby("layer"):
        change = np.diff([SIZES[layer], *part["kept"]])
        assert change == pytest.approx(part["reactivated"] - part["removed"], abs=1e-3)
    assert traced.layers["reactivated"].sum() > 0


def test_all_layers_together_follow_the_schedule(traced) -> None:
    kept = traced.layers.groupby("iteration")["kept"].sum()
    expected = [kept_count(N, 1 - 0.1 ** (t / 6)) for t in range(1, 7)]
    assert kept.tolist() == pytest.approx(expected, abs=1e-2)


def test_the_traced_process_is_panning_itself(traced) -> None:
    history = finished().history.set_index("iteration")
    for column in ("removed", "reactivated"):
        total = traced.layers.groupby("iteration")[column].sum()
        assert total.tolist() == history[column].tolist()
    last = traced.layers[traced.layers["iteration"] == 6].set_index("layer")["kept"]
    for name, mask in finished().masks.items():
        assert last[name.removesuffix(".weight")] == pytest.approx(int(mask.sum()), abs=1e-3)


def test_the_shares_of_the_score_sum_to_1(traced) -> None:
    shares = traced.layers.groupby("iteration")["score_share"]
    assert shares.sum().tolist() == pytest.approx([1] * 6)
    assert (traced.layers["score_share"] > 0).all()


def test_where_nothing_is_scored_there_is_no_share(toy) -> None:
    found = trace(**TRACE | {"policy": [0.0, 0.0, 0.0]})
    assert {row["score_share"] for row in found["layers"]} == {0.0}


def test_every_weight_of_the_final_mask_is_counted_once(traced) -> None:
    kept = kept_count(N, 0.9)
    assert sum(traced.departures) == sum(traced.absent) == kept
    assert traced.departures[0] == traced.absent[0] < kept  # never left, and so never absent
    assert len(traced.absent) == 7 and traced.absent[6] == 0  # at the last iteration it is there
    times = sum(count * times for times, count in enumerate(traced.departures))
    missed = sum(count * times for times, count in enumerate(traced.absent))
    assert kept - traced.departures[0] <= times <= missed
    assert times <= traced.layers["reactivated"].sum()


def test_without_return_no_weight_of_the_final_mask_had_left(toy) -> None:
    # The policy that asks for the lowest indices asks for the same ones, in each iteration.
    found = trace(**TRACE | {"policy": [0.0, 0.0, 0.0]})
    assert found["departures"] == [kept_count(N, 0.9)]
    assert sum(row["reactivated"] for row in found["layers"]) == 0


def test_agreement_is_the_overlap_with_other_masks(traced) -> None:
    rows = {(row["other"], row["steps"]): row for row in traced.agreement}
    assert set(rows) == {
        *(("magnitude", 1), ("snip", 1), ("grasp", 1)),
        *(("synflow", 1), ("synflow", 6), ("iterative_fused", 1), ("iterative_fused", 6)),
    }
    assert len(rows) == len(traced.agreement)
    mine = finished().masks
    final, kept = flatten(mine), kept_count(N, 0.9)
    for (other, steps), row in rows.items():
        masks = finished(other, steps).masks
        assert row["overlap"] == (final & flatten(masks)).sum().item() / kept
        assert row["by_chance"] == kept / N
        densities = [
            a.float().mean().item() * b.float().mean().item() * a.numel()
            for a, b in zip(mine.values(), masks.values(), strict=True)
        ]
        assert row["by_layer_densities"] == pytest.approx(sum(densities) / kept)
        assert 0 <= row["overlap"] <= 1 and 0 < row["by_layer_densities"] <= 1


def test_in_one_step_panning_is_its_own_control(toy) -> None:
    rows = trace(**TRACE | {"steps": 1})["agreement"]
    overlap = {(row["other"], row["steps"]): row["overlap"] for row in rows}
    assert overlap["iterative_fused", 1] == 1
    assert len(overlap) == 5


@pytest.mark.parametrize("schedule", ["exponential", "linear", "cosine"])
def test_a_schedule_can_be_chosen_for_what_is_traced(toy, schedule: str) -> None:
    found = trace(**TRACE | {"settings": {"schedule": schedule}})
    assert (found == trace(**TRACE)) == (schedule == "exponential")
    layers = pd.DataFrame(found["layers"])
    kept = (layers["density"] * layers["layer"].map(SIZES)).groupby(layers["iteration"]).sum()
    expected = [kept_count(N, rho) for rho in targets(0.9, 6, schedule)]
    assert kept.tolist() == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize(
    ("policy", "settings"),
    [
        ("staged", {"schedule": "linear"}),
        ([0.0, 1.0, 0.0], {}),
        ([[0.7, 0.0, 1.0, 0.0], [1.0, 0.5, 0.0, 0.5]], {"schedule": "cosine"}),
    ],
    ids=["schedule", "policy", "both"],
)
def test_the_masks_it_is_compared_with_are_found_in_the_same_way(
    toy, policy: object, settings: dict[str, str]
) -> None:
    found = trace(**TRACE | {"policy": policy, "settings": settings})["agreement"]
    assert found != trace(**TRACE)["agreement"]
    final = flatten(finished(policy=make_policy(policy), **settings).masks)
    for row in found:
        chosen = make_policy(policy) if METHODS[row["other"]].p is None else None
        other = finished(row["other"], row["steps"], policy=chosen, **settings)
        overlap = (final & flatten(other.masks)).sum().item()
        assert row["overlap"] == overlap / kept_count(N, 0.9)


@pytest.mark.parametrize("policy", [[0.0, 0.0, 1.0], [0.1, 1.0, 0.3]])
def test_in_one_step_any_policy_is_its_own_control(toy, policy: list[float]) -> None:
    rows = trace(**TRACE | {"steps": 1, "policy": policy})["agreement"]
    assert {row["overlap"] for row in rows if row["other"] == "iterative_fused"} == {1}


# --- layer collapse ------------------------------------------------------------------------------

COMPRESSIONS = [1, 10, 100, 300, 1000, N / 3]  # the last one leaves one weight a layer


@pytest.fixture
def collapsing(toy) -> Callable[..., pd.DataFrame]:
    cell = {"data": "digits", "network": "lenet300", "width": 0.02, "device": "cpu"}
    cell |= {"scoring": SCORING, "compressions": COMPRESSIONS, "steps": 100}

    def run(method: str, seed: int = 1, **changes: object) -> pd.DataFrame:
        return pd.DataFrame(collapse(**cell | {"method": method, "seed": seed} | changes))

    return run


@pytest.mark.parametrize("method", ["random", "magnitude", "snip", "grasp", "synflow"])
def test_the_smallest_layer_falls_with_compression(collapsing, method: str) -> None:
    found = collapsing(method, steps=30)
    assert found["compression"].tolist() == COMPRESSIONS
    assert found["smallest_layer"].iloc[0] == min(SIZES.values())
    assert (np.diff(found["smallest_layer"]) <= 0).all()
    assert found["smallest_layer"].iloc[-1] <= 1
    assert found["effective_share"].between(0, 1).all()
    assert found["effective_share"].iloc[0] == 1


def test_a_network_with_an_empty_layer_has_no_effective_weight(collapsing) -> None:
    found = pd.concat(collapsing(method) for method in ("random", "magnitude", "snip"))
    collapsed = found[found["smallest_layer"] == 0]
    assert 0 < len(collapsed) < len(found)
    assert (collapsed["effective_share"] == 0).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_synflow_empties_no_layer_up_to_one_weight_a_layer(collapsing, seed: int) -> None:
    found = collapsing("synflow", seed, compressions=[1000, N / 4, N / 3])
    assert (found["smallest_layer"] > 0).all()
    assert found["smallest_layer"].iloc[-1] == 1
    assert (found["effective_share"] > 0.9).all()


def test_a_policy_decides_where_the_method_lets_it(collapsing) -> None:
    few = {"compressions": [100], "steps": 5}
    hand_made = collapsing("panning", **few)
    assert hand_made.equals(collapsing("panning", policy=[list(row) for row in STAGES], **few))
    assert not hand_made.equals(collapsing("panning", policy=[0.0, 0.0, 0.0], **few))


@pytest.mark.parametrize("method", ["panning", "synflow"])
def test_a_schedule_can_be_chosen_for_a_collapse(collapsing, method: str) -> None:
    few = {"compressions": [30, 100, 300], "steps": 5}
    plain = collapsing(method, **few)
    assert plain.equals(collapsing(method, settings={"schedule": "exponential"}, **few))
    assert not plain.equals(collapsing(method, settings={"schedule": "linear"}, **few))


def test_one_shot_methods_take_one_step_whatever_is_asked(collapsing) -> None:
    one, many = (collapsing("snip", steps=steps) for steps in (1, 50))
    assert METHODS["snip"].steps == 1 and one.equals(many)
