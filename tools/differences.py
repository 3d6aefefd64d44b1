"""Measures what docs/differences.md says a difference from the authors' program is worth.

`python -m tools.differences` prints the two tables of that document, in some five minutes on one
core. LeNet-300-100 on the embedded digits, on seeds that no other study uses; training as in the
ablations of params.yaml.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from tqdm import tqdm

import lib
from lib import masks
from lib.data import sources
from lib.environment import PanningEnv, rollout
from lib.metrics import absolute_state, grad_norm_sq, loss_and_gradient, synflow
from lib.panning import PanResult
from lib.study import parameters, worlds
from lib.study.statistics import interval

SEEDS = range(30, 35)
SPARSITIES = (0.98, 0.998)
EPISODES = 10  # after which the authors' ranges are looked at again
IN_FLOAT32 = "float32 numbers in the range of L_s, temperature"

Row = tuple[str, str, float, float]  # what, in which network, at which sparsity, how much


class World:
    """A fresh network by seed, its images, and how it is trained."""

    def __init__(self, params: parameters.Parameters, seed: int):
        self.params, self.seed = params, seed
        self.train_set, self.test_set = worlds.load(params.data.name, "cpu")
        self.model = worlds.make_network("lenet300", 1.0, seed, self.train_set, "cpu")
        self.training = params.training.changed(epochs=params.ablations.epochs)

    def batches(self, **changes: int) -> list:
        """The scoring batches of params.yaml, or others."""
        scoring = self.params.scoring.changed(**changes)
        return worlds.make_batches(self.train_set, scoring, self.seed)

    def prune(
        self,
        sparsity: float,
        method: str,
        batches: list,
        model: nn.Module | None = None,
        **settings: Any,
    ) -> PanResult:
        """`lib.pan` of this network or another, with T of params.yaml if the method iterates."""
        steps = None if lib.METHODS[method].steps else self.params.panning.steps
        model = model or self.model
        return lib.pan(model, batches, sparsity, steps, method=method, **settings)

    def accuracy(self, kept: Mapping[str, Tensor] | None) -> np.ndarray:
        """On the test images in %, after each epoch."""
        model, settings = copy.deepcopy(self.model), self.training.model_dump()
        history = lib.train(
            model, self.train_set, kept, self.seed, test_set=self.test_set, **settings
        )
        return 100 * np.array(history.accuracy)

    def by_epoch(self, kept: Mapping[str, Tensor] | None) -> float:
        """The last accuracy, the learning rate changed once an epoch only."""
        of_an_epoch = math.ceil(len(self.train_set) / self.training.batch_size)

        def schedule(optimiser: torch.optim.Optimizer, steps: int) -> Any:
            def factor(step: int) -> float:
                return (1 + math.cos(math.pi * (step - step % of_an_epoch) / steps)) / 2

            return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)

        with mock.patch("torch.optim.lr_scheduler.CosineAnnealingLR", schedule):
            return self.accuracy(kept)[-1]


def trained(world: World) -> Iterator[Row]:
    """What each difference changes in the accuracy, in points: theirs minus ours."""
    dense = world.accuracy(None)
    yield "best test epoch", "dense", 0.0, dense.max() - dense[-1]
    yield "learning rate by epoch", "dense", 0.0, world.by_epoch(None) - dense[-1]
    batches = world.batches()
    for rho in SPARSITIES:
        for method in ("snip", "synflow", "panning"):
            result = world.prune(rho, method, batches)
            ours = world.accuracy(result.effective)
            yield "best test epoch", method, rho, ours.max() - ours[-1]
            if method != "synflow":  # nearly all that it keeps is effective
                kept = world.accuracy(result.masks)[-1]
                yield "kept weights trained", method, rho, kept - ours[-1]
            if method == "panning":
                others = {"learning rate by epoch": world.by_epoch(result.effective)}
                others |= _other_scores(world, rho, batches)
                for name, theirs in others.items():
                    yield name, method, rho, theirs - ours[-1]
    signs = {"signed": {}, "absolute": {"score": "absolute"}, "opposite": {"invert": True}}
    found = {}
    for name, settings in signs.items():
        result = world.prune(SPARSITIES[0], "grasp", batches, **settings)
        found[name] = world.accuracy(result.effective)[-1]
    for name in ("absolute", "opposite"):
        yield f"GraSP, {name} sign", "grasp", SPARSITIES[0], found[name] - found["signed"]


def _other_scores(world: World, rho: float, batches: list) -> dict[str, float]:
    """The last accuracy of Panning on other scoring batches, and in the other form."""
    scoring = {"fresh batch at each iteration": {"count": world.params.panning.steps}}
    scoring |= {f"scoring images a class: {n}": {"per_class": n} for n in (5, 1)}
    found = {k: world.prune(rho, "panning", world.batches(**v)) for k, v in scoring.items()}
    found["product with its table"] = world.prune(rho, "panning_product", batches)
    return {name: world.accuracy(result.effective)[-1] for name, result in found.items()}


def untrained(world: World, episodes: int) -> Iterator[Row]:
    """What can be said of a difference without training anything."""
    batches = world.batches()
    for rho in SPARSITIES:
        for method in ("snip", "panning"):
            with mock.patch("lib.masks.top_k", Counted(masks.top_k)) as counted:
                kept = world.prune(rho, method, batches).masks.flat
            yield "weights too many by ties, worst iteration", method, rho, counted.surplus
            _, gradients = loss_and_gradient(world.model, kept, batches[0])
            ratio = grad_norm_sq(gradients) / grad_norm_sq(gradients, kept)
            yield "ΔL_s over all weights / over kept ones", method, rho, float(ratio)
            for name, network in (("zero", world.model), ("random", biased(world))):
                found = world.prune(rho, method, batches, network)
                alive = synflow(network, found.masks.flat, batches[0]) != 0
                dead = found.masks.flat & ~found.effective.flat
                share = 100 * int((alive & dead).sum()) / found.masks.count
                yield f"% of kept weights dead yet scored, {name} biases", method, rho, share
        for temperature, steps in ranges_in_float32(world, rho).items():
            yield f"{IN_FLOAT32} {temperature}", "panning", rho, steps
    first, again = returns(world, 0.99, episodes)
    yield "return of an episode, in ranges that run on", "constant p", 0.99, first
    yield "what the same episode earns later, minus that", "constant p", 0.99, again - first


class Counted:
    """`masks.top_k`, and by how many weights a threshold would have kept more, at most."""

    def __init__(self, select: Callable[[Tensor, int], Tensor]):
        self.select, self.surplus = select, 0

    def __call__(self, scores: Tensor, k: int) -> Tensor:
        """The mask of the k largest scores."""
        mask = self.select(scores, k)
        self.surplus = max(self.surplus, int((scores >= scores[mask].min()).sum()) - k)
        return mask


def biased(world: World) -> nn.Module:
    """The network with biases as PyTorch draws them."""
    model = copy.deepcopy(world.model)
    generator = torch.Generator().manual_seed(world.seed)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            end = layer.in_features**-0.5
            nn.init.uniform_(layer.bias, -end, end, generator=generator)
    return model


def ranges_in_float32(world: World, rho: float) -> dict[int, float]:
    """How many float32 numbers lie between the extremes of L_s in a run, by temperature."""
    batches, losses = world.batches(), {200: [], 1: []}

    def look(t: int, mask: masks.Mask, _: np.ndarray) -> None:
        if t % max(1, world.params.panning.steps // 20) == 0:
            for temperature, found in losses.items():
                loss, _ = loss_and_gradient(world.model, mask.flat, batches[0], temperature)
                found.append(loss.item())

    world.prune(rho, "panning", batches, callback=look)
    units = {key: np.spacing(np.float32(found[0])) for key, found in losses.items()}
    return {key: float(np.ptp(found) / units[key]) for key, found in losses.items()}


def returns(world: World, rho: float, episodes: int) -> tuple[float, float]:
    """What an episode earns in the authors' process, before and after some others."""
    steps = world.params.environment.calibration_steps
    env = PanningEnv(world.model, world.batches(), steps, formulation="authors")
    constant = lib.constant_policy((0.4, 0.2, 0.4))  # the hand-made table reads our state

    def earned() -> float:
        return sum(row["reward"] for row in rollout(env, constant, rho))

    first, chance = earned(), lib.random_policy(world.seed)
    env.reset(seed=world.seed)
    for _ in range(episodes):
        rollout(env, chance, env.reset()[1]["final_target"])
    return first, earned()


