"""How a network runs undisturbed: its mode, chance, layout and weights; which can be pruned."""

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

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
            x = args[0] if args else kwargs["input"]
            return (x, torch.ones_like(x, dtype=torch.bool)) if name == "native_dropout" else x
        if name in _WRITTEN_OUT and torch.is_grad_enabled():
            return _WRITTEN_OUT[name](args[0] if args else kwargs["input"])
        if place := _RATE.get(name):
            args = tuple(0.0 if i == place else value for i, value in enumerate(args))
            kwargs = {k: 0.0 if k == "dropout_p" else value for k, value in kwargs.items()}
        return func(*args, **kwargs)


class _Uncheckpointed:
    """In place of `torch.utils.checkpoint.CheckpointFunction`: calls the function, and keeps all.

    A checkpointed function runs again during the backward pass, when the tensors of
    `functional_call` have gone: on the network's own weights, in another mode.
    """

    @staticmethod
    def apply(function: Callable, preserve: bool, *args: Any) -> Any:
        return function(*args)

    @staticmethod
    def generator(*args: Any, **kwargs: Any) -> Iterator[None]:
        """What stands before and after a function whose checkpoint is not reentrant."""
        yield


# `checkpoint` looks these up when it is called, however a model has imported it.
_CHECKPOINT = {
    "CheckpointFunction": _Uncheckpointed,
    "_checkpoint_without_reentrant_generator_impl": _Uncheckpointed.generator,
}
_SPARE = np.random.MT19937()  # takes the place of the caller's, which may be of another kind


@contextmanager
def own_chance(model: nn.Module | None = None, seed: int = 0) -> Iterator[None]:
    """The same random numbers each time, none of them from the generators of the caller."""
    cuda = sorted({p.device.index for p in model.parameters() if p.is_cuda}) if model else []
    python, numpy = random.getstate(), np.random.get_bit_generator()
    drawn = np.random.get_state(legacy=False)  # with the other one of two normal numbers, if kept
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        random.seed(seed)
        np.random.set_bit_generator(_SPARE)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_bit_generator(numpy)
            np.random.set_state(drawn)
            random.setstate(python)


@contextmanager
def plainly() -> Iterator[None]:
    """In the network's own precision, and where there are gradients.

    Autocast around a call would round the scores, and keep copies of weights that change. Nothing
    can be scored in inference mode.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _interpreted(model: nn.Module) -> AbstractContextManager:
    """A compiled network runs as it is written: compiled code does not look at the modes above."""
    if any("_orig_mod" in m._modules or m._compiled_call_impl for m in model.modules()):
        return torch.compiler.set_stance("force_eager")  # it slows down all Python code
    return nullcontext()


@contextmanager
def mode_of(model: nn.Module, training: bool) -> Iterator[None]:
    """Train or eval mode, without dropout, stochastic depth and activation checkpointing.

    What is left to chance inside a module, such as noise, is drawn from generators of its own, at a
    fixed seed. Autocast and compilation are off. Afterwards everything is as it was.
    """
    before = [(module, module.training) for module in model.modules()]
    rates = [(module, module.dropout) for module, _ in before if isinstance(module, nn.RNNBase)]
    try:
        model.train(training)
        for module, _ in before:  # DropPath and StochasticDepth make no call with "dropout"
            name = type(module).__name__.lower()
            if ("drop" in name or "stochastic" in name) and not list(module.children()):
                module.training = False
        for module, _ in rates:
            module.dropout = 0.0
        checkpoints = patch.multiple(torch.utils.checkpoint, **_CHECKPOINT)
        with checkpoints, own_chance(model), plainly(), _interpreted(model), _Scored():
            yield
    finally:
        for module, mode in before:
            module.training = mode
        for module, rate in rates:
            module.dropout = rate


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that has computed tensors lying about in its layers.

    So do `torch.nn.utils.prune` and the old `weight_norm`, which compute them again when called.

    Raises:
        ValueError: It cannot be copied.
    """
    held = (t for module in model.modules() for t in tree_leaves(list(vars(module).values())))
    computed = [t for t in held if isinstance(t, Tensor) and not t.is_leaf]
    try:
        return copy.deepcopy(model, {id(t): t.detach().clone() for t in computed})
    except Exception as error:  # whatever somebody's object raises
        raise ValueError(
            f"model: copy.deepcopy fails on it: {error}; keep locks, open files and generators out "
            "of its modules, and run it on a batch first if it has layers without a size"
        ) from error


def call(model: nn.Module, state: Mapping[str, Tensor], *inputs: Tensor) -> Any:
    """What the network returns with the tensors of `state` in place of its own.

    `nn.DataParallel`, which `functional_call` refuses, is passed over: one device will do. The
    inputs are copies, since a `forward` may begin with an operation in place.
    """
    if isinstance(model, nn.DataParallel):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        return call(model.module, state, *inputs)
    own = tuple(x.clone() for x in inputs)  # a forward may write into its input
    return functional_call(model, _placed(model, state), own, tie_weights=False)


