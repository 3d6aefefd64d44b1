"""What a step of the environment costs, and the training of an agent."""

import functools
import time

import joblib
import numpy as np
import pytest
import torch

from benchmarks import plain
from benchmarks.conftest import World
from lib.agent import train_agent
from lib.environment import PanningEnv, rollout
from lib.policies import random_policy
from lib.study import process


@pytest.mark.parametrize(("network", "threads"), [("lenet5", 1), ("lenet5", 2), ("resnet32", 2)])
@pytest.mark.parametrize("form", ["plain", "fast"])
def test_environment_step(world, timed, network: str, threads: int, form: str) -> None:
    """Over an episode to 99 % with a random policy, the batches' dense scores known."""
    torch.set_num_threads(threads)
    there = world(network)
    unit = there.training_step()
    steps = 100 if network == "lenet5" else 20
    what = {"network": network, "weights": there.weights, "what": "environment step"}
    if form == "plain":
        env = plain.PlainEnv(there.model, there.batches, 0.99, steps)
        env.reset()
        action = np.zeros(3, np.float32)
        timed(lambda: (env.step(action), env.reset()), unit, form=form, **what)
    else:
        env = PanningEnv(there.model, there.batches, steps, 0.99, calibration_steps=5)
        policy = random_policy(0)
        rollout(env, policy, 0.99)  # computes the batches' dense scores
        timed(lambda: rollout(env, policy, 0.99), unit, 6.0, steps, form=form, **what)


def train(form: str, seed: int, steps: int) -> float:
    """TD3 on LeNet-5, a gradient step for each step of the environment; seconds it takes."""
    process.setup()
    there = World("lenet5")
    settings = {"steps": steps, "hidden": (256, 256), "batch_size": 256, "learning_starts": 1}
    if form == "plain":
        env = plain.PlainEnv(there.model, there.batches, 0.99, 100)
        learn = plain.train
    else:
        env = PanningEnv(there.model, there.batches, 100, (0.8, 0.9995), calibration_steps=5)
        learn = functools.partial(train_agent, checkpoint_every=steps, progress=False)
    start = time.perf_counter()
    learn(env, seed, **settings)
    return time.perf_counter() - start


@pytest.mark.parametrize(("form", "agents"), [("plain", 1), ("fast", 1), ("fast", 2)])
def test_agent_step(benchmark, form: str, agents: int) -> None:
    """Agents train beside each other, each in a process of one thread."""
    steps = 60 if form == "plain" else 400
    jobs = (joblib.delayed(train)(form, seed, steps) for seed in range(agents))
    seconds = max(joblib.Parallel(n_jobs=agents)(jobs)) / (agents * steps)
    what = {"network": "lenet5", "what": "agent step", "form": form, "agents": agents}
    benchmark.extra_info.update(what, threads=agents, seconds=seconds)
    benchmark.pedantic(lambda: None, rounds=1)
