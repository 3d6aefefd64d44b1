"""What is known of one network is computed once, and scaled into [0, 1]."""

import pytest
import torch
from torch import Tensor, nn

from lib import metrics
from lib.bank import Extremes, Observation, ScoreBank
from lib.models import build_model, unflatten
from lib.panning import Panning
from lib.policies import staged_policy


def test_the_dense_scores_are_computed_once_for_each_batch(mlp, batches, monkeypatch) -> None:
    calls = []
    compute = metrics.snip_and_grasp
    monkeypatch.setattr(metrics, "snip_and_grasp", lambda *a: calls.append(a) or compute(*a))
    process = Panning(mlp, batches, 0.9, steps=7)
    for sparsity in (0.9, 0.5):
        process.reset(sparsity)
        process.run(staged_policy())
    assert len(calls) == len(batches)


def test_the_state_is_bounded_where_it_leaves_the_range() -> None:
    extremes = Extremes(loss=(1.0, 3.0), grad_norm_sq=(0.0, 10.0))
    assert extremes.scale(Observation(0.5, 2.5, 9.0, 10.0)) == (0.0, 0.25, 1.0, 1.0)


def test_an_empty_range_divides_nothing_by_nothing() -> None:
    extremes = Extremes(loss=(2.0, 2.0), grad_norm_sq=(0.0, 0.0))
    assert extremes.scale(Observation(2.0, 0.0, 3.0, 1.0)) == (0.0, 0.0, 0.0, 0.0)


class Count(nn.Module):
    """Multiplies by the number of channels, which so has a part in the function."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.shape[1]


def convolutional(*between: nn.Module) -> nn.Module:
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 12), nn.ReLU(), nn.Linear(12, 3)]
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *between, nn.ReLU(), *head)


NETWORKS = {
    "lenet5": lambda: build_model("lenet5", 1, 3, 0.4, 28),
    "resnet20": lambda: build_model("resnet20", 1, 3, 0.25, 8),
    "vgg11": lambda: build_model("vgg11", 1, 3, 0.1, 32),
    "batch norm": lambda: convolutional(nn.BatchNorm2d(8)),
    "group norm": lambda: convolutional(nn.GroupNorm(2, 8)),
    "counts channels": lambda: convolutional(Count()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_leaving_dead_channels_out_observes_the_same(name: str, monkeypatch) -> None:
    """Against the whole masked network: L, and ΔL over the kept weights."""
    torch.manual_seed(0)
    model = NETWORKS[name]()
    size = {"lenet5": 28, "resnet20": 8, "vgg11": 32}.get(name, 6)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # biases too, so that a dead channel is a constant
        if parameter.ndim == 1:
            parameter.data.normal_(generator=generator)
    batch = torch.randn(6, 1, size, size, generator=generator), torch.arange(6) % 3
    bank = ScoreBank(model, [batch], "normalised", 200)
    shapes = []
    compute = metrics.loss_at
    monkeypatch.setattr(
        metrics,
        "loss_at",
        lambda m, w, *rest: (
            shapes.append(sum(t.numel() for t in w.values())) or compute(m, w, *rest)
        ),
    )
    for density in (0.5, 0.1, 0.02, 0.01, 0.005):
        mask = torch.rand(bank.total, generator=generator) < density
        for part in unflatten(mask, bank.weights).values():
            part[:, part.shape[1] // 2 :] = False  # nobody reads these channels
        found = bank.observe(0, mask)
        loss, gradients = metrics.loss_and_gradient(model, mask, batch, 1.0)
        expected = loss.item(), metrics.grad_norm_sq(gradients, mask).item()
        assert found == pytest.approx(expected, rel=1e-4)
    if name != "group norm":  # which looks at all channels at once
        assert min(shapes) < bank.total
