"""A grid gives the same results however it is run, and computes nothing twice and nothing stale."""

import ast
import importlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lib import config, engine, experiments, grid
from lib.policies import targets

PACKAGE = Path(grid.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
CELLS = [{"sparsity": rho, "steps": 3} for rho in (0.9, 0.5, 0.99)]


def run(cells: list[dict], function: Callable = targets, workers: int = 1, **settings) -> list:
    return grid.run_grid(function, cells, config.Compute("cpu", workers, **settings))


@pytest.fixture
def computed(workspace, monkeypatch) -> list[dict]:
    """The cells that are computed, in a workspace, as they are."""
    calls, real = [], grid._compute

    def note(function: Callable, cell: dict, path: Path, folder: Path) -> object:
        calls.append(cell)
        return real(function, cell, path, folder)

    monkeypatch.setattr(grid, "_compute", note)
    return calls


def files(workspace: Path) -> list[Path]:
    return sorted((workspace / ".cache/cells").glob("*/*"))


# --- results -------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_cells(computed) -> None:
    expected = [targets(**cell) for cell in CELLS]
    assert run(CELLS) == expected
    assert run(CELLS[::-1]) == expected[::-1]
    assert run(CELLS[1:2]) == expected[1:2]
    assert computed == CELLS
    assert run([]) == []


TRAINING = config.Training(1, 20, 0.1, 0.9, 0.0001)
REAL = [
    {
        "data": "digits",
        "network": "lenet5",
        "width": 0.2,
        "seed": seed,
        "sparsity": 0.9,
        "method": method,
        "steps": 3,
        "training": TRAINING,
        "scoring": config.Scoring(2, 2, 200.0),
    }
    for seed in (0, 1)
    for method in ("panning", "random")
]


@pytest.mark.parametrize("engine", engine.ENGINES)
def test_results_depend_neither_on_the_number_of_workers_nor_on_the_engine(
    toy, workspace, request, engine: str
) -> None:
    if engine == "ray":
        request.getfixturevalue("cluster")
    alone = run(REAL, experiments.prune_and_train)
    kept = [path.read_bytes() for path in files(workspace)]
    assert len(kept) == len({str(result) for result in alone}) == 4
    for path in files(workspace):
        path.unlink()
    assert run(REAL, experiments.prune_and_train, workers=2, engine=engine) == alone
    assert [path.read_bytes() for path in files(workspace)] == kept


@pytest.mark.parametrize(
    ("device", "workers", "cells", "started"),
    [("cpu", 0, 9, 5), ("cpu", 3, 9, 3), ("cpu", 3, 2, 2), ("cpu", 2, 0, 1), ("cuda", 0, 9, 1)],
)
def test_there_is_a_worker_for_each_core_or_as_many_as_asked_but_no_idle_one(
    workspace, monkeypatch, device: str, workers: int, cells: int, started: int
) -> None:
    asked, real = [], engine._Parallel

    def parallel(n_jobs: int, **settings: object) -> object:
        asked.append(n_jobs)
        return real(n_jobs=1, **settings)

    monkeypatch.setattr(engine.joblib, "cpu_count", lambda: 5)
    monkeypatch.setattr(engine, "_Parallel", parallel)
    work = [{"sparsity": 0.5, "steps": n + 1} for n in range(cells)]
    grid.run_grid(targets, work, config.Compute(device, workers))
    assert asked == [started]


# --- what is kept --------------------------------------------------------------------------------


def test_a_finished_cell_is_read_and_not_computed_again(computed, workspace) -> None:
    first = run(CELLS)
    assert len(files(workspace)) == 3  # whole ones: nothing else is left there
    computed.clear()
    assert run(CELLS) == first
    assert computed == []
    torch.save("kept", files(workspace)[0])
    assert "kept" in run(CELLS)  # it is really the file that is read


def test_equal_cells_are_computed_once(computed) -> None:
    again = {"steps": 3, "sparsity": 0.9}  # in another order
    first, second, third = run([CELLS[0], again, CELLS[1]])
    assert first == second != third
    assert computed == CELLS[:2]


def test_what_was_done_before_an_error_is_kept(computed) -> None:
    wrong = {"sparsity": 2.0, "steps": 3}
    with pytest.raises(ValueError, match="sparsity must be"):
        run([*CELLS[:2], wrong])
    computed.clear()
    run(CELLS)
    assert computed == CELLS[2:]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-1],
        lambda whole: b"",
        lambda whole: b"something else",
    ],
    ids=["half", "nearly whole", "empty", "other"],
)
def test_a_damaged_file_is_computed_again(computed, workspace, spoil) -> None:
    expected = run(CELLS[:1])
    (path,) = files(workspace)
    whole = path.read_bytes()
    path.write_bytes(spoil(whole))
    assert run(CELLS[:1]) == expected
    assert computed == CELLS[:1] * 2
    assert path.read_bytes() == whole


