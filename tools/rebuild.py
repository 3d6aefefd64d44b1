"""Rebuild everything from scratch, and say whether it matches what is committed.

``python tools/rebuild.py`` runs ``dvc repro --force`` with the cell cache of ``lib`` bypassed, and
compares what was written with git: tables, agents, figures and executed notebooks. On the kind of
machine that data/provenance.json names, every byte must be the same. On another the last digit of a
sum may differ, and with it whatever is chaotic; there only what matters is judged: masks, means and
verdicts. Pixels may always differ by LEVELS, which no eye sees.

Arguments go to DVC: ``python tools/rebuild.py profiles/full/dvc.yaml`` rebuilds the full study.
Exit code: DVC's own where it fails, 1 where something that matters differs, else 0.
"""

import base64
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from lib.study.statistics import summary

ROOT = Path(__file__).resolve().parents[1]
PROVENANCE = "data/provenance.json"
PARTS = ("data/results", "data/agents", "figures", "executed")
LEVELS = 2  # of 255, by which a channel of a pixel may differ
CONFIDENCE = 0.95  # of the intervals that means must lie in
# On another machine a tie between two scores may be broken differently. Masks pass if no more than
# this share of them differ, and none of these by more than that share of its effective weights.
OTHER_MASKS, OTHER_WEIGHTS = 0.1, 0.01


class Finding(NamedTuple):
    """A line about what differs, and whether what matters holds."""

    line: str
    holds: bool = True


# --- running -------------------------------------------------------------------------------------


def reproduce(targets: list[str]) -> tuple[int, str]:
    """Run the pipeline, echoing its output; return its exit code and the minutes of each stage."""
    # Only cells kept from now on count. Unbuffered, so that a stage's output appears at once.
    environment = os.environ | {"PANNING_REBUILD": str(time.time()), "PYTHONUNBUFFERED": "1"}
    command = ["dvc", "repro", "--force", *targets]
    starts: list[tuple[str, float]] = []
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as dvc:
        for line in dvc.stdout:
            print(line, end="", flush=True)
            if stage := re.match(r"Running stage '([^']+)':", line):
                starts.append((stage[1], time.monotonic()))
    return dvc.returncode, minutes(starts, time.monotonic())


def minutes(starts: list[tuple[str, float]], end: float) -> str:
    """The minutes of each stage: it lasts until the next one starts."""
    stops = [*(start for _, start in starts[1:]), end]
    spent = {
        name: (stop - start) / 60 for (name, start), stop in zip(starts, stops, strict=bool(starts))
    }
    spent["total"] = sum(spent.values())
    return "minutes: " + ", ".join(f"{name} {each:.1f}" for name, each in spent.items())


