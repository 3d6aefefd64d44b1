"""The saliency metrics: what the loss, the gradient flow and the path norm say of each weight.

Pure functions of (model, mask, batch). A mask is a flat vector (N,) in index order, or None for the
dense network; scores are flat vectors (N,) too. The model is evaluated through
`torch.func.functional_call` on masked copies of its weights, so that nothing of it ever changes.

In all three metrics the multiplying θ is the unmasked weight: a removed weight keeps a score, and
so can return.
"""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from .models import flatten, prunable, unflatten
from .modes import logits_of, memory_format, mode_of

Batch = tuple[Tensor, Tensor]
METRICS = ("synflow", "snip", "grasp")  # the order of p, everywhere


def _masked(weights: Mapping[str, Tensor], mask: Tensor | None) -> dict[str, Tensor]:
    """Leaf tensors θ ⊙ m: gradients reach the removed weights too."""
    if mask is None:
        return {name: w.detach().requires_grad_() for name, w in weights.items()}
    masks = unflatten(mask, weights)
    return {name: (w.detach() * masks[name]).requires_grad_() for name, w in weights.items()}


def _check_targets(targets: Tensor, logits: Tensor) -> None:
    """Raise a ValueError where a class has no logit; a GPU would only say that it was halted."""
    if logits.ndim < 2:
        raise ValueError(f"model returns {tuple(logits.shape)}; give it one logit a class, (n, C)")
    if targets.is_floating_point():  # probabilities
        return
    classes, ignored = logits.shape[1], -100  # PyTorch's mark of a target that does not count
    wrong = targets[(targets >= classes) | ((targets < 0) & (targets != ignored))]
    if len(wrong):
        raise ValueError(
            f"batches: a target is {wrong[0].item()}, and the model has the classes "
            f"0 to {classes - 1}; number the classes from 0, or give the model more outputs"
        )


