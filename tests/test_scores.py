"""Each way to prepare a score is its formula, a fusion changes nothing that it fuses, and the bank
computes what is known of one network once."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lib import metrics, scores
from lib.networks import inspection, paths
from lib.networks.architectures import build_model
from lib.networks.probes import trainability
from lib.panning import Panning
from lib.policies import staged_policy
from lib.scores import (
    SCORES,
    Extremes,
    Observation,
    ScoreBank,
    fuse,
    min_max,
    normalise,
    ranks,
    standardise,
)


def drawn(total: int = 50, seed: int = 0) -> Tensor:
    """Scores of either sign that span several orders of magnitude, in float64."""
    generator = torch.Generator().manual_seed(seed)
    sign, size = torch.randn(2, total, dtype=torch.float64, generator=generator)
    return sign * 10**size


# --- distances from the mean ---------------------------------------------------------------------


def test_normalised_scores_are_distances_from_the_mean_in_standard_deviations() -> None:
    scores = torch.tensor([-1.0, 0.0, 4.0, 5.0])  # mean 2, sample variance (9 + 4 + 4 + 9) / 3
    expected = torch.tensor([3.0, 2.0, 2.0, 3.0]) / (26 / 3) ** 0.5
    torch.testing.assert_close(normalise(scores), expected)


def test_standardised_scores_know_the_side_of_the_mean() -> None:
    scores = torch.tensor([-1.0, 0.0, 4.0, 5.0])
    expected = torch.tensor([-3.0, -2.0, 2.0, 3.0]) / (26 / 3) ** 0.5
    torch.testing.assert_close(standardise(scores), expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_standardised_scores_have_mean_zero_and_deviation_one(dtype, seed: int) -> None:
    scores = drawn(seed=seed).to(dtype)
    z = standardise(scores)
    assert z.dtype == torch.float32
    assert z.double().mean().item() == pytest.approx(0, abs=1e-6)
    assert z.double().std().item() == pytest.approx(1, abs=1e-6)
    assert torch.equal(z.sign(), (scores - scores.double().mean()).sign().float())
    assert torch.equal(z.abs(), normalise(scores))


@pytest.mark.parametrize(("scale", "shift"), [(1e-9, 0.0), (-1.0, 0.0), (0.5, 7.0), (1.0, 1e6)])
def test_normalisation_forgets_scale_shift_and_sign(scale: float, shift: float) -> None:
    scores = torch.randn(50, dtype=torch.float64)
    moved = normalise(scale * scores + shift)
    torch.testing.assert_close(moved, normalise(scores), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("piece", [1, 7, 49])
def test_the_pieces_that_a_pass_goes_by_do_not_show(monkeypatch, piece: int) -> None:
    whole = standardise(drawn())
    monkeypatch.setattr(scores, "_CHUNK", piece)
    torch.testing.assert_close(standardise(drawn()), whole, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -2.0, 1e30])
@pytest.mark.parametrize("total", [1, 3, 1000, 7998])
@pytest.mark.parametrize("prepare", [normalise, standardise, ranks, min_max])
def test_scores_that_say_nothing_become_zero(prepare, value: float, total: int, dtype) -> None:
    """Also where rounding moves the mean a little off the one value there is."""
    scores = torch.full((total,), value, dtype=dtype)
    assert torch.equal(prepare(scores), torch.zeros(total))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("total", [1, 3])
@pytest.mark.parametrize("prepare", [normalise, standardise, ranks, min_max])
def test_scores_without_a_rank_are_refused(prepare, value: float, total: int) -> None:
    scores = torch.zeros(total)
    scores[-1] = value
    with pytest.raises(ValueError, match="scores hold NaN or infinity"):
        prepare(scores)


# --- ranks ---------------------------------------------------------------------------------------

FEW = st.lists(st.integers(-4, 4), min_size=2, max_size=30)  # nearly all of them are ties
MANY = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False, width=32), min_size=2, max_size=30)


@settings(deadline=None)
@given(st.one_of(FEW, MANY), st.sampled_from([torch.float32, torch.float64]))
def test_a_rank_is_the_part_of_the_others_that_are_smaller(values: list[float], dtype) -> None:
    scores = torch.tensor(values, dtype=dtype)
    size, found = scores.abs(), ranks(scores)
    smaller = size[None, :] < size[:, None]
    torch.testing.assert_close(found, smaller.sum(1) / (len(values) - 1))
    assert torch.equal(found[None, :] < found[:, None], smaller)  # in order, and ties are equal
    assert found.min() == 0 and found.max() <= 1
    assert found.dtype == torch.float32


@settings(deadline=None)
@given(FEW, st.randoms(use_true_random=False))
def test_ranks_move_with_their_scores(values: list[int], random) -> None:
    scores, order = torch.tensor(values, dtype=torch.float32), list(range(len(values)))
    random.shuffle(order)
    assert torch.equal(ranks(scores[order]), ranks(scores)[order])


def test_ranks_without_ties_are_evenly_spaced_from_zero_to_one() -> None:
    found = ranks(drawn(41))
    torch.testing.assert_close(found.sort().values, torch.arange(41) / 40)


@pytest.mark.parametrize("change", [torch.neg, lambda s: s**3, lambda s: 1e-9 * s])
def test_ranks_forget_all_but_the_order_of_sizes(change) -> None:
    assert torch.equal(ranks(change(drawn())), ranks(drawn()))


# --- smallest and largest ------------------------------------------------------------------------


def test_min_max_is_linear_in_the_size_between_the_smallest_and_the_largest() -> None:
    scores = torch.tensor([-3.0, 1.0, 2.0, -0.5])  # sizes from 0.5 to 3
    expected = torch.tensor([2.5, 0.5, 1.5, 0.0]) / 2.5
    torch.testing.assert_close(min_max(scores), expected)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 300.0])
@pytest.mark.parametrize("shift", [0.0, 0.25, 10.0])
def test_min_max_forgets_scale_and_shift_of_the_sizes(scale: float, shift: float) -> None:
    size = drawn().abs()
    found = min_max(scale * (size + shift))
    torch.testing.assert_close(found, min_max(size), rtol=1e-5, atol=1e-6)
    assert (found.min(), found.max()) == (0, 1)
    assert torch.equal(min_max(-drawn()), min_max(drawn()))


def test_min_max_sees_no_difference_between_signs() -> None:
    assert torch.equal(min_max(torch.tensor([2.0, -2.0, 2.0])), torch.zeros(3))


# --- fusion --------------------------------------------------------------------------------------


def test_the_scores_of_the_baselines_are_the_size_and_the_score_itself() -> None:
    assert torch.equal(SCORES["absolute"](drawn()), drawn().abs())
    assert torch.equal(SCORES["signed"](drawn()), drawn())


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("form", ["sum", "product"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_neither_preparing_nor_fusing_changes_a_score(name: str, form: str, count: int) -> None:
    """They are kept in the bank, and used again."""
    raw = {str(i): drawn(seed=i) for i in range(count)}
    prepared = {key: SCORES[name](scores) for key, scores in raw.items()}
    copies = {key: scores.clone() for key, scores in prepared.items()}
    fused = fuse(prepared, dict.fromkeys(raw, 1.0), form)
    fused.zero_()
    for i, key in enumerate(raw):
        assert torch.equal(raw[key], drawn(seed=i))
        assert torch.equal(prepared[key], copies[key])


@pytest.mark.parametrize(
    ("form", "expected"), [("sum", [0.5 * 4 + 0.25 * 1, 0.5 * 9]), ("product", [2.0 * 1, 3.0 * 0])]
)
def test_fusion_is_a_weighted_sum_or_product(form: str, expected: list[float]) -> None:
    scores = {"synflow": torch.tensor([4.0, 9.0]), "snip": torch.tensor([1.0, 0.0])}
    fused = fuse(scores, {"synflow": 0.5, "snip": 0.25}, form)
    torch.testing.assert_close(fused, torch.tensor(expected))


@pytest.mark.parametrize("form", ["sum", "product"])
def test_the_order_of_the_metrics_does_not_matter(form: str) -> None:
    scores = {str(i): drawn(seed=i).abs() for i in range(3)}
    p = {"0": 0.2, "1": 0.5, "2": 0.3}
    backwards = dict(reversed(scores.items()))
    torch.testing.assert_close(fuse(backwards, p, form), fuse(scores, p, form))


def test_an_unknown_fusion_is_refused() -> None:
    with pytest.raises(ValueError, match="form must be 'sum' or 'product', got 'mean'"):
        fuse({}, {}, "mean")


# --- the bank ------------------------------------------------------------------------------------


def test_the_dense_scores_are_computed_once_for_each_batch(mlp, batches, monkeypatch) -> None:
    calls, compute = [], metrics.snip_and_grasp
    monkeypatch.setattr(
        metrics, "snip_and_grasp", lambda *a, **more: calls.append(a) or compute(*a, **more)
    )
    process = Panning(mlp, batches, 0.9, steps=7)
    for sparsity in (0.9, 0.5):
        process.reset(sparsity)
        process.run(staged_policy())
    assert len(calls) == len(batches)


def test_the_weights_are_found_once(mlp, batches, monkeypatch) -> None:
    calls = []

    def watched(*arguments: object) -> dict:
        calls.append(arguments)
        return inspection.prunable(*arguments)

    for module in (metrics, scores, paths):
        monkeypatch.setattr(module, "prunable", watched)
    process = Panning(mlp, batches, 0.9, steps=4, gradients="masked", leave_out=["3"])
    process.run(staged_policy())
    process.observe()
    assert len(calls) == 1


def test_what_the_state_scales_is_bounded_and_an_empty_range_is_zero() -> None:
    extremes = Extremes(loss=(1.0, 3.0), grad_norm_sq=(0.0, 10.0))
    assert extremes.scale(Observation(0.5, 2.5, 9.0, 10.0)) == (0.0, 0.25, 1.0, 1.0)
    empty = Extremes(loss=(2.0, 2.0), grad_norm_sq=(0.0, 0.0))
    assert empty.scale(Observation(2.0, 0.0, 3.0, 1.0)) == (0.0, 0.0, 0.0, 0.0)


class Count(nn.Module):
    """Multiplies by the number of channels, which therefore matters."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.shape[1]


