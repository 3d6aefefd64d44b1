"""Which of the kept weights do anything: those that carry the input to an output.

PyTorch runs the network itself, a few times, on numbers drawn at random. The layers are replaced,
since what they do is known: an output of a layer depends on the network's input if a kept weight
reads something that does. Such an output is drawn anew in each run, and any other keeps its value,
so that neither depth nor size hides a dependence. What happens between layers is computed as it
stands, but for batch normalisation, which is at rest, and for what picks one number of several,
which shows a mean of them, too. What changes from run to run depends on the input; the outputs
depend on whatever has a gradient.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .inspection import LAYERS, flatten, logits_of, mode_of, prunable, unflatten

# The functions that apply the weight of a layer.
_APPLY = frozenset(
    "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split()
)
# The functions that compare numbers, and show one of them.
_PICK = frozenset(
    "max min amax amin aminmax maximum minimum fmax fmin median nanmedian "
    "kthvalue mode topk sort msort cummax cummin".split()
)
# Functions of numbers from 0 on that rise with each of them, whatever the others are: where a
# network uses nothing else, one run shows all. It saves time, and nothing else hangs on it.
_RISING = frozenset(
    "add iadd radd sum mean relu batch_norm dropout dropout1d dropout2d dropout3d cat stack pad "
    "clone flatten view reshape permute transpose contiguous squeeze unsqueeze expand getitem "
    "chunk split unbind max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d".split()
)
# Those that return no tensor, and yet make a number of Python, by which a `forward` may choose its
# way, or write into a tensor.
_ASIDE = frozenset("item tolist numpy bool int float index contains setitem set".split())
# The sign and size of what stays, and of what is drawn anew in runs beside it; 0 is of either sign,
# and of many sizes. A unit that is cut off on one side, decides by its sign, or is open for small
# numbers or for large ones alone, is seen on all sides.
_ROUNDS = ((1, (1, -1)), (-1, (0,)), (30, (30, -30)), (1e-3, (1e-3,)))
_REPEATS = 8  # of all rounds at most, until two of them find nothing
# Smaller changes and gradients are rounding: the softmax of a single score has such a gradient.
_CHANGE = {torch.float64: 1e-10, torch.float32: 1e-5}
_GRADIENT = {torch.float64: 1e-11, torch.float32: 1e-6}


class _Layer(torch.autograd.Function):
    """A layer that outputs what `out` returns; `back` makes its gradient from its output's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, out: Callable, back: Callable) -> Tensor:
        ctx.back = back
        return out()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.back(gradient, ctx.needs_input_grad[0]), None, None, None


class _Call:
    """One call of a layer, and what the runs have shown of its input and its output.

    Attributes:
        name: The name of the weight.
        kept: The weight as 0/1.
        apply: (input, weight) -> output, without a bias.
        nonzero: Where the input is not 0 while the network's input stays.
        base: The input while the network's input stays; None if there was no such call then.
        still: The output then.
        varies: Where the input depends on the network's input.
        made: Where the output does.
        used: Where the network's output depends on the output.
        reach: A gradient where it depends on the input.
    """

    def __init__(self, name: str, kept: Tensor, apply: Callable, x: Tensor):
        self.name, self.kept, self.apply, self.nonzero = name, kept, apply, x != 0
        self.still, self.base = x, None
        self.varies = self.made = torch.zeros_like(x, dtype=torch.bool)
        self.graph: tuple[Tensor, Tensor] | None = None  # from `varies` to `made`
        self.used: Tensor | None = None
        self.reach: Tensor | None = None

    def effective(self, constant: Tensor | None) -> Tensor:
        """The kept weights that the call makes use of.

        Args:
            constant: Which inputs are constant in the dense network, too, and so count as if they
                depended on its input.
        """
        _, out = self.graph
        if constant is not None:
            alive = self.varies | (constant & self.nonzero)
            if not torch.equal(alive, self.varies):
                out = self.apply(alive.float(), self.kept)
        (counts,) = torch.autograd.grad(out, self.kept, self.used.float())
        return counts > 0.5


