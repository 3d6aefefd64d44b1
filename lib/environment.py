"""The Panning process seen as a Markov decision process: a `gymnasium.Env` around `Panning`."""

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from torch import Tensor, nn

from .metrics import METRICS, Batch, grad_norm_sq, loss_and_gradient, synflow
from .networks.probes import jacobian_singular_values, some_of, trainability
from .panning import Panning, calibrate
from .policies import ACTIONS, as_policy
from .scores import Extremes, Observation

OBJECTIVES = ("paper", "trainability", "sensitivity")
# A dead network is worth a Jacobian whose mean singular value is 10^-7: this, and 1 for its death.
INSENSITIVE = 6.0
# After how many steps the authors' process narrows its range of targets, and the new lower end. It
# is 0.9 or 0.98 in their program, by the network.
NARROW = (10_000, 0.9)


class Reward(NamedTuple):
    """The terms of R_t; their sum is the reward.

    The paper's are the first four, none of them positive. With another objective the first three
    are 0.
    """

    loss: float = 0.0  # -|𝒩(L) - 𝒩(L_s)|
    grad_norm: float = 0.0  # -w |𝒩(ΔL) - 𝒩(ΔL_s)|
    sparsity: float = 0.0  # -α |ρ_e - ρ_t|
    dead: float = 0.0  # -(T - t + 1) where no path is left, see PanningEnv
    trainability: float = 0.0  # at t = T: what another objective measures


def reward(
    observed: Observation,
    extremes: Extremes,
    *,
    effective_sparsity: float,
    target_sparsity: float,
    t: int,
    steps: int,
    alpha: float,
    grad_weight: float,
) -> Reward:
    """R_t, term by term, from what was observed after iteration t.

    The sparse network should have the loss and the gradient flow of the dense one, and waste no
    weight off the paths from input to output.
    """
    loss, grad, loss_sparse, grad_sparse = extremes.scale(observed)
    return Reward(
        loss=-abs(loss - loss_sparse),
        grad_norm=-grad_weight * abs(grad - grad_sparse),
        sparsity=-alpha * abs(effective_sparsity - target_sparsity),
        dead=-float(steps - t + 1) if effective_sparsity == 1 else 0.0,
    )


class PaperView:
    """What is seen of a run, and which targets are drawn, as the paper has it and we complete it.

    Args:
        process: The run.
        extremes: The range of 𝒩.
        grad_weight: w of the reward.
    """

    def __init__(self, process: Panning, extremes: Extremes, grad_weight: float):
        self.process, self.extremes, self.grad_weight = process, extremes, grad_weight

    def observe(self) -> Observation:
        """L, ΔL, L_s and ΔL_s."""
        return self.process.observe()

    @property
    def effective_sparsity(self) -> float:
        """ρ_e; 1 where the network is dead."""
        return self.process.effective_sparsity

    def look(self) -> None:
        """Called at each reset, and after each step."""

    def state(self) -> np.ndarray:
        """The state, (7,) float64."""
        return self.process.state(self.extremes)

    def target(self, low: float, top: float, random: np.random.Generator) -> float:
        """The target sparsity of an episode: its density is log-uniform."""
        return 1 - math.exp(random.uniform(math.log(1 - top), math.log(1 - low)))


