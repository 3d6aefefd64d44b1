"""tools/rebuild.py reads DVC's output right and tells the truth about what changed."""

import subprocess

import numpy as np
import pytest
from PIL import Image

from tools import rebuild


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("Running stage 'metrics':\n", "metrics"),
        ("Running stage 'train@lenet5-0.99':\n", "train@lenet5-0.99"),
        ("Stage 'metrics' didn't change, skipping\n", None),
        ("> echo \"Running stage 'metrics':\"\n", None),
        ("\n", None),
    ],
)
def test_stage_of_reads_the_line_that_announces_a_stage(line: str, stage: str | None) -> None:
    assert rebuild.stage_of(line) == stage


def test_a_stage_lasts_until_the_next_begins_and_the_last_until_the_end() -> None:
    starts = [("data", 10.0), ("grid@a", 12.5), ("grid@b", 20.0)]
    assert rebuild.durations(starts, 21.0) == [("data", 2.5), ("grid@a", 7.5), ("grid@b", 1.0)]


def test_no_stage_takes_no_time() -> None:
    assert rebuild.durations([], 5.0) == []


def commit(repository) -> None:
    for command in (
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "results"],
    ):
        subprocess.run(["git", *command], cwd=repository, check=True)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A repository with two committed results, in which the pipeline has just run."""
    for name in ("data/results/a.csv", "figures/b.svg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("1\n")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    commit(tmp_path)
    monkeypatch.setattr(rebuild, "ROOT", tmp_path)
    monkeypatch.setattr(rebuild, "reproduce", lambda targets: (0, [("data", 2.0), ("grid", 3.0)]))
    return tmp_path


def test_the_same_bytes_pass(results, capsys) -> None:
    (results / "figures/b.svg").write_text("1\n")  # written again, as a stage does
    assert rebuild.main([]) == 0
    printed = capsys.readouterr().out
    assert "byte for byte (2 files)" in printed
    assert "5.0 s  total" in printed


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("data/results/a.csv", lambda path: path.write_text("2\n")),
        ("data/results/a.csv", lambda path: path.write_bytes(b"1\r\n")),
        ("figures/b.svg", lambda path: path.unlink()),
        (
            "data/agents/new/actor.json",
            lambda path: path.parent.mkdir(parents=True) or path.touch(),
        ),
    ],
    ids=["changed", "line end changed", "missing", "new"],
)
def test_a_file_that_differs_is_named_and_fails(results, capsys, name, spoil) -> None:
    spoil(results / name)
    assert rebuild.main([]) == 1
    printed = capsys.readouterr().out
    assert name in printed
    assert "byte for byte" not in printed


@pytest.mark.parametrize(
    ("change", "code"), [(0, 0), (1, 0), (rebuild.LEVELS, 0), (rebuild.LEVELS + 1, 1), (200, 1)]
)
def test_a_picture_passes_that_is_drawn_alike(results, capsys, change: int, code: int) -> None:
    pixels = np.full((4, 5, 3), 40, dtype=np.uint8)
    Image.fromarray(pixels).save(results / "figures/c.png")
    commit(results)
    pixels[1, 2, 0] += change
    Image.fromarray(pixels).save(results / "figures/c.png")
    assert rebuild.main([]) == code
    printed = capsys.readouterr().out
    assert ("figures/c.png" in printed) == (change > 0)
    assert ("Drawn alike" in printed) == (0 < change <= rebuild.LEVELS)
    if 0 < change <= rebuild.LEVELS:
        assert "Every other" in printed and "(2 files)" in printed


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: Image.new("RGB", (5, 5), (40, 40, 40)).save(path),  # of another size
        lambda path: path.write_bytes(path.read_bytes()[:20]),
        lambda path: path.write_text("no picture"),
        lambda path: path.unlink(),
    ],
    ids=["size", "only its head", "text", "missing"],
)
def test_a_picture_that_is_another_or_none_is_not_alike(results, capsys, spoil) -> None:
    Image.new("RGB", (5, 4), (40, 40, 40)).save(results / "figures/c.png")
    commit(results)
    spoil(results / "figures/c.png")
    assert rebuild.main([]) == 1
    assert "Drawn alike" not in capsys.readouterr().out


def test_a_failure_of_dvc_is_passed_on(results, monkeypatch, capsys) -> None:
    monkeypatch.setattr(rebuild, "reproduce", lambda targets: (255, [("data", 2.0)]))
    assert rebuild.main([]) == 255
    printed = capsys.readouterr().out
    assert "2.0 s  data" in printed
    assert "committed" not in printed


def test_nothing_committed_is_no_success(results) -> None:
    subprocess.run(["git", "rm", "-r", "--quiet", "--cached", "."], cwd=results, check=True)
    for name in ("data/results/a.csv", "figures/b.svg"):
        (results / name).unlink()
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "none"],
        cwd=results,
        check=True,
    )
    assert rebuild.main([]) == 1
