"""From three metrics to one score: how each is normalised, how they are fused, what is cached.

The paper normalises by Z(s) = |s - mean(s)| / std(s) and fuses, S = Σ pᵢ Z(sᵢ). The other forms
serve the ablations and the baselines. The score bank finds the weights of a network once, and
computes once what depends on a scoring batch alone.
"""

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from . import metrics
from .metrics import METRICS, Batch
from .networks.inspection import copy_of, prunable, refuse
from .networks.reading import cut_off, usage

_CHUNK = 2**19  # passes over all weights go in pieces that fit a processor's cache
_HALF = {torch.float16, torch.bfloat16}
_NOT_FINITE = "scores hold NaN or infinity: look at the weights and at the batch"


# --- one metric ------------------------------------------------------------------------------


def normalise(scores: Tensor) -> Tensor:
    """Z(s) = |s - mean(s)| / std(s) over all N weights at once; all 0 if std is 0.

    Mean, difference and (sample) standard deviation are taken in float64, since SynFlow's scores
    span more orders of magnitude than float32 can add up. Z itself is well within float32.

    Args:
        scores: (N,), signed.

    Returns:
        (N,), float32.

    Raises:
        ValueError: A score is NaN or infinite.
    """
    return standardise(scores).abs_()


def standardise(scores: Tensor) -> Tensor:
    """z(s) = (s - mean(s)) / std(s), the same with its sign."""
    parts = scores.split(_CHUNK)  # converted again in each pass, which is cheaper than storing them
    mean = sum(part.double().sum() for part in parts) / len(scores)
    squares = sum((deviation := part.double() - mean).dot(deviation) for part in parts)
    std = (squares / max(1, len(scores) - 1)).sqrt()
    if not torch.isfinite(std):
        raise ValueError(_NOT_FINITE)
    out = torch.zeros(len(scores), dtype=torch.float32, device=scores.device)
    if std > 1e-14 * mean.abs():  # rounding can move the mean of equal numbers off that number
        for part, z in zip(parts, out.split(_CHUNK), strict=True):
            z.copy_((part.double() - mean).div_(std))
    return out


def _finite(scores: Tensor) -> Tensor:
    """|s|; a ValueError if a score is NaN or infinite."""
    size = scores.abs()
    if not torch.isfinite(size.sum(dtype=torch.float64)):
        raise ValueError(_NOT_FINITE)
    return size


def ranks(scores: Tensor) -> Tensor:
    """The rank of |s| among all N, from 0 to 1; equal scores have equal ranks."""
    size = _finite(scores)
    below = torch.searchsorted(size.sort().values, size)
    return (below / max(1, len(scores) - 1)).float()


def min_max(scores: Tensor) -> Tensor:
    """|s| scaled linearly to 0..1; all 0 if all are equal."""
    size = _finite(scores).double()
    low, high = size.min(), size.max()
    return ((size - low) / (high - low)).float() if high > low else torch.zeros_like(size).float()


def signed(scores: Tensor) -> Tensor:
    """S itself."""
    return scores


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "normalised": normalise,
    "standardised": standardise,
    "ranks": ranks,
    "min_max": min_max,
    "absolute": torch.abs,
    "signed": signed,
}


# --- three metrics ---------------------------------------------------------------------------


FUSIONS = ("sum", "product")


