"""The files that set the project up agree with each other."""

import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import lib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK, TEST_LOCK = ((ROOT / f"requirements{part}.txt").read_text() for part in ("", "-test"))
ABOVE, *TEST_LINES = TEST_LOCK.splitlines()  # the tests' lock begins with the other one
LOCK_LINES = [line for line in LOCK.splitlines() if not line.lstrip().startswith("#")]
MAKEFILE = (ROOT / "Makefile").read_text()
Pins = dict[str, list[Requirement]]  # a package may be locked more than once, for platforms


def pins(lines: list[str]) -> Pins:
    found: Pins = {}
    for requirement in map(Requirement, lines):
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


LOCKED, TEST_LOCKED = pins(LOCK_LINES), pins(LOCK_LINES + TEST_LINES)


def locked_versions(name: str, locked: Pins) -> list[Version]:
    specifiers = [str(pin.specifier) for pin in locked.get(canonicalize_name(name), [])]
    return [Version(specifier.removeprefix("==")) for specifier in specifiers]


# --- pyproject.toml, requirements.txt, environment.yml ------------------------------------------


@pytest.mark.parametrize(
    ("line", "locked"),
    [(line, "LOCKED") for line in PROJECT["dependencies"]]
    + [(line, "TEST_LOCKED") for line in EXTRAS["test"]],
)
def test_a_direct_dependency_is_locked_at_a_version_it_admits(line: str, locked: str) -> None:
    requirement = Requirement(line)
    versions = locked_versions(requirement.name, globals()[locked])
    assert versions, f"{requirement.name} is not locked: run `make lock`"
    assert all(version in requirement.specifier for version in versions)


def test_the_lock_has_exact_versions_and_nothing_else() -> None:
    assert "://" not in LOCK + TEST_LOCK  # and in no comment either
    pin = re.compile(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [\w .'<>=!()]+)?")
    assert [line for line in LOCK_LINES + TEST_LINES if not pin.fullmatch(line)] == []


def test_who_runs_no_test_installs_nothing_that_only_tests_and_clusters_need() -> None:
    """What the tests need besides stands in a second file, on top of the first."""
    assert ABOVE == "-r requirements.txt"
    only = {"ray", "timm", "pytest", "pytest-xdist", "pytest-benchmark", "hypothesis", "ruff"}
    assert only <= {canonicalize_name(Requirement(line).name) for line in EXTRAS["test"]}
    assert only.isdisjoint(LOCKED)
    assert set(LOCKED).isdisjoint(pins(TEST_LINES))
    for name in ("ray", "timm"):  # a user asks for them by name, in the versions that are tested
        assert EXTRAS[name] == [line for line in EXTRAS["test"] if line.startswith(name)]


def test_whatever_is_imported_is_declared() -> None:
    declared = {
        canonicalize_name(Requirement(line).name)
        for lines in (PROJECT["dependencies"], *EXTRAS.values())
        for line in lines
    }
    imported = set()
    for folder in ("lib", "tools", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module]
                imported |= {name.partition(".")[0] for name in names}
    owners = metadata.packages_distributions()
    for name in sorted(imported & set(owners) - {"lib"}):
        assert declared & {canonicalize_name(owner) for owner in owners[name]}, name


@pytest.mark.parametrize("locked", [LOCKED, TEST_LOCKED], ids=["users", "tests"])
def test_the_lock_is_complete(locked: Pins) -> None:
    """Whatever an installed locked package needs, on this platform, is locked too."""
    missing, read = set(), 0
    for name, found in locked.items():
        if not any(pin.marker is None or pin.marker.evaluate() for pin in found):
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        read += 1
        for need in map(Requirement, needs):
            wanted = need.marker is None or need.marker.evaluate({"extra": ""})
            if wanted and canonicalize_name(need.name) not in locked:
                missing.add(f"{need.name}, for {name}")
    assert read > 100
    assert not missing


def test_conda_installs_the_lock_and_a_python_we_support() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *plain, last = environment["dependencies"]
    assert last["pip"] == ["-r requirements.txt", "-e ."]
    assert {"pip", "make"} <= set(plain)
    python = next(line for line in plain if line.startswith("python="))
    assert Version(python.removeprefix("python=")) in SpecifierSet(PROJECT["requires-python"])


def test_a_container_has_a_python_we_support_and_makes_the_environment() -> None:
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    version = container["image"].rpartition(":")[2]
    assert f"python{version}" == re.search(r"^PYTHON \?= (\S+)$", MAKEFILE, re.MULTILINE)[1]
    assert Version(version) in SpecifierSet(PROJECT["requires-python"])
    target = container["postCreateCommand"].removeprefix("make ")
    assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.MULTILINE)


def test_type_checkers_are_told_that_the_package_is_typed() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setup["package-data"]["lib"] == ["py.typed"]
    assert (ROOT / "lib/py.typed").read_bytes() == b""


# --- Makefile and .ci/run -----------------------------------------------------------------------


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Without what an outer `make test` hands down, which changes what is printed.
    environment = {key: value for key, value in os.environ.items() if "MAKE" not in key}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


TARGETS = re.findall(r"^make (\S+) ", make("help").stdout, flags=re.MULTILINE)


def test_help_names_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)
    assert TARGETS == phony[1].split()
    assert {"all", "rebuild", "test", "lab", "lint", "lock", "clean", "help"} <= set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_has_a_recipe(target: str) -> None:
    run = make("--dry-run", target)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() and "Nothing to be done" not in run.stdout


