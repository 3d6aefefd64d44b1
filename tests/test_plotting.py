"""Figures: the same bytes twice, a method's colour everywhere, and nothing hidden."""

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from lib import agent_figures, config, method_figures, plotting
from lib.methods import METHODS


@pytest.fixture(autouse=True)
def closed_figures():
    mpl.use("agg")
    plotting.style()
    yield
    plt.close("all")


def comparison_table():
    rng = np.random.default_rng(0)
    rows = [
        {"method": method, "sparsity": rho, "seed": seed, "accuracy": rng.uniform(0.1, 1)}
        for method in ("snip", "synflow", "iterative_snip", "iterative_fused", "panning")
        for rho in (0.9, 0.99, 0.999)
        for seed in range(3)
    ]
    rows += [{"method": "dense", "sparsity": 0.0, "seed": s, "accuracy": 0.97} for s in range(3)]
    return pd.DataFrame(rows)


def test_every_method_has_a_look():
    assert set(METHODS) - {"force", "erk"} <= set(plotting.LOOKS)


def test_no_two_methods_look_alike():
    looks = plotting.LOOKS.values()
    assert len({look.color for look in looks}) == len({look.label for look in looks}) == len(looks)
    marked = [look.marker for look in looks if look.marker]
    assert len(set(marked)) == len(marked)
    for a, b in itertools.combinations(looks, 2):
        distance = np.linalg.norm(np.subtract(to_rgb(a.color), to_rgb(b.color)))
        assert distance > 0.12, (a.label, b.label)


def test_a_method_has_its_colour_and_its_mean_in_the_curves():
    table = comparison_table()
    ax = method_figures.panning_vs_iterative(table, 0.95).axes[0]
    lines = {line.get_label(): line for line in ax.lines}
    look = plotting.LOOKS["panning"]
    assert lines[look.label].get_color() == look.color
    expected = table[table["method"] == "panning"].groupby("sparsity")["accuracy"].mean()
    assert np.allclose(lines[look.label].get_ydata(), 100 * expected)
    assert np.allclose(lines[look.label].get_xdata(), 1 - expected.index.to_numpy())
    assert np.allclose(lines["dense"].get_ydata(), 97)


def test_the_comparison_draws_the_paired_difference():
    table = comparison_table()
    methods = ["snip", "synflow", "panning"]
    right = method_figures.comparison(table, methods, 0.95).axes[1]
    wide = table.pivot(index=["sparsity", "seed"], columns="method", values="accuracy")
    expected = 100 * (wide["panning"] - wide["snip"]).dropna().groupby("sparsity").mean()
    drawn = right.containers[0].lines[0].get_xdata()
    assert np.allclose(drawn, expected)


@pytest.mark.parametrize(
    ("sparsity", "text"), [(0.9, "90 %"), (0.999, "99.9 %"), (0.9995, "99.95 %"), (0, "0 %")]
)
def test_a_sparsity_is_written_as_people_write_it(sparsity, text):
    assert plotting.percent(sparsity) == text


def test_a_saved_figure_has_the_same_bytes_twice_and_no_date(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").touch()
    monkeypatch.chdir(tmp_path)
    plotting.style(config.Figures(dpi=50, width=5.0, font_size=8.0))
    kept = []
    for _ in range(2):
        written = plotting.save(
            method_figures.panning_vs_iterative(comparison_table(), 0.95), "figure"
        )
        kept.append([path.read_bytes() for path in written])
        assert {path.suffix for path in written} == {".svg", ".png"}
    assert kept[0] == kept[1]
    assert b"<dc:date>" not in kept[0][0]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "figure.png",
        "figure.svg",
    ]


def test_figure_settings_reach_the_figure():
    plotting.style(config.Figures(dpi=50, width=5.0, font_size=11.0))
    figure = agent_figures.overview()
    assert figure.get_size_inches()[0] == 5 and figure.dpi == 50
    assert mpl.rcParams["axes.labelsize"] == 11
