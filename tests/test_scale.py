"""What docs/scale.md says of other machines and larger batches is right."""

import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from lib import metrics
from lib.networks.architectures import build_model
from lib.networks.inspection import prunable
from lib.study import parameters

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/scale.md").read_text(encoding="utf-8")


def test_settings_and_files_that_the_document_names_exist() -> None:
    (block,) = re.findall(r"```yaml\ncompute:\n(.*?)```", TEXT, re.S)
    assert set(re.findall(r"^  (\w+):", block, re.M)) == set(parameters.Compute.model_fields)
    for name in re.findall(r"`((?:tests|profiles|lib|benchmarks)/[\w/]+\.\w+)`", TEXT):
        assert (ROOT / name).is_file(), name


def test_the_score_bank_of_a_vgg19_takes_what_the_document_says() -> None:
    with torch.device("meta"):
        model = build_model("vgg19", 3, 10)
    weights = sum(weight.numel() for weight in prunable(model).values())
    assert f"is {weights * 8 * 10 / 1e9:.1f} GB for VGG-19 and ten batches" in TEXT


def test_a_batch_taken_in_pieces_has_the_scores_of_the_whole() -> None:
    """If the pieces share one gradient g; and not if each has its own."""
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

    def hessian_times(piece: tuple, vector: list) -> tuple:
        pairs = zip(gradient(piece, graph=True), vector, strict=True)
        return torch.autograd.grad(sum((mine * v).sum() for mine, v in pairs), weights)

    def error(score: torch.Tensor, derivative: list, factor: int) -> float:
        pairs = zip(weights, derivative, strict=True)
        found = torch.cat([(factor * w * d).flatten() for w, d in pairs])
        return ((score - found).abs().max() / score.abs().max()).item()

    own = [gradient(piece, graph=False) for piece in pieces]
    g = mean(own)
    hg = mean([hessian_times(piece, g) for piece in pieces])
    wrong = mean([hessian_times(*pair) for pair in zip(pieces, own, strict=True)])
    assert error(snip, g, 1) == pytest.approx(0, abs=1e-10)
    assert error(grasp, hg, 2) == pytest.approx(0, abs=1e-10)
    assert error(grasp, wrong, 2) > 0.01
