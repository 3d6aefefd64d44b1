"""What a training step costs when weights are gone, against the dense one.

Batches of 128, both channels last.
"""

import copy
import functools

import pytest
import torch

from benchmarks.conftest import World, sgd_step
from lib.masks import Mask
from lib.methods import pan
from lib.networks import sparsify
from lib.networks.compaction import Compacted, compacted
from lib.networks.inspection import memory_format

SIZE = 128
LENET = [0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
DEEP = [0.9, 0.98, 0.99, 0.999]
CASES = [
    *((n, "panning_masked", rho, form)
      for n, all_rho in (("lenet5", LENET), ("vgg16", DEEP), ("resnet32", DEEP))
      for rho in all_rho for form in ("cut", "sparse")),
    *(("lenet5", m, rho, "cut") for m in ("panning", "synflow", "random") for rho in LENET),
]  # fmt: skip


@functools.lru_cache(maxsize=1)  # both forms of a case follow each other
def pruned(there: World, method: str, rho: float) -> tuple[Mask, Compacted]:
    """The effective mask of a method, and the network without its dead channels."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    found = pan(there.model, there.batches, rho, method=method).effective
    torch.set_num_threads(threads)
    return found, compacted(there.model, found, there.batch(SIZE)[0])


@pytest.mark.parametrize(("network", "method", "rho", "form"), CASES)
def test_sparse(
    world, timed, benchmark, device, network: str, method: str, rho: float, form: str
) -> None:
    """Without the dead channels; "sparse": by kept weights alone, in the layers where that pays."""
    if form == "sparse" and device.type != "cpu":
        pytest.skip("layers have a sparse form on the processor alone")
    there = world(network)
    masks, small = pruned(there, method, rho)
    images, targets = there.batch(SIZE)
    layout = memory_format(small.model)
    model = copy.deepcopy(small.model).to(memory_format=layout).train()
    images = images.to(memory_format=layout)
    chosen = sparsify.fastest(model, small.masks, images, targets) if form == "sparse" else []
    rest = {n: m for n, m in small.masks.items() if n.removesuffix(".weight") not in chosen}
    sparsify.make_sparse(model, small.masks, chosen)
    step = sgd_step(model, (images, targets))
    weights = [model.get_parameter(name).detach() for name in rest]
    kept = [m.to(w).contiguous(memory_format=torch.channels_last) if w.ndim == 4 else m.to(w)
            for m, w in zip(rest.values(), weights, strict=True)]  # fmt: skip

    def masked_step() -> None:
        step()
        if weights:
            torch._foreach_mul_(weights, kept)

    benchmark.extra_info["left"] = sum(m.numel() for m in small.masks.values())
    benchmark.extra_info["kept"] = masks.count
    what = {"network": network, "weights": there.weights, "method": method, "sparsity": rho}
    what["layers"] = f"{len(chosen)} of {len(small.masks)}" if form == "sparse" else None
    unit = there.training_step(SIZE, torch.channels_last)
    timed(masked_step, unit, 6.0, what="training", form=form, **what)


def test_the_masks_own_cost(world, timed) -> None:
    """Multiplying the masks onto the weights of a dense LeNet-5, as after each step."""
    there = world("lenet5")
    pruned = [w.detach() for w in copy.deepcopy(there.model).parameters() if w.ndim > 1]
    kept = [torch.ones_like(w) for w in pruned]
    unit = there.training_step(SIZE, torch.channels_last)
    what = {"network": "lenet5", "weights": there.weights, "what": "mask", "form": "fast"}
    timed(lambda: torch._foreach_mul_(pruned, kept), unit, 1.0, **what)
