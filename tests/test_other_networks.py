"""What other people's networks do and ours do not: scored as a plain twin is, or refused."""

import ast
import copy
import math
import random
import re
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torchvision
from timm.layers import ScaledStdConv2d, StdConv2d, StdConv2dSame
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from lib import apply_masks, compact, metrics, pan, train
from lib.data.images import ImageSet, scoring_batches
from lib.networks import probes
from lib.networks.inspection import flatten, mode_of, prunable
from lib.networks.reading import usage
from lib.panning import Panning

TARGETS = torch.arange(6) % 3


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


VECTORS, IMAGES, PICTURES = noise(6, 8), noise(6, 3, 16, 16), noise(6, 3, 32, 32)


def scores(model: nn.Module, inputs: Tensor, masked: bool) -> dict[str, Tensor]:
    """All three metrics, of the dense network or of half of it."""
    total = flatten(prunable(model)).numel()
    mask = torch.rand(total, generator=torch.Generator().manual_seed(2)) < 0.6 if masked else None
    batch = inputs, TARGETS
    return {name: getattr(metrics, name)(model, mask, batch) for name in metrics.METRICS}


def assert_same_scores(model: nn.Module, plain: nn.Module, inputs: Tensor, exact: bool = True):
    plain.load_state_dict(model.state_dict())
    for masked in (False, True):
        expected = scores(plain, inputs, masked)
        for name, found in scores(model, inputs, masked).items():
            slack = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-3, "atol": 1e-9}
            torch.testing.assert_close(found, expected[name], **slack, check_dtype=False)
            assert found.any()


