"""Exactly k weights, ties decided; counted, shared out over layers, applied."""

import copy
import dataclasses
import math
import pickle
from collections.abc import Mapping
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import prune

from lib import masks
from lib.networks.inspection import flatten, prunable, unflatten

# --- how many, and which -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "sparsity", "kept"),
    [
        (10, 0.9, 1),  # 1 - 0.9 is a little less than 0.1
        (1000, 0.9, 100),
        (1000, 0.99, 10),
        (430_500, 0.999, 430),
        (7998, 0.9, 799),
        (7, 0.0, 7),
        (7, 0.999, 1),  # never none
        (3, 0.5, 1),
    ],
)
def test_the_number_kept_is_the_floor_of_the_density(total, sparsity, kept) -> None:
    assert masks.kept_count(total, sparsity) == kept


@given(total=st.integers(1, 10_000_000), thousandths=st.integers(0, 999))
def test_the_number_kept_is_that_of_exact_arithmetic(total: int, thousandths: int) -> None:
    exact = math.floor(total * Fraction(1000 - thousandths, 1000))
    assert masks.kept_count(total, thousandths / 1000) == max(1, exact)


@pytest.mark.parametrize("sparsity", [1.0, 1.5, -0.1, float("nan")])
def test_a_sparsity_outside_its_range_is_refused(sparsity: float) -> None:
    with pytest.raises(ValueError, match=rf"sparsity must be in \[0, 1\).*got {sparsity}"):
        masks.kept_count(10, sparsity)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([-math.inf, -1.0, 0.0, -0.0, 1.0, math.inf]), min_size=1, max_size=40),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_top_k_is_a_stable_sort_for_every_k(values: list[float], dtype: torch.dtype) -> None:
    """Few different values, so that nearly every threshold is a tie."""
    order = sorted(range(len(values)), key=lambda i: -values[i])
    scores = torch.tensor(values, dtype=dtype)
    for k in range(len(values) + 1):
        mask = masks.top_k(scores, k)
        assert mask.dtype == torch.bool
        assert mask.nonzero().flatten().tolist() == sorted(order[:k])


@pytest.mark.parametrize("k", [0, 1, 3])
def test_top_k_refuses_scores_without_a_rank(k: int) -> None:
    with pytest.raises(ValueError, match="scores hold NaN"):
        masks.top_k(torch.tensor([1.0, float("nan"), 2.0]), k)


@pytest.mark.parametrize("k", [-1, 4])
def test_top_k_refuses_a_number_it_cannot_keep(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be between 0 and 3, got {k}"):
        masks.top_k(torch.zeros(3), k)


@pytest.mark.parametrize("kept", [1, 7, 400, 3999, 12_000, 39_999])
def test_few_of_many_are_found_whatever_a_sample_of_them_says(kept: int) -> None:
    """The k-th largest is first guessed from a sample: of all, of none but high, of tied values."""
    total = 40_000
    noise = torch.rand(total, generator=torch.Generator().manual_seed(0))
    step = total // 4096
    sampled = torch.arange(total) % step == 0
    for scores in (
        noise,
        noise + 10 * sampled,  # the sample sees the largest alone
        noise - 10 * sampled,  # and none of them
        (10 * noise).floor(),
        torch.where(noise < 0.95, -torch.inf, noise),
        torch.where(noise < 0.95, 0.5, noise),  # a threshold above, below and at what most are
        torch.where(noise < 0.95, 0.5, noise - 1),
        torch.zeros(total),
    ):
        expected = scores.argsort(descending=True, stable=True)[:kept]
        assert masks.top_k(scores, kept).nonzero().squeeze(1).tolist() == sorted(expected.tolist())


# --- one mask, two views -------------------------------------------------------------------------


@pytest.fixture
def mask(mlp) -> masks.Mask:
    flat = torch.zeros(288 + 48 + 18, dtype=torch.bool)
    flat[:72], flat[-9:] = True, True
    return masks.Mask(flat, prunable(mlp))


def test_a_mask_counts_its_weights(mask) -> None:
    assert (mask.count, masks.count(mask.flat)) == (81, 81)
    assert mask.sparsity == masks.sparsity(mask.flat) == 1 - 81 / 354
    assert mask.densities == {"1.weight": 0.25, "3.weight": 0.0, "5.weight": 0.5}
    assert repr(mask) == "Mask(81 of 354 weights, 3 layers)"


def test_the_views_of_a_mask_are_one_memory(mask, mlp) -> None:
    assert isinstance(mask, Mapping) and len(mask) == 3 and "3.weight" in mask
    assert {n: m.shape for n, m in mask.items()} == {n: w.shape for n, w in prunable(mlp).items()}
    assert torch.equal(flatten(mask), mask.flat)
    mask["3.weight"][5, 7] = True
    assert mask.flat[288 + 47] and mask.count == 82
    mask.flat[0] = False
    assert not mask["1.weight"][0, 0]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copied_mask_is_whole_and_its_own(mask, copied) -> None:
    mask["1.weight"]  # the views may have been made
    twin = copied(mask)
    assert twin == mask
    twin["5.weight"][0, 0] = True
    assert twin.flat[288 + 48] and twin.count == 82
    assert twin != mask and mask.count == 81


def test_masks_are_equal_where_names_shapes_and_weights_are(mask) -> None:
    renamed = {"a": (8, 36), "b": (6, 8), "c": (3, 6)}
    turned = {"1.weight": (36, 8), "3.weight": (6, 8), "5.weight": (3, 6)}
    assert mask == masks.Mask(mask.flat.clone(), mask.shapes)
    for other in (masks.Mask(mask.flat, renamed), masks.Mask(mask.flat, turned)):
        assert mask != other
    assert mask != masks.Mask(~mask.flat, mask.shapes) and mask != dict(mask)


def test_a_mask_is_frozen(mask) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        mask.flat = ~mask.flat
    with pytest.raises(TypeError):
        mask["1.weight"] = torch.ones(8, 36, dtype=torch.bool)


@pytest.mark.parametrize(
    ("flat", "error", "message"),
    [
        (torch.ones(353).bool(), ValueError, r"flat must have shape \(354,\).*got \(353,\)"),
        (torch.ones(1, 354).bool(), ValueError, r"flat must have shape .*got \(1, 354\)"),
        (torch.ones(354), TypeError, "flat must be a tensor of torch.bool, got torch.float32"),
        ([True] * 354, TypeError, "flat must be a tensor of torch.bool, got list"),
    ],
)
def test_a_vector_that_is_no_mask_is_refused(mlp, flat, error, message: str) -> None:
    with pytest.raises(error, match=message):
        masks.Mask(flat, prunable(mlp))


# --- Erdős-Rényi-kernel --------------------------------------------------------------------------

SHAPES = st.lists(
    st.one_of(
        st.tuples(*[st.integers(1, 12)] * 2),
        st.tuples(*[st.integers(1, 8)] * 2, *[st.integers(1, 5)] * 2),
    ),
    min_size=1,
    max_size=6,
)


def erk(shapes: list[tuple[int, ...]], k: int) -> list[int]:
    weights = {str(i): torch.empty(shape, device="meta") for i, shape in enumerate(shapes)}
    return masks.erk_counts(weights, k)


@settings(deadline=None)
@given(SHAPES, st.floats(0, 1, width=16, allow_subnormal=False))
def test_erk_solves_for_the_total_and_rounds_by_largest_remainder(shapes, density) -> None:
    sizes, sums = [math.prod(s) for s in shapes], [sum(s) for s in shapes]
    k = round(density * sum(sizes))
    counts = erk(shapes, k)
    assert sum(counts) == k
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))

    low, high = 0.0, float(max(sizes))  # bisection for ε: the total grows with it
    for _ in range(100):
        middle = (low + high) / 2
        total = sum(min(size, middle * s) for size, s in zip(sizes, sums, strict=True))
        low, high = (middle, high) if total < k else (low, middle)
    ideal = [min(size, high * s) for size, s in zip(sizes, sums, strict=True)]
    rounding = [count - value for count, value in zip(counts, ideal, strict=True)]
    assert max(rounding) - min(rounding) < 1 + 1e-6  # no remainder was passed over for a smaller