def test_a_file_of_code_is_not_run(computed, workspace) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (os.mkdir, ("harm",))

    expected = run(CELLS[:1])
    torch.save(Evil(), files(workspace)[0])
    assert run(CELLS[:1]) == expected
    assert not (workspace / "harm").exists()


# --- what counts ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class One:
    value: float


@dataclass(frozen=True)
class Other:
    value: float


BASE = {"number": 1, "list": [1.5, 2], "section": One(1), "tensor": torch.zeros(2, 3)}


@pytest.mark.parametrize(
    "change",
    [
        {"number": 2},
        {"number": "1"},
        {"list": [2, 1.5]},
        {"list": [1.5, 2 + 1e-12]},
        {"section": One(2)},
        {"section": Other(1)},
        {"tensor": torch.tensor([[0, 0, 0], [0, 0, 1e-9]])},
        {"tensor": torch.zeros(3, 2)},
        {"tensor": torch.zeros(2, 3, dtype=torch.int32)},
        {"more": None},
    ],
    ids=str,
)
def test_another_parameter_is_another_cell(workspace, change: dict) -> None:
    assert grid.digest(targets, BASE | change) != grid.digest(targets, BASE)


def test_the_same_parameters_are_the_same_cell(workspace) -> None:
    same = dict(reversed(BASE.items())) | {"list": (1.5, 2), "tensor": torch.zeros(2, 3)}
    assert grid.digest(targets, same) == grid.digest(targets, dict(BASE))


def test_parameters_without_a_plain_form_are_refused(workspace) -> None:
    with pytest.raises(TypeError, match="a cell's parameters must be plain values, got <obj"):
        run([{"sparsity": object()}])


@pytest.mark.parametrize(("device", "differs"), [("auto", True), ("cpu", False)])
def test_another_device_is_another_cell(workspace, monkeypatch, device, differs: bool) -> None:
    digests = set()
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        digests.add(grid.digest(targets, {"device": device}))
    assert len(digests) == 1 + differs


def test_changed_code_is_computed_again(computed, monkeypatch) -> None:
    run(CELLS)
    computed.clear()
    monkeypatch.setattr(grid, "_fingerprint", lambda module: "another")
    run(CELLS)
    assert computed == CELLS


def test_another_split_of_the_data_is_computed_again(toy, computed) -> None:
    """The name of an embedded data set does not say how params.yaml has it split."""
    first = run(REAL[:1], experiments.prune_and_train)
    run(REAL[:1], experiments.prune_and_train)
    assert len(computed) == 1
    toy(7)
    assert run(REAL[:1], experiments.prune_and_train) != first
    assert len(computed) == 2


