"""What is known of one network: its scores on each batch, its losses, and their range.

The `ScoreBank` is what makes Panning cheap: the metrics of the dense network are computed once for
each scoring batch, and not once for each iteration.
"""

import copy
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import metrics
from .channels import Channels, pick
from .fusion import SCORES
from .metrics import METRICS, Batch
from .models import prunable, unflatten

HALF = {torch.float16, torch.bfloat16}


class Observation(NamedTuple):
    """Loss and squared gradient norm, at temperature 1, of the dense and of the sparse network."""

    loss: float
    grad_norm_sq: float
    loss_sparse: float
    grad_norm_sq_sparse: float


@dataclass(frozen=True)
class Extremes:
    """The frozen range of 𝒩(·), min-max scaling, for L and L_s and for ΔL and ΔL_s."""

    loss: tuple[float, float]
    grad_norm_sq: tuple[float, float]

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


def _checked(pair: object, index: int, device: torch.device) -> Batch:
    """One scoring batch on the device, in float32 or more, or a ValueError that names it."""
    if not isinstance(pair, tuple | list) or [isinstance(x, Tensor) for x in pair] != [True, True]:
        raise ValueError(
            "batches must be a list of (inputs, targets) pairs of tensors, as lib.scoring_batches "
            f"makes them; the entry {index} is of type {type(pair).__name__}"
        )
    inputs, targets = pair
    if not inputs.is_floating_point():
        raise ValueError(
            f"batches: the inputs of batch {index} are {inputs.dtype}; the metrics need floating "
            "point: scale images as torchvision's ToTensor does"
        )
    if len(inputs) != len(targets):
        raise ValueError(
            f"batches: batch {index} has {len(inputs)} inputs and {len(targets)} targets"
        )
    if targets.is_floating_point() and targets.ndim < 2:
        raise ValueError(
            f"batches: the targets of batch {index} are {targets.dtype}; they must be whole "
            "numbers, the classes, or probabilities of shape (n, C)"
        )
    dtype = torch.float32 if inputs.dtype in HALF else inputs.dtype
    classes = targets if targets.is_floating_point() else targets.long()
    return inputs.to(device, dtype), classes.to(device)


class ScoreBank:
    """A private copy of the network, its scoring batches, and what they say of the dense network.

    The dense scores depend on the batch alone: each batch's are computed when first asked for and
    kept, so that T iterations cost `len(batches)` double backward passes.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        score: str,
        temperature: float,
        leave_out: Collection[str] = (),
    ):
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        if isinstance(leave_out, str):
            raise ValueError(f"leave_out must be a list of names, got the text {leave_out!r}")
        if not isinstance(batches, Iterable):
            raise ValueError(
                f"batches must be a list of (inputs, targets) pairs, got {type(batches).__name__}"
            )
        # Says what is wrong with a model that cannot be copied: a pruned one.
        half = {w.dtype for w in prunable(model, leave_out).values()} & HALF
        self.model = copy.deepcopy(model)
        self.model.left_out = tuple(leave_out)
        if half:  # gradients of a loss over 200 are below what these types tell from 0
            self.model.float()
        self.weights = prunable(self.model)
        device = next(iter(self.weights.values())).device
        self.batches = [_checked(pair, index, device) for index, pair in enumerate(batches)]
        sizes = [len(y) for _, y in self.batches]
        if not sizes or not all(sizes):
            raise ValueError(
                "batches must hold at least one (inputs, targets) pair, and samples in each; "
                f"got pairs of {sizes} samples"
            )
        self.total = sum(w.numel() for w in self.weights.values())
        self.temperature = temperature
        self._prepare = SCORES[score]
        self._scores: dict[int, dict[str, Tensor]] = {}
        self._observed: dict[int, tuple[float, float]] = {}
        self._channels: Channels | None = None
        # Whether dead channels of these tensors may be left out, as far as it has been tried.
        self._separable: dict[frozenset[str], bool] = {frozenset(): True}

    def synflow(self, mask: Tensor) -> Tensor:
        """SynFlow's prepared scores (N,) of the masked network."""
        return self._prepare(metrics.synflow(self.model, mask, self.batches[0]))

    def dense(self, index: int) -> dict[str, Tensor]:
        """SNIP's and GraSP's prepared scores (N,) of the dense network on one batch."""
        if index not in self._scores:
            # Room for what stays comes first, so that what the double backward takes and gives
            # back lies in one piece, and serves the next batch.
            a_few = torch.cat([w.detach().flatten()[:1] for w in self.weights.values()])
            kept = self._prepare(a_few).new_empty(2, self.total)
            both = metrics.snip_and_grasp(self.model, None, self.batches[index], self.temperature)
            for row, scores in zip(kept, both, strict=True):
                row.copy_(self._prepare(scores))
            self._scores[index] = dict(zip(METRICS[1:], kept, strict=True))
        return self._scores[index]

    def masked(self, name: str, index: int, mask: Tensor) -> Tensor:
        """One data-driven metric's prepared scores (N,) of the masked network on one batch."""
        metric = {"snip": metrics.snip, "grasp": metrics.grasp}[name]
        return self._prepare(metric(self.model, mask, self.batches[index], self.temperature))

    def observe(self, index: int, mask: Tensor | None) -> tuple[float, float]:
        """(L, ΔL) at temperature 1 on one batch: logits / 200 leave nothing but rounding noise."""
        if mask is not None:
            return self._observe_sparse(self.batches[index], unflatten(mask, self.weights))
        if index not in self._observed:
            loss, gradients = metrics.loss_and_gradient(self.model, None, self.batches[index], 1.0)
            self._observed[index] = loss.item(), metrics.grad_norm_sq(gradients).item()
        return self._observed[index]

    def _observe_sparse(self, batch: Batch, masks: Mapping[str, Tensor]) -> tuple[float, float]:
        """`observe` without the channels that nobody reads: they have no part in L or ΔL."""
        if self._channels is None:
            self._channels = Channels(self.model, batch[0][:2])
        kept = self._channels.kept(masks, strict=False)
        layers = frozenset(kept)
        out = self._without_dead(batch, masks, kept if self._separable.get(layers, True) else {})
        if layers not in self._separable:  # a forward may depend on the number of channels
            whole = self._without_dead(batch, masks, {})
            self._separable[layers] = math.isclose(out[0], whole[0], rel_tol=1e-3)
            return out if self._separable[layers] else whole
        return out

    def _without_dead(
        self, batch: Batch, masks: Mapping[str, Tensor], kept: Mapping[str, tuple[Tensor, ...]]
    ) -> tuple[float, float]:
        state = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        cut = {name: pick(state[name].detach(), axes) for name, axes in kept.items()}
        masks = {name: pick(mask, kept.get(name, ())) for name, mask in masks.items()}
        weights = {
            name: (cut.pop(name, weight.detach()) * masks[name]).requires_grad_()
            for name, weight in self.weights.items()
        }
        loss, gradients = metrics.loss_at(self.model, weights, batch, 1.0, cut)
        flow = sum((g * masks[name]).square().sum() for name, g in gradients.items())
        return loss.item(), flow.item()
