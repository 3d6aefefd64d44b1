"""Trains and evaluates a sparse network, always reporting the last epoch."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from ..data.images import ImageSet
from .compaction import compacted
from .inspection import mode_of, working_format


def train(
    model: nn.Module,
    train_set: ImageSet,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    *,
    epochs: int = 20,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    compact: bool = True,
    progress: bool = False,
) -> list[float]:
    """Train `model` in place: SGD with momentum, the learning rate falling to 0 along a cosine.

    A sparse network is trained without the channels that its mask has killed, which gives the same
    weights faster, see `compaction`. What remains of the masks is applied to the weights after each
    step, at far less than a percent of its cost.

    Args:
        model: The network; it is left in eval mode.
        train_set: Its images lie on the model's device.
        masks: A `Mask`, or any {parameter name: bool tensor}; None trains the dense network.
        seed: Of the order and augmentation of the images.
        epochs: Passes over the images.
        batch_size: Images per step.
        learning_rate: At the first step.
        momentum: Of SGD.
        weight_decay: Of SGD, on every parameter.
        compact: Whether dead channels are left out of the training.
        progress: Whether to show a progress bar.

    Returns:
        The mean training loss of each epoch.
    """
    sgd = {"lr": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    run = (train_set, seed, epochs, batch_size, sgd, progress)
    if masks is None:
        return _fit(model, {}, *run)
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    if not compact:
        return _fit(model, masks, *run)
    try:
        small = compacted(model, masks, next(train_set.batches(1))[0])
    except ValueError:  # a normalisation over dead channels, say: slower, and the same
        return _fit(model, masks, *run)
    history = _fit(small.model, small.masks, *run)
    small.restore(model)
    model.eval()
    return history


def _fit(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    train_set: ImageSet,
    seed: int,
    epochs: int,
    batch_size: int,
    sgd: Mapping[str, float],
    progress: bool,
) -> list[float]:
    """Train `model` as it stands, the weights that `masks` removes staying 0."""
    layout = working_format(model, next(train_set.batches(1))[0])
    model.to(memory_format=layout).train()
    # After the change of layout, which gives a weight new storage.
    weights = {name: model.get_parameter(name).detach() for name in masks}
    pruned = list(weights.values())
    kept = [mask.to(weights[name]) for name, mask in masks.items()]
    kept = [mask.to(memory_format=layout) if mask.ndim == 4 else mask for mask in kept]
    optimiser = torch.optim.SGD(model.parameters(), **sgd, fused=True)
    steps = epochs * math.ceil(len(train_set) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))
    generator = torch.Generator().manual_seed(seed)
    history = []
    for _ in tqdm(range(epochs), desc="Training", disable=not progress):
        total = torch.zeros((), device=train_set.targets.device)
        for inputs, targets in train_set.batches(batch_size, generator):
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(inputs.to(memory_format=layout)), targets)
            loss.backward()
            optimiser.step()
            schedule.step()
            if pruned:
                with torch.no_grad():
                    torch._foreach_mul_(pruned, kept)
            total += loss.detach() * len(targets)
        history.append(total.item() / len(train_set))
    model.eval()
    return history


@torch.no_grad()
def evaluate(model: nn.Module, test_set: ImageSet, batch_size: int = 500) -> tuple[float, float]:
    """Accuracy, in 0..1, and mean cross-entropy on a test set, in eval mode; modes are restored."""
    correct, loss = 0, 0.0
    with mode_of(model, training=False):
        for inputs, targets in test_set.batches(batch_size):
            logits = model(inputs)
            correct += int((logits.argmax(1) == targets).sum())
            loss += functional.cross_entropy(logits, targets, reduction="sum").item()
    return correct / len(test_set), loss / len(test_set)
