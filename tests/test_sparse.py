"""Layers in their sparse form compute what the masked dense ones do, forward and backward."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lib.data.images import scoring_batches
from lib.methods import pan
from lib.networks import sparse, sparsify
from lib.networks.architectures import build_model
from lib.networks.training import train

# --- one layer -----------------------------------------------------------------------------------


def compare(dense: nn.Module, small: sparse.SparseConv2d, mask: Tensor, x: Tensor) -> None:
    """Outputs and all gradients, in double precision."""
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = small(ours), dense(theirs)
    assert found.shape == expected.shape
    gradient = torch.randn_like(expected)
    found.backward(gradient)
    expected.backward(gradient)
    pairs = [(found, expected), (ours.grad, theirs.grad)]
    pairs.append((small.values.grad, dense.weight.grad.flatten()[small.index]))
    assert mask.flatten()[small.index].all() and len(small.index) == int(mask.sum())
    if dense.bias is not None:
        pairs.append((small.bias.grad, dense.bias.grad))
    for one, other in pairs:
        torch.testing.assert_close(one, other)


@given(
    kernel=st.tuples(*[st.integers(1, 5)] * 2),
    stride=st.tuples(*[st.integers(1, 3)] * 2),
    padding=st.tuples(*[st.integers(0, 2)] * 2),
    more=st.tuples(*[st.integers(0, 5)] * 2),
    channels=st.tuples(*[st.integers(1, 4)] * 2),
    density=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
    bias=st.booleans(),
    last=st.booleans(),
)
def test_a_convolution(kernel, stride, padding, more, channels, density, bias, last) -> None:
    dense = nn.Conv2d(*channels, kernel, stride, padding, bias=bias).double()
    mask = torch.rand(dense.weight.shape) < density
    dense.weight.data *= mask
    size = [max(1, k - 2 * p) + n for k, p, n in zip(kernel, padding, more, strict=True)]
    x = torch.randn(3, channels[0], *size, dtype=torch.float64)
    if last:
        x = x.to(memory_format=torch.channels_last)
    small = sparse.SparseConv2d(dense, mask)
    small.bias = copy.deepcopy(dense.bias)
    compare(dense, small, mask, x)


@pytest.mark.parametrize("lead", [(7,), (2, 3), ()])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer(lead: tuple[int, ...], bias: bool) -> None:
    dense = nn.Linear(6, 4, bias=bias).double()
    mask = torch.rand(dense.weight.shape) < 0.4
    dense.weight.data *= mask
    small = sparse.SparseLinear(dense, mask)
    small.bias = copy.deepcopy(dense.bias)
    compare(dense, small, mask, torch.randn(*lead, 6, dtype=torch.float64))


def test_a_trained_layer_goes_back_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3))
    masks = {"0.weight": torch.rand(3, 2, 3, 3) < 0.3}
    layer = model[0]
    undo = sparsify.make_sparse(model, masks, ["0"])
    model[0].values.data += 1
    values, index = model[0].values.detach(), model[0].index
    undo()
    assert model[0] is layer
    assert layer.weight.detach().flatten()[index].equal(values)
    assert not layer.weight[~masks["0.weight"]].any()


def test_a_layer_in_two_places_is_sparse_in_both() -> None:
    shared = nn.Linear(5, 5)
    model = nn.ModuleDict({"a": nn.Sequential(shared, nn.ReLU()), "b": shared})
    undo = sparsify.make_sparse(model, {"a.0.weight": torch.rand(5, 5) < 0.2}, ["a.0"])
    assert model["a"][0] is model["b"] is not shared
    undo()
    assert model["a"][0] is model["b"] is shared


# --- training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(digits):
    train_set, test_set = digits
    return train_set.subset(0.2), test_set


def world(images, name: str = "lenet5"):
    torch.manual_seed(0)
    width = 0.3 if name == "lenet5" else 0.2
    model = build_model(name, 1, 10, width, images[0].size)
    batches = scoring_batches(images[0], 10, 2, 2, 0)
    return model, pan(model, batches, 0.93, 5, method="panning_masked").effective


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("name", ["lenet300", "vgg11_plain", "resnet20"])
def test_training_ends_with_the_same_weights(images, name: str, compact: bool) -> None:
    model, masks = world(images, name)
    layers = sparsify.eligible(model, masks)
    assert layers
    usual, ours = copy.deepcopy(model).double(), copy.deepcopy(model).double()
    settings = {"epochs": 2, "batch_size": 64, "learning_rate": 0.02, "compact": compact}
    as_double = [copy.copy(part) for part in images]
    for part in as_double:
        part.__dict__["_inputs"] = part.inputs(part.images).double()
    expected = train(usual, as_double[0], masks, **settings, test_set=as_double[1])
    history = train(ours, as_double[0], masks, **settings, test_set=as_double[1], sparse=layers)
    assert history.sparse == layers and expected.sparse == []
    assert history == pytest.approx(expected, rel=1e-6)
    assert history.accuracy == expected.accuracy
    for key, value in usual.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-5, atol=1e-7)
    for name, mask in masks.items():
        assert not ours.get_parameter(name)[~mask].any()
    assert [type(m) for m in ours.modules()] == [type(m) for m in model.modules()]


def test_the_fastest_are_measured_and_change_nothing(images) -> None:
    model, masks = world(images, "vgg11_plain")
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    inputs, targets = next(images[0].batches(32))
    chosen = sparsify.fastest(model, masks, inputs, targets)
    assert set(chosen) <= set(sparsify.eligible(model, masks))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    usual, ours = copy.deepcopy(model), copy.deepcopy(model)
    settings = {"epochs": 1, "batch_size": 64, "learning_rate": 0.01}
    expected = train(usual, images[0], masks, **settings)
    history = train(ours, images[0], masks, **settings, sparse="fastest")
    assert history == pytest.approx(expected, rel=1e-3)
    assert set(history.sparse) <= set(sparsify.eligible(model, masks))


@pytest.mark.parametrize(("layer", "whole", "expected"), [(1, 1, ["1"]), (3, 1, []), (1, 3, [])])
def test_a_layer_is_chosen_if_it_is_faster_alone_and_in_its_network(
    images, monkeypatch, layer: int, whole: int, expected: list[str]
) -> None:
    """By a clock on which a dense layer or network takes 2 seconds."""
    model = nn.Sequential(nn.Conv2d(1, 9, 3), nn.Conv2d(9, 9, 3), nn.Flatten(), nn.LazyLinear(10))
    inputs, targets = next(images[0].batches(32))
    model(inputs)
    masks = {"1.weight": torch.zeros(9, 9, 3, 3, dtype=torch.bool)}
    masks["1.weight"][::5, ::5, 1, 1] = True
    steps = iter([2, whole])
    monkeypatch.setattr(sparsify, "_median", lambda call: (call(), next(steps))[1])
    monkeypatch.setattr(
        sparsify, "_seconds", lambda of, x: layer if isinstance(of, sparse.SparseConv2d) else 2
    )
    assert sparsify.fastest(model, masks, inputs, targets) == expected


def test_a_resumed_training_ends_with_the_same_bytes(images, tmp_path) -> None:
    model, masks = world(images, "vgg11_plain")
    layers = sparsify.eligible(model, masks)
    settings = {"batch_size": 64, "learning_rate": 0.01, "sparse": layers, "epochs": 3}
    whole, cut = copy.deepcopy(model), copy.deepcopy(model)
    expected = train(whole, images[0], masks, **settings)

    path = tmp_path / "state"
    train(copy.deepcopy(model), images[0], masks, **settings, checkpoint=path)
    history = train(cut, images[0], masks, **settings, checkpoint=path)
    assert list(history) == list(expected) and history.sparse == layers
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in cut.state_dict().items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sparse": ["nothing"]}, "sparse: no mask belongs to a layer 'nothing'; choose of: .*fc1"),
        ({"sparse": "fc1"}, "sparse must be 'fastest' or a list of layers, got 'fc1'"),
        ({"sparse": ["fc1"], "masks": None}, "sparse: the kept weights are those of masks"),
        ({"sparse": "fastest", "checkpoint": "x"}, "sparse: 'fastest' may choose other layers"),
    ],
)
def test_what_cannot_be_sparse_is_named(images, given: dict, message: str) -> None:
    model, masks = world(images, "lenet300")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        train(model, images[0], **{"masks": masks, **given})
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_layer_without_a_sparse_form_is_named(images) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, dilation=2), nn.Flatten(), nn.LazyLinear(10))
    model(next(images[0].batches(2))[0])
    masks = {"0.weight": torch.zeros(4, 1, 3, 3, dtype=torch.bool)}
    with pytest.raises(ValueError, match="sparse: '0' is a Conv2d, of which there is no sparse"):
        train(model, images[0], masks, sparse=["0"])
