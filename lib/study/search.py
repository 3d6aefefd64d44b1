"""Policies found by search instead of learning: by Optuna, with an agent's budget.

They are the yardstick for reinforcement learning: how far does a search over constants or tables
get?
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna

from ..metrics import METRICS
from ..policies import STAGES
from . import parameters
from .agents import earn
from .pruning import prune_and_train
from .worlds import make_environment, make_policy


def _study(seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True)
    )


def _weights(trial: optuna.Trial, prefix: str = "") -> list[float]:
    # In steps, which hide that the estimator's last bits differ between processors.
    return [trial.suggest_float(f"{prefix}{name}", 0, 1, step=0.01) for name in METRICS]


def search_policy(
    *,
    budget: int,
    sparsities: Sequence[float],
    seed: int,
    environment: parameters.Environment,
    edges: Sequence[float] = (),
    **world: Any,
) -> dict[str, Any]:
    """The constant p, or the table, with the highest mean return, by Optuna's TPE.

    On the network of `environment`, in as many steps as an agent has: `budget`. The corners of the
    cube, each metric alone, are tried first.

    Args:
        budget: Steps of the environment.
        sparsities: The targets; an episode each for every policy tried.
        seed: Of the search.
        environment: Also names the network.
        edges: The target sparsities up to which the rows of a table apply; none: a constant.
        **world: The other arguments of `worlds.make_environment`.

    Raises:
        ValueError: The budget is too small.
    """
    place = {"network": environment.network, "width": environment.width, "seed": environment.seed}
    env = make_environment(environment=environment, **place, **world)
    study, prefixes = _study(seed), [f"{i}_" for i in range(len(edges))] or [""]
    for corner in np.eye(3).tolist():
        named = dict(zip(METRICS, corner, strict=True))
        study.enqueue_trial({f"{x}{name}": p for x in prefixes for name, p in named.items()})

    def policy(rows: Sequence[Sequence[float]]) -> list:
        return [[edge, *row] for edge, row in zip(edges, rows, strict=True)] if edges else rows[0]

    def mean_return(trial: optuna.Trial) -> float:
        chosen = make_policy(policy([_weights(trial, x) for x in prefixes]))
        return float(np.mean([earn(env, chosen, rho)["return"] for rho in sparsities]))

    trials = budget // (environment.steps * len(sparsities))
    if trials < len(METRICS):
        raise ValueError(
            f"budget: {budget} steps are {trials} episodes at each of {len(sparsities)} targets; "
            f"the search wants {len(METRICS)} or more"
        )
    study.optimize(mean_return, n_trials=trials)
    best = policy([[study.best_params[f"{x}{name}"] for name in METRICS] for x in prefixes])
    return {"policy": best, "return": study.best_value, "trials": len(study.trials)}


def search_stages(
    *, trials: int, sparsities: Sequence[float], holdout: float, seed: int, **cell: Any
) -> dict[str, Any]:
    """A table of stages by Optuna's TPE, on the accuracy of held-out training images.

    The hand-made table is tried first, so the search never ends below it on its own images.

    Args:
        trials: Tables tried; each is pruned and trained at every one of `sparsities`.
        sparsities: The targets.
        holdout: See `prune_and_train`.
        seed: Of the search.
        **cell: Further arguments of `prune_and_train`, its own seed as `network_seed`.
    """
    cell = {**cell, "seed": cell["network_seed"]}
    del cell["network_seed"]
    study = _study(seed)
    start = {
        f"{index}_{name}": float(value)
        for index, row in enumerate(STAGES)
        for name, value in zip(METRICS, row[1:], strict=True)
    }
    study.enqueue_trial(start)

    def accuracy(trial: optuna.Trial) -> float:
        table = [[row[0], *_weights(trial, f"{i}_")] for i, row in enumerate(STAGES)]
        found = [
            prune_and_train(method="panning", policy=table, sparsity=rho, holdout=holdout, **cell)
            for rho in sparsities
        ]
        return float(np.mean([one["accuracy"] for one in found]))

    study.optimize(accuracy, n_trials=trials)
    best = study.best_params
    table = [[row[0], *(best[f"{i}_{name}"] for name in METRICS)] for i, row in enumerate(STAGES)]
    history = [trial.value for trial in study.trials]
    return {"policy": table, "accuracy": study.best_value, "history": history}
