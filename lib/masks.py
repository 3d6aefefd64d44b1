"""Masks: chosen with exactly k weights, counted, shared out over layers, applied, saved and read.

Inside the loop a mask is a flat boolean vector (N,) in index order. Results carry a `Mask`: the
same vector, with the names and shapes of the weights.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from .data.files import whole
from .networks.inspection import layers, refuse

FORMAT = 1  # of the files that `save_masks` writes


def kept_count(total: int, sparsity: float) -> int:
    """The number of weights kept: max(1, ⌊N (1 - ρ) + 10⁻⁶⌋).

    The 10⁻⁶ undoes rounding just below a whole number: 1 - 0.9 is a little less than 0.1.

    Raises:
        ValueError: The sparsity is outside [0, 1).
    """
    if not isinstance(sparsity, Real) or not 0 <= sparsity < 1:
        raise ValueError(
            f"sparsity must be in [0, 1), the fraction of weights removed; got {sparsity!r}"
        )
    return max(1, int(total * (1 - sparsity) + 1e-6))


def top_k(scores: Tensor, k: int) -> Tensor:
    """The mask of the k largest scores, (N,) bool; ties go to the lower index.

    Exactly k weights are kept, always. A threshold alone would keep every tie, and the scores of
    dead or constant networks are nothing but ties.

    Raises:
        ValueError: k is not in 0..N, or a score is NaN.
    """
    total = scores.numel()
    if not 0 <= k <= total:
        raise ValueError(f"k must be between 0 and {total}, got {k}")
    if torch.isnan(scores.sum()) and torch.isnan(scores).any():
        raise ValueError("scores hold NaN, which has no rank: look at the weights and the batch")
    if k in (0, total):
        return torch.full_like(scores, k > 0, dtype=torch.bool)
    if not scores.is_cpu:
        threshold = scores.kthvalue(total - k + 1).values
        mask = scores > threshold
        ties = (scores == threshold).nonzero().squeeze(1)
        mask[ties[: k - count(mask)]] = True
        return mask
    values = scores.numpy()  # numpy selects, compares and counts several times faster than torch
    threshold = _kth_largest(values, k)
    above = values > threshold
    above[np.flatnonzero(values == threshold)[: k - np.count_nonzero(above)]] = True
    return torch.from_numpy(above)


def _kth_largest(values: np.ndarray, k: int) -> np.floating:
    """The k-th largest, of the values above a guess from a sample, or the guess itself if it ties.

    Numpy's selection is ten times slower where many values tie, as those of worthless weights do.
    """
    sample = np.sort(values[:: max(1, len(values) // 4096)])
    rank = int(len(sample) * (1 - k / len(values)) - 2 * len(sample) ** 0.5)
    guess = sample[max(0, rank)]
    above = values[values > guess]
    if len(above) >= k:
        values = above
    elif np.count_nonzero(values >= guess) >= k:
        return guess
    return np.partition(values, len(values) - k)[len(values) - k]


def count(mask: Tensor) -> int:
    """The number of weights kept; on a CPU about twenty times faster than `mask.sum()`."""
    return int(np.count_nonzero(mask.numpy()) if mask.is_cpu else mask.count_nonzero())


def sparsity(mask: Tensor) -> float:
    """ρ = 1 - ‖m‖₀ / N of a flat mask."""
    return 1 - count(mask) / mask.numel()


@dataclass(frozen=True, eq=False)
class Mask(Mapping[str, Tensor]):
    """A mask in two views: one flat vector, and {parameter name: part of it}.

    The parts have the shapes of the weights and share the memory of the vector.

    Attributes:
        flat: (N,) bool, in index order; True means kept.
        shapes: {parameter name: shape}, in index order. Weights may be given in place of shapes.
    """

    flat: Tensor
    shapes: Mapping[str, Tensor | Sequence[int]]

    def __post_init__(self) -> None:
        shapes = {name: torch.Size(getattr(x, "shape", x)) for name, x in self.shapes.items()}
        object.__setattr__(self, "shapes", shapes)
        if not isinstance(self.flat, Tensor) or self.flat.dtype != torch.bool:
            found = getattr(self.flat, "dtype", type(self.flat).__name__)
            raise TypeError(f"flat must be a tensor of torch.bool, got {found}; call .bool() on it")
        total = sum(map(math.prod, shapes.values()))
        if self.flat.shape != (total,):
            raise ValueError(
                f"flat must have shape ({total},), one entry for each weight in shapes; "
                f"got {tuple(self.flat.shape)}"
            )

    @cached_property
    def _parts(self) -> dict[str, Tensor]:
        parts = self.flat.split([math.prod(shape) for shape in self.shapes.values()])
        return {n: part.view(s) for (n, s), part in zip(self.shapes.items(), parts, strict=True)}

    def __getitem__(self, name: str) -> Tensor:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return self.shapes == other.shapes and torch.equal(self.flat, other.flat)

    __hash__ = None

    def __repr__(self) -> str:
        return f"Mask({self.count:,} of {self.flat.numel():,} weights, {len(self)} layers)"

    def __getstate__(self) -> dict[str, object]:
        return {"flat": self.flat, "shapes": self.shapes}  # the parts would come back as copies

    @property
    def count(self) -> int:
        """The number of weights kept."""
        return count(self.flat)

    @property
    def sparsity(self) -> float:
        """ρ, the fraction of weights removed."""
        return sparsity(self.flat)

    @property
    def densities(self) -> dict[str, float]:
        """The fraction of kept weights in each layer, by parameter name."""
        return {name: count(part) / part.numel() for name, part in self.items()}


def erk_counts(weights: Mapping[str, Tensor], k: int) -> list[int]:
    """How many of k weights each layer keeps at the Erdős-Rényi-kernel densities.

    density_l = min(1, ε (c_in + c_out + k_h + k_w) / (c_in c_out k_h k_w)), with ε solved for the
    total (Evci et al. 2020), rounded by largest remainder so that the counts sum to k.
    """
    sizes = [w.numel() for w in weights.values()]
    raw = [sum(w.shape) for w in weights.values()]  # a layer keeps ε times this, if it has room
    full: set[int] = set()
    while True:
        room = k - sum(sizes[i] for i in full)
        free = [i for i in range(len(sizes)) if i not in full]
        epsilon = room / sum(raw[i] for i in free) if free else 0.0
        over = {i for i in free if epsilon * raw[i] > sizes[i]}
        if not over:
            break
        full |= over
    ideal = [sizes[i] if i in full else epsilon * raw[i] for i in range(len(sizes))]
    counts = [int(value) for value in ideal]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (counts[i] - ideal[i], i))
    for i in by_remainder[: k - sum(counts)]:
        counts[i] += 1
    return counts


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Prune `model` in place with {parameter name: mask}, through `torch.nn.utils.prune`.

    PyTorch's own tools see the result: `prune.is_pruned(model)` holds, and `prune.remove` makes a
    layer's mask permanent.

    Args:
        model: The network.
        masks: A `Mask`, or any mapping; a layer without a mask is kept whole, whatever its kind.

    Returns:
        The same model.

    Raises:
        ValueError: A mask belongs to no prunable weight, as one that is pruned already, or shared;
            has another shape, or holds values other than 0 and 1. Then nothing is pruned.
    """
    if not isinstance(masks, Mapping):
        raise ValueError(
            "masks must be {parameter name: mask}, as a result's .masks and .effective are; "
            f"got {type(masks).__name__}"
        )
    found = {f"{name}.weight".lstrip("."): layer for name, layer in layers(model).items()}
    for name in masks:
        if name not in found:
            raise ValueError(f"masks: {name!r} is no prunable weight of the model")
    refuse({name.rpartition(".")[0]: why for name in masks if (why := found[name][1])})
    weights = {name: found[name][0].weight for name in masks}
    masks = {
        name: mask if isinstance(mask, Tensor) else torch.as_tensor(mask, device="cpu")
        for name, mask in masks.items()
    }
    for name, mask in masks.items():
        if mask.shape != weights[name].shape:
            raise ValueError(
                f"masks: {name!r} must have shape {tuple(weights[name].shape)}, "
                f"got {tuple(mask.shape)}"
            )
        if not torch.equal(mask, mask.bool().to(mask.dtype)):
            raise ValueError(f"masks: {name!r} must hold 0 (removed) and 1 (kept) alone")
    for name, mask in masks.items():
        owner, _, attribute = name.rpartition(".")
        layer = model.get_submodule(owner)
        prune.custom_from_mask(layer, attribute, mask.to(weights[name].device))
    return model


