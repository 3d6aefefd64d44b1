"""How a network is evaluated without changing it: its mode, dropout, layout and weights."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Batch = tuple[Tensor, Tensor]  # (inputs, targets)

# Activations whose second derivative PyTorch lacks, written out.
_WRITTEN_OUT: dict[str, Callable[[Tensor], Tensor]] = {
    "hardsigmoid": lambda x: functional.relu6(x + 3) / 6,
    "hardswish": lambda x: x * functional.relu6(x + 3) / 6,
}
# Functions with a dropout inside, and the position of its rate among their arguments.
_RATE = {"scaled_dot_product_attention": 4, "multi_head_attention_forward": 10}


class _Scored(TorchFunctionMode):
    """Dropout passes its input through, whether it is a module or a call in a `forward`.

    Activations that PyTorch cannot differentiate twice are written out.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if "dropout" in name:
            return args[0] if args else kwargs["input"]
        if name in _WRITTEN_OUT and torch.is_grad_enabled():
            return _WRITTEN_OUT[name](args[0] if args else kwargs["input"])
        if place := _RATE.get(name):
            args = tuple(0.0 if i == place else value for i, value in enumerate(args))
            kwargs = {k: 0.0 if k == "dropout_p" else value for k, value in kwargs.items()}
        return func(*args, **kwargs)


@contextmanager
def mode_of(model: nn.Module, training: bool) -> Iterator[None]:
    """Train or eval mode, without dropout and stochastic depth; modes are restored afterwards."""
    before = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
        for module, _ in before:  # DropPath and StochasticDepth make no call with "dropout"
            name = type(module).__name__.lower()
            if ("drop" in name or "stochastic" in name) and not list(module.children()):
                module.training = False
        with _Scored():
            yield
    finally:
        for module, mode in before:
            module.training = mode


def logits_of(model: nn.Module, state: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The output of the network with the tensors of `state` in place of its own.

    Raises:
        ValueError: The output is not a tensor.
    """
    logits = functional_call(model, dict(state), (inputs,))
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"model returns {type(logits).__name__} in {'train' if model.training else 'eval'} "
            "mode; give it a forward that returns the logits alone"
        )
    return logits


def memory_format(model: nn.Module, twice: bool = False) -> torch.memory_format:
    """Channels last where that is safe: convolutions run faster in it on CPUs and on GPUs.

    In that layout oneDNN writes past a buffer when it differentiates a strided 1x1 convolution of
    fewer channels than a vector register holds (github.com/uxlfoundation/oneDNN/issues/6035):
    the program crashes, or the gradient is wrong.

    Args:
        model: The network.
        twice: Whether it is differentiated twice; batch normalisation is then slow in that layout.
    """
    for module in model.modules():
        if twice and isinstance(module, nn.BatchNorm2d):
            return torch.contiguous_format
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) != module.stride:
            if module.weight.shape[1] < 16:
                return torch.contiguous_format
    return torch.channels_last


# The layers whose weights are pruned; the convolutions may be grouped.
LAYERS = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


def prunable(model: nn.Module, leave_out: Iterable[str] = ()) -> dict[str, nn.Parameter]:
    """The weights of every convolution and linear layer, by parameter name, in index order.

    Index order is the order of `named_modules`, each weight in C order; it is the order of every
    flat vector of scores and of every flat mask in this library. The output projection of an
    `nn.MultiheadAttention` does not count: attention reads its weight without calling the layer,
    so a mask of `torch.nn.utils.prune` would never be applied.

    Args:
        model: The network.
        leave_out: Names of layers that are not to be pruned, or of modules that hold such layers.

    Raises:
        ValueError: There is nothing to prune; a layer is pruned already, shares its weight,
            computes it or has none yet; or `leave_out` names a module that does not exist.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    leave_out = tuple(leave_out)
    modules = dict(model.named_modules())
    if unknown := set(leave_out) - (set(modules) - {""}):
        raise ValueError(f"leave_out: the model has no module {sorted(unknown)[0]!r}")
    owners: dict[int, list[str]] = {}
    for name, module in modules.items():
        for attribute, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(f"{name}.{attribute}".lstrip("."))
    read = {id(m.out_proj) for m in modules.values() if isinstance(m, nn.MultiheadAttention)}
    weights: dict[str, nn.Parameter] = {}
    for name, module in modules.items():
        if not isinstance(module, LAYERS) or id(module) in read:
            continue
        if any(f"{name}.".startswith(f"{outer}.") for outer in leave_out):
            continue
        if why := _unfit(module, owners):
            raise ValueError(f"model: layer {name!r} {why}")
        weights[f"{name}.weight".lstrip(".")] = module.weight
    if not weights:
        raise ValueError("model has nothing to prune: it needs a Conv2d or a Linear layer")
    return weights


def _unfit(layer: nn.Module, owners: Mapping[int, list[str]]) -> str | None:
    """Why the weight of a layer cannot be pruned, or None."""
    if hasattr(layer, "weight_mask"):
        return "is pruned already; call torch.nn.utils.prune.remove on it, or pass a fresh model"
    weight = layer._parameters.get("weight")
    if weight is None:
        return "computes its weight; remove the parametrization, or leave the layer out"
    if isinstance(weight, nn.UninitializedParameter):
        return "has no weight yet; run the model on a batch first"
    names = owners[id(weight)]
    if len(names) > 1:
        return f"shares its weight: {' is '.join(names)}; give each its own, or leave them out"
    return None


def flatten(tensors: Mapping[str, Tensor] | Iterable[Tensor]) -> Tensor:
    """Tensors, in the order given, as one vector of shape (N,)."""
    values = tensors.values() if isinstance(tensors, Mapping) else tensors
    return torch.cat([tensor.reshape(-1) for tensor in values])


def unflatten(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Views of a vector (N,), in the names and shapes of `like`."""
    sizes = [tensor.numel() for tensor in like.values()]
    if flat.shape != (sum(sizes),):
        raise ValueError(f"flat must have shape ({sum(sizes)},), got {tuple(flat.shape)}")
    parts = flat.split(sizes)
    return {name: part.view(like[name].shape) for name, part in zip(like, parts, strict=True)}
