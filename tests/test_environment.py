"""The environment is one that other people's agents can use, and it pays what the design says."""

import itertools
import math
import random
import warnings
from collections.abc import Callable

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from scipy import stats
from stable_baselines3.common.env_checker import check_env as check_env_for_agents

import lib
from lib import metrics
from lib.bank import Extremes, Observation
from lib.environment import PanningEnv, reward, rollout
from lib.models import flatten
from lib.policies import EFFECTIVE, TARGET, TIME, constant_policy, random_policy, staged_policy

LOW, HIGH = 0.5, 0.97
SYNFLOW = np.array([1, -1, -1], dtype=np.float32)  # the action for p = (1, 0, 0)
NOTHING = -np.ones(3, dtype=np.float32)  # p = 0: the tie rule empties the last layers first


@pytest.fixture
def make(mlp, batches) -> Callable[..., PanningEnv]:
    def build(**settings: object) -> PanningEnv:
        defaults = {"steps": 6, "sparsity": (LOW, HIGH), "calibration_steps": 3}
        return PanningEnv(mlp, batches, **defaults | settings)

    return build


@pytest.fixture
def env(make) -> PanningEnv:
    return make()


def play(env: PanningEnv, policy: Callable, **reset: object) -> list[tuple]:
    """An episode, as all that `reset` and `step` return."""
    observation, info = env.reset(**reset)
    steps = [(observation, None, False, False, info)]
    while not steps[-1][2]:
        steps.append(env.step(2 * np.asarray(policy(steps[-1][0])) - 1))
    return steps


def plain(steps: list[tuple]) -> list[tuple]:
    """The same, comparable with ==."""
    return [(observation.tolist(), *rest) for observation, *rest in steps]


# --- other people's rules ------------------------------------------------------------------------


@pytest.mark.parametrize("check", [check_env, check_env_for_agents])
@pytest.mark.parametrize("sparsity", [(LOW, 1.0), 0.9])
def test_the_checkers_of_gymnasium_and_stable_baselines3_have_nothing_to_say(
    mlp, batches, check, sparsity
) -> None:
    env = gymnasium.make(
        "lib/Panning-v0", model=mlp, batches=batches, steps=4, sparsity=sparsity
    ).unwrapped
    assert isinstance(env, lib.PanningEnv)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(env)


# --- randomness ----------------------------------------------------------------------------------


def global_states() -> tuple:
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()


def test_no_global_generator_is_read_or_moved(make) -> None:
    def episode(outside: int) -> list[tuple]:
        torch.manual_seed(outside), np.random.seed(outside), random.seed(outside)
        before = global_states()
        steps = play(make(), constant_policy((0.5, 0.2, 0.4)), seed=3)
        assert global_states() == before
        return plain(steps)

    assert episode(0) == episode(1)


def test_the_seed_decides_the_target_and_an_unseeded_reset_draws_the_next(env) -> None:
    def drawn(seed: int) -> list[float]:
        first = env.reset(seed=seed)[1]["final_target"]
        return [first, *(env.reset()[1]["final_target"] for _ in range(4))]

    assert drawn(1) == drawn(1)
    assert len({*drawn(1), *drawn(2)}) == 10


@pytest.mark.parametrize("high", [0.99, 1.0])
def test_each_decade_of_density_is_as_likely(make, mlp, high: float) -> None:
    env = make(sparsity=(LOW, high), steps=1)
    single = 1 - 1 / flatten(lib.models.prunable(mlp)).numel()
    top = min(high, single)
    assert env.sparsity_range == (LOW, top)
    env.reset(seed=0)
    drawn = [env.reset()[1]["final_target"] for _ in range(400)]
    assert LOW - 1e-12 <= min(drawn) and max(drawn) <= top + 1e-12
    logs = -np.log10(1 - np.array(drawn))
    low, span = -math.log10(1 - LOW), math.log10((1 - LOW) / (1 - top))
    assert stats.kstest(logs, stats.uniform(low, span).cdf).pvalue > 0.05