def train_steps(model: nn.Module, inputs: Tensor, masks) -> None:
    """Three steps, after which every removed weight must still do nothing."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        functional.cross_entropy(model(inputs), TARGETS).backward()
        optimiser.step()
    model(inputs)
    for name, mask in masks.items():
        assert not model.get_submodule(name.rpartition(".")[0]).weight[~mask].any()


# --- weights that are read without a call of their layer -----------------------------------------


class Reads(nn.Module):
    """`read` says how the weight of the second of three layers is used."""

    def __init__(self, read: Callable[["Reads", Tensor], Tensor]):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return self.c(functional.relu(self.read(self, functional.relu(self.a(x)))))


STRAY = {
    "functional": lambda m, x: functional.linear(x, m.b.weight, m.b.bias),
    "matmul": lambda m, x: x @ m.b.weight.T,
    "forward": lambda m, x: m.b.forward(x),  # no hook of `prune` runs
    "view": lambda m, x: functional.linear(x, m.b.weight[:4].repeat(2, 1)),
    "called, too": lambda m, x: m.b(x) + functional.linear(x, m.b.weight),
    "in training": lambda m, x: functional.linear(x, m.b.weight) if m.training else m.b(x),
    "in evaluation": lambda m, x: m.b(x) if m.training else functional.linear(x, m.b.weight),
}
CALLED = {
    "called": lambda m, x: m.b(x),
    "twice": lambda m, x: m.b(m.b(x)),
    "precision": lambda m, x: m.b(x.to(m.b.weight.dtype)) + x.new_zeros(m.b.weight.shape[0]),
    "like": lambda m, x: m.b(x.type_as(m.b.weight)) + torch.zeros_like(m.b.weight)[0],
}


@pytest.mark.parametrize("name", STRAY)
def test_a_weight_that_is_read_elsewhere_is_left_out_with_one_warning(name: str, unchanged) -> None:
    model = Reads(STRAY[name])
    with unchanged(model), pytest.warns(UserWarning, match="weights of b are read without") as seen:
        result = pan(model, [(VECTORS, TARGETS)], 0.5, 3)
    assert len(seen) == 1
    assert list(result.masks) == ["a.weight", "c.weight"]
    assert result.masks.count == (64 + 24) // 2
    train_steps(apply_masks(model, result.masks), VECTORS, result.masks)


@pytest.mark.parametrize("name", STRAY)
def test_without_a_warning_if_the_caller_leaves_it_out(name: str, recwarn) -> None:
    result = pan(Reads(STRAY[name]), [(VECTORS, TARGETS)], 0.5, 3, leave_out=["b"])
    assert list(result.masks) == ["a.weight", "c.weight"]
    assert not recwarn.list


@pytest.mark.parametrize("name", CALLED)
def test_a_weight_whose_layer_is_called_stays_in(name: str, recwarn) -> None:
    result = pan(Reads(CALLED[name]), [(VECTORS, TARGETS)], 0.5, 3)
    assert len(result.masks) == 3 and not recwarn.list


class Unhooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.fc.weight.T


def test_a_network_that_calls_none_of_its_layers_is_refused() -> None:
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="calls none of its layers"):
        pan(Unhooked(), [(VECTORS, TARGETS)], 0.5)


READERS = {
    "torchvision swin": lambda: torchvision.models.swin_transformer.SwinTransformer(
        [2, 2], 24, [1, 1], [2, 2], [4, 4], num_classes=3
    ),
    "timm beit": lambda: timm.create_model(
        "beit_base_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=2, num_classes=3
    ),
    "timm eva": lambda: timm.create_model(
        "eva02_tiny_patch14_224", img_size=28, embed_dim=24, depth=2, num_heads=2, num_classes=3
    ),
}


@pytest.mark.filterwarnings("ignore:model. the weights of")
@pytest.mark.parametrize("name", READERS)
def test_networks_of_libraries_train_with_their_masks(name: str) -> None:
    torch.manual_seed(0)
    model = READERS[name]()
    inputs = noise(6, 3, 28, 28) if "eva" in name else PICTURES
    result = pan(model, [(inputs, TARGETS)], 0.5, 2)
    train_steps(apply_masks(model, result.masks), inputs, result.masks)


# --- weights that are computed -------------------------------------------------------------------


class Half(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def chain(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), layer, nn.ReLU(), nn.Linear(8, 3))


def conv_chain(layer: nn.Module) -> nn.Module:
    head = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), layer, *head)


def pruned(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


def parametrised(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Half())
    return layer


COMPUTED = {
    "StdConv2d": (lambda: conv_chain(StdConv2d(8, 8, 3)), "computes another weight"),
    "StdConv2dSame": (lambda: conv_chain(StdConv2dSame(8, 8, 3)), "computes another weight"),
    "ScaledStdConv2d": (lambda: conv_chain(ScaledStdConv2d(8, 8, 3)), "computes another weight"),
    "old weight_norm": (lambda: chain(nn.utils.weight_norm(nn.Linear(8, 8))), "computes its"),
    "weight_norm": (lambda: chain(parametrizations.weight_norm(nn.Linear(8, 8))), "computes its"),
    "old spectral_norm": (lambda: chain(nn.utils.spectral_norm(nn.Linear(8, 8))), "computes its"),
    "spectral_norm": (
        lambda: chain(parametrizations.spectral_norm(nn.Linear(8, 8))),
        "computes its",
    ),
    "parametrization": (lambda: chain(parametrised(nn.Linear(8, 8))), "computes its weight"),
    "pruned": (lambda: chain(pruned(nn.Linear(8, 8))), "is pruned already"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_weight_is_refused_and_works_to_the_end_when_left_out(
    name: str, used: bool
) -> None:
    torch.manual_seed(0)
    make, message = COMPUTED[name]
    model = make()
    inputs = IMAGES if name in ("StdConv2d", "StdConv2dSame", "ScaledStdConv2d") else VECTORS
    batch = inputs, TARGETS
    if used:  # a step leaves computed tensors behind, which cannot be deep-copied
        functional.cross_entropy(model(inputs), TARGETS).backward()
    with pytest.raises(ValueError, match=f"layer '2' {message}.* leave_out=\\['2'\\]"):
        pan(model, [batch], 0.7, 3)
    result = pan(model, [batch], 0.7, 3, leave_out=["2"])
    assert "2.weight" not in result.masks
    assert len(result.masks) == 2
    apply_masks(model, result.effective)
    train_steps(model, inputs, result.effective)
    small = compact(model.eval(), inputs)
    torch.testing.assert_close(small(inputs), model(inputs))


def test_all_layers_that_cannot_be_pruned_are_named_at_once() -> None:
    settings = {"stem_chs": 32, "act_layer": nn.ReLU, "conv_layer": StdConv2d, "num_classes": 3}
    model = timm.models.resnetv2.ResNetV2([1, 1], [128, 128], **settings)
    batch = PICTURES, TARGETS
    with pytest.raises(ValueError, match="computes another weight") as raised:
        pan(model, [batch], 0.5, 1)
    named = ast.literal_eval(re.search(r"leave_out=(\[.*\])", str(raised.value))[1])
    assert len(named) > 5
    result = pan(model, [batch], 0.5, 1, leave_out=named)
    assert {*result.masks, *(f"{name}.weight" for name in named)} == {*prunable(model)}


def test_a_weight_that_is_only_cast_or_scaled_is_pruned() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, self.weight.to(x.dtype) * 0.5, self.bias)

    class Turned(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, x, self.weight.t())

    for layer in (Scaled(8, 8), Turned(8, 8)):
        assert len(pan(chain(layer), [(VECTORS, TARGETS)], 0.5, 3).masks) == 3


def test_usage_disturbs_nothing(busy, batches, unchanged) -> None:
    with unchanged(busy):
        logits, stray, computed = usage(busy, prunable(busy), batches[0][0])
    assert logits.shape == (6, 3)
    assert not stray and not computed


# --- chance inside a module ----------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], dropout: float):
        super().__init__()
        self.rnn = kind(4, 6, 2, dropout=dropout, batch_first=True)
        self.fc, self.out = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(functional.relu(self.fc(self.rnn(x.view(len(x), 2, 4))[0][:, -1])))


class Noise(nn.Module):
    """In train mode, from three generators."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x + torch.randn_like(x) * (1 + float(np.random.rand())) + random.random()


