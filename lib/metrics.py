"""The saliency metrics: what the loss, the gradient flow and the path norm say about each weight.

Pure functions of the same arguments:
    model: Evaluated through `torch.func.functional_call` on masked copies of its weights, so it
        never changes.
    mask: (N,) bool in index order, or None for the dense network.
    batch: (inputs, targets). SynFlow looks only at the shape of the inputs.
    temperature: What the logits are divided by in the scoring loss.
    weights: The prunable weights by name, if the caller has them; else `prunable` finds them.

Scores are flat vectors (N,). In all three metrics the multiplying θ is the unmasked weight, so a
removed weight keeps a score and can return.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from .networks.inspection import (
    Batch,
    flatten,
    logits_of,
    memory_format,
    mode_of,
    plainly,
    prunable,
    rows_last,
    unflatten,
)

METRICS = ("synflow", "snip", "grasp")  # the order of p, everywhere
Weights = Mapping[str, Tensor]


def _masked(weights: Weights, mask: Tensor | None) -> dict[str, Tensor]:
    """Leaf tensors θ ⊙ m: gradients reach the removed weights too."""
    if mask is None:
        return {name: w.detach().requires_grad_() for name, w in weights.items()}
    masks = unflatten(mask, weights)
    return {name: (w.detach() * masks[name]).requires_grad_() for name, w in weights.items()}


def fit_targets(targets: Tensor, logits: Tensor) -> Tensor:
    """The targets as cross-entropy takes them: classes, or probabilities of the logits' shape.

    Whole numbers of the shape of the logits are probabilities, too: one 1 a sample.

    Args:
        targets: (n, ...) classes, or (n, C, ...) probabilities.
        logits: (n, C, ...), of which the shape and the precision matter.

    Raises:
        ValueError: They do not fit each other. A GPU's own error would name neither, and PyTorch
            takes any numbers for probabilities.
    """
    shape, found = tuple(logits.shape), tuple(targets.shape)
    if not logits.is_floating_point():
        raise ValueError(f"model returns {logits.dtype}; give it logits, in floating point")
    if logits.ndim < 2:
        raise ValueError(f"model returns {shape}; give it one logit a class, (n, C)")
    classes, ignored = shape[1], -100  # PyTorch's mark for targets to ignore
    if classes < 2:
        raise ValueError(
            f"model returns {shape}: the cross-entropy of a single logit is 0, whatever it is; "
            "give it one logit a class, two where the answer is yes or no"
        )
    if targets.is_floating_point() or found == shape:
        targets = targets.to(logits.dtype)
        if found != shape:
            raise ValueError(
                f"batches: targets of {targets.dtype} are probabilities, and must have the shape "
                f"of the logits, {shape}, not {found}; classes are whole numbers of shape "
                f"{shape[:1] + shape[2:]}"
            )
        sums = targets.sum(1)
        if not ((sums - 1).abs() < 0.01).all() or not (targets >= 0).all():
            raise ValueError(
                "batches: the targets have the shape of the logits and are no probabilities, "
                f"which are at least 0 and sum to 1; they go down to {targets.min().item():.4g} "
                f"and sum to {sums.min().item():.4g} to {sums.max().item():.4g}"
            )
        return targets
    if found != shape[:1] + shape[2:]:
        raise ValueError(
            f"batches: targets of shape {found} do not fit logits of shape {shape}; give classes "
            f"of shape {shape[:1] + shape[2:]}, or probabilities of the shape of the logits"
        )
    wrong = targets[(targets >= classes) | ((targets < 0) & (targets != ignored))]
    if len(wrong):
        raise ValueError(
            f"batches: a target is {wrong[0].item()}, and the model has the classes "
            f"0 to {classes - 1}; number the classes from 0, or give the model more outputs"
        )
    if (targets == ignored).all():
        raise ValueError(
            f"batches: every target is {ignored}, which cross-entropy ignores; give some a class"
        )
    return targets


@torch.enable_grad()  # a caller may sit inside torch.no_grad()
def _loss_at(
    model: nn.Module,
    leaves: dict[str, Tensor],
    batch: Batch,
    temperature: float,
    create_graph: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`loss_and_gradient` at leaf tensors that stand in for the prunable weights."""
    inputs, targets = batch
    layout = memory_format(model, twice=create_graph)
    # Only the plain form of attention has a second derivative.
    plain = sdpa_kernel(SDPBackend.MATH) if create_graph else nullcontext()
    with mode_of(model, training=True), plain:
        try:
            logits = _logits_in(layout, model, leaves, inputs)
        except RuntimeError:  # a `view` after a convolution, say
            if layout is torch.contiguous_format:
                raise
            logits = _logits_in(torch.contiguous_format, model, leaves, inputs)
            rows_last(model)
        loss = functional.cross_entropy(logits / temperature, fit_targets(targets, logits))
    if not torch.isfinite(loss):
        name, what = "model", "weights"
        if not torch.isfinite(inputs).all():
            name, what = "batch", "images"
        raise ValueError(
            f"{name}: the scoring loss is {loss.item()}; "
            f"remove NaN, infinite or huge values from the {what}"
        )
    _check_differentiable(loss)
    gradients = torch.autograd.grad(
        loss, list(leaves.values()), create_graph=create_graph, materialize_grads=True
    )
    return loss.detach(), dict(zip(leaves, gradients, strict=True))


