"""Ratios of made-up seconds, by arithmetic; and the measurements that are committed."""

import pandas as pd
import pytest

from lib import speed


@pytest.fixture
def table() -> pd.DataFrame:
    def row(what, value, form="fast", method=None, sparsity=None, threads=2):
        place = {"network": "lenet5", "weights": 1000, "threads": threads, "unit": "s"}
        return place | {
            "what": what, "value": value, "form": form, "method": method, "sparsity": sparsity,
            "kept": 0 if method == "snip" else 10,
        }  # fmt: skip

    return pd.DataFrame(
        [
            row("training step", 2.0, "plain"),
            row("training step", 1.0),
            row("panning iteration", 6.0, "plain"),
            row("panning iteration", 0.5),
            row("training", 3.0, "plain", "dense", 0.0, 1),
            row("training", 1.2, "fast", "dense", 0.0, 1),
            row("training", 0.4, "fast", "panning", 0.98, 1),
            row("training", 1.2, "fast", "panning", 0.9, 1),
            row("training", 0.1, "fast", "snip", 0.98, 1),
        ]
    )


def test_times_are_in_plain_training_steps(table) -> None:
    found = speed.in_steps(table)
    assert list(found["steps"]) == [1.0, 0.5, 3.0, 0.25]


def test_a_speed_up_is_against_the_dense_step_in_the_same_layout(table) -> None:
    """And a dead network, SNIP's, has none."""
    found = speed.speedups(table).set_index("sparsity")
    assert found["speedup"].to_dict() == pytest.approx({0.98: 3.0, 0.9: 1.0})
    assert found["limit"].to_dict() == pytest.approx({0.98: 50.0, 0.9: 10.0})


def test_breaking_even(table) -> None:
    """100 iterations are 50 dense steps, 1.25 epochs of 40; each sparse step saves 2/3 of one."""
    found = speed.break_even(table, 100, 4000).set_index("sparsity")
    assert found["pruning"].to_dict() == pytest.approx({0.98: 1.25, 0.9: 1.25})
    assert found["epochs"].to_dict() == pytest.approx({0.98: 1.875, 0.9: float("inf")})
