"""The cells of the full study: what a policy earns and is worth, what moves in the loop.

Like `experiments`, plain values in, plain values out, for `grid.run_grid`.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import config, probes
from .environment import PanningEnv, Reward
from .experiments import seen_before_training, train_and_test
from .methods import METHODS, pan
from .metrics import grad_norm_sq, loss_and_gradient
from .models import flatten
from .panning import Panning
from .policies import STAGES
from .worlds import load, make_batches, make_environment, make_network, make_policy

TERMS = tuple(f"reward_{term}" for term in Reward._fields)
Policy = Callable[[np.ndarray], Sequence[float]]


# --- what a policy earns, and what its network is worth ----------------------------------------


def earn(env: PanningEnv, policy: Policy, sparsity: float) -> dict[str, float]:
    """The return of one episode and its terms; then the loop is run to its end.

    An episode ends when the network is dead, Panning does not: weights can return.
    """
    state, _ = env.reset(options={"sparsity": sparsity})
    sums, length, ended = dict.fromkeys(("return", *TERMS), 0.0), 0, False
    while not env.panning.done:
        state, value, terminated, _, info = env.apply(policy(state))
        if not ended:
            length += 1
            sums["return"] += value
            for term in TERMS:
                sums[term] += info[term]
        ended = ended or terminated
    return sums | {"length": length}


def judge(
    *,
    policies: Mapping[str, Any],
    sparsity: float,
    training: config.Training,
    trials: Sequence[int] = (),
    **world: Any,
) -> list[dict[str, float]]:
    """One episode of each policy at one target, and the network that it found, trained.

    The policies share what is known of the network: the dense scores, and the range of 𝒩.

    Args:
        policies: {name: policy}, see `make_policy`.
        sparsity: The target.
        training: How the networks are trained.
        trials: Numbers of training steps after which to look at the loss, see `trainability`; with
            any, the sparse networks are also looked at before training.
        **world: The arguments of `make_environment`.

    Returns:
        A row a policy.
    """
    env = make_environment(**world)
    process, bank = env.panning, env.panning.bank
    train_set, test_set = load(world["data"], world.get("device", "auto"))
    train_set = train_set.subset(world.get("fraction", 1.0), world["seed"])
    rows = []
    for name, policy in policies.items():
        row = {"policy": name} | earn(env, make_policy(policy), sparsity)
        kept = process.effective
        row["effective_sparsity"] = process.effective_sparsity
        if trials:
            row |= {f"final_{key}": x for key, x in process.observe()._asdict().items()}
            row |= _gaps_at_200(process)
            row |= seen_before_training(bank.model, kept, bank.batches[0])
            for steps in trials:
                after = probes.trainability(bank.model, kept, bank.batches, steps)
                row[f"loss_after_{steps}"] = after
        model = copy.deepcopy(bank.model)
        rows.append(row | train_and_test(model, train_set, test_set, training, kept, world["seed"]))
    return rows


def _gaps_at_200(process: Panning) -> dict[str, float]:
    """|L - L_s| and |ΔL - ΔL_s| at temperature 200, in float64: in float32 they are noise."""
    model = copy.deepcopy(process.bank.model).double()
    inputs, targets = process.bank.batches[(process.t - 1) % len(process.bank.batches)]
    values = []
    for mask in (None, process.mask):
        loss, gradients = loss_and_gradient(model, mask, (inputs.double(), targets), 200.0)
        values.append((loss.item(), grad_norm_sq(gradients, mask).item()))
    (loss, flow), (loss_sparse, flow_sparse) = values
    return {"gap_loss_200": abs(loss - loss_sparse), "gap_flow_200": abs(flow - flow_sparse)}


def random_policies(count: int, seed: int) -> dict[str, list]:
    """Random policies by name, as `make_policy` reads them: every other one is a table.

    The weights p are log-uniform from 0.001 to 1, each of them 0 one time in four: what matters is
    their proportion, and leaving a metric out is a choice of its own.
    """
    generator = np.random.default_rng(seed)

    def draw() -> list[float]:
        p = 10 ** -generator.uniform(0, 3, 3) * (generator.random(3) > 0.25)
        return [float(value) for value in np.round(p if p.any() else np.ones(3), 6)]

    edges = [row[0] for row in STAGES]
    return {
        f"{index:03d}": draw() if index % 2 else [[edge, *draw()] for edge in edges]
        for index in range(count)
    }


# --- what moves in the loop --------------------------------------------------------------------


def trace(
    *,
    data: str,
    network: str,
    seed: int,
    sparsity: float,
    steps: int,
    policy: Any,
    scoring: config.Scoring,
    settings: Mapping[str, Any] | None = None,
    width: float = 1.0,
    device: str = "auto",
) -> dict[str, Any]:
    """Panning with every weight watched: when it left, whether it returned, where the scores lie.

    Returns:
        "layers": a row for each iteration and layer: density, weights removed and reactivated,
            share of the total score; "departures": how often the weights of the final mask had
            left; "absent": for how many iterations; "agreement": which part of the final mask other
            methods keep too, beside what chance gives in the whole network and layer by layer.
    """
    train_set, _ = load(data, device)
    model = make_network(network, width, seed, train_set, device)
    batches = make_batches(train_set, scoring, seed)
    settings = {"temperature": scoring.temperature, **(settings or {})}
    process = Panning(model, batches, sparsity, steps, **settings)
    weights, choose = process.bank.weights, make_policy(policy)
    names = [name.removesuffix(".weight") for name in weights]
    sizes = [weight.numel() for weight in weights.values()]
    departures, absent = (torch.zeros(process.bank.total, dtype=torch.int32) for _ in range(2))
    rows, before = [], process.mask.cpu()
    while not process.done:
        p = choose(process.state(None))
        scores = process.scores(p).cpu()
        process.step(p)
        mask = process.mask.cpu()
        left, back = before & ~mask, ~before & mask
        departures += left
        absent += ~mask
        parts = zip(*(t.split(sizes) for t in (mask, left, back, scores)), strict=True)
        total = scores.double().sum().item()
        for name, (kept, gone, returned, score) in zip(names, parts, strict=True):
            share = score.double().sum().item() / total if total else 0.0
            counts = {"removed": int(gone.sum()), "reactivated": int(returned.sum())}
            row = {"iteration": process.t, "layer": name, "density": kept.float().mean().item()}
            rows.append(row | counts | {"score_share": share})
        before = mask
    final = process.mask.cpu()
    return {
        "layers": rows,
        "departures": torch.bincount(departures[final]).tolist(),
        "absent": torch.bincount(absent[final], minlength=steps + 1).tolist(),
        "agreement": _agreement(model, batches, sparsity, steps, final, sizes, choose, settings),
    }


def _agreement(
    model: torch.nn.Module,
    batches: list,
    sparsity: float,
    steps: int,
    final: Tensor,
    sizes: list[int],
    policy: Policy,
    settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Overlap of a mask with those of other methods on the same network."""
    rows = []
    for method in ("magnitude", "snip", "grasp", "synflow", "iterative_fused"):
        for count in {METHODS[method].steps or steps, 1}:
            chosen = policy if METHODS[method].p is None else None
            result = pan(model, batches, sparsity, count, policy=chosen, method=method, **settings)
            other = flatten(result.masks).cpu()
            kept = int(final.sum())
            pairs = zip(final.split(sizes), other.split(sizes), sizes, strict=True)
            by_layer = sum(int(a.sum()) * int(b.sum()) / n for a, b, n in pairs)
            rows.append(
                {
                    "other": method,
                    "steps": count,
                    "overlap": int((final & other).sum()) / kept,
                    "by_chance": kept / len(final),
                    "by_layer_densities": by_layer / kept,
                }
            )
    return sorted(rows, key=lambda row: (row["other"], row["steps"]))


def collapse(
    *,
    data: str,
    network: str,
    seed: int,
    method: str,
    compressions: Sequence[float],
    steps: int,
    scoring: config.Scoring,
    policy: Any = None,
    settings: Mapping[str, Any] | None = None,
    width: float = 1.0,
    device: str = "auto",
) -> list[dict[str, float]]:
    """At each compression N / kept, whether a layer is left empty, and how many weights matter.

    A row a compression, up to the maximal critical compression N / L, at which one weight a layer
    is left (Tanaka et al. 2020).
    """
    train_set, _ = load(data, device)
    model = make_network(network, width, seed, train_set, device)
    batches = make_batches(train_set, scoring, seed)
    rows = []
    for compression in compressions:
        result = pan(
            *(model, batches, 1 - 1 / compression, METHODS[method].steps or steps),
            policy=None if policy is None else make_policy(policy),
            method=method,
            seed=seed,
            **{"temperature": scoring.temperature, **(settings or {})},
        )
        smallest = min(int(mask.sum()) for mask in result.masks.values())
        kept, effective = (int(flatten(m).sum()) for m in (result.masks, result.effective))
        rows.append(
            {
                "compression": compression,
                "smallest_layer": smallest,
                "effective_share": effective / kept,
            }
        )
    return rows
