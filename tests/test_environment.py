"""The environment is one that other people's agents can use, and it pays what the design says."""

import itertools
import math
import pickle
import random
import warnings
from collections.abc import Callable

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from stable_baselines3.common.env_checker import check_env as check_env_for_agents

import lib
from lib import environment, metrics
from lib.environment import ACTIONS, PanningEnv, Reward, reward, rollout
from lib.networks.inspection import flatten, prunable
from lib.networks.probes import jacobian_singular_values, trainability
from lib.panning import Panning, calibrate
from lib.policies import EFFECTIVE, TARGET, TIME, constant_policy, random_policy, staged_policy
from lib.scores import Extremes, Observation

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
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"action": "logarithmic"},
        {"objective": "trainability", "trial_steps": 2},
        {"action": "logarithmic", "objective": "trainability", "trial_steps": 2},
    ],
    ids=str,
)
def test_the_checkers_of_gymnasium_and_stable_baselines3_have_nothing_to_say(
    mlp, batches, check, sparsity, settings
) -> None:
    env = gymnasium.make(
        "lib/Panning-v0", model=mlp, batches=batches, steps=4, sparsity=sparsity, **settings
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
    single = 1 - 1 / flatten(prunable(mlp)).numel()
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
    assert terms == pytest.approx((*expected, 0))
    assert (terms.loss, terms.grad_norm, terms.sparsity, terms.dead, 0) == terms
    assert terms.trainability == 0  # which the paper's reward does not know


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
        terms = ("loss", "grad_norm", "sparsity", "dead", "trainability")
        assert value == sum(info[f"reward_{name}"] for name in terms)
        assert info["reward_trainability"] == 0


# --- the other objective -------------------------------------------------------------------------


@pytest.fixture
def trial(make) -> Callable[..., PanningEnv]:
    """An environment that rewards the loss after four steps of training."""
    return lambda **more: make(**{"objective": "trainability", "trial_steps": 4} | more)


@pytest.mark.parametrize("rho", [0.6, 0.9])
@pytest.mark.parametrize("policy", [constant_policy((1, 0, 0)), constant_policy((0.2, 0.5, 0.1))])
def test_with_the_other_objective_nothing_is_paid_before_the_end(trial, policy, rho: float) -> None:
    env = trial(alpha=7.0, grad_weight=0.5)
    steps = play(env, policy, options={"sparsity": rho})
    assert len(steps) == 7
    for _, value, _, _, info in steps[1:-1]:
        assert value == 0
        assert {info[f"reward_{term}"] for term in Reward._fields} == {0}
    *_, (_, value, terminated, truncated, info) = steps
    assert terminated and not truncated
    assert value == info["reward_trainability"] < 0
    assert {info[f"reward_{term}"] for term in Reward._fields[:-1]} == {0}


@pytest.mark.parametrize("trial_steps", [1, 4, 9])
def test_what_is_paid_is_the_loss_of_the_effective_network_after_the_trial(
    trial, mlp, batches, trial_steps: int
) -> None:
    env = trial(trial_steps=trial_steps)
    value = play(env, constant_policy((0, 0.5, 0.5)), options={"sparsity": 0.93})[-1][1]
    process = env.panning
    assert value == -trainability(mlp, process.effective, batches, trial_steps)
    # Kept weights behind a dead unit have no part in it, although its bias would train them.
    assert process.effective_mask.sum() < process.mask.sum()
    assert value != -trainability(mlp, process.masks, batches, trial_steps)
    assert value != -trainability(mlp, process.effective, batches, trial_steps + 1)


def test_a_trial_is_a_hundred_steps_where_nobody_says(make, mlp, batches) -> None:
    env = make(objective="trainability", steps=1)
    value = play(env, constant_policy((1, 0, 0)), options={"sparsity": 0.8})[-1][1]
    assert value == -trainability(mlp, env.panning.effective, batches, 100)


def test_a_network_is_tried_once_an_episode(trial, make, monkeypatch) -> None:
    tried = []
    monkeypatch.setattr(environment, "trainability", lambda *_: tried.append(1) or 1.5)
    assert play(trial(), staged_policy(), seed=0)[-1][1] == -1.5
    assert len(tried) == 1
    play(make(), staged_policy(), seed=0)
    assert len(tried) == 1  # and never for the paper's objective


def test_a_dead_network_is_paid_for_at_once_and_not_tried(trial) -> None:
    env = trial()
    env.reset(options={"sparsity": 0.9})
    answers = [env.apply(p) for p in ((1, 0, 0), (1, 0, 0), (0, 0, 0))]
    assert [(value, terminated) for _, value, terminated, _, _ in answers] == [
        *((0, False), (0, False)),
        (-(6 - 3 + 1) - math.log(3), True),
    ]
    info = answers[-1][-1]
    assert (info["reward_dead"], info["reward_trainability"]) == (-4 - math.log(3), 0)


def test_to_die_in_the_last_iteration_costs_more_than_any_network_that_lives(
    trial, monkeypatch
) -> None:
    env = trial(steps=1)
    dead = play(env, constant_policy((0, 0, 0)), options={"sparsity": 0.95})[-1]
    assert env.panning.dead and dead[2]
    assert dead[1] == dead[-1]["reward_dead"] == -1 - math.log(3)
    for loss in (3.0, math.inf, math.nan):  # what a trial that diverged may come to
        monkeypatch.setattr(environment, "trainability", lambda *_, loss=loss: loss)
        alive = play(env, constant_policy((1, 0, 0)), options={"sparsity": 0.5})[-1]
        assert not env.panning.dead
        assert alive[1] == -1 - math.log(3) >= dead[1]
    monkeypatch.setattr(environment, "trainability", lambda *_: math.log(3))
    assert play(env, constant_policy((1, 0, 0)), options={"sparsity": 0.5})[-1][1] > dead[1]


def test_the_objective_changes_nothing_but_the_reward(trial, make) -> None:
    one, other = (play(env, random_policy(0), seed=3) for env in (trial(), make()))
    for (state, value, *rest, info), (state_too, value_too, *rest_too, info_too) in zip(
        one[1:], other[1:], strict=True
    ):
        assert state.tolist() == state_too.tolist()
        assert rest == rest_too
        terms = {key for key in info if key.startswith("reward_")}
        assert {k: info[k] for k in info if k not in terms} == {
            k: info_too[k] for k in info_too if k not in terms
        }
        assert value != value_too


def test_an_episode_with_the_other_objective_is_the_same_again(trial) -> None:
    def rows(seed: int) -> list[dict]:
        torch.manual_seed(seed)
        return rollout(trial(), staged_policy(), 0.9)

    assert rows(0) == rows(1)


@pytest.mark.parametrize("rho", [0.6, 0.9])
def test_sensitivity_is_the_mean_singular_value_of_the_effective_network(make, mlp, batches, rho):
    env = make(objective="sensitivity")
    *_, (_, value, terminated, _, info) = play(env, staged_policy(), options={"sparsity": rho})
    kept, images = env.panning.effective, batches[0][0]
    mean = jacobian_singular_values(mlp, kept, images).mean().item()
    assert terminated and value == info["reward_trainability"] == pytest.approx(math.log10(mean))
    assert value > -6


def test_an_insensitive_network_is_worth_no_less_than_a_dead_one(make, monkeypatch) -> None:
    env = make(objective="sensitivity", steps=1)
    dead = play(env, constant_policy((0, 0, 0)), options={"sparsity": 0.95})[-1]
    assert env.panning.dead and dead[1] == -1 - 6
    for size in (0.0, 1e-30):
        flat = torch.full((2, 3), size, dtype=torch.float64)
        monkeypatch.setattr(environment, "jacobian_singular_values", lambda *_, flat=flat: flat)
        alive = play(env, constant_policy((1, 0, 0)), options={"sparsity": 0.5})[-1]
        assert not env.panning.dead and alive[1] == -7


def test_the_range_is_measured_in_the_process_with_return_for_its_part_of_the_time(mlp, batches):
    """Half of three roll-outs' steps, not half of T, which would be all of them."""
    returned = []

    class Watched(Panning):
        def step(self, p) -> None:
            before = self.mask
            super().step(p)
            returned.append((self.t, self.steps, bool((self.mask & ~before).any())))

    calibrate(Watched(mlp, batches, 0.9, 20, reactivate=0.5), (0.9,), steps=6)
    assert {steps for _, steps, _ in returned} == {6}
    assert any(back for t, _, back in returned if t <= 3)
    assert not any(back for t, _, back in returned if t > 3)


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


@pytest.mark.parametrize(
    ("action", "p"),
    [
        ((-1, 0, 1), (0.001, 10**-1.5, 1)),
        ((1 / 3, -1 / 3, 2 / 3), (0.1, 0.01, 10**-0.5)),
        ((-9, 9, 1), (0.001, 1, 1)),
    ],
)
def test_a_logarithmic_action_runs_through_three_decades_of_weights(make, action, p) -> None:
    env = make(action="logarithmic")
    env.reset(seed=0)
    env.step(np.array(action, dtype=np.float32))
    row = env.panning.history.iloc[-1]
    assert tuple(row[["p_synflow", "p_snip", "p_grasp"]]) == pytest.approx(p, rel=1e-6)


@given(st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=2, max_size=10, unique=True))
@pytest.mark.parametrize("name", ACTIONS)
def test_a_larger_action_is_a_larger_weight_and_never_out_of_range(name: str, actions) -> None:
    rising = ACTIONS[name](np.array(sorted(actions)))
    assert (np.diff(rising) >= 0).all()
    assert rising.min() >= 0 and rising.max() <= 1
    low, high = ACTIONS[name](np.array([-1.0, 1.0]))
    assert low < 0.01 and high == 1


