"""The agent, TD3 by default: trained by stable-baselines3, kept as plain weights, a policy.

Training runs in segments of fixed length. At each seam between them every generator is reseeded and
the environment is reset, so a run continued from the checkpoint at a seam ends bit for bit like one
that was never interrupted.
"""

import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.wrappers import TransformReward
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor, nn
from tqdm import tqdm

from .data.files import whole
from .environment import VIEWS, PanningEnv
from .policies import ACTIONS
from .pool import AtTargets, PanningPool
from .scores import Extremes

STATE, ACTION = 7, 3
ALGORITHMS: dict[str, type[OffPolicyAlgorithm]] = {"td3": TD3, "sac": SAC, "ddpg": DDPG}


class AgentPolicy:
    """A trained actor as a policy: `state -> p`, without exploration noise.

    Attributes:
        card: How the agent was made: settings, seed, the range of 𝒩 it was trained with.
        extremes: That range, for use on the same network. On another one `pan` measures its own.
        sparsity: The range of targets it was trained on.
        needs_loss: True; it looks at the whole state.
        formulation: Whose state that is, "paper" or "authors".
        trained_in: {"settings": those of `Panning`, "steps": T}, where it was trained.

    Raises:
        ValueError: The weights do not fit the card, or the card names an unknown action or
            formulation.
    """

    def __init__(self, weights: Mapping[str, Tensor], card: Mapping[str, Any]):
        sizes = [STATE, *card["hidden"], ACTION]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        relus = [nn.ReLU() for _ in card["hidden"]]
        chain = [part for pair in zip(layers, relus, strict=False) for part in pair]
        self.actor = nn.Sequential(*chain, layers[-1], nn.Tanh())
        try:
            self.actor.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise ValueError(
                f"weights do not fit hidden layers {card['hidden']}: {error}"
            ) from error
        self.card = dict(card)
        self.extremes = Extremes(*(tuple(card["extremes"][k]) for k in ("loss", "grad_norm_sq")))
        self.sparsity = tuple(card["sparsity"])
        self.needs_loss = True
        self.trained_in = {"settings": dict(card.get("settings", {}))}
        if "episode_steps" in card:
            self.trained_in["steps"] = card["episode_steps"]
        action, self.formulation = card.get("action", "linear"), card.get("formulation", "paper")
        for name, value, known in (
            ("action", action, ACTIONS),
            ("formulation", self.formulation, VIEWS),
        ):
            if value not in known:
                raise ValueError(f"card: {name} must be one of {', '.join(known)}, got {value!r}")
        self._weights = ACTIONS[action]

    @torch.no_grad()
    def __call__(self, state: np.ndarray) -> tuple[float, ...]:
        """The weights p for (SynFlow, SNIP, GraSP), each in [0, 1], from a state (7,)."""
        action = self.actor(torch.as_tensor(state, dtype=torch.float32))
        return tuple(self._weights(action.double().numpy()).tolist())

    def plain(self) -> dict[str, Any]:
        """The policy as plain values, weights and card, from which it can be rebuilt."""
        return {"weights": self.actor.state_dict(), "card": self.card}


def _files(path: str | Path) -> tuple[Path, Path]:
    """PATH.pt, the weights, and PATH.json, the card; PATH may already have either suffix."""
    path = Path(path)
    base = path.name.removesuffix(".pt").removesuffix(".json")  # "agent-0.99" has no suffix
    return path.with_name(f"{base}.pt"), path.with_name(f"{base}.json")


def save_policy(policy: AgentPolicy, path: str | Path) -> None:
    """Write PATH.pt, the actor's weights, and PATH.json, its card; each whole or not at all."""
    card = json.dumps(policy.card, indent=2, sort_keys=True) + "\n"
    writers = (
        lambda file: torch.save(policy.actor.state_dict(), file),
        lambda file: file.write(card.encode()),
    )
    for target, write in zip(_files(path), writers, strict=True):
        with whole(target) as file:
            write(file)