CHANCE = {
    "lstm": (lambda: Recurrent(nn.LSTM, 0.5), VECTORS),
    "rrelu": (lambda: nn.Sequential(nn.Linear(8, 8), nn.RReLU(), nn.Linear(8, 3)), VECTORS),
    "noise": (lambda: nn.Sequential(nn.Linear(8, 8), Noise(), nn.Linear(8, 3)), VECTORS),
    "fractional": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 4, 3), nn.FractionalMaxPool2d(2, output_size=5)),
            *(nn.Flatten(), nn.Linear(100, 3)),
        ),
        IMAGES,
    ),
}


@pytest.mark.parametrize("name", CHANCE)
def test_chance_in_a_module_is_the_same_each_time_and_moves_no_generator(name: str) -> None:
    torch.manual_seed(0)
    make, inputs = CHANCE[name]
    model, found = make(), []
    for seed in (1, 2):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        np.random.normal(), random.gauss()  # each keeps a second number for the next call
        before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
        process = Panning(model, [(inputs, TARGETS)], 0.8, 3)
        process.step((0.2, 0.5, 0.3))
        found.append((process.mask, process.observe(), process.scores((0, 1, 0))))
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1:] == (str(np.random.get_state()), random.getstate())
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert torch.equal(found[0][2], found[1][2])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_network_is_scored_without_its_dropout(kind) -> None:
    model = Recurrent(kind, 0.5)
    assert_same_scores(model, Recurrent(kind, 0.0), VECTORS)
    assert model.rnn.dropout == 0.5


def test_generators_are_given_back_after_a_failure() -> None:
    model = nn.Linear(1, 1)
    np.random.normal(), random.gauss()  # each keeps a second number for the next call
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    with pytest.raises(KeyError), mode_of(model, True):
        torch.rand(1), np.random.rand(), random.random()
        raise KeyError
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (str(np.random.get_state()), random.getstate())


# --- activation checkpointing --------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, how: str):
        super().__init__()
        self.how = how
        self.a, self.c = nn.Linear(8, 8), nn.Linear(8, 3)
        self.b = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.a(x))
        if self.how == "sequential":
            x = checkpoint_sequential(self.b, 2, x, use_reentrant=False)
        elif self.how:
            x = checkpoint(self.b, x, use_reentrant=self.how == "reentrant")
        else:
            x = self.b(x)
        return self.c(functional.relu(x))


@pytest.mark.parametrize("how", ["reentrant", "not reentrant", "sequential"])
def test_a_checkpointed_network_is_scored_as_the_plain_one(how: str) -> None:
    torch.manual_seed(0)
    assert_same_scores(Checkpointed(how), Checkpointed(""), VECTORS)


