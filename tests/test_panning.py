"""The loop does what the paper's formulas say, whoever chooses p."""

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lib import metrics
from lib.masks import kept_count, top_k
from lib.networks.inspection import flatten, prunable, unflatten
from lib.networks.paths import effective_mask
from lib.panning import Panning, calibrate
from lib.policies import (
    EFFECTIVE,
    GRAD,
    GRAD_SPARSE,
    LOSS,
    LOSS_SPARSE,
    SCHEDULES,
    STAGES,
    TARGET,
    TIME,
    constant_policy,
    random_policy,
    staged_policy,
    targets,
)
from lib.scores import SCORES, Extremes, Observation, fuse, normalise

P = (0.2, 0.5, 0.3)
WIDE = Extremes(loss=(0.0, 4.0), grad_norm_sq=(0.0, 50.0))


def masks_of(process: Panning, policy: Callable | None = None) -> list[Tensor]:
    """The mask before the first iteration that is left, and after each; p is P by default."""
    policy, out = policy or constant_policy(P), [process.mask]
    while not process.done:
        process.step(policy(process.state(None)))
        out.append(process.mask)
    return out


def same(ones: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ones, others, strict=True))


# --- the loop ------------------------------------------------------------------------------------


def naive(
    model: nn.Module,
    batches: list,
    sparsity: float,
    steps: int,
    policy: Callable,
    *,
    gradients: str = "dense",
    reactivate: bool = True,
    score: str = "normalised",
    fusion: str = "sum",
    invert: bool = False,
) -> list[Tensor]:
    """Equation by equation, with nothing kept from one iteration to the next."""
    mask = torch.ones(flatten(prunable(model)).numel(), dtype=torch.bool)
    history = [mask]
    for t in range(1, steps + 1):
        batch, target = batches[(t - 1) % len(batches)], 1 - (1 - sparsity) ** (t / steps)
        where = mask if gradients == "masked" else None
        scores = {
            "synflow": metrics.synflow(model, mask, batch),
            "snip": metrics.snip(model, where, batch),
            "grasp": metrics.grasp(model, where, batch),
        }
        p = dict(zip(scores, policy(np.full(7, target)), strict=True))
        fused = fuse({name: SCORES[score](s) for name, s in scores.items()}, p, fusion)
        if invert:
            fused = -fused
        if not reactivate:
            fused[~mask] = -math.inf
        k = max(1, math.floor(len(mask) * (1 - target) + 1e-6))
        mask = torch.zeros_like(mask)
        mask[fused.argsort(descending=True, stable=True)[:k]] = True
        history.append(mask)
    return history


@pytest.mark.parametrize("policy", [staged_policy(), constant_policy((0, 1, 0))])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradients": "masked"},
        {"reactivate": False},
        {"fusion": "product"},
        {"gradients": "masked", "reactivate": False},
        *({"score": name} for name in SCORES if name != "normalised"),
        {"invert": True},
        {"invert": True, "reactivate": False},
    ],
    ids=str,
)
def test_the_loop_is_its_equations(network, batches, settings, policy) -> None:
    """With seven iterations on three batches, each batch is used again."""
    process = Panning(network, batches, 0.95, steps=7, **settings)
    assert same(masks_of(process, policy), naive(network, batches, 0.95, 7, policy, **settings))


def test_the_batches_are_used_in_turn(mlp, batches) -> None:
    """p = (0, 1, 0) on the dense network: a mask is the largest SNIP scores of one batch."""
    found = masks_of(Panning(mlp, batches, 0.9, steps=5), constant_policy((0, 1, 0)))[1:]
    for t, mask in enumerate(found):
        scores = [normalise(metrics.snip(mlp, None, batch)) for batch in batches]
        best = [set(s.topk(int(mask.sum())).indices.tolist()) for s in scores]
        kept = set(mask.nonzero().flatten().tolist())
        assert [kept == one for one in best] == [i == t % 3 for i in range(3)]