@pytest.mark.parametrize("sparsity", [0.9, (0.9, 0.9)])
def test_a_single_target_is_the_target_of_each_episode(make, sparsity) -> None:
    env = make(sparsity=sparsity)
    assert {env.reset(seed=seed)[1]["final_target"] for seed in range(5)} == {0.9}


def test_an_option_sets_the_target_of_one_episode_even_outside_of_the_range(env) -> None:
    assert env.reset(options={"sparsity": 0.3})[1]["final_target"] == 0.3
    assert env.reset(options={})[1]["final_target"] >= LOW


# --- reward --------------------------------------------------------------------------------------

EXTREMES = Extremes(loss=(1.0, 3.0), grad_norm_sq=(0.0, 10.0))


def pay(observed: Observation, reached: float, target: float, **settings: float) -> tuple:
    defaults = {"t": 40, "steps": 100, "alpha": 100, "grad_weight": 0.2}
    return reward(
        observed,
        EXTREMES,
        effective_sparsity=reached,
        target_sparsity=target,
        **defaults | settings,
    )


@pytest.mark.parametrize(
    ("observed", "reached", "target", "settings", "expected"),
    [
        ((2.0, 5.0, 2.0, 5.0), 0.9, 0.9, {}, (0, 0, 0, 0)),
        ((2.0, 5.0, 2.5, 1.0), 0.97, 0.95, {}, (-0.25, -0.2 * 0.4, -2, 0)),
        ((2.5, 1.0, 2.0, 5.0), 0.93, 0.95, {}, (-0.25, -0.2 * 0.4, -2, 0)),
        ((2.0, 5.0, 2.5, 1.0), 0.97, 0.95, {"alpha": 10, "grad_weight": 1}, (-0.25, -0.4, -0.2, 0)),
        ((2.0, 5.0, 9.0, 99.0), 0.9, 0.9, {}, (-0.5, -0.1, 0, 0)),  # clipped to the extremes
        ((2.0, 5.0, -9.0, -9.0), 0.9, 0.9, {}, (-0.5, -0.1, 0, 0)),
        ((2.0, 5.0, 2.0, 5.0), 1.0, 0.95, {}, (0, 0, -5, -61)),  # dead: T - t + 1
        ((2.0, 5.0, 2.0, 5.0), 1.0, 0.95, {"t": 100}, (0, 0, -5, -1)),
        ((2.0, 5.0, 2.0, 5.0), 1.0, 0.95, {"t": 1, "steps": 7}, (0, 0, -5, -7)),
    ],
)
def test_each_term_of_the_reward_is_what_arithmetic_says(
    observed, reached, target, settings, expected
) -> None:
    terms = pay(Observation(*observed), reached, target, **settings)
    assert terms == pytest.approx(expected)
    assert (terms.loss, terms.grad_norm, terms.sparsity, terms.dead) == terms


def test_an_empty_range_scales_to_zero_and_not_to_nan() -> None:
    flat = Extremes(loss=(2.0, 2.0), grad_norm_sq=(0.0, 0.0))
    assert flat.scale(Observation(2.0, 0.0, 3.0, 1.0)) == (0, 0, 0, 0)


@pytest.mark.parametrize("p", [(1.0, 0.0, 0.0), (0.3, 0.6, 0.2)])
def test_a_step_pays_for_what_was_measured_in_it(make, mlp, batches, p) -> None:
    """Recomputed from the masks: L and ΔL at temperature 1, on the batch of the iteration."""
    env = make(alpha=7.0, grad_weight=0.5)
    env.reset(options={"sparsity": 0.9})

    def measured(mask: torch.Tensor | None, batch: tuple) -> tuple[float, float]:
        loss, gradients = metrics.loss_and_gradient(mlp, mask, batch, temperature=1.0)
        return loss.item(), metrics.grad_norm_sq(gradients, mask).item()

    def scaled(value: float, low: float, high: float) -> float:
        return min(1, max(0, (value - low) / (high - low)))

    for t in range(1, 7):
        _, value, _, _, info = env.step(2 * np.array(p) - 1)
        batch = batches[(t - 1) % 3]
        dense, sparse = measured(None, batch), measured(env.panning.mask, batch)
        names = ("loss", "grad_norm_sq", "loss_sparse", "grad_norm_sq_sparse")
        found = [info[name] for name in names]
        assert found == pytest.approx([*dense, *sparse], rel=1e-5)
        ranges = (env.extremes.loss, env.extremes.grad_norm_sq)
        loss, norm = (
            abs(scaled(d, *r) - scaled(s, *r))
            for d, s, r in zip(dense, sparse, ranges, strict=True)
        )
        gap = abs(info["effective_sparsity"] - (1 - 0.1 ** (t / 6)))
        assert value == pytest.approx(-loss - 0.5 * norm - 7 * gap, rel=1e-4)
        terms = ("loss", "grad_norm", "sparsity", "dead")
        assert value == sum(info[f"reward_{name}"] for name in terms)


