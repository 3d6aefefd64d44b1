"""A cell is a pure function of its parameters, each of which counts, and methods meet in pairs."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from stable_baselines3 import TD3
from torch import Tensor

from lib import config, experiments, grid
from lib.experiments import evaluate_policy, make_policy, prune_and_train, train_policy
from lib.methods import METHODS
from lib.models import flatten, prunable
from lib.panning import PanResult

SCORING = config.Scoring(per_class=2, count=2, temperature=200.0)
CELL = {
    "data": "digits",
    "network": "lenet5",
    "width": 0.2,
    "seed": 0,
    "sparsity": 0.95,
    "method": "panning",
    "steps": 3,
    "training": config.Training(1, 30, 0.1, 0.9, 0.0001),
    "scoring": SCORING,
    "device": "cpu",
}
ENVIRONMENT = config.Environment("lenet300", 0.02, 5, 4, (0.5, 0.9), 100.0, 0.2, 4)
WORLD = {"data": "digits", "environment": ENVIRONMENT, "scoring": SCORING, "device": "cpu"}
PLACE = {"network": "lenet300", "width": 0.02, "seed": 1}


@dataclass
class Run:
    """One cell, seen from inside."""

    found: dict[str, float]
    initial: Tensor  # (N,)
    batches: list[tuple[Tensor, Tensor]] | None
    result: PanResult | None
    masks: dict[str, Tensor] | None  # what is trained
    images: Tensor
    data_seed: int


@pytest.fixture
def run(toy, monkeypatch) -> Callable[..., Run]:
    def observed(**changes: object) -> Run:
        seen = SimpleNamespace(batches=None, result=None)

        def pan(model, batches, *args, **settings):
            seen.batches = batches
            seen.result = real.pan(model, batches, *args, **settings)
            return seen.result

        def train(model, train_set, settings, masks, seed):
            seen.initial = flatten(prunable(model)).detach().clone()
            seen.masks, seen.images, seen.data_seed = masks, train_set.images, seed
            return real.train(model, train_set, settings, masks, seed)

        real = SimpleNamespace(pan=experiments.pan, train=experiments.train)
        with monkeypatch.context() as patch:
            patch.setattr(experiments, "pan", pan)
            patch.setattr(experiments, "train", train)
            found = prune_and_train(**CELL | changes)
        return Run(found=found, **vars(seen))

    return observed


# --- prune and train -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted({*METHODS, "dense"} - {"panning", "rlpanning"}))
def test_methods_of_one_seed_share_initialisation_batches_and_order(run, method: str) -> None:
    one, other = run(), run(method=method)
    assert torch.equal(one.initial, other.initial)
    assert (one.data_seed, other.data_seed) == (0, 0)
    assert torch.equal(one.images, other.images)
    if method == "dense":
        assert other.batches is None
        return
    for mine, theirs in zip(one.batches, other.batches, strict=True):
        assert torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])
    assert not torch.equal(flatten(one.masks), flatten(other.masks))


def test_another_seed_is_another_network_and_other_batches(run) -> None:
    one, other = run(), run(seed=1)
    assert not torch.equal(one.initial, other.initial)
    assert not torch.equal(one.batches[0][0], other.batches[0][0])
    assert other.data_seed == 1


def test_it_is_the_effective_mask_that_is_trained_and_counted(run) -> None:
    seen = run(sparsity=0.98, method="random")
    trained, pruned = flatten(seen.masks), flatten(seen.result.masks)
    assert torch.equal(trained, flatten(seen.result.effective))
    assert trained.sum() < pruned.sum()
    assert seen.found["sparsity_reached"] == 1 - int(pruned.sum()) / len(pruned)
    assert seen.found["effective_sparsity"] == 1 - int(trained.sum()) / len(trained)
    assert seen.found["sparsity_reached"] == pytest.approx(0.98, abs=1e-3)


def test_the_dense_network_is_trained_as_it_is(run) -> None:
    seen = run(method="dense", sparsity=0.0)
    assert seen.masks is None
    assert set(seen.found) == {
        *("sparsity_reached", "effective_sparsity"),
        *("accuracy", "test_loss", "train_loss", "left_plateau"),
    }
    assert seen.found["sparsity_reached"] == seen.found["effective_sparsity"] == 0


def test_a_sparse_network_learns_what_the_test_images_ask(run) -> None:
    training = config.Training(15, 20, 0.1, 0.9, 0.0)
    found = run(network="lenet300", width=1.0, training=training, sparsity=0.8).found
    assert found["accuracy"] > 0.8  # chance is right once in ten
    assert found["accuracy"] * 40 == pytest.approx(round(found["accuracy"] * 40))  # of 40 images
    assert found["train_loss"] < found["test_loss"] < 1
    assert found["left_plateau"] is True


def test_a_network_that_does_not_learn_is_said_to_stay_on_its_plateau(run) -> None:
    still = replace(CELL["training"], learning_rate=0.0)
    assert run(training=still).found["left_plateau"] is False


def test_a_shuffled_mask_keeps_the_number_of_weights_in_each_layer(run, monkeypatch) -> None:
    seen, real = [], experiments.masks.effective_mask
    monkeypatch.setattr(
        experiments.masks,
        "effective_mask",
        lambda model, mask, *args: seen.append(mask) or real(model, mask, *args),
    )
    shuffled = run(shuffle=True)
    flat = seen[-1]  # what the effective mask of the cell is taken from
    sizes = [mask.numel() for mask in shuffled.result.masks.values()]
    expected = [int(mask.sum()) for mask in shuffled.result.masks.values()]
    assert [int(part.sum()) for part in flat.split(sizes)] == expected
    assert not torch.equal(flat, flatten(shuffled.result.masks))
    trained = flatten(shuffled.masks)
    assert torch.equal(trained & flat, trained)
    assert trained.sum() < flat.sum()  # of other paths, and fewer
    assert shuffled.found["sparsity_reached"] == run().found["sparsity_reached"]


def test_a_cell_computed_twice_gives_the_same_numbers_whatever_the_global_seed(run) -> None:
    torch.manual_seed(0)
    first = run(shuffle=True).found
    torch.manual_seed(1)
    assert run(shuffle=True).found == first


def test_a_cell_leaves_the_global_generator_alone(run) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    run()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "change",
    [
        {"network": "lenet300"},
        {"seed": 1},
        {"sparsity": 0.9},
        {"method": "synflow"},
        {"steps": 2},
        {"width": 0.4},
        {"fraction": 0.5},
        {"shuffle": True},
        {"policy": [1.0, 0.0, 0.0]},
        {"policy": ["random", 0]},
        {"policy": [[0.9, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]]},
        {"settings": {"schedule": "linear"}},
        {"settings": {"reactivate": False}},
        {"settings": {"gradients": "masked"}},
        {"scoring": replace(SCORING, per_class=3)},
        {"scoring": replace(SCORING, count=1)},
        {"scoring": replace(SCORING, temperature=1.0)},
    ],
    ids=str,
)
def test_each_parameter_of_the_pruning_changes_the_mask(run, change: dict) -> None:
    base, other = flatten(run().masks), flatten(run(**change).masks)
    assert base.shape != other.shape or not torch.equal(base, other)


@pytest.mark.parametrize(
    "change", [{"epochs": 2}, {"batch_size": 60}, {"learning_rate": 0.05}, {"momentum": 0.0}]
)
def test_each_parameter_of_the_training_changes_the_outcome_and_not_the_mask(run, change) -> None:
    base, other = run(), run(training=replace(CELL["training"], **change))
    assert torch.equal(flatten(base.masks), flatten(other.masks))
    assert base.found["test_loss"] != other.found["test_loss"]


def test_a_fraction_of_the_images_is_all_that_scoring_and_training_see(run) -> None:
    seen = run(fraction=0.5)
    assert len(seen.images) == 60
    allowed = {image.numpy().tobytes() for image in seen.images}
    mean, std = 0.3054, 0.3247  # of "digits"
    for inputs, _ in seen.batches:
        pixels = ((inputs * std + mean) * 255).round().to(torch.uint8)
        assert {image.numpy().tobytes() for image in pixels} <= allowed


@pytest.mark.parametrize(("method", "steps"), [("snip", 1), ("random", 1), ("synflow", 3)])
def test_the_number_of_iterations_is_for_methods_that_iterate(run, method, steps: int) -> None:
    assert len(run(method=method).result.history) == steps


def test_reactivated_weights_are_counted(run) -> None:
    seen = run()
    assert seen.found["reactivated"] == seen.result.history.reactivated.sum() > 0
    assert run(method="synflow").found["reactivated"] == 0


# --- policies ------------------------------------------------------------------------------------


def choices(description: object) -> list[tuple[float, ...]]:
    policy = make_policy(description)
    states = torch.zeros(3, 7).double().numpy()
    states[:, 4] = (0.5, 0.95, 0.995)  # the target
    return [tuple(policy(state)) for state in states]


def test_policies_come_from_plain_values() -> None:
    assert choices("staged") == [(0.2, 0.5, 0.3), (0.2, 0.3, 0.5), (0.5, 0.0, 0.5)]
    assert choices([0.1, 0.2, 0.3]) == choices((0.1, 0.2, 0.3)) == [(0.1, 0.2, 0.3)] * 3
    rows = [[0.9, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]]
    assert choices(rows) == [(1, 0, 0), (0, 1, 0), (0, 1, 0)]
    assert choices(tuple(map(tuple, rows))) == choices(rows)
    assert choices(["random", 0]) == choices(["random", 0]) != choices(["random", 1])


@pytest.mark.parametrize(
    "description", [[0.1, 0.2], [0.1, 0.2, 1.3], [[0.9, 1.0, 0.0, 0.0]], "none"]
)
def test_a_policy_that_is_none_is_refused(description: object) -> None:
    with pytest.raises(ValueError, match="^(p|stages) must be"):
        make_policy(description)


# --- agents --------------------------------------------------------------------------------------


@pytest.fixture
def cell(toy) -> dict[str, object]:
    values = vars(config.load())["agent"]
    agent = replace(
        values, steps=24, batch_size=4, learning_starts=8, hidden=(4,), checkpoint_every=10
    )
    return {**WORLD, "agent": agent, "seed": 0}


def test_a_trained_agent_is_kept_whole_and_chooses_the_same_again(cell, workspace: Path) -> None:
    compute = config.Compute("cpu", 1)
    (first,), (again,) = (grid.run_grid(train_policy, [cell], compute) for _ in range(2))
    assert (first["card"], first["episodes"]) == (again["card"], again["episodes"])
    assert choices(first) == choices(again)
    assert len(set(choices(first))) > 1
    assert first["card"]["data"] == "digits"
    assert first["card"]["agent"]["steps"] == 24
    assert (first["card"]["network"], first["card"]["network_seed"]) == ("lenet300", 5)
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


POLICIES = ["staged", [1.0, 0.0, 0.0], ["random", 0]]


@pytest.mark.parametrize("description", POLICIES, ids=str)
def test_a_policy_is_judged_by_a_row_for_each_iteration_at_each_target(toy, description) -> None:
    cell = {**WORLD, **PLACE, "policy": description, "sparsities": [0.6, 0.8]}
    rows = evaluate_policy(**cell)
    assert [(row["final_target"], row["iteration"]) for row in rows] == [
        (rho, t) for rho in (0.6, 0.8) for t in (1, 2, 3, 4)
    ]
    for row in rows:
        reached = 1 - (1 - row["final_target"]) ** (row["iteration"] / 4)
        assert row["target_sparsity"] == pytest.approx(reached)
        assert row["reward"] < 0
    assert evaluate_policy(**cell) == rows
    assert evaluate_policy(**cell | {"seed": 2}) != rows


def test_rows_are_plain_values_that_a_grid_keeps(toy) -> None:
    cell = {**WORLD, **PLACE, "policy": "staged", "sparsities": [0.6]}
    compute = config.Compute("cpu", 1)
    (first,), (again,) = (grid.run_grid(evaluate_policy, [cell], compute) for _ in range(2))
    assert first == again
    assert {type(value) for row in first for value in row.values()} <= {int, float}


@pytest.mark.parametrize(
    ("change", "term"),
    [({"alpha": 7.0}, "reward_sparsity"), ({"grad_weight": 1.0}, "reward_grad_norm")],
)
def test_the_reward_is_weighed_as_params_say(toy, change: dict, term: str) -> None:
    cell = {**WORLD, **PLACE, "policy": "staged", "sparsities": [0.85]}
    base = evaluate_policy(**cell)[-1][term]
    ((key, value),) = change.items()
    changed = evaluate_policy(**cell | {"environment": replace(ENVIRONMENT, **change)})[-1][term]
    assert base != 0
    assert changed == pytest.approx(base * value / getattr(ENVIRONMENT, key))
