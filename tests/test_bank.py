"""What is known of one network is computed once, and scaled into [0, 1]."""

from lib import metrics
from lib.bank import Extremes, Observation
from lib.panning import Panning
from lib.policies import staged_policy


def test_the_dense_scores_are_computed_once_for_each_batch(mlp, batches, monkeypatch) -> None:
    calls = []
    compute = metrics.snip_and_grasp
    monkeypatch.setattr(metrics, "snip_and_grasp", lambda *a: calls.append(a) or compute(*a))
    process = Panning(mlp, batches, 0.9, steps=7)
    for sparsity in (0.9, 0.5):
        process.reset(sparsity)
        process.run(staged_policy())
    assert len(calls) == len(batches)


def test_the_state_is_bounded_where_it_leaves_the_range() -> None:
    extremes = Extremes(loss=(1.0, 3.0), grad_norm_sq=(0.0, 10.0))
    assert extremes.scale(Observation(0.5, 2.5, 9.0, 10.0)) == (0.0, 0.25, 1.0, 1.0)


def test_an_empty_range_divides_nothing_by_nothing() -> None:
    extremes = Extremes(loss=(2.0, 2.0), grad_norm_sq=(0.0, 0.0))
    assert extremes.scale(Observation(2.0, 0.0, 3.0, 1.0)) == (0.0, 0.0, 0.0, 0.0)
