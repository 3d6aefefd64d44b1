"""Tasks are done in parallel, on this machine or on a Ray cluster, and outlive their workers."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tqdm import tqdm

from lib.study import engine
from lib.study.parameters import Compute


def on(engine: str, workers: int = 1, gpus_per_cell: float = 0.0) -> Compute:
    return Compute(
        **{"device": "cpu", "workers": workers, "engine": engine, "address": "auto"},
        gpus_per_cell=gpus_per_cell,
        archive=None,
    )


@pytest.fixture(params=["joblib", pytest.param("ray", marks=pytest.mark.slow)])
def compute(request) -> Compute:
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return on(request.param, workers=2)


def run(task, arguments: list[tuple], compute: Compute) -> list:
    with tqdm(total=len(arguments), disable=True) as bar:
        return engine.run(task, arguments, compute, bar)


def test_results_come_in_the_order_of_the_arguments_and_the_bar_ends_full(compute) -> None:
    expected = [divmod(n, 3) for n in range(20)]
    with tqdm(total=22, initial=2, file=open(os.devnull, "w")) as bar:
        assert engine.run(divmod, [(n, 3) for n in range(20)], compute, bar) == expected
        assert bar.n == 22
    assert run(divmod, [], compute) == []


def test_an_error_of_a_task_is_the_callers(compute) -> None:
    with pytest.raises(ZeroDivisionError):
        run(divmod, [(1, 1), (1, 0)], compute)


@pytest.fixture
def die() -> Callable[[Path, int, int], int]:
    def die(marks: Path, name: int, times: int) -> int:  # inside, so that it travels by value
        """Kills the process that runs it, a number of times."""
        mark = marks / str(name)
        before = len(mark.read_text()) if mark.exists() else 0
        if before < times:
            mark.write_text("x" * (before + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return name

    return die


def test_the_task_of_a_lost_worker_is_done_by_another(compute, die, tmp_path) -> None:
    arguments = [(tmp_path, n, n == 3) for n in range(6)]
    assert run(die, arguments, compute) == [0, 1, 2, 3, 4, 5]
    assert (tmp_path / "3").read_text() == "x"  # it was lost, once


def test_a_task_that_always_kills_its_worker_is_given_up(compute, die, tmp_path) -> None:
    with pytest.raises(RuntimeError, match="a worker died, 3 times.*compute.workers"):
        run(die, [(tmp_path, 0, 99), (tmp_path, 1, 0)], compute)
    assert len((tmp_path / "0").read_text()) == engine.ATTEMPTS


def test_ray_is_asked_for_where_it_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="compute.engine: 'ray' needs the package ray"):
        run(divmod, [(1, 1)], on("ray"))


def test_a_share_of_a_gpu_is_refused_where_there_is_none(cluster) -> None:
    compute = on("ray", workers=0, gpus_per_cell=0.5)
    with pytest.raises(ValueError, match="compute.gpus_per_cell: no GPU of the cluster has 0.5"):
        run(divmod, [(1, 1)], compute)


def test_a_cluster_that_is_not_there_is_named(monkeypatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def nobody(*_: object, **__: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", nobody)
    with pytest.raises(ValueError, match="compute.address: no Ray cluster at 'auto'"):
        run(divmod, [(1, 1)], on("ray"))
