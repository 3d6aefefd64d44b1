"""Environments made of `PanningEnv`: one of many networks, and one that is asked for its targets.

An agent that learns on many networks can learn none of them by heart; one that is evaluated at the
same targets again and again can be compared with itself.
"""

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from .environment import PanningEnv
from .panning import Panning


class PanningPool(gymnasium.Env):
    """Several networks, of which each episode draws one: an agent of many learns none by heart.

    Args:
        envs: An environment for each network, of the same kind otherwise.

    Raises:
        ValueError: There is none, or they differ in more than their networks.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, envs: Sequence[PanningEnv]):
        self.envs = list(envs)
        if not self.envs:
            raise ValueError("envs must hold at least one PanningEnv")
        own = ("sparsity", "extremes")  # of each network
        cards = [{k: v for k, v in env.card().items() if k not in own} for env in self.envs]
        for index, card in enumerate(cards):
            if differing := [key for key in card if card[key] != cards[0][key]]:
                raise ValueError(
                    f"envs: number {index} has {differing[0]}={card[differing[0]]!r}, the first "
                    f"{cards[0][differing[0]]!r}; they may differ in their networks alone"
                )
        self.current = self.envs[0]
        self.observation_space = self.current.observation_space
        self.action_space = copy.copy(self.current.action_space)
        made = self.action_space.panning
        self.action_space.panning = made | {"sparsity": self.card()["sparsity"]}

    @property
    def panning(self) -> Panning:
        """The run of the present episode."""
        return self.current.panning

    def card(self) -> dict[str, Any]:
        """What an agent is trained in; the range of 𝒩 is the smallest that holds all networks'."""
        ranges = [env.extremes for env in self.envs]
        ends = {
            name: [f(getattr(x, name)[i] for x in ranges) for i, f in enumerate((min, max))]
            for name in ("loss", "grad_norm_sq")
        }
        targets = [env.sparsity_range for env in self.envs]
        sparsity = [min(low for low, _ in targets), max(high for _, high in targets)]
        return self.envs[0].card() | {"extremes": ends, "sparsity": sparsity}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw a network, and a target if `options` sets none; start a run."""
        super().reset(seed=seed)
        self.current = self.envs[self.np_random.integers(len(self.envs))]
        return self.current.reset(seed=int(self.np_random.integers(2**31)), options=options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One iteration on the network of this episode."""
        return self.current.step(action)


class AtTargets(gymnasium.Wrapper):
    """An environment that takes the targets given, in turn; for evaluations that are comparable.

    Args:
        env: The environment.
        sparsities: The targets.
    """

    def __init__(self, env: gymnasium.Env, sparsities: Sequence[float]):
        super().__init__(env)
        self.turns = itertools.cycle(sparsities)

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a run at the next target."""
        return self.env.reset(**arguments | {"options": {"sparsity": next(self.turns)}})
