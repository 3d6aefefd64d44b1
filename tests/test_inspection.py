"""What can be pruned, in one order; what cannot is refused with the reason."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import lib
from lib.networks.architectures import NETWORKS, build_model
from lib.networks.inspection import call, flatten, prunable, unflatten

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


class Several(nn.Module):
    """A layer that three modules hold, and a weight that two layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.again = nn.Sequential(self.first, self.norm, nn.ReLU())
        self.last = nn.ModuleList([self.again, self.first, nn.Linear(3, 3)])
        self.last[2].weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last[2](self.last[1](self.last[0](x)))


@pytest.mark.parametrize("names", ["named_parameters", "state_dict"])
def test_a_layer_in_several_places_is_replaced_in_all_and_comes_back(names: str) -> None:
    torch.manual_seed(0)
    model, x = Several().eval(), torch.randn(4, 3)
    expected, before = model(x), dict(model.named_parameters())
    found = model.state_dict() if names == "state_dict" else dict(model.named_parameters())
    state = {n: t.double() if t.is_floating_point() else t for n, t in found.items()}
    if names == "named_parameters":
        state |= {n: b.double() for n, b in model.named_buffers() if b.is_floating_point()}
    out = call(model, state, x.double())
    torch.testing.assert_close(out, expected.double())
    assert all(p is before[n] for n, p in model.named_parameters())
    assert all(isinstance(p, nn.Parameter) for p in model.first.parameters())
    assert model(x).dtype == torch.float32


def test_a_network_with_a_layer_in_two_places_is_pruned_as_if_it_were_in_one() -> None:
    class Twice(nn.Module):
        def __init__(self, layer: nn.Module, *places: nn.Module) -> None:
            super().__init__()
            self.layer, self.head, self.places = layer, nn.Linear(8, 3), nn.ModuleList(places)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(self.layer(x).relu()).relu())

    torch.manual_seed(0)
    layer = nn.Linear(8, 8)
    one, two = Twice(layer), Twice(layer, layer, layer)
    two.head = one.head
    batches = [(torch.randn(6, 8), torch.arange(6) % 3)]
    before = copy.deepcopy(two.state_dict())
    expected = lib.pan(one, batches, 0.7, 4, gradients="masked")
    found = lib.pan(two, batches, 0.7, 4, gradients="masked")
    assert torch.equal(found.masks.flat, expected.masks.flat)
    assert torch.equal(found.effective.flat, expected.effective.flat)
    lib.synflow(two, None, batches[0])
    assert all(torch.equal(value, before[name]) for name, value in two.state_dict().items())
    assert two.layer.weight is layer.weight