def convolutional(*between: nn.Module) -> nn.Module:
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 12), nn.ReLU(), nn.Linear(12, 3)]
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *between, nn.ReLU(), *head)


OBSERVED = {
    "lenet5": (28, lambda: build_model("lenet5", 1, 3, 0.4, 28)),
    "resnet20": (8, lambda: build_model("resnet20", 1, 3, 0.25, 8)),
    "vgg11": (32, lambda: build_model("vgg11", 1, 3, 0.1, 32)),
    "batch norm": (6, lambda: convolutional(nn.BatchNorm2d(8))),
    "group norm": (6, lambda: convolutional(nn.GroupNorm(2, 8))),
    "counts channels": (6, lambda: convolutional(Count())),
}


@pytest.mark.parametrize("name", OBSERVED)
def test_what_is_observed_is_the_whole_masked_network(name: str) -> None:
    """L, and ΔL over the kept weights, by autograd's usual way; dead channels are constants."""
    torch.manual_seed(0)
    size, make = OBSERVED[name]
    model = make()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # biases too
        if parameter.ndim == 1:
            parameter.data.normal_(generator=generator)
    inputs, targets = torch.randn(6, 1, size, size, generator=generator), torch.arange(6) % 3
    bank = ScoreBank(model, [(inputs, targets)], "normalised", 200)
    for density in (0.5, 0.1, 0.02, 0.01, 0.005):
        mask = torch.rand(bank.total, generator=generator) < density
        parts = inspection.unflatten(mask, bank.weights)
        for part in parts.values():
            part[:, part.shape[1] // 2 :] = False  # nobody reads these channels
        sparse = copy.deepcopy(model).train()
        for weight, part in parts.items():
            sparse.get_parameter(weight).data *= part
        loss = functional.cross_entropy(sparse(inputs), targets)
        loss.backward()
        flow = sum((sparse.get_parameter(w).grad * m).square().sum() for w, m in parts.items())
        assert bank.observe(0, mask) == pytest.approx((loss.item(), flow.item()), rel=1e-4)


# --- targets -------------------------------------------------------------------------------------

HARD = torch.arange(6) % 3
ONE_HOT = functional.one_hot(HARD, 3)


@pytest.mark.parametrize(
    "targets",
    [
        HARD.numpy(),
        HARD.int(),
        HARD.to(torch.uint8),
        ONE_HOT,
        ONE_HOT.bool(),
        ONE_HOT.numpy(),
        ONE_HOT.double(),
        ONE_HOT.half(),
    ],
)
def test_targets_in_any_form_mean_the_same(mlp, batches, targets) -> None:
    inputs = batches[0][0]
    expected, found = (ScoreBank(mlp, [(inputs, y)], "signed", 200) for y in (HARD, targets))
    for name, known in expected.dense(0).items():
        torch.testing.assert_close(found.dense(0)[name], known, rtol=1e-4, atol=1e-10)
    assert found.observe(0, None) == pytest.approx(expected.observe(0, None), rel=1e-5)
    assert trainability_of(found) == pytest.approx(trainability_of(expected), rel=1e-4)


def trainability_of(bank: ScoreBank) -> float:
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in bank.weights.items()}
    return trainability(bank.model, masks, bank.batches, 3)


