"""A wrong parameter is refused by name."""

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
import yaml

from lib import config

ROOT = Path(__file__).resolve().parents[1]
FILES = [ROOT / "params.yaml", ROOT / "profiles/smoke.yaml"]  # for the others see test_plan
SCORING = {"per_class": 10, "count": 5, "temperature": 200.0}


def figures(**changes: object) -> dict[str, object]:
    return {"dpi": 150, "width": 7.0, "font_size": 9.0} | changes


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_params_file_has_every_section_and_key_and_nothing_else(path: Path) -> None:
    loaded = vars(config.load(path))
    written = yaml.safe_load(path.read_text())
    assert list(loaded) == list(written)
    assert set(loaded) == set(config.SECTIONS)
    for name, section in loaded.items():
        assert {field.name for field in fields(section)} == set(written[name])


def test_whole_numbers_become_floats_where_floats_are_meant() -> None:
    temperature = config.parse(scoring=SCORING | {"temperature": 200}).scoring.temperature
    assert (temperature, type(temperature)) == (200.0, float)


def test_lists_become_tuples_to_the_last_level() -> None:
    parsed = config.parse(
        panning={"steps": 2, "schedule": "linear", "stages": [[0.5, 1, 0, 0], [1, 0, 1, 0]]}
    ).panning
    assert parsed.stages == ((0.5, 1.0, 0.0, 0.0), (1.0, 0.0, 1.0, 0.0))
    assert {type(value) for row in parsed.stages for value in row} == {float}
    hash(parsed)  # so that a section can be the key of a cache


def test_a_section_cannot_be_changed() -> None:
    section = config.parse(scoring=SCORING).scoring
    with pytest.raises(FrozenInstanceError):
        section.count = 3


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"scores": SCORING}, ValueError, "unknown section 'scores'; known are compute, data"),
        (
            {"scoring": SCORING | {"per_clas": 10}},
            ValueError,
            "unknown key 'per_clas' in section 'scoring'; known are per_class, count",
        ),
        ({"scoring": {"count": 5}}, ValueError, "section 'scoring' lacks the key 'per_class'"),
        ({"scoring": None}, TypeError, "section 'scoring' must be a mapping, got None"),
        ({"scoring": [1]}, TypeError, r"section 'scoring' must be a mapping, got \[1\]"),
        (
            {"statistics": {"confidence": "1e-3"}},
            TypeError,
            r"statistics.confidence must be of type float, got '1e-3' \(.*write 0.001\)",
        ),
        ({"figures": figures(dpi="150")}, TypeError, "figures.dpi must be of type int, got '150'$"),
        ({"figures": figures(dpi=150.0)}, TypeError, "figures.dpi must be of type int, got 150.0"),
        ({"figures": figures(dpi=True)}, TypeError, "figures.dpi must be of type int, got True"),
        ({"figures": figures(width=True)}, TypeError, "figures.width must be of type float"),
        ({"figures": figures(width=None)}, TypeError, "figures.width must be of type float"),
        (
            {"metrics": {"network": "lenet5", "seed": 0, "sparsities": 0.9}},
            TypeError,
            "metrics.sparsities must be a list, got 0.9",
        ),
        (
            {"metrics": {"network": "lenet5", "seed": 0, "sparsities": [0.9, "0.99"]}},
            TypeError,
            r"metrics.sparsities\[1\] must be of type float, got '0.99'",
        ),
        (
            {"panning": {"steps": 1, "schedule": "linear", "stages": [[1.0, 0.5, 0.5]]}},
            TypeError,
            r"panning.stages\[0\] must have 4 entries",
        ),
    ],
)
def test_a_wrong_parameter_is_refused_by_section_and_key(sections, error, message: str) -> None:
    with pytest.raises(error, match=message):
        config.parse(**sections)


def test_a_file_without_one_of_the_sections_is_refused(workspace) -> None:
    values = yaml.safe_load((workspace / "params.yaml").read_text())
    del values["scoring"]
    (workspace / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match="params.yaml: lacks the section 'scoring'"):
        config.load()


# --- the repository ------------------------------------------------------------------------------


@pytest.mark.parametrize("below", [".", "notebooks", "notebooks/deep"])
def test_the_root_is_found_from_anywhere_below_it(workspace, monkeypatch, below: str) -> None:
    (workspace / below).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(workspace / below)
    assert config.root() == workspace
    assert config.load() == config.load(workspace / "params.yaml")


def test_the_nearest_params_file_is_the_one_that_counts(workspace, monkeypatch) -> None:
    inner = workspace / "inner"
    inner.mkdir()
    (inner / "params.yaml").touch()
    monkeypatch.chdir(inner)
    assert config.root() == inner


def test_outside_of_a_clone_the_error_says_so(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no params.yaml in .*: run this from a clone"):
        config.root()
