"""The networks have the paper's shapes and initialisation, and one order of their weights."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from lib.models import NETWORKS, build_model, flatten, prunable, unflatten

VGG_CONVS = {"vgg11": 8, "vgg13": 10, "vgg16": 13, "vgg19": 16}
RESNET_BLOCKS = {"resnet20": 9, "resnet32": 15}


def layers(model: nn.Module, kind: type) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


def shapes(name: str, **settings: object) -> list[tuple[int, ...]]:
    with torch.device("meta"):  # shapes without numbers
        return [tuple(weight.shape) for weight in prunable(build_model(name, **settings)).values()]


# --- shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected", "total"),
    [
        ("lenet5", [(20, 1, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500)], 430_500),
        ("lenet300", [(300, 784), (100, 300), (10, 100)], 266_200),
    ],
)
def test_the_lenets_are_those_of_the_literature(name: str, expected: list, total: int) -> None:
    assert shapes(name) == expected
    assert flatten(prunable(build_model(name))).numel() == total


@pytest.mark.parametrize(("name", "convs"), VGG_CONVS.items())
def test_a_vgg_has_its_number_of_layers(name: str, convs: int) -> None:
    *features, last = shapes(name, in_channels=3, num_classes=7, width=0.125)
    assert len(features) == convs
    assert {shape[2:] for shape in features} == {(3, 3)}
    assert [shape[0] for shape in features[-1:]] == [64]
    assert last == (7, 64)


@pytest.mark.parametrize(("name", "blocks"), RESNET_BLOCKS.items())
def test_a_resnet_has_its_number_of_layers_and_a_projection_where_the_shape_changes(
    name: str, blocks: int
) -> None:
    found = shapes(name, in_channels=3)
    assert [shape[2:] for shape in found].count((3, 3)) == 1 + 2 * blocks
    assert [shape for shape in found if shape[2:] == (1, 1)] == [(64, 32, 1, 1), (128, 64, 1, 1)]
    assert {shape[0] for shape in found if shape[2:] == (3, 3)} == {32, 64, 128}
    assert found[-1] == (10, 128)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32)])
def test_an_image_of_either_size_gives_a_logit_for_each_class(name, channels, side) -> None:
    model = build_model(name, channels, num_classes=13, width=0.1, image_size=side)
    logits = model(torch.randn(2, channels, side, side))
    assert logits.shape == (2, 13)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())  # all are in use


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("width", [0.1, 0.5])
def test_the_width_scales_every_hidden_layer_and_neither_end(name: str, width: float) -> None:
    full, narrow = shapes(name, in_channels=3), shapes(name, in_channels=3, width=width)
    assert len(full) == len(narrow)
    for number, (whole, part) in enumerate(zip(full, narrow, strict=True)):
        last, first = number == len(full) - 1, number == 0
        assert part[0] == (whole[0] if last else round(whole[0] * width))
        assert part[1] == (whole[1] if first else round(whole[1] * width))
        assert part[2:] == whole[2:]


def test_the_narrowest_network_has_one_unit_a_layer() -> None:
    assert shapes("lenet300", width=1e-9) == [(1, 784), (1, 1), (10, 1)]


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan])
def test_a_width_that_is_not_positive_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match="width must be positive, got"):
        build_model("lenet5", width=width)


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ValueError, match="name must be one of lenet300, .*, got 'alexnet'"):
        build_model("alexnet")


# --- functions -----------------------------------------------------------------------------------


def randomise_biases(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)


@torch.no_grad()
def test_lenet5_is_the_network_that_rectifies_before_it_pools() -> None:
    torch.manual_seed(0)
    model = build_model("lenet5")
    randomise_biases(model)
    images = torch.randn(4, 1, 28, 28)
    x = functional.max_pool2d(functional.relu(model.conv1(images)), 2)
    x = functional.max_pool2d(functional.relu(model.conv2(x)), 2)
    expected = model.fc2(functional.relu(model.fc1(x.flatten(1))))
    assert torch.equal(model(images), expected)


@torch.no_grad()
def test_a_residual_block_without_its_convolutions_is_its_rectified_shortcut() -> None:
    model = build_model("resnet20", 3, width=0.25).eval()
    for block in itertools.chain(*model.layers):
        block.conv1.weight.zero_(), block.conv2.weight.zero_()
    x = torch.rand(2, 8, 8, 8)
    assert torch.equal(model.layers[0](x), x)  # nothing is negative
    assert model.layers[1](x).shape == (2, 16, 4, 4)


# --- initialisation ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lenet5", "vgg11", "resnet20"])
def test_weights_are_drawn_by_the_papers_rule(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, in_channels=3)
    convs, linears = layers(model, nn.Conv2d), layers(model, nn.Linear)
    assert convs and linears

    def check(weight: Tensor, std: float) -> None:
        error = 5 / math.sqrt(weight.numel())  # five standard errors, or nearly
        assert abs(weight.mean()) < error * std
        assert abs(weight.std() / std - 1) < error

    for conv in convs:
        check(conv.weight, math.sqrt(2 / (conv.out_channels * math.prod(conv.kernel_size))))
    for linear in linears:
        check(linear.weight, 0.01)
    for layer in (*convs, *linears):
        assert layer.bias is None or not layer.bias.any()
    for norm in layers(model, nn.BatchNorm2d):
        assert (norm.weight == 1).all() and not norm.bias.any()


def test_a_network_is_drawn_from_the_global_generator_alone() -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return flatten(prunable(build_model("lenet300", width=0.1)))

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


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
    with pytest.raises(ValueError, match="a vector of 131 entries is wanted, got"):
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