def load_policy(path: str | Path) -> AgentPolicy:
    """A saved agent as a policy, from PATH with or without suffix; no pickled code is run.

    Raises:
        FileNotFoundError: One of the two files is missing.
        ValueError: They are damaged, or do not fit each other.
    """
    weights, card = _files(path)
    for file in (weights, card):
        if not file.is_file():
            raise FileNotFoundError(f"path: no policy at {file}")
    try:
        return AgentPolicy(
            torch.load(weights, weights_only=True, map_location="cpu"), json.loads(card.read_text())
        )
    except Exception as error:  # unpickling, JSON and a missing key each raise their own
        raise ValueError(f"path: {path} holds no usable policy: {error}") from error


class _Noted(BaseCallback):
    """Notes the returns of a greedy evaluation, a row for each target."""

    def __init__(self, env: Monitor, sparsities: Sequence[float], episodes: list[dict[str, Any]]):
        super().__init__()
        self.env, self.sparsities, self.episodes = env, sparsities, episodes

    def _on_step(self) -> bool:
        last = slice(-len(self.sparsities), None)
        found = self.env.get_episode_rewards()[last], self.env.get_episode_lengths()[last]
        for sparsity, value, length in zip(self.sparsities, *found, strict=True):
            row = {"step": self.num_timesteps, "sparsity": sparsity, "return": value}
            self.episodes.append(row | {"length": length, "greedy": True})
        return True


class _Progress(BaseCallback):
    """Notes each finished episode, and advances the progress bar."""

    def __init__(self, episodes: list[dict[str, Any]], bar: tqdm):
        super().__init__()
        self.episodes, self.bar = episodes, bar

    def _on_step(self) -> bool:
        self.bar.update(self.model.n_envs)
        for info in self.locals["infos"]:
            if "episode" in info:
                self.episodes.append(
                    {
                        "step": self.num_timesteps,
                        "sparsity": info["final_target"],
                        "return": info["episode"]["r"],
                        "length": info["episode"]["l"],
                        "greedy": False,
                    }
                )
        return True


