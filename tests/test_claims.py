"""Verdicts follow from intervals, by rule."""

import pandas as pd
import pytest

from lib import claims


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 2, "holds"), (-2, -0.1, "contradicted"), (-1, 1, "open"), (0, 1, "open")],
)
def test_a_verdict_follows_from_the_interval(low, high, expected):
    assert claims.verdict(low, high) == expected


def test_no_interval_gives_no_verdict_but_open():
    assert claims.verdict(float("nan"), float("nan")) == "open"


def accuracies(**methods):
    return pd.DataFrame(
        {"method": method, "sparsity": rho, "seed": seed, "accuracy": value}
        for method, by_sparsity in methods.items()
        for rho, values in by_sparsity.items()
        for seed, value in enumerate(values)
    )


def test_the_accuracy_table_has_mean_and_half_interval_and_dense_everywhere():
    table = accuracies(dense={0.0: [0.97, 0.99]}, snip={0.9: [0.94, 0.96], 0.99: [0.5, 0.5]})
    found = claims.accuracy_table(table, ["dense", "snip"], 0.95).set_index("method")
    assert list(found.columns) == ["90 %", "99 %"]
    # Two seeds one point from their mean: standard error 1, t(0.975, 1) = 12.706.
    assert found.loc["SNIP", "90 %"] == "95.0 ± 12.7"
    assert found.loc["SNIP", "99 %"] == "50.0 ± 0.0"
    assert set(found.loc["dense"]) == {"98.0 ± 12.7"}


def test_a_method_without_rows_is_an_error():
    with pytest.raises(ValueError, match="grasp"):
        claims.accuracy_table(accuracies(snip={0.9: [1, 1]}), ["grasp"], 0.95)


HOME = {"fraction": 1.0, "width": 1.0}


@pytest.fixture
def tables():
    seeds = (0.0, 0.001, 0.002)

    def around(value):
        return [value + seed for seed in seeds]

    comparison = accuracies(
        dense={0.0: around(0.97)},
        snip={0.9: around(0.94), 0.999: around(0.1)},
        synflow={0.9: around(0.96), 0.999: around(0.85)},
        iterative_snip={0.9: around(0.95), 0.999: around(0.65)},
        iterative_fused={0.9: around(0.95), 0.999: around(0.65)},
        panning={0.9: [0.95, 0.952, 0.955], 0.999: [0.88, 0.882, 0.885]},
        rlpanning={0.9: [0.95, 0.953, 0.951], 0.999: [0.87, 0.882, 0.886]},
    )
    settings = {"Panning": 0.9, "without return": 0.8, "shuffled in layers": 0.95}
    ablations = pd.DataFrame(
        {
            "study": "loop",
            "setting": name,
            "sparsity": 0.9,
            "seed": seed,
            "accuracy": value + jitter,
        }
        for name, value in settings.items()
        for seed, jitter in enumerate((0.0, 0.001 * len(name), 0.002))
    )
    robustness = pd.DataFrame(
        {"axis": axis, "value": 0.5, "method": method, "sparsity": 0.9, "seed": seed}
        | {"accuracy": value + 0.001 * seed * index}
        for axis in ("fraction", "width")
        for index, (method, value) in enumerate(
            {"panning": 0.9, "synflow": 0.8, "rlpanning": 0.85}.items()
        )
        for seed in range(3)
    )
    returns = pd.DataFrame(
        {"policy": policy, "sparsity": 0.9, "seed": seed, "return": value + 0.1 * seed * index}
        for index, (policy, value) in enumerate(
            {"agent 0": -20, "hand-made": -25, "SynFlow alone": -22, "random": -30}.items()
        )
        for seed in range(3)
    )
    return comparison, ablations, robustness, returns


def test_each_claim_gets_the_difference_that_the_tables_hold(tables):
    found = claims.verdicts(*tables, HOME, 0.95).set_index("statement")
    row = found.loc["Panning is above SynFlow at 90 %"]
    assert row["difference"] == pytest.approx(100 * (0.95233333 - 0.961), abs=1e-4)
    assert row["verdict"] == "contradicted" and row["n"] == 3
    assert found.loc["Panning is above SynFlow at 99.9 %", "verdict"] == "holds"
    assert found.loc[
        "agent 0 earns more than hand-made on unseen networks", "difference"
    ] == pytest.approx(5 - 0.1)
    assert found.filter(like="shuffled", axis=0)["verdict"].item() == "contradicted"


def test_swapping_two_methods_swaps_the_verdict(tables):
    comparison, ablations, robustness, returns = tables
    swapped = returns.replace({"policy": {"agent 0": "hand-made", "hand-made": "agent 0"}})
    before = claims.verdicts(*tables, HOME, 0.95)
    after = claims.verdicts(comparison, ablations, robustness, swapped, HOME, 0.95)
    select = "hand-made on unseen"
    first, second = (
        t[t["statement"].str.contains(select)]["verdict"].item() for t in (before, after)
    )
    assert (first, second) == ("holds", "contradicted")


def test_a_table_is_written_whole_with_fixed_precision(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").touch()
    monkeypatch.chdir(tmp_path)
    claims.save(pd.DataFrame({"a": ["x"], "b": [1 / 3]}), "table")
    assert (tmp_path / "figures" / "table.csv").read_text() == "a,b\nx,0.33\n"
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["table.csv"]
