"""lib.compact: the same function in smaller layers, through training and all."""

import copy
import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import networks
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

import lib
from lib.masks import apply_masks
from lib.networks import compaction
from lib.networks.compaction import Compacted, compact, compacted
from lib.networks.inspection import flatten, prunable, unflatten
from lib.networks.paths import effective_mask

Masks = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _quiet():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a second one costs more than it brings in networks as small as these
    yield
    torch.set_num_threads(threads)


def lively(model: nn.Module) -> nn.Module:
    """In float64, every bias, β, γ and running statistic at random: nothing is 0 by chance."""
    for module in model.modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and tensor.is_floating_point() and tensor.ndim == 1:
                low, high = (0.5, 1.5) if name in ("weight", "running_var") else (-0.5, 0.5)
                nn.init.uniform_(tensor, low, high)
    for weight in prunable(model).values():
        nn.init.kaiming_normal_(weight)
    return model.double()


def random_masks(model: nn.Module, density: float, effective_on: Tensor | None = None) -> Masks:
    """Whole rows and columns missing, and single weights; or the effective part of that."""
    masks = {}
    for name, weight in prunable(model).items():
        rows, columns = torch.rand(len(weight), 1), torch.rand(1, weight.shape[1])
        keep = (rows < density**0.3) & (columns < density**0.3)
        keep = keep.view(*keep.shape, *(1,) * (weight.ndim - 2))
        masks[name] = keep & (torch.rand(weight.shape) < density**0.4)
    if effective_on is not None:
        effective = effective_mask(model, flatten(masks), effective_on)
        masks = {name: mask.clone() for name, mask in unflatten(effective, prunable(model)).items()}
    return masks


def train(model: nn.Module, x: Tensor, steps: int) -> None:
    target = torch.arange(len(x)) % 3
    optimiser = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9, weight_decay=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        functional.cross_entropy(model(x), target).backward()
        optimiser.step()


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    assert a.shape == b.shape
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * (1 + b.abs().max().item()))


def agree(
    model: nn.Module,
    masks: Masks,
    x: Tensor,
    steps: int = 20,
    tolerances: tuple[float, float] = (1e-10, 1e-7),
) -> Compacted:
    """Compacts, and holds outputs, training and the way back to the large network.

    Training makes rounding errors grow, most where a batch normalisation sees few values: hence a
    second tolerance for what comes after it.
    """
    tol, later = tolerances
    full = apply_masks(copy.deepcopy(model), masks)
    small, parts = compact(full, x), compacted(model, masks, x)
    assert [(n, p.shape) for n, p in sorted(parts.masks.items())] == sorted(
        (n.removesuffix("_mask"), b.shape) for n, b in small.named_buffers() if "_mask" in n
    )
    for mode in (False, True):
        full.train(mode), small.train(mode)
        with torch.no_grad():
            close(small(x), full(x), tol)
    train(full, x, steps)
    train(small, x, steps)
    for name, module in (*small.named_modules(),):
        large = full.get_submodule(name)
        names = [n.removesuffix("_orig") for n in (*module._parameters, *module._buffers)]
        for attribute in (n for n in names if not n.endswith("_mask")):
            value, expected = getattr(module, attribute), getattr(large, attribute)
            if value is None:
                continue
            for axis, index in enumerate(parts.kept.get(f"{name}.{attribute}".lstrip("."), ())):
                expected = expected.index_select(axis, index)
            close(value.detach(), expected.detach(), later)
    full.eval(), small.eval()
    with torch.no_grad():
        close(small(x), full(x), later)
    return parts


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# --- the networks ----------------------------------------------------------------------------


def sequential() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3), nn.LeakyReLU(inplace=True), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(8 * 36, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 10)),
    )


def torchvision_resnet() -> nn.Module:
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return model


def torchvision_vgg() -> nn.Module:
    model = torchvision.models.vgg.VGG(
        torchvision.models.vgg.make_layers([8, "M", 16, "M", 16, 16, "M"], batch_norm=True),
        num_classes=10,
        dropout=0.0,
    )
    model.features[0] = nn.Conv2d(1, 8, 3, padding=1)
    model.classifier[0], model.classifier[3] = nn.Linear(16 * 49, 24), nn.Linear(24, 24)
    model.classifier[6] = nn.Linear(24, 10)
    return model


