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
from ..metrics import Batch, grad_norm_sq, loss_and_gradient, synflow
from ..networks import probes
from ..networks.inspection import unflatten
from ..panning import Panning
from ..policies import STAGES, as_policy
from ..pool import PanningPool
from . import parameters
from .grid import digest, outdated
from .pruning import train_and_test
from .worlds import load, make_environment, make_policy, unscored_batches

TERMS = tuple(f"reward_{term}" for term in Reward._fields)
Policy = Callable[[np.ndarray], Sequence[float]]


def train_policy(
    *,
    environment: parameters.Environment,
    agent: parameters.Agent,
    seed: int,
    networks: Sequence[Mapping[str, Any]] = (),
    evaluation: Mapping[str, Any] | None = None,
    **world: Any,
) -> dict[str, Any]:
    """Train one agent; its weights, its card and its learning curve.

    Args:
        environment: Also names the network.
        agent: Hyper-parameters.
        seed: Of the agent.
        networks: Others in its place, `network`, `width` and `seed` of each; see `PanningPool`.
        evaluation: The network on which the agent is evaluated while it learns, and `sparsities`,
            the targets.
        **world: The other arguments of `worlds.make_environment`.
    """
    own = {"network": environment.network, "width": environment.width, "seed": environment.seed}
    envs = [
        make_environment(environment=environment, **place, **world) for place in networks or [own]
    ]
    what = {"environment": environment, "agent": agent, "seed": seed, **world}
    what |= {"networks": list(networks), "evaluation": evaluation}
    key = digest(train_policy, what)
    cache = root() / ".cache"
    checkpoints = cache / "agents" / key
    if outdated(checkpoints):
        shutil.rmtree(checkpoints)
    watch: dict[str, Any] = {"checkpoints": checkpoints, "log_folder": cache / "tensorboard" / key}
    if evaluation is not None:
        place = {name: evaluation[name] for name in own}
        watch["evaluation"] = make_environment(environment=environment, **place, **world)
        watch["evaluate_at"] = evaluation["sparsities"]
    env = PanningPool(envs) if networks else envs[0]
    policy, episodes = train_agent(env, seed, **agent.model_dump(), **watch)
    card = policy.card | {
        "data": world["data"],
        "network": environment.network,
        "fraction": world.get("fraction", 1.0),
        "scoring": world["scoring"].model_dump(),
        "agent": agent.model_dump(mode="json"),
    }
    if networks:
        card["networks"] = [dict(place) for place in networks]
    else:
        card |= {"width": environment.width, "network_seed": environment.seed}
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
    holdout: float = 0.0,
    **world: Any,
) -> list[dict[str, float]]:
    """Run each policy for one episode at one target, and train the network that it found.

    The policies share the network's dense scores and its range of 𝒩.

    Args:
        policies: {name: policy}, see `make_policy`.
        sparsity: The target.
        training: How the networks are trained.
        trials: Rising numbers of training steps after which to measure the loss, see
            `probes.trial`, on the scoring batches, and on as many of other images; with any, the
            sparse networks are also measured before training.
        holdout: A fraction of the training images that takes the place of the test images, see
            `prune_and_train`.
        **world: The arguments of `make_environment`.

    Returns:
        One row per policy.
    """
    env = make_environment(holdout=holdout, **world)
    process, bank = env.panning, env.panning.bank
    seed = world["seed"]
    train_set, test_set = load(world["data"], world.get("device", "auto"))
    if holdout:
        train_set, test_set = train_set.split(holdout, seed)
    train_set = train_set.subset(world.get("fraction", 1.0), seed)
    others = unscored_batches(train_set, world["scoring"], seed) if trials else []
    rows = []
    for name, policy in policies.items():
        row = {"policy": name} | earn(env, make_policy(policy), sparsity)
        kept = process.effective
        row["effective_sparsity"] = process.effective_sparsity
        if trials:
            row |= {f"final_{key}": x for key, x in process.observe()._asdict().items()}
            row |= _gaps_at_200(process)
            row |= _before_training(bank.model, kept, bank.batches[0])
            losses = probes.trial(bank.model, kept, bank.batches, trials, [bank.batches, others])
            for steps, (scored, unscored) in zip(trials, losses, strict=True):
                row |= {f"loss_after_{steps}": scored, f"loss_after_{steps}_elsewhere": unscored}
        model = copy.deepcopy(bank.model)
        rows.append(row | train_and_test(model, train_set, test_set, training, kept, seed))
    return rows


def _before_training(model: nn.Module, kept: Mask, batch: Batch) -> dict[str, float]:
    """What the sparse network is like on one scoring batch.

    Loss, squared gradient norm, Jacobian, tangent kernel, and SynFlow's path norm, the part of it
    that runs through the last layer.
    """
    loss, gradients = loss_and_gradient(model, kept.flat, batch, 1.0)
    some = probes.some_of(batch[0])
    singular = probes.jacobian_singular_values(model, kept, some)
    *_, last = unflatten(synflow(model, kept.flat, batch) * kept.flat, kept).values()
    return {
        "initial_loss": loss.item(),
        "initial_grad_norm_sq": grad_norm_sq(gradients, kept.flat).item(),
        "jacobian_mean": singular.mean().item(),
        "jacobian_max": singular.max().item(),
        "ntk_trace": probes.ntk_trace(model, kept, some),
        "path_norm": last.double().abs().sum().item(),
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


def random_policies(count: int, seed: int, linear: bool = False) -> dict[str, list]:
    """Random policies by name, as `make_policy` reads them: every other one is a table.

    The weights p are log-uniform from 0.001 to 1, since in a sum their proportions matter, or with
    `linear` uniform; each is 0 one time in four: leaving a metric out is a choice of its own.
    """
    generator = np.random.default_rng(seed)

    def draw() -> list[float]:
        p = generator.uniform(0, 1, 3) if linear else 10 ** -generator.uniform(0, 3, 3)
        p = p * (generator.random(3) > 0.25)
        return [float(value) for value in np.round(p if p.any() else np.ones(3), 6)]

    edges = [row[0] for row in STAGES]
    return {
        f"{index:03d}": draw() if index % 2 else [[edge, *draw()] for edge in edges]
        for index in range(count)
    }
