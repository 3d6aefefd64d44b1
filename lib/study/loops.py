"""Cells that watch the Panning loop: weights that return, layers left empty, metrics that veto."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..masks import top_k
from ..methods import METHODS, pan
from ..metrics import snip, synflow
from ..networks.inspection import unflatten
from ..panning import Panning
from . import parameters
from .worlds import load, make_batches, make_network, make_policy


def trace(
    *,
    data: str,
    network: str,
    seed: int,
    sparsity: float,
    steps: int,
    policy: Any,
    scoring: parameters.Scoring,
    settings: Mapping[str, Any] | None = None,
    width: float = 1.0,
    device: str = "auto",
) -> dict[str, Any]:
    """Panning with every weight watched: when it left, whether it returned, where the scores lie.

    Returns:
        "flow", one row per iteration: weights removed and reactivated, and the share of the final
            mask that is already kept; "layers", one row per iteration and layer: density, removed,
            reactivated, share of the total score; "departures": how often the weights of the final
            mask had left; "agreement": the share of the final mask that other methods keep too,
            and what chance gives, in the whole network and layer by layer.
    """
    train_set, _ = load(data, device)
    model = make_network(network, width, seed, train_set, device)
    batches = make_batches(train_set, scoring, seed)
    settings = {"temperature": scoring.temperature, **(settings or {})}
    process = Panning(model, batches, sparsity, steps, **settings)
    choose = make_policy(policy)
    names = [name.removesuffix(".weight") for name in process.masks]
    sizes = [part.numel() for part in process.masks.values()]
    departures = torch.zeros(sum(sizes), dtype=torch.int32)
    masks, layers = [process.mask.cpu()], []
    while not process.done:
        p = choose(process.state(None, getattr(choose, "needs_effective", True)))
        scores = process.scores(p).cpu()
        process.step(p)
        masks.append(process.mask.cpu())
        left, back = masks[-2] & ~masks[-1], ~masks[-2] & masks[-1]
        departures += left
        parts = zip(*(t.split(sizes) for t in (masks[-1], left, back, scores)), strict=True)
        total = scores.double().sum().item()
        for name, (kept, gone, returned, score) in zip(names, parts, strict=True):
            row = {"iteration": process.t, "layer": name, "density": kept.float().mean().item()}
            row |= {"removed": int(gone.sum()), "reactivated": int(returned.sum())}
            share = score.double().sum().item() / total if total else 0.0
            layers.append(row | {"score_share": share})
    final = masks[-1]
    flow = [
        {
            "iteration": row["iteration"],
            "removed": row["removed"],
            "reactivated": row["reactivated"],
            "of_final": int((mask & final).sum()) / int(final.sum()),
        }
        for mask, row in zip(masks[1:], process.log.rows, strict=True)
    ]
    return {
        "flow": flow,
        "layers": layers,
        "departures": torch.bincount(departures[final]).tolist(),
        "agreement": _agreement(model, batches, sparsity, steps, final, sizes, choose, settings),
    }


def _agreement(
    model: torch.nn.Module,
    batches: list,
    sparsity: float,
    steps: int,
    final: Tensor,
    sizes: list[int],
    policy: Callable,
    settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Overlap of a mask with those of other methods on the same network."""
    rows = []
    for method in ("magnitude", "snip", "grasp", "synflow", "iterative_fused"):
        for count in {METHODS[method].steps or steps, 1}:
            chosen = policy if METHODS[method].p is None else None
            changed = {k: v for k, v in settings.items() if k != "reactivate"}
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # dead: a result
                result = pan(
                    *(model, batches, sparsity, count), policy=chosen, method=method, **changed
                )
            other = result.masks.flat.cpu()
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
    scoring: parameters.Scoring,
    policy: Any = None,
    settings: Mapping[str, Any] | None = None,
    width: float = 1.0,
    device: str = "auto",
) -> list[dict[str, float]]:
    """At each compression N / kept, whether a layer is left empty, and how many weights matter.

    One row per compression, up to the maximal critical compression N / L, which leaves one weight
    per layer (Tanaka et al. 2020).
    """
    train_set, _ = load(data, device)
    model = make_network(network, width, seed, train_set, device)
    batches = make_batches(train_set, scoring, seed)
    rows = []
    for compression in compressions:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # dead: a result
            result = pan(
                *(model, batches, 1 - 1 / compression, METHODS[method].steps or steps),
                policy=None if policy is None else make_policy(policy),
                method=method,
                seed=seed,
                **{"temperature": scoring.temperature, **(settings or {})},
            )
        smallest = min(int(mask.sum()) for mask in result.masks.values())
        share = result.effective.count / result.masks.count
        row = {"compression": compression, "smallest_layer": smallest, "effective_share": share}
        rows.append(row)
    return rows


