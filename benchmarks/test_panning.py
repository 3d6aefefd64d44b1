"""What pruning costs, and its pieces, in training steps of the same network (batch 100)."""

import subprocess
import sys

import pytest
import torch

from benchmarks import plain
from lib import masks, metrics
from lib.methods import METHODS, pan
from lib.networks.paths import effective_mask
from lib.panning import Panning

NETWORKS = ["lenet5", "resnet20", "resnet32", "vgg16", "vgg19"]
some_networks = pytest.mark.parametrize("network", ["lenet5", "resnet32", "vgg19"])
THREADS = 2
PLACES = [("lenet5", 1), *((name, THREADS) for name in NETWORKS)]
OURS = "panning_masked"


@pytest.mark.parametrize(("network", "threads"), PLACES)
def test_training_step(world, timed, network: str, threads: int) -> None:
    """Channels last against PyTorch's own layout, which is the unit of everything here."""
    torch.set_num_threads(threads)
    there = world(network)
    step = there.training_step(layout=torch.channels_last)
    what = {"network": network, "weights": there.weights, "what": "training step"}
    timed(step, there.training_step(), form="fast", **what)


@some_networks
@pytest.mark.parametrize("form", ["plain", "fast"])
def test_panning(world, timed, device, network: str, form: str) -> None:
    """An iteration of Panning's sum, plain; and its part in T = 100 of them, all included."""
    torch.set_num_threads(THREADS)
    there = world(network)
    mask = (torch.rand(there.weights) < 0.1).to(device)
    call, per = (
        (lambda: pan(there.model, there.batches, 0.99), 100)
        if form == "fast"
        else (lambda: plain.iteration(there.model, mask, there.batches[0], (0.2, 0.4, 0.4), 0.9), 1)
    )
    what = {"network": network, "weights": there.weights, "what": "panning iteration"}
    timed(call, there.training_step(), 3.0, per, form=form, **what)


@pytest.mark.parametrize(("network", "threads"), PLACES)
@pytest.mark.parametrize("form", ["plain", "fast"])
def test_our_method(world, timed, device, network: str, threads: int, form: str) -> None:
    """All of it, from the copy to the effective mask; plain: an iteration, times T."""
    torch.set_num_threads(threads)
    there = world(network)
    mask = (torch.rand(there.weights) < 0.1).to(device)
    call, per = (
        (lambda: pan(there.model, there.batches, 0.99, method=OURS), 1)
        if form == "fast"
        else (
            lambda: plain.masked_product(there.model, mask, there.batches[0], 0.9, True),
            1 / METHODS[OURS].steps,
        )
    )
    what = {"network": network, "weights": there.weights, "what": "pruning", "method": OURS}
    timed(call, there.training_step(), 3.0, per, form=form, **what)


PIECES = {
    "snip and grasp, plain": lambda w, p: plain.snip_and_grasp(w.model, w.batches[0]),
    "snip and grasp": lambda w, p: metrics.snip_and_grasp(w.model, None, w.batches[0]),
    "masked snip, plain": lambda w, p: plain.snip_of_masked(w.model, p.mask, w.batches[0]),
    "masked snip": lambda w, p: metrics.snip(w.model, p.mask, w.batches[0]),
    "synflow, plain": lambda w, p: plain.synflow(w.model, p.mask, w.batches[0][0].shape),
    "synflow": lambda w, p: p.bank.synflow(p.mask),  # with its normalisation
    "torch.topk": lambda w, p: torch.topk(p.bank.dense(0)["snip"], w.weights // 10),
    "top_k": lambda w, p: masks.top_k(p.bank.dense(0)["snip"], w.weights // 10),
    "effective mask": lambda w, p: effective_mask(w.model, p.mask, w.batches[0][0]),
}


@some_networks
@pytest.mark.parametrize("piece", PIECES)
def test_piece(world, timed, network: str, piece: str) -> None:
    torch.set_num_threads(THREADS)
    there = world(network)
    process = Panning(there.model, there.batches[:1], 0.9, 1)
    process.step((0.2, 0.4, 0.4))
    name, _, form = piece.partition(", ")
    form = form or ("plain" if name == "torch.topk" else "fast")
    what = {"network": network, "weights": there.weights, "what": name, "form": form}
    timed(lambda: PIECES[piece](there, process), there.training_step(), 2.0, **what)


# Not ru_maxrss, which a process inherits from the one that started it.
MEMORY = r"""
import re, torch
from pathlib import Path
from benchmarks import plain
from benchmarks.conftest import World
from lib.methods import pan
from lib.policies import staged_policy
from lib.study import process
process.setup()
torch.set_num_threads(2)
there = World({network!r}, {device!r})
if {form!r} == "plain":
    plain.pan(there.model, there.batches, 0.99, 2, staged_policy())
else:
    pan(there.model, there.batches, 0.99, 12, method={method!r})
if {device!r} == "cpu":
    status = Path("/proc/self/status").read_text()
    print(1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1]))
else:
    print(torch.cuda.max_memory_allocated())
"""


@some_networks
@pytest.mark.parametrize(
    ("method", "form"), [("panning", "plain"), ("panning", "fast"), (OURS, "fast")]
)
def test_peak_memory(benchmark, device, network: str, method: str, form: str) -> None:
    """Of a whole process, or on a GPU of what it holds there; the bank is full, if there is one."""
    program = MEMORY.format(network=network, form=form, method=method, device=str(device))
    out = subprocess.check_output([sys.executable, "-c", program], text=True)
    what = {"network": network, "what": "peak memory", "method": method, "form": form}
    benchmark.extra_info.update(what, bytes=int(out))
    benchmark.pedantic(lambda: None, rounds=1)
