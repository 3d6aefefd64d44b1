"""Every method of the comparison as settings of the one Panning loop.

SNIP, SynFlow, FORCE and Panning differ only in the policy, T, whether removed weights may return,
where the data-driven metrics are computed, and how a score is prepared.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import nn

from .metrics import Batch
from .networks.inspection import logits_of, mode_of, plainly
from .networks.probes import trainability
from .panning import Callback, Panning, PanResult, calibrate
from .policies import PRODUCT_STAGES, STAGES, as_policy, constant_policy, staged_policy
from .scores import Extremes


@dataclass(frozen=True)
class Method:
    """Settings of the loop."""

    p: tuple[float, float, float] | None  # None: a policy chooses
    steps: int | None = 1  # T, unless the caller asks for another; None: 100
    reactivate: bool | float = False
    gradients: str = "dense"
    score: str = "absolute"
    control: str | None = None
    fusion: str = "sum"
    stages: tuple[tuple[float, ...], ...] | None = None  # the policy, if the caller gives none
    select: tuple[str | Mapping[str, Any], ...] = ()  # candidates, of which a trial chooses one


METHODS: dict[str, Method] = {
    # Uniform noise; noise at Erdős-Rényi-kernel layer densities (Evci et al. 2020); |θ|.
    "random": Method((0, 0, 0), control="random"),
    "erk": Method((0, 0, 0), control="erk"),
    "magnitude": Method((0, 0, 0), control="magnitude"),
    # Lee et al. 2019: |θ ⊙ g|, one shot.
    "snip": Method((0, 1, 0)),
    # Wang et al. 2020: removes the largest -θ ⊙ Hg, so keeps the largest θ ⊙ Hg; signed, one shot.
    "grasp": Method((0, 0, 1), score="signed"),
    # Tanaka et al. 2020: 100 rounds on an exponential schedule, only survivors compete.
    "synflow": Method((1, 0, 0), steps=None),
    # SNIP on the masked network, again and again, only survivors compete.
    "iterative_snip": Method((0, 1, 0), steps=None, gradients="masked"),
    # de Jorge et al. 2021: the same, but removed weights may return.
    "force": Method((0, 1, 0), steps=None, gradients="masked", reactivate=True),
    # Panning's scores, but removed weights stay out: the control for the transfer of force.
    "iterative_fused": Method(None, steps=None, score="normalised", stages=STAGES),
    # Kang et al. 2022.
    "panning": Method(None, steps=None, reactivate=True, score="normalised", stages=STAGES),
    # The product form, S = Π Z(s_i)^p_i, of the authors' program, with its own table of exponents.
    "panning_product": Method(
        None,
        steps=None,
        reactivate=True,
        score="normalised",
        fusion="product",
        stages=PRODUCT_STAGES,
    ),
    "rlpanning": Method(None, steps=None, reactivate=True, score="normalised"),
    # Ours, not the paper's: the product of SynFlow and the square root of FORCE's score, in which
    # removed weights may return in the first half of the iterations. Chosen once, on other images
    # and seeds than the reported ones (notebook 07). Few iterations, since each has a backward pass
    # of its own: a hundred are not shown to be better.
    "panning_masked": Method(
        None,
        steps=14,
        reactivate=0.5,
        gradients="masked",
        score="normalised",
        fusion="product",
        stages=((1.0, 1.0, 0.5, 0.0),),
    ),
    # Ours, too: the mask whose network has the lowest loss after a trial of training.
    "panning_select": Method(
        None,
        steps=None,
        select=("synflow", "force", "panning", "panning_product", "panning_masked"),
    ),
}

# In these an agent finds the process it was trained in; any other method is what its name says.
FOR_AGENTS = ("panning", "rlpanning")


def _process(
    model: nn.Module,
    batches: Iterable[Batch],
    sparsity: float,
    steps: int | None,
    method: str,
    settings: Mapping[str, object],
) -> Panning:
    """The loop with the settings of a method, except those that the caller changes."""
    chosen = METHODS[method]
    own = {
        "reactivate": chosen.reactivate,
        "gradients": chosen.gradients,
        "score": chosen.score,
        "control": chosen.control,
        "fusion": chosen.fusion,
    }
    steps = chosen.steps or 100 if steps is None else steps
    return Panning(model, batches, sparsity, steps, **{**own, **settings})


def range_of(
    model: nn.Module,
    batches: Iterable[Batch],
    sparsities: Sequence[float],
    steps: int | None = None,
    **settings: object,
) -> Extremes:
    """The range of 𝒩 that `pan` measures for an agent; several calls on one network can share it.

    For an agent of other settings than Panning's give these, too: those in `agent.trained_in`.

    Args:
        model: The network.
        batches: Scoring batches.
        sparsities: Where to measure: an agent's `sparsity`, the ends of its range.
        steps: T of the calls to `pan`.
        **settings: Their other settings.
    """
    process = _process(model, batches, sparsities[0], steps, "panning", settings)
    return calibrate(process, sparsities)


@plainly()
def pan(
    model: nn.Module,
    batches: Iterable[Batch],
    sparsity: float,
    steps: int | None = None,
    policy: Callable[[np.ndarray], Sequence[float]] | None = None,
    method: str = "panning",
    *,
    extremes: Extremes | None = None,
    progress: bool = False,
    callback: Callback | None = None,
    select: Sequence[str | Mapping[str, Any]] | None = None,
    trial_steps: int = 100,
    **settings: object,
) -> PanResult:
    """Prune a network before training.

    Args:
        model: Any network with convolutions or linear layers. It is not changed: give the
            result's masks to `apply_masks`.
        batches: Scoring batches [(inputs, targets), ...], as `scoring_batches` makes them.
        sparsity: The fraction of prunable weights to remove, in [0, 1).
        steps: T; by default that of an agent's training, or the method's own: 1 for one-shot
            methods, 14 for "panning_masked", 100 for the others. In a selection, T of the others.
        policy: `state -> p`; by default the method's own. For methods without a fixed p only. With
            "panning" and "rlpanning" an agent has the fusion, gradients, score, schedule and return
            of weights that it was trained with, unless they are given here; the temperature is the
            caller's.
        method: A name in `METHODS`.
        extremes: The range of 𝒩 for a policy that looks at the losses; by default it is measured
            on this network, see `range_of`.
        progress: Whether to show a progress bar.
        callback: `(t, mask, state)`, called after each iteration: t from 1 to T, a copy of the
            mask, the state as a policy may see it next (its four losses are NaN unless the policy
            looks at them). To measure the state costs up to half an iteration.
        select: Candidates, names of methods or arguments of this function such as
            `{"method": "panning", "policy": lib.constant_policy((1, 1, 0)), "fusion": "product"}`,
            of which the one is taken whose sparse network has the lowest loss after a trial: some
            steps of training on the scoring batches. `result.made` says which, and all losses, None
            where the trial diverged.
        trial_steps: How many steps a trial has.
        **settings: Any other setting of `Panning`, to change one thing about the method.

    Warns:
        UserWarning: The dense network is dead already, as with a head that is 0, or the mask has no
            effective weight. The message names the layers that are empty.

    Raises:
        ValueError: An argument is outside its range; the message names it.
        TypeError: `callback` cannot be called.
    """
    common = {"steps": steps, "extremes": extremes, "progress": progress, "callback": callback}
    common |= settings
    batches = list(batches) if isinstance(batches, Iterable) else batches
    if select is not None and (policy is not None or method != "panning"):
        raise ValueError("select: it takes the place of method and policy; give one or the other")
    if select is None and method in METHODS:
        select = METHODS[method].select or None
        if select and policy is not None:
            raise ValueError(f"policy: {method!r} chooses among methods; it takes no policy")
    if select is None:
        process, result = _prune(model, batches, sparsity, policy, method, **common)
    else:
        process, result = _select(model, batches, sparsity, select, trial_steps, common)
    if dead := _what_is_dead(process):
        warnings.warn(dead, UserWarning, stacklevel=3)  # past `plainly`
    return result


def _prune(
    model: nn.Module,
    batches: Iterable[Batch],
    sparsity: float,
    policy: Callable[[np.ndarray], Sequence[float]] | None = None,
    method: str = "panning",
    steps: int | None = None,
    extremes: Extremes | None = None,
    progress: bool = False,
    callback: Callback | None = None,
    **settings: object,
) -> tuple[Panning, PanResult]:
    """`pan` by one method; also the process."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    chosen = METHODS[method]
    if policy is not None and chosen.p is not None:
        raise ValueError(f"policy: {method!r} has a fixed p; use method='panning' with a policy")
    if policy is None and method == "rlpanning":
        raise ValueError("policy: 'rlpanning' needs a trained agent, see lib.load_policy")
    if policy is None:
        policy = staged_policy(chosen.stages) if chosen.stages else constant_policy(chosen.p)
    policy = as_policy(policy)
    if method in FOR_AGENTS:
        steps = policy.trained_in.get("steps") if steps is None else steps
        settings = {**policy.trained_in.get("settings", {}), **settings}
    process = _process(model, batches, sparsity, steps, method, settings)
    if extremes is None and policy.needs_loss:
        # Measured over an agent's whole range of targets, 𝒩 does not depend on `sparsity`.
        extremes = calibrate(process, policy.sparsity or (sparsity,))
    result = process.run(policy, extremes, progress, callback)
    return process, replace(result, made={"method": method, **result.made})


