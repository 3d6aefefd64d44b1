"""Which layers of a network are put into their sparse form, and how they get there and back."""

import statistics
import time
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from .inspection import copy_of, mode_of, working_format
from .sparse import SparseConv2d, SparseLinear

# Above this density a dense product is faster everywhere; such layers are not timed.
DENSEST = 0.25


def _form(layer: nn.Module) -> type[SparseConv2d] | None:
    """The sparse form of a layer, if it has one."""
    if type(layer) is nn.Linear:
        return SparseLinear
    plain = type(layer) is nn.Conv2d and layer.groups == 1 and layer.dilation == (1, 1)
    if plain and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return SparseConv2d
    return None


def eligible(model: nn.Module, masks: Mapping[str, Tensor]) -> list[str]:
    """Names of the layers that have a sparse form and keep at most `DENSEST` of their weights."""
    names = (name.removesuffix(".weight") for name, mask in masks.items() if mask.any())
    return [
        name
        for name in names
        if masks[f"{name}.weight"].float().mean() <= DENSEST and _form(model.get_submodule(name))
    ]


def check(model: nn.Module, masks: Mapping[str, Tensor], names: Collection[str]) -> None:
    """Raise a ValueError if a name is not that of a layer with a mask and a sparse form."""
    if isinstance(names, str):
        raise ValueError(f"sparse must be 'fastest' or a list of layers, got {names!r}")
    for name in names:
        if f"{name}.weight" not in masks:
            known = ", ".join(eligible(model, masks)) or "none"
            raise ValueError(f"sparse: no mask belongs to a layer {name!r}; choose of: {known}")
        if _form(layer := model.get_submodule(name)) is None:
            raise ValueError(
                f"sparse: {name!r} is a {type(layer).__name__}, of which there is no sparse form "
                "(grouped, dilated, or of another kind); leave it out"
            )


def make_sparse(
    model: nn.Module, masks: Mapping[str, Tensor], names: Collection[str]
) -> Callable[[], None]:
    """Put layers into their sparse form, in place; returns what puts them back, as trained since.

    Args:
        model: The network.
        masks: {parameter name: bool tensor}.
        names: Of layers, of those that are `eligible`.
    """
    places = {}  # a module may stand in several
    for path, module in model.named_modules(remove_duplicate=False):
        places.setdefault(module, []).append(path)
    swapped = []
    for name in names:
        layer = model.get_submodule(name)
        small = _form(layer)(layer, masks[f"{name}.weight"])
        for path in places[layer]:
            owner, _, attribute = path.rpartition(".")
            setattr(model.get_submodule(owner), attribute, small)
        swapped.append((layer, small, places[layer]))

    def undo() -> None:
        for layer, small, paths in swapped:
            small.write(layer.weight.data)
            for path in paths:
                owner, _, attribute = path.rpartition(".")
                setattr(model.get_submodule(owner), attribute, layer)

    return undo


def fastest(
    model: nn.Module, masks: Mapping[str, Tensor], inputs: Tensor, targets: Tensor
) -> list[str]:
    """The layers that are faster in their sparse form, by measurement on this machine.

    Each layer is timed alone, at the inputs that it has in the network, and then the whole network
    with and without the sparse forms that won: that takes some ten training steps.

    Args:
        model: The network; it is not changed.
        masks: {parameter name: bool tensor}.
        inputs: A batch of the size that will be used.
        targets: Its classes.

    Returns:
        Names of layers, for `make_sparse`; none on a GPU, or where PyTorch's CPU library has no
        sparse products.
    """
    names = eligible(model, masks)
    if not names or inputs.device.type != "cpu":
        return []
    layout = working_format(model, inputs)
    model, inputs = copy_of(model).to(memory_format=layout), inputs.to(memory_format=layout)

    def step() -> None:
        functional.cross_entropy(model(inputs), targets).backward()

    with mode_of(model, training=True):
        try:
            chosen = [
                name
                for name, x in _inputs_of(model, names, inputs).items()
                if _wins(model.get_submodule(name), masks[f"{name}.weight"], x)
            ]
        except RuntimeError:  # PyTorch was built without them
            return []
        if chosen:
            dense = _median(step)
            make_sparse(model, masks, chosen)
            chosen = chosen if _median(step) < dense else []
    return chosen


def _inputs_of(model: nn.Module, names: Collection[str], inputs: Tensor) -> dict[str, Tensor]:
    """What layers read, by name, of those that are called."""
    found: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: found.update({name: args[0].detach()})
        )
        for name in names
    ]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return found


def _wins(layer: nn.Module, mask: Tensor, x: Tensor) -> bool:
    """Whether the sparse form is faster at this input."""
    small, y = _form(layer)(layer, mask), x
    if x.ndim == 4:  # as it comes from another sparse layer
        y = x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    return _seconds(small, y) < _seconds(layer, x)


def _seconds(layer: nn.Module, x: Tensor) -> float:
    """A forward and a backward pass of one layer."""
    x = x.clone().requires_grad_()
    with torch.no_grad():
        gradient = torch.ones_like(layer(x))
    return _median(lambda: layer(x).backward(gradient))


def _median(call: Callable[[], object], rounds: int = 3) -> float:
    """The median time of a call, in seconds, after one to warm up."""
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])
