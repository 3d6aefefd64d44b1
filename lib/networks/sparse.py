"""Layers that multiply by their kept weights alone, where that is faster than a dense product.

After `compaction` a layer may still hold a hundred removed weights for each one kept. A sparse
convolution is one product of a sparse and a dense matrix for each position in its kernel. Its
images are shifted by an offset in memory, in the layout (channel, row, column, image), so that
nothing is gathered. Results are those of the dense layer up to rounding.
"""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Tap(NamedTuple):
    """The kept weights at one position of the kernel, a matrix (outputs, inputs) in CSR form.

    Attributes:
        phase: Which of every `stride` rows and columns of the image it reads.
        shift: By how many of those rows and columns it reads further on.
        where: Its slice of the layer's values.
        rows: Row pointers and column indices.
        columns: Those of the transpose, and the order in which the transpose has the values.
    """

    phase: tuple[int, int]
    shift: tuple[int, int]
    where: slice
    rows: tuple[Tensor, Tensor]
    columns: tuple[Tensor, Tensor, Tensor]


def _pointers(indices: Tensor, size: int) -> Tensor:
    """Where each row of a CSR matrix begins."""
    counts = torch.bincount(indices, minlength=size).cumsum(0)
    return functional.pad(counts, (1, 0)).int()


class SparseConv2d(nn.Module):
    """A convolution of few kept weights.

    Attributes:
        values: The kept weights, (k,), the only trainable ones beside the bias.
        index: Where they lie in the flattened dense weight, (k,).
    """

    def __init__(self, layer: nn.Conv2d, mask: Tensor):
        """The same function as a `layer` whose weight is multiplied by a `mask` of its shape."""
        super().__init__()
        with warnings.catch_warnings():  # it says once that this layout is in beta: now, unheard
            warnings.simplefilter("ignore")
            torch.eye(1).to_sparse_csr()
        self.shape = tuple(layer.weight.shape)
        self.stride, self.padding = layer.stride, layer.padding
        self.bias = layer.bias
        outputs, inputs, height, width = self.shape
        # By position in the kernel, then by output and input.
        at = mask.permute(2, 3, 0, 1).nonzero()
        self.index = ((at[:, 2] * inputs + at[:, 3]) * height + at[:, 0]) * width + at[:, 1]
        self.values = nn.Parameter(layer.weight.detach().reshape(-1)[self.index].clone())
        self.taps, begin = [], 0
        for y in range(height):
            for x in range(width):
                out, into = at[(at[:, 0] == y) & (at[:, 1] == x), 2:].unbind(1)
                if not len(out):
                    continue
                order = torch.argsort(into * outputs + out)
                down, right = divmod(y, self.stride[0]), divmod(x, self.stride[1])
                tap = _Tap(
                    *zip(*((rest, whole) for whole, rest in (down, right)), strict=True),
                    slice(begin, begin + len(out)),
                    (_pointers(out, outputs), into.int()),
                    (_pointers(into, inputs), out[order].int(), order),
                )
                self.taps.append(tap)
                begin += len(out)

    def forward(self, x: Tensor) -> Tensor:
        """(n, out, height, width) from (n, in, height, width)."""
        out = _Convolution.apply(x, self.values, self)
        return out if self.bias is None else out + self.bias[:, None, None]

    def matrices(self, values: Tensor, transposed: bool = False) -> Iterator[tuple[_Tap, Tensor]]:
        """Each tap and its matrix."""
        sizes = self.shape[1::-1] if transposed else self.shape[:2]
        for tap in self.taps:
            own = values[tap.where]
            if transposed:
                pointers, indices, order = tap.columns
                own = own[order]
            else:
                pointers, indices = tap.rows
            yield (
                tap,
                torch.sparse_csr_tensor(pointers, indices, own, sizes, check_invariants=False),
            )

    @torch.no_grad()
    def write(self, weight: Tensor) -> None:
        """Write the values into a dense weight; the removed ones become 0."""
        flat = weight.new_zeros(weight.numel())
        flat[self.index] = self.values
        weight.copy_(flat.view(self.shape).view_as(weight))


