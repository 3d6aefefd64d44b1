"""What each notebook computes: named cells, from the parameters of a profile.

A plan is a list of (name, cell): what its rows are called in a table, and the arguments of the
function that computes them. `grid.tabulate` runs it.
"""

from collections.abc import Mapping
from typing import Any

from ..methods import METHODS
from ..policies import STAGES
from . import checks as sanity
from . import parameters
from .agents import random_policies
from .parameters import Parameters
from .tickets import TICKETS

Plan = list[tuple[dict[str, Any], dict[str, Any]]]
SUBSETS = {
    "SynFlow": (1, 0, 0),
    "SNIP": (0, 1, 0),
    "GraSP": (0, 0, 1),
    "SynFlow + SNIP": (1, 1, 0),
    "SynFlow + GraSP": (1, 0, 1),
    "SNIP + GraSP": (0, 1, 1),
    "all three alike": (1, 1, 1),
}


def trained(params: Parameters, network: str, **training: Any) -> dict[str, Any]:
    """The arguments of `prune_and_train` that a whole plan shares."""
    return {
        "data": params.data.name,
        "network": network,
        "training": params.training.changed(**training),
        "scoring": params.scoring,
        "device": params.compute.device,
    }


def pruned_by(params: Parameters, name: str, agent: Any = None) -> dict[str, Any]:
    """The arguments of `prune_and_train` that make a method; `agent` is RLPanning's policy."""
    name, _, check = name.partition("+")
    cell: dict[str, Any] = {"method": name}
    if name == "dense":
        return cell | {"sparsity": 0.0}
    steps = METHODS[name].steps or params.panning.steps
    cell |= {"steps": steps, "settings": {"schedule": params.panning.schedule}}
    if name == "rlpanning":
        cell["policy"] = agent
    elif METHODS[name].stages == STAGES:  # the profile's table takes the place of the paper's
        cell["policy"] = params.panning.stages
    return cell | ({"check": check} if check else {})


def _of_task(params: Parameters, task: parameters.Task) -> dict[str, Any]:
    """The arguments of `prune_and_train` that a task sets."""
    taught = {"epochs": task.epochs, "batch_size": task.batch_size}
    base = trained(params, task.network, weight_decay=task.weight_decay, **taught)
    scoring = params.scoring.changed(per_class=task.per_class)
    return base | {"data": task.data, "width": task.width, "scoring": scoring}


# --- 02 ----------------------------------------------------------------------------------------


def comparison(params: Parameters, agents: Mapping[int, Any] | None = None) -> Plan:
    """Claim A: every method at every sparsity, and the dense network; or RLPanning alone.

    Args:
        params: The profile.
        agents: {seed of the network: the agent that prunes it}. With them, RLPanning's part of the
            plan, in the tasks that name it: each seed has another agent, so that the interval is
            over agents and networks at once. Without them, the other methods' part.
    """
    plan: Plan = []
    for task in params.comparison.tasks:
        base = _of_task(params, task)
        for method in ("dense", *task.methods):
            if method in TICKETS or (method == "rlpanning") != (agents is not None):
                continue
            for rho in (0.0,) if method == "dense" else task.sparsities:
                for seed in task.seeds:
                    cell = base | {"sparsity": rho, "seed": seed}
                    cell |= pruned_by(params, method, (agents or {}).get(seed))
                    row = {"task": task.name, "method": method, "sparsity": rho, "seed": seed}
                    plan.append((row, cell))
    return plan


def tickets(params: Parameters) -> Plan:
    """The controls that prune after training, in the tasks that name them; for `rewound`."""
    plan: Plan = []
    for task in params.comparison.tasks:
        base = _of_task(params, task)
        del base["scoring"]
        base["sparsities"] = task.sparsities
        for method in (name for name in TICKETS if name in task.methods):
            for seed in task.seeds:
                row = {"task": task.name, "method": method, "seed": seed}
                plan.append((row, base | {"iterative": TICKETS[method], "seed": seed}))
    return plan


def _watched(params: Parameters) -> dict[str, Any]:
    return {
        "data": params.data.name,
        "network": params.flow.network,
        "steps": params.panning.steps,
        "scoring": params.scoring,
        "device": params.compute.device,
        "settings": {"schedule": params.panning.schedule},
    }


def traces(params: Parameters) -> Plan:
    """The flow of force: Panning with and without the return of weights, every weight watched."""
    base = _watched(params) | {"policy": params.panning.stages}
    plan = []
    for method in ("panning", "iterative_fused"):
        settings = base["settings"] | {"reactivate": METHODS[method].reactivate}
        for rho in params.flow.sparsities:
            for seed in params.flow.seeds:
                row = {"sparsity": rho, "seed": seed, "method": method}
                place = {"sparsity": rho, "seed": seed, "settings": settings}
                plan.append((row, base | place))
    return plan


