"""Networks, images and a stopwatch that records what it timed."""

import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.data.images import ImageSet, load_data, scoring_batches
from lib.networks.architectures import build_model
from lib.networks.inspection import prunable
from lib.study import process


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    process.setup()
    yield
    torch.set_num_threads(1)


class World:
    """A fresh network and the images that fit it: MNIST's, for the larger ones in colour."""

    def __init__(self, network: str):
        self.network = network
        small = network.startswith("lenet")
        torch.manual_seed(0)
        self.model = build_model(network, *((1, 10, 1.0, 28) if small else (3, 10, 1.0, 32)))
        self.weights = sum(w.numel() for w in prunable(self.model).values())
        train_set, _ = load_data("mnist5k")
        if not small:
            images = functional.pad(train_set.images, (2,) * 4).repeat(1, 3, 1, 1)
            train_set = ImageSet(images, train_set.targets, 10, (0.13,) * 3, (0.31,) * 3)
        self.batches = scoring_batches(train_set, 10, per_class=10, count=10, seed=0)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """The first `size` scoring samples."""
        inputs, targets = (torch.cat(parts) for parts in zip(*self.batches[:2], strict=True))
        return inputs[:size], targets[:size]


_WORLDS: dict[str, World] = {}


@pytest.fixture
def world() -> Callable[[str], World]:
    """`world("lenet5")`; one network at a time is kept."""

    def of(network: str) -> World:
        if network not in _WORLDS:
            _WORLDS.clear()
            _WORLDS[network] = World(network)
        return _WORLDS[network]

    return of


def sgd_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Callable[[], None]:
    """One training step, ready to be called: forward, backward, SGD with momentum."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0001)

    def step() -> None:
        optimiser.zero_grad()
        functional.cross_entropy(model(batch[0]), batch[1]).backward()
        optimiser.step()

    return step


@pytest.fixture
def timed(benchmark) -> Callable[..., float]:
    """`timed(call, what=..., ...)`: warm up, repeat for a few seconds, keep the median."""

    def run(call: Callable[[], object], seconds: float = 3.0, per: int = 1, **what: object) -> None:
        call()
        start = time.perf_counter()
        call()
        once = time.perf_counter() - start
        rounds = min(50, max(2, round(seconds / once) - 1))
        benchmark.extra_info.update(what, per=per, threads=torch.get_num_threads())
        benchmark.pedantic(call, rounds=rounds, iterations=1)

    return run