@torch.enable_grad()  # a caller may sit inside torch.no_grad()
def loss_at(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batch: Batch,
    temperature: float,
    others: Mapping[str, Tensor] | None = None,
    create_graph: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The scoring loss L at given weights, and its gradient in them.

    L is the cross-entropy of logits / `temperature`, in train mode with dropout off. Running
    statistics are updated on copies that are thrown away.

    Args:
        model: The network; nothing of it changes.
        weights: {parameter name: leaf tensor}, put in place of the model's own.
        batch: (inputs, targets).
        temperature: What the logits are divided by.
        others: Further tensors to put in place of the model's own.
        create_graph: Whether the gradient is to be differentiated again.

    Raises:
        ValueError: L is not finite, the model returns something else than logits, or a target is
            none of its classes.
    """
    inputs, targets = batch
    layout = memory_format(model, weights, twice=create_graph)
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state |= others or {}
    for name, weight in weights.items():
        state[name] = weight.to(memory_format=layout) if weight.ndim == 4 else weight
    images = inputs.to(memory_format=layout) if inputs.ndim == 4 else inputs
    # Attention has a second derivative in its plain form alone.
    plain = sdpa_kernel(SDPBackend.MATH) if create_graph else nullcontext()
    with mode_of(model, training=True), plain:
        logits = logits_of(model, state, images)
        _check_targets(targets, logits)
        loss = functional.cross_entropy(logits / temperature, targets)
    if not torch.isfinite(loss):
        name, what = "model", "weights"
        if not torch.isfinite(inputs).all():
            name, what = "batch", "images"
        raise ValueError(
            f"{name}: the scoring loss is {loss.item()}; "
            f"remove NaN, infinite or huge values from the {what}"
        )
    gradients = torch.autograd.grad(
        loss, list(weights.values()), create_graph=create_graph, materialize_grads=True
    )
    return loss.detach(), dict(zip(weights, gradients, strict=True))


def loss_and_gradient(
    model: nn.Module, mask: Tensor | None, batch: Batch, temperature: float = 200.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """The scoring loss L of the (masked) network, and ∂L/∂θ of every prunable weight.

    See `loss_at`. The gradients come by parameter name, in the shapes of the weights.
    """
    return loss_at(model, _masked(prunable(model), mask), batch, temperature)


def grad_norm_sq(gradients: Mapping[str, Tensor], mask: Tensor | None = None) -> Tensor:
    """ΔL = ‖∂L/∂θ‖², over the kept weights only where a mask (N,) is given. A scalar tensor."""
    flat = flatten(gradients)
    return flat.square().sum() if mask is None else (flat * mask.to(flat.dtype)).square().sum()


def snip(model: nn.Module, mask: Tensor | None, batch: Batch, temperature: float = 200.0) -> Tensor:
    """SNIP, s = θ ⊙ ∂L/∂θ: the first-order change of the loss when a weight is removed.

    Lee, Ajanthan & Torr (2019), here with its sign: the absolute value comes with the
    normalisation. With a mask the gradient is that of the masked network, as FORCE has it
    (de Jorge et al. 2021).

    Returns:
        Signed scores, (N,).
    """
    _, gradients = loss_and_gradient(model, mask, batch, temperature)
    return flatten(prunable(model)).detach() * flatten(gradients)


@torch.enable_grad()
def snip_and_grasp(
    model: nn.Module, mask: Tensor | None, batch: Batch, temperature: float = 200.0
) -> tuple[Tensor, Tensor]:
    """Both data-driven metrics from one forward pass and one double backward; (N,) each."""
    weights = _masked(prunable(model), mask)
    _, gradients = loss_at(model, weights, batch, temperature, create_graph=True)
    flow = torch.autograd.grad(
        grad_norm_sq(gradients, mask), list(weights.values()), materialize_grads=True
    )
    theta = flatten(prunable(model)).detach()
    return theta * flatten(gradients).detach(), theta * flatten(flow)


def grasp(
    model: nn.Module, mask: Tensor | None, batch: Batch, temperature: float = 200.0
) -> Tensor:
    """GraSP, s = θ ⊙ ∂ΔL/∂θ = 2 θ ⊙ Hg: what the gradient flow owes to a weight.

    Wang, Zhang & Grosse (2020) score the *removal* of a weight, -θ ⊙ Hg, and remove the largest.
    The sign here is the opposite one: removing a weight changes the flow ΔL by -s to first order,
    so a large positive s marks a weight whose loss harms the flow most, and the largest s are kept.

    Returns:
        Signed scores, (N,).
    """
    return snip_and_grasp(model, mask, batch, temperature)[1]


# Between these sums of a layer's scores float32 will do: above the lower one no score is lost that
# is less than eighteen orders of magnitude below its layer's, and below the upper one, with room to
# spare, nothing overflows.
_SAFE = (1e-20, 1e30)


def absolute_state(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every parameter and buffer of the model as its absolute value, in floating point `dtype`."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: tensor.detach().abs().to(dtype) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in state.items()
    }


def synflow(model: nn.Module, mask: Tensor | None, batch: Batch) -> Tensor:
    """SynFlow, s = θ ⊙ ∂R/∂|θ| with R = Σ f(1; |θ| ⊙ m): the path norm that runs through a weight.

    Tanaka et al. (2020), equation 2, on the masked network: an all-ones input, eval mode, every
    parameter and buffer replaced by its absolute value. In float32 where that is safe, else in
    float64 (R is 1e43 on a fresh ResNet-32), for to rescale the layers is not exact where there
    are biases.

    Args:
        model: The network.
        mask: (N,) or None.
        batch: Its inputs say only what shape an input has.

    Returns:
        Signed scores, (N,), float32 or float64.

    Raises:
        ValueError: R is not finite in float64 either.
    """
    double = any(weight.dtype == torch.float64 for weight in prunable(model).values())
    if not double:
        _, scores = _path_norm(model, mask, batch, torch.float32)
        if all(_SAFE[0] < torch.linalg.vector_norm(layer, 1) < _SAFE[1] for layer in scores):
            return flatten(scores)
    total, scores = _path_norm(model, mask, batch, torch.float64)
    if not torch.isfinite(total):
        raise ValueError(
            f"model: SynFlow's path norm R is {total.item()} in float64; "
            "the weights hold NaN or infinity, or the network is too deep for its scale"
        )
    return flatten(scores)


@torch.enable_grad()
def _path_norm(
    model: nn.Module, mask: Tensor | None, batch: Batch, dtype: torch.dtype
) -> tuple[Tensor, list[Tensor]]:
    """R, a scalar, and SynFlow's signed scores, layer by layer, in one precision."""
    state, weights = absolute_state(model, dtype), prunable(model)
    leaves = _masked({name: state[name] for name in weights}, mask)
    ones = torch.ones_like(batch[0][:1], dtype=dtype)
    with mode_of(model, training=False):
        total = logits_of(model, {**state, **leaves}, ones).sum()
    gradients = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
    theta = (weight.detach() for weight in weights.values())
    return total.detach(), [g.mul_(w) for g, w in zip(gradients, theta, strict=True)]
