"""docs/differences.md gives calls that run, and lines that the tool measures."""

import ast
import dataclasses
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import test_readme

import lib
from lib import environment
from lib.study import parameters
from tools import differences, readme

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/differences.md").read_text(encoding="utf-8")


def snippets() -> Iterator[str]:
    """Each call in the document, in its order."""
    for code in re.findall(r"`([^`\n]+)`", TEXT):
        try:
            found = ast.parse(code)
        except SyntaxError:
            continue
        if any(isinstance(node, ast.Call) for node in ast.walk(found)):
            yield code


def test_every_call_in_it_runs(mlp, batches, image_set) -> None:
    names = {"lib": lib, "rollout": environment.rollout, "model": mlp, "batches": batches}
    names |= {"dataclasses": dataclasses}
    names |= {"train_set": image_set, "test_set": image_set, "num_classes": 3}
    agent = lib.constant_policy((0.2, 0.5, 0.3)), []
    quick = mock.create_autospec(lib.train_agent, return_value=agent)
    with mock.patch("lib.agent.train_agent", quick):
        for code in snippets():
            exec(code, names)
    assert quick.call_count and len(list(snippets())) > 8


def test_numbers_from_the_study_are_those_of_its_tables() -> None:
    pairs = test_readme.quoted(TEXT, readme.facts())
    assert pairs and [pair for pair in pairs if pair[0] != pair[1]] == []


def test_the_tables_in_it_have_the_lines_that_the_tool_prints(toy) -> None:
    """Of one epoch, few iterations and one network, which has no interval."""
    toy(0)
    changes = {"data": {"name": "digits"}, "ablations": {"epochs": 1}, "panning": {"steps": 2}}
    changes |= {"environment": {"calibration_steps": 2}}
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of dead networks
        params = parameters.load(ROOT / "params.yaml", changes)
        measured = differences.measure(params, [0], episodes=1)

    def lines(text: str) -> list[list[str]]:
        return [line.split(" | ")[:2] for line in text.splitlines() if line.startswith("| ")]

    found = lines(TEXT)
    assert all(line in found for line in lines(measured))
    assert "nan" not in measured


def test_an_interval_in_the_first_table_stands_in_one_of_the_others() -> None:
    first, _, others = TEXT.partition("## What was measured")
    number = r"[-+]?\d[\d.]*"
    found = re.findall(rf"{number} \({number} to {number}\)", first)
    assert len(found) > 20 and [interval for interval in found if interval not in others] == []