def path_norm(dtype: torch.dtype) -> float:
    """SynFlow's R of a fresh ResNet-32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = lib.build_model("resnet32", 3, 10).eval()
    state, ones = absolute_state(model, dtype), torch.ones(1, 3, 32, 32, dtype=dtype)
    with torch.no_grad():
        return float(functional_call(model, state, ones).sum())


def table(rows: Iterable[Row], unit: str, confidence: float, signed: bool) -> str:
    """Mean and interval over the seeds, one line for each difference and network."""
    found: dict[tuple[str, str], dict[float, list[float]]] = {}
    for what, method, rho, value in rows:
        found.setdefault((what, method), {}).setdefault(rho, []).append(value)
    lines = [f"| measured | method | {unit} |", "|---|---|---|"]
    for (what, method), columns in found.items():
        cells = []
        for rho, values in columns.items():
            mean, low, high = interval(values, confidence)
            digits = 0 if abs(mean) >= 100 else 2 if 0 < abs(mean) < 1 else 1
            form = f"{'+' * signed}.{digits}f"
            end = f" ({low:{form}} to {high:{form}})" if low < high else ""  # one seed has none
            cells.append(f"{100 * rho:g} %: {mean:{form}}{end}" if rho else f"{mean:{form}}{end}")
        lines.append(f"| {what} | {method} | {'; '.join(cells)} |")
    return "\n".join(lines)


def measure(
    params: parameters.Parameters, seeds: Iterable[int] = SEEDS, episodes: int = EPISODES
) -> str:
    """Both tables, as Markdown."""
    torch.set_num_threads(1)
    rows: tuple[list[Row], list[Row]] = [], []
    for seed in tqdm(list(seeds)):
        world = World(params, seed)
        rows[0].extend(trained(world))
        rows[1].extend(untrained(world, episodes))
    confidence = params.statistics.confidence
    return "\n\n".join(
        (
            table(rows[0], "points of accuracy, theirs minus ours", confidence, True),
            table(rows[1], "value", confidence, False),
        )
    )


if __name__ == "__main__":
    chosen = parameters.load("params.yaml")
    sources.fetch(*chosen.data.model_dump().values())
    print(measure(chosen))
    norms = (path_norm(dtype) for dtype in (torch.float32, torch.float64))
    print(
        "\nSynFlow's R of a fresh ResNet-32 in float32 and float64: {:.2g}, {:.2g}".format(*norms)
    )
