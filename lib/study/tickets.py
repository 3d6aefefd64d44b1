"""The mark to aim at: magnitude pruning *after* training, its weights rewound and trained again.

A control and no rival: it trains the dense network first, and with rounds once more for each.
"""

import copy
from collections.abc import Sequence
from typing import Any

from ..masks import Mask, kept_count, top_k
from ..networks.inspection import flatten, prunable
from ..networks.paths import effective_mask
from . import parameters
from .pruning import name_of, train_and_test
from .worlds import load, make_network

# What a comparison calls them, and whether they go from sparsity to sparsity.
TICKETS = {"trained_magnitude": False, "lottery_ticket": True}


def rewound(
    *,
    data: str,
    network: str,
    seed: int,
    sparsities: Sequence[float],
    iterative: bool,
    training: parameters.Training,
    device: str = "auto",
    width: float = 1.0,
) -> list[dict[str, Any]]:
    """Train, keep the largest trained weights, rewind them to their first values, train again.

    Frankle & Carbin (2019), to the initialisation. The fresh network and the order of the images
    are those of `prune_and_train` with the same seed.

    Args:
        data: Name of the data set.
        network: Name of the network.
        seed: Of everything random in the cell.
        sparsities: Targets, in ascending order.
        iterative: Whether each mask is chosen among the weights of the one before, by their size
            after the training that it had; else all are chosen on the trained dense network.
        training: How each of the trainings is done.
        device: Where.
        width: Factor on the width of the network.

    Returns:
        A row for each sparsity, as `prune_and_train` returns it, without multiply-adds.
    """
    if list(sparsities) != sorted(sparsities):
        raise ValueError(f"sparsities must ascend, got {list(sparsities)}")
    train_set, test_set = load(data, device)
    first = make_network(network, width, seed, train_set, device)
    trained = copy.deepcopy(first)
    train_and_test(trained, train_set, test_set, training, None, seed)
    example, _ = next(train_set.batches(2))
    rows = []
    for rho in sparsities:
        weights = prunable(trained)
        size = flatten(weights).detach().abs()  # 0 where the mask before has removed a weight
        mask = Mask(top_k(size, kept_count(len(size), rho)), weights)
        kept = Mask(effective_mask(first, mask.flat, example), weights)
        again = copy.deepcopy(first)
        found = {"sparsity": rho, "sparsity_reached": mask.sparsity}
        found |= {"effective_sparsity": kept.sparsity, "mask": name_of(kept.flat)}
        found |= {"reactivated": 0, "selected": ""}
        rows.append(found | train_and_test(again, train_set, test_set, training, kept, seed))
        trained = again if iterative else trained
    return rows
