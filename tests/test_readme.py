"""README says what the tables say, and its code runs."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from lib.methods import METHODS
from lib.study import parameters
from tools import readme

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
# 86.4 %<!-- accuracy/LeNet-5/panning/0.999 -->, **−3.2** points<!-- difference/... -->
QUOTED = re.compile(r"([-+−]?\d+(?:\.\d+)?)([^\d<\n]{0,20})<!-- (\w+/.+?) -->")


def quoted(text: str, facts: dict[str, float]) -> list[tuple[str, str]]:
    """Each number of a text that names a fact, as it is shown and as it was measured."""
    pairs = []
    for shown, _, name in QUOTED.findall(text):
        digits, sign = len(shown.partition(".")[2]), "+" * (shown[0] == "+")
        pairs.append((shown.replace("−", "-"), f"{facts[name]:{sign}.{digits}f}"))
    return pairs


def test_a_quoted_number_is_compared_in_the_digits_that_are_shown() -> None:
    text = "So 50 %<!-- a/b --> and **{}** points<!-- a/c d -->."
    for shown, equal in (("+0.38", True), ("0.375", True), ("0.37", False), ("−0.38", False)):
        (_, (mine, measured)) = quoted(text.format(shown), {"a/b": 49.6, "a/c d": 0.3751})
        assert (mine == measured) is equal
    with pytest.raises(KeyError, match="a/b"):
        quoted(text, {})


def test_what_is_generated_is_of_todays_tables() -> None:
    assert readme.readme(TEXT) == TEXT, "run `make readme` after a rebuild"
    results = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert readme.results() == results, "run `make readme` after a rebuild"


def test_numbers_in_prose_are_those_of_the_tables() -> None:
    pairs = quoted(TEXT, readme.facts())
    assert len(pairs) >= 4  # a number for each finding
    assert [pair for pair in pairs if pair[0] != pair[1]] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_folders_that_a_document_links_to_exist(document: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text(encoding="utf-8")):
        assert not target or (document.parent / target).exists(), target


def test_readme_is_short_and_maps_all_that_one_sees_first() -> None:
    assert len(TEXT.splitlines()) <= 150
    parts = [path.name for path in (ROOT / "lib").iterdir() if path.name[0] not in "_."]
    for name in [*parts, *(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))]:
        assert name.removesuffix(".py") in TEXT, name


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


def test_our_method_is_the_candidate_that_stood_best_in_the_full_study() -> None:
    """The rule of notebook 07, on its committed table: the highest mean over tasks."""
    full = {c.name: c for c in parameters.load("profiles/full.yaml").development.candidates}
    steps = parameters.load("params.yaml").panning.steps
    whole = {name for name, each in full.items() if each.steps == steps}
    best = next(name for name in readme.standings()["method"] if name in whole)
    chosen, ours = full[best], METHODS["panning_masked"]
    assert ours.stages == ((1.0, *chosen.p),)
    own = {"fusion": ours.fusion, "gradients": ours.gradients, "reactivate": ours.reactivate}
    assert chosen.settings == own and ours.score == "normalised" and not chosen.scoring