def provenance() -> dict[str, str]:
    """The kind of machine that this is, as far as it affects last digits."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    kind = re.search(r"^vendor_id\s*: (\S+)\ncpu family\s*: (\d+)", text, re.M)
    # numpy's exp and log, and with them optuna's search, differ with these instructions.
    wide = " with AVX-512" * (" avx512f " in text)
    settings = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR")  # that `lib` sets
    return {
        "processor": f"{kind[1]} family {kind[2]}{wide}" if kind else platform.machine(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "settings": " ".join(f"{name}={os.environ.get(name)}" for name in settings),
    }


# --- comparing bytes -----------------------------------------------------------------------------


def files(folder: Path, study: str) -> set[str]:
    """The names of a study's files: "" is the default one, and "full" lies in folders of that name.

    Hidden files, which a kill leaves behind, do not count. Only the default study publishes its
    notebooks.
    """
    names = set()
    for part in PARTS if not study else PARTS[:-1]:
        for path in (folder / part / study).rglob("*"):
            inside = path.relative_to(folder / part).parts
            if path.is_file() and path.name[0] != "." and (study or inside[0] != "full"):
                names.add(path.relative_to(folder).as_posix())
    return names


def changed(before: Path, after: Path, study: str) -> list[str]:
    """The names of files that only one of two folders has, or that differ."""
    one, other = files(before, study), files(after, study)
    both = one & other
    return sorted((one ^ other) | {name for name in both if not alike(before / name, after / name)})


def alike(one: Path, other: Path) -> bool:
    """Whether two files are the same bytes, pictures aside: those may differ by LEVELS."""
    first, second = one.read_bytes(), other.read_bytes()
    if first == second or one.suffix not in (".png", ".ipynb"):
        return first == second
    try:
        (text, pictures), (new_text, new) = (_apart(data, one.suffix) for data in (first, second))
    except (ValueError, OSError, SyntaxError):  # what json and Pillow raise for half a file
        return False
    return text == new_text and all(
        a.shape == b.shape and (abs(a - b) <= LEVELS).all() for a, b in zip(pictures, new, strict=1)
    )


def _apart(data: bytes, suffix: str) -> tuple[Any, list[np.ndarray]]:
    """What a file says, and its pictures."""
    found: list[bytes] = []

    def take(part: dict[str, Any]) -> dict[str, Any]:
        if "image/png" in part:
            found.append(base64.b64decode(part["image/png"]))
            part["image/png"] = "a picture"
        return part

    text = found.append(data) if suffix == ".png" else json.loads(data, object_hook=take)
    pictures = [Image.open(io.BytesIO(picture)).convert("RGBA") for picture in found]
    return text, [np.asarray(picture, dtype=int) for picture in pictures]


# --- judging what matters ------------------------------------------------------------------------


def masks(before: pd.DataFrame, after: pd.DataFrame) -> Finding:
    """Compare the effective masks, by the digest in the column `mask`, and how many they keep."""
    keys = [key for key in ("task", "method", "sparsity", "seed") if key in before]
    both = before.dropna(subset="mask").merge(after, "left", keys, suffixes=("", "_new"))
    other = both[both["mask"] != both["mask_new"]]
    kept, kept_new = (1 - other[f"effective_sparsity{which}"] for which in ("", "_new"))
    moved = ((kept_new - kept).abs() / kept.clip(1e-6)).fillna(1)
    line = f"masks: {len(other)} of {len(both)} networks have another mask"
    if len(other):
        line += f", of up to {100 * moved.max():.2g} % more or fewer weights"
    few = len(other) <= OTHER_MASKS * len(both)
    return Finding(line, bool(few and (moved <= OTHER_WEIGHTS).all()))


def means(before: pd.DataFrame, after: pd.DataFrame) -> Finding:
    """Whether each mean accuracy lies in the committed t-interval over seeds."""
    keys = [key for key in ("task", "method", "sparsity") if key in before]
    committed = summary(before, keys, "accuracy", CONFIDENCE)
    now = committed.merge(after.groupby(keys)["accuracy"].mean().reset_index(), "left", keys)
    # A single seed has no interval; a missing mean counts as outside.
    inside = now["accuracy"].between(now["low"], now["high"])
    outside = (~(inside | ((now["accuracy"] - now["mean"]).abs() < 1e-9))).sum()
    line = f"means: {outside} of {len(now)} outside the committed {CONFIDENCE:.0%} interval"
    return Finding(line, bool(outside == 0))


def agents(before: pd.DataFrame, after: pd.DataFrame, other: int, total: int) -> Finding:
    """How many agents have other weights, and what agents earn on average."""
    earned, now = (
        table[table["policy"].str.startswith("agent")]["return"].mean() for table in (before, after)
    )
    line = f"agents: {other} of {total} have other weights"
    return Finding(f"{line}; agents earn {now:.2f} on average, committed {earned:.2f}")


def verdicts(before: pd.DataFrame, after: pd.DataFrame) -> Finding:
    """Which statements have another verdict; those of the headlines matter."""
    both = before.merge(after, "outer", ["claim", "statement"], suffixes=("", "_new"))
    other = both[both["verdict"] != both["verdict_new"]]
    heads = other[other[["headline", "headline_new"]].eq(True).any(axis=1)]  # not where it is NaN
    line = f"verdicts: {len(other)} of {len(both)} changed, {len(heads)} of them headlines"
    for row in heads.itertuples():
        line += f"\n  {row.statement}: {row.verdict_new}, committed {row.verdict}"
    return Finding(line, heads.empty)


def judge(before: Path, after: Path, study: str, different: list[str]) -> list[Finding]:
    """Say in five lines how two folders of results differ."""

    def tables(part: str, name: str) -> list[pd.DataFrame]:
        places = [folder / part / study / f"{name}.csv" for folder in (before, after)]
        return [pd.read_csv(place, dtype={"mask": str}) for place in places]  # 1e5… is no number

    def count(names: list[str] | set[str], *suffixes: str) -> int:
        return len({Path(name).with_suffix("") for name in names if name.endswith(suffixes)})

    known, pictures = files(before, study), (".png", ".svg")
    comparison = tables("data/results", "comparison")
    returns = tables("data/results", "learning_returns")
    return [
        masks(*comparison),
        means(*comparison),
        agents(*returns, count(different, ".pt"), count(known, ".pt")),
        verdicts(*tables("figures", "table_claims")),
        Finding(f"figures: {count(different, *pictures)} of {count(known, *pictures)} redrawn"),
    ]


def compare(before: Path, after: Path, study: str, here: dict[str, str]) -> int:
    """Say how the results in two folders differ, and return the exit code."""
    known, different = files(before, study), changed(before, after, study)
    path = before / PROVENANCE
    machines = json.loads(path.read_text()) if path.is_file() else {}
    there = machines.get(study or "default")
    if different or not there:  # what now lies in the folder was made here
        text = json.dumps(machines | {study or "default": here}, indent=2, sort_keys=True) + "\n"
        (after / PROVENANCE).write_text(text, encoding="utf-8")
    if known and not different:
        print(f"All {len(known)} tables, agents, figures and notebooks are the committed ones.")
        return 0
    print(f"{len(different)} of {len(known)} committed files, or new ones, differ:")
    try:
        findings = judge(before, after, study, different)
    except (FileNotFoundError, KeyError) as error:
        findings = [Finding(f"what matters cannot be compared, for want of {error}", False)]
    print(*(finding.line for finding in findings), sep="\n")
    if there in (here, None):
        print("On this kind of machine every byte should be the same:", *different, sep="\n  ")
        return 1
    holds = all(finding.holds for finding in findings)
    print("What matters", "holds" if holds else "does NOT hold", end=": ")
    print(f"committed from {there['processor']}, rebuilt on {here['processor']}.")
    return 0 if holds else 1


def main(targets: list[str]) -> int:
    """Rebuild, compare with what git has, and return the exit code."""
    study = "full" if any(target.startswith("profiles/full/") for target in targets) else ""
    code, spent = reproduce(targets)
    print(f"\n{spent}", flush=True)
    if code:
        return code
    archive = io.BytesIO(subprocess.check_output(["git", "archive", "HEAD"], cwd=ROOT))
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=archive) as committed:
        committed.extractall(folder, filter="data")
        return compare(Path(folder), ROOT, study, provenance())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