def vetoes(
    *,
    data: str,
    network: str,
    seed: int,
    sparsity: float,
    steps: int,
    policy: Any,
    scoring: parameters.Scoring,
    settings: Mapping[str, Any] | None = None,
    width: float = 1.0,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """What SynFlow alone and SNIP alone say of the weights that a loop keeps, layer by layer.

    Both metrics are those of the masked network on which the last iteration decides, on its batch.
    A metric calls a weight worthless if its score is not above the median of all N weights. At high
    sparsity that is 0: most weights then lead from or to units that nothing reaches. A metric's
    own choice are its k best weights, as many as are kept.

    Returns:
        One row per layer, in numbers of weights: "weights", "kept"; of the kept ones "dead", which
        are not effective, "worthless_synflow", "worthless_snip", "worthless", to either metric, and
        "dark", which read an input that is the same in all training images; "chosen_synflow" and
        "chosen_snip", the metrics' own choices, and what is refused of them, "refused_synflow" and
        "refused_snip". "inputs_dark" is the share of such inputs, "refused_dark" how many of
        SynFlow's refused weights read one. The three about the dark are NaN for a layer that does
        not read the input, each of its values by weights of its own.
    """
    train_set, _ = load(data, device)
    model = make_network(network, width, seed, train_set, device)
    batches = make_batches(train_set, scoring, seed)
    settings = {"temperature": scoring.temperature, **(settings or {})}
    process = Panning(model, batches, sparsity, steps, **settings)
    choose = make_policy(policy)
    while not process.done:
        before = process.mask
        process.step(choose(process.state(None, getattr(choose, "needs_effective", True))))
    bank, kept, k = process.bank, process.mask, int(process.mask.sum())
    batch = bank.batches[(steps - 1) % len(bank.batches)]
    scores = {
        "synflow": synflow(bank.model, before, batch, weights=bank.weights).abs(),
        "snip": snip(bank.model, before, batch, scoring.temperature, weights=bank.weights).abs(),
    }
    chosen = {name: top_k(score, k) for name, score in scores.items()}
    worthless = {name: score <= score.median() for name, score in scores.items()}
    of_kept = {"dead": kept & ~process.effective_mask}
    of_kept |= {f"worthless_{name}": kept & low for name, low in worthless.items()}
    of_kept["worthless"] = kept & (worthless["synflow"] | worthless["snip"])
    marked = {"weights": torch.ones_like(kept), "kept": kept, **of_kept}
    marked |= {f"chosen_{name}": mask for name, mask in chosen.items()}
    marked |= {f"refused_{name}": mask & ~kept for name, mask in chosen.items()}
    parts = {name: unflatten(mask, bank.weights) for name, mask in marked.items()}
    dark = (train_set.images == train_set.images[:1]).all(0).flatten()
    rows: list[dict[str, Any]] = []
    for index, name in enumerate(bank.weights):
        row = {"index": index, "layer": name.removesuffix(".weight")}
        row |= {what: int(part[name].sum()) for what, part in parts.items()}
        if index == 0 and parts["kept"][name].shape[1:] == dark.shape:
            row["dark"] = int((parts["kept"][name] & dark).sum())
            row["refused_dark"] = int((parts["refused_synflow"][name] & dark).sum())
            row["inputs_dark"] = dark.float().mean().item()
        else:
            row |= dict.fromkeys(("dark", "refused_dark", "inputs_dark"), math.nan)
        rows.append(row)
    return rows
