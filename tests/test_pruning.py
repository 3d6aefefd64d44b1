"""A cell is a pure function of its parameters, each of which counts, and methods meet in pairs."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small import AGENT, CELL, SCORING, TRAINING, WORLD
from torch import Tensor

from lib.masks import Mask
from lib.methods import METHODS
from lib.networks.inspection import flatten, prunable
from lib.networks.training import _Seam
from lib.panning import PanResult
from lib.study import pruning
from lib.study.agents import train_policy
from lib.study.checks import CHECKS
from lib.study.pruning import prune_and_train


@dataclass
class Run:
    """One cell, seen from inside."""

    found: dict[str, Any]
    initial: Tensor  # (N,)
    batches: list[tuple[Tensor, Tensor]] | None
    result: PanResult | None
    mask: Mask | None  # what is trained
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

        def train(model, train_set, masks, seed, **settings):
            seen.initial = flatten(prunable(model)).detach().clone()
            seen.mask, seen.images, seen.data_seed = masks, train_set.images, seed
            return real.train(model, train_set, masks, seed, **settings)

        def evaluate(model, test_set):
            seen.tested = test_set.images
            return real.evaluate(model, test_set)

        watched = {"pan": pan, "train": train, "evaluate": evaluate}
        real = SimpleNamespace(**{name: getattr(pruning, name) for name in watched})
        with monkeypatch.context() as patch:
            for name, function in watched.items():
                patch.setattr(pruning, name, function)
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
    assert one.mask != other.mask


def test_another_seed_is_another_network_and_other_batches(run) -> None:
    one, other = run(), run(seed=1)
    assert not torch.equal(one.initial, other.initial)
    assert not torch.equal(one.batches[0][0], other.batches[0][0])
    assert other.data_seed == 1


def test_it_is_the_effective_mask_that_is_trained_and_counted(run) -> None:
    seen = run(sparsity=0.98, method="random")
    trained, pruned = seen.mask.flat, seen.result.masks.flat
    assert seen.mask == seen.result.effective
    assert trained.sum() < pruned.sum()
    assert seen.found["sparsity_reached"] == 1 - int(pruned.sum()) / len(pruned)
    assert seen.found["effective_sparsity"] == 1 - int(trained.sum()) / len(trained)
    assert seen.found["sparsity_reached"] == pytest.approx(0.98, abs=1e-3)


@pytest.mark.parametrize("check", [None, "shuffled"])
def test_a_mask_is_named_by_twelve_digits_of_the_weights_that_are_trained(run, check) -> None:
    seen = run(check=check)
    packed = np.packbits(seen.mask.flat.numpy()).tobytes()
    assert seen.found["mask"] == hashlib.sha256(packed).hexdigest()[:12]


def test_the_dense_network_is_trained_as_it_is(run) -> None:
    seen, sparse = run(method="dense", sparsity=0.0), run()
    assert seen.mask is None and seen.result is None
    assert list(seen.found) == list(sparse.found)  # the same columns of a table
    of_masks = ("sparsity_reached", "effective_sparsity", "reactivated", "mask")
    assert [seen.found[name] for name in of_masks] == [0, 0, 0, ""]


def test_a_sparse_network_learns_what_the_test_images_ask(run) -> None:
    training = TRAINING.changed(epochs=15, batch_size=20, weight_decay=0.0)
    found = run(network="lenet300", width=1.0, training=training, sparsity=0.8).found
    assert found["accuracy"] > 0.8  # chance is right once in ten
    assert found["accuracy"] * 40 == pytest.approx(round(found["accuracy"] * 40))  # of 40 images
    assert found["train_loss"] < found["test_loss"] < 1
    assert found["left_plateau"] is True


def test_a_network_that_does_not_learn_is_said_to_stay_on_its_plateau(run) -> None:
    still = TRAINING.changed(learning_rate=0.0)
    assert run(training=still).found["left_plateau"] is False


@pytest.mark.parametrize("check", [None, *CHECKS])
def test_a_cell_gives_the_same_again_and_leaves_the_global_generator_alone(run, check) -> None:
    cell = {"check": check, "holdout": 0.2}
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = run(**cell).found
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert run(**cell).found == first


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
        {"scoring": SCORING.changed(per_class=3)},
        {"scoring": SCORING.changed(count=1)},
        {"scoring": SCORING.changed(temperature=1.0)},
    ],
    ids=str,
)
def test_each_parameter_of_the_pruning_changes_the_mask_and_its_name(run, change: dict) -> None:
    base, other = run(), run(**change)
    assert base.mask != other.mask
    assert base.found["mask"] != other.found["mask"]


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 2},
        {"batch_size": 60},
        {"learning_rate": 0.05},
        {"momentum": 0.0},
        {"weight_decay": 0.1},
    ],
    ids=str,
)
def test_each_parameter_of_the_training_changes_the_outcome_and_not_the_mask(run, change) -> None:
    base, other = run(), run(training=TRAINING.changed(**change))
    assert base.mask == other.mask and base.found["mask"] == other.found["mask"]
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


@pytest.mark.parametrize(
    ("method", "steps"), [("snip", 1), ("random", 1), ("synflow", 3), ("panning_masked", 3)]
)
def test_the_number_of_iterations_is_for_methods_that_iterate(run, method, steps: int) -> None:
    assert len(run(method=method).result.history) == steps


def test_reactivated_weights_are_counted(run) -> None:
    seen = run()
    assert seen.found["reactivated"] == seen.result.history.reactivated.sum() > 0
    assert run(method="synflow").found["reactivated"] == 0


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
    assert (base.result.masks == other.result.masks) != spoilt
    # What is trained.
    assert (base.mask == other.mask) != (spoilt or check == "shuffled")
    same = base.mask == other.mask and check != "reinitialised"
    assert (base.found["test_loss"] == other.found["test_loss"]) == same


def test_a_shuffled_mask_keeps_the_number_of_weights_in_each_layer(run, monkeypatch) -> None:
    seen, real = [], pruning.effective_mask
    monkeypatch.setattr(
        pruning,
        "effective_mask",
        lambda model, mask, *args: seen.append(mask) or real(model, mask, *args),
    )
    shuffled = run(check="shuffled")
    flat = seen[-1]  # what the effective mask of the cell is taken from
    sizes = [mask.numel() for mask in shuffled.result.masks.values()]
    expected = [int(mask.sum()) for mask in shuffled.result.masks.values()]
    assert [int(part.sum()) for part in flat.split(sizes)] == expected
    assert not torch.equal(flat, shuffled.result.masks.flat)
    trained = shuffled.mask.flat
    assert torch.equal(trained & flat, trained)
    assert trained.sum() < flat.sum()  # of other paths, and fewer
    assert shuffled.found["effective_sparsity"] == shuffled.mask.sparsity


def test_inverted_the_smallest_weights_are_what_magnitude_keeps(run) -> None:
    seen = run(method="magnitude", check="inverted", sparsity=0.8)
    mask, size = seen.result.masks.flat, seen.initial.abs()
    assert size[mask].max() <= size[~mask].min()


def test_inverted_is_a_setting_beside_a_methods_others(run) -> None:
    settings = {"schedule": "linear", "reactivate": False}
    inverted = run(check="inverted", settings=settings)
    expected = run(settings=settings | {"invert": True})
    plain = run(check="inverted")
    assert not inverted.mask.flat.any()  # so it is the kept weights that tell the settings apart
    assert inverted.result.masks == expected.result.masks != plain.result.masks
    assert inverted.found == expected.found
    assert inverted.found["reactivated"] == 0 < plain.found["reactivated"]


def test_weights_drawn_anew_are_those_of_no_seed_of_the_experiment(run) -> None:
    anew = run(check="reinitialised")
    assert all(not torch.equal(run(seed=seed).initial, anew.initial) for seed in range(3))
    assert anew.found["effective_sparsity"] == run().found["effective_sparsity"]


@pytest.mark.parametrize("check", ["shuffle", "", "Labels"])
def test_an_unknown_check_is_refused_by_name(run, check: str) -> None:
    names = "shuffled, reinitialised, inverted, pixels, labels"
    with pytest.raises(ValueError, match=f"check must be one of {names}, got '{check}'"):
        run(check=check)


def test_a_dense_network_has_no_mask_to_be_deprived_of(run) -> None:
    with pytest.raises(ValueError, match="method 'dense' has no mask"):
        run(method="dense", sparsity=0.0, check="shuffled")


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


@pytest.mark.parametrize("holdout", [1.0, 1.5, -0.25])
def test_to_hold_out_everything_is_refused(run, holdout: float) -> None:
    with pytest.raises(ValueError, match=rf"holdout must be in \[0, 1\), got {holdout}"):
        run(holdout=holdout)


# --- what an agent must know of the network ------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"fusion": "product", "gradients": "masked"}])
def test_an_agents_range_is_measured_once_for_all_targets_on_a_network(
    toy, workspace: Path, monkeypatch, settings: dict
) -> None:
    """In the process that the agent was trained in, where it prunes, too."""
    policy = train_policy(**WORLD, settings=settings, agent=AGENT, seed=0)
    cell = CELL | {"method": "rlpanning", "policy": policy, "steps": 4}
    given, real = [], pruning.pan

    def pan(*args, extremes, **settings):
        given.append(extremes)
        return real(*args, extremes=extremes, **settings)

    monkeypatch.setattr(pruning, "pan", pan)

    def kept() -> int:
        return len(list((workspace / ".cache/cells/measure_range").iterdir()))

    shared = [prune_and_train(**cell | {"sparsity": rho}) for rho in (0.7, 0.9)]
    assert kept() == 1
    prune_and_train(**cell | {"sparsity": 0.7, "seed": 11})
    assert kept() == 2
    assert given[0] == given[1] != given[2] and given[2] is not None
    # On other batches, or without some of the images, the range is another one.
    for change in ({"check": "pixels"}, {"holdout": 0.25}):
        prune_and_train(**cell | change)
    assert given[3:] == [None, None] and kept() == 2
    monkeypatch.setattr(pruning, "pan", lambda *a, extremes, **k: real(*a, **k))
    own = [prune_and_train(**cell | {"sparsity": rho}) for rho in (0.7, 0.9)]
    assert shared == own


# --- interrupted, and what it costs --------------------------------------------------------------


def test_a_cell_goes_on_with_a_training_that_was_interrupted(toy, workspace, monkeypatch) -> None:
    cell = CELL | {"training": TRAINING.changed(epochs=3)}
    expected = prune_and_train(**cell)
    assert not list(workspace.glob(".cache/trainings/*"))  # a short one leaves nothing
    monkeypatch.setattr(pruning, "PAUSE", 0)
    real, lengths = _Seam.write, []

    def write(self: _Seam, history: list[float]) -> None:
        real(self, history)
        lengths.append(len(history))
        if lengths == [1, 2]:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Seam, "write", write)
    with pytest.raises(KeyboardInterrupt):
        prune_and_train(**cell)
    assert len(list(workspace.glob(".cache/trainings/*.pt"))) == 1
    assert prune_and_train(**cell | {"seed": 1}) != expected  # another cell, from its beginning
    assert lengths == [1, 2, 1, 2, 3]
    assert prune_and_train(**cell) == expected
    assert lengths == [1, 2, 1, 2, 3, 3]
    assert not list(workspace.glob(".cache/trainings/*"))


def test_a_rebuild_begins_every_training_anew(toy, workspace, monkeypatch) -> None:
    monkeypatch.setattr(pruning, "PAUSE", 0)
    real, lengths = _Seam.write, []

    def write(self: _Seam, history: list[float]) -> None:
        real(self, history)
        lengths.append(len(history))
        if lengths == [1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Seam, "write", write)
    cell = CELL | {"training": TRAINING.changed(epochs=2)}
    with pytest.raises(KeyboardInterrupt):
        prune_and_train(**cell)
    monkeypatch.setenv("PANNING_REBUILD", str(time.time() + 60))
    prune_and_train(**cell)
    assert lengths == [1, 1, 2]


def test_a_row_says_what_its_network_costs(run) -> None:
    seen = run()
    model = seen.result.flops
    assert seen.found["flops_effective"] == pytest.approx(model["effective"] / model["dense"])
    assert seen.found["flops_effective"] <= seen.found["flops_compacted"] < 1
    dense = run(method="dense", sparsity=0.0, steps=None).found
    assert (dense["flops_effective"], dense["flops_compacted"]) == (1.0, 1.0)
