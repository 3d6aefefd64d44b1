"""Each method of the comparison, against a network small enough to compute by hand."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from lib import masks, metrics
from lib.masks import Mask, apply_masks, erk_counts, kept_count
from lib.methods import METHODS, pan, range_of
from lib.networks.inspection import flatten, prunable
from lib.networks.probes import trainability
from lib.panning import Panning as Process
from lib.panning import calibrate
from lib.policies import Policy, constant_policy, staged_policy
from lib.scores import Extremes

WITHOUT_AGENT = [method for method in METHODS if method != "rlpanning"]
ONE_SHOT = ("random", "erk", "magnitude", "snip", "grasp")
Scores = Callable[["ByHand", np.ndarray], np.ndarray]


class ByHand:
    """A rectified network without biases, in numpy: the formulas of the three metrics written out.

    `theta` and all scores are flat, over the three matrices (out, in) one after the other.
    """

    shapes = ((5, 4), (4, 5), (3, 4))

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.theta = rng.normal(size=sum(a * b for a, b in self.shapes))
        self.x, self.y = rng.normal(size=(6, 4)), np.arange(6) % 3

    def matrices(self, flat: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum([a * b for a, b in self.shapes])[:-1]
        return [w.reshape(s) for w, s in zip(np.split(flat, ends), self.shapes, strict=True)]

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        """Of the mean cross-entropy of logits / 200, by the chain rule."""
        w1, w2, w3 = self.matrices(theta)
        h1 = np.maximum(self.x @ w1.T, 0)
        h2 = np.maximum(h1 @ w2.T, 0)
        odds = np.exp(h2 @ w3.T / 200)
        error = (odds / odds.sum(1, keepdims=True) - np.eye(3)[self.y]) / 200 / len(self.y)
        d2 = error @ w3 * (h2 > 0)
        d1 = d2 @ w2 * (h1 > 0)
        return np.concatenate([(d.T @ h).ravel() for d, h in ((d1, self.x), (d2, h1), (error, h2))])

    def snip(self, mask: np.ndarray) -> np.ndarray:
        return np.abs(self.theta * self.gradient(self.theta * mask))

    def grasp(self, mask: np.ndarray) -> np.ndarray:
        """θ ⊙ Hg, the Hessian-vector product as a difference of gradients along g."""
        step = 1e-4 * self.gradient(self.theta) / np.linalg.norm(self.gradient(self.theta))
        return self.theta * (self.gradient(self.theta + step) - self.gradient(self.theta - step))

    def synflow(self, mask: np.ndarray) -> np.ndarray:
        """Each |weight| times the paths that lead to it times the paths that lead on from it.

        None leads on from a unit that nothing feeds: the slope of a rectifier at 0 is 0.
        """
        w1, w2, w3 = self.matrices(np.abs(self.theta) * mask)
        h1 = w1 @ np.ones(4)
        h2 = w2 @ h1
        d2 = np.ones(3) @ w3 * (h2 > 0)
        d1 = d2 @ w2 * (h1 > 0)
        factors = ((d1, np.ones(4)), (d2, h1), (np.ones(3), h2))
        paths = [np.outer(onward, into).ravel() for onward, into in factors]
        return np.abs(self.theta) * np.concatenate(paths)

    def magnitude(self, mask: np.ndarray) -> np.ndarray:
        return np.abs(self.theta)

    def normalised(self, mask: np.ndarray) -> list[np.ndarray]:
        dense = np.ones_like(mask)
        signed = (  # the sign is what the normalisation takes away, but after the mean
            self.synflow(mask) * np.sign(self.theta),
            self.theta * self.gradient(self.theta),
            self.grasp(dense),
        )
        return [np.abs(s - s.mean()) / (s.std(ddof=1) or 1) for s in signed]

    def panning(self, mask: np.ndarray) -> np.ndarray:
        """With p = (1, .5, .2)."""
        return sum(p * z for p, z in zip((1, 0.5, 0.2), self.normalised(mask), strict=True))

    def product(self, mask: np.ndarray) -> np.ndarray:
        """With the exponents p = (1, .5, .2)."""
        return math.prod(z**p for p, z in zip((1, 0.5, 0.2), self.normalised(mask), strict=True))

    def allows(
        self, masks: list[np.ndarray], sparsity: float, scores: Scores, steps: int, returning: bool
    ) -> bool:
        """Whether each mask of a run keeps the best there was to choose from.

        Two weights in series have the same score, between which rounding may choose.
        """
        before = np.ones(len(self.theta), dtype=bool)
        for t, mask in enumerate(masks, 1):
            values = np.where(before | returning, scores(self, before), -np.inf)
            rounding = 1e-6 * np.abs(values[np.isfinite(values)]).max()
            if mask.sum() != max(1, int(len(mask) * (1 - sparsity) ** (t / steps) + 1e-6)):
                return False
            if values[mask].min() < values[~mask].max() - rounding:
                return False
            before = mask
        return len(masks) == steps

    @property
    def model(self) -> nn.Module:
        layers = [nn.Linear(i, o, bias=False) for o, i in self.shapes]
        for layer, matrix in zip(layers, self.matrices(self.theta), strict=True):
            layer.weight.data = torch.from_numpy(matrix)
        return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

    @property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        return [(torch.from_numpy(self.x), torch.from_numpy(self.y))]


TABLE: dict[str, tuple[Scores, int, bool]] = {
    "magnitude": (ByHand.magnitude, 1, False),
    "snip": (ByHand.snip, 1, False),
    "grasp": (ByHand.grasp, 1, False),
    "synflow": (ByHand.synflow, 100, False),
    "iterative_snip": (ByHand.snip, 100, False),
    "force": (ByHand.snip, 100, True),
    "iterative_fused": (ByHand.panning, 100, False),
    "panning": (ByHand.panning, 100, True),
    "panning_product": (ByHand.product, 100, True),
    "rlpanning": (ByHand.panning, 100, True),
}


@pytest.fixture
def masks_of(monkeypatch) -> Callable[[str, ByHand, float], list[np.ndarray]]:
    """The masks that a method chooses, one an iteration."""

    def run(method: str, hand: ByHand, sparsity: float) -> list[np.ndarray]:
        chosen, top_k = [], masks.top_k
        policy = constant_policy((1, 0.5, 0.2)) if METHODS[method].p is None else None
        with monkeypatch.context() as patch:
            patch.setattr(masks, "top_k", lambda *a: chosen.append(top_k(*a)) or chosen[-1])
            result = pan(hand.model, hand.batches, sparsity, policy=policy, method=method)
        assert torch.equal(flatten(result.masks), chosen[-1])
        return [mask.numpy() for mask in chosen]

    return run


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("sparsity", [0.5, 0.95])
@pytest.mark.parametrize("method", TABLE)
def test_a_method_keeps_what_a_computation_by_hand_keeps(masks_of, method, sparsity, seed) -> None:
    hand = ByHand(seed)
    assert hand.allows(masks_of(method, hand, sparsity), sparsity, *TABLE[method])


@pytest.mark.parametrize("method", TABLE)
def test_no_method_keeps_what_another_would(masks_of, method: str) -> None:
    """Or to agree with the computation by hand would mean little."""
    found, hand = masks_of(method, ByHand(0), 0.5), ByHand(0)
    others = {row for row in TABLE.values() if row != TABLE[method]}
    others.add((lambda *a: np.abs(ByHand.grasp(*a)), 1, False))
    assert not any(hand.allows(found, 0.5, *row) for row in others)


def test_grasp_keeps_the_largest_signed_scores(network, batches) -> None:
    scores = metrics.grasp(network, None, batches[0])
    kept = flatten(pan(network, batches, 0.7, method="grasp").masks)
    assert scores[kept].min() >= scores[~kept].max()  # equal where both are 0
    assert scores[~kept].abs().max() > scores[kept].abs().min()


MASKS = [
    *("panning:0.5:10", "panning:0.9:10", "panning:0.9:50", "panning:0.97:50"),
    *(f"panning_product:{end}" for end in ("0.5:10", "0.9:10", "0.9:50", "0.97:50")),
    *("synflow:0.5:10", "synflow:0.9:10", "synflow:0.9:50", "synflow:0.97:50"),
    *("snip:0.5:1", "snip:0.9:1", "grasp_abs:0.5:1", "grasp_abs:0.9:1"),
]


@pytest.mark.parametrize("key", MASKS)
def test_masks_are_those_of_the_authors_program_bit_for_bit(reference, key: str) -> None:
    method, sparsity, steps = key.split(":")
    settings = {"score": "absolute"} if method == "grasp_abs" else {}
    method = method.removesuffix("_abs")
    result = pan(
        *(reference.model, reference.batches, float(sparsity), int(steps)),
        **{"method": method, **settings},
    )
    expected = np.unpackbits(reference.data[f"mask:{key}"])[: reference.total].astype(bool)
    assert expected.sum() == kept_count(reference.total, float(sparsity))
    assert np.array_equal(flatten(result.masks).numpy(), expected)


def test_no_mask_of_the_authors_program_is_left_out(reference) -> None:
    assert {f"mask:{key}" for key in MASKS} == {k for k in reference.data if k.startswith("mask:")}


# --- what holds for every method -----------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_repeated_to_the_last_byte(network, batches, method: str) -> None:
    policy = constant_policy((0.3, 0.5, 0.2)) if method == "rlpanning" else None
    steps = None if method in ONE_SHOT else 5
    one, again = (pan(network, batches, 0.9, steps, policy, method) for _ in range(2))
    assert flatten(one.masks).numpy().tobytes() == flatten(again.masks).numpy().tobytes()
    assert flatten(one.effective).numpy().tobytes() == flatten(again.effective).numpy().tobytes()
    assert one.history.to_csv() == again.history.to_csv()


@pytest.mark.parametrize("method", WITHOUT_AGENT)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.99])
def test_a_method_keeps_exactly_the_right_number(network, batches, method, sparsity) -> None:
    result = pan(network, batches, sparsity, None if method in ONE_SHOT else 4, method=method)
    kept, effective = flatten(result.masks), flatten(result.effective)
    assert kept.sum() == kept_count(len(kept), sparsity)
    assert not (effective & ~kept).any()
    steps = 1 if method in ONE_SHOT else 4
    if METHODS[method].select:  # among candidates, of which some have a T of their own
        steps = METHODS[result.made["method"]].steps or 4
    assert (result.history["sparsity"].iloc[-1], len(result.history)) == (result.sparsity, steps)
    model = apply_masks(network, result.effective)
    assert model(batches[0][0]).isfinite().all()


@pytest.mark.parametrize("method", WITHOUT_AGENT)
def test_a_callers_model_is_left_as_it_was(busy, batches, unchanged, method: str) -> None:
    with unchanged(busy):
        pan(busy, batches, 0.9, 2, method=method)


def test_panning_is_staged_unless_a_policy_is_given(network, batches) -> None:
    plain, staged, flat = (
        pan(network, batches, 0.95, 6, policy)
        for policy in (None, staged_policy(), constant_policy((1, 0, 0)))
    )
    pd.testing.assert_frame_equal(plain.history, staged.history)
    assert torch.equal(flatten(plain.masks), flatten(staged.masks))
    assert not torch.equal(flatten(plain.masks), flatten(flat.masks))


def test_one_setting_of_a_method_can_be_changed(network, batches) -> None:
    force = pan(network, batches, 0.9, 5, method="force")
    changed = pan(network, batches, 0.9, 5, method="iterative_snip", reactivate=True)
    assert torch.equal(flatten(force.masks), flatten(changed.masks))


# --- controls ------------------------------------------------------------------------------------


def test_the_magnitude_control_keeps_the_largest_weights(network, batches) -> None:
    kept = flatten(pan(network, batches, 0.8, method="magnitude").masks)
    size = flatten(prunable(network)).detach().abs()
    assert size[kept].min() >= size[~kept].max()


@pytest.mark.parametrize("method", ["random", "erk"])
def test_a_random_control_depends_on_its_seed_alone(mlp, cnn, batches, method: str) -> None:
    for network in (mlp, cnn):
        one, again, other = (
            flatten(pan(network, batches, 0.8, method=method, seed=seed).masks)
            for seed in (0, 0, 1)
        )
        for parameter in network.parameters():
            nn.init.normal_(parameter)  # moves torch's own generator, too
        late = flatten(pan(network, batches[1:], 0.8, method=method, seed=0).masks)
        assert torch.equal(one, again) and torch.equal(one, late)
        assert not torch.equal(one, other)


def test_the_random_control_is_uniform(mlp, batches) -> None:
    """Over 100 seeds a weight is kept 50 times, give or take 5."""
    kept = sum(
        flatten(pan(mlp, batches, 0.5, method="random", seed=seed).masks).int()
        for seed in range(100)
    )
    assert kept.min() > 50 - 5 * 5 and kept.max() < 50 + 5 * 5


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.98])
def test_the_erk_control_has_erks_layer_densities(network, batches, sparsity: float) -> None:
    weights = prunable(network)
    total = flatten(weights).numel()
    found = [int(m.sum()) for m in pan(network, batches, sparsity, method="erk").masks.values()]
    assert found == erk_counts(weights, kept_count(total, sparsity))


# --- policies that look at the losses ------------------------------------------------------------


def states_of(policy: Policy | Callable, *arguments, **settings) -> np.ndarray:
    """The states that a run shows to a policy."""
    seen = []

    def look(state: np.ndarray) -> tuple[float, float, float]:
        seen.append(state)
        return policy(state)

    if isinstance(policy, Policy):
        pan(*arguments, policy=Policy(look, policy.needs_loss), **settings)
    else:
        pan(*arguments, policy=look, **settings)
    return np.array(seen)


def test_losses_are_measured_for_a_policy_unless_it_says_it_needs_none(mlp, batches) -> None:
    arguments = (mlp, batches, 0.9, 3)
    assert np.isnan(states_of(constant_policy((1, 0, 0)), *arguments)[:, :4]).all()
    needing = states_of(Policy(lambda state: (1, 0, 0), needs_loss=True), *arguments)
    plain = states_of(lambda state: (1, 0, 0), *arguments)
    extremes = calibrate(Process(mlp, batches, 0.9, 3), (0.9,))
    given = states_of(lambda state: (1, 0, 0), *arguments, extremes=extremes)
    assert np.array_equal(needing, plain) and np.array_equal(plain, given)
    assert ((0 <= plain) & (plain <= 1)).all()


def test_extremes_that_are_given_are_used(mlp, batches) -> None:
    extremes = Extremes((0.0, 1e9), (0.0, 1e9))
    states = states_of(lambda state: (1, 0, 0), mlp, batches, 0.9, 3, extremes=extremes)
    assert (states[:, :4] < 1e-6).all() and (states[:, 0] > 0).all()


def test_the_range_of_a_network_is_the_one_that_pan_would_measure(mlp, batches) -> None:
    arguments = (mlp, batches, 0.8, 3)

    def states(extremes: Extremes | None) -> list[bytes]:
        seen = []

        def look(state: np.ndarray) -> tuple[float, float, float]:
            seen.append(state.tobytes())
            return (1, 0, 0)

        look.sparsity = (0.5, 0.9)
        pan(*arguments, policy=look, temperature=7.0, extremes=extremes)
        return seen

    measured = range_of(mlp, batches, (0.5, 0.9), 3, temperature=7.0)
    assert states(measured) == states(None)
    assert measured != range_of(mlp, batches, (0.5,), 3, temperature=7.0)


# --- errors --------------------------------------------------------------------------------------


def shared(model: nn.Sequential) -> nn.Sequential:
    tied = nn.Linear(8, 6)
    tied.weight = model[3].weight
    return nn.Sequential(*model, tied)


def pruned(model: nn.Module) -> nn.Module:
    return apply_masks(model, {"3.weight": torch.ones(6, 8)})


def spoilt(model: nn.Module) -> nn.Module:
    model[3].weight.data[2, 3] = float("nan")
    return model


def blind(batches: list) -> list:
    return [(images * float("nan"), targets) for images, targets in batches]


def emptied(batches: list) -> list:
    return [*batches, (batches[0][0][:0], batches[0][1][:0])]


class Wrapped(nn.Module):
    """A network that returns something else than logits."""

    def __init__(self, model: nn.Module, make: Callable) -> None:
        super().__init__()
        self.model, self.make = model, make

    def forward(self, x: Tensor) -> object:
        return self.make(self.model(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, b: {"method": "snap"}, "method must be one of .*snip.*got 'snap'"),
        (lambda m, b: {"score": "loss"}, "score must be one of .*got 'loss'"),
        (lambda m, b: {"sparsity": 1}, r"sparsity must be in \[0, 1\).*got 1"),
        (lambda m, b: {"sparsity": -0.1}, r"sparsity must be in \[0, 1\).*got -0.1"),
        (lambda m, b: {"steps": 0}, "steps must be at least 1, got 0"),
        (lambda m, b: {"policy": lambda s: (2, 0, 0)}, r"p must be .*\[0, 1\].*got \(2, 0, 0\)"),
        (
            lambda m, b: {"method": "snip", "policy": staged_policy()},
            "policy: 'snip' has a fixed p",
        ),
        (lambda m, b: {"policy": "hand-made"}, "policy must be callable, .*got 'hand-made'"),
        (lambda m, b: {"model": "resnet18"}, "model must be a torch.nn.Module, got str"),
        (lambda m, b: {"batches": None}, "batches must be a list of .* pairs, got NoneType"),
        (lambda m, b: {"method": "rlpanning"}, "policy: 'rlpanning' needs a trained agent"),
        (lambda m, b: {"batches": []}, r"batches must hold .*got pairs of \[\] samples"),
        (lambda m, b: {"batches": emptied(b)}, r"batches must .*pairs of \[6, 6, 6, 0\] samples"),
        (lambda m, b: {"batches": blind(b)}, "batch: the scoring loss is nan.*from the images"),
        (lambda m, b: {"batches": b[0]}, "batches must be a list of .*entry 0 is of type Tensor"),
        (lambda m, b: {"batches": [b[0], None]}, "entry 1 is of type NoneType"),
        (
            lambda m, b: {"batches": [(b[0][0].byte(), b[0][1])]},
            "inputs of batch 0 are torch.uint8",
        ),
        (lambda m, b: {"batches": [(b[0][0], b[0][1][1:])]}, "batch 0 has 6 inputs and 5 targets"),
        (lambda m, b: {"batches": [(b[0][0], b[0][1].float())]}, "targets of .* are torch.float32"),
        (
            lambda m, b: {"batches": [(b[0][0], b[0][1] + 99)]},
            "a target is 99, .* the classes 0 to",
        ),
        (lambda m, b: {"batches": [(b[0][0], b[0][1] - 1)]}, "a target is -1, .* the classes 0 to"),
        (lambda m, b: {"sparsity": "0.9"}, r"sparsity must be in \[0, 1\).*got '0.9'"),
        (lambda m, b: {"steps": 2.5}, "steps must be a whole number of iterations, got 2.5"),
        (
            lambda m, b: {"model": Wrapped(m, lambda y: {"y": y})},
            "model returns dict in eval mode; give it",
        ),
        (lambda m, b: {"model": Wrapped(m, torch.sum)}, r"model returns \(\); give it one logit"),
        (lambda m, b: {"model": nn.Flatten()}, "model has nothing to prune"),
        (lambda m, b: {"model": shared(m)}, "model: layer '3' shares its weight"),
        (lambda m, b: {"model": pruned(m)}, "model: layer '3' is pruned already"),
    ],
)
def test_what_is_wrong_with_an_argument_is_said(mlp, batches, change, message: str) -> None:
    arguments = {"model": mlp, "batches": batches, "sparsity": 0.9, "steps": 2}
    with pytest.raises(ValueError, match=message):
        pan(**arguments | change(mlp, batches))


def test_an_unknown_setting_is_refused(mlp, batches) -> None:
    with pytest.raises(TypeError, match="'reactivated'"):
        pan(mlp, batches, 0.9, reactivated=True)


@pytest.mark.parametrize("method", [m for m in WITHOUT_AGENT if m not in ("random", "erk")])
def test_weights_that_are_no_numbers_are_named(mlp, batches, method: str) -> None:
    with pytest.raises(ValueError, match="NaN.*weights|weights.*NaN"):
        pan(spoilt(mlp), batches, 0.9, 2, method=method)


# --- what can be watched --------------------------------------------------------------------------


def test_a_callback_sees_every_iteration_and_changes_nothing(network, batches) -> None:
    seen = []
    expected = pan(network, batches, 0.8, 6)
    result = pan(network, batches, 0.8, 6, callback=lambda *what: seen.append(what))
    assert [t for t, _, _ in seen] == list(range(1, 7))
    masks = [mask for _, mask, _ in seen]
    assert all(isinstance(mask, Mask) for mask in masks)
    assert masks[-1] == result.masks == expected.masks
    pd.testing.assert_frame_equal(result.history, expected.history)
    history = result.history.set_index("iteration")
    full = Mask(torch.ones_like(masks[0].flat), masks[0].shapes)
    for before, (t, mask, state) in zip([full, *masks], seen, strict=False):
        row = history.loc[t]
        assert mask.sparsity == row["sparsity"]
        assert int((before.flat & ~mask.flat).sum()) == row["removed"]
        assert int((mask.flat & ~before.flat).sum()) == row["reactivated"]
        assert np.isnan(state[:4]).all()  # nobody looked at the losses
        upcoming = history["target_sparsity"].iloc[min(t, 5)]
        assert list(state[4:]) == [upcoming, row["effective_sparsity"], t / 6]


def test_a_callbacks_state_has_the_losses_that_a_policy_looks_at(mlp, batches) -> None:
    shown, asked = [], []

    def policy(state: np.ndarray) -> tuple[float, ...]:
        asked.append(state)
        return (1, 0, 0)

    extremes = Extremes((0.0, 3.0), (0.0, 100.0))
    pan(mlp, batches, 0.8, 4, policy, extremes=extremes, callback=lambda *w: shown.append(w[2]))
    assert np.array_equal(shown[:-1], asked[1:])
    assert np.isfinite(shown).all()


def test_what_a_callback_does_with_its_mask_is_its_own_affair(mlp, batches) -> None:
    expected = pan(mlp, batches, 0.8, 4).masks
    assert (
        pan(mlp, batches, 0.8, 4, callback=lambda t, mask, s: mask.flat.zero_()).masks == expected
    )


def test_a_callback_that_is_no_function_is_refused(mlp, batches) -> None:
    with pytest.raises(TypeError, match="callback must be a function of .*, got list"):
        pan(mlp, batches, 0.8, 4, callback=[])


# --- selection by trial ---------------------------------------------------------------------------


def test_the_candidate_with_the_lowest_loss_after_a_trial_is_taken(network, batches) -> None:
    product = {"policy": constant_policy((1, 1, 0)), "fusion": "product", "gradients": "masked"}
    candidates = ["snip", "magnitude", {"method": "panning", **product}, "synflow"]
    chosen = pan(network, batches, 0.8, 6, select=candidates, trial_steps=5)
    losses, results = [], []
    for each in candidates:
        own = {"method": each} if isinstance(each, str) else each
        steps = 6 if METHODS[own["method"]].steps is None else None
        results.append(pan(network, batches, 0.8, steps, **own))
        losses.append(trainability(network, results[-1].effective, batches, 5))
    assert chosen.made["trial_losses"] == pytest.approx(losses, rel=1e-6)
    assert chosen.made["selected"] == int(np.argmin(losses))
    best = results[int(np.argmin(losses))]
    assert torch.equal(chosen.masks.flat, best.masks.flat)
    assert chosen.made["method"] == best.made["method"] and chosen.made["trial_steps"] == 5
    assert len(set(losses)) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"select": "snip"}, "select must be a list of methods, got 'snip'"),
        ({"select": []}, r"select must be a list of methods, got \[\]"),
        ({"select": ["snap"]}, "select: a method must be one of .* got 'snap'"),
        ({"select": 5}, "select must be a list of methods, got 5"),
        ({"select": {"method": "snip"}}, "select must be a list of methods, got {"),
        ({"select": ["snip", 5]}, "select: a candidate is the name of a method .* got 5"),
        ({"select": ["snip"], "trial_steps": -1}, "trial_steps must be a number .* got -1"),
        ({"select": ["snip"], "trial_steps": 1.5}, "trial_steps must be a number .* got 1.5"),
        ({"select": ["snip"], "method": "force"}, "select: it takes the place of method"),
    ],
)
def test_a_selection_of_nothing_or_of_something_else_is_refused(
    mlp, batches, arguments, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pan(mlp, batches, 0.5, **arguments)


def test_a_trial_that_diverges_is_not_chosen_and_the_result_can_be_saved(
    network, batches, monkeypatch, tmp_path
) -> None:
    for losses, best in (([math.nan, 2.0, 1.0], 2), ([math.inf, math.nan, math.nan], 0)):
        left = iter(losses)
        monkeypatch.setattr("lib.methods.trainability", lambda *_, left=left: next(left))
        chosen = pan(network, batches, 0.5, 3, select=["magnitude", "snip", "synflow"])
        assert chosen.made["selected"] == best
        finite = [loss if math.isfinite(loss) else None for loss in losses]
        assert chosen.made["trial_losses"] == finite
        chosen.save(tmp_path / "masks")
        assert masks.load_masks(tmp_path / "masks").card["trial_losses"] == finite


def test_a_method_that_selects_is_the_selection_among_its_candidates(network, batches) -> None:
    own = METHODS["panning_select"].select
    chosen = pan(network, batches, 0.8, 4, method="panning_select", trial_steps=3)
    expected = pan(network, batches, 0.8, 4, select=own, trial_steps=3)
    assert chosen.masks == expected.masks and chosen.made == expected.made
    assert chosen.made["method"] == own[chosen.made["selected"]]
    with pytest.raises(ValueError, match="policy: 'panning_select' chooses among methods"):
        pan(network, batches, 0.8, 4, constant_policy((1, 0, 0)), "panning_select")
    with pytest.raises(ValueError, match="select: 'panning_select' is a selection itself"):
        pan(network, batches, 0.8, 4, select=["snip", "panning_select"])


def test_our_method_is_a_point_of_the_space_in_which_every_rival_is_a_corner(
    network, batches
) -> None:
    """The product, its gradients those of the masked network, by exponents and return."""

    def corner(p, returns, score="absolute"):
        space = {"fusion": "product", "gradients": "masked", "reactivate": returns}
        return pan(network, batches, 0.8, 5, constant_policy(p), score=score, **space).masks

    assert corner((1, 0, 0), False) == pan(network, batches, 0.8, 5, method="synflow").masks
    assert corner((0, 1, 0), False) == pan(network, batches, 0.8, 5, method="iterative_snip").masks
    assert corner((0, 1, 0), True) == pan(network, batches, 0.8, 5, method="force").masks
    ours = METHODS["panning_masked"]
    (row,) = ours.stages
    found = corner(row[1:], ours.reactivate, ours.score)
    assert pan(network, batches, 0.8, 5, method="panning_masked").masks == found
    assert len(pan(network, batches, 0.8, method="panning_masked").history) == ours.steps
    other = constant_policy((1, 0, 0))
    changed = pan(network, batches, 0.8, 5, other, "panning_masked").masks
    assert changed == corner((1, 0, 0), ours.reactivate, ours.score)
