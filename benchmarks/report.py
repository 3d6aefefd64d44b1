"""Turns pytest-benchmark's output into benchmarks/results.csv, one row per measurement."""

import json
import sys
from pathlib import Path

import pandas as pd

COLUMNS = (
    "what network weights form threads agents method sparsity kept left value unit rounds".split()
)


def row(run: dict) -> dict:
    """One benchmark: what was measured, and its median."""
    info, stats = run["extra_info"], run["stats"]
    if "bytes" in info:
        measured = {"value": info["bytes"], "unit": "B", "rounds": 1}
    elif "seconds" in info:
        measured = {"value": info["seconds"], "unit": "s", "rounds": 1}
    else:
        value = stats["median"] / info.get("per", 1)
        measured = {"value": value, "unit": "s", "rounds": stats["rounds"]}
    return {name: info.get(name) for name in COLUMNS} | measured


def main(source: str) -> None:
    """Write benchmarks/results.csv from pytest-benchmark's JSON."""
    runs = json.loads(Path(source).read_text())["benchmarks"]
    table = pd.DataFrame([row(run) for run in runs])[COLUMNS]
    for column in ("weights", "threads", "agents", "kept", "left"):
        table[column] = table[column].astype("Int64")
    target = Path(__file__).with_name("results.csv")
    table.to_csv(target, index=False, float_format="%.4g", lineterminator="\n")
    print(f"{len(table)} measurements in {target.name}; `make` draws them")


if __name__ == "__main__":
    main(sys.argv[1])
