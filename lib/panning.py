"""The Panning process: prune a little, let removed weights return, and do it again.

`Panning` is one run of the loop on one network, advanced by `step(p)`; who chooses p is no concern
of it. A policy is any callable `state -> p`: the authors' hand-made table, a constant, noise, or a
trained agent.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import masks as masking
from . import metrics
from .metrics import METRICS, Batch
from .models import flatten, prunable, unflatten

P = tuple[float, float, float]

# The seven numbers of a state, in their order: 𝒩(L), 𝒩(ΔL), 𝒩(L_s), 𝒩(ΔL_s), next target
# sparsity, effective sparsity reached, t / T.
LOSS, GRAD, LOSS_SPARSE, GRAD_SPARSE, TARGET, EFFECTIVE, TIME = range(7)

# The hand-made policy: p for (SynFlow, SNIP, GraSP), by the target sparsity of the iteration.
STAGES = (
    (0.8, 0.2, 0.5, 0.3),
    (0.9, 0.2, 0.4, 0.4),
    (0.98, 0.2, 0.3, 0.5),
    (0.99, 0.4, 0.2, 0.4),
    (1.0, 0.5, 0.0, 0.5),
)


# --- schedules -------------------------------------------------------------------------------


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "exponential": lambda rho, time: 1 - (1 - rho) ** time,
    "linear": lambda rho, time: rho * time,
    "cosine": lambda rho, time: rho * (1 - math.cos(math.pi * time)) / 2,
}


def targets(sparsity: float, steps: int, schedule: str = "exponential") -> list[float]:
    """The target sparsity ρ_t of each iteration t = 1..T; the last one is `sparsity` itself."""
    masking.kept_count(1, sparsity)  # says what is wrong with a sparsity outside [0, 1)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    shape = SCHEDULES[schedule]
    return [shape(sparsity, t / steps) for t in range(1, steps)] + [sparsity]


# --- policies --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Policy:
    """A policy that says whether it looks at the losses, which cost a forward and backward pass."""

    choose: Callable[[np.ndarray], Sequence[float]]
    needs_loss: bool = False

    def __call__(self, state: np.ndarray) -> Sequence[float]:
        """The weights p for (SynFlow, SNIP, GraSP), from a state (7,) in float64."""
        return self.choose(state)


def staged_policy(stages: Iterable[Sequence[float]] = STAGES) -> Policy:
    """The hand-made policy: rows (edge, p₁, p₂, p₃), the first with ρ_t ≤ edge + 10⁻⁶ holds."""
    stages = tuple(tuple(row) for row in stages)
    edges = [row[0] for row in stages]
    if not stages or edges != sorted(edges) or edges[-1] < 1 or {len(row) for row in stages} != {4}:
        raise ValueError(f"stages must be rows (edge, p1, p2, p3), edges rising to 1; got {stages}")
    return Policy(lambda state: next(r[1:] for r in stages if state[TARGET] <= r[0] + 1e-6))


def constant_policy(p: Sequence[float]) -> Policy:
    """The same p at every iteration."""
    p = check_p(p)
    return Policy(lambda state: p)


def random_policy(seed: int = 0) -> Policy:
    """Fresh p, uniform in [0, 1]³, at every iteration: the control of a learned policy."""
    generator = np.random.default_rng(seed)
    return Policy(lambda state: tuple(generator.random(3)))


def check_p(p: Sequence[float]) -> P:
    """`p` as three floats in [0, 1], or a ValueError."""
    values = tuple(float(value) for value in p)
    if len(values) != 3 or not all(0 <= value <= 1 for value in values):
        raise ValueError(f"p must be three weights in [0, 1], for {', '.join(METRICS)}; got {p}")
    return values


# --- what the process sees -------------------------------------------------------------------


class Observation(NamedTuple):
    """Loss and squared gradient norm, at temperature 1, of the dense and of the sparse network."""

    loss: float
    grad_norm_sq: float
    loss_sparse: float
    grad_norm_sq_sparse: float


@dataclass(frozen=True)
class Extremes:
    """The frozen range of 𝒩(·), min-max scaling, for L and L_s and for ΔL and ΔL_s."""

    loss: tuple[float, float]
    grad_norm_sq: tuple[float, float]

    def scale(self, observed: Observation) -> tuple[float, float, float, float]:
        """𝒩 of the four quantities: in [0, 1], and 0 where a range is empty."""

        def scaled(value: float, low: float, high: float) -> float:
            return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.0

        return (
            scaled(observed.loss, *self.loss),
            scaled(observed.grad_norm_sq, *self.grad_norm_sq),
            scaled(observed.loss_sparse, *self.loss),
            scaled(observed.grad_norm_sq_sparse, *self.grad_norm_sq),
        )


class ScoreBank:
    """A private copy of the network, its scoring batches, and what they say of the dense network.

    The dense scores depend on the batch alone: each batch's are computed when first asked for and
    kept, so that T iterations cost `len(batches)` double backward passes.
    """

    def __init__(self, model: nn.Module, batches: Iterable[Batch], score: str, temperature: float):
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        prunable(model)  # says what is wrong with a model that cannot be copied: a pruned one
        self.model = copy.deepcopy(model)
        self.weights = prunable(self.model)
        device = next(iter(self.weights.values())).device
        self.batches = [(x.to(device), y.to(device)) for x, y in batches]
        sizes = [len(y) for _, y in self.batches]
        if not sizes or not all(sizes):
            raise ValueError(
                "batches must hold at least one (inputs, targets) pair, and samples in each; "
                f"got pairs of {sizes} samples"
            )
        self.total = sum(w.numel() for w in self.weights.values())
        self.temperature = temperature
        self._prepare = SCORES[score]
        self._absolute: dict[str, Tensor] | None = None
        self._scores: dict[int, dict[str, Tensor]] = {}
        self._observed: dict[int, tuple[float, float]] = {}

    def synflow(self, mask: Tensor) -> Tensor:
        """SynFlow's prepared scores (N,) of the masked network."""
        self._absolute = self._absolute or metrics.absolute_state(self.model)
        return self._prepare(metrics.synflow(self.model, mask, self.batches[0], self._absolute))

    def dense(self, index: int) -> dict[str, Tensor]:
        """SNIP's and GraSP's prepared scores (N,) of the dense network on one batch."""
        if index not in self._scores:
            batch = self.batches[index]
            both = metrics.snip_and_grasp(self.model, None, batch, self.temperature)
            self._scores[index] = dict(zip(METRICS[1:], map(self._prepare, both), strict=True))
        return self._scores[index]

    def masked(self, name: str, index: int, mask: Tensor) -> Tensor:
        """One data-driven metric's prepared scores (N,) of the masked network on one batch."""
        metric = {"snip": metrics.snip, "grasp": metrics.grasp}[name]
        return self._prepare(metric(self.model, mask, self.batches[index], self.temperature))

    def observe(self, index: int, mask: Tensor | None) -> tuple[float, float]:
        """(L, ΔL) at temperature 1 on one batch: logits / 200 leave nothing but rounding noise."""
        if mask is None and index in self._observed:
            return self._observed[index]
        loss, gradients = metrics.loss_and_gradient(self.model, mask, self.batches[index], 1.0)
        out = loss.item(), metrics.grad_norm_sq(gradients, mask).item()
        if mask is None:
            self._observed[index] = out
        return out


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "normalised": metrics.normalise,
    "absolute": torch.abs,
    "signed": lambda scores: scores,
}
GRADIENTS = ("dense", "masked")
FUSIONS = ("sum", "product")
CONTROLS = ("magnitude", "random", "erk")