class _Search(TorchFunctionMode):
    """Runs a network again and again, and gathers what each call of a layer shows.

    Args:
        state: The tensors of the network.
        kept: {name: 0/1 tensor}, which weights of its layers are there.
        device: Of the network.
        dtype: Of what is drawn.

    Attributes:
        calls: The calls of layers, by their number, the layer and the shape of the input: where the
            values decide what is called with what, such as experts, no two runs are alike.
        alive: Whether any output depends on the input.
        pulled: {name: bool}, of weights that something else than a layer reads, too: whether the
            outputs depend on them there.
        news: Whether anything was found since this was last set to False.
        watch: Whether to note in `read` which layers' weights something else reads.
        rises: Whether all that happens between the layers is `_RISING`, as far as it was watched.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        kept: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ):
        super().__init__()
        self.state, self.kept, self.dtype = state, kept, dtype
        self.names = {id(state[name]): name for name in kept}
        self.generator = torch.Generator().manual_seed(0)  # the same numbers on every device
        self.anchor = torch.zeros((), dtype=dtype, device=device, requires_grad=True)
        self.calls: dict[tuple, _Call] = {}
        self.alive = self.news = self.watch = False
        self.rises = True
        self.pulled: dict[str, Tensor] = {}
        self.read: set[str] = set()
        # What was given, or made in sight, in this run: kept, so that an id is one's.
        self.known: dict[int, Tensor] = {}

    def begin(self, still: int, sign: int | None = None) -> None:
        """Prepare for a run: without `sign`, for one that the next ones are compared with."""
        self.still, self.resting, self.index = still, sign is None, 0
        self.sign = still if sign is None else sign
        self.known = {id(tensor): tensor for tensor in self.state.values()}

    def draw(self, shape: torch.Size) -> Tensor:
        """Numbers of a tenth of this run's to all of it; or of either sign, from 0.003 to 30."""
        u = _uniform(shape, self.generator, self.dtype).to(self.anchor.device)
        if self.sign:
            return u.mul_(0.9 * self.sign).add_(0.1 * self.sign)
        return (u - 0.5).sign() * 10 ** (8 * (u - 0.5).abs() - 2.5)

    def changed(self, x: Tensor, base: Tensor) -> Tensor:
        """Where x has become another number than base."""
        return (x - base).abs() > _CHANGE[self.dtype] * base.abs()

    def pull(self, out: Tensor, read: Mapping[str, Tensor]) -> None:
        """Note what the outputs depend on, by the gradient of a sum of them.

        Args:
            out: The outputs of the present run.
            read: {name: leaf} of the weights that something else than a layer reads, too.
        """
        if not out.requires_grad:
            return
        total = (torch.where(out.isfinite(), out, 0) * self.draw(out.shape).abs()).sum()
        leaves = [self.anchor, *read.values()]
        _, *gradients = torch.autograd.grad(total, leaves, allow_unused=True)
        for name, gradient in zip(read, gradients, strict=True):
            if gradient is not None:
                found = gradient.abs() > _GRADIENT[self.dtype]
                self.pulled[name] = found | self.pulled.get(name, found)

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        if name in _APPLY:
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
            if id(weight) in self.names:
                with torch._C.DisableTorchFunction():  # a quarter of the time goes by modes
                    out = self._layer(func, *args, **kwargs)
                    if self.watch:
                        self._note("layer", [args[0] if args else kwargs["input"]], out)
                return out
        if kwargs.get("inplace"):  # what else reads the tensor would find it changed
            kwargs = {**kwargs, "inplace": False}
        if func is functional.batch_norm:
            out = _at_rest(*args, **kwargs)
        else:
            out = func(*args, **kwargs)
            if name in _PICK or "max_pool" in name:
                out = _compared(name, out, *args, **kwargs)
        if self.watch:
            leaves = tree_leaves((args, kwargs))
            if any(isinstance(leaf, Tensor) for leaf in tree_leaves(out)):
                self.read |= {self.names[id(leaf)] for leaf in leaves if id(leaf) in self.names}
            self._note(name, leaves, out)
        return out

    def _note(self, name: str, leaves: list, out: Any) -> None:
        """Note whether a call was `_RISING`, with the leaves of its arguments."""
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if not made:
            self.rises &= name not in _ASIDE
            return
        if name == "batch_norm":  # at rest, its mean and variance do not matter
            leaves = leaves[:1] + leaves[3:]
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self.rises &= name == "layer" or name in _RISING
        if name.endswith("add"):  # of tensors alone: a number, or a factor, may be negative
            self.rises &= len(given) == len(leaves) == 2
        self.rises &= all(id(tensor) in self.known for tensor in given)  # made by what was seen
        self.known |= {id(tensor): tensor for tensor in made}
        if self.rises and self.sign > 0:
            tensors = (*given, *made)
            self.rises = not any(tensor.is_complex() for tensor in tensors) and all(
                bool((tensor >= 0).all()) for tensor in tensors
            )

    def _layer(
        self,
        func: Callable,
        input: Tensor,  # the names are PyTorch's
        weight: Tensor,
        bias: Tensor | None = None,
        *rest: Any,
        **options: Any,
    ) -> Tensor:
        if not input.numel():  # an expert whom nothing was sent
            return func(input, weight, bias, *rest, **options)
        x, name = input.detach(), self.names[id(weight)]
        if torch._C._functorch.is_batchedtensor(x):
            raise ValueError(
                f"model: {name!r} is applied inside torch.func.vmap, where its effective weights "
                "cannot be found; apply the layer to the whole batch, or loop over it"
            )
        key = self.index, name, x.shape
        self.index += 1
        if key not in self.calls:
            call = _Call(name, self.kept[name], lambda x, w: func(x, w, None, *rest, **options), x)
            call.still = self._stay(call, x, 1 - weight.ndim, bias is not None)
            self.calls[key] = call
        call = self.calls[key]
        out = self.still * call.still
        if self.resting:
            call.base = x.clone()  # it may be changed in place before it is compared
        else:
            self._vary(call, x, input.requires_grad)
            out = torch.where(call.made, self.draw(out.shape), out)
        out = out.to(x.dtype)
        return _Layer.apply(input, self.anchor, lambda: out, lambda *g: self._back(call, *g))

    def _stay(self, call: _Call, x: Tensor, axis: int, bias: bool) -> Tensor:
        """An output for an input that does not change: what the kept weights read, and a bias.

        Summed in whole numbers, so that equal sums are equal to the last digit: where all keys of
        an attention are the same, no query matters.
        """
        x = x.abs().nan_to_num(posinf=0.0)
        one = (1,) * (-axis - 1)
        weights = (8 * self.draw((x.shape[axis], *one))).ceil().abs()
        x = (x * (127 / x.max().clamp(min=1e-30))).ceil() * weights
        total = call.apply(x.float(), call.kept.detach()).round().to(self.dtype)
        units = total.shape[axis], *one
        share = total / total.max().clamp(min=1) * self.draw(units).abs()
        share = torch.where(total > 0, 0.1 + 0.9 * share, 0)
        return share + self.draw(units).abs() if bias else share

    def _vary(self, call: _Call, x: Tensor, needed: bool) -> None:
        """Note what of the input of a call depends on the network's input, and of its output."""
        changed = torch.ones_like(call.varies) if call.base is None else self.changed(x, call.base)
        varies = call.varies | changed
        if call.graph and torch.equal(varies, call.varies):
            return
        call.varies, self.news = varies, True
        leaf = varies.float().requires_grad_(needed)
        out = call.apply(leaf, call.kept)
        call.graph, call.made = (leaf, out), out.detach() > 0.5

    def _back(self, call: _Call, gradient: Tensor, needed: bool) -> Tensor | None:
        """The gradient of a call's input, drawn, from that of its output."""
        used = gradient.abs() > _GRADIENT[self.dtype]
        if call.used is not None:
            used |= call.used
        if call.used is None or not torch.equal(used, call.used):
            call.used, call.reach, self.news = used, None, True
        if not needed:
            return None
        if call.reach is None:
            leaf, out = call.graph
            (counts,) = torch.autograd.grad(out, leaf, used.float(), retain_graph=True)
            call.reach = self.draw(counts.shape).abs() * (counts > 0.5)
        return call.reach.to(gradient.dtype)