def fuse(scores: Mapping[str, Tensor], p: Mapping[str, float], form: str = "sum") -> Tensor:
    """S = Σ pᵢ Zᵢ, or S = Π Zᵢ^pᵢ; (N,) from (N,) each.

    Args:
        scores: The metrics' scores, by name; they are not changed.
        p: The weight of each, in [0, 1]; at least one.
        form: "sum" or "product".

    Raises:
        ValueError: The form is unknown.
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


# --- a network and its batches ---------------------------------------------------------------


class Observation(NamedTuple):
    """L and ΔL, L_s and ΔL_s: of the dense and of the sparse network."""

    loss: float
    grad_norm_sq: float
    loss_sparse: float
    grad_norm_sq_sparse: float


@dataclass(frozen=True)
class Extremes:
    """The range of 𝒩(·), min-max scaling, for L and L_s and for ΔL and ΔL_s."""

    loss: tuple[float, float]
    grad_norm_sq: tuple[float, float]

    @classmethod
    def of(cls, observed: Iterable[Observation]) -> "Extremes":
        """The smallest range that holds all that was observed."""
        dense_loss, dense_norm, loss, norm = zip(*observed, strict=True)
        losses, norms = dense_loss + loss, dense_norm + norm
        return cls((min(losses), max(losses)), (min(norms), max(norms)))

    def including(self, observed: Observation) -> "Extremes":
        """The range, wide enough for this, too."""
        ends = zip(self.loss, self.grad_norm_sq, strict=True)
        return Extremes.of([observed, *(Observation(*end, *end) for end in ends)])

    def scale(self, observed: Observation) -> tuple[float, float, float, float]:
        """𝒩 of the four quantities: in [0, 1], and 0 where a range is empty."""

        def scaled(value: float, low: float, high: float) -> float:
            return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.0

        return (
            scaled(observed.loss, *self.loss),
            scaled(observed.grad_norm_sq, *self.grad_norm_sq),
            scaled(observed.loss_sparse, *self.loss),
            scaled(observed.grad_norm_sq_sparse, *self.grad_norm_sq),
        )


def _checked(pair: object, index: int, like: Tensor) -> Batch:
    """One scoring batch on the device of a weight and in its precision; or a ValueError."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        found = type(pair).__name__
        raise ValueError(
            "batches must be a list of (inputs, targets) pairs of tensors, as lib.scoring_batches "
            f"makes them; the entry {index} is of type {found}"
            + (f", of {len(pair)}" if isinstance(pair, tuple | list) else "")
        )
    inputs, targets = (_tensor(pair[i], i, index) for i in (0, 1))
    if not inputs.is_floating_point():
        raise ValueError(
            f"batches: the inputs of batch {index} are {inputs.dtype}; the metrics need floating "
            "point: scale images as torchvision's ToTensor does"
        )
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets):
        n, m = (len(x) if x.ndim else 1 for x in (inputs, targets))
        raise ValueError(f"batches: batch {index} has {n} inputs and {m} targets")
    if targets.is_complex() or (targets.is_floating_point() and targets.ndim < 2):
        raise ValueError(
            f"batches: the targets of batch {index} are {targets.dtype}; they must be whole "
            "numbers, the classes, or probabilities of shape (n, C)"
        )
    classes = targets if targets.is_floating_point() else targets.long()
    return inputs.to(like.device, like.dtype), classes.to(like.device)


def _tensor(value: Any, part: int, index: int) -> Tensor:
    """Part of a batch as an ordinary tensor: from arrays of any layout, from lists of numbers."""
    try:
        if not isinstance(value, Tensor):
            value = np.array(value)  # a copy: arrays may be read-only, or run backwards
            value = torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
        value = value.detach()
        if value.is_meta and type(value) is Tensor:  # a subclass may hold them elsewhere
            raise ValueError("a tensor without values, on meta")
        return value.to_dense() if value.layout != torch.strided else value
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"batches: the {('inputs', 'targets')[part]} of batch {index} must be a tensor, an "
            f"array or a list of numbers; got {error}"
        ) from None