def _check_differentiable(value: Tensor) -> None:
    """Raise a ValueError if no gradient comes from there to any weight."""
    if not value.requires_grad:
        raise ValueError(
            "model: its output has no gradient; a forward under torch.no_grad(), or with detach() "
            "behind all layers, cannot be scored, and nothing can under torch.inference_mode()"
        )


def _logits_in(
    layout: torch.memory_format, model: nn.Module, leaves: dict[str, Tensor], inputs: Tensor
) -> Tensor:
    """The logits of the network, its images and convolutions in one layout in memory."""
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for name, leaf in leaves.items():
        state[name] = leaf.to(memory_format=layout) if leaf.ndim == 4 else leaf
    images = inputs.to(memory_format=layout) if inputs.ndim == 4 else inputs
    return logits_of(model, state, images)


@plainly()
def loss_and_gradient(
    model: nn.Module,
    mask: Tensor | None,
    batch: Batch,
    temperature: float = 200.0,
    *,
    weights: Weights | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The scoring loss L of the (masked) network, and its gradient ∂L/∂θ.

    L is the mean cross-entropy, in nats, of logits / `temperature`, in train mode with dropout off.
    Running statistics are updated on copies that are thrown away.

    Returns:
        L, a scalar, and {parameter name: gradient in the weight's shape}, removed weights included.

    Raises:
        ValueError: L is not finite, the model does not return logits, or the targets do not fit
            them, see `fit_targets`.
    """
    leaves = _masked(weights or prunable(model), mask)
    return _loss_at(model, leaves, batch, temperature)


def grad_norm_sq(gradients: Mapping[str, Tensor], mask: Tensor | None = None) -> Tensor:
    """ΔL = ‖∂L/∂θ‖², a scalar tensor; with a mask (N,), over the kept weights only."""
    flat = flatten(gradients)
    return flat.square().sum() if mask is None else (flat * mask.to(flat.dtype)).square().sum()


def snip(
    model: nn.Module,
    mask: Tensor | None,
    batch: Batch,
    temperature: float = 200.0,
    *,
    weights: Weights | None = None,
) -> Tensor:
    """SNIP, s = θ ⊙ ∂L/∂θ: to first order, what L loses when a weight is removed.

    Lee, Ajanthan & Torr (2019), but signed: the normalisation takes the absolute value. With a mask
    the gradient is that of the masked network, as in FORCE (de Jorge et al. 2021).

    Returns:
        Signed scores in nats, (N,).

    Raises:
        ValueError: As `loss_and_gradient`.
    """
    weights = weights or prunable(model)
    _, gradients = loss_and_gradient(model, mask, batch, temperature, weights=weights)
    return flatten(weights).detach() * flatten(gradients)


@plainly()
@torch.enable_grad()
def snip_and_grasp(
    model: nn.Module,
    mask: Tensor | None,
    batch: Batch,
    temperature: float = 200.0,
    *,
    weights: Weights | None = None,
) -> tuple[Tensor, Tensor]:
    """`snip` and `grasp` from one forward pass and one double backward pass; (N,) each."""
    weights = weights or prunable(model)
    leaves = _masked(weights, mask)
    _, gradients = _loss_at(model, leaves, batch, temperature, create_graph=True)
    flow = torch.autograd.grad(
        grad_norm_sq(gradients, mask), list(leaves.values()), materialize_grads=True
    )
    theta = flatten(weights).detach()
    return theta * flatten(gradients).detach(), theta * flatten(flow)


def grasp(
    model: nn.Module,
    mask: Tensor | None,
    batch: Batch,
    temperature: float = 200.0,
    *,
    weights: Weights | None = None,
) -> Tensor:
    """GraSP, s = θ ⊙ ∂ΔL/∂θ = 2 θ ⊙ Hg: what a weight contributes to the gradient flow ΔL.

    Wang, Zhang & Grosse (2020) score the *removal* of a weight, -θ ⊙ Hg, and remove the largest.
    The sign here is the opposite: to first order, removing a weight changes ΔL by -s. So a large
    positive s marks a weight whose loss harms the flow most, and the largest s are kept.

    With a mask, ΔL is that of the kept weights only.

    Returns:
        Signed scores in the unit of ΔL, (N,).

    Raises:
        ValueError: As `loss_and_gradient`.
    """
    return snip_and_grasp(model, mask, batch, temperature, weights=weights)[1]


# Float32 is enough if the sum of each layer's scores lies between these. Above the lower bound only
# scores eighteen orders of magnitude below the sum of their layer are lost; below the upper one
# nothing overflows, with room to spare.
_SAFE = (1e-20, 1e30)


# A buffer that far below 0 holds no number to reckon with: it marks what an attention leaves out.
_LEFT_OUT = -1e4


def absolute_state(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every parameter and buffer of the model as its absolute value, in floating point `dtype`.

    A mask of attention stays what it is: with +inf in place of -inf nothing would come out.
    """
    buffers = dict(model.named_buffers())
    state = {
        name: tensor.detach().abs().to(dtype) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in {**dict(model.named_parameters()), **buffers}.items()
    }
    for name, buffer in buffers.items():
        if buffer.is_floating_point() and buffer.numel() and buffer.min() <= _LEFT_OUT:
            state[name] = torch.where(buffer > _LEFT_OUT, buffer.abs(), buffer).to(dtype)
    return state


@plainly()
def synflow(
    model: nn.Module, mask: Tensor | None, batch: Batch, *, weights: Weights | None = None
) -> Tensor:
    """SynFlow, s = θ ⊙ ∂R/∂|θ| with R = Σ f(1; |θ| ⊙ m): the path norm that runs through a weight.

    Tanaka et al. (2020), equation 2, on the masked network: an all-ones input, eval mode, every
    parameter and buffer replaced by its absolute value. Batch normalisation without running
    statistics is at rest (mean 0, variance 1), since one sample has no variance. In float32 where
    that is safe, otherwise in float64: R is 1e43 on a fresh ResNet-32, and rescaling the layers is
    not exact with biases.

    Returns:
        Signed scores in the unit of the logits, (N,), float32 or float64.

    Raises:
        ValueError: R or a score is not finite in float64 either, or the model does not return one
            tensor.
    """
    weights = weights or prunable(model)
    if not any(weight.dtype == torch.float64 for weight in weights.values()):
        _, scores = _path_norm(model, weights, mask, batch, torch.float32)
        if all(_SAFE[0] < torch.linalg.vector_norm(layer, 1) < _SAFE[1] for layer in scores):
            return flatten(scores)
    total, scores = _path_norm(model, weights, mask, batch, torch.float64)
    if not all(torch.isfinite(x.sum()) for x in (total, *scores)):
        raise ValueError(
            f"model: SynFlow's path norm R, {total.item()}, or its gradient is not finite in "
            "float64; the weights hold NaN or infinity, or the network is too deep for its scale"
        )
    return flatten(scores)


class _Precision(TorchFunctionMode):
    """All that a `forward` makes or asks for is in one precision, as its weights are."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def __enter__(self) -> "_Precision":
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        torch.set_default_dtype(self.before)

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.dtype == torch.float64:
            if getattr(func, "__name__", "") in ("float", "half", "bfloat16"):
                return args[0].double()
            args, kwargs = tree_map(_doubled, (args, kwargs))
        return func(*args, **kwargs)


def _doubled(value: Any) -> Any:
    """In float64 what is in float32, be it a tensor or the name of the precision."""
    if isinstance(value, Tensor) and value.dtype == torch.float32:
        return value.double()
    return torch.float64 if value is torch.float32 else value


@contextmanager
def _norms_at_rest(model: nn.Module, like: Tensor) -> Iterator[None]:
    """Mean 0 and variance 1 for each batch normalisation without running statistics."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is None]
    for norm in norms:
        size = (norm.num_features,)
        norm.running_mean, norm.running_var = like.new_zeros(size), like.new_ones(size)
    try:
        yield
    finally:
        for norm in norms:
            norm.running_mean = norm.running_var = None


@torch.enable_grad()
def _path_norm(
    model: nn.Module, weights: Weights, mask: Tensor | None, batch: Batch, dtype: torch.dtype
) -> tuple[Tensor, list[Tensor]]:
    """R, a scalar, and SynFlow's signed scores, layer by layer, in one precision."""
    state = absolute_state(model, dtype)
    leaves = _masked({name: state[name] for name in weights}, mask)
    ones = torch.ones_like(batch[0][:1], dtype=dtype)
    with mode_of(model, training=False), _norms_at_rest(model, ones), _Precision(dtype):
        total = logits_of(model, {**state, **leaves}, ones).sum()
    _check_differentiable(total)
    gradients = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
    theta = (weight.detach() for weight in weights.values())
    return total.detach(), [g.mul_(w) for g, w in zip(gradients, theta, strict=True)]
