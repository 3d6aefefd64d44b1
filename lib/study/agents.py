"""Cells that train agents, evaluate policies, and judge them by the networks they make."""

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from ..agent import train_agent
from ..data.files import root
from ..environment import PanningEnv, Reward, rollout
from ..masks import Mask
from ..metrics import Batch, grad_norm_sq, loss_and_gradient
from ..networks import probes
from ..panning import Panning
from ..policies import STAGES, as_policy
from . import parameters
from .grid import digest, outdated
from .pruning import train_and_test
from .worlds import load, make_environment, make_policy

TERMS = tuple(f"reward_{term}" for term in Reward._fields)
Policy = Callable[[np.ndarray], Sequence[float]]


def train_policy(
    *,
    environment: parameters.Environment,
    agent: parameters.Agent,
    seed: int,
    **world: Any,
) -> dict[str, Any]:
    """Train one agent; its weights, its card and its learning curve.

    Args:
        environment: Also names the network.
        agent: Hyper-parameters.
        seed: Of the agent.
        **world: The other arguments of `worlds.make_environment`.
    """
    place = {"network": environment.network, "width": environment.width, "seed": environment.seed}
    env = make_environment(environment=environment, **place, **world)
    key = digest(train_policy, {"environment": environment, "agent": agent, "seed": seed, **world})
    cache = root() / ".cache"
    checkpoints = cache / "agents" / key
    if outdated(checkpoints):
        shutil.rmtree(checkpoints)
    folders = {"checkpoints": checkpoints, "log_folder": cache / "tensorboard" / key}
    policy, episodes = train_agent(env, seed, **agent.model_dump(), **folders)
    card = policy.card | {
        "data": world["data"],
        "network": environment.network,
        "width": environment.width,
        "fraction": world.get("fraction", 1.0),
        "network_seed": environment.seed,
        "scoring": world["scoring"].model_dump(),
        "settings": world.get("settings") or {},
        "agent": agent.model_dump(mode="json"),
    }
    return {"weights": policy.actor.state_dict(), "card": card, "episodes": episodes}


def evaluate(
    *, policies: Mapping[str, Any], sparsities: Sequence[float], **world: Any
) -> list[dict[str, Any]]:
    """One episode of each policy at each target: one row per iteration, see `rollout`.

    The policies share what is known of the network: the dense scores, and the range of 𝒩.

    Args:
        policies: {name: policy}, see `worlds.make_policy`.
        sparsities: The targets.
        **world: The arguments of `worlds.make_environment`, which name the network.
    """
    env = make_environment(**world)
    return [
        {"policy": name} | row
        for name, policy in ((name, make_policy(plain)) for name, plain in policies.items())
        for rho in sparsities
        for row in rollout(env, policy, rho)
    ]


def earn(env: PanningEnv, policy: Policy, sparsity: float) -> dict[str, float]:
    """The return of one episode and its terms; then the loop is run to its end.

    An episode ends when the network dies; Panning goes on, since weights can return.
    """
    policy = as_policy(policy, env.formulation)
    state, _ = env.reset(options={"sparsity": sparsity})
    sums, length, ended = dict.fromkeys(("return", *TERMS), 0.0), 0, False
    while not env.panning.done:
        state, value, terminated, _, info = env.apply(policy(state))
        if not ended:
            length += 1
            sums["return"] += value
            for term in TERMS:
                sums[term] += info[term]
        ended = ended or terminated
    return sums | {"length": length}


def judge(
    *,
    policies: Mapping[str, Any],
    sparsity: float,
    training: parameters.Training,
    trials: Sequence[int] = (),
    **world: Any,
) -> list[dict[str, float]]:
    """Run each policy for one episode at one target, and train the network that it found.

    The policies share the network's dense scores and its range of 𝒩.

    Args:
        policies: {name: policy}, see `make_policy`.
        sparsity: The target.
        training: How the networks are trained.
        trials: Numbers of training steps after which to measure the loss, see `trainability`; with
            any, the sparse networks are also measured before training.
        **world: The arguments of `make_environment`.

    Returns:
        One row per policy.
    """
    env = make_environment(**world)
    process, bank = env.panning, env.panning.bank
    train_set, test_set = load(world["data"], world.get("device", "auto"))
    train_set = train_set.subset(world.get("fraction", 1.0), world["seed"])
    rows = []
    for name, policy in policies.items():
        row = {"policy": name} | earn(env, make_policy(policy), sparsity)
        kept = process.effective
        row["effective_sparsity"] = process.effective_sparsity
        if trials:
            row |= {f"final_{key}": x for key, x in process.observe()._asdict().items()}
            row |= _gaps_at_200(process)
            row |= _before_training(bank.model, kept, bank.batches[0])
            for steps in trials:
                after = probes.trainability(bank.model, kept, bank.batches, steps)
                row[f"loss_after_{steps}"] = after
        model = copy.deepcopy(bank.model)
        rows.append(row | train_and_test(model, train_set, test_set, training, kept, world["seed"]))
    return rows


def _before_training(model: nn.Module, kept: Mask, batch: Batch) -> dict[str, float]:
    """Loss, squared gradient norm and Jacobian of the sparse network, on one scoring batch."""
    loss, gradients = loss_and_gradient(model, kept.flat, batch, 1.0)
    some = batch[0][:: max(1, len(batch[0]) // 100)]  # a Jacobian is large if classes are many
    singular = probes.jacobian_singular_values(model, kept, some)
    return {
        "initial_loss": loss.item(),
        "initial_grad_norm_sq": grad_norm_sq(gradients, kept.flat).item(),
        "jacobian_mean": singular.mean().item(),
        "jacobian_max": singular.max().item(),
    }


def _gaps_at_200(process: Panning) -> dict[str, float]:
    """|L - L_s| and |ΔL - ΔL_s| at temperature 200, in float64: in float32 they are noise."""
    model = copy.deepcopy(process.bank.model).double()
    inputs, targets = process.bank.batches[(process.t - 1) % len(process.bank.batches)]
    values = []
    for mask in (None, process.mask):
        loss, gradients = loss_and_gradient(model, mask, (inputs.double(), targets), 200.0)
        values.append((loss.item(), grad_norm_sq(gradients, mask).item()))
    (loss, flow), (loss_sparse, flow_sparse) = values
    return {"gap_loss_200": abs(loss - loss_sparse), "gap_flow_200": abs(flow - flow_sparse)}


def random_policies(count: int, seed: int) -> dict[str, list]:
    """Random policies by name, as `make_policy` reads them: every other one is a table.

    The weights p are log-uniform from 0.001 to 1, each of them 0 one time in four: what matters is
    their proportion, and leaving a metric out is a choice of its own.
    """
    generator = np.random.default_rng(seed)

    def draw() -> list[float]:
        p = 10 ** -generator.uniform(0, 3, 3) * (generator.random(3) > 0.25)
        return [float(value) for value in np.round(p if p.any() else np.ones(3), 6)]

    edges = [row[0] for row in STAGES]
    return {
        f"{index:03d}": draw() if index % 2 else [[edge, *draw()] for edge in edges]
        for index in range(count)
    }
