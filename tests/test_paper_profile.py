"""The paper's own grid runs as it stands, made small, on files of the real formats.

That its names and keys are the library's is what test_parameters holds all profiles to.
"""

import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from lib.agent import AgentPolicy
from lib.data import sources
from lib.masks import kept_count
from lib.methods import METHODS
from lib.networks.architectures import build_model
from lib.networks.inspection import prunable
from lib.study import grid, parameters, plans, pruning, worlds
from lib.study.tables import Results

ROOT = Path(__file__).parents[1]
FILE = ROOT / "profiles" / "paper.yaml"
PAPER = parameters.load(FILE)
FASHION = dict(sources.FASHION)
TASKS = PAPER.comparison.tasks
# Where a scoring batch of the authors' program has another number of samples a class than 10.
PER_CLASS = {
    ("resnet32", "cifar100"): 5,
    ("vgg19", "tiny_imagenet"): 5,
    ("resnet32", "tiny_imagenet"): 1,
}


# --- what it says --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "network", "epochs", "batch_size", "lowest", "highest", "seeds"),
    [
        (["mnist", "fashion_mnist"], "lenet5", 80, 256, 0.8, 0.999, 5),
        (["cifar10", "cifar100"], "vgg19", 180, 128, 0.9, 0.995, 3),
        (["cifar10", "cifar100"], "resnet32", 180, 128, 0.85, 0.995, 3),
        (["tiny_imagenet"], "vgg19", 300, 128, 0.9, 0.995, 3),
        (["tiny_imagenet"], "resnet32", 300, 128, 0.85, 0.995, 3),
    ],
)
def test_the_grid_is_the_papers(
    sets: list[str], network: str, epochs: int, batch_size: int, lowest, highest, seeds: int
) -> None:
    tasks = [task for task in TASKS if task.data in sets and task.network == network]
    assert [task.data for task in tasks] == sets
    for task in tasks:
        assert (task.width, task.epochs, task.batch_size) == (1.0, epochs, batch_size)
        small = network == "lenet5" or (network, task.data) == ("resnet32", "tiny_imagenet")
        assert task.weight_decay == (0.0001 if small else 0.0005)
        assert task.per_class == PER_CLASS.get((network, task.data), 10)
        assert (min(task.sparsities), max(task.sparsities)) == (lowest, highest)
        assert len(task.seeds) == seeds
        assert set(METHODS) - set(task.methods) == {"random"}  # ERK is the better control


def test_nothing_else_is_in_it_and_any_machine_can_run_it() -> None:
    assert len(TASKS) == 8
    assert (PAPER.compute.device, PAPER.compute.workers) == ("auto", 0)
    assert PAPER.scoring.count == PAPER.panning.steps == 100  # a fresh batch at each iteration


def test_it_trains_as_many_networks_as_it_says() -> None:
    agents = {seed: "an agent" for task in TASKS for seed in task.seeds}
    cells = [cell for part in (None, agents) for _, cell in plans.comparison(PAPER, part)]
    deep = [cell for cell in cells if cell["network"] in ("vgg19", "resnet32")]
    said = re.search(r"trains ([\d,]+) networks, ([\d,]+) of\s+them", FILE.read_text())
    assert [int(number.replace(",", "")) for number in said.groups()] == [len(cells), len(deep)]


def test_the_first_task_has_what_panning_is_taken_apart_with() -> None:
    assert {"iterative_fused", "panning+shuffled"} <= set(TASKS[0].methods)


def test_agents_learn_as_in_the_design() -> None:
    agent, environment = PAPER.agent, PAPER.environment
    assert (PAPER.data.name, environment.network, environment.width) == ("mnist", "lenet5", 1.0)
    assert (agent.algorithm, agent.steps, agent.learning_starts) == ("td3", 50000, 2000)
    assert (agent.learning_rate, agent.batch_size, agent.hidden) == (0.0002, 256, (256, 256))
    assert (agent.gamma, agent.tau, agent.policy_delay) == (0.99, 0.01, 2)
    assert (agent.policy_noise, agent.noise_clip, agent.exploration_noise) == (0.2, 0.5, 0.1)
    assert (environment.steps, environment.alpha, environment.grad_weight) == (100, 100, 0.2)


def test_no_compression_asks_for_less_than_a_weight_a_layer() -> None:
    weights = prunable(build_model(PAPER.flow.network))
    total = sum(weight.numel() for weight in weights.values())
    assert total / max(PAPER.flow.compressions) >= len(weights)


@pytest.mark.parametrize("network", ["vgg19", "resnet32"])
def test_networks_take_the_pictures_of_tiny_imagenet(network: str) -> None:
    model = build_model(network, 3, 200, width=0.05, image_size=64)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 200)


# --- made small ----------------------------------------------------------------------------------


def agent() -> AgentPolicy:
    """An agent that has learned nothing."""
    torch.manual_seed(0)
    actor = nn.Sequential(nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 3), nn.Tanh())
    extremes = {"loss": [2.0, 3.0], "grad_norm_sq": [0.0, 1.0]}
    card = {"hidden": [4], "extremes": extremes, "sparsity": [0.8, 0.99], "action": "linear"}
    return AgentPolicy(actor.state_dict(), card)