def test_checkpointed_networks_of_libraries_are_scored_as_the_plain_ones() -> None:
    torch.manual_seed(0)
    densenets = (
        torchvision.models.DenseNet(4, (2, 2), 8, num_classes=3, memory_efficient=efficient)
        for efficient in (True, False)
    )
    assert_same_scores(*densenets, PICTURES)
    settings = {"img_size": 32, "depth": 2, "num_classes": 3}
    vits = [timm.create_model("vit_tiny_patch16_224", **settings) for _ in range(2)]
    vits[0].set_grad_checkpointing(True)
    assert_same_scores(*vits, PICTURES)


def test_checkpointing_comes_back() -> None:
    """Even after a failure: the caller's own training goes on in little memory."""
    import torch.utils.checkpoint as module

    before = module.CheckpointFunction, module._checkpoint_without_reentrant_generator_impl
    with pytest.raises(KeyError), mode_of(nn.Linear(1, 1), True):
        raise KeyError
    after = module.CheckpointFunction, module._checkpoint_without_reentrant_generator_impl
    assert before == after


# --- layout, precision, one sample ---------------------------------------------------------------


class Flat(nn.Module):
    def __init__(self, flat: Callable[[Tensor], Tensor]):
        super().__init__()
        self.conv, self.fc, self.flat = nn.Conv2d(3, 8, 3), nn.Linear(8 * 14 * 14, 3), flat

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flat(functional.relu(self.conv(x))))


@pytest.mark.parametrize(
    "flat", [lambda x: x.view(len(x), -1), lambda x: x.view(len(x), 8 * 14 * 14)]
)
def test_a_view_after_a_convolution(flat) -> None:
    torch.manual_seed(0)
    model, plain = Flat(flat), Flat(lambda x: x.flatten(1))
    assert_same_scores(model, plain, IMAGES, exact=False)
    batch = IMAGES, TARGETS
    assert pan(model, [batch], 0.9, 3).masks == pan(plain, [batch], 0.9, 3).masks
    images = ImageSet((IMAGES * 50 + 128).clamp(0, 255).byte(), TARGETS, 3, (0.5,) * 3, (0.5,) * 3)
    masks = pan(model, [batch], 0.9, 3).effective
    for fast in (True, False):
        assert train(model, images, masks, epochs=2, batch_size=3, compact=fast)[-1] < 2


class Constants(nn.Module):
    """Makes tensors, and asks for float32 by name; `plain` does neither."""

    def __init__(self, plain: bool):
        super().__init__()
        self.plain = plain
        self.a, self.h, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.table = torch.ones(8)  # no buffer, so that it is nobody's to convert

    def forward(self, x: Tensor) -> Tensor:
        if self.plain:
            return self.c(functional.relu(self.h(x[:, :8] * 0) + self.a(x) + 1))
        state = torch.zeros(len(x), 8)
        state[:, 2:] = 0.0 * x[:, 2:]
        x = self.h(state) + self.a(x).float() + torch.ones(8, dtype=torch.float32)
        x = x + functional.linear(self.table, torch.zeros(8, 8, device=x.device))
        return self.c(functional.relu(x.to(torch.float32)))


def test_a_forward_that_makes_float32_is_scored_in_float64() -> None:
    torch.manual_seed(0)
    model, plain = Constants(False), Constants(True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-25)
    plain.load_state_dict(model.state_dict())
    found, expected = (metrics.synflow(m, None, (VECTORS, TARGETS)) for m in (model, plain))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert torch.get_default_dtype() == torch.float32


def normed(tracked: bool) -> nn.Module:
    norm = nn.BatchNorm1d(8, track_running_stats=tracked)
    return nn.Sequential(nn.Linear(8, 8), norm, nn.ReLU(), nn.Linear(8, 3))


