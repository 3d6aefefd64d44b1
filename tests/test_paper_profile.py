"""The paper's own grid runs as it stands, made small, on files of the real formats.

That its names and keys are the library's is what test_plan holds all full profiles to.
"""

import dataclasses
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from lib import analysis, config, datasets, experiments, grids, plan, results, worlds
from lib.agent import AgentPolicy, save_policy
from lib.masks import kept_count
from lib.methods import METHODS
from lib.models import build_model, prunable

ROOT = Path(__file__).parents[1]
FILE = ROOT / "profiles" / "paper.yaml"
PAPER = plan.load(FILE)
TASKS = PAPER.claim_a.tasks


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
        assert task.weight_decay == (0.0001 if network == "lenet5" else 0.0005)
        assert (min(task.sparsities), max(task.sparsities)) == (lowest, highest)
        assert len(task.seeds) == seeds
        assert set(METHODS) - set(task.methods) == {"random"}  # ERK is the better control


def test_nothing_else_is_in_it_and_any_machine_can_run_it() -> None:
    assert len(TASKS) == 8
    assert PAPER.compute == config.Compute("auto", 0)
    assert PAPER.scoring.count == PAPER.panning.steps == 100  # a fresh batch at each iteration


def test_notebook_10_finds_on_the_first_task_what_it_takes_panning_apart_with() -> None:
    wanted = {method for table, method in analysis.PARTS.values() if table == "claim_a"}
    assert wanted == {"iterative_fused", grids.SHUFFLED}
    assert wanted <= set(TASKS[0].methods)


def test_agents_learn_as_in_the_design() -> None:
    agent, environment = PAPER.agent, PAPER.environment
    assert (PAPER.data.name, environment.network, environment.width) == ("mnist", "lenet5", 1.0)
    assert (agent.algorithm, agent.steps, agent.learning_starts) == ("td3", 50000, 2000)
    assert (agent.learning_rate, agent.batch_size, agent.hidden) == (0.0002, 256, (256, 256))
    assert (agent.gamma, agent.tau, agent.policy_delay) == (0.99, 0.01, 2)
    assert (agent.policy_noise, agent.noise_clip, agent.exploration_noise) == (0.2, 0.5, 0.1)
    assert (environment.steps, environment.alpha, environment.grad_weight) == (100, 100, 0.2)


def test_its_agents_are_those_whose_files_the_pipeline_expects() -> None:
    stages = yaml.safe_load((ROOT / "profiles/full/dvc.yaml").read_text())["stages"]
    expected = {Path(next(iter(out))).stem for out in stages["learning"]["outs"]}
    study = PAPER.learning
    assert expected <= {f"{name}-{i}" for name in (study.chosen, study.better) for i in study.seeds}


def test_no_compression_asks_for_less_than_a_weight_a_layer() -> None:
    weights = prunable(build_model(PAPER.claim_c.network))
    total = sum(weight.numel() for weight in weights.values())
    assert total / max(PAPER.claim_c.compressions) >= len(weights)


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
                path = datasets.folder_of(name) / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        else:
            published(name, 100 if name == "cifar100" else 20, 20)
        datasets.fetch(config.changed(PAPER.data, name=name))

    return write


@pytest.mark.parametrize("index", range(len(TASKS)), ids=[task.name for task in TASKS])
def test_a_task_runs_from_the_published_files_to_its_rows(
    fetched: Callable[[str], None], index: int
) -> None:
    task = TASKS[index]
    fetched(task.data)
    some = [name for name in METHODS if name in task.methods]
    some = [some[(2 * index + i) % len(some)] for i in range(2)]  # each in its turn, over the tasks
    task = dataclasses.replace(
        *(task,),
        width=0.1 if task.network == "lenet5" else 0.05,  # from 2 channels to 26
        epochs=1,
        sparsities=task.sparsities[:1],
        methods=tuple(some),
        seeds=(0,),
    )
    params = SimpleNamespace(**vars(PAPER))
    params.panning = config.changed(PAPER.panning, steps=2)
    params.scoring = config.changed(PAPER.scoring, per_class=1, count=2)
    named = grids.comparison(params, task, {0: agent().plain()})
    classes = datasets.spec(task.data).num_classes
    for _, cell in named:
        # An image of each class, and a row of its Jacobian for each class: slow on a processor.
        cell["probe"] = cell["probe"] and classes <= 10
    compute = dataclasses.replace(PAPER.compute, workers=1)
    table = pd.DataFrame(grids.tabulate(experiments.prune_and_train, named, compute, task.name))

    assert list(table["method"]) == ["dense", *some]
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
    if classes <= 10:
        assert (sparse[["initial_loss", "jacobian_max"]] >= 0).all(axis=None)


@pytest.mark.slow
def test_the_notebook_runs_such_a_profile(workspace: Path, fetched: Callable[[str], None]) -> None:
    """Without CIFAR, whose checksums another process could not be made to forget."""
    profile = yaml.safe_load(FILE.read_text())
    tasks = [task for task in profile["claim_a"]["tasks"] if "mnist" in task["data"]]
    for task in tasks:
        fetched(task["data"])
        task |= {"width": 0.1, "epochs": 1, "sparsities": task["sparsities"][:2], "seeds": [0, 1]}
    profile["claim_a"]["tasks"] = tasks
    profile["compute"]["workers"] = 1
    profile["panning"]["steps"] = 2
    profile["scoring"] |= {"per_class": 1, "count": 2}
    for seed in profile["learning"]["seeds"]:
        name = f"{profile['learning']['chosen']}-{seed}"
        save_policy(agent(), workspace / "data/agents/full" / name)
    shutil.copytree(ROOT / "lib", workspace / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("notebooks", "executed", "profiles"):
        (workspace / folder).mkdir()
    shutil.copy(ROOT / "notebooks/08_claim_a.ipynb", workspace / "notebooks")
    (workspace / "profiles/full.yaml").write_text(yaml.safe_dump(profile, sort_keys=False))
    stages = yaml.safe_load((ROOT / "profiles/full/dvc.yaml").read_text())["stages"]

    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        stages["claim_a"]["cmd"].split(),
        env=os.environ | {"PATH": programs},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = results.read_table("full/claim_a")
    names = [task["name"] for task in tasks]
    assert set(table["task"]) == set(names)
    for task in tasks:
        part = table[table["task"] == task["name"]]
        assert len(part) == 2 * (1 + 2 * len(task["methods"]))
        assert set(part["method"]) == {"dense", *task["methods"]}
        assert set(part["sparsity"]) == {0.0, *task["sparsities"]}
    assert table["accuracy"].between(0, 1).all()
    wins = results.read_table("full/claim_a_wins")
    assert len(wins) == sum(len(task["methods"]) for task in tasks)
    assert set(results.read_scalars("full/claim_a_ranks")["critical_difference"]) == set(names)
