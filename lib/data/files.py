"""Files are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends without an error.

    A process that is killed half-way, or runs out of disk, leaves the old file or none. The
    unfinished one has the process id in its name, so that two writers do not share it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def root() -> Path:
    """The repository: the nearest folder, from the working directory upwards, with a params.yaml.

    Notebooks run from the root under papermill and from notebooks/ in JupyterLab; both find it.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"no params.yaml in {here} or above it: run this from a clone of the companion"
    )