@pytest.mark.parametrize("gradients", ["dense", "masked"])
@pytest.mark.parametrize("reactivate", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_exactly_the_right_number_is_kept_after_every_iteration(
    network, batches, gradients: str, reactivate: bool, schedule: str
) -> None:
    settings = {"gradients": gradients, "reactivate": reactivate, "schedule": schedule}
    process = Panning(network, batches, 0.97, steps=6, **settings)
    kept = [int(mask.sum()) for mask in masks_of(process)[1:]]
    total = flatten(prunable(network)).numel()
    assert kept == [kept_count(total, target) for target in targets(0.97, 6, schedule)]


def test_exactly_the_right_number_is_kept_where_all_scores_tie(mlp, batches) -> None:
    for parameter in mlp.parameters():
        nn.init.zeros_(parameter)
    found = masks_of(Panning(mlp, batches, 0.9, steps=4))
    for mask, target in zip(found[1:], targets(0.9, 4), strict=True):
        assert torch.equal(mask, torch.arange(354) < kept_count(354, target))


def test_p_of_zero_leaves_all_to_the_tie_rule(network, batches) -> None:
    process = Panning(network, batches, 0.8, steps=2)
    process.step(P)
    process.step((0, 0, 0))
    assert torch.equal(process.mask, torch.arange(len(process.mask)) < process.mask.sum())


@pytest.mark.parametrize("p", [(1.1, 0, 0), (0, -0.1, 0), (1, 1)])
def test_a_p_outside_its_range_leaves_the_process_where_it_was(mlp, batches, p) -> None:
    process = Panning(mlp, batches, 0.9, steps=3)
    with pytest.raises(ValueError, match=r"p must be three weights in \[0, 1\].*got"):
        process.step(p)
    assert process.t == 0


def test_removed_weights_return_in_panning(network, batches) -> None:
    found = masks_of(Panning(network, batches, 0.95, steps=8))
    assert any((after & ~before).any() for before, after in itertools.pairwise(found))


@pytest.mark.parametrize("score", ["normalised", "signed"])
def test_removed_weights_never_return_without_reactivation(network, batches, score) -> None:
    """Not even in place of weights with a score below 0."""
    process = Panning(network, batches, 0.5, steps=8, reactivate=False, score=score)
    found = masks_of(process, constant_policy((0, 0, 1)))
    assert not any((after & ~before).any() for before, after in itertools.pairwise(found))


@pytest.mark.parametrize("control", [None, "magnitude", "random"])
def test_inverted_the_smallest_scores_are_kept(network, batches, control) -> None:
    process = Panning(network, batches, 0.7, steps=3, control=control, invert=True)
    while not process.done:
        scores = process.scores(P)
        process.step(P)
        kept, removed = scores[process.mask], scores[~process.mask]
        assert kept.max() <= removed.min()
        assert len(kept) == kept_count(len(scores), process.targets[process.t - 1])


def test_half_of_the_weights_are_the_best_and_the_other_half_the_worst(mlp, batches) -> None:
    best, worst = (
        Panning(mlp, batches, 0.5, steps=1, control="magnitude", invert=invert)
        for invert in (False, True)
    )
    best.step(P), worst.step(P)
    assert torch.equal(worst.mask, ~best.mask)  # of 354


@pytest.mark.parametrize("score", ["normalised", "signed"])
def test_inverted_or_not_removed_weights_never_return_without_reactivation(
    network, batches, score: str
) -> None:
    settings = {"reactivate": False, "invert": True, "score": score}
    process = Panning(network, batches, 0.5, steps=8, **settings)
    found = masks_of(process, constant_policy((0, 0, 1)))
    assert not any((after & ~before).any() for before, after in itertools.pairwise(found))


def test_inverted_ties_go_to_the_lower_index_too(mlp, batches) -> None:
    process = Panning(mlp, batches, 0.9, steps=1, invert=True)
    process.step((0, 0, 0))
    assert torch.equal(process.mask, torch.arange(354) < 35)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradients": "masked"},
        {"fusion": "product"},
        {"score": "signed"},
        {"control": "magnitude"},
        {"control": "random"},
        {"control": "erk"},
    ],
    ids=str,
)
def test_the_scores_to_be_seen_are_those_that_the_next_step_goes_by(
    network, batches, settings
) -> None:
    """With five iterations on three batches: those of the coming batch."""
    process, seen = Panning(network, batches, 0.9, steps=5, **settings), []
    unseen = masks_of(Panning(network, batches, 0.9, steps=5, **settings))
    for t, target in enumerate(targets(0.9, 5)):
        scores, before = process.scores(P), process.mask
        seen.append(scores.clone())
        assert scores.shape == before.shape
        assert torch.equal(process.scores(P), scores)
        expected = top_k(scores, kept_count(len(scores), target))
        scores.zero_()  # they are the caller's own
        assert process.t == t and torch.equal(process.mask, before)
        process.step(P)
        assert torch.equal(process.mask, expected)
        assert torch.equal(process.mask, unseen[t + 1])
    steady = settings.get("control") in ("magnitude", "random")
    assert all(torch.equal(a, b) == steady for a, b in itertools.pairwise(seen))


