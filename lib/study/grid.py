"""Runs a grid of cells in parallel, and keeps each finished one.

A cell is a function of its parameters alone. Cells run in processes of one torch thread each, and a
finished one is kept under .cache/cells/, named by its parameters and by the code that computes it:
an interrupted grid loses nothing, and a re-worded notebook computes nothing.
"""

import ast
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from tqdm import tqdm

from ..data import sources
from ..data.files import root, whole
from . import archive, engine, process
from .parameters import Compute

Cell = Mapping[str, Any]

LIB = Path(__file__).parents[1]
# These decide where and when a cell is computed, never its result; `lib` says where names live, and
# what `parameters` holds is in a cell's key already.
NO_PART = {LIB / "__init__.py"} | {
    LIB / f"study/{n}.py" for n in ("archive", "command", "engine", "grid", "parameters")
}
# Packages that affect the numbers of a cell, and settings of their libraries.
COMPUTES = ("torch", "torchvision", "numpy", "stable-baselines3", "gymnasium", "optuna")
SETTINGS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR")


def _imports(path: Path) -> Iterator[Path]:
    """The modules of this library that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level:  # one dot is the module's own package
                base = path.parents[node.level - 1]
            elif node.module and node.module.split(".")[0] == LIB.name:
                base = LIB.parent
            else:
                continue
            base = base.joinpath(*(node.module or "").split("."))
            # A name imported from a package may be one of its modules, or defined in its __init__.
            found = [base, *(base / alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [a.name.split(".") for a in node.names if a.name.split(".")[0] == LIB.name]
            found = [LIB.parent.joinpath(*name) for name in names]
        else:
            continue
        files = (f for p in found for f in (p.with_name(f"{p.name}.py"), p / "__init__.py"))
        yield from (f for f in files if f.is_file())


def closure(module: str) -> set[Path]:
    """The source files that affect what a module computes: its own, and all it imports.

    Relative and absolute imports are followed, into packages too.
    """
    seen: set[Path] = set()
    todo = [LIB.parent.joinpath(*module.split(".")).with_suffix(".py")]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += _imports(path)
            packages = (p / "__init__.py" for p in path.parents if LIB in p.parents)
            todo += [p for p in packages if p.is_file()]  # Python runs them on the way
    return seen - NO_PART


def _code(path: Path) -> str:
    """What a module does: its syntax tree without docstrings, comments and error messages."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node):
            node.body = node.body[1:]
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
    return ast.dump(tree)


