"""What docs/scale.md says is what is counted, and its recipe for large batches is right."""

import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from lib import grids, metrics, plan
from lib.models import build_model, prunable
from tools import scale

ROOT = Path(__file__).parents[1]
TEXT = scale.DOCUMENT.read_text(encoding="utf-8")


def test_the_document_shows_what_the_script_prints(monkeypatch, tmp_path, capsys) -> None:
    copy = tmp_path / "scale.md"
    copy.write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(scale, "DOCUMENT", copy)
    scale.main()
    assert copy.read_text(encoding="utf-8") == TEXT, "run `python tools/scale.py`"
    printed = capsys.readouterr().out
    assert re.findall(r"^\|.*$", TEXT, re.M) == re.findall(r"^\|.*$", printed, re.M)


def test_the_cells_are_those_of_the_formula_in_the_document() -> None:
    paper = plan.load(ROOT / "profiles" / "paper.yaml")
    cells = scale.costs(paper, scale.measured())
    for task in paper.claim_a.tasks:
        some = cells[cells["task"] == task.name]
        assert len(some) == len(task.seeds) * (1 + len(task.methods) * len(task.sparsities))
        batches = -(-scale.SETS[task.data][0] // task.batch_size)
        assert set(some["steps"]) == {task.epochs * batches}
    claim_a = sum((cells["task"] == task.name).sum() for task in paper.claim_a.tasks)
    assert f"trains {claim_a:,} networks" in (ROOT / "profiles" / "paper.yaml").read_text()


def test_pruning_is_counted_by_iterations() -> None:
    paper, seconds = plan.load(ROOT / "profiles" / "paper.yaml"), scale.measured()
    task = paper.claim_a.tasks[0]
    cost = {
        cell["method"]: scale.pruning_seconds(cell, seconds)
        for _, cell in grids.comparison(paper, task, {})
    }
    assert cost["dense"] == 0
    assert cost["panning"] == pytest.approx(paper.panning.steps * cost["snip"])


def test_the_assumed_factors_in_the_text_are_the_scripts() -> None:
    low, high = scale.GPU_FACTORS
    assert f"{low} or {high} times as fast" in TEXT


def test_settings_that_the_document_names_exist() -> None:
    known = plan.SECTIONS["compute"].__dataclass_fields__
    (block,) = re.findall(r"```yaml\ncompute:\n(.*?)```", TEXT, re.S)
    assert set(re.findall(r"^  (\w+):", block, re.M)) == set(known)
    for test in re.findall(r"`(tests/\w+\.py|profiles/[\w/]+\.yaml|lib/\w+\.py)`", TEXT):
        assert (ROOT / test).is_file(), test
    headings = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        for title in re.findall(r"^## (.+)$", TEXT, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) == headings


def test_a_batch_taken_in_pieces_has_the_scores_of_the_whole() -> None:
    torch.manual_seed(0)
    model = build_model("lenet5", width=0.2).double()
    inputs, targets = torch.randn(40, 1, 28, 28, dtype=torch.float64), torch.arange(40) % 10
    snip, grasp = metrics.snip_and_grasp(model, None, (inputs, targets))
    weights = list(prunable(model).values())
    pieces = [(inputs[i::4], targets[i::4]) for i in range(4)]

    def gradient(piece: tuple, graph: bool) -> tuple:
        loss = functional.cross_entropy(model(piece[0]) / 200, piece[1])
        return torch.autograd.grad(loss, weights, create_graph=graph)

    def mean(parts: list) -> list:
        return [sum(each) / len(parts) for each in zip(*parts, strict=True)]

    g = mean([gradient(piece, graph=False) for piece in pieces])
    products = [
        sum((mine * whole).sum() for mine, whole in zip(gradient(piece, True), g, strict=True))
        for piece in pieces
    ]
    hg = mean([torch.autograd.grad(product, weights) for product in products])
    for score, ours, factor in ((snip, g, 1), (grasp, hg, 2)):
        pairs = zip(weights, ours, strict=True)
        expected = torch.cat([(factor * w * each).flatten() for w, each in pairs])
        assert (score - expected).abs().max() < 1e-10 * score.abs().max()
