"""What a policy earns and is worth: agents trained, rolled out, and judged by their networks."""

import copy
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small import AGENT, COMPUTE, ENVIRONMENT, PLACE, SCORING, STEPS, TRAINING, WORLD
from stable_baselines3 import TD3
from torch import Tensor
from torch.nn import functional

from lib.environment import PanningEnv, rollout
from lib.masks import Mask, kept_count
from lib.methods import pan
from lib.networks import probes
from lib.networks.inspection import prunable
from lib.policies import STAGES, staged_policy
from lib.study import agents, grid
from lib.study.agents import earn, evaluate, judge, random_policies, train_policy
from lib.study.pruning import prune_and_train
from lib.study.worlds import (
    load,
    make_batches,
    make_environment,
    make_network,
    make_policy,
    unscored_batches,
)

HERE = PLACE | {"width": 0.15}  # wide enough to learn
LEARNING = TRAINING.changed(epochs=10, batch_size=10, learning_rate=0.3, weight_decay=0.0)
POLICIES = {
    "staged": "staged",
    "SynFlow alone": [1.0, 0.0, 0.0],
    "random": ["random", 0],
    "table": [[0.7, 0.0, 1.0, 0.0], [1.0, 0.5, 0.0, 0.5]],
}


# --- training ------------------------------------------------------------------------------------


def choices(description: object) -> list[tuple[float, ...]]:
    policy = make_policy(description)
    states = np.zeros((3, 7))
    states[:, 4] = (0.5, 0.95, 0.995)  # the target
    return [tuple(policy(state)) for state in states]


@pytest.fixture
def cell(toy) -> dict[str, object]:
    return {**WORLD, "agent": AGENT, "seed": 0}


def test_a_trained_agent_is_kept_whole_and_chooses_the_same_again(cell, workspace: Path) -> None:
    (first,), (again,) = (grid.run_grid(train_policy, [cell], COMPUTE) for _ in range(2))
    assert (first["card"], first["episodes"]) == (again["card"], again["episodes"])
    assert choices(first) == choices(again)
    assert len(set(choices(first))) > 1
    place = {"data": "digits", "network": "lenet300", "width": 0.02, "fraction": 1.0}
    place |= {"network_seed": 5, "scoring": SCORING.model_dump(), "settings": {}}
    assert place.items() <= first["card"].items()
    assert first["card"]["agent"] == AGENT.model_dump(mode="json")
    assert first["episodes"][-1]["step"] <= 24
    assert list((workspace / ".cache/tensorboard").rglob("events.*"))


def test_a_finished_agent_is_not_trained_again_but_by_a_rebuild(cell, monkeypatch) -> None:
    learned, real = [], TD3.learn
    monkeypatch.setattr(
        TD3, "learn", lambda self, *args, **more: learned.append(1) or real(self, *args, **more)
    )

    def segments() -> int:
        learned.clear()
        train_policy(**cell)
        return len(learned)

    assert [segments(), segments()] == [3, 0]
    monkeypatch.setenv("PANNING_REBUILD", str(time.time() + 60))
    assert segments() == 3
    monkeypatch.setenv("PANNING_REBUILD", str(time.time() - 60))
    assert segments() == 0  # of this rebuild already


@pytest.mark.parametrize("algorithm", ["td3", "sac", "ddpg"])
def test_how_an_agent_is_trained_is_in_its_card_and_in_what_it_does(cell, algorithm: str) -> None:
    environment = ENVIRONMENT.changed(action="logarithmic", objective="trainability", trial_steps=2)
    agent = AGENT.changed(algorithm=algorithm, reward_scale=0.5)
    trained = train_policy(**cell | {"environment": environment, "agent": agent})
    card = trained["card"]
    assert card["algorithm"] == algorithm.upper()
    assert (card["action"], card["objective"]) == ("logarithmic", "trainability")
    assert (card["agent"]["algorithm"], card["agent"]["reward_scale"]) == (algorithm, 0.5)
    assert all(0.001 <= p <= 1 for choice in choices(trained) for p in choice)
    linear = trained | {"card": card | {"action": "linear"}}
    for ps, qs in zip(choices(trained), choices(linear), strict=True):
        assert ps == pytest.approx([10 ** (3 * (q - 1)) for q in qs])
    # In nats, and not halved: a small network is near ln(10) after two steps, a dead one paid.
    assert trained["episodes"]
    assert all(-5 < row["return"] < -1.5 for row in trained["episodes"])


def test_another_seed_or_another_network_is_another_agent(cell) -> None:
    first = choices(train_policy(**cell))
    assert choices(train_policy(**cell | {"seed": 1})) != first
    elsewhere = {"environment": ENVIRONMENT.changed(seed=6)}
    assert choices(train_policy(**cell | elsewhere)) != first


# --- an episode, row by row ----------------------------------------------------------------------

EPISODE = {**WORLD, **PLACE, "policies": {"one": "staged"}, "sparsities": [0.6, 0.8]}


