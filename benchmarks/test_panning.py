"""What Panning costs, and its pieces, in training steps of the same network (batch 100)."""

import copy
import subprocess
import sys

import pytest
import torch

from benchmarks import plain
from benchmarks.conftest import sgd_step
from lib import masks, metrics
from lib.networks.paths import effective_mask
from lib.panning import Panning
from lib.policies import staged_policy

NETWORKS = ["lenet5", "resnet20", "resnet32", "vgg11", "vgg16", "vgg19"]
every_network = pytest.mark.parametrize("network", NETWORKS)
THREADS = 2


@pytest.mark.parametrize(("network", "threads"), [("lenet5", 1), *((n, 2) for n in NETWORKS)])
def test_training_step(world, timed, network: str, threads: int) -> None:
    """The unit: dense, in PyTorch's own layout."""
    torch.set_num_threads(threads)
    there = world(network)
    step = sgd_step(copy.deepcopy(there.model).train(), there.batches[0])
    timed(step, network=network, weights=there.weights, what="training step", form="plain")


@every_network
def test_training_step_channels_last(world, timed, network: str) -> None:
    torch.set_num_threads(THREADS)
    there = world(network)
    model = copy.deepcopy(there.model).to(memory_format=torch.channels_last).train()
    images, targets = there.batches[0]
    step = sgd_step(model, (images.to(memory_format=torch.channels_last), targets))
    timed(step, network=network, weights=there.weights, what="training step", form="fast")


@every_network
def test_plain_iteration(world, timed, network: str) -> None:
    torch.set_num_threads(THREADS)
    there = world(network)
    mask = torch.rand(there.weights) < 0.1
    timed(
        lambda: plain.iteration(there.model, mask, there.batches[0], (0.2, 0.4, 0.4), 0.9),
        network=network,
        weights=there.weights,
        what="panning iteration",
        form="plain",
    )


@every_network
def test_whole_panning(world, timed, benchmark, network: str) -> None:
    """T = 100 and ten batches from a fresh start, so that the score bank is paid for."""
    torch.set_num_threads(THREADS)
    there = world(network)
    what = {"network": network, "weights": there.weights, "threads": THREADS, "per": 100}
    benchmark.extra_info.update(what, what="panning iteration", form="fast")

    def pan() -> None:
        Panning(there.model, there.batches, 0.99, 100).run(staged_policy())

    pan() if network == "lenet5" else None
    benchmark.pedantic(pan, rounds=5 if network == "lenet5" else 1, iterations=1)


PIECES = {
    "snip and grasp, plain": lambda w, p: plain.snip_and_grasp(w.model, w.batches[0]),
    "snip and grasp": lambda w, p: metrics.snip_and_grasp(w.model, None, w.batches[0]),
    "synflow, plain": lambda w, p: plain.synflow(w.model, p.mask, w.batches[0][0].shape),
    "synflow": lambda w, p: p.bank.synflow(p.mask),  # with its normalisation
    "torch.topk": lambda w, p: torch.topk(p.bank.dense(0)["snip"], w.weights // 10),
    "top_k": lambda w, p: masks.top_k(p.bank.dense(0)["snip"], w.weights // 10),
    "effective mask": lambda w, p: effective_mask(w.model, p.mask, w.batches[0][0]),
}


@pytest.mark.parametrize("network", ["lenet5", "resnet32", "vgg19"])
@pytest.mark.parametrize("piece", PIECES)
def test_piece(world, timed, network: str, piece: str) -> None:
    torch.set_num_threads(THREADS)
    there = world(network)
    process = Panning(there.model, there.batches[:1], 0.9, 1)
    process.step((0.2, 0.4, 0.4))
    name, _, form = piece.partition(", ")
    form = form or ("plain" if name == "torch.topk" else "fast")
    what = {"network": network, "weights": there.weights, "what": name, "form": form}
    timed(lambda: PIECES[piece](there, process), 2.0, **what)


# Not ru_maxrss, which a process inherits from the one that started it.
MEMORY = r"""
import re, torch
from pathlib import Path
from benchmarks import plain
from benchmarks.conftest import World
from lib.study import process
from lib.panning import Panning
from lib.policies import staged_policy
process.setup()
torch.set_num_threads(2)
there = World({network!r})
if {form!r} == "plain":
    plain.pan(there.model, there.batches, 0.99, 2, staged_policy())
else:
    Panning(there.model, there.batches, 0.99, 12).run(staged_policy())
print(1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]))
"""


@pytest.mark.parametrize("network", ["lenet5", "resnet32", "vgg19"])
@pytest.mark.parametrize("form", ["plain", "fast"])
def test_peak_memory(benchmark, network: str, form: str) -> None:
    """Of a whole process, with all ten batches in the score bank."""
    program = MEMORY.format(network=network, form=form)
    out = subprocess.check_output([sys.executable, "-c", program], text=True)
    benchmark.extra_info.update(network=network, what="peak memory", form=form, bytes=int(out))
    benchmark.pedantic(lambda: None, rounds=1)
