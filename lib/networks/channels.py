"""Which channels a network has, what could read them, and what a mask leaves of them.

The network is run on an example under a `TorchFunctionMode`, as in `effective_mask`. An unknown
operation keeps every channel that it touches. (The dependency graph of Torch-Pruning 1.6 takes such
an operation for elementwise: a softmax over channels is silently wrong, and `x.view(-1, 800)`
fails.)
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .inspection import call, mode_of


def pick(tensor: Tensor, indices: tuple[Tensor, ...]) -> Tensor:
    """The part of a tensor at these indices of axis 0 (and of 1)."""
    for axis, index in enumerate(indices):
        tensor = tensor.index_select(axis, index.to(tensor.device))
    return tensor


def _reads(mask: np.ndarray) -> np.ndarray:
    """Whether a row reads a column, (rows, columns), from a mask (rows, columns, ...)."""
    if mask.ndim == 2:
        return mask
    reads = np.zeros(mask.shape[:2], dtype=bool)
    reads.flat[np.flatnonzero(mask) // max(1, mask[0, 0].size)] = True
    return reads


class Channels(TorchFunctionMode):
    """How the channels of a network are connected, found by running it.

    This depends on the network alone, so one instance serves any number of masks.

    Channels are numbered. `axes` holds the numbers along axes 0 and 1 of every weight, bias and
    normalisation; an activation carries those of its axis 1, the rows of the layer that made it, in
    an attribute `channels`. (In the middle of a channel shuffle they fill axes 1 and 2.) An
    activation without it has no channel that could be removed.

    A grouped convolution loses whole groups, with all that goes in and comes out. Parts of a chunk,
    and groups that are shuffled, lose the same positions.

    Args:
        model: The network; it is not changed.
        example: A batch of two inputs.
        cautious: Whether grouped convolutions, concatenations, chunks, and views of the channels
            keep all of them, since a `forward` may rely on their number; and those in one or three
            dimensions.
        shapes: Whether an activation whose shape is read keeps all of its channels, for the same
            reason.
    """

    # Operations that treat each channel alone and keep the shape (`relu_` counts as `relu`).
    SAME = frozenset(
        "relu relu6 leaky_relu elu selu celu gelu silu mish sigmoid tanh hardtanh hardswish "
        "hardsigmoid softplus softsign logsigmoid threshold clamp contiguous clone "
        "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout".split()
    )
    POOL = frozenset(
        f"{kind}_pool{n}d"
        for kind in ("max", "avg", "adaptive_max", "adaptive_avg")
        for n in (1, 2, 3)
    )
    VIEW = frozenset(("view", "reshape"))
    # Those that may change the extent of later axes.
    LATER = frozenset("interpolate upsample upsample_nearest upsample_bilinear".split())
    LAYERS = frozenset("conv1d conv2d conv3d linear".split())
    CAUTIOUS = frozenset("conv2d linear".split())
    COMBINE = frozenset("add iadd radd sub isub rsub mul imul rmul div truediv itruediv".split())
    # Asking a tensor for its shape reveals nothing about its values.
    SHAPE = frozenset("get size dim len numel stride is_contiguous is_floating_point".split())

    def __init__(
        self, model: nn.Module, example: Tensor, cautious: bool = False, shapes: bool = False
    ):
        super().__init__()
        self.model, self.cautious, self.shapes = model, cautious, shapes
        self.names: dict[int, str] = {}
        self.axes: dict[str, tuple[np.ndarray, ...]] = {}
        self.count = 0
        self.layers: list[str] = []  # weights whose rows read their columns, in order of use
        self.grouped: list[str] = []  # weights of groups of channels that stay or go together
        self.pinned: list[np.ndarray] = []
        self.mixed: list[tuple[str, np.ndarray]] = []
        self.ties: list[tuple[np.ndarray, np.ndarray]] = []  # a[i] and b[i] are the same
        for training in (True, False):  # some branches run in one mode only
            self._follow(model, example, training)
        self._merge()

    def _follow(self, model: nn.Module, example: Tensor, training: bool) -> None:
        """Run the network once; nothing of it changes."""
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        named = (*model.named_parameters(), *buffers.items())
        self.names = {id(tensor): name for name, tensor in named}
        with torch.no_grad(), mode_of(model, training), self:
            out = call(model, buffers, example)
        self._pin(tree_leaves(out))

    def _merge(self) -> None:
        """Give channels that are tied to each other the same number."""
        pairs = zip(*self.ties, strict=True) if self.ties else ((), ())
        a, b = (np.concatenate([[], *side]).astype(int) for side in pairs)
        ties = coo_array((np.ones(len(a)), (a, b)), shape=(self.count, self.count))
        self.count, one = connected_components(ties, directed=False)
        self.axes = {name: tuple(one[axis] for axis in axes) for name, axes in self.axes.items()}
        self.pinned = [one[channels] for channels in self.pinned]
        self.mixed = [(name, one[channels]) for name, channels in self.mixed]

    def kept(self, masks: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """What is left without dead channels: {tensor name: indices kept of axis 0 (and of 1)}.

        Args:
            masks: {parameter name: bool tensor}; a weight without a mask is kept.

        Returns:
            Parameters and buffers that lose nothing are left out.

        Raises:
            ValueError: A normalisation over several channels looks at a dead one.
        """
        live = self._live(masks)
        return {
            name: tuple(torch.from_numpy(np.flatnonzero(live[axis])) for axis in axes)
            for name, axes in self.axes.items()
            if not all(live[axis].all() for axis in axes)
        }

    def _live(self, masks: Mapping[str, Tensor]) -> np.ndarray:
        """Which channels stay, (channels,) bool."""
        reads = {name: _reads(masks[name].cpu().numpy()) for name in self.layers if name in masks}
        live = np.zeros(self.count, dtype=bool)
        live[np.concatenate(self.pinned)] = True
        self._spread(live, reads)
        for name, channels in self.mixed:
            if dead := int((~live[channels]).sum()):
                raise ValueError(
                    f"model cannot be compacted: {name} looks at {len(channels)} channels at "
                    f"once, and the mask has killed {dead} of them; use batch normalisation"
                )
        for name in (*self.layers, *self.grouped):
            rows, _ = self.axes[name]
            if not live[rows].any():
                live[rows[0]] = True  # no layer can be empty
        # Multiples of 8 run up to a third faster per channel (oneDNN on AVX2, channels last). Yet
        # keeping dead channels to reach one saves only 0 to 5 % of a step.
        self._spread(live, reads)
        return live

    def _spread(self, live: np.ndarray, reads: Mapping[str, np.ndarray]) -> None:
        """Mark what live channels read. Backwards, so that one round is usually enough."""
        before = -1
        while before != (before := np.count_nonzero(live)):
            for name in reversed(self.layers):
                rows, columns = self.axes[name]
                if name in reads:
                    live[columns[reads[name][live[rows]].any(0)]] = True
                elif live[rows].any():
                    live[columns] = True

    def _numbers(self, tensor: Tensor) -> tuple[np.ndarray, ...]:
        """The channels of axes 0 and 1 of a parameter or buffer."""
        name = self.names[id(tensor)]
        if name not in self.axes:
            ends = np.cumsum([self.count, *tensor.shape[:2]])
            self.axes[name] = tuple(np.arange(*pair) for pair in pairwise(ends))
            self.count = int(ends[-1])
        return self.axes[name]

    def _pin(self, values: list[Any]) -> None:
        """Keep all channels of these."""
        for value in values:
            if hasattr(value, "channels"):
                self.pinned.append(value.channels.ravel())
            elif id(value) in self.names:
                self.pinned.extend(self._numbers(value))

    def _tie(self, channels: np.ndarray, *tensors: Tensor) -> np.ndarray:
        """Parameters and buffers with one value for each of these channels."""
        self.ties.extend((channels, *self._numbers(tensor)) for tensor in tensors)
        return channels

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        # Two examples are too few for batch statistics, and values do not matter here.
        out = tensors[0] if name == "batch_norm" else func(*args, **kwargs)
        channels = None
        if tensors and isinstance(out, Tensor):
            numbers = [leaf for leaf in leaves if type(leaf) is int]
            channels = self._channels(name, out, tensors, numbers)
        blind = name in self.SHAPE and not isinstance(out, Tensor)
        if self.shapes:  # the first axis has no channels
            blind &= not isinstance(out, torch.Size) and name != "numel"
            blind &= name != "size" or leaves[1:] == [0]
        if not self.cautious:
            blind |= name.startswith("new_") or name.endswith("_like")
            blind |= name == "chunk" and self._chunked(out, *leaves)
        if channels is not None:
            out.channels = channels
        elif not blind:
            self._pin(tensors)
        return out

    def _channels(
        self, name: str, out: Tensor, tensors: list[Tensor], numbers: list[int]
    ) -> np.ndarray | None:
        """The channels of `out`; None if they are not known: then none may be removed."""
        if name in self.COMBINE:
            return self._combined(out, tensors)
        if name in ("cat", "concat", "concatenate"):
            return self._joined(tensors, numbers)
        x, *others = tensors
        if id(x) in self.names or any(id(t) not in self.names for t in others):
            return None  # weights that are computed
        if name in (self.CAUTIOUS if self.cautious else self.LAYERS) and others:
            return self._layer(x, *others)
        if not hasattr(x, "channels"):
            return None
        flat = name == "flatten" or (name in self.VIEW and numbers[-1:] == [-1])
        if flat and x.channels.ndim == 1 and out.ndim == 2 and len(out) == len(x):
            return x.channels.repeat(out.shape[1] // x.shape[1])
        if x.channels.ndim == 2 or name in self.VIEW or name == "channel_shuffle":
            return None if self.cautious else self._viewed(name, x, out, numbers)
        if name in ("group_norm", "layer_norm", "rms_norm"):
            where = f" with {self.names[id(others[0])]!r}" if others else ""
            self.mixed.append((name + where, x.channels))
            return x.channels
        if name in ("batch_norm", "instance_norm"):
            return self._tie(x.channels, *others)
        if name == "prelu":
            return x.channels if others[0].numel() == 1 else self._tie(x.channels, *others)
        if others:
            return None
        if name in self.SAME or name in self.LATER:
            return x.channels
        if name in self.POOL and x.ndim == int(name[-2]) + 2:
            return x.channels
        if name == "pad" and len(numbers) <= 2 * (x.ndim - 2):
            return x.channels
        if name in ("flatten", "squeeze") and numbers and all(n % x.ndim > 1 for n in numbers):
            return x.channels
        if name in ("mean", "sum") and numbers and all(n % x.ndim > 1 for n in numbers):
            return x.channels
        return None

    def _layer(self, x: Tensor, weight: Tensor, *bias: Tensor) -> np.ndarray | None:
        """The rows of a convolution or linear layer."""
        if x.ndim != weight.ndim:
            return None
        if x.shape[1] != weight.shape[1]:
            return self._groups(x, weight, *bias)
        rows, columns = self._numbers(weight)
        if (name := self.names[id(weight)]) not in self.layers:
            self.layers.append(name)
        self._feed(x, columns)
        return self._tie(rows, *bias)

    def _feed(self, x: Tensor, columns: np.ndarray) -> None:
        """What a layer reads is what goes in."""
        if hasattr(x, "channels"):
            self.ties.append((columns, x.channels))
        else:
            self.pinned.append(columns)

    def _groups(self, x: Tensor, weight: Tensor, *bias: Tensor) -> np.ndarray | None:
        """The rows of a grouped convolution: one number for all in and out of a group."""
        name = self.names[id(weight)]
        layer = self.model.get_submodule(name.rpartition(".")[0])
        if self.cautious or getattr(layer, "groups", 1) * weight.shape[1] != x.shape[1]:
            return None
        rows, columns = self._numbers(weight)
        if name not in self.grouped:
            self.grouped.append(name)
        self.pinned.append(columns)
        first = rows.reshape(layer.groups, -1)[:, 0]
        self.ties.append((first.repeat(len(rows) // layer.groups), rows))
        self._feed(x, first.repeat(weight.shape[1]))
        return self._tie(rows, *bias)

    def _joined(self, tensors: list[Tensor], numbers: list[int]) -> np.ndarray | None:
        """The channels of a concatenation; what has none joins it with such as stay."""
        known = [getattr(tensor, "channels", np.zeros(0, int)) for tensor in tensors]
        if self.cautious or numbers not in ([1], [1 - tensors[0].ndim]):
            return None
        if not any(map(len, known)) or any(c.ndim == 2 for c in known):
            return None
        if any(id(tensor) in self.names for tensor in tensors):
            return None
        parts = []
        for tensor, channels in zip(tensors, known, strict=True):
            if not hasattr(tensor, "channels"):
                channels = np.arange(self.count, self.count + tensor.shape[1])
                self.count += len(channels)
                self.pinned.append(channels)
            parts.append(channels)
        return np.concatenate(parts)

    def _chunked(self, out: tuple[Tensor, ...], x: Tensor, *numbers: int) -> bool:
        """Give chunks of equal size their channels; whether they have them."""
        channels = getattr(x, "channels", None)
        if channels is None or channels.ndim == 2 or len(channels) % len(out):
            return False
        if numbers[1:] not in ((1,), (1 - x.ndim,)):
            return False
        for part, piece in zip(self._alike(channels, len(out)), out, strict=True):
            piece.channels = part
        return True

    def _alike(self, channels: np.ndarray, count: int) -> np.ndarray:
        """Channels in `count` parts that lose the same positions, (count, size of a part)."""
        parts = channels.reshape(count, -1)
        self.ties.extend((parts[0], part) for part in parts[1:])
        return parts

    def _viewed(self, name: str, x: Tensor, out: Tensor, numbers: list[int]) -> np.ndarray | None:
        """The channels of a view that leaves them alone, or of a step of a channel shuffle."""
        channels, rest = x.channels, x.shape[1 + x.channels.ndim :]
        if name == "channel_shuffle":
            return self._alike(channels, numbers[0]).T.ravel()
        if channels.ndim == 2:
            if name == "contiguous":
                return channels
            if name == "transpose" and sorted(n % x.ndim for n in numbers) == [1, 2]:
                return channels.T
            joined = name in self.VIEW and out.shape == (len(x), channels.size, *rest)
            return channels.ravel() if joined else None
        if out.ndim > 1 and out.shape[:2] == x.shape[:2]:
            return channels
        if out.ndim == x.ndim + 1 and (len(out), *out.shape[3:]) == (len(x), *rest):
            return self._alike(channels, out.shape[1])
        return None

    def _combined(self, out: Tensor, tensors: list[Tensor]) -> np.ndarray | None:
        """A sum or product of channels with channels, or with what is the same for all of them."""
        channels = [t.channels for t in tensors if hasattr(t, "channels")]
        if not channels or any(c.ndim == 2 for c in channels):
            return None
        for tensor in tensors:  # broadcasting adds axes in front
            extent = ((1,) * out.ndim + tensor.shape)[1 - out.ndim]
            if extent != (out.shape[1] if hasattr(tensor, "channels") else 1):
                return None
        self.ties.extend((channels[0], other) for other in channels[1:])
        return channels[0]