@pytest.fixture
def fetched(
    published: Callable, tiny_files: Callable, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """`fetched(name)`: a small data set below data/raw/, by way of the published files."""
    monkeypatch.setattr("urllib.request.urlopen", None)  # no network is asked
    worlds._kept.cache_clear()  # the images of another test, of the same name

    def write(name: str) -> None:
        if name == "tiny_imagenet":
            colours = [(i, 255 - i, 7 * i % 256) for i in range(200)]
            for file, content in tiny_files(colours, range(0, 200, 10), False).items():
                path = sources.folder_of(name) / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        else:
            published(name, 100 if name == "cifar100" else 20, 20)
        sources.fetch(name, PAPER.data.test_size, PAPER.data.split_seed)

    return write


SMALL = {"compute": {"workers": 1}, "panning": {"steps": 2}}
SMALL |= {"scoring": {"per_class": 1, "count": 2}}


SLOW = ("vgg19", "resnet32")


@pytest.mark.parametrize(
    "index",
    [
        pytest.param(i, id=task.name, marks=[pytest.mark.slow] if task.network in SLOW else [])
        for i, task in enumerate(TASKS)
    ],
)
def test_a_task_runs_from_the_published_files_to_its_rows(
    fetched: Callable[[str], None], index: int
) -> None:
    task = TASKS[index]
    fetched(task.data)
    some = [name for name in METHODS if name in task.methods]
    some = [some[(2 * index + i) % len(some)] for i in range(2)]  # each in its turn, over the tasks
    task = task.changed(
        width=0.1 if task.network == "lenet5" else 0.05,  # from 2 channels to 26
        epochs=1,
        sparsities=task.sparsities[:1],
        methods=some,
        seeds=[0],
        per_class=1,
    )
    changes = SMALL | {"comparison": {"tasks": [task.model_dump(mode="json")]}}
    params = parameters.load(FILE, changes)
    plan = plans.comparison(params) + plans.comparison(params, {0: agent().plain()})
    rows = grid.tabulate(pruning.prune_and_train, plan, params.compute, task.name)
    table = pd.DataFrame(rows)

    assert list(table["method"]) == ["dense", *sorted(some, key="rlpanning".__eq__)]
    assert set(table["task"]) == {task.name} and set(table["seed"]) == {0}
    train_set, test_set = worlds.load(task.data, PAPER.compute.device)
    weights = prunable(worlds.make_network(task.network, task.width, 0, train_set))
    total = sum(weight.numel() for weight in weights.values())
    dense, sparse = table.iloc[0], table.iloc[1:]
    assert dense["sparsity"] == dense["sparsity_reached"] == dense["effective_sparsity"] == 0
    assert set(sparse["sparsity"]) == set(task.sparsities)
    reached = 1 - kept_count(total, task.sparsities[0]) / total
    assert set(sparse["sparsity_reached"]) == {reached}
    assert sparse["effective_sparsity"].between(reached, 1).all()
    assert ((table["accuracy"] * len(test_set)) % 1 < 1e-9).all()
    for column in ("accuracy", "test_loss", "train_loss"):
        assert table[column].map(math.isfinite).all()


@pytest.mark.slow
def test_the_notebook_runs_such_a_profile(workspace: Path, fetched: Callable[[str], None]) -> None:
    """Without CIFAR, whose checksums another process could not be made to forget."""
    profile = yaml.safe_load(FILE.read_text())
    tasks = [task for task in profile["comparison"]["tasks"] if "mnist" in task["data"]]
    for task in tasks:
        fetched(task["data"])
        task |= {"width": 0.1, "epochs": 1, "sparsities": task["sparsities"][:2], "seeds": [0, 1]}
        task["per_class"] = 1
    profile["comparison"]["tasks"] = tasks
    targets = profile["transfer"]["targets"]
    assert {target["data"] for target in targets} <= {task["data"] for task in tasks}
    for section, changes in SMALL.items():
        profile[section] |= changes
    profile["flow"] |= {"sparsities": [0.9, 0.99], "seeds": [0, 1], "compressions": [10, 107000]}
    profile["flow"] |= {"collapse_methods": ["snip", "panning"]}
    for place in profile["flow"]["vetoes"]:
        place |= {"width": 0.1, "sparsities": [0.9], "seeds": [0]}
    for folder in ("lib", "tools", "benchmarks", "notebooks"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, workspace / folder, ignore=ignored)
    known = workspace / "lib/data/sources.py"
    for name, digest in FASHION.items():  # of the files just made up
        known.write_text(known.read_text().replace(digest, sources.FASHION[name]))
    (workspace / "executed/full").mkdir(parents=True)
    (workspace / "profiles").mkdir()
    (workspace / "profiles/full.yaml").write_text(yaml.safe_dump(profile, sort_keys=False))
    stages = yaml.safe_load((ROOT / "profiles/full/dvc.yaml").read_text())["stages"]
    for command in stages["artificial_panning"]["cmd"]:
        command = command.replace("${profile}", "profiles/full.yaml").replace("${size}", "full/")
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            *(command.split(),),
            env=os.environ | {"PATH": programs},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    table = Results("full").read("comparison")
    assert set(table["task"]) == {task["name"] for task in tasks}
    for task in tasks:
        part = table[table["task"] == task["name"]]
        assert len(part) == 2 * (1 + 2 * (len(task["methods"]) - 1))  # RLPanning comes later
        assert set(part["method"]) == {"dense", *task["methods"]} - {"rlpanning"}
        assert set(part["sparsity"]) == {0.0, *task["sparsities"]}
    assert table["accuracy"].between(0, 1).all()
    assert (workspace / "executed/full/02_artificial_panning.ipynb").is_file()