WORKERS = "OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadgroup -p no:benchmark"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], "dvc repro"),
        (["rebuild"], "python tools/rebuild.py"),
        (["full"], "dvc repro profiles/full/dvc.yaml"),
        (["rebuild-full"], "python tools/rebuild.py profiles/full/dvc.yaml"),
        (["test"], f"PANNING_CASES=60 {WORKERS} -m 'not slow'"),
        (["test-all"], WORKERS),
        (["clean"], "rm -rf .cache"),
    ],
)
def test_the_last_command_is_the_one_promised(arguments: list[str], command: str) -> None:
    assert make("--dry-run", *arguments).stdout.splitlines()[-1] == command


def test_clean_leaves_results_and_takes_away_what_a_kill_left(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    stays = [
        tmp_path / name for name in ("data/results/a.csv", "figures/b.svg", "executed/c.ipynb")
    ]
    goes = [tmp_path / name for name in ("figures/.b.svg.17.partial", ".cache/d")]
    for path in (*stays, *goes):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True)
    assert all(path.exists() for path in stays)
    assert not any(path.exists() for path in goes)


def test_only_tests_ask_for_what_they_alone_need(tmp_path: Path) -> None:
    """In a fresh clone, in one command."""
    for name in ("Makefile", "requirements.txt", "requirements-test.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    install = ".venv/bin/python -m pip install --requirement requirements{}.txt"

    def commands(target: str, *arguments: str) -> list[str]:
        line = ["make", "--dry-run", target, *arguments]
        environment = {key: value for key, value in os.environ.items() if "MAKE" not in key}
        run = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return run.stdout.splitlines()

    for target in ("test", "test-all", "bench", "lint"):
        found = commands(target)
        assert found.index(install.format("")) < found.index(install.format("-test"))
    for target in ("all", "rebuild", "full", "lab"):
        assert install.format("") in commands(target)
        assert install.format("-test") not in commands(target)
    assert commands("all")[0] == "python3.11 -m venv .venv"
    assert commands("all", "PYTHON=python3.13")[0] == "python3.13 -m venv .venv"


def test_continuous_integration_runs_every_test() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test-all"


# --- what we promise a reader -------------------------------------------------------------------


@pytest.mark.parametrize("option", ["analytics", "check_update"])
def test_dvc_calls_nobody(option: str) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc/config")
    assert not config.getboolean("core", option)


def test_no_file_holds_a_path_of_one_machine() -> None:
    places = "|".join(["work", "opt", "root", "home", "Users"])
    path = re.compile(rf"(?<![\w.~}})/-])/({places})/".encode())
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    files = {ROOT / name for name in listed.split("\0") if name}
    texts = {file: file.read_bytes() for file in files if file.is_file()}
    assert ROOT / "pyproject.toml" in texts
    guilty = [file for file, text in texts.items() if b"\0" not in text and path.search(text)]
    assert not guilty


# --- the public names -----------------------------------------------------------------------------


def test_no_public_name_is_a_modules() -> None:
    """Importing a module `lib.x` sets `lib.x`, over a public name if that is one."""
    modules = {path.stem for path in (ROOT / "lib").iterdir()}
    assert modules.isdisjoint(lib.__all__)


@pytest.mark.parametrize("name", lib.__all__)
def test_a_public_name_is_found_where_it_is_said_to_be(name: str) -> None:
    found = getattr(lib, name)
    assert getattr(found, "__module__", "lib.").startswith("lib.")
