"""README says what the tables say, and its code runs."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from tools import readme

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_results_in_the_readme_are_those_of_the_tables():
    assert readme.section() in TEXT, "run `python tools/readme.py` after a rebuild"


def test_files_and_folders_that_the_readme_links_to_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_every_module_of_lib_is_named():
    for path in (ROOT / "lib").glob("*.py"):
        assert path.stem == "__init__" or f"`{path.stem}`" in TEXT, path.stem


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", TEXT, flags=re.S))
def test_the_readmes_code_runs_on_a_network_of_ones_own(block, monkeypatch):
    monkeypatch.chdir(ROOT)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(200, 1, 8, 8, generator=generator)
    names = {
        "train_set": torch.utils.data.TensorDataset(images, torch.arange(200) % 10),
        "model": nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(288, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        ),
    }
    if "batches =" not in block:
        exec("import lib\nbatches = lib.scoring_batches(train_set, 10)", names)
    exec(block, names)
    result = names["result"]
    assert result.sparsity == pytest.approx(0.99, abs=0.001)
    assert names["model"](images[:2]).shape == (2, 10)
