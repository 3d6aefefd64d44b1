"""Masks: exactly k weights, ties decided; counted, shared out over layers, applied.

A flat mask is a boolean vector (N,) in index order. The public form, which results carry, is a
dictionary {parameter name: boolean tensor of the weight's shape}.
"""

from collections.abc import Mapping
from numbers import Real

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from .models import prunable, unflatten


def kept_count(total: int, sparsity: float) -> int:
    """The number of weights kept: max(1, ⌊N (1 - ρ) + 10⁻⁶⌋).

    The 10⁻⁶ takes back what floating point takes from a whole number: 1 - 0.9 is a little less
    than 0.1.

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

    Exactly k weights are kept, always: a threshold alone keeps every tie, and the scores of dead
    or constant networks are nothing but ties.

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
    """The k-th largest; where k is small, among those above a guess from a sample."""
    if 5 * k < len(values):
        sample = np.sort(values[:: max(1, len(values) // 4096)])
        rank = int(len(sample) * (1 - k / len(values)) - 2 * len(sample) ** 0.5)
        above = values[values >= sample[max(0, rank)]]
        if len(above) >= k:  # otherwise the guess was too high
            values = above
    return np.partition(values, len(values) - k)[len(values) - k]


def count(mask: Tensor) -> int:
    """The number of weights kept; on a processor some twenty times faster than `mask.sum()`."""
    return int(np.count_nonzero(mask.numpy()) if mask.is_cpu else mask.count_nonzero())


def sparsity(mask: Tensor) -> float:
    """ρ = 1 - ‖m‖₀ / N of a flat mask."""
    return 1 - count(mask) / mask.numel()


def layer_densities(mask: Tensor, weights: Mapping[str, Tensor]) -> dict[str, float]:
    """The fraction of kept weights in each layer, by parameter name."""
    return {name: part.float().mean().item() for name, part in unflatten(mask, weights).items()}


def erk_counts(weights: Mapping[str, Tensor], k: int) -> list[int]:
    """How many of k weights each layer keeps at the Erdős-Rényi-kernel densities.

    density_l = min(1, ε (c_in + c_out + k_h + k_w) / (c_in c_out k_h k_w)), with ε solved for the
    total (Evci et al. 2020), rounded by largest remainder so that the counts sum to k.
    """
    sizes = [w.numel() for w in weights.values()]
    raw = [sum(w.shape) for w in weights.values()]  # ε times this many weights, if there is room
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

    PyTorch's own tools see the result: `prune.is_pruned(model)` holds, `prune.remove` makes a
    layer's mask permanent.

    Returns:
        The same model.

    Raises:
        ValueError: A mask belongs to no prunable weight, has another shape, or holds something
            else than 0 and 1.
    """
    if not isinstance(masks, Mapping):
        raise ValueError(
            "masks must be {parameter name: mask}, as a result's .masks and .effective are; "
            f"got {type(masks).__name__}"
        )
    weights = prunable(model)
    for name, mask in masks.items():
        if name not in weights:
            raise ValueError(f"masks: {name!r} is no prunable weight of the model")
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