# --- state and end of an episode -----------------------------------------------------------------


@pytest.mark.parametrize("policy", [constant_policy((1, 0, 0)), random_policy(0)])
@pytest.mark.parametrize("rho", [0.6, 0.95])
def test_a_state_is_what_the_design_lists(env, policy, rho: float) -> None:
    steps = play(env, policy, options={"sparsity": rho})
    targets = [1 - (1 - rho) ** (t / 6) for t in range(1, 7)]
    for t, (state, _, _, _, info) in enumerate(steps):
        assert env.observation_space.contains(state)
        seen = Observation(**{name: info[name] for name in Observation._fields})
        assert tuple(state[:4]) == env.extremes.scale(seen)
        # The next target, so that the first action too knows what is asked for.
        assert state[TARGET] == pytest.approx(targets[min(t, 5)])
        assert state[EFFECTIVE] == info["effective_sparsity"]
        assert state[TIME] == t / 6
        assert info["target_sparsity"] == pytest.approx(targets[max(0, t - 1)])
        assert info["final_target"] == rho
    first = steps[0][0]
    assert first[0] == first[2] and first[1] == first[3]  # nothing is removed yet
    assert first[EFFECTIVE] == 0
    assert 0 < steps[-1][0][EFFECTIVE] <= 1


def test_the_losses_of_a_state_spread_over_their_range(make) -> None:
    env = make(steps=12)
    states = [s for seed in range(6) for s, *_ in play(env, random_policy(seed), seed=seed)]
    low, high = np.min(states, axis=0)[:4], np.max(states, axis=0)[:4]
    assert (high[2:] - low[2:] > 0.3).all()
    assert (high > low).all()


def test_an_episode_ends_after_t_iterations_and_is_never_truncated(env) -> None:
    steps = play(env, constant_policy((1, 0, 0)), options={"sparsity": 0.8})
    assert [terminated for _, _, terminated, _, _ in steps] == [False] * 6 + [True]
    assert not any(truncated for *_, truncated, _ in steps)
    with pytest.raises(RuntimeError, match="all 6 iterations are over"):
        env.step(SYNFLOW)


def test_an_episode_ends_with_the_network(env) -> None:
    steps = play(env, constant_policy((0, 0, 0)), options={"sparsity": 0.95})
    # 354 weights, 288 of them in the first layer: dead when no more are kept than those.
    last = next(t for t in range(1, 7) if int(354 * 0.05 ** (t / 6) + 1e-6) <= 288 + 48)
    assert len(steps) - 1 == last < 6
    *_, (_, value, terminated, truncated, info) = steps
    assert terminated and not truncated
    assert info["effective_sparsity"] == 1
    assert info["reward_dead"] == -(6 - last + 1)
    assert value < info["reward_dead"]
    assert all(step[4]["reward_dead"] == 0 for step in steps[1:-1])


# --- actions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "p"),
    [((-1, 0, 1), (0, 0.5, 1)), ((0.5, -0.5, 0), (0.75, 0.25, 0.5)), ((-9, 9, 1), (0, 1, 1))],
)
def test_an_action_is_scaled_to_weights(env, action, p) -> None:
    env.reset(seed=0)
    env.step(np.array(action, dtype=np.float32))
    row = env.panning.history.iloc[-1]
    assert tuple(row[["p_synflow", "p_snip", "p_grasp"]]) == p


