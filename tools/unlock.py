"""Takes away what a killed DVC has left half written, with which it would start no more.

``make unlock``, and before each ``make``. DVC writes two files in place, where others are written
whole: the list of who reads and writes now, .dvc/tmp/rwlock, and what it knows of each stage,
dvc.lock. The first is taken away. The second is had back from git, so that only the stages run
again that were new, from kept cells; where git does not have it, all do.
"""

import json
import subprocess
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils import strictyaml

ROOT = Path(__file__).resolve().parents[1]


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return False
    return True


def _is_lock(path: Path) -> bool:
    try:
        strictyaml.load(str(path), COMPILED_LOCKFILE_SCHEMA)  # as DVC itself will
    except DvcException:
        return False
    return True


def unlock(folder: Path) -> list[str]:
    """Mend the repository in a folder, and return a sentence for each file that wanted it."""
    said = []
    readers = folder / ".dvc" / "tmp" / "rwlock"
    if readers.exists() and not _is_json(readers):
        readers.unlink()
        said.append(f"{readers.relative_to(folder)} was half written: taken away")
    for lock in (folder / "dvc.lock", *sorted(folder.glob("profiles/*/dvc.lock"))):
        if lock.exists() and not _is_lock(lock):
            name = str(lock.relative_to(folder))
            git = ["git", "-C", str(folder), "checkout", "--quiet", "HEAD", "--", name]
            if subprocess.run(git, capture_output=True, check=False).returncode == 0:
                said.append(f"{name} was half written: the committed one is back")
            else:
                lock.unlink()
                said.append(f"{name} was half written: taken away, so that every stage runs again")
    return said


def main() -> None:
    """Mend this repository, and say what was done."""
    for sentence in unlock(ROOT):
        print(sentence)


if __name__ == "__main__":
    main()