def test_the_scores_are_asked_for_with_the_weights_of_ones_choice(mlp, batches) -> None:
    process = Panning(mlp, batches, 0.9, steps=3)
    process.step(P)
    z = {name: process.scores(p) for name, p in zip(metrics.METRICS, np.eye(3), strict=True)}
    torch.testing.assert_close(z["synflow"], normalise(metrics.synflow(mlp, process.mask,
                                                                       batches[1])))  # fmt: skip
    torch.testing.assert_close(z["snip"], normalise(metrics.snip(mlp, None, batches[1])))
    torch.testing.assert_close(z["grasp"], normalise(metrics.grasp(mlp, None, batches[1])))
    expected = 0.2 * z["synflow"] + 0.5 * z["snip"] + 0.3 * z["grasp"]
    torch.testing.assert_close(process.scores(P), expected)
    assert torch.equal(process.scores((0, 0, 0)), torch.zeros(354))


def test_a_dead_network_goes_on_and_comes_back_to_life(mlp, batches) -> None:
    process = Panning(mlp, batches, 0.9, steps=4)
    process.step((0, 0, 0))
    process.step((0, 0, 0))  # keeps nothing but the first layer
    assert process.dead and not process.done
    assert process.effective_sparsity == 1
    assert not any(mask.any() for mask in process.effective.values())
    process.step((0, 1, 0))
    assert not process.dead
    assert process.effective_sparsity < 1
    assert process.history["reactivated"].iloc[-1] > 0


@pytest.mark.parametrize("returning", [True, False])
@pytest.mark.parametrize("p", [(1, 0, 0), (0, 1, 0), (0.2, 0.5, 0.3)])
def test_filled_the_last_mask_has_the_best_weights_of_which_enough_are_effective(
    network, batches, p, returning: bool
) -> None:
    short = 0
    for rho in (0.5, 0.8, 0.9, 0.95):
        plain, filled = (
            Panning(network, batches, rho, 3, reactivate=returning, fill=fill)
            for fill in (False, True)
        )
        for _ in range(2):
            plain.step(p), filled.step(p)
        assert torch.equal(plain.mask, filled.mask)  # the last iteration alone fills
        before, scores = filled.mask, filled.scores(p)
        plain.step(p), filled.step(p)
        k = kept_count(len(scores), rho)
        assert filled.mask.sum() == plain.mask.sum() == k
        assert returning or not (filled.mask & ~before).any()
        if not returning:
            scores = scores.masked_fill(~before, -math.inf)
        # By counting up, one weight at a time.
        allowed = len(scores) if returning else int(before.sum())
        counts = range(k, allowed + 1)
        best = (filled.dependence.effective(top_k(scores, count)) for count in counts)
        found = next((mask for mask in best if mask.sum() >= k), None)
        if found is None:
            assert torch.equal(filled.mask, plain.mask)
            continue
        assert torch.equal(filled.mask, top_k(scores.masked_fill(~found, -math.inf), k))
        assert filled.effective_mask.sum() >= plain.effective_mask.sum()
        short += int(plain.effective_mask.sum() < k)
    assert short  # otherwise nothing was filled


def test_the_staged_policy_goes_by_the_target_of_the_coming_iteration(mlp, batches) -> None:
    process = Panning(mlp, batches, 0.999, steps=12)
    masks_of(process, staged_policy())
    columns = ["p_synflow", "p_snip", "p_grasp"]
    for _, row in process.history.iterrows():
        expected = next(p for edge, *p in STAGES if row["target_sparsity"] <= edge + 1e-6)
        assert row[columns].tolist() == expected
    assert len(process.history[columns].drop_duplicates()) == len(STAGES)


def test_history_tells_what_happened(network, batches) -> None:
    process = Panning(network, batches, 0.95, steps=8)
    found = masks_of(process, staged_policy())
    history, total = process.history, len(process.mask)
    assert history["iteration"].tolist() == list(range(1, 9))
    assert history["target_sparsity"].tolist() == targets(0.95, 8)
    for row, (before, after) in zip(history.itertuples(), itertools.pairwise(found), strict=True):
        alive = effective_mask(network, after, batches[0][0])
        assert row.sparsity == pytest.approx(1 - after.sum().item() / total)
        assert row.effective_sparsity == pytest.approx(1 - alive.sum().item() / total)
        assert row.removed == (before & ~after).sum()
        assert row.reactivated == (after & ~before).sum()
    assert history["reactivated"].any()
    assert history["effective_sparsity"].iloc[-1] > history["sparsity"].iloc[-1]