def _at_rest(
    input: Tensor,  # as PyTorch calls it
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *_: Any,
    **__: Any,
) -> Tensor:
    """Batch normalisation with mean 0 and variance 1: no sample depends on another."""
    shape = (1, -1) + (1,) * (input.ndim - 2)
    out = input if weight is None else input * weight.view(shape)
    return out if bias is None else out + bias.view(shape)


def _compared(name: str, out: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """What was picked from the input, and a mean of all that it was compared with.

    A mean of bounded numbers, since a mask of attention may hold -inf.
    """
    values = out if isinstance(out, Tensor) else out[0]
    if not values.is_floating_point():
        return out
    x = functional.softsign(input.clamp(-1e9, 1e9))
    other = args[0] if args else kwargs.get("other")
    if "max_pool" in name:
        mean = _window_mean(name, x, values.shape, *args, **kwargs)
    elif isinstance(other, Tensor):
        mean = x + functional.softsign(other.clamp(-1e9, 1e9))
    else:
        dim = kwargs.get("dim", kwargs.get("axis", 0 if name == "msort" else -1))
        if place := args[name in ("topk", "kthvalue") :]:
            dim = place[0]
        if name.startswith("cum"):
            mean = x.cumsum(dim)
        else:
            mean = x.mean() if values.ndim == 0 else x.mean(dim, keepdim=values.ndim == x.ndim)
    if isinstance(out, Tensor):
        return out + mean
    return type(out)([part + mean if part.is_floating_point() else part for part in out])


def _window_mean(
    name: str,
    x: Tensor,
    shape: torch.Size,
    kernel_size: Any = None,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    *_: Any,
    **__: Any,
) -> Tensor:
    """The means over the windows of a max-pooling whose output has this shape."""
    dimensions = next(int(letter) for letter in name if letter.isdigit())
    if "adaptive" in name or "fractional" in name:
        pool = getattr(functional, f"adaptive_avg_pool{dimensions}d")
        return pool(x, shape[-dimensions:])
    each = torch.nn.modules.utils._ntuple(dimensions)
    sizes = zip(*map(each, (kernel_size, stride or kernel_size, padding, dilation)), strict=True)
    for axis, (kernel, step, before, space) in enumerate(sizes, -dimensions):
        window = space * (kernel - 1) + 1
        length = (shape[axis] - 1) * step + window
        after = max(0, length - before - x.shape[axis])  # a last window, only begun
        x = functional.pad(x, (0, 0) * (-axis - 1) + (before, after)).narrow(axis, 0, length)
        x = x.unfold(axis, window, step)[..., ::space].mean(-1)
    return x


class Dependence:
    """What the outputs of a network depend on, for any mask.

    Args:
        model: The network; it is not changed.
        example_input: A batch: the shape of one input matters, and of whole numbers the largest.
        weights: The prunable weights, if the caller has found them.

    Raises:
        ValueError: The model does not return one tensor.
    """

    def __init__(
        self, model: nn.Module, example_input: Tensor, weights: Mapping[str, Tensor] | None = None
    ):
        self.model, self.weights = model, weights or prunable(model)
        self.device = next(iter(self.weights.values())).device
        self.example = example_input[:1].detach().to(self.device)
        if not (self.example.is_floating_point() or self.example.is_complex()):
            self.most = max(int(example_input.max()), 1)  # that an embedding is sure to know
        try:
            self._prepare(torch.float64)
        except Exception:  # a forward with float32 numbers of its own; or one that fails in any way
            self._prepare(torch.float32)

    def effective(self, mask: Tensor) -> Tensor:
        """The effective weights of a mask (N,) bool; see `effective_mask`."""
        kept = {
            name: part.float().requires_grad_()
            for name, part in unflatten(mask.to(self.device), self.weights).items()
        }
        read = {n: (self.state[n] * kept[n].detach()).requires_grad_() for n in self.read}
        search = self._search({**self.state, **read}, kept)
        self._explore(search, read)
        if not search.alive:
            return torch.zeros_like(mask)
        found = {name: part.new_zeros(part.shape, dtype=torch.bool) for name, part in kept.items()}
        found |= search.pulled
        for key, call in search.calls.items():
            if call.name in kept and call.used is not None:
                found[call.name] |= call.effective(self.constant.get(key))
        return mask & flatten(found).to(mask.device)

    def _prepare(self, dtype: torch.dtype) -> None:
        """Draw what is not pruned, and see what is constant in the dense network."""
        self.dtype, self.rounds = dtype, _ROUNDS
        drawn = torch.Generator().manual_seed(1)
        layers = {id(m._parameters.get("weight")) for m in self.model.modules()
                  if isinstance(m, LAYERS)}  # fmt: skip
        named = dict(self.model.named_parameters())
        self.layers = [name for name, parameter in named.items() if id(parameter) in layers]
        zero = torch.zeros((), dtype=dtype, device=self.device)
        self.state = {  # the values of a layer's weights do not matter
            name: zero.expand(parameter.shape) if name in self.weights
            else _drawn(name, parameter.detach(), dtype, drawn)
            for name, parameter in named.items()
        }  # fmt: skip
        for name, buffer in self.model.named_buffers():
            self.state[name] = buffer.to(dtype) if buffer.is_floating_point() else buffer.clone()

        search = self._search(self.state, {})
        search.watch = True
        self._explore(search)
        self.read = sorted(search.read & set(self.weights))
        if self.read:
            for name in self.read:
                self.state[name] = _drawn(name, self.weights[name].detach(), dtype, drawn)
            self.rounds = _ROUNDS
            search = self._search(self.state, {})
            self._explore(search)
        self.constant = {
            key: ~call.varies for key, call in search.calls.items() if not call.varies.all()
        }

    def _search(self, state: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> _Search:
        """A search with these tensors of the network; a layer not in `kept` is whole."""
        one = torch.ones((), dtype=torch.float32, device=self.device)
        every = {name: kept.get(name, one.expand(state[name].shape)) for name in self.layers}
        return _Search(state, every, self.device, self.dtype)

    @torch.enable_grad()  # a caller may sit inside torch.no_grad()
    def _explore(self, search: _Search, read: Mapping[str, Tensor] | None = None) -> None:
        """Run until two rounds of runs find nothing that the very first run has not found.

        One run is all, if everything between the layers is `_RISING`.
        """
        quiet = 0
        for repeat in range(_REPEATS):
            news = False
            for number, (still, signs) in enumerate(self.rounds):
                turn = len(self.rounds) * repeat + number
                base = self._run(search, turn, still).detach()
                for sign in signs:
                    search.news = False
                    out = self._run(search, turn, still, sign)
                    search.alive |= bool(search.changed(out.detach(), base).any())
                    search.pull(out, read or {})
                    news |= search.news and (repeat, number, sign) != (0, 0, 1)
                    if search.watch and search.rises:
                        self.rounds = ((1, (1,)),)
                    if len(self.rounds) == 1:
                        return
            quiet = 0 if news else quiet + 1
            if quiet == 2:
                return

    def _run(self, search: _Search, turn: int, *signs: int) -> Tensor:
        search.begin(*signs)
        inputs = self.example
        if inputs.is_complex():
            inputs = torch.view_as_complex(search.draw((*inputs.shape, 2)))
        elif inputs.is_floating_point():
            inputs = search.draw(inputs.shape)
        elif not search.resting:
            u = _uniform(inputs.shape, search.generator, torch.float32).to(self.device)
            inputs = (u * (self.most + 1)).floor().to(inputs.dtype)
        search.known[id(inputs)] = inputs
        # It seeds what a network leaves to chance: its own noise is the same in the runs of a turn.
        with mode_of(self.model, training=False):
            for device in {self.device, torch.device("cpu")}:
                torch.rand(turn, device=device)
            with search:
                return logits_of(self.model, search.state, inputs)


def _uniform(shape: torch.Size, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Numbers in 0..1, the same on every device, and whatever the caller's defaults are."""
    return torch.rand(shape, generator=generator, dtype=dtype, device="cpu")


def _drawn(name: str, parameter: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Positive numbers for a parameter: small ones for a bias, with sums of 1 for a matrix."""
    if not parameter.is_floating_point():
        return parameter
    shape = parameter.shape
    u = 0.5 + _uniform(shape, generator, dtype).to(parameter.device)
    if "bias" in name.rpartition(".")[2]:
        return 0.1 * u
    return u / shape[1:].numel() if len(shape) > 1 and shape[0] > 1 else u


def effective_mask(
    model: nn.Module,
    mask: Tensor,
    example_input: Tensor,
    *,
    weights: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The kept weights that some output depends on, and that read what depends on the input.

    For weights, biases and inputs in general, not for those that the network has: a weight of 0 may
    grow, and a gate may open. What is constant in the dense network too, such as coordinates and
    class tokens, counts as if it depended on the input, unless no output does.

    Args:
        model: The network; it is not changed.
        mask: A `Mask`, or (N,) bool.
        example_input: A batch: the shape of one input matters, and of whole numbers the largest.
        weights: The prunable weights, if the caller has found them.

    Returns:
        (N,) bool, a subset of `mask`.

    Raises:
        ValueError: `mask` has another length, or the model does not return one tensor.
    """
    weights = weights or prunable(model)
    mask = getattr(mask, "flat", mask)
    unflatten(mask, weights)  # raises for another length
    return Dependence(model, example_input, weights).effective(mask)
