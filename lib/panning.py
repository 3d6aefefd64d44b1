"""The Panning process: prune a little, let removed weights return, and do it again.

`Panning` is one run of the loop on one network, advanced by `step(p)`; who chooses p is no concern
of it, and it knows nothing of reinforcement learning.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import masks as masking
from .bank import Extremes, Observation, ScoreBank
from .fusion import fuse
from .metrics import METRICS, Batch
from .models import flatten, unflatten
from .outcome import PanResult
from .policies import P, check_p, targets
from .reachability import effective_mask

GRADIENTS = ("dense", "masked")
FUSIONS = ("sum", "product")
CONTROLS = ("magnitude", "random", "erk")


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
        score: What is done to each metric before the fusion, a name in `fusion.SCORES`:
            "normalised" is Z(s), "absolute" |s|, "signed" s itself.
        fusion: "sum" or "product".
        control: None, or a score that ignores p: "magnitude", "random" or "erk".
        invert: Whether the *worst* weights are kept, a sanity check (Frankle et al. 2021).
        temperature: The logits are divided by it in the scoring loss.
        seed: Of the controls' noise.
        leave_out: Names of layers that stay whole and are not counted, or of modules that hold
            such layers.
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
        invert: bool = False,
        temperature: float = 200.0,
        seed: int = 0,
        leave_out: Collection[str] = (),
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
        self.control, self.invert, self.seed = control, invert, seed
        self.targets = targets(sparsity, steps, schedule)  # before the costly copy: it may raise
        self.bank = ScoreBank(model, batches, score, temperature, leave_out)
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
        self.effective_mask = effective_mask(self.bank.model, self.mask, self.bank.batches[0][0])
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

    def scores(self, p: P) -> Tensor:
        """S, (N,): the fused score that every weight, removed or not, has now with these p."""
        if self.control:
            return self._control_scores()
        index = self.t % len(self.bank.batches)
        weights = {name: weight for name, weight in zip(METRICS, p, strict=True) if weight}
        scores = {}
        for name in reversed(weights):  # SynFlow's need not wait in memory for a double backward
            if name == "synflow":
                scores[name] = self.bank.synflow(self.mask)
            elif self.gradients == "masked":
                scores[name] = self.bank.masked(name, index, self.mask)
            else:
                scores[name] = self.bank.dense(index)[name]
        if not scores:  # p = 0: nothing speaks for any weight, and the tie rule decides
            return torch.zeros(self.bank.total, device=self.mask.device)
        return fuse(scores, weights, self.fusion)

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
        scores = self.scores(p)
        if self.invert:
            scores = -scores
        if not self.reactivate:
            scores = scores.masked_fill(~self.mask, -math.inf)
        target = self.targets[self.t]
        mask = masking.top_k(scores, masking.kept_count(self.bank.total, target))
        removed, reactivated = (
            masking.count(old & ~new) for old, new in ((self.mask, mask), (mask, self.mask))
        )
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
