"""Physically removes the channels and hidden units that a mask has killed.

A masked weight still costs its multiplication; a removed channel costs nothing. A channel is
removed when nothing *reads* it: no kept weight leads from it to the output, directly or through
others that are read. That is exact, and stays so in further training: such a channel has no
gradient, and no other depends on it. A channel that is read stays even if all weights into it are
removed, since its bias, or the β of its batch normalisation, is a constant that is read.

`channels` finds the channels and what could read them.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils._pytree import tree_leaves

from .channels import Channels, pick
from .inspection import call, copy_of, mode_of

# The attributes that state the size of a layer, and the axis of its weight they refer to.
_SIZES = dict(out_channels=0, out_features=0, num_features=0, in_channels=1, in_features=1)


class Compacted(NamedTuple):
    """A smaller network, and where in the larger one its weights come from.

    Attributes:
        model: The smaller network; its weights are not multiplied by the masks.
        masks: {parameter name: bool tensor}, cut as the weights are.
        kept: {name of a parameter or buffer that was cut: indices kept of axis 0 (and of 1)}.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    kept: dict[str, tuple[Tensor, ...]]

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Write the weights and buffers into a network of the larger shape, in place.

        What was removed is not touched: the function does not depend on it.
        """
        target = _tensors(model)
        for name, value in _tensors(self.model).items():
            target[name][_grid(self.kept.get(name, ()))] = value


def compact(model: nn.Module, example_input: Tensor) -> nn.Module:
    """The same function in smaller layers: without the channels that nothing reads.

    Outputs and gradients are those of `model` up to rounding, in eval and in train mode, and remain
    so through any number of training steps. The exception is dropout in train mode: it draws fewer
    random numbers, and so others.

    A layer whose channels are all dead keeps one, whose weights stay masked. Grouped convolutions
    lose whole groups; unknown operations keep all the channels that they touch. So does
    `x.view(-1, 800)`, which relies on their number; write `x.flatten(1)`. Where the forward fails
    because it uses the shape of a tensor, that tensor keeps all its channels, too.

    Args:
        model: A network pruned through `torch.nn.utils.prune`, as by `apply_masks` with a result's
            effective masks. It is not changed.
        example_input: A batch of inputs, of which the first two are used.

    Returns:
        A new network, its layers pruned, through `prune.custom_from_mask`, with what remains of
        their masks.

    Raises:
        ValueError: A normalisation over several channels looks at a dead one; or the network's
            forward computes with the number of channels, or fails without the dead ones; or
            `example_input` is no tensor.
    """
    if not isinstance(example_input, Tensor):
        raise ValueError(
            "example_input must be a batch of inputs, one tensor; "
            f"got {type(example_input).__name__}"
        )
    plain = copy_of(model)
    masks: dict[str, Tensor] = {}
    buffers = dict(plain.named_buffers())
    for full_name, weight in list(plain.named_parameters()):
        name = full_name.removesuffix("_orig")
        if name != full_name and f"{name}_mask" in buffers:
            masks[name] = buffers[f"{name}_mask"].bool()
            values = weight.detach().clone()
            prune.remove(*_layer_of(plain, name))
            weight.data = values  # `remove` has set the removed weights to 0
    small = _cut(plain, masks, example_input)
    for name, mask in small.masks.items():
        prune.custom_from_mask(*_layer_of(plain, name), mask)
    return small.model


def compacted(model: nn.Module, masks: Mapping[str, Tensor], example_input: Tensor) -> Compacted:
    """`compact`, for a network that is not pruned yet and separate masks.

    Args:
        model: The network; it is not changed.
        masks: {parameter name: bool tensor}; a weight without a mask is kept.
        example_input: As for `compact`.
    """
    return _cut(copy_of(model), masks, example_input)


def _cut(model: nn.Module, masks: Mapping[str, Tensor], example_input: Tensor) -> Compacted:
    """`compacted`, in place."""
    example = example_input[:2]  # batch normalisation without running statistics needs two
    example = example.to(next(model.parameters()).device)
    if len(example) == 1:
        example = torch.cat([example, example])
    before = _masked_outputs(model, masks, example)
    # What a `forward` may rely on can only be tried.
    for shapes, cautious in product((False, True), repeat=2):
        try:
            return _without(model, masks, example, before, cautious, shapes)
        except ValueError as error:
            failure = error
        if cautious and not isinstance(failure, _Fails):
            break  # it runs, so that no shape is wrong
    raise failure


class _Fails(ValueError):
    """The network does not run without its dead channels."""


def _without(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    example: Tensor,
    before: list[Tensor],
    cautious: bool,
    shapes: bool = False,
) -> Compacted:
    """Remove the dead channels of a network, which must then return what it did before.

    If it does not, it gets them back, and a ValueError is raised.
    """
    kept, tensors = Channels(model, example, cautious, shapes).kept(masks), _tensors(model)
    whole = [(tensors[name], tensors[name].data) for name in kept]
    layers = {_layer_of(model, name)[0] for name in kept}
    sizes = [(layer, {n: v for n, v in vars(layer).items() if type(v) is int}) for layer in layers]
    for name, axes in kept.items():
        layer, attribute = _layer_of(model, name)
        if attribute == "weight" and getattr(layer, "groups", 1) > 1:  # its columns are a group's
            layer.groups = layer.groups * len(axes[0]) // len(tensors[name])
            layer.in_channels = layer.groups * len(axes[1])
        tensors[name].data = pick(tensors[name].data, axes)
        for size, axis in _SIZES.items():
            ours = getattr(layer, "groups", 1) == 1 or axis == 0
            if hasattr(layer, size) and axis < len(axes) and ours:
                setattr(layer, size, len(axes[axis]))
    cut = {name: pick(mask, kept.get(name, ())) for name, mask in masks.items()}
    why = None
    try:
        after = _masked_outputs(model, cut, example)
    except Exception as error:
        after, why = [], error
    if len(before) == len(after) and all(map(_equal, before, after)):
        return Compacted(model, cut, kept)
    for tensor, data in whole:
        tensor.data = data
    for layer, numbers in sizes:
        vars(layer).update(numbers)
    if why is not None:
        raise _Fails(
            "model cannot be compacted: without its dead channels its forward fails, with "
            f"{type(why).__name__}: {why}; look for a number of channels that it relies on"
        ) from why
    raise ValueError(
        "model cannot be compacted: without its dead channels it computes something else; look "
        "for a forward that depends on the number of channels, or on chance"
    )


def _equal(old: Tensor, new: Tensor) -> bool:
    """Whether two outputs are the same up to rounding, of what is finite in them."""
    finite = old[old.isfinite()].abs()
    slack = finite.max().item() * torch.finfo(old.dtype).eps ** 0.5 if len(finite) else 0.0
    return old.shape == new.shape and torch.allclose(old, new, 0, slack, equal_nan=True)


def _layer_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The layer that has a parameter, and what it is called there."""
    owner, _, attribute = name.rpartition(".")
    return model.get_submodule(owner), attribute


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _grid(indices: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """An index that picks from axes 0 and 1 independently; everything if there are no indices."""
    return (indices[0][:, None], indices[1]) if len(indices) == 2 else (*indices, ...)


def _masked_outputs(model: nn.Module, masks: Mapping[str, Tensor], x: Tensor) -> list[Tensor]:
    """The floating-point tensors that the masked network returns in eval mode."""
    weights = {name: model.get_parameter(name).detach() * mask for name, mask in masks.items()}
    with torch.no_grad(), mode_of(model, training=False):
        out = tree_leaves(call(model, weights, x))
    return [t for t in out if isinstance(t, Tensor) and t.is_floating_point()]
