"""Trains and evaluates a sparse network, always reporting the last epoch."""

import hashlib
import math
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from ..data.files import whole
from ..data.images import ImageSet
from .compaction import Compacted, compacted
from .inspection import copy_of, mode_of, working_format
from .sparsify import check, fastest, make_sparse

# An optimiser, from the parameters, the learning rate, the momentum and the weight decay; and its
# usual learning rate.
Optimiser = Callable[[Any, float, float, float], torch.optim.Optimizer]
OPTIMIZERS: dict[str, tuple[Optimiser, float]] = {
    "sgd": (
        lambda of, lr, momentum, decay: torch.optim.SGD(
            of, lr=lr, momentum=momentum, weight_decay=decay, fused=True
        ),
        0.1,
    ),
    "adam": (
        lambda of, lr, momentum, decay: torch.optim.Adam(
            of, lr=lr, betas=(momentum, 0.999), weight_decay=decay, fused=True
        ),
        0.001,
    ),
}


class History(list[float]):
    """The mean training loss of each epoch, and what else was noted after each.

    Attributes:
        accuracy: On the test set, in 0..1; empty if none was given.
        test_loss: Mean cross-entropy on the test set; likewise.
        seconds: Since `train` was called, without the time that testing took; all that it does
            before the first step is in it.
        sparse: The layers that were trained in their sparse form.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sparse: list[str] = []
        self.accuracy: list[float] = []
        self.test_loss: list[float] = []
        self.seconds: list[float] = []

    @property
    def rows(self) -> list[dict[str, float]]:
        """One row per epoch, for a table: epoch, seconds, train_loss, accuracy, test_loss."""
        columns = {"seconds": self.seconds, "train_loss": list(self)}
        columns |= {"accuracy": self.accuracy, "test_loss": self.test_loss}
        found = {name: values for name, values in columns.items() if values}
        return [
            {"epoch": i + 1} | {name: values[i] for name, values in found.items()}
            for i in range(len(self))
        ]


@dataclass
class _Run:
    """Everything that `train` was asked for, but the network and its masks."""

    train_set: ImageSet
    seed: int
    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    test_set: ImageSet | None
    checkpoint: Path | None
    checkpoint_seconds: float
    progress: bool
    began: float  # on the performance counter


def train(
    model: nn.Module,
    train_set: ImageSet,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    *,
    epochs: int = 20,
    batch_size: int = 128,
    optimizer: str = "sgd",
    learning_rate: float | None = None,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    compact: bool = True,
    sparse: str | Collection[str] = (),
    test_set: ImageSet | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 0.0,
    progress: bool = False,
) -> History:
    """Train `model` in place, the learning rate falling to 0 along a cosine.

    A sparse network is trained without the channels that its mask has killed, which gives the same
    weights faster, see `compaction`. What remains of the masks is applied to the weights after each
    step, at far less than a percent of its cost.

    Args:
        model: The network; it is left in eval mode.
        train_set: An `ImageSet`, as `load_data` returns it, its images on the model's device.
        masks: A `Mask`, or any {parameter name: bool tensor}; None trains the network as it is,
            also one that was pruned by `apply_masks` or cut down by `compact`.
        seed: Of the order and augmentation of the images.
        epochs: Passes over the images.
        batch_size: Images per step.
        optimizer: "sgd", with momentum, or "adam".
        learning_rate: At the first step; by default 0.1 with SGD and 0.001 with Adam.
        momentum: Of SGD; Adam's β₁.
        weight_decay: On every parameter, added to its gradient.
        compact: Whether dead channels are left out of the training.
        sparse: Layers that multiply by their kept weights alone, which gives the same weights up to
            rounding: names, or "fastest" for those in which that is faster on this machine, by a
            measurement that takes some ten steps; the history says which they were. On a CPU.
        test_set: Images on which the network is tested after each epoch. They change nothing in
            the training, and should decide nothing.
        checkpoint: A file for the state at the end of each epoch. If it is there already, training
            goes on from it, and ends with the same bytes as if it had never stopped. It is not
            deleted.
        checkpoint_seconds: The least time between two writings of it, and before the first; the
            last epochs may then not be in it.
        progress: Whether to show a progress bar.

    Returns:
        A `History`: the list of mean training losses, one an epoch; its `rows` add the seconds and,
        with a test set, accuracy and loss on it.

    Raises:
        ValueError: The optimizer is unknown, a mask belongs to no parameter, or the checkpoint is
            of another training, or damaged, or a layer has no sparse form.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    rate = OPTIMIZERS[optimizer][1] if learning_rate is None else learning_rate
    run = _Run(
        *(train_set, seed, epochs, batch_size, optimizer, rate, momentum, weight_decay),
        *(test_set, Path(checkpoint) if checkpoint is not None else None),
        *(checkpoint_seconds, progress, time.perf_counter()),
    )
    if sparse == "fastest" and checkpoint is not None:
        raise ValueError(
            "sparse: 'fastest' may choose other layers when a checkpoint is resumed; give their "
            "names, which the history of a first epoch has in `sparse`"
        )
    if masks is None:
        if sparse:
            raise ValueError("sparse: the kept weights are those of masks; give these, too")
        return _fit(model, {}, run)
    parameters = dict(model.named_parameters())
    if unknown := [name for name in masks if name not in parameters]:
        raise ValueError(
            f"masks: the model has no parameter {unknown[0]!r}; leave masks out for a network that "
            "was pruned by apply_masks already"
        )
    if sparse != "fastest":
        check(model, masks, sparse)
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].mul_(mask)
    example = next(train_set.batches(1))[0]
    small = Compacted(model, dict(masks), {})
    if compact:
        # A normalisation over dead channels, say: slower, and the same.
        with suppress(ValueError):
            small = compacted(model, masks, example)
    if sparse:
        if small.model is model:
            small = small._replace(model=copy_of(model))
        history = _fit_sparse(small, sparse, run)
    else:
        history = _fit(small.model, small.masks, run)
    if small.model is not model:
        small.restore(model)
    model.eval()
    return history


