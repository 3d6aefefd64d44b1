"""How the target sparsity grows, and who chooses p: schedules and policies.

A policy is any callable `state -> p`: the authors' hand-made table, a constant, random numbers, or
a trained agent.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np

from .masks import kept_count
from .metrics import METRICS

P = tuple[float, float, float]

# The positions of the seven numbers of a state: 𝒩(L), 𝒩(ΔL), 𝒩(L_s), 𝒩(ΔL_s), next target
# sparsity, effective sparsity reached, t / T.
LOSS, GRAD, LOSS_SPARSE, GRAD_SPARSE, TARGET, EFFECTIVE, TIME = range(7)

# The hand-made policies of the authors' program: p for (SynFlow, SNIP, GraSP), by the target
# sparsity of the iteration; for the sum, and the exponents of the product.
STAGES = (
    (0.8, 0.2, 0.5, 0.3),
    (0.9, 0.2, 0.4, 0.4),
    (0.98, 0.2, 0.3, 0.5),
    (0.99, 0.4, 0.2, 0.4),
    (1.0, 0.5, 0.0, 0.5),
)
PRODUCT_STAGES = (
    (0.8, 0.3, 1.0, 0.2),
    (0.9, 0.3, 1.0, 0.4),
    (0.98, 0.5, 0.5, 0.6),
    (0.99, 0.8, 0.0, 1.0),
    (1.0, 1.0, 0.0, 1.0),
)


# --- schedules -------------------------------------------------------------------------------


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "exponential": lambda rho, time: 1 - (1 - rho) ** time,
    "linear": lambda rho, time: rho * time,
    "cosine": lambda rho, time: rho * (1 - math.cos(math.pi * time)) / 2,
}


def targets(sparsity: float, steps: int, schedule: str = "exponential") -> list[float]:
    """The target sparsity ρ_t of each iteration t = 1..T; the last one is `sparsity` itself.

    Raises:
        ValueError: An argument is outside its range.
    """
    kept_count(1, sparsity)  # raises for a sparsity outside [0, 1)
    if not isinstance(steps, Integral):
        raise ValueError(f"steps must be a whole number of iterations, got {steps!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    shape = SCHEDULES[schedule]
    return [shape(sparsity, t / steps) for t in range(1, steps)] + [sparsity]


# --- policies --------------------------------------------------------------------------------


def _linear(a: np.ndarray) -> np.ndarray:
    return (a + 1) / 2


def _logarithmic(a: np.ndarray) -> np.ndarray:
    return 10 ** (3 * (a - 1) / 2)  # from 0.001 to 1


# How an action a in [-1, 1] becomes a weight p in [0, 1]. Only the proportions of p decide how a
# sum ranks the weights, and equal steps of the logarithm are equal steps of a proportion.
ACTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": _linear,
    "logarithmic": _logarithmic,
}


@dataclass(frozen=True)
class Policy:
    """A policy, and what it needs from the loop.

    Attributes:
        choose: `state -> p`; the state is (7,) in float64, p weighs (SynFlow, SNIP, GraSP).
        needs_loss: Whether it looks at the four losses, which cost a forward and backward pass.
        sparsity: Target sparsities at which the range of the losses is measured; by default the
            target of the run.
        needs_effective: Whether it looks at the effective sparsity, which costs some passes, too.
        formulation: Whose state it reads, "paper" or "authors" as in `PanningEnv`; None if no
            matter which.
        trained_in: {"settings": those of `Panning`, "steps": T}, where it was trained: `pan` plays
            it there unless told otherwise.
    """

    choose: Callable[[np.ndarray], Sequence[float]]
    needs_loss: bool = False
    sparsity: tuple[float, ...] | None = None
    needs_effective: bool = True
    formulation: str | None = None
    trained_in: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, state: np.ndarray) -> Sequence[float]:
        """The weights p for (SynFlow, SNIP, GraSP), from a state (7,) in float64."""
        return self.choose(state)


@dataclass(frozen=True)
class _Predicted:
    """p from the actions of a model of stable-baselines3, without exploration noise."""

    model: Any
    action: str

    def __call__(self, state: np.ndarray) -> Sequence[float]:
        env = getattr(self.model, "get_vec_normalize_env", lambda: None)()
        if env is not None:  # `predict` expects what the model has seen in training
            state = env.normalize_obs(state)
        action, _ = self.model.predict(state, deterministic=True)
        return ACTIONS[self.action](np.clip(np.asarray(action, np.float64), -1, 1))


def _of_model(model: Any) -> Policy:
    """A model of stable-baselines3 as a policy; actions are read as its environment reads them.

    Raises:
        ValueError: It was trained on something else.
    """
    spaces = [
        getattr(getattr(model, f"{x}_space", None), "shape", None)
        for x in ("observation", "action")
    ]
    if spaces != [(7,), (3,)]:
        raise ValueError(
            "policy: a model of stable-baselines3 must look at a state (7,) and answer with an "
            f"action (3,), as one trained on a PanningEnv does; this one has {spaces}"
        )
    low, high = model.action_space.low, model.action_space.high
    if (low != -1).any() or (high != 1).any():
        raise ValueError(
            "policy: a model of stable-baselines3 must answer with actions in [-1, 1], those of a "
            f"PanningEnv without a wrapper that scales them; these are in [{low[0]}, {high[0]}]"
        )
    made = getattr(model.action_space, "panning", {})  # saved with the model, as the space is
    return Policy(
        _Predicted(model, made.get("action", "linear")),
        needs_loss=True,
        sparsity=made.get("sparsity"),
        formulation=made.get("formulation", "paper"),
        trained_in={name: made[name] for name in ("settings", "steps") if name in made},
    )


def as_policy(policy: Any, formulation: str = "paper") -> Policy:
    """Any callable `state -> p` as a `Policy`; one that does not say what it needs needs all.

    So is a model of stable-baselines3 that was trained on a `PanningEnv`.

    Args:
        policy: The callable, or the model.
        formulation: Whose state it will see.

    Raises:
        ValueError: It is no policy, or one that reads the state of another formulation.
    """
    if all(hasattr(policy, name) for name in ("predict", "observation_space", "action_space")):
        found = _of_model(policy)
    elif callable(policy):
        found = Policy(
            policy,
            getattr(policy, "needs_loss", True),
            getattr(policy, "sparsity", None),
            getattr(policy, "needs_effective", True),
            getattr(policy, "formulation", None),
            getattr(policy, "trained_in", {}),
        )
    else:
        raise ValueError(
            f"policy must be callable, state -> p, see lib.load_policy; got {policy!r}"
        )
    if found.formulation not in (None, formulation):
        own = f"formulation={found.formulation!r}"
        raise ValueError(
            f"policy: it reads the state of {own}, and would see that of {formulation!r}; play it "
            f"in PanningEnv(..., {own}), as with lib.environment.rollout"
        )
    return found


def staged_policy(stages: Iterable[Sequence[float]] = STAGES) -> Policy:
    """The hand-made policy, rows (edge, p₁, p₂, p₃): the first with ρ_t ≤ edge + 10⁻⁶ applies.

    Raises:
        ValueError: The rows have another form, or leave some target sparsity without p.
    """
    stages = tuple(tuple(row) for row in stages)
    edges = [row[0] for row in stages if len(row) == 4 and isinstance(row[0], Real)]
    if len(edges) != len(stages) or edges != sorted(edges) or not (edges and edges[-1] >= 1):
        raise ValueError(f"stages must be rows (edge, p1, p2, p3), edges rising to 1; got {stages}")
    for row in stages:
        check_p(row[1:])
    return Policy(partial(_stage, stages), needs_effective=False, formulation="paper")


def _stage(stages: Sequence[Sequence[float]], state: np.ndarray) -> Sequence[float]:
    return next(row[1:] for row in stages if state[TARGET] <= row[0] + 1e-6)


def constant_policy(p: Sequence[float]) -> Policy:
    """The same p at every iteration."""
    return Policy(partial(_same, check_p(p)), needs_effective=False)


def _same(p: P, state: np.ndarray) -> P:
    return p


def random_policy(seed: int = 0) -> Policy:
    """Fresh p, uniform in [0, 1]³, at every iteration: the control for a learned policy."""
    return Policy(partial(_draw, np.random.default_rng(seed)), needs_effective=False)


def _draw(generator: np.random.Generator, state: np.ndarray) -> P:
    return tuple(generator.random(3))


def check_p(p: Sequence[float]) -> P:
    """`p` as three floats in [0, 1], or a ValueError."""
    try:  # a text, a dictionary or a set has no numbers, or no order
        values = () if isinstance(p, str | Mapping | Set) else tuple(map(float, p))
    except (TypeError, ValueError):
        values = ()
    if len(values) != 3 or not all(0 <= value <= 1 for value in values):
        raise ValueError(f"p must be three weights in [0, 1], for {', '.join(METRICS)}; got {p}")
    return values