@pytest.mark.parametrize(
    ("before", "after", "again"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_a_rebuild_computes_what_is_older_than_its_beginning(
    computed, workspace, monkeypatch, before: bool, after: bool, again: bool
) -> None:
    """`before`: whether the cell was there when the rebuild began; `after`: whether one began."""
    run(CELLS[:1])
    (path,) = files(workspace)
    began = path.stat().st_mtime + (1 if before else -1)
    if after:
        monkeypatch.setenv("PANNING_REBUILD", str(began))
    torch.save("kept", path)
    os.utime(path, (began - 1, began - 1) if before else (began + 1, began + 1))
    assert (run(CELLS[:1]) == ["kept"]) is not again


def test_an_interrupted_rebuild_goes_on_where_it_stopped(computed, workspace, monkeypatch) -> None:
    run(CELLS)
    for path in files(workspace):
        os.utime(path, (0, 0))
    monkeypatch.setenv("PANNING_REBUILD", str(time.time() - 60))
    computed.clear()
    run(CELLS[:2])
    run(CELLS)
    assert computed == CELLS


# --- code ----------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A library of five small modules in place of ours."""
    sources = {
        "one": "from . import two\nfrom .three import x as y\nimport numpy\n",
        "two": "from .one import z\n",  # in a circle
        "three": "def f():\n    from . import four, absent\n",
        "four": "from collections import abc\n",
        "five": "from .one import z\n",
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setattr(grid, "__file__", str(tmp_path / "grid.py"))
    grid._fingerprint.cache_clear()
    yield tmp_path
    grid._fingerprint.cache_clear()


def fingerprint(module: str) -> str:
    grid._fingerprint.cache_clear()
    return grid._fingerprint(module)


def test_the_closure_is_what_a_module_imports_directly_or_through_others(package) -> None:
    def names(module: str) -> set[str]:
        return {path.stem for path in grid.closure(module)}

    assert names("lib.one") == names("one") == {"one", "two", "three", "four"}
    assert names("lib.three") == {"three", "four"}
    assert names("lib.four") == {"four"}
    assert names("lib.five") == {"one", "two", "three", "four", "five"}


@pytest.mark.parametrize("name", ["one", "two", "three", "four"])
def test_code_anywhere_in_the_closure_counts(package, name: str) -> None:
    before, other = fingerprint("lib.one"), fingerprint("lib.four")
    path = package / f"{name}.py"
    path.write_text(path.read_text() + "x = 1\n")
    assert fingerprint("lib.one") != before
    assert (fingerprint("lib.four") != other) == (name == "four")


def test_comments_and_docstrings_do_not_count_and_every_other_text_does(package) -> None:
    def written(source: str) -> str:
        (package / "four.py").write_text(source)
        return fingerprint("lib.four")

    plain = written('class A:\n    def f(self):\n        return "text"\n')
    documented = '"""A module."""\nclass A:  # a class\n    """Doc."""\n\n'
    documented += '    def f(self):\n        """Doc."""\n        return "text"\n'
    assert written(documented) == plain
    assert written(documented.replace('"text"', '"other"')) != plain


def ours() -> dict[str, ModuleType]:
    return {name: m for name, m in sys.modules.items() if name.partition(".")[0] == "lib"}


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_the_closure_is_what_python_imports() -> None:
    """Of every module, in a library of which nothing else is loaded: Python's own account."""
    before, imported = ours(), {}
    try:
        for name in MODULES:
            for loaded in ours():
                del sys.modules[loaded]
            importlib.import_module(f"lib.{name}")
            imported[name] = {loaded.removeprefix("lib.") for loaded in ours()} - {"lib"}
    finally:
        for loaded in ours():
            del sys.modules[loaded]
        sys.modules.update(before)
    assert imported["grid"] > {"grid"}
    for name, found in imported.items():
        closure = grid.closure(f"lib.{name}")
        assert found <= {path.stem for path in closure}
        assert len(closure) - len(found) <= lazy(closure)


def lazy(paths: set[Path]) -> int:
    """How many imports stand inside of functions, which Python need not have run."""
    trees = [ast.parse(path.read_text()) for path in paths]
    functions = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    return sum(isinstance(n, ast.ImportFrom) for f in functions for n in ast.walk(f))
