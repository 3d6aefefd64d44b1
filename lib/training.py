"""Trains and evaluates a sparse network, always reporting the last epoch."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import config
from .data import ImageSet
from .models import prunable


def train(
    model: nn.Module,
    train_set: ImageSet,
    settings: config.Training,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> list[float]:
    """Train `model` in place: SGD with momentum, the learning rate falling to 0 along a cosine.

    Removed weights are set to zero before the first step and after each one, which costs one
    multiplication a weight: far below a percent of a step.

    Args:
        model: The network; it is left in eval mode.
        train_set: Its images lie on the model's device.
        settings: Epochs, batch size, learning rate, momentum, weight decay.
        masks: {parameter name: bool tensor}; None trains the dense network.
        seed: Of the order and augmentation of the images.

    Returns:
        The mean training loss of each epoch.
    """
    layout = torch.channels_last  # convolutions run faster in it on processors and on GPUs
    model.to(memory_format=layout).train()
    weights = prunable(model)  # after the change of layout, which gives a weight new storage
    kept = [] if masks is None else [masks[name].to(w) for name, w in weights.items()]
    pruned = [] if masks is None else [w.detach() for w in weights.values()]
    kept = [mask.to(memory_format=layout) if mask.ndim == 4 else mask for mask in kept]
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    steps = settings.epochs * math.ceil(len(train_set) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))
    generator = torch.Generator().manual_seed(seed)
    history = []
    with torch.no_grad():
        torch._foreach_mul_(pruned, kept) if pruned else None
    for _ in range(settings.epochs):
        total = torch.zeros((), device=train_set.targets.device)
        for inputs, targets in train_set.batches(settings.batch_size, generator):
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(inputs.to(memory_format=layout)), targets)
            loss.backward()
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                torch._foreach_mul_(pruned, kept) if pruned else None
            total += loss.detach() * len(targets)
        history.append(total.item() / len(train_set))
    model.eval()
    return history


@torch.no_grad()
def evaluate(model: nn.Module, test_set: ImageSet, batch_size: int = 500) -> tuple[float, float]:
    """Accuracy, in 0..1, and mean cross-entropy on a test set; the model's mode is restored."""
    before = model.training
    model.eval()
    correct, loss = 0, 0.0
    for inputs, targets in test_set.batches(batch_size):
        logits = model(inputs)
        correct += int((logits.argmax(1) == targets).sum())
        loss += functional.cross_entropy(logits, targets, reduction="sum").item()
    model.train(before)
    return correct / len(test_set), loss / len(test_set)
