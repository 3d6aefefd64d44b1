"""The whole pipeline on the smoke profile, in a copy of the repository that is built once."""

import contextlib
import datetime
import functools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("data/results", "data/agents", "figures", "executed")
FULL = "profiles/full/dvc.yaml"
MARK = "PANNING_STARTED_IN"  # in the environment of all that is started, and of what that starts

# The copy is one: its tests share a worker of pytest-xdist.
pytestmark = [pytest.mark.xdist_group("pipeline"), pytest.mark.slow]


def environment(folder: Path) -> dict[str, str]:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": programs, MARK: str(folder)}


def dvc(folder: Path, *arguments: str) -> str:
    """What DVC says; it must end well."""
    done = subprocess.run(
        ["dvc", *arguments],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def stages_run(said: str) -> list[str]:
    running = [line for line in said.splitlines() if line.startswith("Running stage")]
    return [line.split("'")[1] for line in running]


def results(folder: Path) -> dict[str, bytes]:
    """What a reader looks for: not the hidden file that a kill leaves in the moment of writing."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for part in PARTS
        for path in sorted((folder / part).rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def differences(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """The names of results that only one of two has, or that differ; their bytes fill a screen."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def forget(folder: Path, *parts: str) -> None:
    """Take away what a run has made, or the parts of it that are named, and all finished cells."""
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    for name in parts or (*results(folder), "dvc.lock"):
        (folder / name).unlink(missing_ok=True)


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone without results, on the smoke profile, built once from nothing."""
    folder = tmp_path_factory.mktemp("clone")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(command, cwd=ROOT, text=True).splitlines():
        last = Path(name).name
        made = last == "dvc.lock" or (name.startswith(PARTS) and last != ".gitignore")
        if not made and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    shutil.copy(folder / "profiles/smoke.yaml", folder / "params.yaml")
    subprocess.check_call(["git", "init", "-q", str(folder)])
    dvc(folder, "repro")
    return folder


# --- built ---------------------------------------------------------------------------------------


def test_every_declared_result_is_made_and_a_second_repro_runs_nothing(clone: Path) -> None:
    made = results(clone)
    assert {name.split("/")[0] for name in made} == {"data", "figures", "executed"}
    assert len(made) > 60 and all(made.values())
    assert not [path for part in PARTS for path in (clone / part).rglob("*.partial")]
    said = dvc(clone, "repro")
    assert not stages_run(said) and "up to date" in said


def test_results_name_no_place_and_no_date(clone: Path) -> None:
    today = datetime.date.today().isoformat()
    for name, content in results(clone).items():
        assert str(clone).encode() not in content, name
        assert today.encode() not in content, name


def test_a_stage_run_again_from_nothing_gives_the_same_bytes(clone: Path) -> None:
    before = results(clone)
    forget(clone, *(name for name in before if "/metrics_" in name or "01_metrics" in name))
    assert len(differences(results(clone), before)) == 5  # four tables, and the notebook
    assert stages_run(dvc(clone, "repro")) == ["metrics"]
    assert differences(results(clone), before) == []


def test_changing_how_figures_look_runs_the_figures_stage_alone(clone: Path) -> None:
    params, before = clone / "params.yaml", results(clone)
    params.write_text(params.read_text().replace("dpi: 60", "dpi: 61"))
    assert stages_run(dvc(clone, "repro")) == ["figures"]
    changed = differences(results(clone), before)
    assert "figures/accuracy.png" in changed
    assert all(name.startswith(("figures/", "executed/05")) for name in changed)


# --- killed --------------------------------------------------------------------------------------


def start(folder: Path, *arguments: str, **settings: object) -> subprocess.Popen:
    """DVC, and all that it starts, which the environment marks; what they say is in said.txt."""
    with folder.with_name("said.txt").open("wb") as said:
        return subprocess.Popen(
            ["dvc", *arguments],
            cwd=folder,
            env=environment(folder),
            stdout=said,
            stderr=subprocess.STDOUT,
            **settings,
        )


def started(folder: Path) -> Iterator[psutil.Process]:
    """All that lives of what was started; not by parents, whom a kernel or a worker may outlive."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(folder):
                yield process


def stop(folder: Path, sign: signal.Signals) -> None:
    """Send a signal to DVC, its stage, the stage's kernel and its workers, and see them all end."""
    living = list(started(folder))
    for each in living:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(sign)
    psutil.wait_procs(living, 60)
    while left := list(started(folder)):  # born meanwhile, or somebody has swallowed an interrupt
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(left, 60)


def unlock(folder: Path) -> None:
    subprocess.run(["make", "unlock"], cwd=folder, env=environment(folder), check=True)


def spoiled(folder: Path, before: dict[str, bytes]) -> list[str]:
    """The results that are there, and not as they should be.

    Not the notebook of the stage that was stopped, which papermill writes cell by cell.
    """
    made = {name: x for name, x in results(folder).items() if not name.startswith("executed/")}
    return [name for name in differences(made, before) if name in made]


def test_killed_amid_its_cells_a_stage_goes_on_and_ends_with_the_same_bytes(clone: Path) -> None:
    before, cells = results(clone), clone / ".cache/cells/prune_and_train"
    tables = [f"data/results/{name}.csv" for name in ("ablations", "checks", "search")]
    forget(clone, "executed/04_ablations.ipynb", *tables)
    process = start(clone, "repro", "ablations")
    while process.poll() is None and len(list(cells.glob("*.pt"))) < 3:
        time.sleep(0.05)
    stop(clone, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in cells.glob("*.pt")}
    assert kept and not set(tables) & results(clone).keys()
    unlock(clone)
    assert stages_run(dvc(clone, "repro")) == ["ablations"]
    assert differences(results(clone), before) == []
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())  # computed once
    assert len(list(cells.glob("*.pt"))) > len(kept)


