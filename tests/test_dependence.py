"""Effective weights where a network gates, attends, normalises, compares: what is right, by name.

What holds of paths alone is in test_paths.py.
"""

import copy
import os
import pickle
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import networks
from torch import Tensor, nn
from torch.nn import functional

from lib import Panning, constant_policy, pan, scoring_batches, staged_policy
from lib.networks.architectures import NETWORKS, build_model
from lib.networks.inspection import flatten, prunable, unflatten
from lib.networks.paths import Dependence, effective_mask
from lib.networks.training import train
from lib.policies import EFFECTIVE, Policy

CASES = int(os.environ.get("PANNING_CASES", "1000"))
many = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))


def found(model: nn.Module, example: Tensor, *pruned: str, **parts: Tensor) -> dict[str, Tensor]:
    """The effective weights where these layers are pruned away, or have these masks."""
    weights = prunable(model)
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    for name in pruned:
        masks[f"{name}.weight"][:] = False
    for name, part in parts.items():
        masks[f"{name}.weight"] = part
    return unflatten(effective_mask(model, flatten(masks), example), weights)


def layers(effective: dict[str, Tensor]) -> set[str]:
    """The layers that are effective: whole, or else not at all."""
    assert all(part.all() or not part.any() for part in effective.values())
    return {name.removesuffix(".weight") for name, part in effective.items() if part.all()}


# --- operations ------------------------------------------------------------------------------


class Between(nn.Module):
    """Something between two linear layers, on sequences (batch, 5, 4)."""

    def __init__(self, between: Callable[[Tensor], Tensor]):
        super().__init__()
        self.first, self.between = nn.Linear(4, 6), between
        with torch.no_grad():
            features = between(self.first(torch.randn(1, 5, 4))).shape[-1]
        self.second = nn.Linear(features, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x))).flatten(1)


class First(nn.Module):
    """The first output of a module."""

    def __init__(self, module: nn.Module, *, thrice: bool = False):
        super().__init__()
        self.module, self.times = module, 3 if thrice else 1

    def forward(self, x: Tensor) -> Tensor:
        return self.module(*(x,) * self.times)[0]