def _fit_sparse(small: Compacted, chosen: str | Collection[str], run: _Run) -> History:
    """`_fit`, some of the layers in their sparse form."""
    if chosen == "fastest":
        # In order, so that the measurement draws from no generator.
        chosen = fastest(small.model, small.masks, *next(run.train_set.batches(run.batch_size)))
    undo = make_sparse(small.model, small.masks, chosen)
    rest = {
        name: m for name, m in small.masks.items() if name.removesuffix(".weight") not in chosen
    }
    try:
        history = _fit(small.model, rest, run)
    finally:
        undo()
    history.sparse = list(chosen)
    return history


def _fit(model: nn.Module, masks: Mapping[str, Tensor], run: _Run) -> History:
    """Train `model` as it stands, the weights that `masks` removes staying 0."""
    layout = working_format(model, next(run.train_set.batches(1))[0])
    model.to(memory_format=layout).train()
    # After the change of layout, which gives a weight new storage.
    weights = {name: model.get_parameter(name).detach() for name in masks}
    pruned = list(weights.values())
    kept = [mask.to(weights[name]) for name, mask in masks.items()]
    kept = [mask.to(memory_format=layout) if mask.ndim == 4 else mask for mask in kept]
    make, _ = OPTIMIZERS[run.optimizer]
    optimiser = make(model.parameters(), run.learning_rate, run.momentum, run.weight_decay)
    steps = run.epochs * math.ceil(len(run.train_set) / run.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))
    generator = torch.Generator().manual_seed(run.seed)
    device, history = run.train_set.targets.device, History()
    seam = None
    if run.checkpoint is not None:
        seam = _Seam(run, model, masks, {"optimiser": optimiser, "schedule": schedule}, generator)
        history = seam.resume(device)
    began = time.perf_counter() - history.seconds[-1] if history else run.began
    epochs = range(len(history), run.epochs)
    for _ in tqdm(epochs, desc="Training", disable=not run.progress):
        total = torch.zeros((), device=device)
        for inputs, targets in run.train_set.batches(run.batch_size, generator):
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(inputs.to(memory_format=layout)), targets)
            loss.backward()
            optimiser.step()
            schedule.step()
            if pruned:
                with torch.no_grad():
                    torch._foreach_mul_(pruned, kept)
            total += loss.detach() * len(targets)
        history.append(total.item() / len(run.train_set))
        stopped = time.perf_counter()
        history.seconds.append(stopped - began)
        if run.test_set is not None:
            accuracy, test_loss = evaluate(model, run.test_set)
            history.accuracy.append(accuracy)
            history.test_loss.append(test_loss)
        if seam is not None:
            seam.write(history)
        began += time.perf_counter() - stopped
    model.eval()
    return history