def test_the_result_is_the_last_state_of_the_process(network, batches) -> None:
    process = Panning(network, batches, 0.95, steps=5)
    process.step(P)  # a process may be run on from where it stands
    result = process.run(constant_policy(P))
    assert process.done
    assert torch.equal(flatten(result.masks), process.mask)
    assert torch.equal(flatten(result.effective), process.effective_mask)
    assert {n: m.shape for n, m in result.masks.items()} == {
        n: w.shape for n, w in prunable(network).items()
    }
    assert result.sparsity == result.history["sparsity"].iloc[-1]
    assert result.effective_sparsity == result.history["effective_sparsity"].iloc[-1]
    assert len(result.history) == 5


def test_the_masks_handed_out_are_copies(mlp, batches) -> None:
    process = Panning(mlp, batches, 0.5, steps=2)
    process.step(P)
    kept, alive = process.mask.clone(), process.effective_mask.clone()
    for mask in (*process.masks.values(), *process.effective.values()):
        mask.logical_not_()
    assert torch.equal(process.mask, kept)
    assert torch.equal(process.effective_mask, alive)


def test_the_process_keeps_a_network_of_its_own(network, batches) -> None:
    expected = masks_of(Panning(network, batches, 0.9, steps=3))
    process = Panning(network, batches, 0.9, steps=3)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    assert same(masks_of(process), expected)


def test_a_finished_process_takes_no_step(mlp, batches) -> None:
    process = Panning(mlp, batches, 0.5, steps=2)
    found = masks_of(process)
    with pytest.raises(RuntimeError, match=r"all 2 iterations are over: call reset\(\)"):
        process.step(P)
    assert torch.equal(process.mask, found[-1])
    assert len(process.history) == 2


