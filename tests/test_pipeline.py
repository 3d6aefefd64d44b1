"""The whole pipeline, on the smoke profile, in a copy of the repository."""

import contextlib
import functools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def tracked():
    """Files git knows or would take, as they stand in the work tree."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    return [name for name in names if (ROOT / name).is_file()]


def dvc(folder, *arguments):
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["dvc", *arguments],
        cwd=folder,
        env=os.environ | {"PATH": programs},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def results(folder):
    """What a reader looks for: not the hidden file that a kill leaves in the moment of writing."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in ("data/results", "data/agents", "figures")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file() and path.name != ".gitignore" and path.suffix != ".partial"
    }


def differences(one, other):
    """The names of results that only one of two has, or that differ; their bytes fill a screen."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone without results, on the smoke profile, reproduced once."""
    folder = tmp_path_factory.mktemp("clone")
    for name in tracked():
        if (
            not name.startswith(("data/results/", "data/agents/", "figures/"))
            and Path(name).name != "dvc.lock"
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    shutil.copy(folder / "profiles" / "smoke.yaml", folder / "params.yaml")
    shutil.copy(folder / "profiles" / "full-smoke.yaml", folder / "profiles" / "full.yaml")
    subprocess.check_call(["git", "init", "-q", str(folder)])
    dvc(folder, "repro")
    return folder


def test_every_declared_result_is_made(clone):
    made = results(clone)
    assert len(made) > 40
    assert all(made.values())
    for part in ("data", "figures"):
        assert not list((clone / part).rglob("*.partial"))
    for line in dvc(clone, "status", "dvc.yaml").splitlines():
        assert "up to date" in line


def test_a_second_repro_runs_nothing(clone):
    said = dvc(clone, "repro")
    assert "Running stage" not in said and "up to date" in said


def test_changing_how_figures_look_runs_the_figures_stage_alone(clone):
    params = clone / "params.yaml"
    params.write_text(params.read_text().replace("dpi: 60", "dpi: 61"))
    said = dvc(clone, "repro")
    assert [line for line in said.splitlines() if line.startswith("Running")] == [
        "Running stage 'figures':"
    ]


def test_a_rebuild_from_nothing_gives_the_same_bytes(clone):
    before = results(clone)
    shutil.rmtree(clone / ".cache")
    dvc(clone, "repro", "--force")
    assert differences(results(clone), before) == []


def test_results_name_no_place_and_no_date(clone):
    import datetime

    today = datetime.date.today().isoformat()
    for name, content in results(clone).items():
        assert str(clone).encode() not in content, name
        assert today.encode() not in content, name


# --- killed --------------------------------------------------------------------------------------

KILLS = int(os.environ.get("PANNING_KILLS", 8))  # more than a few take patience


MARK = "PANNING_STARTED_IN"  # in the environment of all that is started, and of what that starts


def start(folder, *arguments, **settings):
    """DVC, and all that it starts, which the environment marks; what they say is in said.txt."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with folder.with_name("said.txt").open("wb") as said:
        return subprocess.Popen(
            ["dvc", *arguments],
            cwd=folder,
            env=os.environ | {"PATH": programs, MARK: str(folder)},
            stdout=said,
            stderr=subprocess.STDOUT,
            **settings,
        )


def started(folder):
    """All that lives of what was started; not by parents, whom a kernel or a worker may outlive."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(folder):
                yield process


def stop(folder, sign):
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


def forget(folder):
    """Take away all that a run has made."""
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    (folder / "dvc.lock").unlink(missing_ok=True)
    for name in results(folder):
        (folder / name).unlink()


def spoiled(folder, before):
    """The results that are there, and not as they should be."""
    return [name for name in differences(results(folder), before) if name in results(folder)]


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT], ids=["kill", "interrupt"])
def test_killed_at_random_moments_the_next_repro_ends_with_the_same_bytes(clone, sign):
    before = results(clone)
    forget(clone)
    moments, killed = random.Random(sign), 0
    while killed < KILLS:
        process = start(clone, "repro")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(1, 25))
        if process.poll() is not None:  # it came to its end: begin anew
            assert process.returncode == 0, clone.with_name("said.txt").read_text()
            assert differences(results(clone), before) == []
            forget(clone)
            continue
        stop(clone, sign)
        process.wait()
        subprocess.run(["make", "unlock"], cwd=clone, check=True)
        killed += 1
        assert not spoiled(clone, before)
    dvc(clone, "repro")
    assert differences(results(clone), before) == []


def test_make_mends_the_files_that_dvc_was_killed_in_writing(clone):
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
        subprocess.run(["make", "unlock"], cwd=clone, check=True)
        dvc(clone, "status", "dvc.yaml")
    lock.write_text(whole)


def test_on_a_full_disk_a_stage_fails_and_leaves_no_half_result(clone):
    """A limit on the size of files has writes fail as a full disk does, at their place."""
    before = results(clone)
    forget(clone)
    for size in (1, 1000, 10_000, 50_000, 200_000):
        limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
        process = start(clone, "repro", preexec_fn=limit)
        process.wait(600)
        assert not spoiled(clone, before)
    subprocess.run(["make", "unlock"], cwd=clone, check=True)
    dvc(clone, "repro")
    assert differences(results(clone), before) == []


# --- the full study ------------------------------------------------------------------------------

STUDY = "profiles/full/dvc.yaml"


@pytest.fixture(scope="module")
def studied(clone):
    """The same clone, its full study reproduced once."""
    dvc(clone, "repro", STUDY)
    return clone


def test_the_full_study_makes_every_declared_result_and_then_runs_nothing(studied):
    made = {name for name in results(studied) if "/full/" in name}
    assert len(made) > 50
    assert {"figures/full/table_claims.csv", "figures/full/accuracy.svg"} <= made
    assert "Running stage" not in dvc(studied, "repro", STUDY)


def test_a_repro_in_the_root_leaves_the_full_study_alone(studied):
    profile = studied / "profiles" / "full.yaml"
    before = profile.read_text()
    profile.write_text(before.replace("search_epochs: 1", "search_epochs: 2"))
    try:
        assert "full" not in dvc(studied, "repro")
        assert "search_epochs" in dvc(studied, "status", STUDY)
    finally:
        profile.write_text(before)


def test_an_agent_of_the_full_study_trained_again_has_the_same_bytes(studied):
    before = results(studied)
    shutil.rmtree(studied / ".cache")
    dvc(studied, "repro", "--force", "--single-item", f"{STUDY}:learning")
    assert differences(results(studied), before) == []


# --- experiments, as DVC has them ----------------------------------------------------------------


@pytest.fixture(scope="module")
def committed(clone):
    """The same clone, in git, so that an experiment has something to be compared with."""
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.check_call([*git, "add", "--all"])
    subprocess.check_call([*git, "commit", "--quiet", "--message", "as it stands"])
    return clone


def test_an_experiment_is_run_shown_and_compared(committed):
    said = dvc(committed, "exp", "run", "--name", "other", "-S", "metrics.seed=5", "metrics")
    assert "Running stage 'metrics'" in said and "Running stage 'artificial" not in said
    table = dvc(committed, "exp", "show", "--csv").splitlines()
    assert any("other" in line for line in table)
    assert "metrics.seed" in table[0]
    assert "metrics.seed" in dvc(committed, "params", "diff")
    changed = dvc(committed, "metrics", "diff")
    assert "data/results/metrics.json" in changed
    dvc(committed, "plots", "diff", "--out", "plots", "HEAD")
    page = (committed / "plots" / "index.html").read_text()
    assert "metrics" in page and (committed / "plots" / "static").is_dir()