class _Seam:
    """The state of a training between two epochs, in a file."""

    def __init__(
        self,
        run: _Run,
        model: nn.Module,
        masks: Mapping[str, Tensor],
        parts: Mapping[str, Any],
        generator: torch.Generator,
    ):
        self.path, self.pause, self.last = run.checkpoint, run.checkpoint_seconds, time.monotonic()
        self.parts, self.generator = {"model": model, **parts}, generator
        self.identity = {
            "images": _digest({"some": sample(run.train_set), "targets": run.train_set.targets}),
            "augmentation": [run.train_set.crop, run.train_set.flip],
            "normalisation": [list(run.train_set.mean), list(run.train_set.std)],
            "seed": run.seed,
            "epochs": run.epochs,
            "batch_size": run.batch_size,
            "optimizer": run.optimizer,
            "learning_rate": run.learning_rate,
            "momentum": run.momentum,
            "weight_decay": run.weight_decay,
            "test_set": run.test_set is not None,
            "masks": _digest(masks),
            "model": _digest(model.state_dict()),  # before its first step
        }

    def resume(self, device: torch.device) -> History:
        """Put everything back to where the file says; an empty history if there is none."""
        history = History()
        if not self.path.is_file():
            return history
        try:
            saved = torch.load(self.path, weights_only=True, map_location=device)
            identity, columns = saved["identity"], saved["history"]
            random = {name: state.cpu() for name, state in saved["random"].items()}
        except Exception as error:  # half a file, or another one: torch raises many things
            raise ValueError(
                f"checkpoint: {self.path} holds no usable state; delete it to begin anew"
            ) from error
        for name, value in self.identity.items():
            if identity.get(name) != value:
                raise ValueError(
                    f"checkpoint: {self.path} is of another training: its {name} is "
                    f"{identity.get(name)!r}, this one's {value!r}; delete the file, or name "
                    "another"
                )
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        self.generator.set_state(random["order"])
        torch.set_rng_state(random["cpu"])  # dropout draws from it
        if "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], device)
        history += columns.pop("train_loss")
        for name, values in columns.items():
            setattr(history, name, values)
        return history

    def write(self, history: History) -> None:
        """Write the state, unless it was written, or training began, just before."""
        now = time.monotonic()
        if now - self.last < self.pause:
            return
        self.last = now
        random = {"order": self.generator.get_state(), "cpu": torch.get_rng_state()}
        device = next(self.parts["model"].parameters()).device
        if device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(device)
        state = {name: part.state_dict() for name, part in self.parts.items()}
        columns = {"train_loss": list(history), **vars(history)}
        del columns["sparse"]
        with whole(self.path) as file:
            state |= {"identity": self.identity, "history": columns, "random": random}
            torch.save(state, file)


def sample(data: ImageSet) -> Tensor:
    """About a thousand images, evenly spread: enough to tell one data set from another."""
    return data.images[:: max(1, len(data) // 1000)]


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Twelve hexadecimal digits that stand for names and values."""
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:12]


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
