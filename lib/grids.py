"""The grids of the full study: what each cell computes, and what its row is called."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from . import config, plan, sanity
from .grid import run_grid
from .methods import METHODS

Named = tuple[dict[str, Any], dict[str, Any]]  # what a row is called, and the cell behind it
SHUFFLED = "panning+shuffled"  # uniform random at Panning's own layer densities
SUBSETS = {
    "SynFlow": (1, 0, 0),
    "SNIP": (0, 1, 0),
    "GraSP": (0, 0, 1),
    "SynFlow + SNIP": (1, 1, 0),
    "SynFlow + GraSP": (1, 0, 1),
    "SNIP + GraSP": (0, 1, 1),
    "all three alike": (1, 1, 1),
}


def tabulate(
    function: Callable, named: Sequence[Named], compute: config.Compute, description: str
) -> list[dict[str, Any]]:
    """Run the cells, see `run_grid`; a row a cell, or as many as the cell returns."""
    found = run_grid(function, [cell for _, cell in named], compute, description)
    rows = []
    for (name, _), result in zip(named, found, strict=True):
        rows += [name | one for one in (result if isinstance(result, list) else [result])]
    return rows


def _base(params: SimpleNamespace, network: str, epochs: int) -> dict[str, Any]:
    """The arguments of `prune_and_train` that a whole grid shares."""
    return {
        "data": params.data.name,
        "network": network,
        "training": replace(params.training, epochs=epochs),
        "scoring": params.scoring,
        "device": params.compute.device,
    }


def method(params: SimpleNamespace, name: str, agent: Any = None) -> dict[str, Any]:
    """The arguments of `prune_and_train` that make a method; `agent` is RLPanning's policy."""
    name, _, check = name.partition("+")
    cell: dict[str, Any] = {"method": name}
    if name == "dense":
        return cell | {"sparsity": 0.0}
    cell |= {"steps": params.panning.steps, "settings": {"schedule": params.panning.schedule}}
    if METHODS[name].p is None:
        cell["policy"] = agent if name == "rlpanning" else params.panning.stages
    return cell | ({"check": check} if check else {})


def comparison(params: SimpleNamespace, task: plan.Task, agents: Mapping[int, Any]) -> list[Named]:
    """Claim A: every method at every sparsity, and the dense network.

    Args:
        params: The full profile.
        task: Network, data set, sparsities, methods, seeds.
        agents: {seed of the network: the agent that RLPanning uses on it}, so that the interval of
            RLPanning is over agents and networks at once.
    """
    base = _base(params, task.network, task.epochs) | {"data": task.data, "width": task.width}
    training = replace(base["training"], batch_size=task.batch_size, weight_decay=task.weight_decay)
    named = []
    for seed in task.seeds:
        for name in ("dense", *task.methods):
            for rho in (0.0,) if name == "dense" else task.sparsities:
                cell = base | {"training": training, "sparsity": rho, "seed": seed}
                cell |= method(params, name, agents.get(seed))
                cell["probe"] = name != "dense"
                row = {"task": task.name, "method": name, "sparsity": rho, "seed": seed}
                named.append((row, cell))
    return named


def checks(params: SimpleNamespace) -> list[Named]:
    """Claim C: each method, and each method deprived of one thing."""
    study = params.claim_c
    base = _base(params, study.network, study.epochs)
    return [
        (
            {"method": name, "check": check or "unchanged", "sparsity": rho, "seed": seed},
            base | {"sparsity": rho, "seed": seed, **method(params, name), "check": check},
        )
        for name in study.check_methods
        for check in (None, *sanity.CHECKS)
        for rho in study.check_sparsities
        for seed in study.seeds
    ]


def choices(params: SimpleNamespace) -> list[Named]:
    """The metrics: one thing of Panning with the hand-made policy changed at a time."""
    study, scoring = params.choices, params.scoring
    base = _base(params, study.network, study.epochs)
    panning = method(params, "panning")

    def setting(**values: Any) -> dict[str, Any]:
        return {"settings": panning["settings"] | values}

    variants: dict[tuple[str, str], dict[str, Any]] = {("reference", "Panning"): {}}
    variants |= {("metrics", name): {"policy": p} for name, p in SUBSETS.items()}
    variants["fusion", "product"] = setting(fusion="product")
    variants |= {("normalisation", name): setting(score=name) for name in study.scores}
    variants["gradients", "masked"] = setting(gradients="masked")
    variants["return", "no return"] = {"method": "iterative_fused"}
    for value in study.temperatures:
        changed = replace(scoring, temperature=value)
        variants["temperature", f"logits / {value:g}"] = {"scoring": changed}
    for value in study.per_class:
        variants["samples", f"{value} a class"] = {"scoring": replace(scoring, per_class=value)}
    for value in study.counts:
        variants["batches", f"{value} batches"] = {"scoring": replace(scoring, count=value)}
    variants |= {("schedule", name): setting(schedule=name) for name in study.schedules}
    variants |= {("iterations", f"T = {T}"): {"steps": T} for T in study.steps}
    return [
        (
            {"study": name, "setting": which, "sparsity": rho, "seed": seed},
            base | panning | change | {"sparsity": rho, "seed": seed},
        )
        for (name, which), change in variants.items()
        for rho in study.sparsities
        for seed in study.seeds
    ]


def world(params: SimpleNamespace, variant: plan.Variant | None = None) -> dict[str, Any]:
    """The arguments of `make_environment` that do not say on which network."""
    environment = params.environment
    if variant is not None:
        environment = config.changed(environment, **variant.environment)
    return {
        "data": params.data.name,
        "environment": environment,
        "scoring": params.scoring,
        "device": params.compute.device,
        "settings": {"schedule": params.panning.schedule},
    }


def transfers(
    params: SimpleNamespace, variant: plan.Variant, policies: Mapping[str, Mapping[str, Any]]
) -> list[Named]:
    """Claim B: policies on targets they were not made for.

    Args:
        params: The full profile.
        variant: Whose environment is used.
        policies: {name of a target: {contender: plain policy}}.
    """
    named = []
    for target in params.claim_b.targets:
        place = {"data": target.data, "network": target.network, "width": target.width}
        # As many images are seen in training where there are fewer of them.
        epochs = max(1, round(target.epochs / target.fraction))
        for rho in target.sparsities:
            for seed in params.claim_b.seeds:
                cell = world(params, variant) | place | {"fraction": target.fraction}
                cell |= {"sparsity": rho, "seed": seed}
                cell |= {"policies": policies[target.name]}
                cell["training"] = replace(params.training, epochs=epochs)
                row = {"target": target.name, "sparsity": rho, "seed": seed}
                named.append((row, cell))
    return named