# --- the process -----------------------------------------------------------------------------


@dataclass(frozen=True)
class PanResult:
    """What a finished process found.

    Attributes:
        masks: {parameter name: bool tensor}, in all exactly the number of weights asked for.
        effective: The same, of the effective weights only: train these.
        history: One row an iteration.
        sparsity: ρ of `masks`.
        effective_sparsity: ρ_e, of `effective`.
    """

    masks: dict[str, Tensor]
    effective: dict[str, Tensor]
    history: pd.DataFrame = field(repr=False)
    sparsity: float
    effective_sparsity: float


class Panning:
    """One run of the Panning loop.

    The caller's model is copied once and never touched.

    Args:
        model: A network with `Conv2d` or `Linear` layers.
        batches: Scoring batches [(inputs, targets), ...]; iteration t uses number
            (t - 1) mod len(batches).
        sparsity: ρ in [0, 1), the fraction of prunable weights to remove in the end.
        steps: T, the number of iterations.
        schedule: How the target grows: "exponential", "linear" or "cosine".
        reactivate: Whether removed weights compete again on equal terms. Without it the loop is
            iterative pruning.
        gradients: Whether SNIP and GraSP are those of the "dense" or the "masked" network.
        score: What is done to each metric before the fusion: "normalised" is Z(s), "absolute" |s|,
            "signed" s itself.
        fusion: "sum" or "product".
        control: None, or a score that ignores p: "magnitude", "random" or "erk".
        temperature: The logits are divided by it in the scoring loss.
        seed: Of the controls' noise.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        sparsity: float,
        steps: int = 100,
        *,
        schedule: str = "exponential",
        reactivate: bool = True,
        gradients: str = "dense",
        score: str = "normalised",
        fusion: str = "sum",
        control: str | None = None,
        temperature: float = 200.0,
        seed: int = 0,
    ):
        if gradients not in GRADIENTS:
            raise ValueError(f"gradients must be one of {', '.join(GRADIENTS)}, got {gradients!r}")
        if fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
        if control is not None and control not in CONTROLS:
            raise ValueError(f"control must be one of {', '.join(CONTROLS)}, got {control!r}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.schedule, self.steps = schedule, steps
        self.reactivate, self.gradients, self.fusion = reactivate, gradients, fusion
        self.control, self.seed = control, seed
        self.targets = targets(sparsity, steps, schedule)  # before the costly copy: it may raise
        self.bank = ScoreBank(model, batches, score, temperature)
        self.reset(sparsity)

    def reset(self, sparsity: float | None = None) -> None:
        """Start again from the dense network, at another `sparsity` if one is given.

        The dense scores are kept: a second run on the same network costs no double backward.
        """
        if sparsity is not None:
            self.targets = targets(sparsity, self.steps, self.schedule)
            self.sparsity = sparsity
        self.t = 0
        weights = next(iter(self.bank.weights.values()))
        self.mask = torch.ones(self.bank.total, dtype=torch.bool, device=weights.device)
        self._rows: list[dict[str, float]] = []
        self._update()

    def _update(self) -> None:
        self.effective_mask = masking.effective_mask(
            self.bank.model, self.mask, self.bank.batches[0][0]
        )
        self.effective_sparsity = masking.sparsity(self.effective_mask)
        self._observation: Observation | None = None

    @property
    def done(self) -> bool:
        """Whether all T iterations are over."""
        return self.t == self.steps

    @property
    def dead(self) -> bool:
        """Whether no path is left. The loop goes on, since weights can return."""
        return not self.effective_mask.any()

    @property
    def masks(self) -> dict[str, Tensor]:
        """The present mask, {parameter name: bool tensor of the weight's shape}."""
        return unflatten(self.mask.clone(), self.bank.weights)

    @property
    def effective(self) -> dict[str, Tensor]:
        """The present mask's effective part."""
        return unflatten(self.effective_mask.clone(), self.bank.weights)

    def _scores(self, p: P) -> Tensor:
        """S, (N,): the fused score of every weight, removed or not."""
        if self.control:
            return self._control_scores()
        index = self.t % len(self.bank.batches)
        weights = {name: weight for name, weight in zip(METRICS, p, strict=True) if weight}
        scores = {}
        for name in weights:
            if name == "synflow":
                scores[name] = self.bank.synflow(self.mask)
            elif self.gradients == "masked":
                scores[name] = self.bank.masked(name, index, self.mask)
            else:
                scores[name] = self.bank.dense(index)[name]
        if not scores:  # p = 0: nothing speaks for any weight, and the tie rule decides
            return torch.zeros(self.bank.total, device=self.mask.device)
        return metrics.fuse(scores, weights, self.fusion)

    def _control_scores(self) -> Tensor:
        theta = flatten(self.bank.weights).detach()
        if self.control == "magnitude":
            return theta.abs()
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.rand(self.bank.total, generator=generator).to(theta.device)
        if self.control == "erk":  # lift each layer's quota above everything else
            k = masking.kept_count(self.bank.total, self.targets[self.t])
            counts = masking.erk_counts(self.bank.weights, k)
            parts = noise.split([w.numel() for w in self.bank.weights.values()])
            lifted = [masking.top_k(part, n) for part, n in zip(parts, counts, strict=True)]
            noise = noise + torch.cat(lifted)
        return noise

    def step(self, p: Sequence[float]) -> None:
        """One iteration: score every weight with p, and keep the best.

        Args:
            p: The weights of (SynFlow, SNIP, GraSP), each in [0, 1].

        Raises:
            ValueError: p is not three numbers in [0, 1].
            RuntimeError: All T iterations are over.
        """
        p = check_p(p)
        if self.done:
            raise RuntimeError(f"all {self.steps} iterations are over: call reset() to start again")
        scores = self._scores(p)
        if not self.reactivate:
            scores = scores.masked_fill(~self.mask, -math.inf)
        target = self.targets[self.t]
        mask = masking.top_k(scores, masking.kept_count(self.bank.total, target))
        removed, reactivated = int((self.mask & ~mask).sum()), int((mask & ~self.mask).sum())
        self.t += 1
        self.mask = mask
        self._update()
        row = {"iteration": self.t, "target_sparsity": target}
        row |= {"sparsity": masking.sparsity(mask), "effective_sparsity": self.effective_sparsity}
        row |= {"removed": removed, "reactivated": reactivated}
        self._rows.append(
            row | {f"p_{name}": value for name, value in zip(METRICS, p, strict=True)}
        )

    @property
    def history(self) -> pd.DataFrame:
        """One row an iteration: target, sparsity, effective sparsity, removed, reactivated, p."""
        return pd.DataFrame(self._rows)

    def observe(self) -> Observation:
        """L, ΔL, L_s and ΔL_s at temperature 1, on the batch of the last iteration."""
        if self._observation is None:
            index = max(0, self.t - 1) % len(self.bank.batches)
            dense = self.bank.observe(index, None)
            sparse = self.bank.observe(index, self.mask) if self.t else dense
            self._observation = Observation(*dense, *sparse)
        return self._observation

    def state(self, extremes: Extremes | None) -> np.ndarray:
        """The state s_t, (7,) float64 in [0, 1]; its four losses are NaN without `extremes`."""
        scaled = extremes.scale(self.observe()) if extremes else (math.nan,) * 4
        upcoming = self.targets[min(self.t, self.steps - 1)]
        return np.array([*scaled, upcoming, self.effective_sparsity, self.t / self.steps])

    def run(
        self,
        policy: Callable[[np.ndarray], Sequence[float]],
        extremes: Extremes | None = None,
        progress: bool = False,
    ) -> PanResult:
        """Run the loop to its end, p chosen by `policy`.

        Args:
            policy: `state -> p`.
            extremes: The range of 𝒩. Without it the losses are not measured and are NaN in the
                state.
            progress: Whether to show a progress bar.
        """
        for _ in tqdm(range(self.t, self.steps), desc="Panning", disable=not progress):
            self.step(policy(self.state(extremes)))
        return PanResult(
            masks=self.masks,
            effective=self.effective,
            history=self.history,
            sparsity=masking.sparsity(self.mask),
            effective_sparsity=self.effective_sparsity,
        )


def calibrate(
    panning: Panning, sparsities: Iterable[float], steps: int = 20, seed: int = 0
) -> Extremes:
    """The range of 𝒩 for one network: dense values, and a few fixed roll-outs.

    SynFlow, the hand-made and a random policy run at each of `sparsities` (the ends of the range),
    in at most `steps` iterations each, since the range covered does not depend on how finely.
    `panning` gives the network and the batches; it is not advanced.
    """
    rehearsal = copy.copy(panning)  # shares the score bank, and with it the dense scores
    rehearsal.steps = min(panning.steps, steps)
    seen = [
        Observation(*panning.bank.observe(i, None) * 2) for i in range(len(panning.bank.batches))
    ]
    for rho in sparsities:
        for policy in (constant_policy((1, 0, 0)), staged_policy(), random_policy(seed)):
            rehearsal.reset(rho)
            while not rehearsal.done:
                rehearsal.step(policy(rehearsal.state(None)))
                seen.append(rehearsal.observe())
    losses = [value for o in seen for value in (o.loss, o.loss_sparse)]
    norms = [value for o in seen for value in (o.grad_norm_sq, o.grad_norm_sq_sparse)]
    return Extremes((min(losses), max(losses)), (min(norms), max(norms)))
