"""The Panning loop: score every weight and keep the best, again and again; and its result.

`Panning` holds the mask and advances it one iteration at a time, with the p that it is given. It
also reports the state of a decision process: the losses of the dense and the sparse network, the
target sparsity and the one reached. It knows nothing about who chooses p, or about rewards.
"""

import copy
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import masks as masking
from .masks import Mask
from .metrics import METRICS, Batch
from .networks.cost import flops, kept_flops
from .networks.inspection import flatten, plainly
from .networks.paths import Dependence
from .policies import (
    P,
    as_policy,
    check_p,
    constant_policy,
    random_policy,
    staged_policy,
    targets,
)
from .scores import FUSIONS, Extremes, Observation, ScoreBank, fuse

GRADIENTS = ("dense", "masked")
CONTROLS = ("magnitude", "random", "erk")
Callback = Callable[[int, Mask, np.ndarray], object]  # of t, the mask and the state after step t


class Log:
    """What each iteration did, a row each.

    The effective sparsity costs as much as half an iteration, and most policies never look at it.
    So the masks are kept, at a bit a weight, and it is measured when somebody asks for the table.

    Attributes:
        rows: The rows; an effective sparsity that was not measured yet is NaN.
    """

    def __init__(self, dependence: Dependence):
        self.rows: list[dict[str, float]] = []
        self._dependence: Dependence | None = dependence
        self._masks: dict[int, np.ndarray] = {}  # by the number of their rows
        self._total = 0

    def add(self, row: dict[str, float], mask: Tensor) -> None:
        """Add the row of an iteration, and the mask (N,) that it found."""
        self._total = len(mask)
        self._masks[len(self.rows)] = np.packbits(mask.cpu().numpy())
        self.rows.append(row)

    def note(self, effective_sparsity: float) -> None:
        """Fill in the last row, for somebody who has measured it."""
        if self._masks.pop(len(self.rows) - 1, None) is not None:
            self.rows[-1]["effective_sparsity"] = effective_sparsity

    @plainly()
    def table(self) -> pd.DataFrame:
        """The rows, complete."""
        for index, bits in self._masks.items():
            mask = torch.from_numpy(np.unpackbits(bits, count=self._total).astype(bool))
            effective = self._dependence.effective(mask)
            self.rows[index]["effective_sparsity"] = masking.sparsity(effective)
        self._masks = {}
        return pd.DataFrame(self.rows)

    def __getstate__(self) -> dict[str, object]:
        self.table()  # complete, it needs no network, which could not always be pickled
        return {**self.__dict__, "_dependence": None}


@dataclass(frozen=True, repr=False)
class PanResult:
    """What a finished run found.

    Attributes:
        masks: {parameter name: bool tensor}, with exactly the number of weights asked for.
        effective: The same, of the effective weights only: train these.
        log: What each iteration did; `history` is its table.
        made: How: method, steps, and the seed if something was random.
        dense_flops: {parameter name: multiply-adds of the dense layer for one input}; layers left
            out are among them.
    """

    masks: Mask
    effective: Mask
    log: Log
    made: Mapping[str, Any] = field(default_factory=dict)
    dense_flops: Mapping[str, int] = field(default_factory=dict)

    @property
    def history(self) -> pd.DataFrame:
        """One row per iteration: target, sparsity, effective sparsity, removed, reactivated, p.

        The effective sparsities are measured the first time, if the policy has not looked at them.
        """
        return self.log.table()

    @property
    def reactivated(self) -> int:
        """How many weights have returned, over all iterations."""
        return sum(row["reactivated"] for row in self.log.rows)

    @property
    def sparsity(self) -> float:
        """ρ, of `masks`."""
        return self.masks.sparsity

    @property
    def effective_sparsity(self) -> float:
        """ρ_e, of `effective`."""
        return self.effective.sparsity

    @property
    def layers(self) -> pd.DataFrame:
        """One row per layer: weights in all, kept and effective; density is effective / all.

        The multiply-adds for one input are those of the dense layer and of its effective weights.
        """
        effective = kept_flops(self.dense_flops, self.effective)
        rows = {
            name: {
                "shape": "x".join(map(str, mask.shape)),
                "weights": mask.numel(),
                "kept": masking.count(mask),
                "effective": masking.count(self.effective[name]),
                "flops": self.dense_flops.get(name, 0),
                "flops_effective": effective.get(name, 0),
            }
            for name, mask in self.masks.items()
        }
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")
        return table.assign(density=table["effective"] / table["weights"])

    @property
    def flops(self) -> dict[str, int]:
        """Multiply-adds for one input: of the dense network, of kept and of effective weights.

        A multiply-add counts as one. An ordinary kernel multiplies by the zeros, too: what
        `compact` saves is measured by `lib.flops` on what it returns.
        """
        parts = {"kept": self.masks, "effective": self.effective}
        found = {name: kept_flops(self.dense_flops, masks) for name, masks in parts.items()}
        return {n: sum(f.values()) for n, f in {"dense": self.dense_flops, **found}.items()}

    def save(self, path: str | Path, **notes: Any) -> None:
        """Write the masks to PATH.npz, a bit for each weight, and a card that says whose they are.

        `lib.load_masks` reads them. The card, PATH.json, has the names and shapes of the layers,
        method, sparsities, seed and version. The history is not written.

        Args:
            path: Where to, with or without suffix.
            **notes: What else belongs on the card, such as `network_seed=3`: plain values. Method,
                steps and seed of the pruning can be replaced in this way, too.

        Raises:
            ValueError: A note cannot be written as JSON, or has the name of another fact.
            OSError: A file cannot be written.
        """
        masking.save_masks(path, self.masks, self.effective, {**self.made, **notes})

    def __repr__(self) -> str:
        ours = f"sparsity={self.sparsity}, effective_sparsity={self.effective_sparsity}"
        return f"PanResult({ours})"

    def _repr_html_(self) -> str:
        kept, effective = self.masks.count, self.effective.count
        table = self.layers.to_html(border=0, formatters={"density": "{:.3%}".format})
        return (
            f"<p>{kept:,} of {self.masks.flat.numel():,} weights kept, sparsity "
            f"{self.sparsity:.3%}; {effective:,} of them lie on a path from input to output, "
            f"effective sparsity {self.effective_sparsity:.3%}.</p>{table}"
        )