class Last(nn.Module):
    """The last position of a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1]


def stable_softmax(x: Tensor) -> Tensor:
    x = (x - x.amax(-1, keepdim=True)).exp()
    return x / x.sum(-1, keepdim=True)


NOT_SEEN = torch.eye(5, 6, dtype=torch.bool)
LATER = torch.ones(5, 5, dtype=torch.bool).triu(1)
PICKED = torch.tensor([0, 2, 4, 5, 1, 3])

OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(-1),
    "softmin": lambda x: functional.softmin(x, -1),
    "cos": torch.cos,
    "clip": lambda x: x.clip(0, 1),
    "clamp from 2": lambda x: x.clamp(min=2),
    "log of relu": lambda x: torch.log(functional.relu(x) + 1),
    "by its norm": lambda x: x / x.norm(dim=-1, keepdim=True),
    "by all norms": lambda x: x / x.norm(),
    "normalize": lambda x: functional.normalize(x, dim=-1),
    "standard deviation": lambda x: x.std(1, keepdim=True),
    "variance": lambda x: x.var(1),
    "torch.subtract": lambda x: torch.subtract(x, 1),
    "torch.multiply": lambda x: torch.multiply(x, x),
    "torch.true_divide": lambda x: torch.true_divide(x, 2),
    "relu of torch.negative": lambda x: functional.relu(torch.negative(x)),
    "relu of a rest": lambda x: functional.relu(1 - x),
    "relu of a distance": lambda x: functional.relu(x - x.mean(-1, keepdim=True)),
    "relu far off": lambda x: functional.relu(x - 5),
    "absolute": torch.abs,
    "square root": lambda x: x.abs().sqrt(),
    "logarithm of negative numbers": lambda x: torch.log(x),
    "reciprocal": torch.reciprocal,
    "steep tanh": lambda x: torch.tanh(20 * x),
    "hardshrink": functional.hardshrink,
    "hardtanh": functional.hardtanh,
    "hardswish": functional.hardswish,
    "relu6": lambda x: functional.relu6(x + 3) / 6,
    "threshold": lambda x: functional.threshold(x, 0.3, 0.0),
    "prelu": nn.PReLU(),
    "rrelu": nn.RReLU(),
    "gated linear unit": functional.glu,
    "masked_fill": lambda x: x.masked_fill(NOT_SEEN, -torch.inf).softmax(-1),
    "masked_fill, finite": lambda x: x.masked_fill(NOT_SEEN, -1e9).softmax(-1),
    "softmax by hand": stable_softmax,
    "masked softmax by hand": lambda x: stable_softmax(x.masked_fill(NOT_SEEN, -torch.inf)),
    "softmax masked by the least": lambda x: stable_softmax(
        x.masked_fill(NOT_SEEN, torch.finfo(x.dtype).min)
    ),
    "max_pool1d": lambda x: functional.max_pool1d(x, 2),
    "overlapping max_pool1d": lambda x: functional.max_pool1d(x, 3, 1, 1),
    "dilated max_pool1d": lambda x: functional.max_pool1d(x, 2, 1, dilation=3),
    "max_pool1d to the ceiling": lambda x: functional.max_pool1d(x, 4, 4, ceil_mode=True),
    "adaptive_max_pool1d": lambda x: functional.adaptive_max_pool1d(x, 4),
    "max_pool2d": lambda x: functional.max_pool2d(x, 2),
    "max_pool3d": lambda x: functional.max_pool3d(x.view(-1, 1, 5, 2, 3), (2, 1, 2), 1).flatten(2),
    "adaptive_max_pool3d": lambda x: functional.adaptive_max_pool3d(
        x.view(-1, 1, 5, 2, 3), 2
    ).flatten(2),
    "amax": lambda x: x.amax(1),
    "the one maximum": lambda x: x.max().expand(len(x), 3),
    "minimum": lambda x: x.min(-1, keepdim=True).values,
    "minimum and maximum": lambda x: torch.cat(torch.aminmax(x, dim=-1, keepdim=True), -1),
    "maxout": lambda x: torch.maximum(x[..., :3], x[..., 3:]),
    "median": lambda x: x.median(1).values,
    "quantile": lambda x: x.quantile(0.4, 1),
    "kthvalue": lambda x: x.kthvalue(2, 1).values,
    "topk": lambda x: x.topk(3, -1)[0],
    "topk over positions": lambda x: torch.topk(x, 2, dim=1).values.mean(1),
    "sort": lambda x: x.sort(-1).values[..., :2],
    "cummax": lambda x: x.cummax(1).values,
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "two sides of where": lambda x: torch.where(x > 0, x.exp(), -x),
    "logsumexp": lambda x: x.logsumexp(1),
    "fft": lambda x: torch.fft.fft(x).real,
    "fft over two axes": lambda x: torch.fft.fft2(x).imag,
    "size of rfft": lambda x: torch.fft.rfft(x).abs(),
    "float": lambda x: x.float(),
    "zeros made by the way": lambda x: x + torch.zeros(5, 6),
    "matmul with [1, -1]": lambda x: x.view(-1, 5, 3, 2) @ torch.tensor([1.0, -1.0]),
    "bmm with a float32 matrix": lambda x: torch.bmm(torch.eye(5).expand(len(x), 5, 5), x),
    "constant features": lambda x: torch.cat(
        [x, torch.linspace(0.5, 1, 5).view(1, 5, 1).expand(len(x), 5, 1)], -1
    ),
    "unfold": lambda x: x.unfold(1, 3, 1).flatten(2),
    "functional.unfold": lambda x: functional.unfold(x[:, None], 2).transpose(1, 2),
    "pixel_shuffle": lambda x: functional.pixel_shuffle(x[:, :4, None], 2).flatten(2),
    "einsum": lambda x: torch.einsum("bti,bsi->bts", x, x),
    "index_select": lambda x: x.index_select(-1, PICKED),
    "gather": lambda x: x.gather(-1, PICKED.expand_as(x)),
    "roll": lambda x: x.roll(1, 1),
    "product": lambda x: x.prod(-1, keepdim=True),
    "cumulated product": lambda x: x.cumprod(-1),
    "distances": lambda x: torch.cdist(x, x.flip(1) + 1),
    "cosine similarity": lambda x: functional.cosine_similarity(x[:, None], x[:, :, None], -1),
    "interpolate": lambda x: functional.interpolate(x, scale_factor=2, mode="linear"),
    "causal attention by hand": lambda x: (x @ x.mT).masked_fill(LATER, -torch.inf).softmax(-1) @ x,
    "attention": lambda x: functional.scaled_dot_product_attention(x, x, x),
    "nn.MultiheadAttention": First(nn.MultiheadAttention(6, 2, batch_first=True), thrice=True),
    "nn.GRU": First(nn.GRU(6, 3, batch_first=True)),
    "the end of nn.GRU": nn.Sequential(First(nn.GRU(6, 3, batch_first=True)), Last()),
    "nn.LSTM": First(nn.LSTM(6, 3, 2, batch_first=True, bidirectional=True)),
    "nn.RNN": First(nn.RNN(6, 3, batch_first=True)),
    "nn.LayerNorm": nn.LayerNorm(6),
    "relu of a layer norm": lambda x: functional.relu(functional.layer_norm(x, (6,))),
    "group norm": lambda x: functional.group_norm(x.mT, 2).mT,
    "instance norm": functional.instance_norm,
    "rms norm": lambda x: functional.rms_norm(x, (6,)),
    "batch norm": lambda x: functional.batch_norm(x.mT, None, None, training=True).mT,
    "steep relu6": lambda x: functional.relu6(100 * x),
    "relu very far off": lambda x: functional.relu(x - 20),
    "tanh of a large sum": lambda x: torch.tanh(30 * x.sum(-1, keepdim=True).expand_as(x)),
    "complex numbers": lambda x: torch.view_as_real(
        torch.complex(x[..., :3], x[..., 3:]) * torch.complex(x[..., 3:], x[..., :3])
    ).flatten(2),
    "vmap": torch.func.vmap(lambda x: torch.tanh(x) * x.sum()),
    "compiled": torch.compile(lambda x: functional.relu(x) * 2, backend="eager"),
    "noise": lambda x: x + torch.randn_like(x),
    "a branch left to chance": lambda x: x * torch.bernoulli(torch.full_like(x[:, :1, :1], 0.9)),
    "straight through": lambda x: x + (x.round() - x).detach(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_any_operation_lets_through_what_depends_on_the_input_and_nothing_else(name: str) -> None:
    torch.manual_seed(1)
    model, example = Between(OPERATIONS[name]), torch.randn(2, 5, 4)
    assert layers(found(model, example)) == {"first", "second"}
    assert layers(found(model, example, "first")) == set()
    assert layers(found(model, example, "second")) == set()


# A unit of each side, and what reads it; the second layer reads units 0 and 1 of the first.
@pytest.mark.parametrize(
    ("norm", "reads"),
    [
        (nn.LayerNorm(4), [True, True, True, True]),
        (lambda x: functional.group_norm(x.mT, 1).mT, [True, True, True, True]),
        (lambda x: functional.group_norm(x.mT, 2).mT, [True, True, False, False]),
        (lambda x: functional.group_norm(x.mT, 4).mT, [True, False, False, False]),
        (lambda x: functional.batch_norm(x.mT, None, None, training=True).mT, [True] + 3 * [False]),
        (lambda x: x.softmax(-1), [True, True, True, True]),
        (lambda x: x - x.mean(-1, keepdim=True), [True, True, True, True]),
        (functional.relu, [True, False, False, False]),
    ],
)
def test_what_mixes_units_lets_one_speak_for_the_others(norm, reads: list[bool]) -> None:
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.second = nn.Linear(3, 4), norm, nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.norm(self.first(x))).flatten(1)

    kept = torch.zeros(4, 3, dtype=torch.bool)
    kept[0] = True
    effective = found(Mixed(), torch.randn(1, 5, 3), first=kept)
    assert torch.equal(effective["first.weight"], kept)
    assert effective["second.weight"].tolist() == [reads, reads]


def scripted(x: Tensor) -> Tensor:
    """A threshold that is seen by autograd alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.script(nn.Threshold(0.9, 0.0))(x)


