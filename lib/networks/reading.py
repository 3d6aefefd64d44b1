"""Who reads the weights of a network and what comes back to them, seen while it runs.

A mask means what it should where a layer is called and uses its weight as it is, and a score needs
a gradient from the output.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .inspection import logits_of, mode_of


class _Watch(TorchFunctionMode):
    """Who reads the weights of the layers, and what for, while the network runs.

    Attributes:
        stray: Layers whose weight is read while they are not called.
        computed: Layers that are called, and make another weight of theirs before they use it.
        foreign: Which of `others` are read.
    """

    # What moves the values of a weight, or changes their precision, and leaves each what it is.
    ARRANGE = frozenset(
        "t transpose permute view reshape flatten unflatten squeeze unsqueeze contiguous to type "
        "float double half bfloat16 get".split()  # `get` is an attribute, such as `T`
    )
    USE = frozenset(
        "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d "
        "matmul rmatmul mm bmm addmm baddbmm einsum tensordot".split()
    )
    SCALE = frozenset("mul rmul div truediv neg".split())
    LIKE = frozenset("type_as view_as reshape_as expand_as to".split())  # the second argument

    def __init__(self, weights: Mapping[str, Tensor], others: Mapping[str, Tensor]):
        super().__init__()
        # The weights and what is made of them, each with its layer: kept, so that an id is one's.
        self.seen = {id(w): (w, name.rpartition(".")[0]) for name, w in weights.items()}
        self.running: list[str] = []
        self.others = {id(parameter): name for name, parameter in others.items()}
        self.stray: set[str] = set()
        self.computed: set[str] = set()
        self.foreign: set[str] = set()

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """While this lasts, calls of the layers are noted."""
        hooks = []
        for _, name in list(self.seen.values()):
            layer = model.get_submodule(name)
            enter, leave = partial(self._enter, name), partial(self._leave, name)
            hooks.append(layer.register_forward_pre_hook(enter, prepend=True))
            hooks.append(layer.register_forward_hook(leave, always_call=True))
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, name: str, *_: Any) -> None:
        self.running.append(name)

    def _leave(self, name: str, *_: Any) -> None:
        self.running.remove(name)

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        name = getattr(func, "__name__", "").strip("_")
        leaves = tree_leaves((args, kwargs))
        self.foreign |= {self.others[id(leaf)] for leaf in leaves if id(leaf) in self.others}
        read = {self.seen[id(leaf)][1] for leaf in leaves if id(leaf) in self.seen}
        if not read or not made or name.startswith("new_") or name.endswith("_like"):
            return out
        if name in self.LIKE and id(leaves[0]) not in self.seen:
            return out
        self.stray |= read.difference(self.running)
        inside = read.intersection(self.running)
        others = [x for x in leaves if isinstance(x, Tensor) and id(x) not in self.seen]
        scaled = name in self.SCALE and all(x.numel() == 1 for x in others)
        if name in self.ARRANGE or scaled:
            self.seen |= {id(x): (x, layer) for x in made for layer in read}
        elif name not in self.USE:
            self.computed |= inside
        return out


def usage(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    inputs: Tensor,
    original: nn.Module | None = None,
) -> tuple[Tensor, list[str], list[str]]:
    """How the network uses the weights of its layers, seen by running it in both modes.

    Args:
        model: The network; it is not changed.
        weights: Its prunable weights.
        inputs: A batch.
        original: The network that it is a copy of.

    Returns:
        The logits in train mode; the layers whose weights are read without a call of the layer, so
        that no mask of `torch.nn.utils.prune` is applied; and the layers that compute another
        weight from their own, so that a mask of that means something else.

    Raises:
        ValueError: The copy runs on parameters of the original.
    """
    watch = _Watch(weights, dict(original.named_parameters()) if original is not None else {})
    for training in (False, True):
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with torch.no_grad(), mode_of(model, training), watch.on(model):
            logits = logits_of(model, buffers, inputs)
    if watch.foreign:
        raise ValueError(
            f"model: a copy of it still reads {', '.join(sorted(watch.foreign))} of the original: "
            "a lambda or a function kept in a module holds on to another module; make it a method"
        )
    layers = [name.rpartition(".")[0] for name in weights]
    return (
        logits,
        [name for name in layers if name in watch.stray],
        [name for name in layers if name in watch.computed - watch.stray],
    )


@torch.enable_grad()  # a caller may sit inside torch.no_grad()
def cut_off(model: nn.Module, weights: Mapping[str, Tensor], inputs: Tensor) -> list[str]:
    """The layers that are called in train mode, and whose weights get no gradient from the logits.

    Something stands behind them that autograd cannot pass: `torch.no_grad()`, `detach`, a backward
    pass of one's own that runs the layer again; or their output is thrown away.

    Args:
        model: The network; it is not changed.
        weights: Its prunable weights.
        inputs: A batch.
    """
    called: list[str] = []
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with ExitStack() as stack:
        for name in weights:
            layer = model.get_submodule(name.rpartition(".")[0])
            hook = layer.register_forward_hook(lambda *_, name=name: called.append(name))
            stack.callback(hook.remove)
        with mode_of(model, training=True):
            logits = logits_of(model, {**buffers, **leaves}, inputs)
    if logits.requires_grad:
        gradients = torch.autograd.grad(logits.sum(), list(leaves.values()), allow_unused=True)
    else:
        gradients = [None] * len(leaves)
    lost = {name for name, g in zip(leaves, gradients, strict=True) if g is None}
    return [name.rpartition(".")[0] for name in weights if name in lost.intersection(called)]
