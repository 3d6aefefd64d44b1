"""Sanity checks: each takes away one thing that a method claims to use.

If accuracy does not change, the method does not use it (Frankle et al. 2021; Su et al. 2020).

* `shuffled`: the mask is permuted within each layer. What remains are the layer densities.
* `reinitialised`: the mask is kept, the weights are drawn anew. What remains is the architecture.
* `inverted`: the weights with the *lowest* scores are kept.
* `pixels`, `labels`: the scoring batches hold shuffled pixels, or another image's class.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..metrics import Batch

CHECKS = ("shuffled", "reinitialised", "inverted", "pixels", "labels")


def shuffle_layers(
    masks: Mapping[str, Tensor], generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Each layer's mask permuted, its count kept."""
    out = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=generator).to(mask.device)
        out[name] = mask.reshape(-1)[order].view(mask.shape)
    return out


def shuffle_pixels(batches: Iterable[Batch], generator: torch.Generator) -> list[Batch]:
    """Each image's pixels permuted in an order of its own; its values and its class are kept."""
    out = []
    for inputs, targets in batches:
        flat = inputs.flatten(1)
        order = torch.rand(flat.shape, generator=generator).argsort(1).to(flat.device)
        out.append((flat.gather(1, order).view(inputs.shape), targets))
    return out


def shuffle_labels(batches: Iterable[Batch], generator: torch.Generator) -> list[Batch]:
    """The classes of each batch permuted among its images, so that it stays balanced."""
    return [(x, y[torch.randperm(len(y), generator=generator).to(y.device)]) for x, y in batches]