class SparseLinear(SparseConv2d):
    """A linear layer of few kept weights: a convolution of one position."""

    def __init__(self, layer: nn.Linear, mask: Tensor):
        """The same function as a `layer` whose weight is multiplied by a `mask` of its shape."""
        as_convolution = nn.Conv2d(1, 1, 1, bias=False)
        as_convolution.weight = nn.Parameter(layer.weight.detach()[:, :, None, None])
        as_convolution.bias = layer.bias
        super().__init__(as_convolution, mask[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """(..., out) from (..., in)."""
        rows = x.reshape(-1, x.shape[-1], 1, 1)
        return super().forward(rows).reshape(*x.shape[:-1], -1)


class _Grid(NamedTuple):
    """How a convolution sees an image: in phases, of which each is a smaller image of its own.

    With a stride of 2 there are four, of the even and odd rows and columns. All have the size at
    which a tap's results can be added up by an offset in memory alone.
    """

    count: int  # of images
    size: tuple[int, int]
    out: tuple[int, int]
    rows: int  # of a phase
    columns: int
    slack: int  # columns behind the last row, which the last offsets reach
    parts: tuple[tuple[tuple[int, int], tuple[slice, ...], tuple[slice, ...]], ...]

    @classmethod
    def of(cls, layer: SparseConv2d, x: Tensor) -> "_Grid":
        """For a layer and its input."""
        count, _, *size = x.shape
        out, extent, cuts = [], [], []
        kernels = layer.shape[2:]
        for length, k, s, p in zip(size, kernels, layer.stride, layer.padding, strict=True):
            out.append((length + 2 * p - k) // s + 1)
            extent.append(out[-1] + (k - 1) // s)
            axis = []
            for phase in range(s):  # its row q is the image's row q * s + phase - p
                first = max(0, -((phase - p) // s))
                last = min(extent[-1], (length - 1 + p - phase) // s + 1)
                begin = first * s + phase - p
                end = begin + (last - first - 1) * s + 1
                axis.append((slice(first, last), slice(begin, end, s)) if last > first else None)
            cuts.append(axis)
        parts = tuple(
            ((i, j), (down[0], right[0]), (down[1], right[1]))
            for i, down in enumerate(cuts[0])
            for j, right in enumerate(cuts[1])
            if down and right
        )
        slack = (kernels[1] - 1) // layer.stride[1]
        return cls(count, tuple(size), tuple(out), *extent, slack, parts)

    @property
    def length(self) -> int:
        """Columns of a product: positions of the output, some behind each row, times images."""
        return self.out[0] * self.columns * self.count

    def images(self, phases: Tensor) -> Tensor:
        """The view (channels, *stride, rows, columns, images) of what `phases` holds."""
        whole = phases[..., : self.rows * self.columns * self.count]
        return whole.unflatten(-1, (self.rows, self.columns, self.count))

    def read_by(self, phases: Tensor, tap: _Tap) -> Tensor:
        """The view (channels, length) of what one tap multiplies."""
        offset = (tap.shift[0] * self.columns + tap.shift[1]) * self.count
        return phases[(slice(None), *tap.phase, slice(offset, offset + self.length))]


class _Convolution(torch.autograd.Function):
    """The product of a SparseConv2d, and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, layer: SparseConv2d) -> Tensor:
        grid = _Grid.of(layer, x)
        per_phase = (grid.rows * grid.columns + grid.slack) * grid.count
        phases = x.new_zeros(x.shape[1], *layer.stride, per_phase)
        images, source = grid.images(phases), x.permute(1, 2, 3, 0)
        for (i, j), inside, outside in grid.parts:
            images[(slice(None), i, j, *inside)] = source[(slice(None), *outside)]
        out = x.new_zeros(layer.shape[0], grid.length)
        for tap, matrix in layer.matrices(values):
            torch.addmm(out, matrix, grid.read_by(phases, tap), out=out)
        ctx.save_for_backward(values, phases)
        ctx.layer, ctx.grid = layer, grid
        out = out.unflatten(1, (grid.out[0], grid.columns, grid.count))
        return out[:, :, : grid.out[1]].permute(3, 0, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        layer, grid = ctx.layer, ctx.grid
        values, phases = ctx.saved_tensors
        above = gradient.new_zeros(layer.shape[0], grid.out[0], grid.columns, grid.count)
        above[:, :, : grid.out[1]] = gradient.permute(1, 2, 3, 0)
        above = above.flatten(1)
        of_values = torch.empty_like(values)
        for tap, matrix in layer.matrices(values):
            read = grid.read_by(phases, tap)
            products = torch.sparse.sampled_addmm(matrix, above, read.t(), beta=0.0)
            of_values[tap.where] = products.values()
        if not ctx.needs_input_grad[0]:
            return None, of_values, None
        below = torch.zeros_like(phases)
        for tap, matrix in layer.matrices(values, transposed=True):
            read = grid.read_by(below, tap)
            torch.addmm(read, matrix, above, out=read)
        of_images = gradient.new_zeros(layer.shape[1], *grid.size, grid.count)
        images = grid.images(below)
        for (i, j), inside, outside in grid.parts:
            of_images[(slice(None), *outside)] = images[(slice(None), i, j, *inside)]
        return of_images.permute(3, 0, 1, 2), of_values, None
