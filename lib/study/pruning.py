"""The cell behind most tables: prune a network, train it, and say how well it does.

Plain values in, plain values out, everything random from a seed.
"""

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..agent import AgentPolicy
from ..data.files import root
from ..data.images import ImageSet
from ..masks import Mask
from ..methods import METHODS, pan, range_of
from ..networks.compaction import compacted
from ..networks.cost import flops, kept_flops
from ..networks.inspection import flatten
from ..networks.paths import effective_mask
from ..networks.training import evaluate, sample, train
from ..scores import Extremes
from . import checks, parameters
from .grid import digest, outdated, run_cell
from .worlds import load, make_batches, make_network, make_policy

# Added to a cell's seed for weights that are drawn anew: no experiment uses such a seed.
OTHER = 1000
# A training that takes longer than this, in seconds, can be continued if it is interrupted.
PAUSE = 60


def measure_range(
    *,
    data: str,
    network: str,
    width: float,
    fraction: float,
    seed: int,
    scoring: parameters.Scoring,
    device: str,
    sparsities: Sequence[float],
    steps: int | None,
    settings: Mapping[str, Any] | None,
) -> dict[str, tuple[float, float]]:
    """The range of 𝒩 on one network, which cells of several policies and targets share."""
    train_set, _ = load(data, device)
    train_set = train_set.subset(fraction, seed)
    found = range_of(
        make_network(network, width, seed, train_set, device),
        make_batches(train_set, scoring, seed),
        sparsities,
        steps,
        temperature=scoring.temperature,
        **(settings or {}),
    )
    return asdict(found)


