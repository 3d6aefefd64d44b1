"""Other people's networks: from `pan` to an exported file, with PyTorch's own tools on the way."""

import copy
import re
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from lib import Panning, PanningEnv, apply_masks, compact, metrics, pan, train
from lib.data.images import ImageSet
from lib.networks.architectures import build_model
from lib.networks.inspection import flatten, prunable


def torchvision_model(name: str, **settings: object) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, num_classes=5, **settings)


def timm_model(name: str, **settings: object) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=5, **settings)


def vision_transformer() -> nn.Module:
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, dropout=0.1, num_classes=5)
    nn.init.normal_(model.heads.head.weight, std=0.1)  # it is 0, and lets nothing through
    return model


def transposed() -> nn.Module:
    """Grouped, dilated and transposed convolutions."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU()),
        *(nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2), nn.ReLU()),
        *(nn.Conv2d(6, 8, 3, dilation=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    )


# Residuals, depthwise convolutions, gates, channels shuffled, split and joined, attention, hard
# activations, whole paths dropped at random.
NETWORKS = {
    "resnet18": torchvision_model("resnet18"),
    "mobilenet_v3_small": torchvision_model("mobilenet_v3_small"),
    "shufflenet_v2": torchvision_model("shufflenet_v2_x0_5"),
    "squeezenet": torchvision_model("squeezenet1_1"),
    "regnet_y": torchvision_model("regnet_y_400mf"),
    "vision transformer": vision_transformer,
    "timm resnet10t": timm_model("resnet10t", zero_init_last=False),
    "timm mobilenetv3": timm_model("mobilenetv3_small_050", drop_rate=0.2, drop_path_rate=0.2),
    "timm convnext": timm_model("convnext_atto", drop_path_rate=0.3),
    "timm mixer": timm_model("mixer_s32_224", img_size=64, drop_path_rate=0.3),
    "transposed": transposed,
}


@pytest.fixture(params=NETWORKS)
def model(request) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[request.param]()


@pytest.fixture
def batch(model) -> tuple[Tensor, Tensor]:
    size = getattr(model, "image_size", 64)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(10, 3, size, size, generator=generator), torch.arange(10) % 5


def test_from_pan_to_an_exported_network(model, batch, unchanged) -> None:
    inputs, targets = batch
    with unchanged(model):
        result = pan(model, [batch], 0.6, steps=3)
    total = sum(mask.numel() for mask in result.masks.values())
    assert int(flatten(result.masks).sum()) == int(total * 0.4 + 1e-6)
    assert torch.equal(flatten(pan(model, [batch], 0.6, 3).masks), flatten(result.masks))

    apply_masks(model, result.effective)
    assert prune.is_pruned(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    functional.cross_entropy(model.train()(inputs), targets).backward()
    optimiser.step()
    model.eval()
    with torch.no_grad():
        expected = model(inputs)  # which also applies the masks to the weights of now
        for name, mask in result.effective.items():
            layer = model.get_submodule(name.rpartition(".")[0])
            assert not layer.weight[~mask].any()

    small = compact(model, inputs)
    with torch.no_grad():
        torch.testing.assert_close(small(inputs), expected, rtol=1e-4, atol=1e-5)
    for layer in small.modules():
        if prune.is_pruned(layer) and hasattr(layer, "weight_mask"):
            prune.remove(layer, "weight")
    assert not prune.is_pruned(small)
    exported = torch.export.export(small, (inputs,))
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(inputs), expected, rtol=1e-4, atol=1e-5)


def test_the_state_of_a_pruned_network_goes_into_another_one(batches) -> None:
    """With its masks, once the other one is pruned, too, whatever by."""
    torch.manual_seed(0)
    model, other = transposed(), transposed()
    batch = torch.randn(10, 3, 16, 16), torch.arange(10) % 5
    apply_masks(model, pan(model, [batch], 0.8, 5).effective)
    apply_masks(other, pan(other, [batch], 0.5, 5).effective)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(batch[0]), model(batch[0]))
    for layer in (layer for layer in model.modules() if hasattr(layer, "weight_mask")):
        prune.remove(layer, "weight")
    plain = transposed()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(other(batch[0]), plain(batch[0]))


# --- what is left out ----------------------------------------------------------------------------


def test_a_layer_left_out_is_neither_pruned_nor_counted(unchanged) -> None:
    torch.manual_seed(0)
    model = build_model("lenet5", width=0.3)
    batch = torch.randn(20, 1, 28, 28), torch.arange(20) % 10
    with unchanged(model):
        result = pan(model, [batch], 0.95, 5, leave_out=["fc2"])
    assert list(result.masks) == ["conv1.weight", "conv2.weight", "fc1.weight"]
    total = sum(w.numel() for name, w in prunable(model).items() if name != "fc2.weight")
    assert int(flatten(result.masks).sum()) == int(total * 0.05 + 1e-6)
    images = ImageSet((batch[0] * 10 + 128).clamp(0, 255).byte(), batch[1], 10, (0.5,), (0.5,))
    whole = copy.deepcopy(model)
    for network, fast in ((model, True), (whole, False)):
        settings = {"epochs": 1, "batch_size": 10, "learning_rate": 0.01, "weight_decay": 0.0}
        train(network, images, result.effective, **settings, compact=fast)
        assert network.fc2.weight.all()
        assert not network.fc1.weight[~result.effective["fc1.weight"]].any()


def test_an_environment_leaves_out_too(mlp, batches) -> None:
    env = PanningEnv(mlp, batches, 3, 0.5, leave_out=["5"])
    env.reset()
    assert list(env.panning.masks) == ["1.weight", "3.weight"]


def test_the_names_to_leave_out_are_a_list(mlp, batches) -> None:
    with pytest.raises(ValueError, match="leave_out must be a list of names, got the text '5'"):
        pan(mlp, batches, 0.5, leave_out="5")


# --- what it says --------------------------------------------------------------------------------


def test_a_result_prints_a_line_and_shows_a_table(mlp, batches) -> None:
    result = pan(mlp, batches, 0.9, 5)
    assert repr(result).startswith("PanResult(sparsity=0.9")
    assert len(repr(result)) < 100
    layers = result.layers
    assert list(layers.index) == ["1.weight", "3.weight", "5.weight"]
    assert layers["weights"].tolist() == [288, 48, 18]
    assert layers["kept"].sum() == 35
    html = result._repr_html_()
    assert "35 of 354 weights kept, sparsity 90.113%" in html
    cells = (re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in html.split("<tr"))
    shown = {row[0]: row[1:] for row in cells if row}
    for name, *row, density in layers.itertuples(name=None):
        assert shown[name] == [*map(str, row), f"{density:.3%}"]
    assert result._repr_html_() == html


def test_a_dead_result_can_be_shown_as_well(mlp, batches) -> None:
    result = pan(mlp, batches, 0.999, 1, method="magnitude")
    assert result.effective_sparsity == 1
    assert "0 of them lie on a path" in result._repr_html_()


def test_a_forward_that_returns_more_than_logits_is_refused() -> None:
    model = torchvision.models.googlenet(num_classes=5, init_weights=False)
    batch = torch.randn(5, 3, 64, 64), torch.arange(5)
    with pytest.raises(ValueError, match="model returns GoogLeNetOutputs in train mode; give it"):
        pan(model, [batch], 0.5, 1)


# --- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_of_half_precision_is_scored_as_its_weights_in_float32(
    mlp, batches, unchanged, dtype: torch.dtype
) -> None:
    half = mlp.to(dtype)
    halves = [(x.to(dtype), y) for x, y in batches]
    floats = [(x.float(), y) for x, y in halves]
    with unchanged(half):
        result = pan(half, halves, 0.8, 5)
    assert torch.equal(
        flatten(result.masks), flatten(pan(copy.deepcopy(half).float(), floats, 0.8, 5).masks)
    )
    apply_masks(half, result.masks)
    assert half(halves[0][0]).dtype == dtype


def test_a_network_of_double_precision_is_scored_in_it(mlp, batches) -> None:
    process = Panning(mlp.double(), [(x.double(), y) for x, y in batches], 0.9, 3)
    process.step((0.3, 0.3, 0.4))
    assert metrics.synflow(mlp, None, process.bank.batches[0]).dtype == torch.float64


# --- size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [50, 200])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_a_very_deep_network_has_exactly_its_weights(depth: int, scale: float) -> None:
    """Where a path norm leaves float32, be it upwards or downwards."""
    torch.manual_seed(0)
    layers = [m for _ in range(depth) for m in (nn.Linear(8, 8), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(8, 3))
    for parameter in model.parameters():
        parameter.data *= scale
    batch = torch.randn(6, 8), torch.arange(6) % 3
    if scale > 1:  # R leaves float64, too, or its square does
        with pytest.raises(ValueError, match="the weights"):
            pan(model, [batch], 0.9, 5)
        return
    result = pan(model, [batch], 0.9, 5)
    assert int(flatten(result.masks).sum()) == int((64 * depth + 24) * 0.1 + 1e-6)


def test_a_very_wide_network_has_exactly_its_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 20_000), nn.ReLU(), nn.Linear(20_000, 3))
    result = pan(model, [(torch.randn(6, 4), torch.arange(6) % 3)], 0.999, 5)
    assert int(flatten(result.masks).sum()) == 140


@pytest.mark.parametrize("sparsity", [0.99, 0.995, 0.9999999])
def test_fewer_weights_than_layers_leave_a_dead_network_that_is_well_defined(
    mlp, batches, sparsity: float
) -> None:
    result = pan(mlp, batches, sparsity, 4)
    kept = int(flatten(result.masks).sum())
    assert kept == max(1, int(354 * (1 - sparsity) + 1e-6))
    if kept < 3:
        assert result.effective_sparsity == 1
        apply_masks(mlp, result.effective)
        torch.testing.assert_close(compact(mlp, batches[0][0])(batches[0][0]), mlp(batches[0][0]))