# --- saved and read ------------------------------------------------------------------------------


class SavedMasks(NamedTuple):
    """What `load_masks` finds.

    Attributes:
        masks: With exactly the number of weights asked for.
        effective: Of them the effective weights: train these.
        card: How they were made: method, sparsity, seed, layers, version, and notes.
    """

    masks: Mask
    effective: Mask
    card: dict[str, Any]


def _files(path: str | Path) -> tuple[Path, Path]:
    """PATH.npz, the bits, and PATH.json, the card; PATH may already have either suffix."""
    path = Path(path)
    base = path.name.removesuffix(".npz").removesuffix(".json")  # "lenet-0.99" has no suffix
    if not base:
        raise ValueError(f"path must name a file, got {str(path)!r}")
    return path.with_name(f"{base}.npz"), path.with_name(f"{base}.json")


_SEALED = ("sparsity", "effective_sparsity", "layers")  # without them the bits mean something else


def _digest(bits: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> str:
    facts = json.dumps({name: card[name] for name in _SEALED}, sort_keys=True)
    parts = (bits[name].tobytes() for name in SavedMasks._fields[:2])
    return hashlib.sha256(b"".join(parts) + facts.encode()).hexdigest()


def save_masks(
    path: str | Path, masks: Mask, effective: Mask, card: Mapping[str, Any] | None = None
) -> None:
    """Write PATH.npz, one bit for each weight, and PATH.json, the card; each whole or not at all.

    Nothing is pickled, and equal masks make equal bytes.

    Args:
        path: Where to, with or without suffix.
        masks: All weights kept.
        effective: The effective ones.
        card: What else to write down: plain values, under names of their own.

    Raises:
        ValueError: The two masks are of different layers, or the card cannot be written as JSON.
        OSError: A file cannot be written.
    """
    if masks.shapes != effective.shapes:
        raise ValueError("effective must have the layers of masks, in the same order and shapes")
    bits = {
        name: np.packbits(mask.flat.cpu().numpy())
        for name, mask in (("masks", masks), ("effective", effective))
    }
    try:
        version = metadata.version("neural-network-panning")
    except metadata.PackageNotFoundError:  # a bare copy of the folder
        version = None
    layers = [
        {"name": n, "shape": list(m.shape), "kept": count(m), "effective": count(effective[n])}
        for n, m in masks.items()
    ]
    facts = {"sparsity": masks.sparsity, "effective_sparsity": effective.sparsity}
    facts |= {"format": FORMAT, "version": version, "layers": layers}
    facts["sha256"] = _digest(bits, facts)
    if taken := sorted(facts.keys() & (card or {}).keys()):
        raise ValueError(
            f"card: {taken[0]!r} is written by save itself; give the note another name"
        )
    try:
        text = json.dumps({**(card or {}), **facts}, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"card must hold plain values, which JSON can write: {error}") from None
    packed, written = _files(path)
    with whole(packed) as file:
        np.savez(file, **bits)
    with whole(written) as file:
        file.write(text.encode())


def load_masks(path: str | Path, model: nn.Module | None = None) -> SavedMasks:
    """Masks that a result's `save` wrote, checked; no pickled code is run.

    A compacted network is stored as its numbers alone, and built again from the masks, since what
    `compact` removes depends on them and on the architecture alone::

        result.save("masks")
        small = lib.compact(model, example_input)  # and trained
        torch.save(small.state_dict(), "small.pt")

        # in another process, on a network built in the same way, trained or not, but not pruned
        lib.apply_masks(model, lib.load_masks("masks", model).effective)
        small = lib.compact(model, example_input)
        small.load_state_dict(torch.load("small.pt", weights_only=True))

    Args:
        path: Where the two files are, with or without suffix.
        model: The network that they are for: its layers are compared with the card, and the masks
            are put on its device. Without it the masks are on the CPU.

    Raises:
        FileNotFoundError: One of the two files is missing.
        ValueError: They are damaged, do not belong together, or are not of this network.
    """
    packed, written = _files(path)
    for file in (packed, written):
        if not file.is_file():
            raise FileNotFoundError(f"path: no masks at {file}; a result's save(path) writes them")
    try:
        card = json.loads(written.read_text(encoding="utf-8"))
        with packed.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            bits = {name: arrays[name] for name in SavedMasks._fields[:2]}
        version = card["format"]
        shapes = {layer["name"]: tuple(layer["shape"]) for layer in card["layers"]}
        total = sum(map(math.prod, shapes.values()))
        belong = card["sha256"] == _digest(bits, card)
    except Exception as error:  # zipfile, numpy, JSON and a missing key each raise their own
        raise ValueError(
            f"path: {path} holds no usable masks: {error!r}; save them again"
        ) from error
    if version != FORMAT:
        raise ValueError(f"path: {written} is of format {version!r}; this version reads {FORMAT}")
    if not belong or any(len(b) != -(-total // 8) for b in bits.values()):
        raise ValueError(
            f"path: {packed.name} and {written.name} do not belong together, or are damaged; save "
            "the masks again, and copy both files"
        )
    if model is not None and not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    device = _check_layers(model, shapes, path) if model is not None else None
    flat = (
        torch.from_numpy(np.unpackbits(bits[name], count=total).astype(bool)).to(device)
        for name in SavedMasks._fields[:2]
    )
    return SavedMasks(*(Mask(part, shapes) for part in flat), card)


def _check_layers(
    model: nn.Module, shapes: Mapping[str, tuple[int, ...]], path: str | Path
) -> torch.device:
    """The device of a network that has weights of these names and shapes."""
    found = dict(model.named_parameters())
    for name, shape in shapes.items():
        weight = found.get(name, found.get(f"{name}_orig"))  # so it is called once it is pruned
        if weight is None:
            raise ValueError(
                f"model has no weight {name!r}, which the masks at {path} prune: build the network "
                f"that they were made for; its layers are {', '.join(shapes)}"
            )
        if weight.shape != shape:
            raise ValueError(
                f"model: {name!r} has shape {tuple(weight.shape)}, the masks at {path} are for "
                f"{shape}: build it with the same width, channels and classes, and load masks "
                "before you compact it"
            )
    return weight.device
