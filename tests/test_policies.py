"""The target grows as it should, and each policy chooses the p that it promises."""

import itertools
import math
import pickle

import numpy as np
import pytest
import torch

from lib.policies import (
    TARGET,
    as_policy,
    check_p,
    constant_policy,
    random_policy,
    staged_policy,
    targets,
)

# --- schedules -----------------------------------------------------------------------------------

FORMULAS = {
    "exponential": lambda rho, time: 1 - (1 - rho) ** time,
    "linear": lambda rho, time: rho * time,
    "cosine": lambda rho, time: rho * math.sin(math.pi * time / 2) ** 2,
}


@pytest.mark.parametrize("schedule", FORMULAS)
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 0.999])
def test_the_target_grows_by_its_formula_to_the_sparsity_itself(schedule, steps, sparsity) -> None:
    reached = targets(sparsity, steps, schedule)
    expected = [FORMULAS[schedule](sparsity, t / steps) for t in range(1, steps + 1)]
    assert reached == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert reached == sorted(reached)
    assert reached[-1] == sparsity


# --- policies ------------------------------------------------------------------------------------


def state_at(target: float) -> np.ndarray:
    state = np.full(7, np.nan)
    state[TARGET] = target
    return state


@pytest.mark.parametrize(
    ("above", "edge", "p"),
    [
        (0.0, 0.8, (0.2, 0.5, 0.3)),
        (0.8, 0.9, (0.2, 0.4, 0.4)),
        (0.9, 0.98, (0.2, 0.3, 0.5)),
        (0.98, 0.99, (0.4, 0.2, 0.4)),
        (0.99, 1.0, (0.5, 0.0, 0.5)),
    ],
)
def test_the_hand_made_policy_is_the_papers_and_changes_just_above_an_edge(above, edge, p) -> None:
    for target in (above + 2e-6, (above + edge) / 2, edge, edge + 5e-7):
        assert staged_policy()(state_at(target)) == p


@pytest.mark.parametrize(
    "stages",
    [[], [(0.5, 0, 0, 1)], [(1.0, 0, 1)], [(0.9, 0, 0, 1), (0.8, 1, 0, 0), (1.0, 1, 1, 1)]],
)
def test_stages_that_leave_a_target_without_p_are_refused(stages) -> None:
    with pytest.raises(ValueError, match="stages must be rows .*edges rising to 1; got"):
        staged_policy(stages)


def test_any_callable_is_a_policy_and_says_what_it_needs() -> None:
    plain = as_policy(lambda state: (1, 0, 0))
    assert plain(state_at(0.5)) == (1, 0, 0)
    assert (plain.needs_loss, plain.sparsity) == (True, None)  # it may look at anything

    def trained(state: np.ndarray) -> tuple[float, ...]:
        return (0, 1, 0)

    trained.needs_loss, trained.sparsity = True, (0.5, 0.9)
    assert as_policy(trained).sparsity == (0.5, 0.9)
    assert not as_policy(staged_policy()).needs_loss
    with pytest.raises(ValueError, match="policy must be callable, .*got 'hand-made'"):
        as_policy("hand-made")


def test_the_random_policy_is_seeded_and_varied() -> None:
    one, again, other = (random_policy(seed) for seed in (1, 1, 2))
    drawn = [one(state_at(0.5)) for _ in range(20)]
    assert drawn == [again(state_at(0.5)) for _ in range(20)]
    assert drawn != [other(state_at(0.5)) for _ in range(20)]
    assert len(set(itertools.chain(*drawn))) == 60
    assert all(0 <= p <= 1 for p in itertools.chain(*drawn))


@pytest.mark.parametrize(
    "p", [(1.1, 0, 0), (0, -0.1, 0), (0, 0, float("nan")), (1, 1), (1, 1, 1, 1)]
)
def test_a_p_outside_its_range_is_refused(p) -> None:
    with pytest.raises(ValueError, match=r"p must be three weights in \[0, 1\].*got"):
        constant_policy(p)


# --- pickling ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy", [staged_policy(), constant_policy((0.1, 0.2, 0.3)), random_policy(3)]
)
def test_a_policy_can_be_pickled(policy) -> None:
    """And goes on where it was: a random one draws what it would have drawn."""
    states = np.linspace(0, 1, 35).reshape(5, 7)
    policy(states[0])
    other = pickle.loads(pickle.dumps(policy))
    assert [other(state) for state in states] == [policy(state) for state in states]


@pytest.mark.parametrize(
    "p",
    [None, 0.5, "111", {"snip": 1, "grasp": 0, "synflow": 0}, {0.1, 0.2, 0.3}, [None, 0, 1]]
    + [(1j, 0, 0), np.zeros((1, 3)), torch.zeros(3, 1, 2)],
)
def test_what_is_no_row_of_three_numbers_is_refused(p) -> None:
    with pytest.raises(ValueError, match=r"p must be three weights in \[0, 1\], for synflow"):
        check_p(p)
    with pytest.raises(ValueError, match="p must be three weights"):
        constant_policy(p)


@pytest.mark.parametrize("stages", ["abc", [("a", 1, 0, 0)], [(1, 1, 0)]])
def test_stages_of_another_form_are_refused(stages) -> None:
    with pytest.raises(ValueError, match=r"stages must be rows \(edge, p1, p2, p3\)"):
        staged_policy(stages)
    with pytest.raises(ValueError, match="p must be three weights"):
        staged_policy([(1, 5, 0, 0)])