KILLS = int(os.environ.get("PANNING_KILLS", 8))  # more than a few take patience


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT], ids=["kill", "interrupt"])
def test_killed_at_random_moments_the_next_repro_ends_with_the_same_bytes(
    clone: Path, sign: signal.Signals
) -> None:
    before, params = results(clone), clone / "params.yaml"
    # Two workers beside the kernel, for the smoke profile's one is the kernel itself.
    params.write_text(params.read_text().replace("workers: 1 ", "workers: 2 "))
    forget(clone)
    moments, killed = random.Random(sign), 0
    while killed < KILLS:
        process = start(clone, "repro")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(1, 25))
        if process.poll() is not None:  # it came to its end: begin anew
            assert process.returncode == 0, clone.with_name("said.txt").read_text()[-5000:]
            assert differences(results(clone), before) == []
            forget(clone)
            continue
        stop(clone, sign)
        process.wait()
        unlock(clone)
        killed += 1
        assert not spoiled(clone, before)
    dvc(clone, "repro")
    assert differences(results(clone), before) == []


def test_make_mends_the_files_that_dvc_was_killed_in_writing(clone: Path) -> None:
    lock = clone / "dvc.lock"
    whole = lock.read_text()
    halves = {
        clone / ".dvc" / "tmp" / "rwlock": '{"dvc.yaml": {"wri',
        lock: whole[: whole.rindex("path:") + len("path:")],
    }
    for path, half in halves.items():
        path.write_text(half)
        with pytest.raises(AssertionError):
            dvc(clone, "status", "dvc.yaml")
        unlock(clone)
        dvc(clone, "status", "dvc.yaml")
    lock.write_text(whole)


def test_on_a_full_disk_a_stage_fails_and_leaves_no_half_result(clone: Path) -> None:
    """A limit on the size of files has writes fail as a full disk does, at their place."""
    before = results(clone)
    forget(clone)
    for size in (1, 1000, 10_000, 50_000, 200_000):
        limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
        process = start(clone, "repro", preexec_fn=limit)
        process.wait(600)
        assert not spoiled(clone, before)
    unlock(clone)
    dvc(clone, "repro")
    assert differences(results(clone), before) == []


# --- the full study ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def studied(clone: Path) -> Path:
    """The same clone with its full study, whose profile is that of the default one."""
    shutil.copy(clone / "params.yaml", clone / "profiles/full.yaml")
    dvc(clone, "repro", FULL)
    return clone


def of_full(folder: Path) -> dict[str, bytes]:
    """The results of the full study under the names that they have in the default one."""
    made = results(folder).items()
    return {name.replace("/full/", "/"): data for name, data in made if "/full/" in name}


def test_with_the_same_parameters_the_full_study_is_the_default_one(studied: Path) -> None:
    full = of_full(studied)
    default = {name: data for name, data in results(studied).items() if "/full/" not in name}
    assert full.keys() == default.keys()
    # A notebook shows its profile, the one thing that it is given.
    assert all(name.startswith("executed/") for name in differences(full, default))
    assert not stages_run(dvc(studied, "repro", FULL))


def test_a_repro_in_the_root_leaves_the_full_study_alone(studied: Path) -> None:
    profile = studied / "profiles/full.yaml"
    before = profile.read_text()
    profile.write_text(before.replace("holdout: 0.2", "holdout: 0.3"))
    try:
        assert not stages_run(dvc(studied, "repro"))
        assert "search" in dvc(studied, "status", FULL)
    finally:
        profile.write_text(before)


def test_an_agent_of_the_full_study_trained_again_has_the_same_bytes(studied: Path) -> None:
    before = results(studied)
    shutil.rmtree(studied / ".cache")
    dvc(studied, "repro", "--force", "--single-item", f"{FULL}:rl_training")
    assert differences(results(studied), before) == []


# --- experiments, as DVC has them ----------------------------------------------------------------


@pytest.fixture
def committed(clone: Path) -> Callable[..., str]:
    """The same clone in git, so that an experiment has something to be compared with."""
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.check_call([*git, "add", "--all"])
    subprocess.check_call([*git, "commit", "--quiet", "--message", "as it stands"])
    return functools.partial(dvc, clone)


def test_an_experiment_is_run_shown_and_compared(clone: Path, committed: Callable) -> None:
    said = committed("exp", "run", "--name", "other", "-S", "figures.dpi=62", "figures")
    assert stages_run(said) == ["figures"]
    table = committed("exp", "show", "--csv").splitlines()
    assert any("other" in line for line in table)
    columns = {name.rpartition(":")[2] for name in table[0].split(",")}
    assert {"holds", "open", "panning", "figures.dpi"} <= columns
    assert "figures.dpi" in committed("params", "diff")
    committed("plots", "diff", "--out", "plots", "HEAD")
    page = (clone / "plots/index.html").read_text()
    for title in ("Accuracy of the last epoch over sparsity", "Return of an episode over steps"):
        assert title in page