class Panning:
    """One run of the loop, advanced step by step.

    It holds the current mask, the history, and the state that a policy may look at, but no policy:
    `step` takes p from anyone. The caller's model is copied once and never touched.

    Args:
        model: A network with convolutions or linear layers.
        batches: Scoring batches [(inputs, targets), ...]; iteration t uses number
            (t - 1) mod len(batches).
        sparsity: ρ in [0, 1), the fraction of prunable weights to remove in the end.
        steps: T, the number of iterations.
        schedule: How the target grows: "exponential", "linear" or "cosine".
        reactivate: Whether removed weights compete again on equal terms. Without it the loop is
            iterative pruning. A number says for how long they do: 0.9, not in the last tenth of the
            iterations.
        gradients: Whether SNIP and GraSP are those of the "dense" or the "masked" network.
        score: How each metric is prepared for the fusion, a name in `scores.SCORES`:
            "normalised" is Z(s), "absolute" |s|, "signed" s itself.
        fusion: "sum" or "product".
        control: None, or a score that ignores p: "magnitude", "random" or "erk".
        invert: Whether the *worst* weights are kept, a sanity check (Frankle et al. 2021).
        temperature: The logits are divided by it in the scoring loss.
        fill: Whether the last iteration gives the places of kept weights that are not effective to
            the next best, until as many are effective as were asked for.
        seed: Of the random controls.
        leave_out: Names of layers that stay whole and are not counted, or of modules that hold
            such layers.

    Attributes:
        t: Iterations done.
        mask: (N,) bool, the weights kept now.
        targets: ρ_1 to ρ_T.
        bank: The network, its weights, the batches and their scores.
        dependence: What the network's outputs depend on, for any mask.
        log: What each iteration did.

    Raises:
        ValueError: An argument is outside its range; the message names it.
    """

    @plainly()
    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        sparsity: float,
        steps: int = 100,
        *,
        schedule: str = "exponential",
        reactivate: bool | float = True,
        gradients: str = "dense",
        score: str = "normalised",
        fusion: str = "sum",
        control: str | None = None,
        invert: bool = False,
        temperature: float = 200.0,
        fill: bool = False,
        seed: int = 0,
        leave_out: Collection[str] | None = (),
    ):
        if gradients not in GRADIENTS:
            raise ValueError(f"gradients must be one of {', '.join(GRADIENTS)}, got {gradients!r}")
        if fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
        if control is not None and control not in CONTROLS:
            raise ValueError(f"control must be one of {', '.join(CONTROLS)}, got {control!r}")
        if not isinstance(reactivate, Real | np.bool_) or not 0 <= reactivate <= 1:
            raise ValueError(
                f"reactivate must be True, False, or a part of the iterations in [0, 1], got "
                f"{reactivate!r}"
            )
        if not isinstance(temperature, Real) or not 0 < temperature < math.inf:
            raise ValueError(
                f"temperature must be positive, got {temperature!r}; give a finite one"
            )
        self.schedule, self.steps = schedule, steps
        self.reactivate, self.gradients, self.fusion = reactivate, gradients, fusion
        self.control, self.invert, self.fill, self.seed = control, invert, fill, seed
        self.targets = targets(sparsity, steps, schedule)  # before the costly copy: it may raise
        self.bank = ScoreBank(model, batches, score, temperature, leave_out)
        inputs, _ = self.bank.batches[0]
        self.dependence = Dependence(self.bank.model, inputs, self.bank.weights)
        self.reset(sparsity)

    def reset(self, sparsity: float | None = None) -> None:
        """Start again from the dense network, at another `sparsity` if one is given.

        The dense scores are kept: a second run on the same network costs no double backward.
        """
        if sparsity is not None:
            self.targets = targets(sparsity, self.steps, self.schedule)
            self.sparsity = sparsity
        self.t = 0
        self.log = Log(self.dependence)
        device = self.bank.batches[0][0].device
        self._move_to(torch.ones(self.bank.total, dtype=torch.bool, device=device))

    def _move_to(self, mask: Tensor) -> None:
        self.mask = mask
        self._effective: Tensor | None = None
        self._observation: Observation | None = None

    # --- the loop ----------------------------------------------------------------------------

    @plainly()
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
        before, target = self.mask, self.targets[self.t]

        scores = -self.scores(p) if self.invert else self.scores(p)
        returns = self.t < math.floor(self.reactivate * self.steps + 1e-6)
        if not returns:
            scores = scores.masked_fill(~before, -math.inf)
        after = masking.top_k(scores, masking.kept_count(self.bank.total, target))
        if self.fill and self.t + 1 == self.steps:
            after = self._filled(scores, after, self.bank.total if returns else int(before.sum()))
        removed, reactivated = masking.count(before & ~after), masking.count(after & ~before)

        self.t += 1
        self._move_to(after)
        row = {"iteration": self.t, "target_sparsity": target}
        row |= {"sparsity": masking.sparsity(after), "effective_sparsity": math.nan}
        row |= {"removed": removed, "reactivated": reactivated}
        row |= {f"p_{name}": weight for name, weight in zip(METRICS, p, strict=True)}
        self.log.add(row, after)

    def _filled(self, scores: Tensor, kept: Tensor, allowed: int) -> Tensor:
        """A mask of as many weights as `kept`, of the `allowed` best, if possible all effective.

        The fewest best are taken of which as many are effective; those are kept, but for the worst,
        if the last one has made several effective at once. To do without these may make others
        ineffective, some few.
        """
        k = masking.count(kept)

        def effective(count: int) -> Tensor:
            return self.dependence.effective(masking.top_k(scores, count))

        low, high, found, step = k, k, effective(k), max(1, k // 50)
        while masking.count(found) < k and high < allowed:  # in doubling steps, then by halves
            low, high, step = high, min(allowed, high + step), 2 * step
            found = effective(high)
        if masking.count(found) < k:  # the network cannot use as many
            return kept
        while high - low > 1:
            middle = (low + high) // 2
            enough = effective(middle)
            if masking.count(enough) < k:
                low = middle
            else:
                high, found = middle, enough
        return masking.top_k(scores.masked_fill(~found, -math.inf), k)

    def scores(self, p: P) -> Tensor:
        """S, (N,): the present fused score of every weight, removed or not, for this p."""
        if self.control:
            return self._control_scores()
        index = self.t % len(self.bank.batches)
        weights = {name: weight for name, weight in zip(METRICS, p, strict=True) if weight}
        scores = {}
        for name in reversed(weights):  # SynFlow last: no memory held during a double backward
            if name == "synflow":
                scores[name] = self.bank.synflow(self.mask)
            elif self.gradients == "masked":
                scores[name] = self.bank.masked(name, index, self.mask)
            else:
                scores[name] = self.bank.dense(index)[name]
        if not scores:  # p = 0: no weight is better than another, and the tie rule decides
            return torch.zeros(self.bank.total, device=self.mask.device)
        return fuse(scores, weights, self.fusion)

    def _control_scores(self) -> Tensor:
        theta = flatten(self.bank.weights).detach()
        if self.control == "magnitude":
            return theta.abs()
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.rand(
            self.bank.total, generator=generator, dtype=torch.float32, device="cpu"
        ).to(theta.device)
        if self.control == "erk":  # lift each layer's quota above everything else
            k = masking.kept_count(self.bank.total, self.targets[self.t])
            counts = masking.erk_counts(self.bank.weights, k)
            parts = noise.split([w.numel() for w in self.bank.weights.values()])
            lifted = [masking.top_k(part, n) for part, n in zip(parts, counts, strict=True)]
            noise = noise + torch.cat(lifted)
        return noise

    def run(
        self,
        policy: Callable[[np.ndarray], Sequence[float]],
        extremes: Extremes | None = None,
        progress: bool = False,
        callback: Callback | None = None,
    ) -> PanResult:
        """Run the loop to its end, p chosen by `policy`.

        Args:
            policy: `state -> p`.
            extremes: The range of 𝒩. Without it the losses are not measured and are NaN in the
                state.
            progress: Whether to show a progress bar.
            callback: Called after each iteration with t, a copy of the mask, and the state.

        Raises:
            ValueError: The policy is none, or reads the state of another formulation.
            TypeError: `callback` cannot be called.
        """
        policy = as_policy(policy)
        if callback is not None and not callable(callback):
            raise TypeError(
                f"callback must be a function of (t, mask, state), got {type(callback).__name__}"
            )
        for _ in tqdm(range(self.t, self.steps), desc="Panning", disable=not progress):
            self.step(policy(self.state(extremes, policy.needs_effective)))
            if callback is not None:
                callback(self.t, self.masks, self.state(extremes))
        seed = self.seed if self.control in ("random", "erk") else None
        return PanResult(
            *(self.masks, self.effective, self.log),
            made={"steps": self.steps, "seed": seed},
            dense_flops=flops(self.bank.model, self.bank.batches[0][0]),
        )

    # --- what can be seen --------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether all T iterations are over."""
        return self.t == self.steps

    @property
    @plainly()
    def effective_mask(self) -> Tensor:
        """(N,) bool, the kept weights that carry the input to an output; see `effective_mask`.

        Found when it is first asked for after an iteration.
        """
        if self._effective is None:
            self._effective = self.dependence.effective(self.mask)
            self.log.note(masking.sparsity(self._effective))
        return self._effective

    @property
    def effective_sparsity(self) -> float:
        """ρ_e, of `effective_mask`."""
        return masking.sparsity(self.effective_mask)

    @property
    def dead(self) -> bool:
        """Whether no kept weight is effective. The loop goes on, since weights can return."""
        return not self.effective_mask.any()

    @property
    def masks(self) -> Mask:
        """A copy of the current mask, by the names of the weights."""
        return Mask(self.mask.clone(), self.bank.weights)

    @property
    def effective(self) -> Mask:
        """A copy of the current mask's effective part."""
        return Mask(self.effective_mask.clone(), self.bank.weights)

    @property
    def history(self) -> pd.DataFrame:
        """One row per iteration: target, sparsity, effective sparsity, removed, reactivated, p."""
        return self.log.table()

    @plainly()
    def observe(self) -> Observation:
        """L, ΔL, L_s and ΔL_s at temperature 1, on the batch of the last iteration."""
        if self._observation is None:
            index = max(0, self.t - 1) % len(self.bank.batches)
            dense = self.bank.observe(index, None)
            sparse = self.bank.observe(index, self.mask) if self.t else dense
            self._observation = Observation(*dense, *sparse)
        return self._observation

    def state(self, extremes: Extremes | None, effective: bool = True) -> np.ndarray:
        """The state s_t, (7,) float64 in [0, 1].

        Args:
            extremes: The range of 𝒩. Without it the four losses are NaN, and cost nothing.
            effective: Without it the effective sparsity is NaN, and costs nothing.
        """
        scaled = extremes.scale(self.observe()) if extremes else (math.nan,) * 4
        upcoming = self.targets[min(self.t, self.steps - 1)]
        reached = self.effective_sparsity if effective else math.nan
        return np.array([*scaled, upcoming, reached, self.t / self.steps])


def calibrate(
    panning: Panning, sparsities: Iterable[float], steps: int = 20, seed: int = 0
) -> Extremes:
    """The range of 𝒩 for one network: its dense values, and a few fixed roll-outs.

    SynFlow, the hand-made and a random policy run at each of `sparsities` (the ends of the range),
    in at most `steps` iterations each: more would hardly widen the range.

    Args:
        panning: Gives the network and the batches; it is not advanced.
        sparsities: Where to measure.
        steps: Iterations of a roll-out, at most.
        seed: Of the random policy.
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
                rehearsal.step(policy(rehearsal.state(None, effective=False)))
                seen.append(rehearsal.observe())
    return Extremes.of(seen)
