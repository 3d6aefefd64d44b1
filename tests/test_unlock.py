"""`make unlock` takes away what a killed DVC has left half written, and nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("dvc.lock", "profiles/full/dvc.lock")
WHOLE = """schema: '2.0'
stages:
  data:
    cmd: make data
    outs:
    - path: data/raw
      hash: md5
      md5: d41d8cd98f00b204e9800998ecf8427e
      size: 1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with both locks, committed."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in LOCKS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(WHOLE)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "--all"], ["commit", "-qm", "as it stands"]):
        subprocess.check_call([*git, *arguments])
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    return tmp_path


def unlock(folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if "MAKE" not in key}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["make", "-s", "unlock"]
    return subprocess.check_output(command, cwd=folder, env=environment, text=True)


def test_what_is_whole_stays_as_it_is(folder: Path) -> None:
    new = WHOLE.replace("size: 1", "size: 2")  # a run that is not committed yet
    (folder / "dvc.lock").write_text(new)
    (folder / ".dvc/tmp/rwlock").write_text("{}")
    assert unlock(folder) == ""
    assert (folder / "dvc.lock").read_text() == new
    assert (folder / ".dvc/tmp/rwlock").read_text() == "{}"


@pytest.mark.parametrize("cut", [WHOLE.index("cmd") + 2, WHOLE.index("path:") + 5])
def test_a_half_written_lock_is_the_committed_one_again(folder: Path, cut: int) -> None:
    for name in LOCKS:
        (folder / name).write_text(WHOLE[:cut])
    assert unlock(folder) == "".join(f"{name} was half written\n" for name in LOCKS)
    assert all((folder / name).read_text() == WHOLE for name in LOCKS)


def test_half_files_that_git_does_not_have_are_taken_away(folder: Path) -> None:
    halves = folder / "profiles/other/dvc.lock", folder / ".dvc/tmp/rwlock"
    for half, text in zip(
        halves, (WHOLE[: WHOLE.index("cmd") + 2], '{"dvc.yaml": {"wri'), strict=True
    ):
        half.parent.mkdir(exist_ok=True)
        half.write_text(text)
    assert "profiles/other/dvc.lock was half written" in unlock(folder)
    assert not any(half.exists() for half in halves)
    (folder / ".dvc/tmp/rwlock").write_text("")
    unlock(folder)
    assert not (folder / ".dvc/tmp/rwlock").exists()
