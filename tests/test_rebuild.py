"""tools/rebuild.py tells the truth about what changed, and ends well where what matters holds."""

import base64
import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tools import rebuild

HERE = {"processor": "AuthenticAMD family 25"}
COMPARISON = [
    {"method": method, "sparsity": 0.9, "seed": seed, "accuracy": accuracy, "mask": mask}
    | {"effective_sparsity": 0.9}
    for method, mask in (("dense", None), ("snip", "123456789012"), ("grasp", "1e0000000000"))
    for seed, accuracy in enumerate([0.90, 0.91, 0.92])  # their interval is 0.91 ± 0.025
]
CLAIMS = [
    {"claim": "A", "statement": statement, "verdict": "holds", "headline": statement == "first"}
    for statement in ("first", "second")
]
RETURNS = [{"policy": "agent 0", "return": -30.0}, {"policy": "random", "return": -50.0}]


def png(level: int = 40, size: tuple[int, int] = (5, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (level, 40, 40)).save(buffer, "png")
    return buffer.getvalue()


def notebook(picture: bytes, text: str = "a figure") -> str:
    data = {"image/png": base64.b64encode(picture).decode(), "text/plain": text}
    return json.dumps({"cells": [{"outputs": [{"data": data}]}]})


def write(folder: Path, name: str, content: bytes | str | list[dict]) -> None:
    if isinstance(content, list):
        content = pd.DataFrame(content).to_csv(index=False)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def fill(folder: Path, study: str = "") -> None:
    write(folder, f"data/results/{study}/comparison.csv", COMPARISON)
    write(folder, f"data/results/{study}/learning_returns.csv", RETURNS)
    write(folder, f"figures/{study}/table_claims.csv", CLAIMS)
    write(folder, f"figures/{study}/a.png", png())
    write(folder, f"data/agents/{study}/a.pt", "weights")
    write(folder, rebuild.PROVENANCE, json.dumps({"default": HERE, "full": HERE}))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """What is committed and what a rebuild made: the same, to begin with."""
    folders = tmp_path / "before", tmp_path / "after"
    for folder in folders:
        fill(folder)
        write(folder, "executed/0.ipynb", notebook(png()))
    return folders


def at_home(pair: tuple[Path, Path]) -> int:
    return rebuild.compare(*pair, "", HERE)


def abroad(pair: tuple[Path, Path]) -> int:
    return rebuild.compare(*pair, "", {"processor": "GenuineIntel family 6"})


# --- running -------------------------------------------------------------------------------------


def test_a_stage_lasts_until_the_next_begins_and_the_last_until_the_end() -> None:
    starts = [("data", 10.0), ("grid@a", 40.0), ("grid@b", 100.0)]
    expected = "minutes: data 0.5, grid@a 1.0, grid@b 0.2, total 1.7"
    assert rebuild.minutes(starts, 112.0) == expected
    assert rebuild.minutes([], 5.0) == "minutes: total 0.0"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with committed results, in which the pipeline has just run."""
    fill(tmp_path)
    fill(tmp_path, "full")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "results"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(rebuild, "ROOT", tmp_path)
    monkeypatch.setattr(rebuild, "provenance", lambda: HERE)
    monkeypatch.setattr(rebuild, "reproduce", lambda targets: (0, "minutes: data 0.5, total 0.5"))
    return tmp_path


def test_a_rebuild_is_compared_with_git_and_each_study_for_itself(repository, capsys) -> None:
    assert rebuild.main([]) == rebuild.main(["profiles/full/dvc.yaml"]) == 0
    assert capsys.readouterr().out.count("minutes: data 0.5, total 0.5\nAll 5 tables") == 2
    (repository / "data/results/full/comparison.csv").unlink()
    assert rebuild.main([]) == 0
    assert rebuild.main(["profiles/full/dvc.yaml"]) == 1


def test_a_failure_of_dvc_is_passed_on(repository, monkeypatch, capsys) -> None:
    monkeypatch.setattr(rebuild, "reproduce", lambda targets: (255, "minutes: total 0.1"))
    assert rebuild.main([]) == 255
    assert "committed" not in capsys.readouterr().out


# --- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data/results/comparison.csv", "other"),
        ("data/results/learning_returns.csv", pd.DataFrame(RETURNS).to_csv(lineterminator="\r\n")),
        ("figures/table_claims.csv", None),
        ("data/agents/new.pt", ""),
        ("figures/a.png", png(40 + rebuild.LEVELS + 1)),
        ("figures/a.png", png(size=(5, 5))),
        ("figures/a.png", png()[:20]),
        ("figures/a.png", None),
        ("executed/0.ipynb", notebook(png(40 + rebuild.LEVELS + 1))),
        ("executed/0.ipynb", notebook(png(), "another figure")),
        ("executed/0.ipynb", notebook(png())[:-9]),
    ],
)
def test_at_home_a_file_that_differs_is_named_and_fails(pair, capsys, name, content) -> None:
    if content is None:
        (pair[1] / name).unlink()
    else:
        write(pair[1], name, content)
    assert rebuild.changed(*pair, "") == [name]
    assert at_home(pair) == 1
    assert name in capsys.readouterr().out


@pytest.mark.parametrize("level", [40, 40 + rebuild.LEVELS, 40 - rebuild.LEVELS])
def test_pictures_pass_that_look_alike_in_files_and_in_notebooks(pair, level: int) -> None:
    write(pair[1], "figures/a.png", png(level))
    write(pair[1], "executed/0.ipynb", notebook(png(level)))
    write(pair[1], "figures/.b.svg.17.partial", "half")  # what a kill leaves behind
    assert at_home(pair) == abroad(pair) == 0


def test_nothing_committed_is_no_success(pair, tmp_path) -> None:
    assert rebuild.compare(tmp_path / "nothing", pair[1], "", HERE) == 1


# --- what matters --------------------------------------------------------------------------------


def changing(pair: tuple[Path, Path], name: str, where: dict, **values: object) -> None:
    """Set values in the rows of a rebuilt table that have those of `where`."""
    table = pd.read_csv(pair[1] / name, dtype={"mask": str})
    rows = np.logical_and.reduce([table[column] == value for column, value in where.items()])
    for column, value in values.items():
        table.loc[rows, column] = value
    table.to_csv(pair[1] / name, index=False)


TABLE = "data/results/comparison.csv"
SNIP = {"method": "snip", "seed": 0}


def test_abroad_other_digits_agents_and_figures_pass_and_are_said_in_five_lines(
    pair, capsys
) -> None:
    changing(pair, TABLE, SNIP, accuracy=0.93)  # the mean is 0.92
    changing(pair, "data/results/learning_returns.csv", {"policy": "agent 0"}, **{"return": -29.0})
    changing(pair, "figures/table_claims.csv", {"statement": "second"}, verdict="open")
    write(pair[1], "data/agents/a.pt", "others")
    write(pair[1], "figures/a.png", png(200))
    assert abroad(pair) == 0
    assert capsys.readouterr().out.splitlines() == [
        "5 of 6 committed files, or new ones, differ:",
        "masks: 0 of 6 networks have another mask",
        "means: 0 of 3 outside the committed 95% interval",
        "agents: 1 of 1 have other weights; agents earn -29.00 on average, committed -30.00",
        "verdicts: 1 of 2 changed, 0 of them headlines",
        "figures: 1 of 1 redrawn",
        "What matters holds: committed from AuthenticAMD family 25, "
        "rebuilt on GenuineIntel family 6.",
    ]
    assert at_home(pair) == 1


@pytest.mark.parametrize(
    ("name", "where", "values", "said"),
    [
        (TABLE, SNIP, {"accuracy": 1.0}, "means: 1 of 3"),  # the mean is 0.943
        (TABLE, {"method": "snip"}, {"accuracy": None}, "means: 1 of 3"),
        (TABLE, SNIP, {"mask": "123456789013"}, "masks: 1 of 6"),  # a third of the masks
        (TABLE, {"method": "snip"}, {"method": "new"}, "masks: 3 of 6"),
        ("figures/table_claims.csv", {"statement": "first"}, {"verdict": "open"}, "1 of them head"),
        ("figures/table_claims.csv", {"statement": "first"}, {"statement": "new"}, "2 of them"),
    ],
)
def test_abroad_a_mean_a_mask_or_a_headline_that_does_not_hold_fails(
    pair, capsys, name, where, values, said
) -> None:
    changing(pair, name, where, **values)
    assert abroad(pair) == 1
    printed = capsys.readouterr().out
    assert said in printed and "does NOT hold" in printed


@pytest.mark.parametrize(
    ("others", "effective", "holds"),
    [(2, 0.9, True), (3, 0.9, False), (1, 0.9009, True), (1, 0.8989, False), (1, None, False)],
)
def test_masks_hold_when_few_differ_by_few_weights(others, effective, holds) -> None:
    before = pd.DataFrame({"method": "snip", "sparsity": 0.9, "seed": range(20), "mask": "a"})
    before["effective_sparsity"] = 0.9
    after = before.copy()
    after.loc[: others - 1, ["mask", "effective_sparsity"]] = ["b", effective]
    assert rebuild.masks(before, after).holds is holds


def test_tables_that_cannot_be_compared_do_not_hold(pair, capsys) -> None:
    (pair[1] / TABLE).unlink()
    assert abroad(pair) == 1
    assert "cannot be compared" in capsys.readouterr().out


def test_provenance_names_the_machine_whose_bytes_lie_in_the_folder(pair) -> None:
    path = pair[1] / rebuild.PROVENANCE
    committed = path.read_text()
    assert abroad(pair) == 0 and path.read_text() == committed  # the same bytes are from both
    write(pair[1], "data/agents/a.pt", "others")
    assert abroad(pair) == 0
    assert json.loads(path.read_text()) == {
        "default": {"processor": "GenuineIntel family 6"},
        "full": HERE,
    }


def test_provenance_is_of_plain_text() -> None:
    found = rebuild.provenance()
    assert found["processor"] and all(isinstance(value, str) for value in found.values())
    assert {"device", "python", "torch", "settings"} < set(found)