def put_in(x: Tensor) -> Tensor:
    """What is read of it has a number taken off, which goes unseen in what is returned."""
    x, change = x + 0.0, torch.cat([x, x], -1)[..., :6].mean(-1, keepdim=True)
    x[..., [1, 3, 4]] = change - 0.2
    return x


# Each looks as if no more than rising numbers of 0 on came out of it, while no weight is gone; with
# what is read of it where unit 2 alone sees the input, as numbers of units: without biases, and
# with them.
LOOKS_OPEN: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "a difference": (lambda x: x - 0.1 * x.mean(-1, keepdim=True), "012345", "012345"),
    "a factor in a sum": (
        lambda x: torch.add(x, x.mean(-1, keepdim=True), alpha=-0.1),
        *("012345", "012345"),
    ),
    "a number in a sum": (lambda x: x + x.mean(-1, keepdim=True) + -0.2, "012345", "012345"),
    "a constant in a sum": (
        lambda x: x + x.mean(-1, keepdim=True) + torch.full((6,), -0.2),
        *("012345", "012345"),
    ),
    "what goes unseen": (scripted, "2", "2"),
    "a sum cut off below": (
        lambda x: functional.threshold(x.sum(-1, keepdim=True), 1.2, 0.0).expand_as(x),
        *("012345", "012345"),
    ),
    "a sum clamped below": (
        lambda x: x.sum(-1, keepdim=True).clamp(min=1.2).expand_as(x),
        *("012345", "012345"),
    ),
    "a product": (lambda x: x * x.sum(-1, keepdim=True) - 0.3, "2", "012345"),
    "a number put in": (put_in, "1234", "1234"),
    "a sorted list": (lambda x: x.gather(-1, x.argsort(-1)), "5", "012345"),
    "a way by value": (lambda x: x if float(x.sum()) > 1.2 else x.flip(-1), "23", "23"),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", LOOKS_OPEN)
def test_what_is_open_in_the_dense_network_may_be_cut_off_in_a_sparse_one(name, bias) -> None:
    between, *reads = LOOKS_OPEN[name]

    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 6, bias=bias), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(functional.relu(between(self.first(x))))

    kept = torch.zeros(6, 4, dtype=torch.bool)
    kept[2] = True
    effective = found(Cut(), torch.randn(1, 4), first=kept)
    assert torch.equal(effective["first.weight"], kept)
    expected = [str(unit) in reads[bias] for unit in range(6)]
    assert effective["second.weight"].tolist() == [expected, expected]


def test_one_run_is_enough_where_nothing_can_be_cut_off() -> None:
    for name, size in (("lenet5", 28), ("resnet20", 32), ("vgg19", 32)):
        model = build_model(name, 1, width=0.1, image_size=size)
        assert len(Dependence(model, torch.randn(1, 1, size, size)).rounds) == 1


@pytest.mark.parametrize(
    "example",
    [
        torch.tensor([[3, 1, 0, 2]]),
        torch.zeros(1, 4, dtype=torch.long),
        torch.tensor([[255, 3, 0, 9]], dtype=torch.uint8),
        torch.tensor([[True, True, False, True]]),
        torch.randn(1, 4, dtype=torch.complex64),
        torch.randn(1, 4).half(),
    ],
    ids="integers zeros bytes bits complex half".split(),
)
def test_an_input_may_be_of_any_kind(example: Tensor) -> None:
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = x.real if x.is_complex() else x
            return self.second(functional.relu(self.first(x.to(self.first.weight.dtype))))

    assert layers(found(Cast(), example)) == {"first", "second"}
    assert layers(found(Cast(), example, "first")) == set()


