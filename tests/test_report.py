"""What `make bench` measures becomes two tables."""

import json

import pandas as pd
import pytest
import torch

from benchmarks import report

RUNS = [
    {"what": "pruning", "network": "lenet5", "form": "fast", "seconds": 3.0, "beside": 0.5,
     "rounds": 4, "threads": 1, "kept": 10, "left": 20},
    {"what": "peak memory", "network": "lenet5", "form": "fast", "bytes": 2_000_000_000},
    {"race": [{"network": "lenet5", "sparsity": 0.9, "epoch": 1, "seconds": 2.5}]},
]  # fmt: skip


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The folder in which the tables of some runs lie."""
    monkeypatch.setattr(report, "__file__", str(tmp_path / "report.py"))

    def write(runs: list[dict], device: str = "cpu"):
        runs = [{"extra_info": info, "stats": {"median": 99.0}} for info in runs]
        found = {"machine_info": {"cpu": {"brand_raw": "A processor"}}, "benchmarks": runs}
        (tmp_path / "runs.json").write_text(json.dumps(found))
        report.main(str(tmp_path / "runs.json"), torch.device(device))
        return tmp_path

    return write


def test_a_row_has_what_was_measured_its_unit_and_where(written) -> None:
    table = pd.read_csv(written(RUNS) / "results.csv")
    assert list(table["what"]) == ["pruning", "peak memory"]
    first, second = table.to_dict("records")
    assert (first["value"], first["beside"], first["unit"], first["rounds"]) == (3, 0.5, "s", 4)
    assert (second["value"], second["unit"]) == (2e9, "B")
    assert pd.isna(second["beside"]) and set(table["device"]) == {"A processor"}
    races = pd.read_csv(written(RUNS) / "race.csv")
    assert races.to_dict("records") == RUNS[2]["race"]


def test_without_its_images_a_race_leaves_its_table_alone(written) -> None:
    folder = written(RUNS)
    before = (folder / "race.csv").read_bytes()
    written(RUNS[:2])
    assert (folder / "race.csv").read_bytes() == before


def test_a_gpus_tables_have_its_name(written, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card")
    folder = written(RUNS, "cuda")
    assert {path.name for path in folder.glob("*.csv")} == {"results_cuda.csv", "race_cuda.csv"}
    assert set(pd.read_csv(folder / "results_cuda.csv")["device"]) == {"A card"}