@pytest.mark.parametrize("down", [0.1, 0.7])
def test_equal_steps_of_all_logarithmic_actions_change_no_mask(make, down: float) -> None:
    """They scale all three weights alike, and with them every score."""
    env, masks = make(action="logarithmic"), []
    for action in (np.array([1, 0.2, -0.1]), np.array([1, 0.2, -0.1]) - down, np.zeros(3)):
        env.reset(options={"sparsity": 0.9})
        for _ in range(6):
            env.step(action)
        masks.append(env.panning.mask)
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("p", [(0.0, 0.5, 1.0), (0.25, 0.75, 0.5)])
def test_to_apply_p_is_to_take_the_action_that_stands_for_it(env, p) -> None:
    answers = []
    for answer in (lambda: env.step(2 * np.array(p) - 1), lambda: env.apply(p)):
        env.reset(options={"sparsity": 0.9})
        answers.append([answer() for _ in range(6)])
        assert set(env.panning.history.p_synflow) == {p[0]}
    assert plain(answers[0]) == plain(answers[1])


@pytest.mark.parametrize("action", ACTIONS)
def test_applied_weights_are_taken_as_they_are_whatever_an_action_means(make, action: str) -> None:
    env = make(action=action)
    env.reset(options={"sparsity": 0.9})
    state, _, _, _, info = env.apply((0.3, 0.0, 0.8))
    assert env.observation_space.contains(state)
    row = env.panning.history.iloc[-1]
    assert tuple(row[["p_synflow", "p_snip", "p_grasp"]]) == (0.3, 0.0, 0.8)
    assert info["target_sparsity"] == row.target_sparsity


