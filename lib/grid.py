"""Runs a grid of cells in parallel, and keeps each cell that is done.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from . import config, datasets, engine, process
from .files import whole

Cell = Mapping[str, Any]

# Packages that have a part in the numbers of a cell.
COMPUTES = ("torch", "torchvision", "numpy", "stable-baselines3", "gymnasium", "optuna")


def closure(module: str) -> set[Path]:
    """The source files of `module` and of every module of this library that it imports.

    `lib/__init__.py` is left out: it only says where the public names live.
    """
    package = Path(__file__).parent
    found: set[Path] = set()
    todo = [module]
    while todo:
        path = package / f"{todo.pop().removeprefix('lib.')}.py"
        if path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                todo += [name for name in names if (package / f"{name}.py").is_file()]
    return found


def _code(path: Path) -> str:
    """What a module does: its syntax tree without docstrings, which comments do not change."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node):
            node.body = node.body[1:]
    return ast.dump(tree)


@lru_cache
def _fingerprint(module: str) -> str:
    """A digest of the code that computes a cell, and of what it runs on."""
    versions = {name: metadata.version(name) for name in COMPUTES}
    vectors = torch.backends.cpu.get_cpu_capability()
    digest = hashlib.sha256(f"{versions} {sys.version_info[:2]} {vectors}".encode())
    for path in sorted(closure(module)):
        digest.update(f"{path.name} {_code(path)}".encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {type(value).__name__: asdict(value)}
    if isinstance(value, torch.Tensor):
        data = hashlib.sha256(value.cpu().numpy().tobytes()).hexdigest()
        return [str(value.dtype), list(value.shape), data]
    raise TypeError(f"a cell's parameters must be plain values, got {value!r}")


def digest(function: Callable, cell: Cell) -> str:
    """A name for the result of `function(**cell)`: parameters, code, images and device count."""
    images = datasets.version(cell["data"]) if "data" in cell else ""
    where = str(process.resolve_device(cell["device"])) if "device" in cell else ""
    text = json.dumps([cell, images, where], sort_keys=True, default=_plain)
    key = hashlib.sha256(f"{_fingerprint(function.__module__)} {text}".encode())
    return key.hexdigest()[:32]


def _kept_at(function: Callable, cell: Cell) -> Path:
    folder = config.root() / ".cache" / "cells" / function.__name__
    return folder / f"{digest(function, cell)}.pt"


def _read(path: Path) -> Any:
    """A kept cell, or None where there is none that can be read."""
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


def _compute(function: Callable, cell: Cell, path: Path, folder: Path) -> Any:
    """A cell, in a worker, which keeps the result: who waits for it may not live to receive it."""
    with contextlib.chdir(folder):  # a worker of Ray starts elsewhere
        process.setup()
        if (kept := _kept(path)) is not None:  # by a worker that was lost afterwards
            return kept
        result = function(**cell)
    with whole(path) as file:
        torch.save(result, file)
    return result


def run_cell(function: Callable[..., Any], cell: Cell) -> Any:
    """`function(**cell)`, kept as a cell of a grid is: for what several cells have in common."""
    return _compute(function, cell, _kept_at(function, cell), config.root())


def run_grid(
    function: Callable[..., Any],
    cells: Sequence[Cell],
    compute: config.Compute,
    description: str = "",
) -> list[Any]:
    """`function(**cell)` for each cell, in the order given, in parallel; finished cells are kept.

    The results do not depend on the number of workers. With the environment variable
    PANNING_REBUILD set to a time (in seconds, as `time.time()` has it), cells kept before that time
    are computed again: `make rebuild` does that, and what it has finished is not lost if it stops.

    Args:
        function: A function of this package's; it returns numbers, texts, lists and tensors.
        cells: Its keyword arguments. Equal cells are computed once.
        compute: Device, engine and number of workers.
        description: Shown beside the progress bar.
    """
    paths = [_kept_at(function, cell) for cell in cells]
    unique = dict(zip(paths, cells, strict=True))
    results = {path: kept for path in unique if (kept := _kept(path)) is not None}
    todo = [path for path in unique if path not in results]
    tasks = [(function, unique[path], path, config.root()) for path in todo]
    with tqdm(total=len(unique), initial=len(results), desc=description, mininterval=2) as bar:
        results |= zip(todo, engine.run(_compute, tasks, compute, bar), strict=True)
    return [results[path] for path in paths]