def collapses(params: Parameters) -> Plan:
    """Layer collapse: every method at every compression."""
    base = _watched(params) | {"compressions": params.flow.compressions}
    return [
        (
            {"method": method, "seed": seed},
            base
            | {"method": method, "seed": seed}
            | ({"policy": params.panning.stages} if METHODS[method].stages == STAGES else {}),
        )
        for method in params.flow.collapse_methods
        for seed in params.flow.seeds
    ]


# Methods that are asked which weights they keep against a metric's word: method, policy (None: its
# own p, or the profile's table), and what else is changed about it.
VETOES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "synflow": ("synflow", None, {}),
    "force": ("force", None, {}),
    "panning": ("panning", None, {}),
    "panning_masked": ("panning_masked", None, {}),
    # Is it the product, or that the gradients are the masked network's? One without the other.
    "SynFlow + masked SNIP": ("panning_masked", None, {"fusion": "sum"}),
    "SynFlow × dense SNIP": ("panning_masked", None, {"gradients": "dense"}),
}


def vetoes(params: Parameters) -> Plan:
    """Which of the weights that a method keeps are worthless to SynFlow, or to SNIP, alone."""
    plan: Plan = []
    for place in params.flow.vetoes:
        base = _watched(params) | {"data": place.data}
        base |= {"network": place.network, "width": place.width}
        for name in place.methods:
            method, policy, changes = VETOES[name]
            loop = METHODS[method]
            parts = ("reactivate", "gradients", "score", "fusion")
            own = {part: getattr(loop, part) for part in parts}
            cell = base | {"settings": base["settings"] | own | changes}
            staged = params.panning.stages if loop.stages == STAGES else loop.stages
            cell["policy"] = policy or loop.p or staged
            for rho in place.sparsities:
                for seed in place.seeds:
                    row = {"task": place.name, "method": name, "sparsity": rho, "seed": seed}
                    plan.append((row, cell | {"sparsity": rho, "seed": seed}))
    return plan


# --- 03 ----------------------------------------------------------------------------------------


def variant(params: Parameters, name: str) -> parameters.Variant:
    """The way to train agents called `name`."""
    known = {each.name: each for each in params.learning.variants}
    if name not in known:
        raise ValueError(f"learning.chosen must be one of {', '.join(known)}, got {name!r}")
    return known[name]


def world(params: Parameters, name: str | None = None) -> dict[str, Any]:
    """The arguments of `make_environment` in a variant, all but the network."""
    environment = params.environment
    if name is not None:
        environment = environment.changed(**variant(params, name).environment)
    return {
        "data": params.data.name,
        "environment": environment,
        "scoring": params.scoring,
        "device": params.compute.device,
        "settings": {"schedule": params.panning.schedule},
    }


def home(params: Parameters) -> dict[str, Any]:
    """The network that agents train on, all but its seed."""
    return {"network": params.environment.network, "width": params.environment.width}


def agents(params: Parameters) -> Plan:
    """Every variant's agents, trained; for `train_policy`."""
    return [
        (
            {"settings": each.name, "seed": seed},
            world(params, each.name) | {"agent": params.agent.changed(**each.agent), "seed": seed},
        )
        for each in params.learning.variants
        for seed in each.seeds
    ]


def searches(params: Parameters) -> Plan:
    """The best constant p in each variant's environment, with an agent's budget of steps."""
    extra = {"budget": params.agent.steps, "sparsities": params.learning.search_sparsities}
    return [
        ({"settings": each.name}, world(params, each.name) | extra | {"seed": 0})
        for each in params.learning.variants
    ]


def returns(params: Parameters, policies: Mapping[str, Mapping[str, Any]]) -> Plan:
    """Policies on networks that no agent has seen; for `agents.evaluate`.

    Args:
        params: The profile.
        policies: {variant: {contender: plain policy}}.
    """
    return [
        (
            {"settings": each.name, "seed": seed},
            world(params, each.name)
            | home(params)
            | {"policies": policies[each.name], "seed": seed}
            | {"sparsities": params.learning.sparsities},
        )
        for each in params.learning.variants
        for seed in params.learning.seeds
    ]


def rewards(params: Parameters) -> Plan:
    """Random policies, judged by their return and by the networks they make; for `judge`."""
    study = params.reward
    policies = list(random_policies(study.policies, seed=0).items())
    size = 10  # this many share a network and its scores
    base = world(params) | home(params)
    base["environment"] = params.environment.changed(steps=study.steps)
    base |= {"training": params.training.changed(epochs=study.epochs), "trials": study.trials}
    return [
        (
            {"sparsity": rho, "seed": seed},
            base
            | {"sparsity": rho, "seed": seed}
            | {"policies": dict(policies[start : start + size])},
        )
        for rho in study.sparsities
        for seed in study.seeds
        for start in range(0, len(policies), size)
    ]


def natives(params: Parameters) -> Plan:
    """An agent trained on each target that asks for one."""
    chosen = variant(params, params.learning.chosen)
    plan = []
    for target in params.transfer.targets:
        if target.native:
            cell = world(params, chosen.name) | {"data": target.data, "seed": chosen.seeds[0]}
            place = {"network": target.network, "width": target.width}
            cell["environment"] = cell["environment"].changed(**place)
            cell["agent"] = params.agent.changed(**chosen.agent)
            plan.append(({"target": target.name}, cell))
    return plan


