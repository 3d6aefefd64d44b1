"""Multiply-adds are those one counts by hand, and fall with the weights and with the channels."""

import pytest
import torch
from torch import nn

import lib
from lib.networks.cost import flops, kept_flops
from lib.networks.inspection import prunable

LENET5 = {
    "conv1.weight": 500 * 24 * 24,
    "conv2.weight": 25_000 * 8 * 8,
    "fc1.weight": 400_000,
    "fc2.weight": 5_000,
}


def test_lenet5_costs_what_one_counts_by_hand() -> None:
    model = lib.build_model("lenet5")
    for size in (1, 2, 7):
        assert flops(model, torch.randn(size, 1, 28, 28)) == LENET5


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Linear(3, 4), (5, 3), 12),
        (nn.Linear(3, 4), (5, 7, 3), 7 * 12),  # at each of seven tokens
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), (5, 4, 8, 8), 6 * 2 * 9 * 64),
        (nn.Conv2d(4, 6, 3, stride=2), (5, 4, 9, 9), 6 * 4 * 9 * 16),
        (nn.Conv2d(4, 6, 3, dilation=2), (5, 4, 9, 9), 6 * 4 * 9 * 25),
        (nn.Conv1d(4, 6, 3), (5, 4, 9), 6 * 4 * 3 * 7),
        (nn.Conv3d(1, 2, 2), (5, 1, 3, 3, 3), 2 * 8 * 8),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (5, 4, 8, 8), 4 * 6 * 9 * 64),
        (nn.ConvTranspose1d(4, 6, 3, groups=2), (5, 4, 8), 4 * 3 * 3 * 8),
    ],
)
def test_each_kind_of_layer_is_counted(layer: nn.Module, shape, expected: int) -> None:
    assert flops(nn.Sequential(layer), torch.randn(shape)) == {"0.weight": expected}


class Twice(nn.Module):
    """A layer that is called twice, and one that is never called."""

    def __init__(self):
        super().__init__()
        self.again, self.unused = nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(self.again(input=x))


def test_a_layer_counts_as_often_as_it_is_called() -> None:
    assert flops(Twice(), torch.randn(3, 5)) == {"again.weight": 50, "unused.weight": 0}


def test_nobodys_model_is_changed(busy, unchanged) -> None:
    images = torch.randn(3, 1, 6, 6)
    with unchanged(busy):
        flops(busy, images)


def test_an_error_leaves_no_hook_behind(cnn, unchanged) -> None:
    images = torch.randn(3, 2, 6, 6)  # one channel too many
    with unchanged(cnn), pytest.raises(RuntimeError):
        flops(cnn, images)


def test_what_masks_keep_is_counted_weight_by_weight() -> None:
    model = lib.build_model("lenet5")
    masks = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in prunable(model).items()}
    masks["conv2.weight"][7, 3, 1, 1:4] = True
    del masks["fc2.weight"]  # left out, so whole
    expected = {**dict.fromkeys(LENET5, 0), "conv2.weight": 3 * 64, "fc2.weight": 5_000}
    assert kept_flops(LENET5, masks) == expected


def test_a_result_has_flops_beside_weights(cnn, batches) -> None:
    result = lib.pan(cnn, batches, 0.6, steps=3, leave_out=["7"])
    dense = flops(cnn, batches[0][0])
    layers, found = result.layers, result.flops
    assert list(layers["flops"]) == [dense[name] for name in layers.index]
    kept = layers["flops"] * layers["kept"] / layers["weights"]
    effective = layers["flops"] * layers["effective"] / layers["weights"]
    assert list(layers["flops_effective"]) == list(effective)
    left_out = dense["7.weight"]
    assert found["dense"] == sum(dense.values())
    assert found["kept"] == kept.sum() + left_out
    assert found["effective"] == effective.sum() + left_out < found["dense"]


def test_nothing_pruned_saves_nothing(network, batches) -> None:
    found = lib.pan(network, batches, 0.0, steps=1).flops
    assert found["dense"] == found["kept"]


def test_smaller_layers_cost_less_and_a_mask_alone_does_not() -> None:
    torch.manual_seed(0)
    model, images = lib.build_model("lenet5", width=0.4), torch.randn(20, 1, 28, 28)
    dense = flops(model, images)
    result = lib.pan(model, [(images, torch.arange(20) % 10)], 0.98, steps=5)
    lib.apply_masks(model, result.effective)
    assert flops(model, images) == dense
    small = sum(flops(lib.compact(model, images), images).values())
    assert result.flops["effective"] < small < result.flops["dense"] == sum(dense.values())
