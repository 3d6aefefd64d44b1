"""Rebuild every table and figure from nothing, and say whether they are the committed ones.

Runs ``dvc repro --force`` with the cell cache of ``lib`` bypassed, shows how long each stage took
and compares what was written with git, byte for byte. A PNG may differ by what another processor
rounds in another way as it blends a pixel; its SVG may not. Exit code: DVC's own where it fails,
else 1 where a file differs, else 0. Arguments are passed on to DVC, so that
``python tools/rebuild.py NAME`` rebuilds one stage and what it needs.
"""

import io
import os
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
LEVELS = 2  # of 255, that a channel of a pixel may differ by
RESULTS = ("data/results", "data/agents", "figures")
STAGE_LINE = re.compile(r"Running stage '([^']+)':")


def stage_of(line: str) -> str | None:
    """Return the stage that a line of DVC's output announces, or None."""
    match = STAGE_LINE.match(line)
    return match and match[1]


def durations(starts: list[tuple[str, float]], end: float) -> list[tuple[str, float]]:
    """Turn each stage's start into its duration, in seconds, in the order they ran.

    DVC runs one stage at a time and announces only the start, so a stage lasts until the next
    one begins, the last until ``end``.
    """
    marks = [*starts, ("end", end)]
    return [(name, stop - start) for (name, start), (_, stop) in pairwise(marks)]


def reproduce(targets: list[str]) -> tuple[int, list[tuple[str, float]]]:
    """Run the pipeline, echoing its output; return DVC's exit code and each stage's duration."""
    # From now on a kept cell is fresh. Unbuffered, so that what a stage prints comes at once, too.
    # Progress bars are on stderr, which the child inherits.
    environment = os.environ | {"PANNING_REBUILD": str(time.time()), "PYTHONUNBUFFERED": "1"}
    command = ["dvc", "repro", "--force", *targets]
    starts = []
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as dvc:
        for line in dvc.stdout:
            print(line, end="", flush=True)
            if name := stage_of(line):
                starts.append((name, time.monotonic()))
    return dvc.returncode, durations(starts, time.monotonic())


def git(*arguments: str) -> list[str]:
    """Return the lines that git prints for the files under RESULTS."""
    command = ["git", *arguments, "--", *RESULTS]
    return subprocess.check_output(command, cwd=ROOT, text=True).splitlines()


def alike(name: str) -> bool:
    """Whether a changed file is a PNG that shows what the committed one does, within LEVELS."""
    if not name.endswith(".png"):
        return False
    committed = subprocess.check_output(["git", "show", f"HEAD:./{name}"], cwd=ROOT)
    try:
        pictures = (Image.open(source) for source in (io.BytesIO(committed), ROOT / name))
        old, new = (np.asarray(picture.convert("RGBA"), dtype=int) for picture in pictures)
    except (OSError, SyntaxError):  # what Pillow says of half a picture
        return False
    return old.shape == new.shape and bool((abs(old - new) <= LEVELS).all())


def main(targets: list[str]) -> int:
    """Rebuild, report, and return the exit code."""
    code, stages = reproduce(targets)

    print("\nTime by stage")
    for name, seconds in [*stages, ("total", sum(seconds for _, seconds in stages))]:
        print(f"{seconds:9.1f} s  {name}")
    print(flush=True)
    if code:
        return code

    files = len(git("ls-files"))
    different = git("status", "--porcelain", "--untracked-files=all")
    drawn = [line for line in different if line.startswith(" M ") and alike(line[3:])]
    if drawn:
        print(f"Drawn alike, a pixel within {LEVELS} of 255 levels:", *drawn, sep="\n")
        different = [line for line in different if line not in drawn]
    if different:
        print("These tables and figures are not the committed ones (?? new, D missing, M changed):")
        print(*different, sep="\n")
        return 1
    if not files:
        print("No table or figure is committed yet, so there was nothing to compare with.")
        return 1
    others = "Every other" if drawn else "Every"
    same = files - len(drawn)
    print(f"{others} table and figure is the committed one, byte for byte ({same} files).")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
