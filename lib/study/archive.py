"""Finished cells in a file that git can keep: for a study that takes longer than a machine is lent.

A line a cell, JSON: the function, its arguments, the digest of the code that computed it, and the
result. Kept cells (see `grid`) go with the machine; these go on with the next clone.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..data.files import whole


class Line(NamedTuple):
    """A finished cell.

    Attributes:
        function: Its name.
        cell: Its arguments, as JSON.
        code: Digest of the code, libraries and kind of processor that computed it.
        result: Plain values.
    """

    function: str
    cell: str
    code: str
    result: Any


def _lines(path: Path) -> Iterator[Line]:
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            yield Line(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"compute.archive: line {number} of {path} is damaged ({error}); delete the line"
            ) from error


def add(path: Path, line: Line) -> None:
    """Append a cell, whole, also while others do; what JSON cannot hold is left out."""
    try:
        text = json.dumps(line._asdict(), sort_keys=True)
    except TypeError:  # tensors: an agent, say
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(text.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, code: str, any_code: bool = False) -> dict[tuple[str, str], Any]:
    """{(function, cell): result} of the cells that this code computed, or any.

    Raises:
        ValueError: A line is damaged.
    """
    if not path.is_file():
        return {}
    lines = [line for line in _lines(path) if any_code or line.code == code]
    lines.sort(key=lambda line: line.code == code)  # this code's own come last, and win
    return {(line.function, line.cell): line.result for line in lines}


def tidy(path: Path) -> None:
    """Sort the lines, one for each cell and code, so that git shows what is new."""
    if path.is_file():
        found = {line[:3]: line for line in _lines(path)}
        text = "".join(
            json.dumps(found[key]._asdict(), sort_keys=True) + "\n" for key in sorted(found)
        )
        with whole(path) as file:
            file.write(text.encode())