def test_a_policy_has_a_row_for_each_iteration_at_each_target(toy) -> None:
    cell = EPISODE | {"policies": POLICIES}
    rows = evaluate(**cell)
    assert [(row["policy"], row["final_target"], row["iteration"]) for row in rows] == [
        (name, rho, t) for name in POLICIES for rho in (0.6, 0.8) for t in (1, 2, 3, 4)
    ]
    for row in rows:
        reached = 1 - (1 - row["final_target"]) ** (row["iteration"] / 4)
        assert row["target_sparsity"] == pytest.approx(reached)
        assert row["reward"] < 0
    assert evaluate(**cell) == rows
    assert evaluate(**cell | {"seed": 2}) != rows
    for name, policy in POLICIES.items():  # whoever comes before
        alone = evaluate(**cell | {"policies": {name: policy}})
        assert alone == [row for row in rows if row["policy"] == name]


def test_rows_are_plain_values_that_a_grid_keeps(toy) -> None:
    (first,), (again,) = (grid.run_grid(evaluate, [EPISODE], COMPUTE) for _ in range(2))
    assert first == again
    assert {type(value) for row in first for value in row.values()} == {int, float, str}


@pytest.mark.parametrize(
    ("change", "term"),
    [({"alpha": 7.0}, "reward_sparsity"), ({"grad_weight": 1.0}, "reward_grad_norm")],
)
def test_the_reward_is_weighed_as_params_say(toy, change: dict, term: str) -> None:
    cell = EPISODE | {"sparsities": [0.85]}
    base = evaluate(**cell)[-1][term]
    ((key, value),) = change.items()
    changed = evaluate(**cell | {"environment": ENVIRONMENT.changed(**change)})[-1][term]
    assert base != 0
    assert changed == pytest.approx(base * value / getattr(ENVIRONMENT, key))


# --- what a policy earns -------------------------------------------------------------------------


@pytest.fixture
def env(toy) -> PanningEnv:
    return make_environment(**WORLD, **PLACE)


@pytest.mark.parametrize("description", POLICIES.values(), ids=POLICIES)
def test_a_return_is_the_sum_of_its_terms_and_of_the_rewards_of_an_episode(
    env, description
) -> None:
    found = earn(env, make_policy(description), 0.8)
    assert found["return"] == pytest.approx(sum(found[term] for term in agents.TERMS))
    rewards = [row["reward"] for row in rollout(env, make_policy(description), 0.8)]
    assert found["return"] == pytest.approx(sum(rewards))
    assert found["length"] == len(rewards) == STEPS
    assert found["return"] < 0
    assert {"reward_loss", "reward_grad_norm", "reward_sparsity"} < set(agents.TERMS)


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
    environment = ENVIRONMENT.changed(objective="trainability", trial_steps=3)
    env = make_environment(**WORLD | {"environment": environment}, **PLACE)
    found = earn(env, staged_policy(), 0.8)
    bank = env.panning.bank
    loss = probes.trainability(bank.model, env.panning.effective, bank.batches, 3)
    assert found["return"] == found["reward_trainability"] == -loss
    assert found["reward_loss"] == found["reward_grad_norm"] == found["reward_sparsity"] == 0


# --- what its network is worth -------------------------------------------------------------------


def judged(policies: dict, **changes: object) -> dict[str, dict]:
    cell = {**WORLD, **HERE, "policies": policies, "sparsity": 0.9, "training": LEARNING}
    rows = judge(**cell | changes)
    assert [row["policy"] for row in rows] == list(policies)
    return {row["policy"]: row for row in rows}


SAME = ("accuracy", "test_loss", "train_loss", "left_plateau", "effective_sparsity")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fraction": 0.5, "training": LEARNING.changed(epochs=20)},
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
        cell = {"data": "digits", "scoring": SCORING, "device": "cpu", **HERE, "sparsity": 0.9}
        cell |= {"training": LEARNING, "method": "panning", "policy": policy, "steps": STEPS}
        alone = prune_and_train(**cell | changes)
        assert {key: found[name][key] for key in SAME} == {key: alone[key] for key in SAME}
    assert found["staged"]["test_loss"] != found["random"]["test_loss"]
    assert max(row["accuracy"] for row in found.values()) > 0.3  # chance is right once in ten


def test_policies_do_not_disturb_each_other(toy) -> None:
    short = {"trials": [2], "training": LEARNING.changed(epochs=2)}
    together = judged(POLICIES, **short)
    assert judged(dict(reversed(POLICIES.items())), **short) == together
    for name, policy in POLICIES.items():
        assert judged({name: policy}, **short) == {name: together[name]}
    assert len({row["effective_sparsity"] for row in together.values()}) > 1


# --- and what is seen of it before training ------------------------------------------------------


