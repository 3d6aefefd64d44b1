"""Networks, images and a stopwatch that records what it timed, on the processor or on a GPU."""

import copy
import math
import statistics
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

Call = Callable[[], object]
ROUNDS = 50


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--device`, for a GPU."""
    parser.addoption("--device", default="cpu", help="what is measured: cpu, cuda, cuda:1, ...")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """What is measured."""
    chosen = torch.device(request.config.getoption("--device"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.exit(f"--device {chosen}: PyTorch finds no GPU on this machine", 2)
    return chosen


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    process.setup()
    yield
    torch.set_num_threads(1)


class World:
    """A fresh network and the images that fit it: MNIST's, for the larger ones in colour."""

    def __init__(self, network: str, device: torch.device | str = "cpu"):
        self.network = network
        small = network.startswith("lenet")
        torch.manual_seed(0)
        self.model = build_model(network, *((1, 10, 1.0, 28) if small else (3, 10, 1.0, 32)))
        self.weights = sum(w.numel() for w in prunable(self.model).values())
        self.model.to(device)
        train_set = load_data("mnist5k")[0].to(device)
        if not small:
            images = functional.pad(train_set.images, (2,) * 4).repeat(1, 3, 1, 1)
            train_set = ImageSet(images, train_set.targets, 10, (0.13,) * 3, (0.31,) * 3)
        self.batches = scoring_batches(train_set, 10, per_class=10, count=10, seed=0)

    def training_step(
        self, size: int = 100, layout: torch.memory_format = torch.contiguous_format
    ) -> Call:
        """A step of the dense network, in PyTorch's own layout in memory or another."""
        images, targets = self.batch(size)
        model = copy.deepcopy(self.model).to(memory_format=layout).train()
        return sgd_step(model, (images.to(memory_format=layout), targets))

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """The first `size` scoring samples."""
        inputs, targets = (torch.cat(parts) for parts in zip(*self.batches[:2], strict=True))
        return inputs[:size], targets[:size]


_WORLDS: dict[str, World] = {}


@pytest.fixture
def world(device: torch.device) -> Callable[[str], World]:
    """`world("lenet5")`; one network at a time is kept."""

    def of(network: str) -> World:
        if network not in _WORLDS:
            _WORLDS.clear()
            _WORLDS[network] = World(network, device)
        return _WORLDS[network]

    return of


def sgd_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Call:
    """One training step, ready to be called: forward, backward, SGD with momentum."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0001)

    def step() -> None:
        optimiser.zero_grad()
        functional.cross_entropy(model(batch[0]), batch[1]).backward()
        optimiser.step()

    return step


def clock(call: Call, device: torch.device) -> float:
    """Seconds of one call; on a GPU by its own events."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


@pytest.fixture
def timed(benchmark, device: torch.device) -> Callable[..., None]:
    """`timed(call, unit, what=..., ...)`: medians of a call and of a unit beside it, in turn.

    The speed of a shared machine drifts; the ratio of two calls made one after the other does not.
    """

    def run(call: Call, unit: Call, seconds: float = 3.0, per: float = 1, **what) -> None:
        calls = (unit, call)
        found = [[clock(one, device) for one in calls]]
        once = sum(found[0])
        if once < 3 * seconds:  # the first round warms up, unless the calls are long
            rounds = min(ROUNDS, max(1, round(seconds / once) - 1))
            found = [[clock(one, device) for one in calls] for _ in range(rounds)]
        rounds = len(found)
        if rounds < 3:  # the short unit after a long call, too
            found += [[clock(unit, device), math.nan] for _ in range(3)]
        beside, value = (
            statistics.median(x for x in column if not math.isnan(x))
            for column in zip(*found, strict=True)
        )
        threads = torch.get_num_threads()
        benchmark.extra_info.update(what, threads=threads, rounds=rounds)
        benchmark.extra_info.update(seconds=value / per, beside=beside)
        benchmark.pedantic(lambda: None, rounds=1)  # the harness alone: it makes the JSON

    return run
