"""What a network costs: multiply-adds, counted in one forward pass."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .inspection import LAYERS, mode_of

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def flops(model: nn.Module, example_input: Tensor) -> dict[str, int]:
    """The multiply-adds that each convolution and linear layer does for one input.

    A multiply-add counts as one, as is usual where networks are compared; twice as many are
    floating-point operations in the strict sense. Biases, normalisations, activations and products
    of activations, as in attention, are not counted. Masks do not lower the count, smaller layers
    do: call it on what `compact` returns.

    Args:
        model: The network; it is not changed.
        example_input: A batch of inputs, of which the first two are used.

    Returns:
        {parameter name of the weight: multiply-adds}, in index order; 0 for a layer that is not
        called. Each weight is used equally often, so a layer's number is a multiple of its size.
    """
    layers = {
        f"{name}.weight".lstrip("."): module
        for name, module in model.named_modules()
        if isinstance(module, LAYERS)
    }
    positions = dict.fromkeys(layers, 0)

    def watch(name: str) -> Callable:
        def count(layer: nn.Module, args: tuple, kwargs: Mapping[str, Any], output: Tensor) -> None:
            if isinstance(layer, _TRANSPOSED):  # each input value meets each weight of its channel
                seen, channels = args[0] if args else kwargs["input"], layer.in_channels
            else:
                seen, channels = output, layer.weight.shape[0]
            positions[name] += seen.numel() // channels

        return count

    example = example_input[:2]  # batch normalisation without running statistics needs two
    with ExitStack() as hooks, mode_of(model, training=False):
        for name, layer in layers.items():
            hook = layer.register_forward_hook(watch(name), with_kwargs=True)
            hooks.callback(hook.remove)
        model(example.clone().to(next(model.parameters()).device))
    count = len(example)
    # Rounded up: what is computed once for a whole batch is needed for one input, too.
    return {n: -(-positions[n] // count) * layer.weight.numel() for n, layer in layers.items()}


def kept_flops(dense: Mapping[str, int], masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Of the multiply-adds of a dense network, those with weights that masks keep, by layer."""
    return {
        name: total * int(masks[name].count_nonzero()) // masks[name].numel()
        if name in masks
        else total
        for name, total in dense.items()
    }
