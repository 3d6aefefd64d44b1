"""What a killed DVC has left half written does not keep the next one from starting."""

import subprocess
from pathlib import Path

import pytest

from tools.unlock import unlock

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("dvc.lock", "profiles/full/dvc.lock")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with both locks, committed."""
    for name in LOCKS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "--all"], ["commit", "-qm", "as it stands"]):
        subprocess.check_call([*git, *arguments])
    return tmp_path


def test_what_is_whole_stays_as_it_is(folder: Path) -> None:
    lock = folder / "dvc.lock"
    lock.write_text(lock.read_text().replace("size: ", "size: 1"))  # a run not yet committed
    readers = folder / ".dvc" / "tmp" / "rwlock"
    readers.parent.mkdir(parents=True)
    readers.write_text("{}")
    before = lock.read_text()
    assert unlock(folder) == []
    assert lock.read_text() == before and readers.read_text() == "{}"


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_cut_anywhere_is_whole_yaml_or_the_committed_one(folder: Path, name: str) -> None:
    lock = folder / name
    whole, mended = lock.read_bytes(), 0
    for cut in (0, 1, *range(7, len(whole), len(whole) // 8)):
        lock.write_bytes(whole[:cut])
        said = unlock(folder)
        assert lock.read_bytes() == (whole if said else whole[:cut])
        assert all(sentence.startswith(f"{name} was half written") for sentence in said)
        assert unlock(folder) == []
        mended += bool(said)
    assert mended > 1


def test_a_lock_that_git_does_not_have_is_taken_away(folder: Path) -> None:
    lock = folder / "profiles" / "other" / "dvc.lock"
    lock.parent.mkdir()
    lock.write_text("schema: '2.0'\nstages:\n  data:\n    cmd:")
    (said,) = unlock(folder)
    assert not lock.exists() and "every stage runs again" in said


@pytest.mark.parametrize("content", ["", '{"dvc.yaml": {"wri'])
def test_a_half_written_list_of_readers_is_taken_away(folder: Path, content: str) -> None:
    readers = folder / ".dvc" / "tmp" / "rwlock"
    readers.parent.mkdir(parents=True)
    readers.write_text(content)
    (said,) = unlock(folder)
    assert not readers.exists() and "rwlock" in said
