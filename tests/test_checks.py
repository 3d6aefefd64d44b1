"""A sanity check takes away one thing and nothing else, and it does take it away."""

import pytest
import torch
from torch import Tensor

from lib.masks import Mask
from lib.networks.inspection import flatten, prunable
from lib.study import checks

Batches = list[tuple[Tensor, Tensor]]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pictures() -> Batches:
    """Two batches of nine pictures with two channels, no two values alike, in three classes."""
    values = torch.randperm(2 * 9 * 2 * 4 * 4, generator=seeded(8)).float()
    return [(inputs, torch.arange(9) % 3) for inputs in values.view(2, 9, 2, 4, 4)]


def copied(batches: Batches) -> Batches:
    return [(inputs.clone(), targets.clone()) for inputs, targets in batches]


def alike(ones: Batches, others: Batches) -> bool:
    pairs = zip(ones, others, strict=True)
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


# --- masks ---------------------------------------------------------------------------------------


def test_shuffling_keeps_each_layers_count_and_changes_the_mask(network, some_mask) -> None:
    weights = prunable(network)
    before = Mask(some_mask(flatten(weights).numel(), 0.5), weights)
    copy = {name: mask.clone() for name, mask in before.items()}
    after, again, other = (checks.shuffle_layers(before, seeded(seed)) for seed in (0, 0, 1))
    assert list(after) == list(before)
    for name, mask in after.items():
        assert mask.shape == before[name].shape
        assert mask.dtype == torch.bool
        assert mask.sum() == before[name].sum()
        assert not torch.equal(mask, before[name])
        assert torch.equal(mask, again[name])
        assert not torch.equal(mask, other[name])
        assert torch.equal(copy[name], before[name])


def test_each_layer_is_shuffled_in_an_order_of_its_own() -> None:
    mask = torch.arange(60).view(5, 12) < 30
    after = checks.shuffle_layers({"first": mask, "second": mask}, seeded())
    assert not torch.equal(after["first"], after["second"])


def test_a_shuffled_mask_may_keep_any_weight_of_its_layer() -> None:
    mask, generator = torch.tensor([[True, False], [False, False]]), seeded()
    found = torch.stack([checks.shuffle_layers({"w": mask}, generator)["w"] for _ in range(800)])
    assert (found.sum(0) - 200).abs().max() < 62  # five standard deviations


# --- pixels --------------------------------------------------------------------------------------


def test_shuffling_pixels_keeps_each_images_values_and_its_class(pictures) -> None:
    before = copied(pictures)
    after = checks.shuffle_pixels(pictures, seeded())
    for (inputs, targets), (shuffled, classes) in zip(before, after, strict=True):
        assert shuffled.shape == inputs.shape
        assert torch.equal(shuffled.flatten(1).sort().values, inputs.flatten(1).sort().values)
        assert (shuffled != inputs).flatten(1).any(1).all()  # not one image is as it was
        assert torch.equal(classes, targets)
    assert alike(pictures, before)


def test_each_images_pixels_are_shuffled_in_an_order_of_its_own() -> None:
    image = torch.arange(16.0).view(1, 4, 4)
    batches = [(image.expand(5, 1, 4, 4), torch.arange(5))] * 2
    after = checks.shuffle_pixels(batches, seeded())
    assert len({tuple(row.tolist()) for inputs, _ in after for row in inputs.flatten(1)}) == 10


def test_a_pixel_may_go_anywhere() -> None:
    """Each value is as often in each place, in whatever channel it was."""
    images = torch.arange(4.0).view(1, 2, 2, 1).expand(2000, 2, 2, 1)
    ((shuffled, _),) = checks.shuffle_pixels([(images, torch.zeros(2000))], seeded())
    counts = torch.stack([(shuffled.flatten(1) == value).sum(0) for value in range(4)])
    assert (counts - 500).abs().max() < 97  # five standard deviations


# --- classes -------------------------------------------------------------------------------------


def test_shuffling_classes_keeps_how_many_there_are_and_the_images(pictures) -> None:
    before = copied(pictures)
    after = checks.shuffle_labels(pictures, seeded())
    for (inputs, targets), (images, classes) in zip(before, after, strict=True):
        assert torch.equal(images, inputs)
        assert torch.equal(classes.bincount(), targets.bincount())
        assert not torch.equal(classes, targets)
    assert not torch.equal(after[0][1], after[1][1])  # an order for each batch
    assert alike(pictures, before)


def test_a_shuffled_class_says_no_more_than_chance_about_the_image() -> None:
    """In a balanced batch an image gets its own class back one time in three."""
    batches = [(torch.zeros(30, 1), torch.arange(30) % 3)] * 100
    pairs = zip(batches, checks.shuffle_labels(batches, seeded()), strict=True)
    right = sum(int((before == after).sum()) for (_, before), (_, after) in pairs)
    assert abs(right - 1000) < 130  # five standard deviations


# --- both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [checks.shuffle_pixels, checks.shuffle_labels])
def test_batches_are_shuffled_by_the_generator_alone(pictures, shuffle) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = shuffle(pictures, seeded())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert alike(shuffle(iter(pictures), seeded()), first)
    assert not alike(shuffle(pictures, seeded(1)), first)
    generator = seeded()
    assert alike(shuffle(pictures, generator), first)
    assert not alike(shuffle(pictures, generator), first)  # which moves on


@pytest.mark.parametrize("shuffle", [checks.shuffle_pixels, checks.shuffle_labels])
def test_what_was_shuffled_may_be_written_to(pictures, shuffle) -> None:
    before = copied(pictures)
    for inputs, targets in shuffle(pictures, seeded()):
        part = inputs if shuffle is checks.shuffle_pixels else targets
        part.zero_()
    assert alike(pictures, before)
