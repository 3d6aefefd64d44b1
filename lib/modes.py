"""How a network is looked at without being disturbed: its mode, its dropout, its memory layout."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Activations whose second derivative PyTorch lacks, written out.
_WRITTEN_OUT: dict[str, Callable[[Tensor], Tensor]] = {
    "hardsigmoid": lambda x: functional.relu6(x + 3) / 6,
    "hardswish": lambda x: x * functional.relu6(x + 3) / 6,
}
# Functions with a dropout inside, and where among their arguments its rate stands.
_RATE = {"scaled_dot_product_attention": 4, "multi_head_attention_forward": 10}


class _Scored(TorchFunctionMode):
    """Dropout passes its input through, be it a module's or a call in somebody's `forward`.

    And what is to be differentiated twice, can be.
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
    """Train or eval mode with dropout off, of paths too; every module gets its own mode back."""
    before = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
        for module, _ in before:  # DropPath and StochasticDepth are made of other calls
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


def memory_format(
    model: nn.Module, weights: Mapping[str, Tensor], twice: bool = False
) -> torch.memory_format:
    """Channels last, in which convolutions run faster on processors and on GPUs, where it is safe.

    In that layout oneDNN writes past a buffer when it differentiates a strided 1x1 convolution of
    fewer channels than a vector register holds (github.com/uxlfoundation/oneDNN/issues/6035):
    the program crashes, or the gradient is wrong.

    Args:
        model: The network.
        weights: {parameter name: tensor}, which may be smaller than the model's own.
        twice: Whether it is differentiated twice, in which a batch normalisation is slow there.
    """
    for name, module in model.named_modules():
        if twice and isinstance(module, nn.BatchNorm2d):
            return torch.contiguous_format
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) != module.stride:
            if weights.get(f"{name}.weight", module.weight).shape[1] < 16:
                return torch.contiguous_format
    return torch.channels_last
