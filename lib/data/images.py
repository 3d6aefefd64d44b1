"""Data sets in memory, and the class-balanced batches on which networks are scored."""

from collections.abc import Iterator, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from ..networks.inspection import own_chance
from . import sources


@dataclass(frozen=True)
class ImageSet(Dataset):
    """Images and their classes, in memory.

    Attributes:
        images: (n, channels, height, width) uint8.
        targets: (n,) int64.
        num_classes: Classes in the whole data set.
        mean: Of each channel, in units of 0..1, over the whole training set.
        std: Likewise.
        crop: Pixels of zero padding around a training image before it is cropped at random.
        flip: Whether a training image is mirrored at random.
    """

    images: Tensor
    targets: Tensor
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int = 0
    flip: bool = False

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs(self.images[index : index + 1])[0], self.targets[index]

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.images.shape[1]

    @property
    def size(self) -> int:
        """Height, which is also the width, of an image."""
        return self.images.shape[2]

    def to(self, device: torch.device) -> "ImageSet":
        """The same images on `device`."""
        return replace(self, images=self.images.to(device), targets=self.targets.to(device))

    def inputs(self, images: Tensor) -> Tensor:
        """Normalised float32 inputs from images of this set."""
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, dtype=torch.float32, device=images.device).view(shape)
        std = torch.tensor(self.std, dtype=torch.float32, device=images.device).view(shape)
        return (images.float() / 255 - mean) / std

    def subset(self, fraction: float, seed: int = 0) -> "ImageSet":
        """A random `fraction` of each class, at least one image; the same for every method."""
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {fraction}")
        if fraction == 1:
            return self
        index = self._choose(fraction, seed)
        return replace(self, images=self.images[index], targets=self.targets[index])

    def split(self, fraction: float, seed: int = 0) -> tuple["ImageSet", "ImageSet"]:
        """This set without a random `fraction` of each class, and that fraction."""
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must be in (0, 1), got {fraction}")
        out = self._choose(fraction, seed, spare=True)
        rest = torch.ones(len(self), dtype=torch.bool, device=self.targets.device)
        rest[out] = False
        parts = (rest.nonzero().squeeze(1), out)
        first, second = (
            replace(self, images=self.images[i], targets=self.targets[i]) for i in parts
        )
        return first, second

    def _choose(self, fraction: float, seed: int, spare: bool = False) -> Tensor:
        """Indices of a random `fraction` of each class, at least one per class, in order.

        With `spare`, at least one per class is left, too.
        """
        generator = torch.Generator().manual_seed(seed)
        chosen = []
        for label in range(self.num_classes):
            members = (self.targets == label).nonzero().squeeze(1)
            count = max(1, round(fraction * len(members)))
            if spare and 0 < len(members) <= count:
                raise ValueError(
                    f"fraction: {fraction} takes all {len(members)} images of class {label}; "
                    "ask for less"
                )
            chosen.append(members[_shuffled(len(members), generator)[:count]])
        return torch.cat(chosen).sort().values

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (inputs, targets): shuffled and augmented with a generator, in order without."""
        device = self.targets.device
        order = torch.arange(len(self), device=device)
        if generator is not None:
            order = _shuffled(len(self), generator).to(device)
        for index in order.split(batch_size):
            if not (self.crop or self.flip):
                yield self._inputs[index], self.targets[index]
                continue
            images = self.images[index]
            if generator is not None:
                images = self._augment(images, generator)
            yield self.inputs(images), self.targets[index]

    @cached_property
    def _inputs(self) -> Tensor:
        """All inputs, for a set whose images are never augmented."""
        return self.inputs(self.images)

    def _augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Each image cropped and mirrored by its own draw."""
        count, side = len(images), self.size
        if self.flip:
            mirror = (
                torch.rand(count, generator=generator, dtype=torch.float32, device="cpu") < 0.5
            ).to(images.device)
            images = torch.where(mirror.view(-1, 1, 1, 1), images.flip(3), images)
        if self.crop:
            padded = functional.pad(images, (self.crop,) * 4)
            corner = torch.randint(
                2 * self.crop + 1, (2, count, 1), generator=generator, device="cpu"
            )
            rows, columns = (corner + torch.arange(side, device="cpu")).to(images.device)
            picture = torch.arange(count, device=images.device).view(-1, 1, 1)
            # Advanced indices around a slice put the sliced channels last.
            images = padded[picture, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return images


def _shuffled(count: int, generator: torch.Generator) -> Tensor:
    """0 to `count` - 1 in an order of chance, on the CPU whatever the default device is."""
    return torch.randperm(count, generator=generator, device="cpu")


def load_data(name: str) -> tuple[ImageSet, ImageSet]:
    """The training and the test set called `name`.

    Raises:
        ValueError: The name is unknown, or a file is damaged.
        FileNotFoundError: `sources.fetch` has not been run.
    """
    found, folder = sources.spec(name), sources.folder_of(name)
    settings = (found.num_classes, found.mean, found.std, found.crop, found.flip)
    train, test = (ImageSet(*found.source.read(folder, part), *settings) for part in (True, False))
    return train, test


def _class_of(train_set: Dataset, index: int, label: Any) -> int:
    """A label as a class, a whole number."""
    try:
        label = (label if isinstance(label, Tensor) else np.asarray(label)).item()
        if label == int(label):
            return int(label)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: torch's, for several numbers
        pass
    raise ValueError(
        f"train_set: the label of sample {index} is {label!r}; scoring batches are balanced over "
        "classes, which must be whole numbers"
    )


def _targets(train_set: Sized) -> Tensor:
    """The classes of any map-style data set, without a look at its images if it lists them."""
    listed = getattr(train_set, "targets", None)
    if listed is None:
        return _labels(train_set)
    change = getattr(train_set, "target_transform", None) or (lambda label: label)
    if isinstance(listed, Tensor | np.ndarray):
        listed = (listed.cpu() if isinstance(listed, Tensor) else listed).tolist()
    found = [_class_of(train_set, i, change(x)) for i, x in enumerate(listed)]
    return torch.tensor(found, dtype=torch.int64, device="cpu")


def _labels(train_set: Sized) -> Tensor:
    """The classes of a data set as it returns them, sample by sample."""
    found = [_class_of(train_set, i, _sample(train_set, i)[1]) for i in range(len(train_set))]
    return torch.tensor(found, dtype=torch.int64, device="cpu")


def _sample(train_set: Any, index: int) -> tuple[Any, Any]:
    """A sample of the data set: an input and its label, no more and no less."""
    sample = train_set[index]
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        found = type(sample).__name__
        if isinstance(sample, tuple | list):
            found += f" of {len(sample)}"
        raise ValueError(
            f"train_set: sample {index} is a {found}; it must be an (input, class) pair: wrap the "
            "data set in one that returns such pairs"
        )
    return sample[0], sample[1]


def scoring_batches(
    train_set: Dataset,
    num_classes: int,
    per_class: int = 10,
    count: int = 10,
    seed: int = 0,
) -> list[tuple[Tensor, Tensor]]:
    """Class-balanced batches on which SNIP and GraSP are computed.

    Drawn without replacement within a batch, and independently from batch to batch. The classes
    are those that the data set returns: a list of them, `train_set.targets`, saves a look at all
    images, and is passed over if it says otherwise.

    Args:
        train_set: Any map-style data set of (input, class) pairs.
        num_classes: Classes are 0 .. num_classes - 1.
        per_class: Samples of each class in a batch.
        count: Number of batches.
        seed: Of the draw.

    Returns:
        [(inputs (num_classes * per_class, ...), targets), ...].

    Raises:
        ValueError: A class has fewer than `per_class` samples, a label is no whole number or
            changes, inputs are not finite or of several shapes, or the data set is of another kind.
    """
    numbers = {"num_classes": num_classes, "per_class": per_class, "count": count, "seed": seed}
    for argument, value in numbers.items():
        if not isinstance(value, Integral):
            raise ValueError(f"{argument} must be a whole number, got {value!r}")
        if value < 1 and argument != "seed":
            raise ValueError(f"{argument} must be at least 1, got {value}")
    if not all(hasattr(train_set, name) for name in ("__len__", "__getitem__")):
        raise ValueError(
            "train_set must be a map-style data set, with len() and [index]; got "
            f"{type(train_set).__name__}: of a loader give its .dataset, of a stream a list"
        )
    with own_chance(seed=seed):  # augmentation draws from generators of the caller
        for classes in (_targets, _labels):
            batches = _drawn(train_set, classes(train_set), num_classes, per_class, count, seed)
            if batches is not None:
                return batches
    raise ValueError("train_set: it returns another label for a sample each time it is asked")


def _drawn(
    train_set: Dataset, targets: Tensor, num_classes: int, per_class: int, count: int, seed: int
) -> list[tuple[Tensor, Tensor]] | None:
    """`scoring_batches` for these classes; None if the data set returns others."""
    members = [(targets == label).nonzero().squeeze(1) for label in range(num_classes)]
    for label, found in enumerate(members):
        if len(found) < per_class:
            raise ValueError(
                f"per_class: a scoring batch wants {per_class} samples of class {label}, "
                f"the training set has {len(found)}; ask for at most that many"
                + (f", or number the classes from 0 to {num_classes - 1}" * (not len(found)))
            )
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        draws = [m[_shuffled(len(m), generator)[:per_class]] for m in members]
        index = torch.cat(draws)
        samples = [(int(i), *_sample(train_set, int(i))) for i in index]
        if [_class_of(train_set, i, label) for i, _, label in samples] != targets[index].tolist():
            return None
        images = [image for _, image, _ in samples]
        try:
            inputs = torch.stack(
                [x if isinstance(x, Tensor) else torch.as_tensor(x, device="cpu") for x in images]
            )
        except (TypeError, RuntimeError) as error:
            raise ValueError(
                "train_set: its inputs must be tensors or arrays of one shape; a transform should "
                f"resize images and end in torchvision's ToTensor ({error})"
            ) from error
        if not torch.isfinite(inputs).all():
            raise ValueError("train_set: an image holds NaN or infinity; remove it and try again")
        batches.append((inputs, targets[index].to(inputs.device)))
    return batches