def test_a_layer_inside_vmap_is_refused_by_name() -> None:
    class Mapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.func.vmap(self.first)(x)

    with pytest.raises(ValueError, match=r"'first.weight' is applied inside torch.func.vmap"):
        found(Mapped(), torch.randn(1, 4))


# --- gates -----------------------------------------------------------------------------------


class SqueezeExcitation(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3)
        self.fc1, self.fc2 = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(x))
        gate = torch.sigmoid(self.fc2(functional.relu(self.fc1(x.mean((2, 3), keepdim=True)))))
        return self.head((x * gate).mean((2, 3)))


class SqueezeExcite(nn.Module):
    """A gate on channels alone."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(functional.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


@pytest.mark.parametrize(
    ("pruned", "alive"),
    [
        ((), {"conv", "head", "fc1", "fc2"}),
        (("fc1",), {"conv", "head"}),  # fc2 reads a bias
        (("fc2",), {"conv", "head"}),
        (("fc1", "fc2"), {"conv", "head"}),
        (("conv",), set()),
        (("head",), set()),
    ],
)
def test_a_gate_that_a_dead_path_leaves_half_open_lets_through(pruned, alive) -> None:
    assert layers(found(SqueezeExcitation(), torch.randn(1, 2, 5, 5), *pruned)) == alive


class Highway(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(3, 4), nn.Linear(4, 2)
        self.body, self.gate = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        gate = torch.sigmoid(self.gate(x))
        return self.out(gate * functional.relu(self.body(x)) + (1 - gate) * x)


@pytest.mark.parametrize(
    ("pruned", "alive"),
    [
        ((), {"into", "body", "gate", "out"}),
        (("gate",), {"into", "body", "out"}),
        (("body",), {"into", "gate", "out"}),
        (("gate", "body"), {"into", "out"}),
        (("into",), set()),
    ],
)
def test_a_highway_is_open_whatever_its_gate(pruned, alive) -> None:
    assert layers(found(Highway(), torch.randn(1, 3), *pruned)) == alive


class Film(nn.Module):
    """Features modulated by a scale and a shift that another path makes."""

    def __init__(self, bias: bool):
        super().__init__()
        self.body, self.out = nn.Linear(3, 4, bias=bias), nn.Linear(4, 2)
        self.scale, self.shift = nn.Linear(3, 4, bias=bias), nn.Linear(3, 4, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.scale(x) * self.body(x) + self.shift(x))


@pytest.mark.parametrize(
    ("bias", "pruned", "alive"),
    [
        (True, ("scale",), {"body", "shift", "out"}),  # a scale that is a bias
        (True, ("body",), {"scale", "shift", "out"}),
        (True, ("shift",), {"body", "scale", "out"}),
        (False, ("scale",), {"shift", "out"}),  # a scale that is 0 lets nothing through
        (False, ("body",), {"shift", "out"}),
        (False, ("scale", "shift"), set()),
    ],
)
def test_a_factor_that_is_0_closes_and_one_that_is_a_bias_does_not(bias, pruned, alive) -> None:
    assert layers(found(Film(bias), torch.randn(1, 3), *pruned)) == alive


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.matmul(torch.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, -1), v)


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bts,bsd->btd", torch.einsum("btd,bsd->bts", q, k).softmax(-1), v)


ATTENTION = (by_hand, by_einsum, functional.scaled_dot_product_attention)


class Attention(nn.Module):
    def __init__(self, attend: Callable, bias: bool = True, width: int = 4):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(3, width, bias=bias) for _ in range(3))
        self.attend, self.out = attend, nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attend(self.q(x), self.k(x), self.v(x))).flatten(1)


@pytest.mark.parametrize("attend", ATTENTION)
@pytest.mark.parametrize(
    ("bias", "pruned", "alive"),
    [
        (True, (), {"q", "k", "v", "out"}),
        (True, ("q", "k"), {"v", "out"}),  # equal scores: a mean
        (False, ("q", "k"), {"v", "out"}),
        (True, ("q",), {"k", "v", "out"}),  # the query is a bias
        (False, ("q",), {"v", "out"}),  # no query: all scores are 0
        (True, ("k",), {"v", "out"}),  # equal keys: equal scores
        (False, ("k",), {"v", "out"}),
        (True, ("v",), set()),  # a mean of equal values
        (False, ("v",), set()),
        (True, ("out",), set()),
    ],
)
def test_attention_without_queries_or_keys_is_a_mean(attend, bias, pruned, alive) -> None:
    model = Attention(attend, bias)
    assert layers(found(model, torch.randn(1, 6, 3), *pruned)) == alive


@pytest.mark.parametrize("bias", [True, False])
def test_attention_has_the_same_effective_weights_however_it_is_written(some_mask, bias) -> None:
    models = [Attention(attend, bias) for attend in ATTENTION]
    for seed in range(30):
        mask = some_mask(3 * 12 + 8, 0.3, seed)
        one, *others = (effective_mask(model, mask, torch.randn(1, 5, 3)) for model in models)
        assert all(torch.equal(one, other) for other in others)


def test_a_mask_of_attention_that_a_layer_makes_is_used() -> None:
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.scores, self.v, self.out = nn.Linear(3, 5), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            q = torch.ones(len(x), 5, 4).to(x)
            attended = functional.scaled_dot_product_attention(q, q, self.v(x), self.scores(x))
            return self.out(attended).flatten(1)

    assert layers(found(Masked(), torch.randn(1, 5, 3))) == {"scores", "v", "out"}
    assert layers(found(Masked(), torch.randn(1, 5, 3), "scores")) == {"v", "out"}


def test_a_switch_that_a_dead_path_feeds_leaves_both_ways_open() -> None:
    class Switch(nn.Module):
        def __init__(self):
            super().__init__()
            self.switch, self.a, self.b = (nn.Linear(3, 4) for _ in range(3))
            self.out = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.where(self.switch(x) > 0, self.a(x), self.b(x)))

    # What a comparison reads has no gradient: the switch itself is not effective.
    assert layers(found(Switch(), torch.randn(1, 3))) == {"a", "b", "out"}
    assert layers(found(Switch(), torch.randn(1, 3), "switch")) == {"a", "b", "out"}


def test_experts_that_the_values_choose_are_effective_and_their_router_is() -> None:
    class Experts(nn.Module):
        """Each position goes to one of three experts, so that no two runs call the same shapes."""

        def __init__(self):
            super().__init__()
            self.router, self.out = nn.Linear(4, 3), nn.Linear(4, 2)
            self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            weight, chosen = self.router(x).softmax(-1).max(-1)
            y = torch.zeros_like(x)
            for number, expert in enumerate(self.experts):
                y[chosen == number] = expert(x[chosen == number])
            return self.out((y * weight[..., None]).mean(1))

    everything = {"router", "experts.0", "experts.1", "experts.2", "out"}
    assert layers(found(Experts(), torch.randn(1, 12, 4))) == everything
    alive = layers(found(Experts(), torch.randn(1, 12, 4), "router"))
    assert "out" in alive and alive <= everything - {"router"}


def test_an_encoder_of_pytorch_is_whole() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(40, 3))
    for each in (model.train(), model.eval()):
        with torch.no_grad():
            effective = found(each, torch.randn(1, 5, 8))
        assert all(part.all() for part in effective.values())


# --- constants -------------------------------------------------------------------------------


class Coordinates(nn.Module):
    """Pixels and their coordinates, as in CoordConv."""

    def __init__(self):
        super().__init__()
        self.pixels, self.conv, self.fc = nn.Conv2d(1, 2, 1), nn.Conv2d(3, 2, 1), nn.Linear(2, 2)
        self.register_buffer("row", torch.linspace(-1, 1, 4).view(1, 1, 4, 1).expand(1, 1, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.pixels(x), self.row.expand(len(x), -1, -1, -1).to(x)], 1)
        return self.fc(functional.relu(self.conv(x)).mean((2, 3)))


def test_what_is_constant_in_the_dense_network_counts_as_alive_while_an_output_is() -> None:
    image, kept = torch.randn(1, 1, 4, 4), torch.ones(2, 3, 1, 1, dtype=torch.bool)
    assert layers(found(Coordinates(), image)) == {"pixels", "conv", "fc"}
    kept[0, :2] = False  # one unit sees coordinates alone
    effective = found(Coordinates(), image, conv=kept)
    assert torch.equal(effective["conv.weight"], kept)
    assert effective["pixels.weight"].all()
    assert effective["fc.weight"].tolist() == [[False, True]] * 2  # what it makes is no input
    kept[:, :2] = False
    assert layers(found(Coordinates(), image, "pixels")) == set()
    assert not flatten(found(Coordinates(), image, conv=kept)).any()


class Transformer(nn.Module):
    """A vision transformer: patches, a class token, positions and a bias by distance."""

    def __init__(self, kind: str = "token"):
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 2, 2)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.position = nn.Embedding(5, 8)
        self.near = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
        self.norm, self.qkv = nn.LayerNorm(8), nn.Linear(8, 24)
        self.project, self.kind, self.head = nn.Linear(8, 8), kind, nn.Linear(8, 3)
        self.register_buffer("far", (torch.arange(5.0)[:, None] - torch.arange(5.0)).unsqueeze(-1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.patches(x).flatten(2).mT], 1)
        x = x + self.position(torch.arange(5))
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        near = self.near(self.far).squeeze(-1)
        x = x + self.project((q @ k.mT / 8**0.5 + near).softmax(-1) @ v)
        return self.head(x[:, 0] if self.kind == "token" else x.mean(1))


@pytest.mark.parametrize("kind", ["token", "mean"])
def test_a_transformer_that_does_not_see_its_patches_is_dead(kind: str) -> None:
    image, all_of_it = torch.randn(1, 1, 4, 4), Transformer(kind)
    everything = {"patches", "near.0", "near.2", "qkv", "project", "head"}
    assert layers(found(all_of_it, image)) == everything
    assert layers(found(all_of_it, image, "patches")) == set()
    rest = set() if kind == "token" else {"patches", "head"}
    assert layers(found(all_of_it, image, "project")) == rest
    rest = everything - {"near.2", "near.0"}
    assert layers(found(all_of_it, image, "near.2")) == rest


def test_padding_is_read_by_nobody() -> None:
    """A place of a kernel that only ever meets the border computes nothing."""
    for layer in (
        nn.Sequential(nn.Conv2d(1, 1, 5, padding=2), nn.Flatten()),
        nn.Sequential(nn.ZeroPad2d(2), nn.Conv2d(1, 1, 5), nn.Flatten()),
    ):
        kept = found(layer, torch.randn(1, 1, 2, 2)).popitem()[1].squeeze()
        used = torch.zeros(5, 5, dtype=torch.bool)
        used[1:4, 1:4] = True
        assert torch.equal(kept, used)


# --- what reads a weight ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "read",
    [
        lambda layer, x: layer(x),
        lambda layer, x: functional.linear(x, layer.weight, layer.bias),
        lambda layer, x: functional.linear(input=x, weight=layer.weight),
        lambda layer, x: x @ layer.weight.T,
        lambda layer, x: torch.einsum("bi,oi->bo", x, layer.weight),
        lambda layer, x: functional.linear(x, 2 * layer.weight),
        lambda layer, x: functional.conv1d(x[..., None], layer.weight[..., None]).squeeze(-1),
    ],
)
def test_a_weight_is_effective_however_it_is_read(read) -> None:
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(functional.relu(read(self.b, functional.relu(self.a(x)))))

    example = torch.randn(1, 3)
    assert layers(found(Read(), example)) == {"a", "b", "c"}
    kept = torch.ones(2, 4, dtype=torch.bool)
    kept[:, 1] = False
    expected = torch.ones(4, 4, dtype=torch.bool)
    expected[1] = False
    assert torch.equal(found(Read(), example, c=kept)["b.weight"], expected)
    assert layers(found(Read(), example, "b")) == set()


def test_a_layer_that_is_left_out_is_whole() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    weights = prunable(model, ["2"])
    nn.init.zeros_(model[2].weight)
    mask = torch.ones(20, dtype=torch.bool)
    mask[:3] = False
    expected = mask.clone()
    assert torch.equal(effective_mask(model, mask, torch.ones(1, 3), weights=weights), expected)
    mask[:12] = False
    assert not effective_mask(model, mask, torch.ones(1, 3), weights=weights).any()


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d,
                                  nn.ConvTranspose2d, nn.ConvTranspose3d])  # fmt: skip
@pytest.mark.parametrize("groups", [1, 2])
def test_every_kind_of_convolution_is_a_layer(kind, groups: int) -> None:
    space = int(kind.__name__[-2])
    first = kind(4, 4, 3, stride=2, padding=1, dilation=2, groups=groups)
    model = nn.Sequential(first, nn.ReLU(), kind(4, 2, 1), nn.Flatten(1))
    last = model[2].weight
    kept = torch.ones_like(last, dtype=torch.bool)
    kept[(slice(None), 0) if last.shape[0] == 2 else 0] = False  # unit 0 of the first is not read
    effective = found(model, torch.randn(1, 4, *(7,) * space), **{"2": kept})
    expected = torch.ones_like(first.weight, dtype=torch.bool)
    if kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        expected[0] = False
    else:
        expected[: 4 // groups, 0] = False
    assert torch.equal(effective["0.weight"], expected)
    assert torch.equal(effective["2.weight"], kept)


@pytest.mark.parametrize("name", NETWORKS)
def test_at_sparsity_0_every_weight_is_effective(name: str) -> None:
    # Of 28 pixels VGG leaves one, which its last kernels meet with one place alone.
    size = 32 if "vgg" in name else 28
    model = build_model(name, 1, width=0.1, image_size=size)
    assert all(part.all() for part in found(model, torch.randn(2, 1, size, size)).values())


def test_at_sparsity_0_every_weight_of_the_tests_networks_is_effective(network, busy) -> None:
    for model in (network, busy):
        assert all(part.all() for part in found(model, torch.randn(2, 1, 6, 6)).values())


@many
@given(networks())
def test_at_sparsity_0_every_weight_of_any_network_is_effective(model) -> None:
    for name, part in found(model, torch.randn(1, 2, 6, 6)).items():
        layer = model.get_submodule(name.removesuffix(".weight"))
        if isinstance(layer, nn.Linear):
            assert part.all()
        else:  # on an image of one pixel, a kernel of nine meets it with one place alone
            assert part[..., 1, 1].all()


OTHERS = {
    "torchvision": "alexnet:96 vgg11_bn:32 resnet18:64 densenet121:64 squeezenet1_1:64 "
    "mobilenet_v3_small:160 efficientnet_b0:160 shufflenet_v2_x0_5:96 mnasnet0_5:160 "
    "regnet_y_400mf:96 convnext_tiny:160 googlenet:96 swin_t:224 swin_v2_t:256",
    "timm": "vit_tiny_patch16_224:224 deit_tiny_distilled_patch16_224:224 mixer_s32_224:224 "
    "ghostnet_100:160 tinynet_e:160 mobilevit_xxs:256 edgenext_xx_small:256 pit_ti_224:224 "
    "levit_128s:224 convit_tiny:224 xcit_nano_12_p16_224:224 poolformer_s12:224 repvgg_a0:96 "
    "seresnet50:64 lcnet_050:160 pvt_v2_b0:224",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "name"), [(kind, name) for kind in OTHERS for name in OTHERS[kind].split()]
)
def test_at_sparsity_0_every_weight_of_other_peoples_networks_is_effective(library, name) -> None:
    name, _, size = name.partition(":")
    if library == "timm":
        model = pytest.importorskip("timm").create_model(name, pretrained=False)
    else:
        more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
        model = pytest.importorskip("torchvision").models.get_model(name, weights=None, **more)
    weights = prunable(model)
    dependence = Dependence(model, torch.randn(1, 3, int(size), int(size)), weights)
    mask = torch.ones(flatten(weights).shape, dtype=torch.bool)
    assert torch.equal(dependence.effective(mask), mask)
    blind = [  # nothing reads the three colours
        torch.full_like(part, weights[key].shape[1] != 3)
        for key, part in unflatten(mask, weights).items()
    ]
    assert not dependence.effective(flatten(blind)).any()


# --- against derivatives ---------------------------------------------------------------------


class Program(nn.Module):
    """A random program on sequences (1, 3, 2): each line makes a value from earlier ones."""

    def __init__(self, lines: list[tuple]):
        super().__init__()
        self.lines, widths = [], [2]
        self.layers = nn.ModuleList()
        for kind, a, b, width, bias in lines:
            a, b = a % len(widths), b % len(widths)
            if kind == "linear":
                self.layers.append(nn.Linear(widths[a], width, bias=bias))
            elif kind in ("sum", "gate", "product", "attend", "written") and widths[a] != widths[b]:
                kind = "cat"
            elif kind == "norm" and widths[a] == 1:
                kind = "tanh"
            self.lines.append((kind, a, b))
            widths.append(widths[a] + widths[b] if kind == "cat" else widths[a])
            if kind == "linear":
                widths[-1] = width
        self.layers.append(nn.Linear(sum(widths[-2:]), 2))

    def forward(self, x: Tensor) -> Tensor:
        values, given = [x], iter(self.layers)
        for kind, a, b in self.lines:
            a, b = values[a], values[b]
            values.append({
                "linear": lambda a=a: next(given)(a),
                "relu": lambda a=a: functional.relu(a),
                "tanh": lambda a=a: torch.tanh(a),
                "norm": lambda a=a: functional.layer_norm(a, a.shape[-1:]),
                "softmax": lambda a=a: a.softmax(-1),
                "mean": lambda a=a: a.mean(1, keepdim=True).expand_as(a),
                "max": lambda a=a: a.amax(1, keepdim=True).expand_as(a),
                "shift": lambda a=a: functional.pad(a, (0, 0, 1, 0))[:, :-1],
                "cat": lambda a=a, b=b: torch.cat([a, b], -1),
                "sum": lambda a=a, b=b: a + b,
                "gate": lambda a=a, b=b: a * torch.sigmoid(b),
                "product": lambda a=a, b=b: a * b,
                "attend": lambda a=a, b=b: functional.scaled_dot_product_attention(a, b, a),
                "written": lambda a=a, b=b: by_hand(a, b, b),
            }[kind]())  # fmt: skip
        return next(given)(torch.cat(values[-2:], -1)).flatten(1)


def by_derivatives(model: nn.Module, mask: Tensor, shape: tuple[int, ...], draws: int) -> Tensor:
    """The effective weights by definition, of linear layers: real weights, real numbers, often.

    It shares nothing with the library, which replaces the layers.
    """
    model = copy.deepcopy(model).double()
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    inputs: dict[nn.Module, list[Tensor]] = {}
    outputs: dict[nn.Module, list[Tensor]] = {}

    def hook(layer: nn.Module, x: tuple[Tensor], y: Tensor) -> None:
        inputs.setdefault(layer, []).append(x[0].detach())
        outputs.setdefault(layer, []).append(y)

    for layer in linear:
        layer.register_forward_hook(hook)

    def run(x: Tensor, kept: Tensor) -> Tensor:
        inputs.clear(), outputs.clear()
        named = dict(model.named_parameters())
        state = {n: named[n] * part for n, part in unflatten(kept, prunable(model)).items()}
        return torch.func.functional_call(model, state, (x,))

    varies = {layer: 0 for layer in linear}
    nonzero, used, constant = dict(varies), dict(varies), dict(varies)
    alive = False
    for draw in range(draws):
        for parameter in model.parameters():
            values = torch.randn_like(parameter)
            parameter.data = values.abs() + 0.1 if draw % 2 else values
        pair = [torch.randn(shape, dtype=torch.double) for _ in range(2)]
        if draw % 4 == 1:
            pair = [x.abs() for x in pair]
        seen = []
        for x in pair:
            run(x, torch.ones_like(mask))
            seen.append({m: inputs[m][0] for m in inputs})
        for m in inputs:
            constant[m] = constant[m] | differs(seen[0][m], seen[1][m])
        seen, ends = [], []
        for x in pair:
            ends.append(run(x, mask))
            seen.append({m: inputs[m][0] for m in inputs})
        alive |= bool(differs(*ends).any())
        total = (ends[-1] * torch.rand_like(ends[-1])).sum()
        gradients = torch.autograd.grad(
            total, [y[0] for y in outputs.values()], allow_unused=True, materialize_grads=True
        )
        for m, gradient in zip(outputs, gradients, strict=True):
            varies[m] = varies[m] | differs(seen[0][m], seen[1][m])
            nonzero[m] = nonzero[m] | (seen[0][m] != 0)
            used[m] = used[m] | (gradient.abs() > 1e-13)
    if not alive:
        return torch.zeros_like(mask)
    found = []
    for m in linear:
        reads = varies[m] | (~constant[m] & nonzero[m])
        found.append(torch.einsum("bto,bti->oi", used[m].double(), reads.double()) > 0)
    return mask & flatten(found)


def differs(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs() > 1e-11 * torch.maximum(a.abs(), b.abs())


KINDS = ("linear linear linear relu tanh norm softmax mean max shift cat sum gate product "
         "attend written").split()  # fmt: skip
LINES = st.tuples(
    *(st.sampled_from(KINDS), st.integers(0, 9), st.integers(0, 9)),
    *(st.integers(1, 3), st.booleans()),
)


@many
@given(
    st.lists(LINES, min_size=1, max_size=9), st.sampled_from([0.3, 0.5, 0.7]), st.integers(0, 99)
)
def test_effective_weights_are_those_with_derivatives(lines, density, seed) -> None:
    torch.manual_seed(seed)
    model = Program(lines)
    total = flatten(prunable(model)).numel()
    mask = torch.rand(total) < density
    expected = by_derivatives(model, mask, (1, 3, 2), 24)
    assert torch.equal(effective_mask(model, mask, torch.randn(1, 3, 2)), expected)


# --- the process -----------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch) -> list[int]:
    """The number of weights in each mask whose effective part is looked for."""
    seen, real = [], Dependence.effective

    def effective(self: Dependence, mask: Tensor) -> Tensor:
        seen.append(int(mask.sum()))
        return real(self, mask)

    monkeypatch.setattr(Dependence, "effective", effective)
    return seen


@pytest.mark.parametrize("policy", [staged_policy(), constant_policy((1, 0, 0))])
def test_who_does_not_look_at_the_effective_sparsity_does_not_pay(
    mlp, batches, policy, measured
) -> None:
    result = pan(mlp, batches, 0.9, 5, policy=policy)
    assert measured == [result.masks.count]
    assert result.reactivated == sum(row["reactivated"] for row in result.log.rows)
    history = result.history  # whoever asks is told
    assert len(measured) == 5 and measured[0] not in measured[1:]
    pd.testing.assert_frame_equal(result.history, history)
    assert len(measured) == 5
    assert history["effective_sparsity"].iloc[-1] == result.effective_sparsity
    assert (history["effective_sparsity"] >= history["sparsity"]).all()


def test_who_looks_is_told_in_each_iteration(mlp, batches, measured) -> None:
    seen: list[float] = []

    def policy(state: np.ndarray) -> tuple[float, ...]:
        seen.append(state[EFFECTIVE])
        return 0.2, 0.4, 0.4

    result = pan(mlp, batches, 0.9, 5, policy=Policy(policy))
    assert len(measured) == 6 and seen[0] == 0  # the dense network, and each mask
    assert [*seen[1:], result.effective_sparsity] == list(result.history["effective_sparsity"])
    assert len(measured) == 6
    process = Panning(mlp, batches, 0.9, 5)
    assert np.isnan(process.state(None, effective=False)).tolist() == 4 * [True] + [
        False,
        True,
        False,
    ]
    assert len(measured) == 6


def test_a_result_is_pickled_complete_and_without_its_network(batches) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 300), nn.ReLU(), nn.Linear(300, 3))
    model.name = lambda: "what pickle does not know"
    result = pan(model, batches, 0.9, 3)
    data = pickle.dumps(result)
    again = pickle.loads(data)
    pd.testing.assert_frame_equal(again.history, result.history)
    assert again.masks == result.masks and again.effective == result.effective
    assert len(data) < 4 * result.masks.flat.numel()


def test_a_mask_without_an_effective_weight_is_said_by_name(mlp, batches) -> None:
    with pytest.warns(
        UserWarning, match=r"leaves no effective weight .*\(nothing but 0 in 1.weight, 5.weight\)"
    ):
        result = pan(mlp, batches, 0.99, 1, method="snip")
    assert not result.masks["5.weight"].any() and not result.effective.count
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pan(mlp, batches, 0.5)


def test_a_network_that_was_dead_before_is_said_by_name(mlp, batches) -> None:
    nn.init.zeros_(mlp[5].weight)
    with pytest.warns(UserWarning, match="dense network is dead already .*in 5.weight") as seen:
        pan(mlp, batches, 0.5, 2)
    assert len(seen) == 1
    with pytest.warns(UserWarning, match="dense network is dead already"):
        pan(mlp, batches, 0.5, method="erk")


def test_what_is_effective_trains_as_well_as_what_is_kept(image_set) -> None:
    """A network with squeeze and excitation at 90 %, of which nothing once was effective."""
    torch.manual_seed(2)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        *(SqueezeExcite(16), nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(SqueezeExcite(16), nn.AdaptiveAvgPool2d((6, 1)), nn.Flatten(), nn.Linear(96, 3)),
    )
    batch = scoring_batches(image_set, 3, 5, 2, 0)
    result = pan(model, batch, 0.9, 10)
    assert result.effective.count > 0.8 * result.masks.count
    losses = [
        train(copy.deepcopy(model), image_set, mask, epochs=60, batch_size=20, learning_rate=0.1)
        for mask in (result.masks, result.effective)
    ]
    assert losses[0][-1] < 0.5 and losses[1][-1] < 0.5
