"""Which of the kept weights do anything: those on a path of kept weights from input to output.

PyTorch runs the network itself, under a `TorchFunctionMode` that carries "is there a path" instead
of numbers. Autograd does the search: forwards from the input, backwards from the output.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .inspection import flatten, logits_of, mode_of, prunable, unflatten


class _Or(torch.autograd.Function):
    """x > 0 as 0/1, forwards and backwards: a sum of paths becomes "there is a path"."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        reached = x > 0
        ctx.save_for_backward(reached)
        return reached.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (reached,) = ctx.saved_tensors
        return ((gradient > 0) & reached).to(gradient.dtype)


class _Reachability(TorchFunctionMode):
    """Runs a network on "is there a path" instead of on numbers.

    Products of 0/1 weights are "and", sums are "or". Normalisations, activations and constants,
    which only rescale or bend, pass their input through. A maximum over a window becomes an
    average, whose gradient goes to all of the window instead of the argmax alone.
    """

    PASS = frozenset(
        "relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ selu selu_ celu prelu rrelu gelu silu "
        "mish sigmoid sigmoid_ tanh tanh_ hardtanh hardtanh_ hardswish hardsigmoid softplus "
        "softsign softmax log_softmax logsigmoid threshold threshold_ clamp clamp_ neg "
        "batch_norm instance_norm group_norm layer_norm rms_norm local_response_norm "
        "normalize".split()
    )
    COLLECT = frozenset(
        "conv1d conv2d conv3d linear conv_transpose1d conv_transpose2d conv_transpose3d "
        "matmul bmm mm sum mean avg_pool1d avg_pool2d avg_pool3d "
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d".split()
    )
    ADD = frozenset("add add_ sub sub_ __rsub__ rsub".split())
    SCALE = frozenset("mul mul_ div div_".split())

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in self.PASS:
            return args[0] if args else kwargs["input"]
        if name in ("max_pool2d", "_max_pool2d", "max_pool2d_with_indices"):
            return _Or.apply(_window_average(*args, **kwargs))
        if name in ("adaptive_max_pool2d", "adaptive_max_pool2d_with_indices"):
            return _Or.apply(functional.adaptive_avg_pool2d(*args[:2]))
        if name in ("amax", "amin") or (name in ("max", "min") and len(args) + len(kwargs) > 1):
            return _maximum(func, *args, **kwargs)
        if name == "scaled_dot_product_attention":  # a query and a key decide what is read
            query, key, value = args[:3]
            decide = query.sum(-1, keepdim=True) + key.sum((-2, -1), keepdim=True)
            return _Or.apply(value.sum(-2, keepdim=True) + decide)
        if name in self.ADD | self.SCALE:
            tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
            paths = [x for x in tensors if x.requires_grad]
            if len(paths) == 1:  # a constant, even a learned one, neither opens nor closes a path
                return paths[0].expand(torch.broadcast_shapes(*(x.shape for x in tensors)))
            if paths and name in self.ADD:  # a difference of two paths is still both of them
                return _Or.apply(torch.add(*paths))
        out = func(*args, **kwargs)
        return _Or.apply(out) if name in self.COLLECT else out


def _maximum(func: Callable, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A maximum over axes, or of two tensors, whose gradient reaches all that it compares."""
    found = func(x, *args, **kwargs)
    if args and isinstance(args[0], Tensor):
        return _Or.apply(x + args[0])
    axes = args[0] if args else kwargs.get("dim")
    keep = args[1] if len(args) > 1 else kwargs.get("keepdim", False)
    values = _Or.apply(x.sum(axes, keepdim=keep))
    return values if isinstance(found, Tensor) else type(found)((values, found.indices))


def _window_average(
    x: Tensor,
    kernel_size: int | tuple[int, int],
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """An average over the windows of `max_pool2d`; as a convolution where they are dilated."""
    pair = torch.nn.modules.utils._pair
    kernel = pair(kernel_size)
    stride, padding, dilation = pair(stride or kernel_size), pair(padding), pair(dilation)
    if dilation == (1, 1):
        return functional.avg_pool2d(x, kernel, stride, padding, ceil_mode)
    pooled = functional.max_pool2d(x.detach(), kernel, stride, padding, dilation, ceil_mode)
    height, width = pooled.shape[-2:]
    if ceil_mode:  # room for a last, partial window, which is there unless it starts in the padding
        x = functional.pad(x, (0, stride[1] - 1, 0, stride[0] - 1))
    weight = x.new_ones((x.shape[-3], 1, *kernel))
    out = functional.conv2d(x, weight, None, stride, padding, dilation, groups=x.shape[-3])
    return out[..., :height, :width]


@torch.enable_grad()  # a caller may sit inside torch.no_grad()
def effective_mask(
    model: nn.Module,
    mask: Tensor,
    example_input: Tensor,
    *,
    weights: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The kept weights that lie on a path of kept weights from input to output.

    Reachability, not arithmetic: kept weights are 1, biases 0. (The usual shortcut, a SynFlow
    gradient other than 0, underflows, follows only the argmax of a max-pooling and takes biases for
    inputs.)

    Args:
        model: The network; it is not changed.
        mask: (N,) bool.
        example_input: A batch of inputs, of which only the shape of one matters.
        weights: The prunable weights, if the caller has found them.

    Returns:
        (N,) bool, a subset of `mask`.

    Raises:
        ValueError: `mask` has another length, or the model does not return one tensor.
    """
    weights = weights or prunable(model)
    state = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in weights:
            continue
        if tensor.is_floating_point():  # biases open no path, unpruned weights always do
            tensor = torch.full_like(tensor, tensor.ndim > 1, dtype=torch.float32)
        state[name] = tensor.detach()
    leaves = {
        name: part.float().requires_grad_() for name, part in unflatten(mask, weights).items()
    }
    # It requires a gradient: that is what tells paths from constants.
    ones = torch.ones_like(
        example_input[:1], dtype=torch.float32, device=mask.device, requires_grad=True
    )
    with mode_of(model, training=False), _Reachability():
        reached = logits_of(model, {**state, **leaves}, ones)
    gradients = torch.autograd.grad(
        _Or.apply(reached).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return mask & flatten([gradient > 0 for gradient in gradients])