def transfers(params: Parameters, policies: Mapping[str, Mapping[str, Any]]) -> Plan:
    """Claim B: policies on targets they were not made for; for `judge`.

    Args:
        params: The profile.
        policies: {target: {contender: plain policy}}.
    """
    plan = []
    for target in params.transfer.targets:
        base = world(params, params.learning.chosen)
        base |= {"data": target.data, "network": target.network, "width": target.width}
        # With fewer images there are more epochs, so that training sees as many.
        epochs = max(1, round(target.epochs / target.fraction))
        base |= {"fraction": target.fraction, "policies": policies[target.name]}
        base["training"] = params.training.changed(epochs=epochs)
        for rho in target.sparsities:
            for seed in params.transfer.seeds:
                row = {"target": target.name, "sparsity": rho, "seed": seed}
                plan.append((row, base | {"sparsity": rho, "seed": seed}))
    return plan


# --- 04 ----------------------------------------------------------------------------------------


def ablations(params: Parameters) -> Plan:
    """One thing of Panning with the hand-made policy changed at a time."""
    study, scoring = params.ablations, params.scoring
    base = trained(params, study.network, epochs=study.epochs)
    panning = pruned_by(params, "panning")

    def setting(**values: Any) -> dict[str, Any]:
        return {"settings": panning["settings"] | values}

    variants: dict[tuple[str, str], dict[str, Any]] = {("reference", "Panning"): {}}
    variants |= {("metrics", name): {"policy": p} for name, p in SUBSETS.items()}
    variants["fusion", "product"] = setting(fusion="product")
    variants |= {("normalisation", name): setting(score=name) for name in study.scores}
    variants["gradients", "masked"] = setting(gradients="masked")
    variants["return", "no return"] = {"method": "iterative_fused"}
    for value in study.temperatures:
        changed = scoring.changed(temperature=value)
        variants["temperature", f"logits / {value:g}"] = {"scoring": changed}
    for value in study.per_class:
        variants["samples", f"{value} a class"] = {"scoring": scoring.changed(per_class=value)}
    for value in study.counts:
        several = "batches" if value > 1 else "batch"
        variants["batches", f"{value} {several}"] = {"scoring": scoring.changed(count=value)}
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


def checks(params: Parameters) -> Plan:
    """Claim C: each method, and each method deprived of one thing."""
    study = params.checks
    base = trained(params, study.network, epochs=study.epochs)
    return [
        (
            {"method": name, "check": check or "unchanged", "sparsity": rho, "seed": seed},
            base | {"sparsity": rho, "seed": seed, **pruned_by(params, name), "check": check},
        )
        for name in study.methods
        for check in (None, *sanity.CHECKS)
        for rho in study.sparsities
        for seed in study.seeds
    ]


def table_searches(params: Parameters) -> Plan:
    """Searches over the fifteen numbers of the hand-made table; for `search_stages`."""
    study = params.search
    base = trained(params, params.ablations.network, epochs=study.epochs)
    base |= {"steps": study.steps, "trials": study.trials, "holdout": study.holdout}
    base |= {"settings": {"schedule": params.panning.schedule}, "network_seed": 100}
    base["sparsities"] = params.ablations.sparsities
    return [({"search": seed}, base | {"seed": seed}) for seed in study.seeds]


def tables_found(params: Parameters, policies: Mapping[str, Any]) -> Plan:
    """The tables that searches found, on networks they have not seen."""
    study = params.ablations
    base = trained(params, study.network, epochs=study.epochs) | pruned_by(params, "panning")
    return [
        (
            {"policy": name, "sparsity": rho, "seed": seed},
            base | {"policy": policy, "sparsity": rho, "seed": seed},
        )
        for name, policy in policies.items()
        for rho in study.sparsities
        for seed in study.seeds
    ]


# --- 07 ----------------------------------------------------------------------------------------


def development(params: Parameters) -> Plan:
    """Candidates for a fixed fusion and their rivals, on held-out training images."""
    study = params.development
    candidates = {each.name: each for each in study.candidates}
    plan: Plan = []
    for task in study.tasks:
        base = _of_task(params, task) | {"holdout": study.holdout}
        for name in task.methods:
            if name in candidates:
                own = candidates[name]
                cell = {"method": "panning", "policy": own.p, "steps": own.steps}
                cell["settings"] = {"schedule": params.panning.schedule} | own.settings
                cell["scoring"] = base["scoring"].changed(**own.scoring)
            else:
                cell = pruned_by(params, name)
            for rho in task.sparsities:
                for seed in task.seeds:
                    row = {"task": task.name, "method": name, "sparsity": rho, "seed": seed}
                    plan.append((row, base | cell | {"sparsity": rho, "seed": seed}))
    return plan