@lru_cache
def _fingerprint(module: str) -> str:
    """A digest of the code that computes a cell, and of what it runs on."""
    versions = {name: metadata.version(name) for name in COMPUTES}
    settings = {name: os.environ.get(name) for name in SETTINGS}
    vectors = torch.backends.cpu.get_cpu_capability()
    text = f"{versions} {sys.version_info[:2]} {vectors} {settings}"
    digest = hashlib.sha256(text.encode())
    for path in sorted(closure(module)):
        digest.update(f"{path.relative_to(LIB)} {_code(path)}".encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {type(value).__name__: value.model_dump()}
    if isinstance(value, torch.Tensor):
        data = hashlib.sha256(value.cpu().numpy().tobytes()).hexdigest()
        return [str(value.dtype), list(value.shape), data]
    raise TypeError(f"a cell's parameters must be plain values, got {value!r}")


def _described(cell: Cell) -> str:
    """The arguments of a cell, with its images and kind of device, as JSON."""
    images = sources.version(cell["data"]) if "data" in cell else ""
    where = str(process.resolve_device(cell["device"])) if "device" in cell else ""
    text = json.dumps([cell, images, where], sort_keys=True, default=_plain)
    if '"timm:' in text:  # an extra, and so not among the packages that every cell depends on
        text += metadata.version("timm")
    return text


def digest(function: Callable, cell: Cell) -> str:
    """A name for the result of `function(**cell)`: parameters, code, images and kind of device."""
    text = f"{_fingerprint(function.__module__)} {_described(cell)}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _kept_at(function: Callable, cell: Cell) -> Path:
    folder = root() / ".cache" / "cells" / function.__name__
    return folder / f"{digest(function, cell)}.pt"


def _read(path: Path) -> Any:
    """A kept cell, or None if there is none that can be read."""
    try:
        return torch.load(path, weights_only=True)
    except FileNotFoundError:
        return None
    except Exception:  # half a file, from a machine that lost power: compute the cell again
        path.unlink(missing_ok=True)
        return None


def outdated(path: Path) -> bool:
    """Whether a rebuild is under way, and began after this file or folder was written."""
    started = float(os.environ.get("PANNING_REBUILD", 0))
    return path.exists() and path.stat().st_mtime < started


def _kept(path: Path) -> Any:
    """A kept cell that is still good, or None."""
    return None if outdated(path) else _read(path)


def _compute(
    function: Callable, cell: Cell, path: Path, folder: Path, archived: str | None = None
) -> Any:
    """A cell, in a worker, which keeps the result itself: its caller may die before it arrives."""
    with contextlib.chdir(folder):  # a worker of Ray starts elsewhere
        process.setup()
        if (kept := _kept(path)) is not None:  # by a worker that died afterwards
            return kept
        result = function(**cell)
        code = _fingerprint(function.__module__)
        line = archive.Line(function.__name__, _described(cell), code, result)
    with whole(path) as file:
        torch.save(result, file)
    if archived:
        archive.add(folder / archived, line)
    return result


def run_cell(function: Callable[..., Any], cell: Cell) -> Any:
    """`function(**cell)`, kept like a cell of a grid: for what several cells share."""
    return _compute(function, cell, _kept_at(function, cell), root())


def run_grid(
    function: Callable[..., Any], cells: Sequence[Cell], compute: Compute, description: str = ""
) -> list[Any]:
    """`function(**cell)` for each cell, in the order given, in parallel; finished cells are kept.

    The results do not depend on the number of workers. With the environment variable
    PANNING_REBUILD set to a time (in seconds, as from `time.time()`), cells kept before then are
    computed again: `make rebuild` does that, and keeps what it has finished if it is interrupted.
    With `compute.archive` cells come from that file, too, if the same code computed them, or with
    the environment variable PANNING_ANY_CODE set, and are added to it.

    Args:
        function: A function of this package; it returns numbers, strings, lists and tensors.
        cells: Its keyword arguments. Equal cells are computed once.
        compute: Device, engine and number of workers.
        description: Shown beside the progress bar.
    """
    paths = [_kept_at(function, cell) for cell in cells]
    unique = dict(zip(paths, cells, strict=True))
    results = {path: kept for path in unique if (kept := _kept(path)) is not None}
    kept_in_git = _archived(function, compute)
    for path in unique.keys() - results.keys():
        place = function.__name__, _described(unique[path])
        if place in kept_in_git:
            results[path] = kept_in_git[place]
    todo = [path for path in unique if path not in results]
    tasks = [(function, unique[path], path, root(), compute.archive) for path in todo]
    with tqdm(total=len(unique), initial=len(results), desc=description, mininterval=2) as bar:
        results |= zip(todo, engine.run(_compute, tasks, compute, bar), strict=True)
    if compute.archive and todo:
        archive.tidy(root() / compute.archive)
    return [results[path] for path in paths]


def _archived(function: Callable, compute: Compute) -> dict[tuple[str, str], Any]:
    """The cells that `compute.archive` has; none in a rebuild."""
    if not compute.archive or "PANNING_REBUILD" in os.environ:
        return {}
    code = _fingerprint(function.__module__)
    return archive.read(root() / compute.archive, code, "PANNING_ANY_CODE" in os.environ)


def tabulate(
    function: Callable[..., Any],
    named: Sequence[tuple[Mapping[str, Any], Cell]],
    compute: Compute,
    description: str = "",
) -> list[dict[str, Any]]:
    """Run named cells: one row per cell, or as many as it returns, each with the name first."""
    found = run_grid(function, [cell for _, cell in named], compute, description)
    rows = []
    for (name, _), result in zip(named, found, strict=True):
        rows += [{**name, **one} for one in (result if isinstance(result, list) else [result])]
    return rows