NETWORKS = {
    "lenet300": lambda: lib.build_model("lenet300"),
    "lenet5": lambda: lib.build_model("lenet5"),
    **{
        name: lambda name=name: lib.build_model(name, width=0.125)
        for name in ("vgg11", "vgg16", "vgg19", "resnet20", "resnet32")
    },
    "sequential": sequential,
    "torchvision_vgg": torchvision_vgg,
}


@pytest.mark.parametrize("density", [0.5, 0.05])
@pytest.mark.parametrize("name", NETWORKS)
def test_exact_with_random_masks(name, density):
    model, x = lively(NETWORKS[name]()), torch.randn(6, 1, 28, 28).double()
    small = agree(model, random_masks(model, density), x)
    assert density == 0.5 or count(small.model) < count(model)


@pytest.mark.parametrize("name", NETWORKS)
def test_exact_with_effective_masks(name):
    model, x = lively(NETWORKS[name]()), torch.randn(6, 1, 28, 28).double()
    agree(model, random_masks(model, 0.3, effective_on=x), x)


@pytest.mark.parametrize("method", ["snip", "grasp", "synflow", "magnitude", "random", "panning"])
@pytest.mark.parametrize("name", ["lenet5", "vgg11", "resnet20"])
def test_exact_with_the_masks_of_the_methods(name, method):
    model = lib.build_model(name, width=0.125)
    x = torch.randn(10, 1, 28, 28)
    steps = 3 if method in ("synflow", "panning") else 1
    result = lib.pan(model, [(x, torch.arange(10))], 0.97, steps, method=method)
    for masks in (result.masks, result.effective):
        small = agree(lively(copy.deepcopy(model)), masks, x.double(), steps=2)
    assert count(small.model) < count(model)


def test_exact_on_torchvision_resnet18():
    model, x = lively(torchvision_resnet()), torch.randn(4, 1, 40, 40).double()
    small = agree(model, random_masks(model, 0.05), x, steps=1)
    assert count(small.model) < 0.6 * count(model)


@pytest.mark.parametrize("name", ["lenet5", "vgg11", "resnet20"])
def test_one_step_in_float32(name):
    model = lively(lib.build_model(name, width=0.25)).float()
    agree(
        model,
        random_masks(model, 0.2),
        torch.randn(16, 1, 28, 28),
        steps=1,
        tolerances=(1e-4, 1e-4),
    )


def test_synflow_at_99_percent_leaves_a_fraction_of_lenet5():
    model = lib.build_model("lenet5")
    batch = (torch.randn(10, 1, 28, 28), torch.arange(10))
    masks = lib.pan(model, [batch], 0.99, 20, method="synflow").effective
    assert count(compact(apply_masks(model, masks), batch[0])) < 0.15 * 431080


# --- the rules, one by one -------------------------------------------------------------------


class Chain(nn.Module):
    """Convolution, normalisation, something in between, linear layer."""

    def __init__(self, between=lambda x: x.flatten(1), norm=nn.BatchNorm2d, features=4 * 36):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), norm(4)
        self.fc, self.between = nn.Linear(features, 3), between

    def forward(self, x):
        return self.fc(self.between(functional.relu(self.norm(self.conv(x)))))


def ones(model: nn.Module) -> Masks:
    return {n: torch.ones_like(w, dtype=torch.bool) for n, w in prunable(model).items()}


def without_channel_1(model: nn.Module) -> Masks:
    """Nobody reads the second of `Chain`'s four channels."""
    masks = ones(model)
    masks["fc.weight"].view(3, 4, -1)[:, 1] = False
    return masks


X = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(1)).double()


def test_a_channel_that_nobody_reads_goes():
    model = lively(Chain())
    small = agree(model, without_channel_1(model), X).model
    assert (small.conv.out_channels, small.norm.num_features, small.fc.in_features) == (3, 3, 108)
    assert small.conv.weight.shape == (3, 2, 3, 3) and small.norm.running_var.shape == (3,)


def test_a_constant_that_is_read_stays():
    model = lively(Chain())
    masks = ones(model)
    masks["conv.weight"][1] = False  # nothing comes in, but its bias and β go out
    assert agree(model, masks, X).model.conv.out_channels == 4


