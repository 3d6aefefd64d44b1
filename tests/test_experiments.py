"""A cell is a pure function of its parameters, each of which counts, and methods meet in pairs."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from stable_baselines3 import TD3
from torch import Tensor

from lib import config, experiments, grid, probes
from lib.experiments import evaluate_policy, prune_and_train, train_policy
from lib.methods import METHODS
from lib.models import flatten, prunable
from lib.outcome import PanResult
from lib.sanity import CHECKS
from lib.worlds import load, make_network, make_policy

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
    tested: Tensor  # the images on which it is judged


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

        def evaluate(model, test_set):
            seen.tested = test_set.images
            return real.evaluate(model, test_set)

        watched = {"pan": pan, "train": train, "evaluate": evaluate}
        real = SimpleNamespace(**{name: getattr(experiments, name) for name in watched})
        with monkeypatch.context() as patch:
            for name, function in watched.items():
                patch.setattr(experiments, name, function)
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
    seen, real = [], experiments.effective_mask
    monkeypatch.setattr(
        experiments,
        "effective_mask",
        lambda model, mask, *args: seen.append(mask) or real(model, mask, *args),
    )
    shuffled = run(check="shuffled")
    flat = seen[-1]  # what the effective mask of the cell is taken from
    sizes = [mask.numel() for mask in shuffled.result.masks.values()]
    expected = [int(mask.sum()) for mask in shuffled.result.masks.values()]
    assert [int(part.sum()) for part in flat.split(sizes)] == expected
    assert not torch.equal(flat, flatten(shuffled.result.masks))
    trained = flatten(shuffled.masks)
    assert torch.equal(trained & flat, trained)
    assert trained.sum() < flat.sum()  # of other paths, and fewer
    assert shuffled.found["sparsity_reached"] == run().found["sparsity_reached"]


@pytest.mark.parametrize("check", [None, *CHECKS])
def test_a_cell_computed_twice_gives_the_same_numbers_whatever_the_global_seed(run, check) -> None:
    cell = {"check": check, "holdout": 0.2, "probe": True}
    torch.manual_seed(0)
    first = run(**cell).found
    torch.manual_seed(1)
    assert run(**cell).found == first


@pytest.mark.parametrize("check", [None, *CHECKS])
def test_a_cell_leaves_the_global_generator_alone(run, check) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    run(check=check, holdout=0.2, probe=True)
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
        *({"check": check} for check in CHECKS if check != "reinitialised"),
        {"holdout": 0.2},
        {"settings": {"score": "ranks"}},
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


def as_set(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def scored(batches: list[tuple[Tensor, Tensor]]) -> set[bytes]:
    """The images of scoring batches, as they were before they were normalised."""
    mean, std = 0.3054, 0.3247  # of "digits"
    return as_set(torch.cat([((x * std + mean) * 255).round().to(torch.uint8) for x, _ in batches]))


def test_a_fraction_of_the_images_is_all_that_scoring_and_training_see(run) -> None:
    seen = run(fraction=0.5)
    assert len(seen.images) == 60
    assert scored(seen.batches) <= as_set(seen.images)


# --- what a method is deprived of ----------------------------------------------------------------


@pytest.mark.parametrize("method", ["panning", "snip", "synflow"])
@pytest.mark.parametrize("check", CHECKS)
def test_a_check_takes_away_one_thing_and_leaves_the_rest(run, method: str, check: str) -> None:
    base, other = run(method=method), run(method=method, check=check)
    assert torch.equal(base.images, other.images) and torch.equal(base.tested, other.tested)
    assert base.data_seed == other.data_seed
    assert base.found["sparsity_reached"] == other.found["sparsity_reached"]
    assert torch.equal(base.initial, other.initial) == (check != "reinitialised")
    for (images, classes), (images_too, classes_too) in zip(
        base.batches, other.batches, strict=True
    ):
        assert torch.equal(images, images_too) == (check != "pixels")
        assert torch.equal(classes, classes_too) == (check != "labels")
        assert torch.equal(images.flatten(1).sort().values, images_too.flatten(1).sort().values)
        assert torch.equal(classes.bincount(), classes_too.bincount())
    # What is scored: SynFlow looks at no data, so that nobody can spoil it.
    spoilt = check == "inverted" or (check in ("pixels", "labels") and method != "synflow")
    pruned, pruned_too = flatten(base.result.masks), flatten(other.result.masks)
    assert torch.equal(pruned, pruned_too) != spoilt
    # What is trained.
    trained, trained_too = flatten(base.masks), flatten(other.masks)
    assert torch.equal(trained, trained_too) != (spoilt or check == "shuffled")
    same = torch.equal(trained, trained_too) and check != "reinitialised"
    assert (base.found["test_loss"] == other.found["test_loss"]) == same


def test_inverted_the_smallest_weights_are_what_magnitude_keeps(run) -> None:
    seen = run(method="magnitude", check="inverted", sparsity=0.8)
    mask, size = flatten(seen.result.masks), seen.initial.abs()
    assert size[mask].max() <= size[~mask].min()


def test_inverted_is_a_setting_beside_a_methods_others(run) -> None:
    settings = {"schedule": "linear", "reactivate": False}
    inverted = run(check="inverted", settings=settings)
    expected = run(settings=settings | {"invert": True})
    plain, dead = run(check="inverted"), flatten(inverted.masks)
    assert not dead.any()  # so it is the kept weights that tell the settings apart
    masks = [flatten(one.result.masks) for one in (inverted, expected, plain)]
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
    assert inverted.found == expected.found
    assert inverted.found["reactivated"] == 0 < plain.found["reactivated"]


def test_weights_drawn_anew_are_those_of_no_seed_of_the_experiment(run) -> None:
    anew = run(check="reinitialised")
    assert all(not torch.equal(run(seed=seed).initial, anew.initial) for seed in range(3))
    assert anew.found["effective_sparsity"] == run().found["effective_sparsity"]
    assert anew.found["test_loss"] != run().found["test_loss"]


@pytest.mark.parametrize("check", ["shuffle", "", "Labels"])
def test_an_unknown_check_is_refused_by_name(run, check: str) -> None:
    names = "shuffled, reinitialised, inverted, pixels, labels"
    with pytest.raises(ValueError, match=f"check must be one of {names}, got '{check}'"):
        run(check=check)


# --- held-out images -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["panning", "dense"])
def test_held_out_images_take_the_place_of_the_test_images(run, method: str) -> None:
    plain, seen = run(method=method), run(method=method, holdout=0.25)
    whole, test = as_set(plain.images), as_set(plain.tested)
    assert (len(plain.images), len(plain.tested)) == (120, 40)
    assert (len(seen.images), len(seen.tested)) == (90, 30)
    trained, held = as_set(seen.images), as_set(seen.tested)
    assert trained | held == whole and not trained & held
    assert not test & (trained | held)
    if method == "panning":
        assert scored(seen.batches) <= trained
    hits = seen.found["accuracy"] * 30
    assert hits == pytest.approx(round(hits))


def test_other_images_are_held_out_by_another_seed(run) -> None:
    one, again, other = run(holdout=0.25), run(holdout=0.25), run(holdout=0.25, seed=1)
    assert torch.equal(one.tested, again.tested)
    assert as_set(one.tested) != as_set(other.tested)


def test_a_fraction_is_one_of_what_is_not_held_out(run) -> None:
    held, seen = run(holdout=0.25), run(holdout=0.25, fraction=0.5)
    assert torch.equal(seen.tested, held.tested)
    assert len(seen.images) in range(40, 51)  # of 90, class by class
    assert as_set(seen.images) < as_set(held.images)
    assert scored(seen.batches) <= as_set(seen.images)


def test_a_mask_is_looked_for_only_where_there_is_one(run) -> None:
    for asked in ({"probe": True}, {"check": "shuffled"}):
        with pytest.raises(ValueError, match="method 'dense' has none"):
            run(method="dense", sparsity=0.0, **asked)


@pytest.mark.parametrize("holdout", [1.0, 1.5, -0.25])
def test_to_hold_out_everything_is_refused(run, holdout: float) -> None:
    with pytest.raises(ValueError, match=rf"holdout must be in \[0, 1\), got {holdout}"):
        run(holdout=holdout)


# --- what is seen before training ----------------------------------------------------------------

PROBES = ("initial_loss", "initial_grad_norm_sq", "jacobian_mean", "jacobian_max")


@pytest.mark.parametrize("check", [None, "shuffled", "reinitialised"])
def test_a_probe_is_four_numbers_of_the_sparse_network_before_it_is_trained(run, check) -> None:
    """By autograd's usual way, on a network whose removed weights are 0."""
    seen, plain = run(probe=True, check=check), run(check=check)
    found = {name: seen.found[name] for name in PROBES}
    assert seen.found == plain.found | found  # to look changes nothing
    model, first = make_network("lenet5", 0.2, 0, load("digits", "cpu")[0]), 0
    for name, weight in prunable(model).items():  # the network that is trained, from its weights
        values = seen.initial[first : first + weight.numel()].view(weight.shape)
        weight.data = values * seen.masks[name]
        first += weight.numel()
    inputs, targets = seen.batches[0]
    loss = torch.nn.functional.cross_entropy(model.train()(inputs), targets)
    loss.backward()
    gradient = flatten([weight.grad for weight in prunable(model).values()])
    jacobians = torch.func.vmap(torch.func.jacrev(lambda x: model.eval()(x[None])[0]))(inputs)
    singular = torch.linalg.svd(jacobians.flatten(2)).S
    assert found == pytest.approx(
        {
            "initial_loss": loss.item(),
            "initial_grad_norm_sq": gradient[flatten(seen.masks)].square().sum().item(),
            "jacobian_mean": singular.mean().item(),
            "jacobian_max": singular.max().item(),
        },
        rel=1e-3,
    )
    assert found["jacobian_max"] > found["jacobian_mean"] > 0
    assert found["initial_grad_norm_sq"] > 0


