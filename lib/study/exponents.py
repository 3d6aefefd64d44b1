"""The plans of notebook 07's second half: who chooses the exponents of the masked product best?

All policies choose in one space, `exponents.settings` of the profile, and in as many iterations.
Form and use are those of `plans`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import parameters, plans
from .agents import random_policies
from .parameters import Parameters


def _space(params: Parameters, arena: parameters.Arena | None = None) -> dict[str, Any]:
    """The arguments of `make_environment` in the product's space, on an arena all but the seed."""
    study = params.exponents
    base = plans.world(params) | {"environment": params.environment.changed(steps=study.steps)}
    base["settings"] = base["settings"] | study.settings
    if arena is not None:
        base |= {"data": arena.data, "network": arena.network, "width": arena.width}
        base["scoring"] = params.scoring.changed(per_class=arena.per_class)
    return base


def rewards(params: Parameters) -> plans.Plan:
    """Random policies of the product's space, judged by what a reward could see; for `judge`."""
    study = params.exponents
    policies = list(random_policies(study.policies, seed=0, linear=True).items())
    size = 20  # this many share a network
    plan = []
    for arena in study.rewards:
        base = _space(params, arena) | {"trials": study.trials, "holdout": study.holdout}
        base["training"] = params.training.changed(epochs=arena.epochs)
        for rho in arena.sparsities:
            for seed in arena.seeds:
                for start in range(0, len(policies), size):
                    some = dict(policies[start : start + size])
                    row = {"task": arena.name, "sparsity": rho, "seed": seed}
                    plan.append((row, base | {"sparsity": rho, "seed": seed, "policies": some}))
    return plan


def _drawn(params: Parameters, pool: parameters.Pool) -> list[dict[str, Any]]:
    """The networks of a pool, as plain values."""
    low, high = np.log(pool.widths)
    widths = np.exp(np.random.default_rng(pool.seed).uniform(low, high, pool.count)).round(3)
    network = params.environment.network
    return [
        {"network": network, "width": float(width), "seed": pool.seed + index}
        for index, width in enumerate(widths)
    ]


def learners(params: Parameters) -> plans.Plan:
    """Agents of the product's space; for `train_policy`."""
    study, plan = params.exponents, []
    watched = plans.home(params) | {"seed": study.evaluate_seed, "sparsities": study.evaluate_at}
    for each in study.learners:
        changes = {"steps": study.steps, **each.environment}
        base = _space(params) | {"environment": params.environment.changed(**changes)}
        base |= {"agent": params.agent.changed(**each.agent), "evaluation": watched}
        if each.networks is not None:
            base["networks"] = _drawn(params, each.networks)
        plan += [({"learner": each.name, "seed": x}, base | {"seed": x}) for x in each.seeds]
    return plan


def searches(params: Parameters) -> plans.Plan:
    """The best constant exponents and the best table on one network, `environment`'s.

    With the reward of the learner `searched`, and its number of steps.
    """
    study = params.exponents
    own = {name["learner"]: cell for name, cell in learners(params)}[study.searched]
    base = {key: own[key] for key in ("data", "environment", "scoring", "device", "settings")}
    base |= {"budget": own["agent"].steps, "sparsities": study.evaluate_at, "seed": 0}
    edges = [row[0] for row in params.panning.stages]
    return [
        ({"policy": "search, constant"}, base),
        ({"policy": "search, schedule"}, base | {"edges": edges}),
    ]


def judgements(params: Parameters, policies: Mapping[str, Any], decide: bool = False) -> plans.Plan:
    """Policies of the product's space, by the networks that they make; for `judge`.

    Args:
        params: The profile.
        policies: {name: plain policy}.
        decide: Where the best agent is chosen, by held-out images, instead of by the test images.
    """
    study = params.exponents
    plan: plans.Plan = []
    for arena in study.decided if decide else study.reported:
        base = _space(params, arena) | {"policies": dict(policies)}
        base["training"] = params.training.changed(epochs=arena.epochs)
        base["holdout"] = study.holdout if decide else 0.0
        for rho in arena.sparsities:
            for seed in arena.seeds:
                row = {"task": arena.name, "sparsity": rho, "seed": seed}
                plan.append((row, base | {"sparsity": rho, "seed": seed}))
    return plan


def rivals(params: Parameters) -> plans.Plan:
    """Other methods on the networks on which policies of the product's space are compared."""
    study = params.exponents
    plan: plans.Plan = []
    for arena in study.reported:
        base = plans.trained(params, arena.network, epochs=arena.epochs)
        base |= {"data": arena.data, "width": arena.width}
        base["scoring"] = params.scoring.changed(per_class=arena.per_class)
        for name in study.rivals:
            for rho in arena.sparsities:
                for seed in arena.seeds:
                    row = {"task": arena.name, "policy": name, "sparsity": rho, "seed": seed}
                    cell = base | plans.pruned_by(params, name) | {"sparsity": rho, "seed": seed}
                    plan.append((row, cell))
    return plan