def test_probabilities_are_scored_as_such(mlp, batches) -> None:
    inputs, soft = batches[0][0], torch.softmax(torch.randn(6, 3), 1)
    loss, _ = ScoreBank(mlp, [(inputs, soft)], "signed", 200).observe(0, None)
    expected = -(soft * mlp(inputs).log_softmax(1)).sum(1).mean().item()
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.rand(6, 1), r"must have the shape of the logits, \(6, 3\), not \(6, 1\)"),
        (HARD[:, None], r"targets of shape \(6, 1\) do not fit logits of shape \(6, 3\)"),
        (torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), "are no probabilities"),
        (torch.ones(6, 3), "no probabilities, .* go down to 1 and sum to 3 to 3"),
        (torch.zeros(6, 3), "no probabilities"),
        (torch.full((6, 3), float("nan")), "no probabilities"),
        (torch.tensor([[2.0, -1.0, 0.0]] * 6), "go down to -1 and sum to 1 to 1"),
        (torch.ones(6, 3, dtype=torch.long), "no probabilities"),
        (torch.full((6,), -100), "every target is -100, which cross-entropy ignores"),
        (torch.tensor(1), "batch 0 has 6 inputs and 1 targets"),
        (torch.full((6,), 3), "a target is 3, and the model has the classes 0 to 2"),
    ],
)
def test_targets_that_fit_no_logits_are_refused_with_the_reason(
    mlp, batches, targets, message: str
) -> None:
    with pytest.raises(ValueError, match=f"batches: .*{message}"):
        ScoreBank(mlp, [(batches[0][0], targets)], "signed", 200)