class AuthorsView(PaperView):
    """The same in the authors' program, as its published code computes it.

    The range of 𝒩 runs on, over episodes, too. ΔL_s is over all weights, the removed ones too, and
    all losses are at the scoring temperature. A kept weight is effective if its SynFlow score is
    not 0, which takes biases for inputs. The state repeats the terms of the reward, has the target
    just reached, and is blind before the first step.
    """

    def __init__(self, process: Panning, extremes: Extremes | None, grad_weight: float):
        super().__init__(process, extremes, grad_weight)
        self.taken = 0  # steps, over all episodes
        self._dense: dict[int, tuple[float, float]] = {}  # L and ΔL of each batch, once measured
        self.extremes = extremes or Extremes.of([self._observed()])

    def _observed(self) -> Observation:
        index = max(0, self.process.t - 1) % len(self.process.bank.batches)
        if index not in self._dense:
            self._dense[index] = self._measured(index, None)
        return Observation(*self._dense[index], *self._measured(index, self.process.mask))

    def _measured(self, index: int, mask: Tensor | None) -> tuple[float, float]:
        bank = self.process.bank
        loss, gradients = loss_and_gradient(
            bank.model, mask, bank.batches[index], bank.temperature, weights=bank.weights
        )
        return loss.item(), grad_norm_sq(gradients).item()

    def observe(self) -> Observation:
        """L, ΔL, L_s and ΔL_s."""
        return self._seen

    @property
    def effective_sparsity(self) -> float:
        """The share of the weights that are removed or have a SynFlow score of 0."""
        return self._reached

    def look(self) -> None:
        """Called at each reset, and after each step."""
        process, bank = self.process, self.process.bank
        self._seen = self._observed()
        self.extremes = self.extremes.including(self._seen)
        scores = synflow(bank.model, process.mask, bank.batches[0], weights=bank.weights)
        self._reached = 1 - int((process.mask & (scores != 0)).sum()) / bank.total
        self.taken += process.t > 0

    def state(self) -> np.ndarray:
        """The state, (7,) float64."""
        process = self.process
        loss, norm, loss_sparse, norm_sparse = self.extremes.scale(self._seen)
        if process.t == 0:
            return np.array([loss, norm, 0, 0, 0, 0, 0])
        gaps = abs(loss - loss_sparse), self.grad_weight * abs(norm - norm_sparse)
        just, time = process.targets[process.t - 1], (process.t - 1) / process.steps
        return np.array([loss, norm, *gaps, self._reached, just, time])

    def target(self, low: float, top: float, random: np.random.Generator) -> float:
        """The target sparsity of an episode: uniform, and later in a narrower range."""
        after, end = NARROW
        return random.uniform(max(low, min(end, top)) if self.taken >= after else low, top)


# The settings of `Panning` that make the process an agent learns; none is a network's own.
PROCESS = ("schedule", "reactivate", "gradients", "score", "fusion", "fill")
VIEWS = {"paper": PaperView, "authors": AuthorsView}


