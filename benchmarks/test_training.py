"""What a training step costs when dead channels are gone, against the dense step (batch 128)."""

import copy

import pytest
import torch

from benchmarks.conftest import sgd_step
from lib.masks import Mask
from lib.methods import METHODS
from lib.networks.compaction import compacted
from lib.networks.inspection import memory_format
from lib.panning import Panning
from lib.policies import constant_policy, staged_policy

LENET = [0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
DEEP = [0.9, 0.98, 0.99, 0.999]
FEW = ["synflow", "panning", "snip"]
CASES = [
    *(("lenet5", m, rho) for m in (*FEW, "grasp", "iterative_snip", "random") for rho in LENET),
    *(("vgg16", m, rho) for m in FEW for rho in DEEP),
    *(("resnet32", m, rho) for m in FEW[:2] for rho in DEEP),
]
_PROCESSES: dict[tuple[str, str], Panning] = {}


def effective(there, method: str, rho: float) -> Mask:
    """The mask of a method; the dense scores are kept from one sparsity to the next."""
    chosen, key = METHODS[method], (there.network, method)
    if key not in _PROCESSES:
        _PROCESSES.clear()
        _PROCESSES[key] = Panning(
            there.model,
            there.batches,
            rho,
            chosen.steps or 100,
            reactivate=chosen.reactivate,
            gradients=chosen.gradients,
            score=chosen.score,
            control=chosen.control,
        )
    process = _PROCESSES[key]
    process.reset(rho)
    return process.run(constant_policy(chosen.p) if chosen.p else staged_policy()).effective


@pytest.mark.parametrize("network", ["lenet5", "vgg16", "resnet32"])
@pytest.mark.parametrize("form", ["plain", "fast"])
def test_dense(world, timed, network: str, form: str) -> None:
    there = world(network)
    model, (images, targets) = copy.deepcopy(there.model).train(), there.batch(128)
    if form == "fast":
        model, images = (t.to(memory_format=torch.channels_last) for t in (model, images))
    what = {"network": network, "weights": there.weights, "method": "dense", "sparsity": 0.0}
    timed(sgd_step(model, (images, targets)), 6.0, what="training", form=form, **what)


@pytest.mark.parametrize(("network", "method", "rho"), CASES)
def test_sparse(world, timed, benchmark, network: str, method: str, rho: float) -> None:
    there = world(network)
    torch.set_num_threads(2)
    masks = effective(there, method, rho)
    torch.set_num_threads(1)
    images, targets = there.batch(128)
    small = compacted(there.model, masks, images)
    layout = memory_format(small.model)
    model = small.model.to(memory_format=layout).train()
    step = sgd_step(model, (images.to(memory_format=layout), targets))
    pruned = [model.get_parameter(name).detach() for name in small.masks]
    kept = [m.to(w).contiguous(memory_format=torch.channels_last) if w.ndim == 4 else m.to(w)
            for m, w in zip(small.masks.values(), pruned, strict=True)]  # fmt: skip

    def masked_step() -> None:
        step()
        torch._foreach_mul_(pruned, kept)

    benchmark.extra_info["left"] = sum(p.numel() for p in pruned)
    benchmark.extra_info["kept"] = masks.count
    what = {"network": network, "weights": there.weights, "method": method, "sparsity": rho}
    timed(masked_step, 1.5, what="training", form="fast", **what)


def test_the_masks_own_cost(world, timed) -> None:
    """Multiplying the masks onto the weights of a dense LeNet-5, as after each step."""
    there = world("lenet5")
    pruned = [w.detach() for w in there.model.parameters() if w.ndim > 1]
    kept = [torch.ones_like(w) for w in pruned]
    what = {"network": "lenet5", "weights": there.weights, "method": "dense", "sparsity": 0.0}
    timed(lambda: torch._foreach_mul_(pruned, kept), 1.0, what="mask", form="fast", **what)