def prune_and_train(
    *,
    data: str,
    network: str,
    seed: int,
    sparsity: float,
    method: str,
    training: parameters.Training,
    scoring: parameters.Scoring,
    device: str = "auto",
    width: float = 1.0,
    fraction: float = 1.0,
    steps: int | None = None,
    policy: Any = None,
    settings: Mapping[str, Any] | None = None,
    check: str | None = None,
    holdout: float = 0.0,
) -> dict[str, Any]:
    """Prune a fresh network, train it, test it after the last epoch.

    Initialisation, scoring batches and order of the data depend on the seed alone, so that methods
    are compared in pairs.

    Args:
        data: Name of the data set.
        network: Name of the network.
        seed: Of everything random in the cell.
        sparsity: Target ρ; 0 with method "dense".
        method: A name in `METHODS`, or "dense".
        training: How it is trained.
        scoring: The scoring batches.
        device: Where it is trained.
        width: Factor on the width of the network.
        fraction: Of the training images, for scoring and for training.
        steps: T, where the method iterates.
        policy: For Panning, see `worlds.make_policy`.
        settings: Further settings of `Panning`.
        check: A name in `checks.CHECKS`: what the method is deprived of.
        holdout: A fraction of the training images that is neither scored nor trained on, and takes
            the place of the test images wherever accuracy decides a choice.

    Returns:
        Sparsity and effective sparsity reached, weights reactivated, twelve digits that stand for
        the effective mask, the method that a selection chose, the shares of the dense network's
        multiply-adds that its weights do and that the compacted network does, and what
        `train_and_test` returns.
    """
    if check is not None and check not in checks.CHECKS:
        raise ValueError(f"check must be one of {', '.join(checks.CHECKS)}, got {check!r}")
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout must be in [0, 1), got {holdout}")
    if method == "dense" and check:
        raise ValueError("check: method 'dense' has no mask that it could be deprived of")
    train_set, test_set = load(data, device)
    if holdout:
        train_set, test_set = train_set.split(holdout, seed)
    train_set = train_set.subset(fraction, seed)
    model = make_network(network, width, seed, train_set, device)
    found: dict[str, Any] = {"sparsity_reached": 0.0, "effective_sparsity": 0.0}
    found |= {
        "reactivated": 0,
        "mask": "",
        "selected": "",
        "flops_effective": 1.0,
        "flops_compacted": 1.0,
    }
    kept: Mapping[str, Tensor] | None = None
    if method != "dense":
        generator = torch.Generator().manual_seed(seed)
        batches = make_batches(train_set, scoring, seed)
        if check == "pixels":
            batches = checks.shuffle_pixels(batches, generator)
        elif check == "labels":
            batches = checks.shuffle_labels(batches, generator)
        chosen = None if policy is None else make_policy(policy)
        extremes = None
        if isinstance(chosen, AgentPolicy) and check is None and not holdout:
            place = {"network": network, "width": width, "fraction": fraction, "seed": seed}
            place |= {"data": data, "scoring": scoring, "device": device}
            own = chosen.trained_in
            place |= {"settings": {**own["settings"], **(settings or {})}}
            place |= {"sparsities": chosen.sparsity, "steps": steps or own.get("steps")}
            extremes = Extremes(**run_cell(measure_range, place))
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # dead: a result
            result = pan(
                model,
                batches,
                sparsity,
                None if METHODS[method].steps == 1 else steps,
                policy=chosen,
                method=method,
                extremes=extremes,
                temperature=scoring.temperature,
                seed=seed,
                **{**(settings or {}), **({"invert": True} if check == "inverted" else {})},
            )
        kept = result.effective
        if check == "shuffled":  # other places in the same layers, and so other paths
            shuffled = checks.shuffle_layers(result.masks, generator)
            kept = Mask(effective_mask(model, flatten(shuffled), batches[0][0]), shuffled)
        elif check == "reinitialised":
            model = make_network(network, width, seed + OTHER, train_set, device)
        found["sparsity_reached"] = result.sparsity
        found["effective_sparsity"] = kept.sparsity
        found["reactivated"] = result.reactivated
        found["mask"] = name_of(kept.flat)
        found["selected"] = result.made["method"] if METHODS[method].select else ""
        dense, example = result.dense_flops, batches[0][0]
        small = compacted(model, kept, example).model
        costs = {
            "flops_effective": kept_flops(dense, kept),
            "flops_compacted": flops(small, example),
        }
        found |= {name: sum(f.values()) / sum(dense.values()) for name, f in costs.items()}
    return found | train_and_test(model, train_set, test_set, training, kept, seed)


def name_of(mask: Tensor) -> str:
    """Twelve hexadecimal digits that identify a mask."""
    return hashlib.sha256(np.packbits(mask.cpu().numpy()).tobytes()).hexdigest()[:12]


def train_and_test(
    model: nn.Module,
    train_set: ImageSet,
    test_set: ImageSet,
    training: parameters.Training,
    kept: Mapping[str, Tensor] | None,
    seed: int,
) -> dict[str, Any]:
    """Train a network in place, and say how it stands after the last epoch.

    An interrupted training is continued by the next one that begins alike: in the same code, with
    the same weights, masks and images.
    """
    state = {"weights": model.state_dict(), "masks": dict(kept or {})}
    state |= {"images": sample(train_set), "targets": train_set.targets}
    state["where"] = str(train_set.images.device)
    key = digest(train_and_test, {"training": training, "seed": seed, **state})
    checkpoint = root() / ".cache" / "trainings" / f"{key}.pt"
    if outdated(checkpoint):
        checkpoint.unlink()
    keep = {"checkpoint": checkpoint, "checkpoint_seconds": PAUSE}
    losses = train(model, train_set, kept, seed, **training.model_dump(), **keep)
    checkpoint.unlink(missing_ok=True)
    accuracy, loss = evaluate(model, test_set)
    found = {"accuracy": accuracy, "test_loss": loss, "train_loss": losses[-1]}
    # A sparse network starts on a plateau at ln(classes). One still there at the end never learned.
    return found | {"left_plateau": losses[-1] < 0.95 * math.log(train_set.num_classes)}