def train_agent(
    env: PanningEnv | PanningPool,
    seed: int = 0,
    *,
    steps: int = 50_000,
    algorithm: str = "td3",
    learning_rate: float = 2e-4,
    batch_size: int = 256,
    gamma: float = 0.99,
    tau: float = 0.01,
    policy_noise: float = 0.2,
    noise_clip: float = 0.5,
    policy_delay: int = 2,
    exploration_noise: float = 0.1,
    learning_starts: int = 2000,
    hidden: Sequence[int] = (256, 256),
    reward_scale: float = 1.0,
    checkpoint_every: int = 5000,
    checkpoints: Path | None = None,
    log_folder: Path | None = None,
    progress: bool = True,
    evaluation: PanningEnv | None = None,
    evaluate_at: Sequence[float] = (),
) -> tuple[AgentPolicy, list[dict[str, Any]]]:
    """Train TD3 (Fujimoto et al. 2018), SAC (Haarnoja et al. 2018) or DDPG on `env`.

    DDPG (Lillicrap et al. 2016) is TD3 without its three remedies: one critic, no noise on the
    target policy, and an update of the actor for each of the critic.

    Args:
        env: The environment.
        seed: Of everything: actor and critics, exploration, replay, targets.
        steps: Steps of the environment in all; also the size of the replay buffer.
        algorithm: "td3", "sac" or "ddpg".
        learning_rate: Of actor and critics.
        batch_size: Transitions per gradient step; each step of the environment has one.
        gamma: The discount.
        tau: How far the target networks move at each update.
        policy_noise: Standard deviation of the noise on the target policy's actions (TD3).
        noise_clip: Where that noise is clipped (TD3).
        policy_delay: Updates of the critics for each update of the actor (TD3).
        exploration_noise: Standard deviation of the noise on the actions taken (TD3, DDPG).
        learning_starts: Random steps before learning begins.
        hidden: Widths of the hidden layers.
        reward_scale: Factor on the reward that the agent learns from.
        checkpoint_every: Steps per segment.
        checkpoints: A folder for the state at the last seam, from which training continues unless
            it was finished.
        log_folder: Where TensorBoard's logs go.
        progress: Whether to show a progress bar.
        evaluation: An environment in which the agent acts without exploration at each seam.
        evaluate_at: The targets there, an episode each.

    Returns:
        The policy, and one row per episode: step, target sparsity, return, length, and whether it
        was such an evaluation, greedy.

    Raises:
        ValueError: The algorithm is unknown, or only one of the last two arguments is given.
    """
    if algorithm not in ALGORITHMS:
        known = ", ".join(map(repr, ALGORITHMS))
        raise ValueError(f"algorithm must be one of {known}, got {algorithm!r}")
    if (evaluation is None) != (len(evaluate_at) == 0):
        raise ValueError("evaluation, evaluate_at: give an environment and its targets, or neither")
    kind, own = ALGORITHMS[algorithm], {}
    if issubclass(kind, TD3):  # DDPG too
        noise = NormalActionNoise(np.zeros(ACTION), np.full(ACTION, exploration_noise))
        own = {"action_noise": noise}
    if kind is TD3:
        own |= {
            "policy_delay": policy_delay,
            "target_policy_noise": policy_noise,
            "target_noise_clip": noise_clip,
        }
    monitored = TransformReward(Monitor(env), lambda r: reward_scale * r)
    learner = kind(
        "MlpPolicy",
        monitored,
        learning_rate=learning_rate,
        buffer_size=steps,
        learning_starts=learning_starts,
        batch_size=batch_size,
        tau=tau,
        gamma=gamma,
        policy_kwargs={"net_arch": list(hidden)},
        tensorboard_log=str(log_folder) if log_folder else None,
        seed=seed,
        device="cpu",  # the networks are small, and every action is needed on the CPU
        **own,
    )
    episodes: list[dict[str, Any]] = []
    first = 0
    if checkpoints and (done := sorted(checkpoints.glob("seam-*/episodes.json"))):
        folder = done[-1].parent
        first = int(folder.name.removeprefix("seam-"))
        learner = kind.load(folder / "agent.zip", env=monitored, device="cpu")
        learner.load_replay_buffer(folder / "replay.pkl")
        episodes = json.loads((folder / "episodes.json").read_text())
    with tqdm(
        mininterval=2,
        total=steps,
        initial=learner.num_timesteps,
        desc=f"{kind.__name__}, seed {seed}",
        disable=not progress,
    ) as bar:
        for segment, start in list(enumerate(range(0, steps, checkpoint_every)))[first:]:
            learner.set_random_seed(1000 * seed + segment)
            learner._last_obs = None  # makes stable-baselines3 reset the environment
            length = min(checkpoint_every, steps - start)
            watching = [_Progress(episodes, bar)]
            if evaluation is not None:
                watching.append(_greedy(evaluation, evaluate_at, length, episodes))
            learner.learn(
                length,
                callback=watching,
                reset_num_timesteps=False,
                tb_log_name=f"seed-{seed}",
            )
            if checkpoints:
                _checkpoint(learner, episodes, checkpoints / f"seam-{segment + 1:04d}")
    card = {
        "algorithm": kind.__name__,
        "seed": seed,
        "steps": steps,
        "hidden": list(hidden),
        **env.card(),
    }
    weights = {name: tensor.clone() for name, tensor in _actor(learner).state_dict().items()}
    return AgentPolicy(weights, json.loads(json.dumps(card))), episodes


def _greedy(
    env: PanningEnv, sparsities: Sequence[float], every: int, episodes: list[dict[str, Any]]
) -> EvalCallback:
    """Evaluates the agent without exploration, after `every` steps, and notes it."""
    watched = Monitor(AtTargets(env, sparsities))
    return EvalCallback(
        watched,
        callback_after_eval=_Noted(watched, sparsities, episodes),
        n_eval_episodes=len(sparsities),
        eval_freq=every,
        verbose=0,
    )


def _actor(agent: OffPolicyAlgorithm) -> nn.Sequential:
    """The part that acts without exploration noise; SAC's is the mean of its Gaussian."""
    actor = agent.policy.actor
    return actor.mu if isinstance(agent, TD3) else nn.Sequential(*actor.latent_pi, actor.mu)


def _checkpoint(learner: OffPolicyAlgorithm, episodes: list[dict[str, Any]], folder: Path) -> None:
    """Save the state at a seam; episodes.json comes last, so a half-saved state is not found."""
    folder.mkdir(parents=True, exist_ok=True)
    learner.save(folder / "agent.zip")
    learner.save_replay_buffer(folder / "replay.pkl")
    with whole(folder / "episodes.json") as file:
        file.write(json.dumps(episodes).encode())
    for old in folder.parent.glob("seam-*"):
        if old.name < folder.name:
            shutil.rmtree(old)
