"""A grid gives the same results however it is run, and computes nothing twice and nothing stale."""

import ast
import importlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lib.policies import targets
from lib.study import archive, engine, grid, parameters
from lib.study.pruning import prune_and_train

LIB = Path(grid.__file__).parents[1]
CELLS = [{"sparsity": rho, "steps": 3} for rho in (0.9, 0.5, 0.99)]


def compute(
    device: str, workers: int, engine: str = "joblib", archive: str | None = None
) -> parameters.Compute:
    return parameters.Compute(
        **{"device": device, "workers": workers, "engine": engine, "address": "auto"},
        gpus_per_cell=0.0,
        archive=archive,
    )


def run(cells: list[dict], function: Callable = targets, workers: int = 1, **settings) -> list:
    return grid.run_grid(function, cells, compute("cpu", workers, **settings))


@pytest.fixture
def computed(workspace, monkeypatch) -> list[dict]:
    """The cells that are computed, in a workspace, as they are."""
    calls, real = [], grid._compute

    def note(function: Callable, cell: dict, *rest: object) -> object:
        calls.append(cell)
        return real(function, cell, *rest)

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


TRAINING = parameters.Training(
    epochs=1, batch_size=20, optimizer="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.0001
)
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
        "scoring": parameters.Scoring(per_class=2, count=2, temperature=200.0),
    }
    for seed in (0, 1)
    for method in ("panning", "random")
]


@pytest.mark.parametrize("engine", ["joblib", pytest.param("ray", marks=pytest.mark.slow)])
def test_results_depend_neither_on_the_number_of_workers_nor_on_the_engine(
    toy, workspace, request, engine: str
) -> None:
    if engine == "ray":
        request.getfixturevalue("cluster")
    alone = run(REAL, prune_and_train)
    kept = [path.read_bytes() for path in files(workspace)]
    assert len(kept) == len({str(result) for result in alone}) == 4
    for path in files(workspace):
        path.unlink()
    assert run(REAL, prune_and_train, workers=2, engine=engine) == alone
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
    grid.run_grid(targets, work, compute(device, workers))
    assert asked == [started]


# --- what is kept --------------------------------------------------------------------------------

ARCHIVE = "data/cells/some.jsonl"


def test_finished_cells_go_on_with_the_next_clone(computed, workspace, monkeypatch) -> None:
    expected = run(CELLS[:2], archive=ARCHIVE)
    lines = (workspace / ARCHIVE).read_text().splitlines()
    assert len(lines) == 2 and lines == sorted(lines)
    shutil.rmtree(workspace / ".cache")
    computed.clear()
    assert run(CELLS, archive=ARCHIVE)[:2] == expected
    assert computed == CELLS[2:]
    assert len((workspace / ARCHIVE).read_text().splitlines()) == 3
    shutil.rmtree(workspace / ".cache")
    computed.clear()
    monkeypatch.setenv("PANNING_REBUILD", "1")  # computes everything anew, whatever was kept
    assert run(CELLS[:2], archive=ARCHIVE) == expected and computed == CELLS[:2]
    assert len((workspace / ARCHIVE).read_text().splitlines()) == 3


def test_cells_of_other_code_are_taken_on_request_alone(computed, workspace, monkeypatch) -> None:
    expected = run(CELLS[:1], archive=ARCHIVE)
    path = workspace / ARCHIVE
    older = json.loads(path.read_text()) | {"code": "0", "result": "older"}
    path.write_text(json.dumps(older) + "\n")
    shutil.rmtree(workspace / ".cache")
    monkeypatch.setenv("PANNING_ANY_CODE", "1")
    assert run(CELLS[:1], archive=ARCHIVE) == ["older"]
    monkeypatch.delenv("PANNING_ANY_CODE")
    assert run(CELLS[:1], archive=ARCHIVE) == expected
    assert len(path.read_text().splitlines()) == 2  # both, each with its code
    shutil.rmtree(workspace / ".cache")
    monkeypatch.setenv("PANNING_ANY_CODE", "1")
    assert run(CELLS[:1], archive=ARCHIVE) == expected  # its own comes first


def test_what_json_cannot_hold_is_not_archived(workspace) -> None:
    archive.add(workspace / ARCHIVE, archive.Line("f", "{}", "0", torch.zeros(2)))
    assert not (workspace / ARCHIVE).exists()


