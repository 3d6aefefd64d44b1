"""Masks: chosen with exactly k weights, counted, shared out over layers, applied to a model.

Inside the loop a mask is a flat boolean vector (N,) in index order. Results carry a `Mask`: the
same vector, with the names and shapes of the weights.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from .networks.inspection import layers, refuse


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
    """The k-th largest. If k is small, only values above a guess from a sample are searched."""
    if 5 * k < len(values):
        sample = np.sort(values[:: max(1, len(values) // 4096)])
        rank = int(len(sample) * (1 - k / len(values)) - 2 * len(sample) ** 0.5)
        above = values[values >= sample[max(0, rank)]]
        if len(above) >= k:  # otherwise the guess was too high
            values = above
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
        masks: A `Mask`, or any mapping; a weight without a mask is kept whole.

    Returns:
        The same model.

    Raises:
        ValueError: A mask belongs to no prunable weight, has another shape, or holds values other
            than 0 and 1. Then nothing is pruned. Layers without a mask may be of any kind.
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
