"""A network on another device meets no tensor of the processor's, and does there what it does here.

There is no GPU where these tests run, so one is played: a tensor on the device "meta" keeps its
values on the processor, where every operation on it is done, if CUDA would do it at all. What the
kernels of CUDA do (rounding, memory, speed) cannot be seen like this.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from lib.data import sources
from lib.methods import METHODS
from lib.networks.architectures import build_model
from lib.networks.inspection import prunable
from lib.networks.probes import jacobian_singular_values
from lib.study import agents, checks, loops, parameters, pruning, worlds

GPU = torch.device("meta")


class Remote(Tensor):
    """A tensor on the device that is played; `held` are its values."""

    @staticmethod
    def __new__(cls, held: Tensor) -> "Remote":
        layout = (held.shape, held.stride(), held.storage_offset())
        return Tensor._make_wrapper_subclass(cls, *layout, dtype=held.dtype, device=GPU)

    def __init__(self, held: Tensor):
        self.held = held

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, new: "Remote") -> None:
        torch._C.TensorBase.data.__set__(self, new)
        self.held = new.held

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:
        return f"Remote({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        raise AssertionError("the game is over")


class Played(TorchDispatchMode):
    """Does on the processor what is asked of `Remote` tensors.

    CUDA takes single numbers and indices from the processor, and no other tensor. Under
    `torch.use_deterministic_algorithms` it also refuses some operations.
    """

    MOVES = ("_to_copy", "copy_")
    INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")
    REFUSED = (
        "_adaptive_avg_pool2d_backward adaptive_max_pool2d_backward avg_pool3d_backward "
        "max_unpool2d upsample_bilinear2d_backward reflection_pad2d_backward nll_loss2d_forward "
        "histc median put_"
    ).split()

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        remote = [tensor for tensor in tensors if isinstance(tensor, Remote)]
        where = kwargs.get("device") or (GPU if remote else torch.device("cpu"))
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        name = func._schema.name.removeprefix("aten::")
        if remote and name not in self.MOVES:
            local = [t for t in tensors if not isinstance(t, Remote) and t.ndim]
            if name in self.INDEXED and isinstance(args[0], Remote):
                local = [t for t in local if t.dtype not in (torch.int64, torch.bool)]
            assert not local, f"{func} mixes devices"
            assert name not in self.REFUSED, f"{name} has no deterministic implementation"
            self.seen.add(name)
        bare = tree_map(lambda x: x.held if isinstance(x, Remote) else x, (args, kwargs))
        out = func(*bare[0], **bare[1])
        if torch.device(where) != GPU:
            return out
        if func._schema.is_mutable:  # in place: what comes back is what was given
            for tensor in remote:
                if tensor.held is out:
                    return tensor
        return tree_map(lambda x: Remote(x) if isinstance(x, Tensor) else x, out)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    """The game, in which this test runs."""
    make = torch.tensor

    def tensor(data: Any, device: torch.device | None = None, **kwargs: Any) -> Tensor:
        return make(data, **kwargs).to(device)  # straight on "meta" it would hold nothing

    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["cpu", "meta"])
    with Played() as mode:
        yield mode


def test_the_game_has_the_rules_of_cuda(played: Played) -> None:
    numbers = torch.ones(3).to(GPU)
    assert numbers.device == GPU and not numbers.is_cpu
    assert (numbers * 2 + torch.tensor(1.0)).sum().item() == 9
    numbers[torch.tensor([0])] = 5
    assert torch.equal(numbers.cpu(), torch.tensor([5.0, 1, 1]))
    with pytest.raises(AssertionError, match="aten.add.Tensor mixes devices"):
        numbers + torch.ones(3)
    with pytest.raises(AssertionError, match="aten.index.Tensor mixes devices"):
        torch.ones(3)[numbers > 2]
    with pytest.raises(AssertionError, match="aten.index_select.default mixes devices"):
        numbers.index_select(0, torch.tensor([0]))
    with pytest.raises(RuntimeError, match="numpy"):
        numbers.numpy()
    model = torch.nn.Linear(3, 2).to(GPU)
    model(numbers[None]).sum().backward()
    assert model.weight.grad.device == GPU
    with pytest.raises(AssertionError, match="no deterministic implementation"):
        numbers.median(0)


# --- cells ---------------------------------------------------------------------------------------

SCORING = parameters.Scoring(per_class=1, count=2, temperature=200.0)
TRAINING = parameters.Training(
    epochs=1, batch_size=64, optimizer="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.0005
)
STEPS = 2
ENVIRONMENT = parameters.Environment(
    **{"network": "lenet300", "width": 0.05, "seed": 100, "steps": STEPS, "sparsity": (0.8, 0.9)},
    **{"alpha": 100.0, "grad_weight": 0.2, "calibration_steps": STEPS, "action": "linear"},
    **{"objective": "paper", "trial_steps": 2},
)
AGENT = parameters.Agent(
    **{"steps": 12, "algorithm": "td3", "learning_rate": 0.001, "batch_size": 4, "gamma": 0.99},
    **{"tau": 0.01, "policy_noise": 0.2, "noise_clip": 0.5, "policy_delay": 2, "hidden": (4,)},
    **{"exploration_noise": 0.1, "learning_starts": 4, "reward_scale": 1.0},
    **{"checkpoint_every": 12},
)
PLACE = {"data": "digits", "network": "lenet300", "width": 0.05, "seed": 0, "scoring": SCORING}


def same(function: Callable, **cell: Any) -> None:
    """A cell returns there, to the last bit, what it returns on the processor."""
    here, there = (function(**cell, device=device) for device in ("cpu", GPU.type))
    pd.testing.assert_frame_equal(pd.DataFrame(there), pd.DataFrame(here), check_exact=True)


def prune(**cell: Any) -> list[dict[str, float]]:
    """`prune_and_train`, as a table of one row."""
    return [pruning.prune_and_train(**{"training": TRAINING, "steps": STEPS} | PLACE | cell)]


@pytest.mark.parametrize("method", ["dense", *METHODS])
def test_a_method_prunes_and_trains_there(toy, played: Played, method: str) -> None:
    cell = {"network": "lenet5", "width": 0.1}
    if method == "rlpanning":
        cell["policy"] = ["random", 0]
    same(prune, method=method, sparsity=0.0 if method == "dense" else 0.8, **cell)
    assert played.seen >= {"convolution_backward", "_fused_sgd_"}
    assert ("kthvalue" in played.seen) == (method != "dense")


@pytest.mark.parametrize("network", ["vgg11", "resnet20"])
def test_pictures_are_cropped_and_mirrored_there(
    published: Callable, played: Played, network: str
) -> None:
    published("cifar10", 20, 10)
    sources.fetch("cifar10")
    worlds._kept.cache_clear()  # the images of another test, of the same name
    cell = {"data": "cifar10", "network": network, "fraction": 0.5}
    same(prune, method="panning", sparsity=0.8, holdout=0.2, **cell)
    assert played.seen >= {"flip", "constant_pad_nd", "native_batch_norm_backward"}


@pytest.mark.parametrize("network", ["lenet5", "vgg11"])
def test_a_jacobian_is_taken_there(played: Played, network: str) -> None:
    torch.manual_seed(0)
    model, images = build_model(network, width=0.1), torch.randn(2, 1, 28, 28)
    masks = {name: torch.rand(w.shape) < 0.5 for name, w in prunable(model).items()}
    here = jacobian_singular_values(model, masks, images)
    masks = {name: mask.to(GPU) for name, mask in masks.items()}
    there = jacobian_singular_values(model.to(GPU), masks, images.to(GPU))
    assert there.device == GPU
    assert torch.equal(there.cpu(), here)


@pytest.mark.parametrize("check", checks.CHECKS)
def test_a_sanity_check_is_made_there(toy, played: Played, check: str) -> None:
    same(prune, method="iterative_snip", sparsity=0.8, check=check)


@pytest.mark.parametrize("objective", ["paper", "trainability"])
def test_policies_are_judged_there(toy, played: Played, objective: str) -> None:
    same(
        agents.judge,
        environment=ENVIRONMENT.changed(objective=objective),
        sparsity=0.9,
        policies={"a": (0.2, 0.5, 0.3), "b": ("random", 0)},
        training=TRAINING,
        trials=[1, 2],
        **PLACE,
    )


def test_an_agent_learns_on_the_processor_of_a_network_there(toy, played: Played) -> None:
    world = {"data": "digits", "environment": ENVIRONMENT, "scoring": SCORING}
    learned = agents.train_policy(**world, agent=AGENT, seed=0, device=GPU.type)
    assert not any(isinstance(weight, Remote) for weight in learned["weights"].values())
    policy = {"weights": learned["weights"], "card": learned["card"]}
    cell = PLACE | world | {"policies": {"agent": policy}, "sparsities": [0.8, 0.9]}
    same(agents.evaluate, **cell)


def test_the_loop_is_watched_there(toy, played: Played) -> None:
    cell = PLACE | {"steps": STEPS}
    traces = [
        loops.trace(**cell, sparsity=0.9, policy="staged", device=device)
        for device in ("cpu", GPU.type)
    ]
    assert traces[0] == traces[1]
    same(loops.collapse, **cell, method="force", compressions=[10, 100])
