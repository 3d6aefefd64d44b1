"""What holds of any network, any sparsity and any settings."""

import os

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import networks
from torch import nn

from lib import METHODS, Panning, apply_masks, compact, metrics, pan
from lib.masks import kept_count
from lib.networks.inspection import flatten, prunable, unflatten
from lib.networks.paths import effective_mask
from lib.panning import FUSIONS, GRADIENTS
from lib.policies import SCHEDULES
from lib.scores import SCORES, normalise

CASES = int(os.environ.get("PANNING_CASES", "1000"))  # a short run may ask for fewer
many = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
SEEDS = st.integers(0, 2**31)
SPARSITIES = st.one_of(
    st.floats(0, 0.999, allow_subnormal=False), st.floats(0.9, 1, exclude_max=True)
)
WEIGHT = st.floats(0, 1, allow_subnormal=False)


def drawn(model: nn.Module, seed: int, scale: float = 1.0) -> list[tuple[torch.Tensor, ...]]:
    """The model with weights and biases of its seed, and two batches."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return [(torch.randn(6, 2, 6, 6, generator=generator), torch.arange(6) % 3) for _ in range(2)]


@many
@given(
    networks(),
    SEEDS,
    SPARSITIES,
    st.integers(1, 6),
    st.tuples(WEIGHT, WEIGHT, WEIGHT),
    st.fixed_dictionaries(
        {
            "schedule": st.sampled_from(sorted(SCHEDULES)),
            "reactivate": st.booleans(),
            "gradients": st.sampled_from(GRADIENTS),
            "score": st.sampled_from(sorted(SCORES)),
            "fusion": st.sampled_from(FUSIONS),
        }
    ),
)
def test_the_process_keeps_its_number_at_every_step(
    model, seed, sparsity, steps, p, chosen
) -> None:
    if chosen["score"] in ("signed", "standardised"):  # a negative number has no power
        chosen["fusion"] = "sum"
    batches = drawn(model, seed)
    process = Panning(model, batches, sparsity, steps, **chosen)
    total, before = process.bank.total, process.mask
    while not process.done:
        process.step(p)
        kept = kept_count(total, process.targets[process.t - 1])
        assert int(process.mask.sum()) == kept
        assert not (process.effective_mask & ~process.mask).any()
        if not chosen["reactivate"]:
            assert not (process.mask & ~before).any()
        before = process.mask
    assert np.isfinite(process.state(None)[4:]).all()
    assert process.history["removed"].sum() - process.history["reactivated"].sum() == total - kept


@many
@given(networks(), SEEDS, SPARSITIES, st.sampled_from(sorted(set(METHODS) - {"rlpanning"})))
def test_every_method_prunes_and_what_is_compact_computes_the_same(
    model, seed, sparsity, method
) -> None:
    batches = drawn(model, seed)
    steps = 3 if METHODS[method].steps is None else None
    result = pan(model, batches, sparsity, steps, method=method)
    total = sum(weight.numel() for weight in prunable(model).values())
    assert int(flatten(result.masks).sum()) == kept_count(total, sparsity)
    again = pan(model, batches, sparsity, steps, method=method)
    assert torch.equal(flatten(again.masks), flatten(result.masks))
    apply_masks(model, result.effective)
    small = compact(model, batches[0][0])
    expected = model.eval()(batches[0][0])
    slack = 1e-4 * float(expected.detach().abs().max())
    torch.testing.assert_close(small.eval()(batches[0][0]), expected, rtol=1e-4, atol=slack)


@many
@given(networks(), SEEDS, st.floats(0.05, 1), st.sampled_from([1e-8, 1e-3, 1.0, 1e3, 1e8]))
def test_the_scores_are_finite_or_refused_and_a_dead_weight_has_no_flow(
    model, seed, density, scale
) -> None:
    batch = drawn(model, seed, scale)[0]
    total = sum(weight.numel() for weight in prunable(model).values())
    mask = torch.rand(total, generator=torch.Generator().manual_seed(seed)) < density
    flow = metrics.synflow(model, mask, batch)
    assert flow.isfinite().all() and normalise(flow).isfinite().all()
    try:
        scores = metrics.snip_and_grasp(model, mask, batch)
    except ValueError as error:
        assert "remove NaN, infinite or huge values" in str(error)
    else:
        for each in scores:
            assert each.isfinite().all() or scale > 1
    # A kept weight on no path moves no logit: what its score is made of does not reach them.
    effective = effective_mask(model, mask, batch[0])
    assert not (effective & ~mask).any()
    for module in model.modules():  # without biases, which are no paths
        if getattr(module, "bias", None) is not None:
            module.bias.data.zero_()
    model.eval()
    weights = prunable(model)

    def logits(kept: torch.Tensor) -> torch.Tensor:
        parts = unflatten(flatten(weights).detach() * kept, weights)
        return torch.func.functional_call(model, parts, (batch[0],))

    whole = logits(mask)
    if whole.isfinite().all():
        slack = 1e-4 * float(whole.detach().abs().max())
        torch.testing.assert_close(logits(effective), whole, rtol=1e-4, atol=slack)