def _select(
    model: nn.Module,
    batches: Iterable[Batch],
    sparsity: float,
    candidates: Sequence[str | Mapping[str, Any]],
    trial_steps: int,
    common: Mapping[str, Any],
) -> tuple[Panning, PanResult]:
    """The candidate whose network has the lowest loss after a trial; the first of equal ones."""
    listed = isinstance(candidates, Sequence) and not isinstance(candidates, str)
    if not listed or not candidates:
        raise ValueError(f"select must be a list of methods, got {candidates!r}")
    if not isinstance(trial_steps, Integral) or trial_steps < 0:
        raise ValueError(f"trial_steps must be a number of steps, at least 0, got {trial_steps!r}")
    arguments = []
    for each in candidates:
        if not isinstance(each, str | Mapping):
            raise ValueError(
                "select: a candidate is the name of a method or a mapping of arguments, got "
                f"{each!r}"
            )
        own = {"method": each} if isinstance(each, str) else {"method": "panning", **each}
        known = METHODS.get(own["method"])
        if known is None:
            raise ValueError(
                f"select: a method must be one of {', '.join(METHODS)}, got {own['method']!r}"
            )
        if known.select:
            raise ValueError(
                f"select: {own['method']!r} is a selection itself; name its candidates"
            )
        steps = {"steps": known.steps} if known.steps else {}
        arguments.append({**common, **steps, **own})
    lowest, losses = math.inf, []
    for index, settings in enumerate(arguments):
        process, result = _prune(model, batches, sparsity, **settings)
        bank = process.bank
        loss = trainability(bank.model, result.effective, bank.batches, trial_steps)
        losses.append(loss if math.isfinite(loss) else None)  # it diverged; JSON has no infinity
        if index == 0 or (math.isfinite(loss) and loss < lowest):  # only the best bank is kept
            best, lowest = (index, process, result), loss if math.isfinite(loss) else math.inf
    chosen, process, result = best
    trial = {"selected": chosen, "trial_losses": losses, "trial_steps": trial_steps}
    return process, replace(result, made={**result.made, **trial})


def _what_is_dead(process: Panning) -> str | None:
    """What is to be said of a network whose outputs do not depend on its input, and why."""
    model, weights = process.bank.model, process.bank.weights
    inputs = process.bank.batches[0][0][:2]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(inputs.shape, generator=generator, device="cpu").to(inputs)
    with torch.no_grad(), mode_of(model, training=False):
        dense = torch.equal(*(logits_of(model, {}, x) for x in (inputs, noise)))
    if dense:
        what, mend = "the dense network is dead already", "initialise it in another way"
        empty = [name for name, weight in weights.items() if not weight.any()]
    elif process.dead:
        what, mend = "the mask leaves no effective weight", "ask for a lower sparsity"
        empty = [name for name, mask in process.masks.items() if not mask.any()]
    else:
        return None
    where = f" (nothing but 0 in {', '.join(empty)})" if empty else ""
    return f"{what}{where}: no output depends on the input; {mend}"