class PanningEnv(gymnasium.Env):
    """Choose p at every iteration of a Panning run.

    Observation: `Box(0, 1, (7,), float64)`, the state s_t = (𝒩(L), 𝒩(ΔL), 𝒩(L_s), 𝒩(ΔL_s), next
    target sparsity, effective sparsity, t / T).

    Action: `Box(-1, 1, (3,), float32)`; p_i = (a_i + 1) / 2 weighs SynFlow, SNIP and GraSP.

    Reward: see `reward`. With the objective "trainability" it is 0 until the last iteration, and
    then minus the loss of the sparse network after `trial_steps` steps of training on the scoring
    batches (`probes.trainability`), at worst -ln(classes) - 1, also if training diverged. A dead
    network earns -(T - t + 1) - ln(classes), no more than any living one. With "sensitivity" it is
    in the same way the decimal logarithm of the mean singular value of the Jacobian on the first
    scoring batch (`probes.jacobian_singular_values`), with 6 in place of ln(classes); it has no
    upper bound. `info` holds the raw terms of state and reward.

    Episode: T iterations on one network, fewer if the network dies. The target sparsity is drawn at
    each reset, its *density* log-uniformly from the range, so that all decades of density are
    equally likely; `reset(options={"sparsity": 0.99})` fixes it.

    With `formulation="authors"` it is the decision process of the authors' program: the state after
    step t is (𝒩(L), 𝒩(ΔL), |𝒩(L) - 𝒩(L_s)|, w |𝒩(ΔL) - 𝒩(ΔL_s)|, effective sparsity, the target
    just reached, (t - 1) / T), and targets are drawn uniformly; see `AuthorsView`. An agent that
    was trained on that state is played in such an environment, as by `rollout`; `pan` refuses it.

    Args:
        model: The network; a private copy is made.
        batches: Scoring batches, [(inputs, targets), ...].
        steps: T.
        sparsity: The target, or a range (low, high) to draw it from; high may be 1, which stands
            for a single weight.
        alpha: α of the reward.
        grad_weight: w of the reward.
        extremes: The range of 𝒩; by default measured on this network, see `calibrate`. In the
            authors' process it is where the range begins, by default with the dense network.
        calibration_steps: Iterations of each roll-out that measures it.
        action: How an action becomes p, a name in `ACTIONS`.
        objective: What is rewarded, a name in `OBJECTIVES`.
        trial_steps: Of training, for the objective "trainability".
        formulation: "paper" or "authors".
        **settings: Further settings of `Panning`, such as `schedule`.

    Raises:
        ValueError: An argument is outside its range; the message names it.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        steps: int = 100,
        sparsity: float | tuple[float, float] = (0.8, 1.0),
        *,
        alpha: float = 100.0,
        grad_weight: float = 0.2,
        extremes: Extremes | None = None,
        calibration_steps: int = 20,
        action: str = "linear",
        objective: str = "paper",
        trial_steps: int = 100,
        formulation: str = "paper",
        **settings: Any,
    ):
        if formulation not in VIEWS:
            raise ValueError(f"formulation must be one of {', '.join(VIEWS)}, got {formulation!r}")
        if action not in ACTIONS:
            raise ValueError(f"action must be one of {', '.join(ACTIONS)}, got {action!r}")
        if objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
        ends = (sparsity,) * 2 if isinstance(sparsity, Real) else tuple(sparsity)
        for name, value in (("alpha", alpha), ("grad_weight", grad_weight)):
            if not isinstance(value, Real) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}")
        if trial_steps < 0:
            raise ValueError(f"trial_steps must be at least 0, got {trial_steps}")
        if extremes is not None and not isinstance(extremes, Extremes):
            raise ValueError(
                f"extremes must be an Extremes, as lib.methods.range_of finds; got {extremes!r}"
            )
        low, high = ends if len(ends) == 2 and all(isinstance(x, Real) for x in ends) else (1, 1)
        if not 0 <= low <= high <= 1 or low == 1:
            raise ValueError(
                f"sparsity must be a number in [0, 1) or a range within [0, 1], got {sparsity}"
            )
        self.panning = Panning(model, batches, low, steps, **settings)
        single = 1 - 1 / self.panning.bank.total
        self.sparsity_range = (min(low, single), min(high, single))
        self.alpha, self.grad_weight = alpha, grad_weight
        self.action, self.objective, self.trial_steps = action, objective, trial_steps
        self.calibration_steps = calibration_steps
        # ln(classes) is the loss of a network that cannot tell one class from another.
        classes = self.panning.bank.classes
        self._plateau = INSENSITIVE if objective == "sensitivity" else math.log(classes)
        if extremes is None and formulation == "paper":
            ends = sorted({*self.sparsity_range})
            extremes = calibrate(self.panning, ends, calibration_steps)
        self.formulation = formulation
        self.view = VIEWS[formulation](self.panning, extremes, grad_weight)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (7,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (len(METRICS),), np.float32)
        # A model of stable-baselines3 is saved with its spaces, and loaded without its environment.
        self.settings = {name: settings[name] for name in PROCESS if name in settings}
        made = {"action": action, "sparsity": self.sparsity_range, "formulation": formulation}
        self.action_space.panning = made | {"settings": self.settings, "steps": steps}

    def card(self) -> dict[str, Any]:
        """What an agent is trained in, as plain values."""
        return {
            "episode_steps": self.panning.steps,
            "sparsity": list(self.sparsity_range),
            "alpha": self.alpha,
            "grad_weight": self.grad_weight,
            "action": self.action,
            "objective": self.objective,
            "formulation": self.formulation,
            "trial_steps": self.trial_steps,
            "calibration_steps": self.calibration_steps,
            "extremes": {"loss": self.extremes.loss, "grad_norm_sq": self.extremes.grad_norm_sq},
            "settings": self.settings,
        }

    @property
    def extremes(self) -> Extremes:
        """The range of 𝒩."""
        return self.view.extremes

    @extremes.setter
    def extremes(self, extremes: Extremes) -> None:
        self.view.extremes = extremes

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a run at a new target; `options={"sparsity": ρ}` sets it."""
        super().reset(seed=seed)
        if options and (unknown := set(options) - {"sparsity"}):
            raise ValueError(f"options: unknown key {sorted(unknown)[0]!r}; known is 'sparsity'")
        if options and "sparsity" in options:
            target = float(options["sparsity"])
        else:
            target, top = self.sparsity_range
            if target < top:
                target = self.view.target(target, top, self.np_random)
        self.panning.reset(target)
        self.view.look()
        return self.view.state(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One iteration with p = (action + 1) / 2, or what the setting `action` makes of it."""
        self.panning.step(ACTIONS[self.action](np.clip(np.asarray(action, np.float64), -1, 1)))
        return self._answer()

    def apply(self, p: Sequence[float]) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """`step` for a caller that has p instead of an action, such as a policy."""
        self.panning.step(p)
        return self._answer()

    def _answer(self) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.view.look()
        terms = self._reward()
        info = self._info() | {f"reward_{k}": v for k, v in terms._asdict().items()}
        # Time is in the state, so the last iteration ends the task and does not truncate it.
        terminated = self.panning.done or self.view.effective_sparsity == 1
        return self.view.state(), sum(terms), terminated, False, info

    def _reward(self) -> Reward:
        process = self.panning
        if self.objective != "paper":
            if self.view.effective_sparsity == 1:
                return Reward(dead=-float(process.steps - process.t + 1) - self._plateau)
            if not process.done:
                return Reward()
            loss, worst = self._loss(), self._plateau + 1
            return Reward(trainability=-min(loss, worst) if math.isfinite(loss) else -worst)
        return reward(
            self.view.observe(),
            self.extremes,
            effective_sparsity=self.view.effective_sparsity,
            target_sparsity=process.targets[process.t - 1],
            t=process.t,
            steps=process.steps,
            alpha=self.alpha,
            grad_weight=self.grad_weight,
        )

    def _loss(self) -> float:
        """What is paid for the network of the last iteration, the less the better."""
        bank, kept = self.panning.bank, self.panning.effective
        if self.objective == "trainability":
            return trainability(bank.model, kept, bank.batches, self.trial_steps)
        size = jacobian_singular_values(bank.model, kept, some_of(bank.batches[0][0])).mean().item()
        return -math.log10(size) if size > 0 else math.inf

    def _info(self) -> dict[str, Any]:
        process = self.panning
        return self.view.observe()._asdict() | {
            "final_target": process.sparsity,
            "target_sparsity": process.targets[max(0, process.t - 1)],
            "effective_sparsity": self.view.effective_sparsity,
        }


def rollout(
    env: PanningEnv, policy: Callable[[np.ndarray], Sequence[float]], sparsity: float
) -> list[dict[str, float]]:
    """One episode of a policy at one target: a row per iteration, with p and the reward's terms.

    Raises:
        ValueError: The policy reads the state of another formulation than that of `env`.
    """
    policy = as_policy(policy, env.formulation)
    state, _ = env.reset(options={"sparsity": sparsity})
    rows, terminated = [], False
    while not terminated:
        p = policy(state)
        state, value, terminated, _, info = env.apply(p)
        chosen = {f"p_{name}": float(weight) for name, weight in zip(METRICS, p, strict=True)}
        rows.append({"iteration": env.panning.t, "reward": value} | chosen | info)
    return rows
