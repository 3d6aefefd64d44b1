"""README says what the tables say, and its code runs."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from tools import findings, measured, readme

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_results_in_the_readme_are_those_of_the_tables():
    assert readme.section() in TEXT, "run `python -m tools.readme` after a rebuild"
    text = findings.DOCUMENT.read_text(encoding="utf-8")
    assert findings.document() == text, "run `python -m tools.readme` after a rebuild"


def test_prose_that_a_rebuild_has_overturned_is_not_written():
    (row,) = (
        row
        for row in measured.rows("full/table_claims")
        if row["statement"] == "Panning is above SNIP on LeNet-300-100, mean over sparsities"
    )
    assert f"({float(row['low']):+.1f} to" in measured.said(row["statement"], row["verdict"])
    for verdict in {"holds", "open", "contradicted"} - {row["verdict"]}:
        with pytest.raises(ValueError, match=rf"{row['verdict']} now"):
            measured.said(row["statement"], verdict)
    with pytest.raises(ValueError, match="no statement"):
        measured.said("Panning is above everything", "holds")
    with pytest.raises(ValueError, match="holds now"):
        measured.nowhere("random at Panning's densities on LeNet-300-100")


@pytest.mark.parametrize("document", [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))])
def test_files_and_folders_that_a_document_links_to_exist(document):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text(encoding="utf-8")):
        assert not target or (document.parent / target).exists(), target


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