def test_reset_starts_again_from_the_dense_network(network, batches) -> None:
    process = Panning(network, batches, 0.9, steps=4)
    first = masks_of(process)
    process.reset()
    assert process.t == 0 and process.mask.all() and process.history.empty
    assert not process.done and not process.dead
    assert same(masks_of(process), first)
    process.reset(0.5)
    assert process.sparsity == 0.5
    assert same(masks_of(process), masks_of(Panning(network, batches, 0.5, steps=4)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\).*got 1.0"),
        ({"sparsity": -0.5}, r"sparsity must be in \[0, 1\).*got -0.5"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"schedule": "steep"}, "schedule must be one of .*got 'steep'"),
        ({"gradients": "sparse"}, "gradients must be one of .*got 'sparse'"),
        ({"score": "squared"}, "score must be one of .*got 'squared'"),
        ({"fusion": "mean"}, "fusion must be one of .*got 'mean'"),
        ({"control": "oracle"}, "control must be one of .*got 'oracle'"),
        ({"temperature": 0}, "temperature must be positive, got 0"),
        ({"batches": []}, r"batches must hold at least one .*got pairs of \[\] samples"),
    ],
    ids=str,
)
def test_a_setting_outside_its_range_is_named(mlp, batches, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        Panning(**{"model": mlp, "batches": batches, "sparsity": 0.9, "steps": 3} | settings)


# --- state ---------------------------------------------------------------------------------------


def measured(model: nn.Module, mask: Tensor, batch: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """L and ΔL at temperature 1 by autograd's usual way, on a network with zeroed weights."""
    model = copy.deepcopy(model).train()
    weights = prunable(model)
    for name, part in unflatten(mask, weights).items():
        weights[name].data *= part
    loss = functional.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    gradients = flatten([weight.grad for weight in weights.values()])
    return loss.item(), gradients[mask].square().sum().item()


@pytest.mark.parametrize("steps", [1, 5])
def test_the_state_is_seven_numbers_known_from_arithmetic(network, batches, steps: int) -> None:
    process, total = Panning(network, batches, 0.9, steps=steps), 0
    everything = torch.ones_like(process.mask)
    for t in range(steps + 1):
        batch = batches[max(0, t - 1) % 3]  # the one that the last iteration scored with
        loss, norm = measured(network, everything, batch)
        loss_sparse, norm_sparse = measured(network, process.mask, batch)
        expected = np.empty(7)
        expected[[LOSS, LOSS_SPARSE]] = np.array([loss, loss_sparse]) / 4
        expected[[GRAD, GRAD_SPARSE]] = np.array([norm, norm_sparse]) / 50
        expected[TARGET] = 1 - 0.1 ** (min(t + 1, steps) / steps)
        expected[EFFECTIVE] = 1 - process.effective_mask.sum().item() / len(everything)
        expected[TIME] = t / steps

        state = process.state(WIDE)
        assert state.dtype == np.float64
        assert state == pytest.approx(expected, rel=1e-4, abs=1e-9)
        assert ((0 <= state) & (state <= 1)).all()
        total += loss != loss_sparse
        if not process.done:
            process.step(P)
    assert total == steps  # the sparse network's loss is another one, but for t = 0


def test_the_losses_of_the_state_are_not_measured_without_extremes(
    mlp, batches, monkeypatch
) -> None:
    process = Panning(mlp, batches, 0.9, steps=3)
    monkeypatch.setattr(metrics, "loss_and_gradient", None)
    assert np.isnan(process.state(None)).tolist() == [True] * 4 + [False] * 3


# --- calibration ---------------------------------------------------------------------------------


def test_the_extremes_are_those_of_the_dense_values_and_the_roll_outs(network, batches) -> None:
    seen = [Observation(*Panning(network, [batch], 0.9).observe()) for batch in batches]
    for rho in (0.5, 0.9):
        for policy in (constant_policy((1, 0, 0)), staged_policy(), random_policy(3)):
            process = Panning(network, batches, rho, steps=4)
            while not process.done:
                process.step(policy(process.state(None)))
                seen.append(process.observe())
    losses = [value for o in seen for value in (o.loss, o.loss_sparse)]
    norms = [value for o in seen for value in (o.grad_norm_sq, o.grad_norm_sq_sparse)]
    expected = Extremes((min(losses), max(losses)), (min(norms), max(norms)))
    process = Panning(network, batches, 0.7, steps=30)
    assert calibrate(process, (0.5, 0.9), steps=4, seed=3) == expected


def test_calibration_does_not_advance_the_process(network, batches) -> None:
    expected = masks_of(Panning(network, batches, 0.9, steps=4))
    process = Panning(network, batches, 0.9, steps=4)
    process.step(P)
    before, mask = process.history, process.mask.clone()
    first, second = (calibrate(process, (0.5, 0.99), steps=3) for _ in range(2))
    assert first == second
    assert (process.t, process.steps, process.sparsity) == (1, 4, 0.9)
    assert torch.equal(process.mask, mask)
    pd.testing.assert_frame_equal(process.history, before)
    assert same([expected[0], *masks_of(process)], expected)


# --- nothing is disturbed ------------------------------------------------------------------------


@pytest.mark.parametrize("gradients", ["dense", "masked"])
def test_a_callers_model_is_left_as_it_was(busy, batches, unchanged, gradients: str) -> None:
    with unchanged(busy), torch.no_grad():
        process = Panning(busy, batches, 0.9, steps=3, gradients=gradients)
        calibrate(process, (0.9,), steps=2)
        process.step(P)
        process.state(WIDE)
        process.run(staged_policy(), WIDE)
        process.reset(0.5)


def test_a_callers_model_is_left_as_it_was_by_a_call_that_fails(busy, batches, unchanged) -> None:
    broken = [(images * float("nan"), targets) for images, targets in batches]
    with unchanged(busy):
        process = Panning(busy, broken, 0.9, steps=3)
        for call in (lambda: process.step(P), process.observe, lambda: calibrate(process, (0.9,))):
            with pytest.raises(ValueError, match="batch: the scoring loss is nan"):
                call()
        assert process.t == 0 and process.mask.all()


@pytest.mark.parametrize(("part", "last"), [(0.5, 4), (0.9, 7), (0.3, 2), (1, 8), (0, 0)])
def test_removed_weights_may_return_for_a_part_of_the_iterations(
    network, batches, part: float, last: int
) -> None:
    process = Panning(network, batches, 0.9, steps=8, reactivate=part)
    always = Panning(network, batches, 0.9, steps=8)
    for t in range(1, 9):
        before = process.mask
        process.step((0, 1, 0.5)), always.step((0, 1, 0.5))
        if t <= last:
            assert torch.equal(process.mask, always.mask)
        else:
            assert not (process.mask & ~before).any()
    assert sum(row["reactivated"] for row in always.log.rows) > 0


@pytest.mark.parametrize("part", [-0.1, 1.5, math.nan, "half", None])
def test_another_part_is_refused(mlp, batches, part) -> None:
    with pytest.raises(ValueError, match=r"reactivate must be True, False, or a part .* got"):
        Panning(mlp, batches, 0.5, 3, reactivate=part)