def _placed(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `state` by every place in the model that holds the one they stand for.

    A place is named once, also in a module that the model has under several names: after such a
    module `functional_call` does not clear up, and the network keeps the tensors of `state`.
    """
    homes: dict[int, str] = {}  # the first name of each module
    owners: dict[str, Tensor] = {}  # whose place a name is
    places: dict[int, set[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        home = homes.setdefault(id(module), path)
        for attribute, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                owners[f"{path}.{attribute}".lstrip(".")] = tensor
                places.setdefault(id(tensor), set()).add(f"{home}.{attribute}".lstrip("."))
    return {
        place: value
        for name, value in state.items()
        for place in (places[id(owners[name])] if name in owners else (name,))
    }


def logits_of(model: nn.Module, state: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The output of the network with the tensors of `state` in place of its own.

    Raises:
        ValueError: The output is not a tensor.
    """
    logits = call(model, state, inputs)
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"model returns {type(logits).__name__} in {'train' if model.training else 'eval'} "
            "mode; give it a forward that returns the logits alone"
        )
    return logits


_ROWS_LAST: WeakSet[nn.Module] = WeakSet()  # networks whose `forward` fails in channels last


def rows_last(model: nn.Module) -> None:
    """Note that a network cannot run in channels last: a `view` after a convolution, say."""
    _ROWS_LAST.add(model)


def working_format(model: nn.Module, example: Tensor) -> torch.memory_format:
    """`memory_format`, once it is tried whether the network runs in it."""
    layout = memory_format(model)
    in_layout = any(parameter.ndim == 4 for parameter in model.parameters())
    if layout is torch.channels_last and in_layout and example.ndim == 4:
        try:
            with torch.no_grad(), mode_of(model, training=False):
                model(example.clone(memory_format=layout))
        except RuntimeError:
            rows_last(model)
    return memory_format(model)


def memory_format(model: nn.Module, twice: bool = False) -> torch.memory_format:
    """Channels last where that is safe: convolutions run faster in it on CPUs and on GPUs.

    In that layout oneDNN writes past a buffer when it differentiates a strided 1x1 convolution of
    fewer channels than a vector register holds (github.com/uxlfoundation/oneDNN/issues/6035):
    the program crashes, or the gradient is wrong.

    Args:
        model: The network.
        twice: Whether it is differentiated twice; batch normalisation is then slow in that layout.
    """
    if model in _ROWS_LAST:
        return torch.contiguous_format
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
    if unknown := set(leave_out) - ({name for name, _ in model.named_modules()} - {""}):
        raise ValueError(f"leave_out: the model has no module {sorted(unknown)[0]!r}")
    found = {
        name: found
        for name, found in layers(model).items()
        if not any(f"{name}.".startswith(f"{outer}.") for outer in leave_out)
    }
    refuse({name: why for name, (_, why) in found.items() if why})
    if not found:
        why = "it needs a Conv2d or a Linear layer"
        if leave_out:
            why = f"leave_out={list(leave_out)} leaves out every layer that could be"
        raise ValueError(f"model has nothing to prune: {why}")
    return {f"{name}.weight".lstrip("."): layer.weight for name, (layer, _) in found.items()}


def refuse(reasons: Mapping[str, str]) -> None:
    """Raise a ValueError if there are layers, {name: why}, whose weights cannot be pruned."""
    for name, why in reasons.items():
        raise ValueError(
            f"model: layer {name!r} {why}; leave_out={list(reasons)} leaves out all that cannot be "
            "pruned"
        )


def layers(model: nn.Module) -> dict[str, tuple[nn.Module, str | None]]:
    """{name: (layer, why its weight cannot be pruned, or None)}, in index order."""
    modules = dict(model.named_modules())
    owners: dict[int, list[str]] = {}
    for name, module in modules.items():
        for attribute, parameter in module.named_parameters(recurse=False):
            owners.setdefault(_place(parameter), []).append(f"{name}.{attribute}".lstrip("."))
    read = {id(m.out_proj) for m in modules.values() if isinstance(m, nn.MultiheadAttention)}
    return {
        name: (module, _unfit(module, owners))
        for name, module in modules.items()
        if _is_layer(module) and id(module) not in read
    }


def _is_layer(module: nn.Module) -> bool:
    """Whether it is one of `LAYERS`, or was before it was scripted or traced."""
    if isinstance(module, torch.jit.ScriptModule):
        return module.original_name in {kind.__name__ for kind in LAYERS}
    return isinstance(module, LAYERS)


def _place(parameter: nn.Parameter) -> int:
    """Where its numbers lie: two parameters may share them."""
    if isinstance(parameter, nn.UninitializedParameter) or parameter.layout != torch.strided:
        return id(parameter)
    return parameter.data_ptr() or id(parameter)


def _unfit(layer: nn.Module, owners: Mapping[int, list[str]]) -> str | None:
    """Why the weight of a layer cannot be pruned, or None."""
    if isinstance(layer, torch.jit.ScriptModule):
        return "is scripted, and its weight out of reach; pass the model before torch.jit"
    if hasattr(layer, "weight_mask"):
        return "is pruned already; call torch.nn.utils.prune.remove on it, or pass a fresh model"
    weight = layer._parameters.get("weight")
    if weight is None:
        return "computes its weight; remove the parametrization, or leave the layer out"
    if isinstance(weight, nn.UninitializedParameter):
        return "has no weight yet; run the model on a batch first"
    if not weight.is_floating_point() or weight.layout != torch.strided:
        kind = f"{weight.dtype}, {weight.layout}"
        return f"has a weight of {kind}, which has no scores; make it real and dense"
    names = owners[_place(weight)]
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