class ScoreBank:
    """A private copy of a network, its scoring batches, and the dense network's scores on them.

    The dense scores depend on the batch alone. They are computed when first asked for and kept, so
    that T iterations cost `len(batches)` double backward passes.

    Attributes:
        model: The copy.
        weights: Its prunable weights, {parameter name: parameter}, in index order.
        batches: [(inputs, targets), ...], on the device of the model.
        total: N, the number of prunable weights.
        classes: C, the number of logits.

    Raises:
        ValueError: An argument is not what it should be; the message names it.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        score: str,
        temperature: float,
        leave_out: Collection[str] | None = (),
    ):
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        if isinstance(leave_out, str):
            raise ValueError(f"leave_out must be a list of names, got the text {leave_out!r}")
        if not isinstance(batches, Iterable):
            raise ValueError(
                f"batches must be a list of (inputs, targets) pairs, got {type(batches).__name__}"
            )
        found = prunable(model, leave_out or ())
        why = "has a weight without values, on meta; give it some: model.to_empty(device='cpu')"
        empty = [n for n, w in found.items() if w.is_meta and type(w) is nn.Parameter]
        refuse({name.removesuffix(".weight"): why for name in empty})
        self.model = copy_of(model)
        if any(weight.dtype in _HALF for weight in found.values()):
            self.model.float()  # half precision rounds gradients of logits / 200 to 0
        self.weights = {name: self.model.get_parameter(name) for name in found}
        like = next(iter(self.weights.values()))
        self.batches = [_checked(pair, index, like) for index, pair in enumerate(batches)]
        sizes = [len(y) for _, y in self.batches]
        if not sizes or not all(sizes):
            raise ValueError(
                "batches must hold at least one (inputs, targets) pair, and samples in each; "
                f"got pairs of {sizes} samples"
            )
        self._look(model)
        self.total = sum(w.numel() for w in self.weights.values())
        self.temperature = temperature
        self._prepare = SCORES[score]
        self._scores: dict[int, dict[str, Tensor]] = {}
        self._observed: dict[int, tuple[float, float]] = {}

    def _look(self, original: nn.Module) -> None:
        """Find out which of the weights can be pruned, and what the targets are, by a look at it.

        Raises:
            ValueError: A layer computes its weight, nothing is left to prune, or the targets do not
                fit the logits.
        """
        inputs, _ = self.batches[0]
        logits, stray, computed = self._run(0, original)
        why = "computes another weight from its own, of which a mask would mean something else"
        refuse({name: why for name in computed})
        if stray:
            warnings.warn(
                f"model: the weights of {', '.join(stray)} are read without a call of the layer, "
                "where PyTorch applies no mask; they stay whole and are not counted",
                stacklevel=2,
            )
        for name in stray:
            del self.weights[f"{name}.weight".lstrip(".")]
        if not self.weights:
            raise ValueError("model has nothing to prune: it calls none of its layers")
        seen = {inputs[:2].shape: logits}
        for index, (x, targets) in enumerate(self.batches):
            shape = x[:2].shape
            if shape not in seen:  # the logits may have another shape, or there may be none
                seen[shape], *_ = self._run(index)
            expected = seen[shape]
            if expected.ndim > 1 and len(expected) == shape[0]:
                expected = expected.new_empty(len(x), *expected.shape[1:])
            self.batches[index] = x, metrics.fit_targets(targets, expected)
        self.classes = logits.shape[1]
        if lost := cut_off(self.model, self.weights, inputs[:2]):
            for name in lost:
                del self.weights[f"{name}.weight".lstrip(".")]
            if not self.weights:
                raise ValueError(
                    "model has nothing to prune: no gradient comes from its output to a layer; "
                    "look for torch.no_grad() or detach() in its forward"
                )
            warnings.warn(
                f"model: no gradient comes from the output to the weights of {', '.join(lost)}, "
                "which cannot be scored; they stay whole and are not counted",
                stacklevel=2,
            )

    def _run(
        self, index: int, original: nn.Module | None = None
    ) -> tuple[Tensor, list[str], list[str]]:
        """`usage` on a batch; a ValueError that names the batch if the network fails on it."""
        inputs = self.batches[index][0][:2]
        try:
            return usage(self.model, self.weights, inputs, original)
        except (RuntimeError, ValueError) as error:
            if str(error).startswith("model"):
                raise
            raise ValueError(
                f"model fails on batch {index} of batches, inputs of shape "
                f"{tuple(self.batches[index][0].shape)}: {error}"
            ) from error

    def synflow(self, mask: Tensor) -> Tensor:
        """SynFlow's prepared scores (N,) of the masked network."""
        scores = metrics.synflow(self.model, mask, self.batches[0], weights=self.weights)
        return self._prepare(scores)

    def dense(self, index: int) -> dict[str, Tensor]:
        """SNIP's and GraSP's prepared scores (N,) of the dense network on one batch, by name."""
        if index not in self._scores:
            # Allocate what is kept first: the memory that the double backward frees then lies in
            # one piece and serves the next batch.
            a_few = torch.cat([w.detach().flatten()[:1] for w in self.weights.values()])
            kept = self._prepare(a_few).new_empty(2, self.total)
            both = metrics.snip_and_grasp(
                self.model, None, self.batches[index], self.temperature, weights=self.weights
            )
            for row, scores in zip(kept, both, strict=True):
                row.copy_(self._prepare(scores))
            self._scores[index] = dict(zip(METRICS[1:], kept, strict=True))
        return self._scores[index]

    def masked(self, name: str, index: int, mask: Tensor) -> Tensor:
        """One data-driven metric's prepared scores (N,) of the masked network on one batch."""
        metric = {"snip": metrics.snip, "grasp": metrics.grasp}[name]
        batch = self.batches[index]
        return self._prepare(
            metric(self.model, mask, batch, self.temperature, weights=self.weights)
        )

    def observe(self, index: int, mask: Tensor | None) -> tuple[float, float]:
        """(L, ΔL) on one batch, at temperature 1: logits / 200 leave only rounding noise in L."""
        if mask is None and index in self._observed:
            return self._observed[index]
        loss, gradients = metrics.loss_and_gradient(
            self.model, mask, self.batches[index], 1.0, weights=self.weights
        )
        found = loss.item(), metrics.grad_norm_sq(gradients, mask).item()
        if mask is None:
            self._observed[index] = found
        return found
