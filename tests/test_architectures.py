"""The networks have the paper's shapes, functions and initialisation."""

import itertools
import math
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.networks.architectures import NETWORKS, build_model
from lib.networks.inspection import flatten, prunable

VGG_CONVS = {"vgg11": 8, "vgg13": 10, "vgg16": 13, "vgg19": 16}
VGG_CONVS |= {f"{name}_plain": convs for name, convs in VGG_CONVS.items()}
RESNET_BLOCKS = {"resnet20": 9, "resnet32": 15, "resnet44": 21, "resnet56": 27, "resnet110": 54}


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


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.endswith("_plain")])
def test_a_plain_vgg_is_the_vgg_without_normalisation_and_with_biases(name: str) -> None:
    normalised = name.removesuffix("_plain")
    assert shapes(name) == shapes(normalised)
    plain = build_model(name, width=0.1)
    assert not layers(plain, nn.BatchNorm2d)
    assert all(conv.bias is not None for conv in layers(plain, nn.Conv2d))
    model = build_model(normalised, width=0.1)
    assert len(layers(model, nn.BatchNorm2d)) == VGG_CONVS[name]
    assert all(conv.bias is None for conv in layers(model, nn.Conv2d))


def test_torchvisions_name_of_a_normalised_vgg_is_understood() -> None:
    one, other = drawn("vgg11", width=0.1), drawn("vgg11_bn", width=0.1)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    for wrong in ("vgg16_bn_plain", "vgg16_plain_bn", "lenet5_bn", "vgg12_bn"):
        with pytest.raises(ValueError, match=f"name must be one of .*, got '{wrong}'"):
            build_model(wrong)


# --- of torchvision and timm ---------------------------------------------------------------------


def drawn(name: str, seed: int = 0, **settings: object) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return build_model(name, **settings).state_dict()


THEIRS = [
    *("torchvision:resnet18", "torchvision:mobilenet_v3_small", "torchvision:shufflenet_v2_x0_5"),
    *("torchvision:googlenet", "torchvision:vit_b_32", "torchvision:efficientnet_b0"),
    *("timm:resnet10t", "timm:vit_tiny_patch16_224", "timm:mobilenetv3_small_050"),
]


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_package_builds_a_fresh_network_for_the_images(name: str, channels: int) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = build_model(name, channels, num_classes=7, image_size=64)
    assert model.training and all(module.training for module in model.modules())
    state = model.state_dict()
    again = drawn(name, in_channels=channels, num_classes=7, image_size=64)
    other = drawn(name, 1, in_channels=channels, num_classes=7, image_size=64)
    assert all(torch.equal(state[key], again[key]) for key in state)
    assert any(not torch.equal(state[key], other[key]) for key in state)
    logits = model(torch.randn(2, channels, 64, 64))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    first = layers(model, nn.Conv2d)[0]
    assert (first.in_channels, first.weight.shape[1]) == (channels, channels)
    assert first.weight.grad is not None and first.weight.std() > 0


def test_a_first_convolution_for_three_channels_is_torchvisions_own() -> None:
    from torchvision import models

    torch.manual_seed(0)
    theirs = models.resnet18(num_classes=5).state_dict()
    ours = drawn("torchvision:resnet18", in_channels=3, num_classes=5, image_size=32)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("torchvision:resnet19", {}, "no classification network 'resnet19'; similar .* resnet18"),
        ("torchvision:fcn_resnet50", {}, "no classification network 'fcn_resnet50'"),
        ("timm:resnt18", {}, "timm has no .* 'resnt18'; similar ones are resnet18"),
        ("timm:resnet18.a1_in1k", {}, "names weights, .*fresh here; write 'timm:resnet18'"),
        ("keras:resnet18", {}, "must begin with torchvision: or timm:, .* got 'keras:resnet18'"),
        ("torchvision:resnet18", {"width": 0.5}, "width: 'torchvision:resnet18' has the width its"),
        ("torchvision:vit_b_16", {}, "vit_b_16 cannot be built for images of 28x28"),
        ("torchvision:alexnet", {}, "'torchvision:alexnet' does not take images of 28x28: "),
    ],
)
def test_what_a_package_cannot_build_is_said(name: str, changes: dict, message: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        build_model(name, **changes)


def test_without_timm_its_networks_say_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="'timm:resnet18' needs the package timm: pip install"):
        build_model("timm:resnet18")


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