def test_an_action_matters(env) -> None:
    masks = []
    for action in itertools.product((-1, 1), repeat=3):
        env.reset(options={"sparsity": 0.9})
        env.step(np.array(action, dtype=np.float32))
        masks.append(tuple(env.panning.mask.tolist()))
    assert len(set(masks)) == 8


@pytest.mark.parametrize("action", [(0, 0), (0, 0, 0, 0), (0, math.nan, 0)])
def test_an_action_of_another_form_is_refused(env, action) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match="p must be three weights"):
        env.step(np.array(action))


# --- one process ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [staged_policy, lambda: constant_policy((1, 0, 0))])
@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_the_environment_reaches_the_masks_of_pan(env, mlp, batches, policy, rho) -> None:
    rows = rollout(env, policy(), rho)
    result = lib.pan(mlp, batches, rho, 6, policy=policy())
    assert torch.equal(env.panning.mask, flatten(result.masks))
    assert torch.equal(env.panning.effective_mask, flatten(result.effective))
    assert [row["effective_sparsity"] for row in rows] == list(result.history.effective_sparsity)


def test_a_rollout_is_a_row_for_each_iteration(env) -> None:
    rows = rollout(env, staged_policy(), 0.9)
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["target_sparsity"] == rows[-1]["final_target"] == 0.9
    for row in rows:
        assert sum(v for k, v in row.items() if k.startswith("reward_")) == row["reward"]
        assert tuple(row[f"p_{name}"] for name in metrics.METRICS) in {
            (0.2, 0.5, 0.3),
            (0.2, 0.4, 0.4),
        }
    assert rollout(env, staged_policy(), 0.9) == rows


def test_the_callers_network_is_not_touched(busy, batches, unchanged) -> None:
    with unchanged(busy):
        env = PanningEnv(busy, batches, steps=3)
        play(env, random_policy(0), seed=0)


def test_settings_of_the_process_go_through(make) -> None:
    targets = [info["target_sparsity"] for *_, info in play(
        make(schedule="linear"), constant_policy((1, 0, 0)), options={"sparsity": 0.6}
    )][1:]  # fmt: skip
    assert targets == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


# --- extremes ------------------------------------------------------------------------------------


def test_extremes_are_measured_once_and_the_same_each_time(make) -> None:
    first, second = make(), make()
    assert first.extremes == second.extremes
    before = first.extremes
    play(first, random_policy(1), seed=1)
    assert first.extremes == before


def test_the_rehearsal_is_as_long_as_asked(make) -> None:
    short, longer = make(calibration_steps=1).extremes, make(calibration_steps=6).extremes
    assert short != longer


def test_extremes_of_ones_own_are_used(make) -> None:
    env = make(extremes=EXTREMES)
    assert env.extremes == EXTREMES
    state, info = env.reset(seed=0)
    assert state[0] == pytest.approx(min(1, max(0, (info["loss"] - 1) / 2)))


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be a number in \[0, 1\) or a range .*, got 1.0"),
        ({"sparsity": -0.1}, "sparsity must be"),
        ({"sparsity": math.nan}, "sparsity must be"),
        ({"sparsity": (0.9, 0.8)}, r"sparsity must be .* got \(0.9, 0.8\)"),
        ({"sparsity": (0.5, 1.5)}, "sparsity must be"),
        ({"sparsity": (1.0, 1.0)}, "sparsity must be"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"schedule": "stepwise"}, "schedule must be one of exponential, .*, got 'stepwise'"),
        ({"batches": []}, "batches must hold at least one"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(mlp, batches, settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PanningEnv(**{"model": mlp, "batches": batches, "steps": 3} | settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.1}, "options: unknown key 'density'; known is 'sparsity'"),
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), .*; got 1.0"),
    ],
)
def test_a_wrong_option_is_refused(env, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