def test_a_damaged_line_of_an_archive_is_named(workspace) -> None:
    run(CELLS[:2], archive=ARCHIVE)
    path = workspace / ARCHIVE
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{second[:20]}\n")
    with pytest.raises(ValueError, match="compute.archive: line 2 of .*some.jsonl is damaged"):
        run(CELLS, archive=ARCHIVE)


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


def test_what_several_cells_share_is_kept_as_they_are(computed, workspace) -> None:
    first = grid.run_cell(targets, CELLS[0])
    assert first == targets(**CELLS[0]) == run(CELLS[:1])[0]
    torch.save("kept", files(workspace)[0])
    assert grid.run_cell(targets, CELLS[0]) == "kept"
    assert len(computed) == 2 and len(files(workspace)) == 1


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


class One(parameters.Section):
    value: float


class Other(parameters.Section):
    value: float


BASE = {"number": 1, "list": [1.5, 2], "section": One(value=1), "tensor": torch.zeros(2, 3)}


@pytest.mark.parametrize(
    "change",
    [
        {"number": 2},
        {"number": "1"},
        {"list": [2, 1.5]},
        {"list": [1.5, 2 + 1e-12]},
        {"section": One(value=2)},
        {"section": Other(value=1)},
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
    first = run(REAL[:1], prune_and_train)
    run(REAL[:1], prune_and_train)
    assert len(computed) == 1
    toy(7)
    assert run(REAL[:1], prune_and_train) != first
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


# --- tables --------------------------------------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are computed here and now, without processes and files."""
    monkeypatch.setattr(
        grid, "run_grid", lambda function, cells, *_: [function(**cell) for cell in cells]
    )


def test_a_table_has_a_row_a_cell_in_the_order_of_the_cells(at_once) -> None:
    named = [({"seed": seed}, {"x": seed}) for seed in (3, 1, 2)]
    rows = grid.tabulate(lambda x: {"square": x**2}, named, None)
    assert rows == [{"seed": seed, "square": seed**2} for seed in (3, 1, 2)]
    assert [list(row) for row in rows] == [["seed", "square"]] * 3


def test_a_cell_of_many_rows_gives_its_name_to_each_of_them(at_once) -> None:
    named = [({"seed": seed}, {"count": seed}) for seed in (2, 0, 1)]
    rows = grid.tabulate(lambda count: [{"t": t} for t in range(count)], named, None)
    assert rows == [{"seed": 2, "t": 0}, {"seed": 2, "t": 1}, {"seed": 1, "t": 0}]


def test_a_table_takes_what_it_runs_from_the_arguments(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(grid, "run_grid", lambda *arguments: seen.append(arguments) or [{}, {}])
    named = [({"seed": 0}, {"x": 0}), ({"seed": 1}, {"x": 1})]
    assert grid.tabulate(max, named, "two workers", "words") == [{"seed": 0}, {"seed": 1}]
    assert seen == [(max, [{"x": 0}, {"x": 1}], "two workers", "words")]


# --- which code ----------------------------------------------------------------------------------


def use(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Another library in place of ours."""
    parts = {folder / path.relative_to(LIB) for path in grid.NO_PART}
    monkeypatch.setattr(grid, "LIB", folder)
    monkeypatch.setattr(grid, "NO_PART", parts)
    return folder


def closure(module: str) -> set[str]:
    return {path.relative_to(grid.LIB).as_posix() for path in grid.closure(module)}


@pytest.fixture
def toy_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of a door and three wings, one of them in another."""
    for name in (
        *("__init__", "door", "study/__init__", "study/cell", "study/two", "study/grid"),
        *("nets/__init__", "nets/three", "nets/deep/__init__", "nets/deep/four", "nets/five"),
    ):
        path = tmp_path / f"lib/{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return use(monkeypatch, tmp_path / "lib")


NETS = ["nets/__init__", "nets/three"]
DEEP = ["nets/__init__", "nets/deep/__init__", "nets/deep/four"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from . import two", ["study/two"]),
        ("from .two import f as g", ["study/two"]),
        ("from .. import door", ["door"]),
        ("from ..door import f", ["door"]),
        ("from .. import nets", ["nets/__init__"]),
        ("from ..nets import three, f", NETS),
        ("from ..nets.three import f", NETS),
        ("from ..nets.deep import four", DEEP),
        ("from ..nets.deep.four import f", DEEP),
        ("from ..nets import deep", DEEP[:2]),
        ("from lib import door, f", ["door"]),
        ("from lib.door import f", ["door"]),
        ("from lib.nets import three", NETS),
        ("from lib.nets.three import f", NETS),
        ("import lib.door, numpy", ["door"]),
        ("import lib.nets.three as t", NETS),
        ("import lib.nets", NETS[:1]),
        ("import lib.nets.deep.four", DEEP),
        ("def f():\n    if True:\n        from ..door import g", ["door"]),
        ("from . import grid", []),  # which computes nothing
        ("import lib", []),
        ("from . import absent\nfrom torch import door\nimport nets.three, library.door", []),
        ("from library.door import f\nfrom collections import abc", []),
    ],
)
def test_every_form_of_import_is_followed(toy_library, source: str, expected: list[str]) -> None:
    (toy_library / "study/cell.py").write_text(source)
    own = {"study/cell.py", "study/__init__.py"}
    assert closure("lib.study.cell") == own | {f"{name}.py" for name in expected}


def test_imports_are_followed_through_others_and_round_in_circles(toy_library) -> None:
    (toy_library / "study/cell.py").write_text("from ..nets.three import f\n")
    (toy_library / "nets/three.py").write_text("def g():\n    from .. import door\n")
    (toy_library / "nets/__init__.py").write_text("from .five import *\n")
    (toy_library / "door.py").write_text("from .study import cell\nfrom .study.grid import x\n")
    found = {"study/__init__", "study/cell", "nets/__init__", "nets/three", "nets/five", "door"}
    assert closure("lib.study.cell") == closure("lib.door") == {f"{name}.py" for name in found}
    assert closure("lib.nets.deep.four") == {f"{name}.py" for name in (*DEEP, "nets/five")}


CELLS_OF_OURS = ("pruning", "agents", "loops", "search")


@pytest.mark.parametrize("name", CELLS_OF_OURS)
def test_no_cell_depends_on_figures_verdicts_or_on_what_runs_it(name: str) -> None:
    found = closure(f"lib.study.{name}")
    assert {"metrics.py", "scores.py", "masks.py", "panning.py", "data/images.py"} < found
    assert {"networks/paths.py", "study/worlds.py", f"study/{name}.py"} < found
    assert ("networks/training.py" in found) == (name != "loops")
    without = {f"study/{name}.py" for name in ("engine", "grid", "plans", "claims", "tables")}
    assert not {path for path in found if path.startswith("figures/")} | (found & without)


def ours() -> dict[str, ModuleType]:
    return {name: m for name, m in sys.modules.items() if name.partition(".")[0] == "lib"}


def nested(paths: set[Path]) -> int:
    """How many imports stand inside of something, so that Python need not have run them."""
    trees = [ast.parse(path.read_text()) for path in paths]
    kind = (ast.ImportFrom, ast.Import)
    return sum(isinstance(n, kind) for t in trees for n in ast.walk(t)) - sum(
        isinstance(n, kind) for t in trees for n in t.body
    )


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_the_closure_is_what_python_imports() -> None:
    """Of a library of which nothing else is loaded: Python's own account."""
    modules = sorted(path.relative_to(LIB.parent) for path in LIB.glob("study/*.py"))
    before, imported = ours(), {}
    try:
        for path in modules:
            name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
            for loaded in ours():
                del sys.modules[loaded]
            importlib.import_module(name)
            imported[path] = {Path(module.__file__) for module in ours().values()}
    finally:
        for loaded in ours():
            del sys.modules[loaded]
        sys.modules.update(before)
    assert len(imported) > 15
    for path, found in imported.items():
        paths = grid.closure(".".join(path.with_suffix("").parts))
        if LIB.parent / path not in grid.NO_PART:
            assert found - grid.NO_PART <= paths, path
        if path != Path("lib/study/command.py"):  # imports what it needs when it is called
            assert len(paths - found) <= nested(paths), path


@pytest.fixture
def ours_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our library, to be edited."""
    shutil.copytree(LIB, tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    return use(monkeypatch, tmp_path / "lib")


def fingerprint(module: str = "lib.study.pruning") -> str:
    grid._fingerprint.cache_clear()
    try:
        return grid._fingerprint(module)
    finally:
        grid._fingerprint.cache_clear()


def operator(text: str) -> str:
    """The source with the first sign of its arithmetic turned round."""
    tree = ast.parse(text)
    turned = {ast.Add: ast.Sub, ast.Mult: ast.Div, ast.Sub: ast.Add, ast.Div: ast.Mult}
    node = next(n for n in ast.walk(tree) if isinstance(n, ast.BinOp) and type(n.op) in turned)
    node.op = turned[type(node.op)]()
    return ast.unparse(tree)


Edit = Callable[[str], str]
IDLE: list[tuple[str, Edit]] = [
    ("**/*.py", lambda text: f"# why\n{text}\n# so\n"),
    ("**/*.py", lambda text: re.sub(r'"""(?=\w)', '"""Well, ', text)),
    ("**/*.py", lambda text: ast.unparse(ast.parse(text))),
    ("**/*.py", lambda text: text.replace("raise ValueError(", "raise ValueError(str(7) + ")),
    ("figures/*.py", lambda text: f"x = 1\n{text}"),
    ("study/grid.py", lambda text: f"{text}x = 1\n"),
    *((name, operator) for name in ("study/engine.py", "study/claims.py")),
    ("__init__.py", lambda text: f"{text}x = 1\n"),
]


@pytest.mark.parametrize(("names", "edit"), IDLE)
def test_comments_messages_figures_and_the_grid_compute_nothing(
    ours_copied: Path, names: str, edit: Edit
) -> None:
    before, changed = fingerprint(), 0
    for path in ours_copied.glob(names):
        text = path.read_text()
        path.write_text(edit(text))
        changed += path.read_text() != text
    assert changed >= (10 if names == "**/*.py" else 1)
    assert fingerprint() == before


@pytest.mark.parametrize(
    "name",
    [
        *("metrics.py", "scores.py", "masks.py", "panning.py", "policies.py", "study/pruning.py"),
        *("networks/training.py", "networks/paths.py", "data/images.py"),
    ],
)
def test_a_sign_anywhere_in_the_closure_counts(ours_copied: Path, name: str) -> None:
    before, other = fingerprint(), fingerprint("lib.study.process")
    path = ours_copied / name
    path.write_text(operator(path.read_text()))
    assert fingerprint() != before
    assert fingerprint("lib.study.process") == other  # which imports none of them


@pytest.mark.parametrize(
    ("edit", "counts"),
    [
        (lambda text: text.replace('"text"', '"other"'), True),  # no message, but a value
        (lambda text: text.replace("ValueError", "TypeError"), True),
        (lambda text: text.replace("x > 1", "x >= 1"), True),
        (lambda text: text.replace("Sorry", "No"), False),
        (lambda text: text.replace("class A:", 'class A:  # a class\n    """Doc."""\n'), False),
        (lambda text: text.replace("x):", 'x):\n        """Doc.\n\n        Long."""\n'), False),
        (lambda text: f'"""A module."""\n\n{text}', False),
    ],
)
def test_documentation_does_not_count_and_every_other_text_does(
    toy_library: Path, edit: Edit, counts: bool
) -> None:
    text = "class A:\n    def f(self, x):\n        if x > 1:\n"
    text += '            raise ValueError(f"Sorry: {x}")\n        return "text"\n'
    (toy_library / "study/cell.py").write_text(text)
    before = fingerprint("lib.study.cell")
    assert edit(text) != text
    (toy_library / "study/cell.py").write_text(edit(text))
    assert (fingerprint("lib.study.cell") != before) == counts


def test_what_the_code_runs_on_counts_too(monkeypatch) -> None:
    before = fingerprint()
    with monkeypatch.context() as patch:
        patch.setenv("MKL_CBWR", "another")
        assert fingerprint() != before
    with monkeypatch.context() as patch:
        patch.setattr(grid.metadata, "version", lambda name: "0.0")
        assert fingerprint() != before
    assert fingerprint() == before


def test_the_version_of_timm_counts_for_its_networks_alone(workspace, monkeypatch) -> None:
    ours, theirs = {"network": "resnet20"}, {"environment": {"network": "timm:resnet18"}}
    before = [grid.digest(grid.run_cell, cell) for cell in (ours, theirs)]
    real = grid.metadata.version
    monkeypatch.setattr(
        grid.metadata, "version", lambda name: "0.0" if name == "timm" else real(name)
    )
    after = [grid.digest(grid.run_cell, cell) for cell in (ours, theirs)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False]