def by_autograd(model: torch.nn.Module, masks: Mask, batch: tuple[Tensor, Tensor]) -> dict:
    """The usual way, on a network whose removed weights are 0."""
    model = copy.deepcopy(model)
    weights = prunable(model)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.mul_(masks[name])
    inputs, targets = batch
    loss = functional.cross_entropy(model.train()(inputs), targets)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    squares = [g[masks[name]].square().sum() for name, g in zip(weights, gradients, strict=True)]
    jacobians = torch.func.vmap(torch.func.jacrev(lambda x: model.eval()(x[None])[0]))(inputs)
    singular = torch.linalg.svd(jacobians.flatten(2)).S
    return {
        "initial_loss": loss.item(),
        "initial_grad_norm_sq": sum(squares).item(),
        "jacobian_mean": singular.mean().item(),
        "jacobian_max": singular.max().item(),
        "path_norm": path_norm(model, inputs),
    }


def path_norm(model: torch.nn.Module, images: Tensor) -> float:
    """Σ over logits of the network of absolute weights on ones, its last bias left out."""
    sure = copy.deepcopy(model).eval()
    with torch.no_grad():
        for parameter in sure.parameters():
            parameter.abs_()
        *_, last = [p for p in sure.parameters() if p.ndim == 1]
        last.zero_()
        return sure(torch.ones_like(images[:1])).sum().item()


def test_with_trials_the_network_is_looked_at_before_training(toy) -> None:
    plain, full = judged({"one": "staged"})["one"], judged({"one": "staged"}, trials=[0, 5])["one"]
    assert {key: full[key] for key in plain} == plain  # to look changes nothing
    env = make_environment(**WORLD, **HERE)
    earned = earn(env, staged_policy(), 0.9)
    assert {key: plain[key] for key in earned} == earned
    process, bank = env.panning, env.panning.bank
    assert plain["effective_sparsity"] == process.effective_sparsity
    expected = {f"final_{key}": value for key, value in process.observe()._asdict().items()}
    train_set, _ = load("digits", "cpu")
    others = unscored_batches(train_set, SCORING, 1)
    looked_at = [bank.batches, others]
    losses = probes.trial(bank.model, process.effective, bank.batches, [0, 5], looked_at)
    for steps, (here, there) in zip((0, 5), losses, strict=True):
        expected |= {f"loss_after_{steps}": here, f"loss_after_{steps}_elsewhere": there}
    expected["ntk_trace"] = probes.ntk_trace(bank.model, process.effective, bank.batches[0][0])
    assert {key: full[key] for key in expected} == expected
    found = by_autograd(bank.model, process.effective, bank.batches[0])
    assert {key: full[key] for key in found} == pytest.approx(found, rel=1e-3)
    assert full["jacobian_max"] > full["jacobian_mean"] > 0 < full["initial_grad_norm_sq"]
    gaps = {"gap_loss_200", "gap_flow_200"}
    assert full.keys() - plain.keys() == expected.keys() | found.keys() | gaps


@pytest.mark.parametrize(("count", "every"), [(6, 1), (199, 1), (250, 2), (1000, 10)])
def test_of_a_large_batch_a_hundred_images_or_so_have_a_jacobian(mlp, count, every) -> None:
    images = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    batch = images, torch.arange(count) % 3
    weights = prunable(mlp)
    kept = Mask(torch.ones(sum(w.numel() for w in weights.values()), dtype=torch.bool), weights)
    found = agents._before_training(mlp, kept, batch)
    some = images[::every]
    assert len(some) < 200
    singular = probes.jacobian_singular_values(mlp, kept, some)
    assert found["jacobian_mean"] == singular.mean().item()
    assert found["jacobian_max"] == singular.max().item()
    loss = functional.cross_entropy(mlp.train()(images), batch[1])  # of all of them
    assert found["initial_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_of_a_dead_network_nothing_is_seen(toy) -> None:
    found = judged({"dead": [0.0, 0.0, 0.0]}, trials=[1])["dead"]
    assert found["effective_sparsity"] == 1 and not found["left_plateau"]
    assert (found["jacobian_mean"], found["jacobian_max"]) == (0, 0)
    assert found["initial_grad_norm_sq"] == 0
    assert found["initial_loss"] == pytest.approx(math.log(10), abs=0.1)  # biases alone


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


def test_random_policies_are_tables_and_constants_in_turn_that_can_be_followed() -> None:
    policies = random_policies(20, 0)
    assert len(policies) == len({str(p) for p in policies.values()}) == 20
    for index, description in enumerate(policies.values()):
        assert len(set(choices(description))) == (1 if index % 2 else 3)
        if index % 2 == 0:
            assert [row[0] for row in description] == [row[0] for row in STAGES]


def test_random_weights_spread_over_three_decades_and_leave_metrics_out() -> None:
    policies = random_policies(600, 1).values()
    rows = [p if isinstance(p[0], list) else [[1.0, *p]] for p in policies]
    p = np.array([row[1:] for table in rows for row in table])
    assert ((p >= 0) & (p <= 1)).all() and (p.sum(axis=1) > 0).all()
    assert (p == 0).mean() == pytest.approx(0.25, abs=0.03)
    drawn = np.log10(p[(p > 0) & (p < 1)])
    assert drawn.min() >= -3.001 and drawn.max() <= 0
    shares = np.histogram(drawn, bins=[-3.001, -2, -1, 0])[0] / len(drawn)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.03)
