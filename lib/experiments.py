"""The cells behind every table: prune a network, train it, and say how well it does.

Each function here is a cell for `grid.run_grid`: plain values in, plain values out, everything
random from a seed.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from . import config, masks, metrics, probes, sanity
from .agent import AgentPolicy, train_agent
from .bank import Extremes
from .data import ImageSet
from .environment import rollout
from .grid import digest, outdated, run_cell
from .methods import METHODS, pan, range_of
from .metrics import Batch
from .models import flatten, unflatten
from .reachability import effective_mask
from .training import evaluate, train
from .worlds import load, make_batches, make_environment, make_network, make_policy

Masks = Mapping[str, Tensor]
# Added to a cell's seed for weights that are drawn anew: no experiment's own.
OTHER = 1000


def seen_before_training(model: nn.Module, kept: Masks, batch: Batch) -> dict[str, float]:
    """Loss, squared gradient norm and Jacobian of the sparse network, on one scoring batch."""
    mask = flatten(kept)
    loss, gradients = metrics.loss_and_gradient(model, mask, batch, 1.0)
    some = batch[0][:: max(1, len(batch[0]) // 100)]  # a Jacobian is large where classes are many
    singular = probes.jacobian_singular_values(model, kept, some)
    return {
        "initial_loss": loss.item(),
        "initial_grad_norm_sq": metrics.grad_norm_sq(gradients, mask).item(),
        "jacobian_mean": singular.mean().item(),
        "jacobian_max": singular.max().item(),
    }


# --- cells -----------------------------------------------------------------------------------


def measure_range(
    *,
    data: str,
    network: str,
    width: float,
    fraction: float,
    seed: int,
    scoring: config.Scoring,
    device: str,
    sparsities: Sequence[float],
    steps: int | None,
    settings: Mapping[str, Any] | None,
) -> dict[str, tuple[float, float]]:
    """The range of 𝒩 on one network, which cells of several policies and targets share."""
    train_set, _ = load(data, device)
    train_set = train_set.subset(fraction, seed)
    found = range_of(
        make_network(network, width, seed, train_set, device),
        make_batches(train_set, scoring, seed),
        sparsities,
        steps,
        temperature=scoring.temperature,
        **(settings or {}),
    )
    return asdict(found)


def prune_and_train(
    *,
    data: str,
    network: str,
    seed: int,
    sparsity: float,
    method: str,
    training: config.Training,
    scoring: config.Scoring,
    device: str = "auto",
    width: float = 1.0,
    fraction: float = 1.0,
    steps: int | None = None,
    policy: Any = None,
    settings: Mapping[str, Any] | None = None,
    check: str | None = None,
    holdout: float = 0.0,
    probe: bool = False,
) -> dict[str, float]:
    """Prune a fresh network, train it, test it after the last epoch.

    Initialisation, scoring batches and order of the data depend on the seed alone, so that methods
    are compared in pairs.

    Args:
        data: Name of the data set.
        network: Name of the network.
        seed: Of everything random in the cell.
        sparsity: Target ρ; 0 with method "dense".
        method: A name in `METHODS`, or "dense".
        training: How it is trained.
        scoring: The scoring batches.
        device: Where it is trained.
        width: Factor on the width of the network.
        fraction: Of the training images, for scoring and for training.
        steps: T, where the method iterates.
        policy: For Panning, see `worlds.make_policy`.
        settings: Further settings of `Panning`.
        check: A name in `sanity.CHECKS`: what the method is deprived of.
        holdout: A fraction of the training images that is neither scored nor trained on, and takes
            the place of the test images: for whatever is chosen by accuracy.
        probe: Whether to look at the sparse network before training it, see `probes`.
    """
    if check is not None and check not in sanity.CHECKS:
        raise ValueError(f"check must be one of {', '.join(sanity.CHECKS)}, got {check!r}")
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout must be in [0, 1), got {holdout}")
    if method == "dense" and (check or probe):
        raise ValueError("check and probe look at a mask, and method 'dense' has none")
    train_set, test_set = load(data, device)
    if holdout:
        train_set, test_set = train_set.split(holdout, seed)
    train_set = train_set.subset(fraction, seed)
    model = make_network(network, width, seed, train_set, device)
    found: dict[str, float] = {"sparsity_reached": 0.0, "effective_sparsity": 0.0}
    kept = None
    if method != "dense":
        generator = torch.Generator().manual_seed(seed)
        batches = make_batches(train_set, scoring, seed)
        if check == "pixels":
            batches = sanity.shuffle_pixels(batches, generator)
        elif check == "labels":
            batches = sanity.shuffle_labels(batches, generator)
        chosen = None if policy is None else make_policy(policy)
        extremes = None
        if isinstance(chosen, AgentPolicy) and check is None and not holdout:
            place = {"network": network, "width": width, "fraction": fraction, "seed": seed}
            place |= {"data": data, "scoring": scoring, "device": device, "settings": settings}
            place |= {"sparsities": chosen.sparsity, "steps": steps}
            extremes = Extremes(**run_cell(measure_range, place))
        result = pan(
            model,
            batches,
            sparsity,
            steps if METHODS[method].steps is None else None,
            policy=chosen,
            method=method,
            extremes=extremes,
            temperature=scoring.temperature,
            seed=seed,
            **{**(settings or {}), **({"invert": True} if check == "inverted" else {})},
        )
        kept = result.effective
        if check == "shuffled":  # other places in the same layers, and so other paths
            shuffled = sanity.shuffle_layers(result.masks, generator)
            effective = effective_mask(model, flatten(shuffled), batches[0][0])
            kept = unflatten(effective, shuffled)
        elif check == "reinitialised":
            model = make_network(network, width, seed + OTHER, train_set, device)
        found["sparsity_reached"] = result.sparsity
        found["effective_sparsity"] = masks.sparsity(flatten(kept))
        found["reactivated"] = int(result.history["reactivated"].sum())
        if probe:
            found |= seen_before_training(model, kept, batches[0])
    return found | train_and_test(model, train_set, test_set, training, kept, seed)


def train_and_test(
    model: nn.Module,
    train_set: ImageSet,
    test_set: ImageSet,
    training: config.Training,
    kept: Masks | None,
    seed: int,
) -> dict[str, float]:
    """Train a network in place, and say how it stands after the last epoch."""
    losses = train(model, train_set, training, kept, seed)
    accuracy, loss = evaluate(model, test_set)
    found = {"accuracy": accuracy, "test_loss": loss, "train_loss": losses[-1]}
    # A sparse network starts on a plateau at ln(classes). One that is there still was not trained.
    return found | {"left_plateau": losses[-1] < 0.95 * math.log(train_set.num_classes)}


def train_policy(
    *,
    environment: config.Environment,
    agent: config.Agent,
    seed: int,
    **world: Any,
) -> dict[str, Any]:
    """Train one agent; its weights, its card and its learning curve.

    Args:
        environment: Also says on which network.
        agent: Hyper-parameters of TD3.
        seed: Of the agent.
        **world: The other arguments of `worlds.make_environment`.
    """
    place = {"network": environment.network, "width": environment.width, "seed": environment.seed}
    env = make_environment(environment=environment, **place, **world)
    key = digest(train_policy, {"environment": environment, "agent": agent, "seed": seed, **world})
    cache = config.root() / ".cache"
    checkpoints = cache / "agents" / key
    if outdated(checkpoints):
        shutil.rmtree(checkpoints)
    policy, episodes = train_agent(
        env,
        agent,
        seed,
        checkpoints=checkpoints,
        log_folder=cache / "tensorboard" / key,
    )
    card = policy.card | {
        "data": world["data"],
        "network": environment.network,
        "width": environment.width,
        "fraction": world.get("fraction", 1.0),
        "network_seed": environment.seed,
        "scoring": asdict(world["scoring"]),
        "settings": world.get("settings") or {},
        "agent": asdict(agent),
    }
    return {"weights": policy.actor.state_dict(), "card": card, "episodes": episodes}


def evaluate_policy(
    *, policy: Any, sparsities: Sequence[float], **world: Any
) -> list[dict[str, float]]:
    """One episode of a policy at each target: a row an iteration, see `rollout`.

    Args:
        policy: See `worlds.make_policy`.
        sparsities: The targets.
        **world: The arguments of `worlds.make_environment`, which say on which network.
    """
    env, chosen = make_environment(**world), make_policy(policy)
    return [row for rho in sparsities for row in rollout(env, chosen, rho)]