@pytest.mark.parametrize(("count", "every"), [(6, 1), (199, 1), (250, 2), (1000, 10)])
def test_of_a_large_batch_a_hundred_images_or_so_have_a_jacobian(mlp, count, every) -> None:
    images = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    batch = images, torch.arange(count) % 3
    kept = {name: torch.ones_like(w, dtype=torch.bool) for name, w in prunable(mlp).items()}
    found = experiments.seen_before_training(mlp, kept, batch)
    some = images[::every]
    assert len(some) < 200
    singular = probes.jacobian_singular_values(mlp, kept, some)
    assert found["jacobian_mean"] == singular.mean().item()
    assert found["jacobian_max"] == singular.max().item()
    loss = torch.nn.functional.cross_entropy(mlp.train()(images), batch[1])  # of all of them
    assert found["initial_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_a_probe_of_other_weights_sees_others(run) -> None:
    one, other = (run(probe=True, check=check).found for check in (None, "reinitialised"))
    assert all(one[name] != other[name] for name in PROBES)


def test_a_probe_looks_at_what_is_left_alone(run) -> None:
    """Nothing reaches the output of a network at one weight, and nothing is seen of its input."""
    found = run(probe=True, method="random", sparsity=0.9999).found
    assert found["effective_sparsity"] == 1
    assert (found["jacobian_mean"], found["jacobian_max"]) == (0, 0)
    assert found["initial_loss"] == pytest.approx(math.log(10))
    assert found["initial_grad_norm_sq"] == 0


@pytest.mark.parametrize(("method", "steps"), [("snip", 1), ("random", 1), ("synflow", 3)])
def test_the_number_of_iterations_is_for_methods_that_iterate(run, method, steps: int) -> None:
    assert len(run(method=method).result.history) == steps


def test_reactivated_weights_are_counted(run) -> None:
    seen = run()
    assert seen.found["reactivated"] == seen.result.history.reactivated.sum() > 0
    assert run(method="synflow").found["reactivated"] == 0


# --- agents --------------------------------------------------------------------------------------


def choices(description: object) -> list[tuple[float, ...]]:
    policy = make_policy(description)
    states = torch.zeros(3, 7).double().numpy()
    states[:, 4] = (0.5, 0.95, 0.995)  # the target
    return [tuple(policy(state)) for state in states]


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


def test_an_agents_range_is_measured_once_for_all_targets_on_a_network(
    cell, workspace: Path, monkeypatch
) -> None:
    policy = train_policy(**cell)
    of_agent = {"method": "rlpanning", "policy": policy, "steps": 4}
    shared = [prune_and_train(**CELL | of_agent | {"sparsity": rho}) for rho in (0.7, 0.9)]
    assert len(list((workspace / ".cache/cells/measure_range").iterdir())) == 1
    prune_and_train(**CELL | of_agent | {"sparsity": 0.7, "seed": 11})
    assert len(list((workspace / ".cache/cells/measure_range").iterdir())) == 2
    real = experiments.pan
    monkeypatch.setattr(experiments, "pan", lambda *a, extremes, **k: real(*a, **k))
    own = [prune_and_train(**CELL | of_agent | {"sparsity": rho}) for rho in (0.7, 0.9)]
    assert shared == own


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


@pytest.mark.parametrize("algorithm", ["td3", "sac"])
def test_how_an_agent_is_trained_is_in_its_card_and_in_what_it_does(cell, algorithm: str) -> None:
    environment = replace(
        ENVIRONMENT, action="logarithmic", objective="trainability", trial_steps=2
    )
    agent = replace(cell["agent"], algorithm=algorithm, reward_scale=0.5)
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