def test_erk_is_its_formula_where_no_layer_is_full() -> None:
    shapes = [(8, 4, 3, 3), (20, 10), (10, 50)]  # sums 18, 30, 60
    assert erk(shapes, 54) == [9, 15, 30]


def test_erk_gives_what_a_full_layer_cannot_take_to_the_others() -> None:
    assert erk([(2, 2), (20, 10), (10, 20)], 64) == [4, 30, 30]


def test_erk_gives_a_tied_remainder_to_the_first_layer() -> None:
    assert erk([(5, 5), (5, 5)], 7) == [4, 3]


# --- public form ---------------------------------------------------------------------------------


def test_applied_masks_are_pytorchs_own(network, batches, some_mask) -> None:
    weights = prunable(network)
    dense = {name: weight.detach().clone() for name, weight in weights.items()}
    chosen = unflatten(some_mask(flatten(weights).numel(), 0.5), weights)
    assert masks.apply_masks(network, chosen) is network
    assert prune.is_pruned(network)
    network(batches[0][0])
    for name, mask in chosen.items():
        layer = network.get_submodule(name.removesuffix(".weight"))
        assert torch.equal(layer.weight, dense[name] * mask)
        prune.remove(layer, "weight")
    assert not prune.is_pruned(network)
    assert all(torch.equal(w, dense[n] * chosen[n]) for n, w in prunable(network).items())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"9.weight": torch.ones(6, 8)}, "'9.weight' is no prunable weight"),
        ({"3.bias": torch.ones(6)}, "'3.bias' is no prunable weight"),
        ({"3.weight": torch.full((6, 8), 0.5)}, "'3.weight' must hold 0 .* and 1 .* alone"),
        ({"3.weight": torch.ones(8, 6)}, r"'3.weight' must have shape \(6, 8\), got \(8, 6\)"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_before_any_is_applied(mlp, wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        masks.apply_masks(mlp, {"1.weight": torch.ones(8, 36), **wrong})
    assert not prune.is_pruned(mlp)


def test_masks_without_names_are_refused(mlp) -> None:
    with pytest.raises(ValueError, match="masks must be {parameter name: mask}, .*; got list"):
        masks.apply_masks(mlp, [torch.ones(6, 8)])


def test_a_network_is_not_pruned_twice(mlp) -> None:
    masks.apply_masks(mlp, {"3.weight": torch.ones(6, 8)})
    with pytest.raises(ValueError, match="model: layer '3' is pruned already"):
        masks.apply_masks(mlp, {"5.weight": torch.ones(3, 6), "3.weight": torch.ones(6, 8)})
    assert not prune.is_pruned(mlp[5])
