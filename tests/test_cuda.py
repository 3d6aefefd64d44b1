"""On a GPU: the processor's masks, up to ties, its accuracy, and the same bytes twice.

Where there is none these tests are skipped; what can be known without one is in test_devices.
"""

import copy

import pytest
import torch

from lib.data.images import scoring_batches
from lib.environment import PanningEnv, rollout
from lib.methods import METHODS, pan
from lib.networks.architectures import build_model
from lib.networks.compaction import compacted
from lib.networks.inspection import flatten, prunable
from lib.networks.training import evaluate, train
from lib.panning import Panning
from lib.policies import constant_policy, random_policy

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU"),
]
GPU = "cuda"
NETWORKS = {"lenet300": (1, 28), "lenet5": (1, 28), "resnet20": (3, 32), "vgg11": (3, 32)}


def world(network: str, device: str = GPU):
    """A network and three batches of noise, the same on every device."""
    channels, size = NETWORKS[network]
    torch.manual_seed(0)
    model = build_model(network, channels, 10, 0.5, size).to(device)
    generator = torch.Generator().manual_seed(1)
    draws = [torch.randn(20, channels, size, size, generator=generator) for _ in range(3)]
    return model, [(x.to(device), (torch.arange(20) % 10).to(device)) for x in draws]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"rlpanning", "panning_select"}))
def test_a_method_has_the_masks_of_the_processor_up_to_ties(network: str, method: str) -> None:
    """In float64, in which the order of a sum decides next to nothing."""
    found = []
    for device in ("cpu", GPU):
        model, batches = world(network, device)
        batches = [(x.double(), y) for x, y in batches]
        found.append(pan(model.double(), batches, 0.9, 8, method=method))
    here, there = (result.masks.flat.cpu() for result in found)
    assert here.sum() == there.sum()
    assert (here ^ there).sum() <= 2 + 1e-4 * here.sum()
    assert there.device.type == "cpu" and found[1].masks.flat.device.type == GPU


@pytest.mark.parametrize("network", NETWORKS)
def test_two_runs_give_the_same_bytes(network: str, digits) -> None:
    model, batches = world(network)
    masks = [pan(model, batches, 0.95, 8, method="panning_masked").effective for _ in range(2)]
    assert masks[0] == masks[1]
    if NETWORKS[network][0] == 3:
        return
    ends = []
    for _ in range(2):
        trained = copy.deepcopy(model)
        train(trained, digits[0].to(GPU), masks[0], epochs=1)
        ends.append(trained.state_dict())
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name])


def test_a_network_is_trained_to_the_same_accuracy(digits) -> None:
    accuracies = []
    for device in ("cpu", GPU):
        model, _ = world("lenet300", device)
        train_set, test_set = (part.to(device) for part in digits)
        batches = scoring_batches(train_set, 10, 10, 3, 0)
        masks = pan(model, batches, 0.9, method="panning_masked").effective
        train(model, train_set, masks, epochs=20)
        accuracies.append(evaluate(model, test_set)[0])
    assert min(accuracies) > 0.8 and abs(accuracies[0] - accuracies[1]) < 0.03


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_is_cut_down_to_the_same_function(network: str) -> None:
    model, batches = world(network)
    masks = pan(model, batches, 0.98, 8, method="panning_masked").effective
    small = compacted(model, masks, batches[0][0])
    whole = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, weight in prunable(whole).items():
            weight.mul_(masks[name])
        expected, found = whole(batches[0][0]), small.model.eval()(batches[0][0])
    assert sum(m.numel() for m in small.masks.values()) < flatten(prunable(model)).numel()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_bank_holds_two_numbers_a_weight_and_batch() -> None:
    model, batches = world("vgg11")
    process = Panning(model, batches, 0.9, 3)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    process.run(constant_policy((0.2, 0.4, 0.4)))
    held = torch.cuda.memory_allocated() - before
    expected = 4 * 2 * len(batches) * process.bank.total
    assert expected <= held <= 1.1 * expected + 2**22


def test_an_episode_is_the_same_twice_and_as_on_the_processor() -> None:
    episodes = []
    for device in ("cpu", GPU, GPU):
        model, batches = world("lenet300", device)
        env = PanningEnv(model, batches, 5, 0.9, calibration_steps=3)
        episodes.append([row["reward"] for row in rollout(env, random_policy(0), 0.9)])
    assert episodes[1] == episodes[2]
    assert episodes[1] == pytest.approx(episodes[0], abs=0.02)