@pytest.mark.parametrize("targets", [torch.rand(6, 1), torch.zeros(6, dtype=torch.long)])
def test_a_network_of_one_logit_is_refused(targets) -> None:
    """Its cross-entropy is 0 and every weight worth nothing."""
    with pytest.raises(ValueError, match=r"model returns \(6, 1\): .* two where the answer is yes"):
        ScoreBank(nn.Linear(4, 1), [(torch.randn(6, 4), targets)], "signed", 200)


def test_targets_to_ignore_are_ignored(mlp, batches) -> None:
    inputs = batches[0][0]
    some = torch.where(torch.arange(6) < 2, -100, HARD)
    found, expected = (
        ScoreBank(mlp, [batch], "signed", 200).dense(0)["snip"]
        for batch in ((inputs, some), (inputs[2:], HARD[2:]))
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-10)


def test_targets_of_a_segmentation() -> None:
    model, inputs = nn.Conv2d(2, 3, 3), torch.randn(4, 2, 6, 6)
    bank = ScoreBank(model, [(inputs, torch.arange(64).view(4, 4, 4) % 3)], "signed", 200)
    assert bank.dense(0)["snip"].any()
    with pytest.raises(ValueError, match=r"do not fit logits of shape \(4, 3, 4, 4\)"):
        ScoreBank(model, [(inputs, torch.zeros(4, 6, 6).long())], "signed", 200)
