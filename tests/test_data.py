"""Images are normalised, augmented and drawn as promised, and every draw is seeded."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from lib import pan
from lib.data.images import ImageSet, scoring_batches


def plain(images: Tensor, **augmentation: object) -> ImageSet:
    """A set whose inputs are its pixels, and whose targets number the images."""
    channels = images.shape[1]
    zeros, ones = (0.0,) * channels, (1 / 255,) * channels
    return ImageSet(images, torch.arange(len(images)), len(images), zeros, ones, **augmentation)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(inputs: Tensor) -> Tensor:
    return inputs.round().to(torch.uint8)


# --- images --------------------------------------------------------------------------------------


def test_inputs_have_the_mean_taken_off_and_the_deviation_divided_out() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(1, 2, 1, 3)
    data = ImageSet(images, torch.zeros(1, dtype=torch.int64), 2, (0.2, 0.5), (0.4, 0.25))
    expected = torch.tensor([[[-0.5, 0.0, 2.0]], [[-2.0, -1.2, 2.0]]])
    torch.testing.assert_close(data.inputs(images)[0], expected)
    torch.testing.assert_close(data[0][0], expected)
    assert data.inputs(images).dtype == torch.float32


def test_an_item_is_a_row_of_the_batch(image_set) -> None:
    ((inputs, targets),) = image_set.batches(len(image_set))
    for index in (0, 7, 59):
        assert torch.equal(image_set[index][0], inputs[index])
        assert image_set[index][1] == targets[index] == image_set.targets[index]
    assert (len(image_set), image_set.channels, image_set.size) == (60, 1, 6)


@pytest.mark.parametrize("batch_size", [1, 7, 60, 100])
def test_batches_without_a_generator_are_the_set_in_its_order(image_set, batch_size: int) -> None:
    batches = list(image_set.batches(batch_size))
    assert [len(targets) for _, targets in batches[:-1]] == [batch_size] * (len(batches) - 1)
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(inputs, image_set.inputs(image_set.images))
    assert torch.equal(targets, image_set.targets)


def test_batches_with_a_generator_hold_each_image_once_in_an_order_of_its_own() -> None:
    data = plain(torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(20, 1, 4, 4))

    def order(generator: torch.Generator) -> list[int]:
        batches = list(data.batches(6, generator))
        for inputs, targets in batches:
            assert torch.equal(pixels(inputs)[:, 0, 0, 0], targets)  # image and class stay together
        return torch.cat([targets for _, targets in batches]).tolist()

    generator = seeded()
    first, second = order(generator), order(generator)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second != list(range(20))
    assert order(seeded()) == first
    assert order(seeded(1)) != first


# --- augmentation --------------------------------------------------------------------------------


def copies(image: Tensor, crop: int, flip: bool) -> list[Tensor]:
    """Every image that cropping and mirroring can make of one (channels, side, side)."""
    side, out = image.shape[-1], []
    for mirrored in (image, image.flip(2))[: 1 + flip]:
        padded = functional.pad(mirrored, (crop,) * 4)
        for row in range(2 * crop + 1):
            for column in range(2 * crop + 1):
                out.append(padded[:, row : row + side, column : column + side])
    return out


@pytest.mark.parametrize(("crop", "flip"), [(0, False), (0, True), (1, False), (2, True)])
def test_each_image_is_cropped_and_mirrored_by_its_own_draw(crop: int, flip: bool) -> None:
    image = torch.arange(1, 33, dtype=torch.uint8).view(2, 4, 4)
    possible = copies(image, crop, flip)
    data = plain(image.expand(40 * len(possible), 2, 4, 4), crop=crop, flip=flip)
    ((inputs, _),) = data.batches(len(data), seeded())
    made = torch.stack(possible).flatten(1)
    found = (pixels(inputs).flatten(1)[:, None] == made).all(2)
    assert torch.equal(found.sum(1), torch.ones(len(data), dtype=torch.int64))
    assert found.sum(0).min() >= 15  # each of them about 40 times


def test_augmentation_takes_each_image_from_itself_and_is_seeded() -> None:
    images = torch.randint(1, 256, (30, 3, 5, 5), dtype=torch.uint8, generator=seeded(3))
    data = plain(images, crop=1, flip=True)

    def epoch(generator: torch.Generator) -> Tensor:
        inputs, targets = (torch.cat(x) for x in zip(*data.batches(8, generator), strict=True))
        for picture, index in zip(pixels(inputs), targets, strict=True):
            assert any(torch.equal(picture, copy) for copy in copies(images[index], 1, True))
        return inputs[targets.argsort()]

    generator = seeded()
    first = epoch(generator)
    assert not torch.equal(epoch(generator), first)
    assert torch.equal(epoch(seeded()), first)


def test_nothing_is_augmented_without_a_generator() -> None:
    images = torch.randint(256, (4, 3, 5, 5), dtype=torch.uint8, generator=seeded())
    ((inputs, _),) = plain(images, crop=2, flip=True).batches(4)
    assert torch.equal(pixels(inputs), images)


# --- a part of the set ---------------------------------------------------------------------------


@pytest.mark.parametrize(("fraction", "each"), [(0.5, 10), (0.24, 5), (0.001, 1)])
def test_a_subset_holds_its_fraction_of_each_class_and_at_least_one(
    image_set, fraction: float, each: int
) -> None:
    part = image_set.subset(fraction)
    assert torch.equal(part.targets.bincount(), torch.full((3,), each))
    whole = {
        image.numpy().tobytes(): target
        for image, target in zip(image_set.images, image_set.targets, strict=True)
    }
    kept = [image.numpy().tobytes() for image in part.images]
    assert len(set(kept)) == len(kept)
    assert [whole[image] for image in kept] == part.targets.tolist()


def test_a_subset_is_drawn_by_its_seed(image_set) -> None:
    parts = [image_set.subset(0.3, seed).images for seed in (0, 0, 1)]
    assert torch.equal(parts[0], parts[1])
    assert not torch.equal(parts[0], parts[2])
    assert image_set.subset(1.0, seed=5) is image_set


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, math.nan])
def test_a_fraction_outside_its_range_is_refused(image_set, fraction: float) -> None:
    with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\], got"):
        image_set.subset(fraction)


def numbered(data: ImageSet) -> list[bytes]:
    return [image.numpy().tobytes() for image in data.images]


@pytest.mark.parametrize(("fraction", "each"), [(0.5, 10), (0.24, 5), (0.9, 18), (0.001, 1)])
def test_a_split_is_two_sets_that_make_up_the_whole(image_set, fraction: float, each: int) -> None:
    rest, out = image_set.split(fraction)
    assert torch.equal(out.targets.bincount(), torch.full((3,), each))
    assert torch.equal(rest.targets.bincount(), torch.full((3,), 20 - each))
    whole = dict(zip(numbered(image_set), image_set.targets.tolist(), strict=True))
    assert len(whole) == 60  # no two images are alike
    assert sorted(numbered(rest) + numbered(out)) == sorted(whole)
    for part in (rest, out):
        assert [whole[image] for image in numbered(part)] == part.targets.tolist()
        positions = [numbered(image_set).index(image) for image in numbered(part)]
        assert positions == sorted(positions)  # in the order of the whole
    assert len(image_set) == 60


def test_a_split_takes_its_part_of_each_class_however_many_it_has(image_set) -> None:
    few = ImageSet(image_set.images[:37], (torch.arange(37) > 24).long() * 2, 3, (0.0,), (1.0,))
    rest, out = few.split(0.25)
    assert out.targets.bincount(minlength=3).tolist() == [6, 0, 3]
    assert rest.targets.bincount(minlength=3).tolist() == [19, 0, 9]


def test_a_split_leaves_no_class_empty(image_set) -> None:
    few = ImageSet(image_set.images[:9], (torch.arange(9) > 7).long(), 2, (0.0,), (1.0,))
    with pytest.raises(ValueError, match="takes all 1 images of class 1"):
        few.split(0.25)


def test_a_split_is_drawn_by_its_seed(image_set) -> None:
    parts = [image_set.split(0.3, seed) for seed in (0, 0, 1)]
    for side in (0, 1):
        assert torch.equal(parts[0][side].images, parts[1][side].images)
        assert not torch.equal(parts[0][side].images, parts[2][side].images)


def test_the_parts_of_a_split_are_normalised_and_augmented_like_the_whole() -> None:
    data = ImageSet(
        torch.randint(256, (20, 2, 4, 4), dtype=torch.uint8, generator=seeded()),
        *(torch.arange(20) % 2, 5, (0.2, 0.5), (0.4, 0.25), 1, True),
    )
    for part in data.split(0.25):
        settings = (part.num_classes, part.mean, part.std, part.crop, part.flip)
        assert settings == (5, (0.2, 0.5), (0.4, 0.25), 1, True)


def test_the_parts_of_a_split_share_no_memory_with_the_whole(image_set) -> None:
    before = image_set.images.clone()
    for part in image_set.split(0.5):
        part.images.zero_(), part.targets.zero_()
    assert torch.equal(image_set.images, before)
    assert image_set.targets.sum() == 60


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.0, 1.01, math.nan])
def test_a_split_that_leaves_a_part_empty_is_refused(image_set, fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"fraction must be in \(0, 1\), got {fraction}"):
        image_set.split(fraction)


# --- scoring batches -----------------------------------------------------------------------------


def as_tensors(data: ImageSet) -> TensorDataset:
    return TensorDataset(data.inputs(data.images), data.targets)


KINDS = {
    "images": lambda data: data,
    "tensors": as_tensors,
    "list": lambda data: list(as_tensors(data)),
    "list of numbers": lambda data: [(x.tolist(), int(y)) for x, y in as_tensors(data)],
    "subset": lambda data: Subset(data, range(len(data))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_data_set_gives_the_same_balanced_batches(image_set, kind: str) -> None:
    found = scoring_batches(KINDS[kind](image_set), 3, per_class=4, count=5, seed=2)
    expected = scoring_batches(image_set, 3, per_class=4, count=5, seed=2)
    assert len(found) == 5
    rows = [image.numpy().tobytes() for image in image_set.inputs(image_set.images)]
    for (inputs, targets), wanted in zip(found, expected, strict=True):
        assert torch.equal(targets.bincount(), torch.full((3,), 4))
        chosen = [rows.index(image.numpy().tobytes()) for image in inputs]
        assert len(set(chosen)) == 12  # drawn without replacement
        assert torch.equal(image_set.targets[chosen], targets)
        assert torch.equal(inputs, wanted[0]) and torch.equal(targets, wanted[1])


def draws(data: ImageSet, count: int = 4, seed: int = 0) -> list[list[int]]:
    """Which images each batch holds, of a set whose every image has one brightness."""
    batches = scoring_batches(data, 2, per_class=3, count=count, seed=seed)
    return [pixels(inputs)[:, 0, 0, 0].tolist() for inputs, _ in batches]


@pytest.fixture
def ten() -> ImageSet:
    """Ten images in two classes, each image its own number."""
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    return ImageSet(images, torch.arange(10) // 5, 2, (0.0,), (1 / 255,))


def test_batches_are_drawn_independently_of_each_other(ten) -> None:
    drawn = draws(ten, count=400)
    assert len({tuple(batch) for batch in drawn}) > 300  # of (5 · 4 · 3)² orders
    together = sum(set(a) == set(b) for a, b in zip(drawn, drawn[1:], strict=False))
    assert 0 < together < 20  # by chance once in 100: (5 over 3)² sets
    counts = torch.tensor(drawn).flatten().bincount()
    assert (counts - 240).abs().max() < 50  # five standard deviations


def test_scoring_batches_are_drawn_by_their_seed_and_more_of_them_begin_alike(ten) -> None:
    assert draws(ten, 6)[:4] == draws(ten, 4)
    assert draws(ten, 4, seed=1) != draws(ten, 4)


def test_the_global_generator_is_left_alone(ten) -> None:
    before = torch.get_rng_state()
    draws(ten)
    list(ten.batches(3, seeded()))
    ten.subset(0.5)
    ten.split(0.5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_does_not_share_memory_with_the_set(ten) -> None:
    ((inputs, targets), *_) = scoring_batches(ten, 2, per_class=5, count=1)
    inputs.zero_(), targets.zero_()
    assert ten.targets.sum() == 5
    assert ten.images.sum() == 45


def test_a_class_with_too_few_samples_is_named(ten) -> None:
    short = ten.subset(1.0)
    short.targets[:3] = 1
    with pytest.raises(ValueError, match="per_class: .* wants 3 samples of class 0, .* has 2"):
        scoring_batches(short, 2, per_class=3)
    with pytest.raises(ValueError, match="samples of class 2, the training set has 0"):
        scoring_batches(ten, 3, per_class=1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_image_that_is_no_number_is_refused(bad: float) -> None:
    images = torch.zeros(4, 1, 2, 2)
    images[2, 0, 1, 1] = bad
    data = TensorDataset(images, torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ValueError, match="train_set: an image holds NaN or infinity"):
        scoring_batches(data, 2, per_class=2, count=1)


@pytest.mark.parametrize("argument", ["num_classes", "per_class", "count"])
def test_a_number_below_one_is_refused_by_name(ten, argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be at least 1, got 0"):
        scoring_batches(ten, **{"num_classes": 2, "per_class": 1, "count": 1, argument: 0})


# --- what a data set says of its classes ---------------------------------------------------------


class Labelled(Dataset):
    """Fifty samples, each its own number; `change` is applied to a label as it is returned."""

    def __init__(self, targets: object = None, target_transform: object = None, change=lambda y: y):
        self.labels, self.change = [i % 5 for i in range(50)], change
        if targets is not None:
            self.targets = targets(self.labels)
        if target_transform is not None:
            self.target_transform = target_transform
            self.change = target_transform

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> tuple[Tensor, object]:
        return torch.tensor([float(index)]), self.change(self.labels[index])


LABELLED = {
    "listed": Labelled(list),
    "in a tensor": Labelled(torch.tensor),
    "in numpy": Labelled(np.array),
    "not listed": Labelled(),
    "as tensors": Labelled(change=torch.tensor),
    "transformed": Labelled(list, target_transform=lambda y: 4 - y),
    "transformed tensor": Labelled(torch.tensor, target_transform=lambda y: {0: 4}.get(y, y - 1)),
    "transformed, not listed": Labelled(target_transform=lambda y: 4 - y),
    "listed otherwise": Labelled(list, change=lambda y: 4 - y),
    "in a part": Subset(Labelled(list, target_transform=lambda y: 4 - y), range(3, 50)),
}


@pytest.mark.parametrize("name", LABELLED)
def test_the_classes_are_those_that_the_data_set_returns(name: str) -> None:
    data = LABELLED[name]
    truth = {float(image): int(label) for image, label in (data[i] for i in range(len(data)))}
    for inputs, targets in scoring_batches(data, 5, per_class=4, count=3):
        assert targets.tolist() == [truth[float(image)] for image in inputs]
        assert targets.bincount().tolist() == [4] * 5


@pytest.mark.parametrize(
    ("label", "message"),
    [(lambda y: "cat", "'cat'"), (lambda y: y + 0.5, "0.5"), (lambda y: [y, 0], r"\[0, 0\]")],
)
@pytest.mark.parametrize("listed", [None, list])
def test_a_label_that_is_no_class_is_refused(label, message: str, listed) -> None:
    with pytest.raises(ValueError, match=f"train_set: the label of sample 0 is {message}; scoring"):
        scoring_batches(Labelled(listed, target_transform=label), 5, per_class=2)


def test_labels_left_to_chance_are_refused() -> None:
    counter = itertools.count()
    data = Labelled(change=lambda y: next(counter) % 5)
    with pytest.raises(ValueError, match="another label for a sample each time"):
        scoring_batches(data, 5, per_class=2)


def test_images_in_numpy_and_float64_give_the_masks_of_float32() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    images, targets = np.random.default_rng(0).normal(size=(30, 8)), [0, 1, 2] * 10
    doubles = list(zip(images, targets, strict=True))
    singles = list(zip(images.astype(np.float32), targets, strict=True))
    found, expected = (
        pan(model, scoring_batches(data, 3, 5, 2), 0.7, 5) for data in (doubles, singles)
    )
    assert found.masks == expected.masks


class Shaped(Dataset):
    """Thirty samples, each made by a function of its number, its input and its class."""

    def __init__(self, make):
        self.make = make

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int):
        generator = torch.Generator().manual_seed(index)
        return self.make(index, torch.randn(8, generator=generator), index % 3)


def chance(index: int, x: Tensor, label: int):
    return x + torch.randn(8) + float(np.random.rand()) + random.random(), label


def test_augmentation_is_drawn_by_the_seed_and_moves_no_generator() -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
        found.append(scoring_batches(Shaped(chance), 3, 2, 2, seed=5))
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1:] == (str(np.random.get_state()), random.getstate())
    other = scoring_batches(Shaped(chance), 3, 2, 2, seed=6)
    for (x, _), (y, _), (z, _) in zip(*found, other, strict=True):
        assert torch.equal(x, y) and not torch.equal(x, z)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Shaped(lambda i, x, y: (x, y)))


@pytest.mark.parametrize(
    ("train_set", "message"),
    [
        (Stream(), "train_set must be a map-style data set, .* got Stream"),
        (DataLoader(Shaped(lambda i, x, y: (x, y))), "got DataLoader: of a loader give"),
        (Shaped(lambda i, x, y: (x, y, i)), "sample 0 is a tuple of 3; it must be"),
        (Shaped(lambda i, x, y: {"x": x, "y": y}), "sample 0 is a dict"),
        (Shaped(lambda i, x, y: x), "sample 0 is a Tensor"),
        (Shaped(lambda i, x, y: (x[: 4 + i % 5], y)), "tensors or arrays of one shape"),
        (Shaped(lambda i, x, y: (Image.new("RGB", (2, 2)), y)), "of one shape; .*ToTensor"),
        (Shaped(lambda i, x, y: (x, torch.ones(3))), "the label of sample 0 is tensor"),
        (Shaped(lambda i, x, y: (x, y + 1)), "has 0; .* or number the classes from 0 to 2"),
    ],
)
def test_a_data_set_of_another_kind_is_refused_by_what_it_gives(train_set, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scoring_batches(train_set, 3, 2, 2)


@pytest.mark.parametrize("argument", ["num_classes", "per_class", "count", "seed"])
@pytest.mark.parametrize("value", [2.5, None, "2"])
def test_what_is_no_whole_number_is_refused_by_name(argument: str, value) -> None:
    settings = {"num_classes": 3, "per_class": 2, "count": 2, "seed": 0} | {argument: value}
    with pytest.raises(ValueError, match=f"{argument} must be a whole number, got {value!r}"):
        scoring_batches(Shaped(lambda i, x, y: (x, y)), **settings)
