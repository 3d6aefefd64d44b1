"""What can be pruned, in one order; what cannot is refused with the reason."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from lib.networks.architectures import NETWORKS, build_model
from lib.networks.inspection import flatten, prunable, unflatten

# --- the order of weights ------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_index_order_is_the_order_of_named_modules(name: str) -> None:
    model = build_model(name, 3, width=0.1)
    weights = prunable(model)
    kinds = (nn.Conv2d, nn.Linear)
    expected = [f"{n}.weight" for n, module in model.named_modules() if isinstance(module, kinds)]
    assert list(weights) == expected
    assert all(weights[key] is model.get_parameter(key) for key in weights)


def test_a_layer_alone_is_a_network_too() -> None:
    layer = nn.Linear(3, 2)
    assert prunable(layer)["weight"] is layer.weight


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_flat_vector_is_in_c_order_whatever_the_layout_in_memory(cnn, layout) -> None:
    weights = prunable(cnn.to(memory_format=layout))
    flat = flatten(weights)
    back = unflatten(flat, weights)
    assert list(back) == list(weights)
    assert all(torch.equal(back[name], weight) for name, weight in weights.items())
    assert torch.equal(flatten(list(back.values())), flat)
    assert flat[:9].tolist() == [
        weights["0.weight"][0, 0, i, j] for i in range(3) for j in range(3)
    ]


@pytest.mark.parametrize("shape", [(130,), (132,), (131, 1)])
def test_a_vector_of_another_length_is_refused(cnn, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"flat must have shape \(131,\), got"):
        unflatten(torch.zeros(shape), prunable(cnn))


def shared() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3))
    prune.random_unstructured(model[0], "weight", amount=0.5)
    return model


def tied() -> nn.Module:
    model = nn.ModuleDict({"embedding": nn.Embedding(4, 3), "out": nn.Linear(3, 4, bias=False)})
    model["out"].weight = model["embedding"].weight
    return model


def parametrised() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (shared, "layer '0' shares its weight: 0.weight is 1.weight; give each its own, or leave"),
        (tied, "layer 'out' shares its weight: embedding.weight is out.weight"),
        (pruned, "layer '0' is pruned already; call torch.nn.utils.prune.remove"),
        (parametrised, "layer '0' computes its weight; remove the parametrization, or leave"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), "layer '0' has no weight yet; run the model"),
        (nn.ReLU, "nothing to prune: it needs a Conv2d or a Linear layer"),
        (lambda: nn.BatchNorm2d(3), "nothing to prune"),
    ],
)
def test_a_network_that_cannot_be_pruned_is_refused_with_the_reason(model, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prunable(model())


@pytest.mark.parametrize("model", [shared, tied])
def test_a_shared_weight_can_be_left_out(model) -> None:
    whole = nn.Sequential(nn.Linear(3, 3), model())
    assert list(prunable(whole, ["1"])) == ["0.weight"]


def test_a_layer_in_two_places_is_one_layer() -> None:
    layer = nn.Linear(3, 3)
    assert list(prunable(nn.Sequential(layer, nn.ReLU(), layer))) == ["0.weight"]


@pytest.mark.parametrize(
    ("leave_out", "found"),
    [
        (["1.0"], ["0.weight", "1.1.weight", "10.weight"]),
        (["1"], ["0.weight", "10.weight"]),  # with all that it holds, and "10" is another module
        (["0", "10"], ["1.0.weight", "1.1.weight"]),
    ],
)
def test_what_is_left_out_is_not_pruned(leave_out: list[str], found: list[str]) -> None:
    inner = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    relus = [nn.ReLU() for _ in range(8)]
    model = nn.Sequential(nn.Linear(2, 2), inner, *relus, nn.Linear(2, 2))
    assert list(prunable(model, leave_out)) == found


@pytest.mark.parametrize("name", ["fc", "1", ""])
def test_leaving_out_what_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"leave_out: the model has no module '{name}'"):
        prunable(nn.Sequential(nn.Linear(2, 2)), [name])


def test_attention_keeps_its_projections() -> None:
    """It reads them without calling their layer, where `prune` would apply the mask."""
    block = nn.TransformerEncoderLayer(8, 2, 16)
    assert list(prunable(block)) == ["linear1.weight", "linear2.weight"]
