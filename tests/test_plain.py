"""`lib` is fast without changing a mask: against the plain program of the benchmarks."""

import pytest
import torch

from benchmarks import plain
from lib.methods import METHODS, pan
from lib.networks.architectures import build_model
from lib.networks.inspection import flatten
from lib.panning import Panning
from lib.policies import constant_policy, staged_policy
from lib.scores import ScoreBank

NETWORKS = {"lenet300": (1, 28), "lenet5": (1, 28), "resnet20": (3, 16), "vgg11": (3, 32)}


def world(network: str, width: float = 0.3):
    channels, size = NETWORKS[network]
    torch.manual_seed(0)
    model = build_model(network, channels, 10, width, size).double()
    generator = torch.Generator().manual_seed(1)
    shape = (20, channels, size, size)
    draws = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    return model, [(x, torch.arange(20) % 10) for x in draws]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("sparsity", [0.8, 0.99])
@pytest.mark.parametrize("policy", [staged_policy(), constant_policy((1, 0, 0))])
def test_the_masks_are_those_of_the_plain_program(network: str, sparsity: float, policy) -> None:
    """In float64, in which the layout in memory decides no near-tie."""
    model, batches = world(network)
    expected = plain.pan(model, batches, sparsity, 8, policy)
    found = Panning(model, batches, sparsity, 8).run(policy)
    assert torch.equal(flatten(found.masks), expected)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("sparsity", [0.8, 0.99])
def test_so_is_each_iteration_of_our_own_method(network: str, sparsity: float) -> None:
    """From the same mask, up to a tie: two weights exchanged, and batch normalisation makes the
    masks of a deep network drift apart.
    """
    model, batches = world(network)
    own = METHODS["panning_masked"]
    parts = ("reactivate", "gradients", "score", "fusion")
    process = Panning(
        model, batches, sparsity, own.steps, **{part: getattr(own, part) for part in parts}
    )
    whole = pan(model, batches, sparsity, method="panning_masked").masks.flat
    for t, target in enumerate(process.targets):
        before, batch = process.mask, batches[t % 3]
        expected = plain.masked_product(model, before, batch, target, t < own.steps // 2)
        process.step(own.stages[0][1:])
        assert (process.mask ^ expected).sum() <= 2
    assert torch.equal(process.mask, whole)
    if network.startswith("lenet"):
        assert torch.equal(plain.pan_masked(model, batches, sparsity), whole)


@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_observed_is_what_the_plain_program_observes(network: str) -> None:
    model, batches = world(network)
    process = Panning(model, batches, 0.99, 4)
    for _ in range(4):
        process.step((0.4, 0.2, 0.4))
        bank: ScoreBank = process.bank
        found = bank.observe(1, process.mask)
        assert found == pytest.approx(plain.observe(model, process.mask, batches[1]), rel=1e-9)