def test_batch_normalisation_without_running_statistics_is_at_rest_in_synflow(unchanged) -> None:
    torch.manual_seed(0)
    model, fresh = normed(False), normed(True)
    fresh.load_state_dict(model.state_dict(), strict=False)
    batch = VECTORS, TARGETS
    with unchanged(model):
        found = metrics.synflow(model, None, batch)
    assert torch.equal(found, metrics.synflow(fresh, None, batch)) and found.any()
    assert pan(model, [batch], 0.8, 5).masks == pan(fresh, [batch], 0.8, 5).masks
    assert model[1].running_mean is None
    result = pan(model, [batch], 0.8, 5)
    apply_masks(model, result.masks)
    torch.testing.assert_close(compact(model, VECTORS[:1])(VECTORS), model(VECTORS))


# --- wrappers, shapes ----------------------------------------------------------------------------


def test_a_network_in_data_parallel_is_pruned_as_it_is_without() -> None:
    torch.manual_seed(0)
    model = chain(nn.Linear(8, 8))
    wrapped = nn.DataParallel(model)
    batch = VECTORS, TARGETS
    found, expected = (pan(m, [batch], 0.8, 5) for m in (wrapped, model))
    assert list(found.masks) == [f"module.{name}" for name in expected.masks]
    assert torch.equal(found.masks.flat, expected.masks.flat)
    assert torch.equal(found.effective.flat, expected.effective.flat)
    apply_masks(wrapped, found.effective)
    small = compact(wrapped, VECTORS)
    torch.testing.assert_close(small(VECTORS), wrapped(VECTORS))
    assert small.module[0].out_features < 8


@pytest.mark.parametrize("dims", [1, 3])
def test_convolutions_in_one_and_three_dimensions_are_pruned_like_their_kin(dims: int) -> None:
    """Extended by axes of extent 1, in which nothing happens, they are those of two dimensions."""

    def network(n: int) -> nn.Module:
        conv, norm, pool = (getattr(nn, f"{kind}{n}d") for kind in ("Conv", "BatchNorm", "MaxPool"))
        size, one = (3,) + (1,) * (n - 1), (2,) + (1,) * (n - 1)
        layers = conv(2, 6, size), norm(6), nn.ReLU(), pool(one), conv(6, 5, size), nn.ReLU()
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(5 * 3, 3))

    torch.manual_seed(0)
    one, other = network(dims), network(2)
    state = one.state_dict()
    with torch.no_grad():
        other.load_state_dict({n: state[n].reshape(t.shape) for n, t in other.state_dict().items()})
    inputs = noise(6, 2, 12)
    first, second = (inputs.view(6, 2, 12, *(1,) * (n - 1)) for n in (dims, 2))
    for method in ("panning", "snip", "grasp", "synflow", "erk", "force"):
        found = pan(one, [(first, TARGETS)], 0.8, 5 if method != "snip" else 1, method=method)
        expected = pan(other, [(second, TARGETS)], 0.8, 5 if method != "snip" else 1, method=method)
        if method != "erk":  # its densities are a matter of the shape
            assert torch.equal(found.masks.flat, expected.masks.flat)
    apply_masks(one, found.effective)
    small = compact(one, first)
    torch.testing.assert_close(small(first), one(first))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in one.parameters())


def test_the_stray_warning_is_the_only_one(recwarn) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pan(chain(nn.Linear(8, 8)), [(VECTORS, TARGETS)], 0.5, 2)


@pytest.mark.parametrize("kind", ["group norm", "counts"])
def test_a_network_that_cannot_be_compacted_is_trained_whole(kind: str) -> None:
    class Count(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / x.shape[1] ** 0.5

    def network() -> nn.Module:
        return conv_chain(nn.GroupNorm(2, 8) if kind == "group norm" else Count())

    images = ImageSet((IMAGES * 50 + 128).clamp(0, 255).byte(), TARGETS, 3, (0.5,) * 3, (0.5,) * 3)
    torch.manual_seed(0)
    model, twin = network(), network()
    twin.load_state_dict(model.state_dict())
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in prunable(model).items()}
    masks["6.weight"][:, 3] = False  # nobody reads that channel
    with pytest.raises(ValueError, match="cannot be compacted"):
        compact(apply_masks(network(), masks), IMAGES)
    found = train(model, images, masks, epochs=2, batch_size=3)
    assert found == train(twin, images, masks, epochs=2, batch_size=3, compact=False)
    assert not model[6].weight[~masks["6.weight"]].any()


# --- what stands in the way of scoring -----------------------------------------------------------


