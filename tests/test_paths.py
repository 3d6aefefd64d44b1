"""Effective weights, against a search through the graph, and against derivatives."""

import itertools
import math
import os
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lib import metrics
from lib.masks import top_k
from lib.networks.architectures import NETWORKS, build_model
from lib.networks.inspection import flatten, prunable, unflatten
from lib.networks.paths import effective_mask

CASES = int(os.environ.get("PANNING_CASES", "1000"))  # a short run may ask for fewer
many = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))


class Residual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module, combine: Callable = torch.add):
        super().__init__()
        self.body, self.shortcut, self.combine = body, shortcut, combine

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(self.body(x), self.shortcut(x))


class Both(nn.Module):
    """Two branches, concatenated."""

    def __init__(self, *parts: nn.Module):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], 1)


PASSING = (nn.BatchNorm2d, nn.Dropout, nn.GELU, nn.Identity, nn.ReLU, nn.Tanh)


class PathSearch:
    """A network as a graph of pixels and units, searched from both ends.

    An edge is (node, node, weight), the weight None where the way is always open. Layers are
    expanded one after the other, so that the edges stand in topological order. It shares nothing
    with the library, which lets autograd do the search.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...], mask: Tensor):
        self.kept, self.edges, self.nodes, self.weights = mask.tolist(), [], 0, 0
        inputs = self.new_nodes(shape)
        self.inputs, self.outputs = inputs.flatten(), self.expand(model, inputs).flatten()

    def new_nodes(self, shape: tuple[int, ...]) -> Tensor:
        first, self.nodes = self.nodes, self.nodes + math.prod(shape)
        return torch.arange(first, self.nodes).view(shape)

    def new_weights(self, layer: nn.Module) -> Tensor:
        first, self.weights = self.weights, self.weights + layer.weight.numel()
        return torch.arange(first, self.weights).view(layer.weight.shape)

    def connect(self, start: Tensor, end: Tensor, weight: Tensor | None = None) -> None:
        self.edges.append((int(start), int(end), None if weight is None else int(weight)))

    def expand(self, module: nn.Module, x: Tensor) -> Tensor:
        """Adds the edges of a module behind the nodes x, without a batch; returns its outputs."""
        if isinstance(module, nn.Sequential):
            for child in module:
                x = self.expand(child, x)
            return x
        if isinstance(module, Residual):
            branches = self.expand(module.body, x), self.expand(module.shortcut, x)
            out = self.new_nodes(branches[0].shape)
            for branch in branches:
                for start, end in zip(branch.flatten(), out.flatten(), strict=True):
                    self.connect(start, end)
            return out
        if isinstance(module, Both):
            return torch.cat([self.expand(part, x) for part in module.parts])
        if isinstance(module, nn.Flatten):
            return x.flatten()
        if isinstance(module, nn.Unflatten):
            return x.view(module.unflattened_size)
        if isinstance(module, PASSING):
            return x

        out = self.new_nodes(module(torch.zeros(1, *x.shape)).shape[1:])
        if isinstance(module, nn.Linear):
            for weight, (end, start) in zip(
                self.new_weights(module).flatten(), itertools.product(out, x), strict=True
            ):
                self.connect(start, end, weight)
        elif isinstance(module, nn.Conv2d):
            weights, groups = self.new_weights(module), module.groups
            for o, c in itertools.product(range(weights.shape[0]), range(weights.shape[1])):
                channel = o // (len(out) // groups) * (len(x) // groups) + c
                for pixel, end, tap in self.windows(module, x.shape[1:], out.shape[1:]):
                    self.connect(x[channel][pixel], out[o][end], weights[o, c][tap])
        else:
            for channel in range(len(x)):
                for pixel, end, _ in self.windows(module, x.shape[1:], out.shape[1:]):
                    self.connect(x[channel][pixel], out[channel][end])
        return out

    @staticmethod
    def windows(layer: nn.Module, size: tuple, out: tuple) -> Iterator[tuple[tuple, tuple, tuple]]:
        """(input pixel, output pixel, place in the kernel), for all that meet inside the image."""

        def along(axis: int) -> Iterator[tuple[int, int, int]]:
            for j in range(out[axis]):
                if "Adaptive" in type(layer).__name__:
                    start, stop = j * size[axis] // out[axis], -(-(j + 1) * size[axis] // out[axis])
                    places = enumerate(range(start, stop))
                else:
                    options = (layer.kernel_size, layer.stride, layer.padding)
                    options += (getattr(layer, "dilation", 1),)
                    kernel, stride, padding, dilation = (
                        o if isinstance(o, int) else o[axis] for o in options
                    )
                    places = ((a, j * stride - padding + a * dilation) for a in range(kernel))
                yield from ((i, j, a) for a, i in places if 0 <= i < size[axis])

        for rows, columns in itertools.product(along(0), list(along(1))):
            yield tuple(zip(rows, columns, strict=True))

    def open(self, weight: int | None) -> bool:
        return weight is None or self.kept[weight]

    def effective(self) -> Tensor:
        ahead, behind = [False] * self.nodes, [False] * self.nodes
        for node in self.inputs:
            ahead[node] = True
        for node in self.outputs:
            behind[node] = True
        for start, end, weight in self.edges:
            ahead[end] |= ahead[start] and self.open(weight)
        for start, end, weight in reversed(self.edges):
            behind[start] |= behind[end] and self.open(weight)
        found = torch.zeros(self.weights, dtype=torch.bool)
        for start, end, weight in self.edges:
            if weight is not None and self.open(weight) and ahead[start] and behind[end]:
                found[weight] = True
        return found


def convolutional(*layers: nn.Module, shape: tuple[int, int, int] = (2, 7, 6)) -> nn.Module:
    """Some layers on images of a shape, and a linear layer behind them."""
    body = nn.Sequential(*layers, nn.Flatten())
    return nn.Sequential(body, nn.Linear(body(torch.zeros(2, *shape)).shape[1], 2))


def pooled(pool: nn.Module) -> nn.Module:
    """Pooling between linear layers, where each pixel has weights of its own."""
    return convolutional(nn.Flatten(), nn.Linear(84, 84), nn.Unflatten(1, (2, 7, 6)), pool)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: convolutional(
        *(nn.Flatten(), nn.Linear(84, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    ),
    "strided padded convolution": lambda: convolutional(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Conv2d(4, 3, (2, 3), padding=(1, 0))
    ),
    "dilated grouped convolution": lambda: convolutional(
        nn.Conv2d(2, 4, 2, dilation=(2, 3), groups=2), nn.GELU(), nn.Conv2d(4, 2, 2, stride=2)
    ),
    "convolution wider than its image": lambda: convolutional(nn.Conv2d(2, 2, 13, padding=6)),
    "batch norm and dropout": lambda: convolutional(
        *(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(inplace=True)),
        *(nn.Dropout(0.9), nn.Conv2d(3, 3, 3, bias=False), nn.BatchNorm2d(3)),
    ),
    "max-pooling": lambda: pooled(nn.MaxPool2d(2)),
    "overlapping max-pooling": lambda: pooled(nn.MaxPool2d(3, stride=(2, 1), padding=1)),
    "max-pooling to the ceiling": lambda: pooled(nn.MaxPool2d(3, stride=2, ceil_mode=True)),
    "padded max-pooling to the ceiling": lambda: pooled(
        nn.MaxPool2d(2, stride=2, padding=1, ceil_mode=True)
    ),
    "sparse max-pooling to the ceiling": lambda: pooled(
        nn.MaxPool2d((3, 1), stride=(3, 2), ceil_mode=True)
    ),
    "dilated max-pooling": lambda: pooled(nn.MaxPool2d(2, stride=1, dilation=(2, 3))),
    "adaptive max-pooling": lambda: pooled(nn.AdaptiveMaxPool2d((3, 4))),
    "average pooling": lambda: pooled(nn.AvgPool2d(2, stride=2, padding=1, ceil_mode=True)),
    "adaptive average pooling": lambda: pooled(nn.AdaptiveAvgPool2d((2, 4))),
    "addition to the input": lambda: convolutional(
        Residual(nn.Conv2d(2, 2, 1), nn.Identity()), nn.Conv2d(2, 3, 3, stride=2)
    ),
    "residual addition": lambda: convolutional(
        nn.Conv2d(2, 3, 1),
        Residual(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()), nn.Identity()),
        Residual(nn.Conv2d(3, 4, 3, 2, padding=1), nn.Conv2d(3, 4, 1, 2), torch.sub),
    ),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", BUILDERS)
def test_effective_weights_are_those_a_search_finds(
    name: str, training: bool, unchanged, some_mask
) -> None:
    torch.manual_seed(5)
    model = BUILDERS[name]().train(training)
    total = flatten(prunable(model)).numel()
    images, lost, found = torch.ones(3, 2, 7, 6), 0, 0
    for seed, density in enumerate((0.04, 0.08, 0.12, 0.2, 0.3)):
        mask = some_mask(total, density, seed)
        with unchanged(model):
            effective = effective_mask(model, mask, images)
        assert torch.equal(effective, PathSearch(model, (2, 7, 6), mask).effective())
        lost, found = lost + int((mask & ~effective).sum()), found + int(effective.sum())
    assert lost and found  # or the comparison was an empty one


@st.composite
def branching(draw) -> nn.Module:
    """A small network for images (2, 4, 4) with skips, concatenations and grouped convolutions."""
    width, layers, channels, side = st.integers(1, 4), [], 2, 4

    def convolution(out: int) -> nn.Module:
        groups = draw(st.sampled_from([1, math.gcd(channels, out)]))
        kernel, bias = draw(st.sampled_from([1, 3])), draw(st.booleans())
        return nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=bias)

    kinds = ("convolution", "depthwise", "skip", "projection", "both", "pool", "act")
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4)):
        out = draw(width)
        if kind == "convolution":
            layers.append(convolution(out))
        elif kind == "depthwise":
            out *= channels
            layers.append(nn.Conv2d(channels, out, 3, padding=1, groups=channels))
        elif kind == "skip":
            out = channels
            layers.append(Residual(convolution(out), nn.Identity()))
        elif kind == "projection":
            layers.append(Residual(convolution(out), convolution(out), torch.sub))
        elif kind == "both":
            layers.append(Both(convolution(out), nn.Sequential(convolution(2), nn.ReLU())))
            out += 2
        else:
            out = channels
            if kind == "pool" and side > 1:
                layers.append(draw(st.sampled_from([nn.MaxPool2d(2), nn.AvgPool2d(2)])))
                side //= 2
            else:
                layers.append(draw(st.sampled_from([nn.ReLU(inplace=True), nn.BatchNorm2d(out)])))
        channels = out
    return convolutional(*layers, shape=(2, 4, 4)).eval()


@many
@given(branching(), st.floats(0.1, 0.8), st.integers(0, 99))
def test_effective_weights_of_branching_networks_are_those_a_search_finds(
    model, density, seed
) -> None:
    total = flatten(prunable(model)).numel()
    mask = torch.rand(total, generator=torch.Generator().manual_seed(seed)) < density
    expected = PathSearch(model, (2, 4, 4), mask).effective()
    assert torch.equal(effective_mask(model, mask, torch.ones(1, 2, 4, 4)), expected)


class Maximum(nn.Module):
    def __init__(self, take: Callable[[Tensor], Tensor]):
        super().__init__()
        self.conv, self.take = nn.Conv2d(1, 1, (1, 3), padding=(0, 1)), take
        self.fc = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.take(self.conv(x)))


@pytest.mark.parametrize(
    "take",
    [
        nn.MaxPool2d((1, 2)),
        nn.AdaptiveMaxPool2d(1),
        lambda x: functional.max_pool2d(x, kernel_size=(1, 2)),
        lambda x: x.amax(3, keepdim=True),
        lambda x: x.amax(dim=(2, 3)),
        lambda x: x.max(3).values,
        lambda x: torch.max(x, dim=3, keepdim=True)[0],
        lambda x: torch.max(x[..., :1], x[..., 1:]),
        lambda x: torch.maximum(x[..., :1], x[..., 1:]),
    ],
)
def test_a_maximum_is_reached_by_all_its_inputs(take) -> None:
    """The gradient of SynFlow, the usual shortcut, goes to the largest input alone."""
    model, image = Maximum(take), torch.ones(1, 1, 1, 2)
    mask = torch.tensor([True, False, True, True])  # each pixel reaches one place, by one weight
    scores = metrics.synflow(model, mask, (image, torch.zeros(1)))
    assert (scores != 0).tolist() != mask.tolist()
    assert torch.equal(effective_mask(model, mask, image), mask)


def test_a_bias_is_no_input() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    nn.init.ones_(model[0].bias)
    mask = torch.tensor([True, True, False, False, True, True])  # the second unit is fed by nothing
    assert metrics.synflow(model, mask, (torch.ones(1, 2), torch.zeros(1)))[-1] != 0
    effective = effective_mask(model, mask, torch.ones(1, 2))
    assert effective.tolist() == [True, True, False, False, True, False]


@pytest.mark.parametrize("weight", [0.0, 1e-20, 1e20])
def test_neither_depth_nor_the_size_of_a_weight_hides_a_path(weight: float) -> None:
    """One path through 60 layers, whose product is far outside of float64."""
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(60)))
    for parameter in model.parameters():
        nn.init.constant_(parameter, weight)
    mask = torch.zeros(60, 3, 3, dtype=torch.bool)
    mask[:, 1, 1] = True
    path = mask.clone().flatten()
    mask[7, 0, 0] = True  # leads nowhere
    assert torch.equal(effective_mask(model, mask.flatten(), torch.ones(1, 3)), path)


def test_neither_does_the_number_of_paths() -> None:
    """8^60 of them, far outside of float32; and infinity times 0 is no number."""
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(60)))
    mask = torch.ones(60, 8, 8, dtype=torch.bool)
    mask[50, 5, :] = False  # nothing leads to the unit, so nothing leads on from it
    effective = mask.clone()
    effective[51, :, 5] = False
    found = effective_mask(model, mask.flatten(), torch.ones(1, 8))
    assert torch.equal(found, effective.flatten())


class Written(nn.Module):
    """Two linear layers with something written by hand between them."""

    def __init__(self, between: Callable[["Written", Tensor], Tensor]):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.zeros(3))
        self.position = nn.Parameter(torch.ones(1, 3))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self, self.first(x)))


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize(
    "between",
    [
        lambda self, x: x + self.position,
        lambda self, x: self.position - x,
        lambda self, x: 1 - x,
        lambda self, x: torch.add(x, other=self.position),
        lambda self, x: x * self.scale,
        lambda self, x: -0.1 * x / 7,
        lambda self, x: functional.dropout(functional.leaky_relu(x), 0.9, training=True),
        lambda self, x: (torch.stack([x, x]).sum(0) + x).clamp(min=0),
    ],
)
def test_a_constant_neither_opens_nor_closes_a_path(between, linked: bool) -> None:
    """A learned scale that is 0 now need not stay so, and a learned offset is a bias."""
    mask = torch.ones(18, dtype=torch.bool)
    mask[:12] = linked
    effective = effective_mask(Written(between), mask, torch.ones(1, 4))
    assert torch.equal(effective, mask & linked)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_biases_the_effective_weights_compute_what_the_kept_ones_do(name: str) -> None:
    torch.manual_seed(7)
    model = build_model(name, in_channels=1, width=0.1).eval()  # fresh: its biases are 0
    weights, images = prunable(model), torch.randn(2, 1, 28, 28)
    theta = flatten(weights).detach()
    mask = top_k(torch.rand(len(theta)), len(theta) // 5)
    effective = effective_mask(model, mask, images)
    assert 0 < effective.sum() < mask.sum()
    assert torch.equal(effective_mask(model, effective, images), effective)

    def output(kept: Tensor) -> Tensor:
        state = unflatten(theta * kept, weights)
        return torch.func.functional_call(model, state, (images,))

    assert torch.equal(output(effective), output(mask))
    assert output(mask).any()


@pytest.mark.parametrize("fault", [False, True])
def test_a_callers_model_is_left_as_it_was(busy, unchanged, some_mask, fault: bool) -> None:
    mask = some_mask(flatten(prunable(busy)).numel(), 0.5)
    with unchanged(busy), torch.no_grad():
        effective_mask(busy, mask, torch.ones(1, 1, 6, 6))
        if fault:
            with pytest.raises(RuntimeError):
                effective_mask(busy, mask, torch.ones(1, 1, 4, 4))
            with pytest.raises(ValueError, match="flat must have shape"):
                effective_mask(busy, mask[1:], torch.ones(1, 1, 6, 6))
