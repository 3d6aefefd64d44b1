"""One environment of many networks, and one at given targets."""

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_agents

from lib.environment import PanningEnv
from lib.pool import AtTargets, PanningPool

LOW, HIGH = 0.5, 0.97


def plain(steps: list[tuple]) -> list[tuple]:
    """What `step` returned, comparable with ==."""
    return [(observation.tolist(), *rest) for observation, *rest in steps]


@pytest.fixture
def pool(batches) -> PanningPool:
    envs = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 5 + seed),
                                    torch.nn.ReLU(), torch.nn.Linear(5 + seed, 3))  # fmt: skip
        envs.append(PanningEnv(model, batches, 3, (LOW, HIGH), calibration_steps=2))
    return PanningPool(envs)


def test_a_pool_is_an_environment_and_draws_every_network(pool) -> None:
    check_env(pool, skip_render_check=True)
    check_env_for_agents(pool)

    def drawn(seed: int) -> list[tuple]:
        pool.reset(seed=seed)
        found = []
        for _ in range(30):
            state, info = pool.reset()
            found.append((pool.envs.index(pool.current), info["final_target"], tuple(state)))
        return found

    first = drawn(4)
    assert drawn(4) == first != drawn(5)
    assert {index for index, *_ in first} == {0, 1, 2}
    assert len({target for _, target, _ in first}) == 30
    assert all(LOW <= target <= HIGH for _, target, _ in first)


def test_an_episode_of_a_pool_is_one_of_the_network_drawn(pool) -> None:
    state, info = pool.reset(seed=1, options={"sparsity": 0.9})
    own, action = pool.current, np.array([0.3, -0.2, 0.9], np.float32)
    assert info["final_target"] == 0.9 and pool.panning is own.panning
    steps = [pool.step(action) for _ in range(3)]
    state_too, _ = own.reset(options={"sparsity": 0.9})
    assert state.tolist() == state_too.tolist()
    assert plain(steps) == plain([own.step(action) for _ in range(3)])


def test_the_card_of_a_pool_holds_the_range_of_every_network(pool) -> None:
    card = pool.card()
    for name in ("loss", "grad_norm_sq"):
        low, high = card["extremes"][name]
        ends = [getattr(env.extremes, name) for env in pool.envs]
        assert (low, high) == (min(a for a, _ in ends), max(b for _, b in ends))
    assert card["sparsity"] == [LOW, HIGH] and card["episode_steps"] == 3


def test_a_model_trained_on_a_pool_is_calibrated_as_its_card_says(batches) -> None:
    """Also where the networks differ in what their highest target is."""
    envs = []
    for width in (2, 30):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, width),
                                    torch.nn.ReLU(), torch.nn.Linear(width, 3))  # fmt: skip
        envs.append(PanningEnv(model, batches, 2, (LOW, 1.0), calibration_steps=2))
    made = PanningPool(envs)
    assert envs[0].sparsity_range[1] < envs[1].sparsity_range[1] == made.card()["sparsity"][1]
    assert list(made.action_space.panning["sparsity"]) == made.card()["sparsity"]
    assert tuple(envs[0].action_space.panning["sparsity"]) == envs[0].sparsity_range


def test_a_pool_is_of_one_kind(mlp, batches) -> None:
    with pytest.raises(ValueError, match="envs must hold at least one"):
        PanningPool([])
    envs = [PanningEnv(mlp, batches, 2, calibration_steps=2, fusion=f) for f in ("sum", "product")]
    with pytest.raises(
        ValueError, match=r"number 1 has settings=\{'fusion': 'product'\}, the first"
    ):
        PanningPool(envs)


def test_targets_are_taken_in_turn(mlp, batches) -> None:
    asked = AtTargets(PanningEnv(mlp, batches, 2, (LOW, HIGH), calibration_steps=2), (0.6, 0.9))
    found = [asked.reset(seed=seed)[1]["final_target"] for seed in range(5)]
    assert found == [0.6, 0.9, 0.6, 0.9, 0.6]