class Through(nn.Module):
    """A chain whose middle is `through(module, x)`."""

    def __init__(self, through: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.through = through

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.through(self.b, functional.relu(self.a(x))))


def without_gradient(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer(x).relu()


class Again(torch.autograd.Function):
    """A layer that runs again in its backward pass, as memory-saving code of one's own does."""

    @staticmethod
    def forward(ctx, layer: nn.Module, x: Tensor) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        with torch.no_grad():
            return layer(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient @ ctx.layer.weight


@pytest.mark.parametrize(
    ("through", "left"),
    [
        (lambda layer, x: layer(x.detach()).relu(), ["b", "c"]),
        (without_gradient, ["c"]),
        (Again.apply, ["a", "c"]),
    ],
)
def test_weights_that_no_gradient_comes_to_stay_whole_with_one_warning(through, left) -> None:
    model = Through(through)
    with pytest.warns(UserWarning, match="no gradient comes from the output to") as seen:
        result = pan(model, [(VECTORS, TARGETS)], 0.5, 3)
    assert len(seen) == 1
    assert list(result.masks) == [f"{name}.weight" for name in left]
    assert result.effective.flat.any()


@pytest.mark.parametrize("where", [torch.no_grad, torch.inference_mode])
def test_a_network_without_any_gradient_is_refused(where) -> None:
    class Closed(nn.Module):
        def __init__(self):
            super().__init__()
            self.chain = chain(nn.Linear(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            with where():
                return self.chain(x)

    with pytest.raises(ValueError, match="no gradient comes from its output"):
        pan(Closed(), [(VECTORS, TARGETS)], 0.5)
    for metric in metrics.METRICS:
        with pytest.raises(ValueError, match="its output has no gradient"):
            getattr(metrics, metric)(Closed(), None, (VECTORS, TARGETS))


class InPlace(nn.Module):
    """Changes what it is given, unless `plain`."""

    def __init__(self, plain: bool):
        super().__init__()
        self.plain, self.chain = plain, chain(nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.chain(x * 0.5 if self.plain else x.mul_(0.5))


def test_a_network_that_changes_its_input_changes_a_copy() -> None:
    model, plain = InPlace(False), InPlace(True)
    inputs = VECTORS.clone()
    assert_same_scores(model, plain, inputs)
    found, expected = (pan(m, [(inputs, TARGETS)], 0.8, 4) for m in (model, plain))
    assert found.masks == expected.masks and found.effective == expected.effective
    probes.trainability(model, found.masks, [(inputs, TARGETS)], 2)
    apply_masks(model, found.effective)
    compact(model, inputs)
    assert torch.equal(inputs, VECTORS)


@pytest.mark.parametrize(
    "around",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        torch.autograd.detect_anomaly,
    ],
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_what_stands_around_a_call_changes_nothing(around) -> None:
    torch.manual_seed(0)
    model, batch = conv_chain(nn.Conv2d(8, 8, 3)), (IMAGES, TARGETS)
    expected, scored = pan(model, [batch], 0.8, 4), scores(model, IMAGES, True)
    process = Panning(model, [batch], 0.8, 4)
    process.step((0.2, 0.5, 0.3))
    seen = process.observe(), process.effective_mask
    with around():
        found = pan(model, [batch], 0.8, 4)
        process = Panning(model, [batch], 0.8, 4)
        process.step((0.2, 0.5, 0.3))
        assert process.observe() == seen[0] and torch.equal(process.effective_mask, seen[1])
        for name, values in scores(model, IMAGES, True).items():
            assert torch.equal(values, scored[name])
    assert found.masks == expected.masks and found.effective == expected.effective


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_callers_default_precision_changes_nothing(dtype) -> None:
    torch.manual_seed(0)
    model, batch = conv_chain(nn.Conv2d(8, 8, 3)), (IMAGES, TARGETS)
    expected = {m: pan(model, [batch], 0.8, 4, method=m) for m in ("panning", "random", "force")}
    try:
        torch.set_default_dtype(dtype)
        for method, result in expected.items():
            found = pan(model, [batch], 0.8, 4, method=method)
            assert found.masks == result.masks and found.effective == result.effective
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_callers_default_device_changes_nothing() -> None:
    """On `meta` whatever is made without a device has no values."""
    torch.manual_seed(0)
    model, batch = conv_chain(nn.Conv2d(8, 8, 3)), (IMAGES, TARGETS)
    images = ImageSet((IMAGES * 50 + 128).clamp(0, 255).byte(), TARGETS, 3, (0.5,) * 3, (0.5,) * 3)
    images = replace(images, crop=2, flip=True)
    expected = {m: pan(model, [batch], 0.8, 4, method=m) for m in ("panning", "random", "erk")}
    drawn = scoring_batches(images, 3, 2, 2)
    twin = copy.deepcopy(model)
    history = train(twin, images, expected["panning"].effective, epochs=2, batch_size=3)
    with torch.device("meta"):
        for method, result in expected.items():
            found = pan(model, [batch], 0.8, 4, method=method)
            assert found.masks == result.masks and found.effective == result.effective
        for one, other in zip(scoring_batches(images, 3, 2, 2), drawn, strict=True):
            assert all(map(torch.equal, one, other))
        found = train(model, images, expected["panning"].effective, epochs=2, batch_size=3)
    assert found == history


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_is_scored_as_it_is_written() -> None:
    torch.manual_seed(0)
    model, batch = chain(nn.Linear(8, 8)), (VECTORS, TARGETS)
    compiled = torch.compile(model, backend="eager")
    compiled(VECTORS)
    expected, found = (pan(m, [batch], 0.5, 3) for m in (model, compiled))
    assert list(found.masks) == [f"_orig_mod.{name}" for name in expected.masks]
    assert torch.equal(found.masks.flat, expected.masks.flat)
    assert torch.equal(found.effective.flat, expected.effective.flat)
    assert torch.equal(compiled(VECTORS), model(VECTORS))


def test_a_function_that_holds_on_to_the_callers_layers_is_refused() -> None:
    """A copy would run on the weights of the original: its scores would be 0."""
    model = chain(nn.Linear(8, 8))
    forward = model[2].forward
    model[2].forward = lambda x: forward(x) * 2
    with pytest.raises(ValueError, match=r"still reads 2.bias, 2.weight of the original"):
        pan(model, [(VECTORS, TARGETS)], 0.5)


def test_a_network_that_cannot_be_copied_is_refused() -> None:
    model = chain(nn.Linear(8, 8))
    model.lock = threading.Lock()
    with pytest.raises(ValueError, match="model: copy.deepcopy fails on it: .*lock"):
        pan(model, [(VECTORS, TARGETS)], 0.5)


def same_storage() -> nn.Module:
    model, numbers = chain(nn.Linear(8, 8)), noise(8, 8)
    model[0].weight, model[2].weight = nn.Parameter(numbers), nn.Parameter(numbers)
    return model


def whole_numbers() -> nn.Module:
    model = chain(nn.Linear(8, 8))
    model[2].weight = nn.Parameter(torch.ones(8, 8, dtype=torch.int32), requires_grad=False)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.jit.script(chain(nn.Linear(8, 8))), "layer '0' is scripted"),
        (lambda: chain(torch.jit.script(nn.Linear(8, 8))), "layer '2' is scripted"),
        (lambda: chain(nn.Linear(8, 8)).to("meta"), "layer '0' has a weight without values"),
        (same_storage, "layer '0' shares its weight: 0.weight is 2.weight"),
        (whole_numbers, "layer '2' has a weight of torch.int32"),
    ],
)
def test_weights_that_cannot_be_scored_are_refused_by_name(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pan(make(), [(VECTORS, TARGETS)], 0.5)


def test_a_mask_of_attention_in_a_buffer_stays_what_it_is() -> None:
    class Causal(nn.Module):
        def __init__(self, hidden: float):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(4, n) for n in (4, 4, 4, 3))
            self.register_buffer("mask", torch.full((2, 2), hidden).triu(1))

        def forward(self, x: Tensor) -> Tensor:
            x = x.view(len(x), 2, 4)
            seen = (self.q(x) @ self.k(x).mT + self.mask).softmax(-1)
            return self.o((seen @ self.v(x)).mean(1))

    torch.manual_seed(0)
    model = Causal(-math.inf)
    found = metrics.synflow(model, None, (VECTORS, TARGETS))
    assert found.isfinite().all() and found.any()
    for hidden in (-1e9, torch.finfo(torch.float32).min):
        other = Causal(hidden)
        other.load_state_dict({**model.state_dict(), "mask": other.mask})
        assert torch.equal(metrics.synflow(other, None, (VECTORS, TARGETS)), found)
    result = pan(model, [(VECTORS, TARGETS)], 0.0, 1)
    assert result.effective == result.masks


def test_native_dropout_has_two_outputs() -> None:
    class Dropped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.native_dropout(x, 0.5, True)[0]

    assert_same_scores(chain(Dropped()), chain(nn.Identity()), VECTORS)


# --- batches in other forms ----------------------------------------------------------------------


ARRAYS = {
    "lists": lambda x, y: (x.tolist(), y.tolist()),
    "list of numbers in tensors": lambda x, y: (x, list(y)),
    "read-only": lambda x, y: (x, np.frombuffer(y.numpy().tobytes(), np.int64)),
    "backwards": lambda x, y: (x.numpy()[:, ::-1][:, ::-1], y.numpy()[::-1][::-1]),
    "big-endian": lambda x, y: (x.numpy().astype(">f4"), y.numpy().astype(">i8")),
    "small": lambda x, y: (x, y.numpy().astype(np.uint16)),
    "sparse": lambda x, y: (x.to_sparse(), functional.one_hot(y, 3).to_sparse()),
    "with gradient": lambda x, y: (x.clone().requires_grad_(), y),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_batches_of_lists_and_of_any_array(name: str, recwarn) -> None:
    torch.manual_seed(0)
    model = chain(nn.Linear(8, 8))
    expected = pan(model, [(VECTORS, TARGETS)], 0.8, 4)
    assert pan(model, [ARRAYS[name](VECTORS, TARGETS)], 0.8, 4).masks == expected.masks
    assert not recwarn.list


def test_a_batch_made_in_inference_mode() -> None:
    model = chain(nn.Linear(8, 8))
    with torch.inference_mode():
        inputs = VECTORS.clone()
    expected = pan(model, [(VECTORS, TARGETS)], 0.8, 4)
    assert pan(model, [(inputs, TARGETS)], 0.8, 4).masks == expected.masks


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([(VECTORS, TARGETS, TARGETS)], "the entry 0 is of type tuple, of 3"),
        ([(VECTORS, np.array(["a"] * 6))], "the targets of batch 0 must be a tensor"),
        ([(VECTORS, np.array([None] * 6))], "the targets of batch 0 must be a tensor"),
        ([(VECTORS.to("meta"), TARGETS)], "the inputs of batch 0 .* on meta"),
        ([(VECTORS, TARGETS.to(torch.complex64))], "the targets of batch 0 are torch.complex64"),
        ([(noise(6, 9), TARGETS)], r"model fails on batch 0 of batches, .* \(6, 9\)"),
        ([(VECTORS, TARGETS), (noise(6, 9), TARGETS)], r"fails on batch 1 .* \(6, 9\)"),
    ],
)
def test_what_is_wrong_with_a_batch_is_said_before_the_first_iteration(batches, message) -> None:
    with pytest.raises(ValueError, match=message):
        Panning(chain(nn.Linear(8, 8)), batches, 0.5)


def test_a_last_batch_of_one_sample_is_named_where_a_network_needs_two() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    batches = [(VECTORS, TARGETS), (VECTORS[:1], TARGETS[:1])]
    with pytest.raises(ValueError, match=r"fails on batch 1 of batches, .* \(1, 8\)"):
        Panning(model, batches, 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y.argmax(1), "model returns torch.int64"),
        (lambda y: y.to(torch.complex64), "model returns torch.complex64"),
        (lambda y: y.sum(), r"model returns \(\)"),
    ],
)
def test_outputs_that_are_no_logits_are_named(change, message: str) -> None:
    class Changed(nn.Module):
        def __init__(self):
            super().__init__()
            self.chain = chain(nn.Linear(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return change(self.chain(x))

    with pytest.raises(ValueError, match=message):
        pan(Changed(), [(VECTORS, TARGETS)], 0.5)