@pytest.mark.parametrize("p", [(0, 0, 1.5), (-0.1, 0, 0), (0, 0), (0, math.nan, 0)])
def test_weights_out_of_range_are_refused_and_not_clipped(env, p) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"p must be three weights in \[0, 1\]"):
        env.apply(p)
    assert env.panning.t == 0


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
@pytest.mark.parametrize("action", ACTIONS)
def test_the_environment_reaches_the_masks_of_pan(make, mlp, batches, policy, rho, action) -> None:
    env = make(action=action)
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


@pytest.mark.parametrize("objective", environment.OBJECTIVES)
def test_the_callers_network_is_not_touched(busy, batches, unchanged, objective: str) -> None:
    with unchanged(busy):
        env = PanningEnv(busy, batches, steps=3, objective=objective, trial_steps=2)
        first, again = (play(env, constant_policy((1, 0, 0)), seed=0) for _ in range(2))
    assert plain(first) == plain(again)  # nor is the environment's own


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
        ({"action": "cubic"}, "action must be one of linear, logarithmic, got 'cubic'"),
        (
            {"objective": "speed"},
            "objective must be one of paper, trainability, sensitivity, got 'speed'",
        ),
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


# --- soft targets, pickling ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["one-hot", "uniform", "smooth", "whole numbers"])
def test_a_dead_network_costs_no_less_than_a_living_one_whatever_the_targets(
    mlp, batches, kind: str
) -> None:
    one_hot = torch.nn.functional.one_hot(batches[0][1], 3).float()
    soft = {"one-hot": one_hot, "smooth": 0.9 * one_hot + 0.1 / 3, "whole numbers": one_hot.long()}
    targets = soft.get(kind, torch.full((6, 3), 1 / 3))
    soft_batches = [(inputs, targets) for inputs, _ in batches]
    settings = {"objective": "trainability", "trial_steps": 4, "calibration_steps": 3}
    env = PanningEnv(mlp, soft_batches, 4, (LOW, 0.997), **settings)
    worst = env._plateau + 1
    assert env._plateau == pytest.approx(math.log(3))
    rewards = {True: [], False: []}
    for sparsity in (0.6, 0.9, 0.99, 0.997):
        for policy in (constant_policy((1, 0, 0)), constant_policy((0, 1, 0))):
            value = play(env, policy, options={"sparsity": sparsity})[-1][1]
            rewards[env.panning.dead].append(value)
    assert rewards[True] and rewards[False]
    assert max(rewards[True]) <= -worst <= min(rewards[False])


