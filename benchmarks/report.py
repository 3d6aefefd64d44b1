"""Turns pytest-benchmark's output into two tables beside this file.

`results.csv` has a row for each measurement, `beside` being the seconds of a dense training step
that was timed in turn with it; `race.csv` one for each epoch of a race. Those of a
GPU are in `results_cuda.csv` and `race_cuda.csv`.
"""

import argparse
import json
from pathlib import Path

import pandas as pd
import torch

COLUMNS = (
    "what network weights form threads agents method sparsity kept left layers value beside unit "
    "rounds device"
).split()


def row(run: dict, device: str) -> dict:
    """One benchmark: the median of what was measured, and that of the unit beside it."""
    info = run["extra_info"]
    kind, unit = ("bytes", "B") if "bytes" in info else ("seconds", "s")
    measured = {"value": info[kind], "unit": unit, "device": device}
    return {name: info.get(name) for name in COLUMNS} | measured


def main(source: str, device: torch.device) -> None:
    """Write the two tables from pytest-benchmark's JSON."""
    found = json.loads(Path(source).read_text())
    ending, name = "", found["machine_info"]["cpu"].get("brand_raw", "")
    if device.type == "cuda":
        ending, name = "_cuda", torch.cuda.get_device_name(device)
    races = [run for run in found["benchmarks"] if "race" in run["extra_info"]]
    table = pd.DataFrame([row(run, name) for run in found["benchmarks"] if run not in races])
    for column in ("weights", "threads", "agents", "kept", "left", "rounds"):
        table[column] = table[column].astype("Int64")
    epochs = pd.DataFrame([one for run in races for one in run["extra_info"]["race"]])
    for what, rows, digits in (("results", table[COLUMNS], "%.4g"), ("race", epochs, "%.5g")):
        target = Path(__file__).with_name(f"{what}{ending}.csv")
        if len(rows):  # a race is run only where its images are
            rows.to_csv(target, index=False, float_format=digits, lineterminator="\n")
            print(f"{len(rows)} rows in {target.name}; `make` draws them")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="what `pytest --benchmark-json` wrote")
    parser.add_argument("--device", default="cpu", type=torch.device)
    arguments = parser.parse_args()
    main(arguments.source, arguments.device)
