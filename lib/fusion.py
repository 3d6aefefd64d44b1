"""From three metrics to one score: how each is normalised, and how they are fused.

The paper normalises by Z(s) = |s - mean(s)| / std(s) and adds, S = Σ pᵢ Z(sᵢ). The others are
ablations, and what the baselines rank by.
"""

from collections.abc import Callable, Mapping
from functools import reduce

import torch
from torch import Tensor

# Passes over all weights go by pieces that stay in a processor's cache.
_CHUNK = 2**19
NOT_FINITE = "scores hold NaN or infinity: look at the weights and at the batch"


def normalise(scores: Tensor) -> Tensor:
    """Z(s) = |s - mean(s)| / std(s) over all N weights at once; 0 everywhere where std is 0.

    Mean, difference and (sample) standard deviation are taken in float64, for SynFlow's scores
    span more orders of magnitude than float32 adds up; Z itself is well within float32.

    Args:
        scores: (N,), signed.

    Returns:
        (N,), float32.

    Raises:
        ValueError: A score is NaN or infinite.
    """
    return standardise(scores).abs_()


def standardise(scores: Tensor) -> Tensor:
    """z(s) = (s - mean(s)) / std(s), with its sign; otherwise as `normalise`."""
    parts = scores.split(_CHUNK)  # to float64 anew in each pass: cheaper than to write it down
    mean = sum(part.double().sum() for part in parts) / len(scores)
    squares = sum((deviation := part.double() - mean).dot(deviation) for part in parts)
    std = (squares / max(1, len(scores) - 1)).sqrt()
    if not torch.isfinite(std):
        raise ValueError(NOT_FINITE)
    out = torch.zeros(len(scores), dtype=torch.float32, device=scores.device)
    if std > 1e-14 * mean.abs():  # the mean of equal numbers need not be that number, rounded
        for part, z in zip(parts, out.split(_CHUNK), strict=True):
            z.copy_((part.double() - mean).div_(std))
    return out


def _finite(scores: Tensor) -> Tensor:
    """|s|, or the error that says so of a score which is no number."""
    size = scores.abs()
    if not torch.isfinite(size.sum(dtype=torch.float64)):
        raise ValueError(NOT_FINITE)
    return size


def ranks(scores: Tensor) -> Tensor:
    """The rank of |s| among all N, from 0 to 1; equal scores have equal ranks."""
    size = _finite(scores)
    below = torch.searchsorted(size.sort().values, size)
    return (below / max(1, len(scores) - 1)).float()


def min_max(scores: Tensor) -> Tensor:
    """|s| scaled linearly to 0..1; 0 everywhere where all are equal."""
    size = _finite(scores).double()
    low, high = size.min(), size.max()
    return ((size - low) / (high - low)).float() if high > low else torch.zeros_like(size).float()


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "normalised": normalise,
    "standardised": standardise,
    "ranks": ranks,
    "min_max": min_max,
    "absolute": torch.abs,
    "signed": lambda scores: scores,
}


def fuse(scores: Mapping[str, Tensor], p: Mapping[str, float], form: str = "sum") -> Tensor:
    """S = Σ pᵢ Zᵢ, or Π Zᵢ^pᵢ, the ablation; (N,) from (N,) each.

    Args:
        scores: Metrics' scores, by name.
        p: The weight of each, in [0, 1]; at least one.
        form: "sum" or "product".
    """
    parts = [(weight, scores[name]) for name, weight in p.items()]
    if form == "sum":
        (weight, score), *rest = parts
        total = weight * score
        for weight, score in rest:
            total.add_(score, alpha=weight)
        return total
    if form == "product":
        return reduce(torch.Tensor.mul_, (score**weight for weight, score in parts))
    raise ValueError(f"form must be 'sum' or 'product', got {form!r}")