@pytest.mark.parametrize(
    "settings", [{}, {"action": "logarithmic", "score": "signed"}, {"fusion": "product"}]
)
def test_an_environment_can_be_pickled_in_the_middle_of_an_episode(make, settings) -> None:
    env = make(**settings)
    env.reset(seed=1)
    action = np.array([0.3, -0.2, 0.5], np.float32)
    env.step(action)
    other = pickle.loads(pickle.dumps(env))
    bank = other.panning.bank
    assert all(bank.model.get_parameter(name) is w for name, w in bank.weights.items())
    for _ in range(2):
        first, second = env.step(action), other.step(action)
        assert plain([first]) == plain([second])
    assert env.reset()[1] == other.reset()[1]  # the same target is drawn


def test_a_result_can_be_pickled(mlp, batches) -> None:
    result = lib.pan(mlp, batches, 0.9, 5)
    other = pickle.loads(pickle.dumps(result))
    assert other.masks == result.masks and other.effective == result.effective
    assert other.history.equals(result.history)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": "0.9"}, "sparsity must be a number .* got 0.9"),
        ({"sparsity": (0.1, 0.2, 0.3)}, "sparsity must be a number .* got"),
        ({"alpha": math.nan}, "alpha must be a finite number, got nan"),
        ({"grad_weight": "1"}, "grad_weight must be a finite number, got '1'"),
        ({"trial_steps": -1}, "trial_steps must be at least 0, got -1"),
        ({"extremes": (1, 2)}, r"extremes must be an Extremes, .* got \(1, 2\)"),
    ],
)
def test_a_setting_of_another_kind_is_refused_by_name(make, settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_a_range_in_numpy_is_a_range(make) -> None:
    assert make(sparsity=np.array([0.5, 0.75])).sparsity_range == (0.5, 0.75)


# --- the authors' process -------------------------------------------------------------------------


@pytest.fixture
def theirs(reference) -> PanningEnv:
    return PanningEnv(reference.model, reference.batches, 10, 0.95, formulation="authors")


def test_the_authors_process_is_that_of_their_program(theirs, reference) -> None:
    """States, rewards, ends, ranges and masks of ten steps, as their program has them."""
    data = reference.data
    state, _ = theirs.reset()
    assert np.array_equal(state, np.zeros(7))  # an empty range: theirs divides 0 by 0 here
    kept = np.unpackbits(data["env:masks"], axis=1)[:, : reference.total].astype(bool)
    for i, action in enumerate(data["env:actions"]):
        state, value, terminated, truncated, _ = theirs.step(action)
        assert np.array_equal(theirs.panning.mask.numpy(), kept[i])
        assert state == pytest.approx(data["env:states"][i], abs=2e-5)
        assert value == pytest.approx(data["env:rewards"][i], abs=1e-4)
        assert terminated == data["env:dones"][i] and not truncated
        ranges = *theirs.extremes.loss, *theirs.extremes.grad_norm_sq
        assert ranges == pytest.approx(data["env:ranges"][i], rel=1e-5)


def test_the_authors_range_runs_on_and_the_papers_does_not(theirs, reference) -> None:
    ours = PanningEnv(reference.model, reference.batches, 10, 0.95)
    widths = {theirs: [], ours: []}
    for env, found in widths.items():
        for policy in (constant_policy((1, 0, 0)), constant_policy((0, 0, 1))):
            rollout(env, policy, 0.95)
            found.append(np.ptp(env.extremes.loss))
        state, _ = env.reset()
        assert (state[0] > 0) == (np.ptp(env.extremes.loss) > 0)
    assert widths[theirs][0] < widths[theirs][1] and widths[ours][0] == widths[ours][1]


def test_their_process_measures_the_dense_network_once_a_batch(mlp, batches, monkeypatch) -> None:
    dense, sparse, real = [], [], environment.loss_and_gradient

    def measured(model: object, mask: torch.Tensor | None, batch: tuple, *more, **weights) -> tuple:
        (dense if mask is None else sparse).append(id(batch))
        return real(model, mask, batch, *more, **weights)

    monkeypatch.setattr(environment, "loss_and_gradient", measured)
    env = PanningEnv(mlp, batches, 4, 0.9, formulation="authors")
    played = [play(env, constant_policy((0.4, 0.3, 0.3))) for _ in range(2)]
    assert dense == [id(batch) for batch in env.panning.bank.batches]
    assert len(sparse) == 1 + sum(map(len, played))  # the range begins with the dense network


def test_the_authors_targets_are_uniform_and_later_in_a_narrower_range(mlp, batches, monkeypatch):
    env = PanningEnv(mlp, batches, 2, (0.8, 1.0), formulation="authors")
    monkeypatch.setattr(environment, "NARROW", (4, 0.9))
    drawn = [env.reset(seed=0)[1]["final_target"]]
    drawn += [env.reset()[1]["final_target"] for _ in range(199)]
    top = 1 - 1 / env.panning.bank.total
    assert stats.kstest(drawn, stats.uniform(0.8, top - 0.8).cdf).pvalue > 0.01
    for _ in range(2):
        env.reset(options={"sparsity": 0.5})
        env.step(np.zeros(3))
        assert env.reset()[1]["final_target"] >= 0.8
        env.step(np.zeros(3))
    drawn = [env.reset()[1]["final_target"] for _ in range(200)]
    assert stats.kstest(drawn, stats.uniform(0.9, top - 0.9).cdf).pvalue > 0.01


def test_the_authors_process_passes_the_checkers(theirs) -> None:
    with warnings.catch_warnings(action="error"):
        check_env(theirs, skip_render_check=True)
        check_env_for_agents(theirs)


def test_an_unknown_formulation_is_named(mlp, batches) -> None:
    with pytest.raises(ValueError, match="formulation must be one of paper, authors, got 'poster'"):
        PanningEnv(mlp, batches, formulation="poster")