def test_a_hidden_unit_goes_with_what_only_it_reads():
    model = lively(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 3)))
    masks = ones(model)
    masks["3.weight"][:, 2] = False  # unit 2 of the second layer is not read ...
    masks["2.weight"][:, 1] = False
    masks["2.weight"][2, 1] = True  # ... and alone reads unit 1 of the first
    small = agree(model, masks, X[:, :, 0, 0]).model
    assert [small[i].out_features for i in (0, 2, 3)] == [3, 3, 3]


class Residual(nn.Module):
    """A stream of four channels through two blocks."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(4, 5, 3, padding=1) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(5, 4, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2))
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        for inner, outer, norm in zip(self.inner, self.outer, self.norms, strict=True):
            x = functional.relu(x + norm(outer(functional.relu(inner(x)))))
        return self.fc(x.mean((2, 3)))


def test_a_channel_of_the_stream_goes_when_nobody_reads_it_anywhere():
    model = lively(Residual())
    masks = ones(model)
    masks["fc.weight"][:, 1] = False
    for name in ("inner.0.weight", "inner.1.weight"):
        masks[name][:, 1] = False
    small = agree(model, masks, X).model
    assert {small.stem.out_channels, small.fc.in_features} == {3}
    assert [norm.num_features for norm in small.norms] == [3, 3]
    assert [conv.in_channels for conv in small.inner] == [3, 3]


def test_a_channel_of_the_stream_stays_while_one_block_reads_it():
    model = lively(Residual())
    masks = ones(model)
    masks["fc.weight"][:, 1] = False
    masks["inner.0.weight"][:, 1] = False
    assert agree(model, masks, X).model.stem.out_channels == 4


def test_beta_reaches_the_stream_where_a_block_is_dead():
    model = lively(Residual())
    masks = ones(model)
    masks["outer.1.weight"][:] = False  # the block is dead, but norms[1] still adds its β
    masks["outer.0.weight"][2] = False
    small = agree(model, masks, X).model
    assert small.inner[1].out_channels == 1 and small.outer[1].weight.shape == (4, 1, 3, 3)
    assert small.stem.out_channels == 4


@pytest.mark.parametrize("name", ["lenet300", "lenet5", "vgg11", "resnet20", "sequential"])
def test_a_dead_network_keeps_one_unit_a_layer(name):
    model, x = lively(NETWORKS[name]()), torch.randn(6, 1, 28, 28).double()
    masks = {n: torch.zeros_like(w, dtype=torch.bool) for n, w in prunable(model).items()}
    small = agree(model, masks, x, steps=5).model
    *hidden, last = prunable(small).values()
    assert all(len(weight) == 1 for weight in hidden) and len(last) == 10


def test_an_emptied_layer_in_the_middle():
    model, x = lively(lib.build_model("lenet5")), torch.randn(6, 1, 28, 28).double()
    masks = ones(model)
    masks["conv2.weight"][:] = False  # its biases are read all the same
    small = agree(model, masks, x, steps=5).model
    assert small.conv1.out_channels == 1 and small.conv2.out_channels == 50


# --- what mixes channels, and what is not known ----------------------------------------------

MIXING = {
    "group_norm": lambda n: nn.GroupNorm(2, n),
    "layer_norm": lambda n: nn.LayerNorm([n, 6, 6]),
}


@pytest.mark.parametrize("name", MIXING)
def test_normalisation_over_a_dead_channel_is_refused_by_name(name):
    model = lively(Chain(norm=MIXING[name]))
    with pytest.raises(ValueError, match=rf"{name} with 'norm.weight'.* killed 1 of"):
        compacted(model, without_channel_1(model), X)
    agree(model, ones(model), X)  # with all channels alive there is nothing to refuse


UNKNOWN = {
    "softmax": lambda x: x.softmax(1).flatten(1),
    "roll": lambda x: x.roll(1, 1).flatten(1),
    "cat": lambda x: torch.cat([x, x], 1)[:, :4].flatten(1),
    "response": lambda x: functional.local_response_norm(x, 3).flatten(1),
    "constant": lambda x: (x * torch.arange(4).view(4, 1, 1)).flatten(1),
    "fixed view": lambda x: x.view(-1, 144),
    "index": lambda x: x[:, [1, 0, 3, 2]].flatten(1),
    "transpose": lambda x: x.transpose(1, 2).flatten(1),
    "channel pool": lambda x: functional.max_pool1d(x.flatten(2).transpose(1, 2), 1).flatten(1),
    "item": lambda x: (x / (1 + x.abs().mean().item())).flatten(1),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_operation_keeps_its_channels(name):
    model = lively(Chain(UNKNOWN[name]))
    masks = without_channel_1(model)
    assert agree(model, masks, X).model.conv.out_channels == 4


KNOWN = {
    "view": lambda x: x.view(x.size(0), -1),
    "reshape": lambda x: x.reshape((len(x), -1)),
    "scaled": lambda x: (2 * x - 1 + x / torch.ones(6, 6)).flatten(1),
    "gated": lambda x: (x * x.mean((2, 3), keepdim=True).sigmoid()).flatten(1),
    "in place": lambda x: (2 * x).add_(x.clone()).relu_().contiguous().flatten(1),
    "noise": lambda x: (torch.ones(len(x), 1, 1, 1) * x).flatten(1),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_operation_does_not(name):
    model = lively(Chain(KNOWN[name]))
    assert agree(model, without_channel_1(model), X).model.conv.out_channels == 3


class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean(1, keepdim=True)
        return functional.conv2d(x, weight, self.bias)


def test_grouped_convolutions_and_computed_weights_keep_their_channels():
    layers = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, groups=4), StandardisedConv(4, 4, 1)
    model = lively(nn.Sequential(*layers, nn.Conv2d(4, 3, 1), nn.Flatten(), nn.Linear(48, 3)))
    masks = random_masks(model, 0.05)
    masks["3.weight"][:, 1] = masks["5.weight"].view(3, 3, -1)[:, 1] = False
    small = agree(model, masks, X).model
    assert [layer.out_channels for layer in small[:4]] == [4, 4, 4, 2]
    assert small[1].groups == 4


def test_an_example_that_is_no_tensor_is_refused():
    pair = (torch.randn(2, 4), torch.arange(2))
    with pytest.raises(ValueError, match="example_input must be .* one tensor; got tuple"):
        compact(nn.Linear(4, 2), pair)


def test_a_forward_that_depends_on_the_number_of_channels_is_refused():
    model = lively(Chain(lambda x: x.flatten(1) / math.sqrt(x.shape[1])))
    with pytest.raises(ValueError, match="depends on the number of channels"):
        compacted(model, without_channel_1(model), X)


@pytest.mark.parametrize("mode", [True, False])
def test_a_branch_of_one_mode_is_read_too(mode):
    class Branched(Chain):
        def __init__(self):
            super().__init__()
            self.aside = nn.Conv2d(4, 3, 1)

        def forward(self, x):
            x = functional.relu(self.norm(self.conv(x)))
            out = self.fc(x.flatten(1))
            return out + self.aside(x).mean((2, 3)) if self.training == mode else out

    model = lively(Branched())
    assert agree(model, without_channel_1(model), X).model.conv.out_channels == 4


def test_a_layer_used_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.loop, self.fc = nn.Linear(2, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.fc(self.loop(torch.tanh(self.loop(torch.tanh(self.stem(x))))))

    model = lively(Twice())
    masks = ones(model)
    masks["fc.weight"][:, 2] = masks["loop.weight"][:, 2] = False
    assert agree(model, masks, X[:, :, 0, 0]).model.stem.out_features == 5


# --- concatenations, groups, shuffles, other dimensions ------------------------------------------


def grey(model: nn.Module, name: str) -> nn.Module:
    """Its first convolution, for images of one channel."""
    owner, _, attribute = name.rpartition(".")
    conv = model.get_submodule(name)
    settings = (conv.kernel_size, conv.stride, conv.padding)
    first = nn.Conv2d(1, conv.out_channels, *settings, bias=conv.bias is not None)
    setattr(model.get_submodule(owner), attribute, first)
    return model


BRANCHED = {
    "densenet": lambda: grey(
        torchvision.models.DenseNet(4, (3, 3), 8, num_classes=10), "features.conv0"
    ),
    "mobilenet_v2": lambda: grey(
        torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.25, dropout=0), "features.0.0"
    ),
    "mobilenet_v3": lambda: grey(
        torchvision.models.mobilenet_v3_small(num_classes=10, width_mult=0.3, dropout=0),
        "features.0.0",
    ),
    "shufflenet_v2": lambda: grey(
        torchvision.models.ShuffleNetV2([1, 2, 1], [8, 16, 32, 64, 64], num_classes=10), "conv1.0"
    ),
    "resnext": lambda: grey(
        torchvision.models.ResNet(
            torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], 10, groups=16, width_per_group=1
        ),
        "conv1",
    ),
    "squeezenet": lambda: grey(
        torchvision.models.SqueezeNet("1_1", num_classes=10, dropout=0), "features.0"
    ),
}


@pytest.mark.parametrize("name", BRANCHED)
def test_exact_through_concatenations_and_groups(name):
    """With fewer parameters than where they keep all that they touch."""
    model, x = lively(BRANCHED[name]()), torch.randn(4, 1, 64, 64).double()
    masks = random_masks(model, 0.05)
    small = agree(model, masks, x, steps=1)
    kept = count(cautiously(model, masks, x))
    assert count(small.model) < kept <= count(model)


def cautiously(model: nn.Module, masks: Masks, x: Tensor) -> nn.Module:
    """Compacted by the rules of a sequence alone."""
    model = copy.deepcopy(model)
    before = compaction._masked_outputs(model, masks, x[:2])
    return compaction._without(model, masks, x[:2], before, cautious=True).model


class Between(nn.Module):
    """Two layers, `middle` between them, and what reads the outcome."""

    def __init__(self, middle, features=8, **layers):
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.fc, self.middle = nn.Linear(features, 3), middle

    def forward(self, x):
        return self.fc(self.middle(self, self.one(x), self.two(x)).mean((2, 3)))


def reads(features: int, *positions: int) -> Tensor:
    """A mask of the last layer, which reads only these."""
    mask = torch.zeros(3, features, dtype=torch.bool)
    mask[:, list(positions)] = True
    return mask


CUT = {  # what is in between, how many features, which are read; channels that `one` and `two` keep
    "cat": (lambda m, a, b: torch.cat([a, b], 1), 8, (0, 5, 6), (1, 2)),
    "cat, axis from the end": (lambda m, a, b: torch.cat((a, b), dim=-3), 8, (0, 5, 6), (1, 2)),
    "cat of three": (lambda m, a, b: torch.cat([a, b, a], 1), 12, (0, 5, 11), (2, 1)),
    "cat with a constant": (
        lambda m, a, b: torch.cat([a, a.new_ones(len(a), 2, 6, 6), b], 1),
        10,
        (0, 6),
        (1, 1),
    ),
    "chunks": (lambda m, a, b: torch.cat([b, a.chunk(2, 1)[1]], 1), 6, (1, 4), (2, 1)),
    "shuffle": (lambda m, a, b: shuffled(torch.cat([a, b], 1)), 8, (2, 3), (1, 1)),
    "shuffle of torch": (
        lambda m, a, b: functional.channel_shuffle(torch.cat([a, b], 1), 2),
        8,
        (2, 3),
        (1, 1),
    ),
    "view": (lambda m, a, b: a.view(*a.shape[:2], -1, 1) + b.mean(), 4, (1,), None),
    "squeeze and excitation": (
        lambda m, a, b: a * b.mean((2, 3)).view(*b.shape[:2], 1, 1),
        4,
        (1, 2),
        (2, 2),
    ),
    "padding": (lambda m, a, b: functional.pad(a, (1, 2, 0, 1)) + 1, 4, (1,), None),
    "interpolation": (lambda m, a, b: functional.interpolate(a, scale_factor=2), 4, (1,), None),
}


def shuffled(x: Tensor) -> Tensor:
    """Channel shuffle as torchvision writes it."""
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


@pytest.mark.parametrize("name", CUT)
def test_what_goes_through_loses_its_dead_channels(name):
    middle, features, positions, kept = CUT[name]
    model = lively(Between(middle, features))
    masks = ones(model) | {"fc.weight": reads(features, *positions)}
    small = agree(model, masks, X).model
    assert small.one.out_channels == (kept[0] if kept else 1)
    if kept:
        assert small.two.out_channels == kept[1]


LITERAL = {
    "narrow": lambda m, a, b: torch.cat([a, b], 1)[:, :4] + a,
    "fixed view": lambda m, a, b: (a + b).view(-1, 4, 6, 6),
    "fixed shuffle": lambda m, a, b: (
        torch.cat([a, b], 1).view(-1, 2, 4, 6, 6).transpose(1, 2).reshape(-1, 8, 6, 6)[:, :4]
    ),
    "split": lambda m, a, b: torch.cat(torch.split(a, [1, 3], 1), 1) + b,
    "asserts": lambda m, a, b: a + b if a.shape[1] == 4 else 1 / 0,
    "expands by a size": lambda m, a, b: a + b * torch.ones(1, 1, 1).expand(b.size(1) // 4, 1, 1),
    "counts its numbers": lambda m, a, b: a + b * torch.ones(a.numel() // len(a) // 144, 1, 1),
}


@pytest.mark.parametrize("name", LITERAL)
def test_a_forward_that_counts_on_the_number_of_channels_keeps_them(name):
    model = lively(Between(LITERAL[name], 4))
    masks = ones(model) | {"fc.weight": reads(4, 1)}
    assert agree(model, masks, X).model.one.out_channels == 4


def test_a_forward_that_fails_without_its_dead_channels_is_refused_with_its_error():
    model = lively(Between(lambda m, a, b: a + b if m.one.out_channels == 4 else 1 / 0, 4))
    masks = ones(model) | {"fc.weight": reads(4, 1)}
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="its forward fails, with ZeroDivisionError"):
        compacted(model, masks, X)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_outputs_that_are_not_finite_are_compared_in_what_is():
    model = lively(Between(lambda m, a, b: (a + b) * (a.new_ones(6) / 0), 4))
    masks = ones(model) | {"fc.weight": reads(4, 1)}
    assert compacted(model, masks, X).model.one.out_channels == 1
    model = lively(Between(lambda m, a, b: a * float("nan"), 4))
    assert compacted(model, masks, X).model.one.out_channels == 1


@pytest.mark.parametrize(("groups", "out", "left"), [(4, 4, 1), (4, 8, 1), (2, 4, 1), (2, 6, 1)])
def test_a_grouped_convolution_loses_whole_groups(groups, out, left):
    """With all that goes in and out; a group of which one channel is read stays whole."""
    conv = nn.Conv2d(4, out, 3, padding=1, groups=groups)
    norm = nn.BatchNorm2d(out)
    model = lively(Between(lambda m, a, b: m.norm(m.conv(a)).relu(), out, conv=conv, norm=norm))
    masks = ones(model) | {"fc.weight": reads(out, out // groups)}  # the first of group 1
    small = agree(model, masks, X).model
    assert small.conv.groups == left
    assert small.conv.in_channels == small.one.out_channels == 4 // groups
    assert small.conv.out_channels == small.norm.num_features == out // groups
    assert small.conv.weight.shape == (out // groups, 4 // groups, 3, 3)


def test_a_dead_grouped_convolution_keeps_one_group():
    conv = nn.Conv2d(4, 4, 1, groups=4)
    model = lively(Between(lambda m, a, b: m.conv(a) * 1, 4, conv=conv))
    masks = {name: torch.zeros_like(mask) for name, mask in ones(model).items()}
    assert agree(model, masks, X).model.conv.groups == 1


@pytest.mark.parametrize("dims", [1, 3])
def test_exact_in_one_and_three_dimensions(dims):
    conv, norm, pool, mean = (
        getattr(nn, f"{kind}{dims}d")
        for kind in ("Conv", "BatchNorm", "MaxPool", "AdaptiveAvgPool")
    )
    model = lively(
        nn.Sequential(
            *(conv(2, 6, 3, padding=1), norm(6), nn.PReLU(6), pool(2)),
            *(conv(6, 6, 1, groups=6), conv(6, 5, 1), nn.ReLU(), mean(1), nn.Flatten()),
            nn.Linear(5, 3),
        )
    )
    x = torch.randn(6, 2, *(8,) * dims).double()
    masks = ones(model) | {"9.weight": reads(5, 1, 3)}
    masks["5.weight"][:, 2:] = False
    small = agree(model, masks, x).model
    assert [small[i].out_channels for i in (0, 4, 5)] == [2, 2, 2]


def test_networks_in_which_nothing_is_tied():
    model = lively(nn.Sequential(nn.Linear(2, 3, bias=False)))
    agree(model, random_masks(model, 0.5), X[:, :, 0, 0])

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 3, bias=False)

        def forward(self, x):
            return self.head(functional.layer_norm(self.table(x), (4,)))

    model, x = Tokens(), torch.arange(8).view(2, 4)
    apply_masks(model, {"head.weight": torch.rand(3, 4) < 0.5})
    torch.testing.assert_close(compact(model, x)(x), model(x))


# --- the caller's model, and PyTorch's own tools ---------------------------------------------


def test_the_callers_model_is_left_as_it_was():
    model = lively(lib.build_model("vgg11", width=0.1))
    apply_masks(model, random_masks(model, 0.2)).train()
    model.features[1].eval()
    x = torch.randn(4, 1, 28, 28).double()
    model(x).sum().backward()

    def seen() -> tuple:
        modules = [(m.training, list(m._forward_pre_hooks), set(vars(m))) for m in model.modules()]
        tensors = [(n, id(t), t.grad is None) for n, t in model.named_parameters()]
        return modules, tensors, torch.get_rng_state().tolist()

    state, before = copy.deepcopy(model.state_dict()), seen()
    small = compact(model, x)
    assert seen() == before
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    ours = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
    assert ours.isdisjoint(t.untyped_storage().data_ptr() for t in small.state_dict().values())


def test_masks_are_applied_again_and_removed_weights_keep_their_values():
    model = lively(Chain())
    masks = without_channel_1(model)
    masks["conv.weight"][0, 1, 2, 2] = False
    small = compact(apply_masks(model, masks), X)
    assert prune.is_pruned(small.conv) and prune.is_pruned(small.fc)
    assert small.conv.weight_mask.sum() == 3 * 2 * 9 - 1 and small.conv.weight[0, 1, 2, 2] == 0
    assert small.conv.weight_orig[0, 1, 2, 2] == model.conv.weight_orig[0, 1, 2, 2] != 0
    assert small.fc.weight_mask.all()  # nothing is removed from what remains, and still it is there
    prune.remove(small.conv, "weight")
    assert small.conv.weight[0, 1, 2, 2] == 0


def test_biases_may_be_pruned_and_layers_not():
    model = lively(Chain())
    prune.l1_unstructured(model.conv, "bias", amount=2)
    prune.custom_from_mask(model.fc, "weight", without_channel_1(model)["fc.weight"])
    small = compact(model, X)
    assert small.conv.bias_mask.shape == (3,) and not hasattr(small.conv, "weight_mask")
    assert not prune.is_pruned(small.norm)
    close(small(X), model(X), 1e-12)


def test_a_network_that_is_not_pruned_comes_back_whole():
    model = lively(lib.build_model("lenet5"))
    small = compact(model, torch.randn(2, 1, 28, 28).double())
    assert small is not model and count(small) == count(model)


def test_restore_writes_back_what_was_kept():
    model = lively(lib.build_model("lenet5"))
    x = torch.randn(4, 1, 28, 28).double()
    masks = random_masks(model, 0.02)
    original = copy.deepcopy(model)
    small = compacted(model, masks, x)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), original.parameters(), strict=True)
    )
    with torch.no_grad():
        for parameter in small.model.parameters():
            parameter.add_(1)
    small.restore(model)
    changed = sum(
        (a != b).sum() for a, b in zip(model.parameters(), original.parameters(), strict=True)
    )
    assert changed == count(small.model) < count(model)
    with torch.no_grad():
        for net, mine in ((model, masks), (small.model, small.masks)):
            for name, mask in mine.items():
                net.get_parameter(name).mul_(mask)
        close(small.model(x), model(x), 1e-12)


# --- anything at all -------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(networks(), st.floats(0.001, 1), st.integers(0, 99), st.booleans())
def test_exact_on_any_network_with_any_mask(model, density, seed, effective):
    torch.manual_seed(seed)
    model = lively(model)
    agree(model, random_masks(model, density, X if effective else None), X, steps=3)
