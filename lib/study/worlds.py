"""What a cell works on, made from plain values: images, networks, batches, policies, environments.

Everything random in them comes from a seed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from ..agent import AgentPolicy
from ..data import sources
from ..data.images import ImageSet, load_data, scoring_batches
from ..environment import PanningEnv
from ..metrics import Batch
from ..networks.architectures import build_model
from ..policies import constant_policy, random_policy, staged_policy
from . import parameters
from .process import resolve_device


@lru_cache(maxsize=4)
def _kept(name: str, device: str, version: str) -> tuple[ImageSet, ImageSet]:
    where = resolve_device(device)
    train_set, test_set = load_data(name)
    return train_set.to(where), test_set.to(where)


def load(name: str, device: str = "auto") -> tuple[ImageSet, ImageSet]:
    """The training and the test set called `name`, on a device; kept for the next cell."""
    return _kept(name, device, sources.version(name))


def make_network(
    network: str, width: float, seed: int, data: ImageSet, device: str = "auto"
) -> nn.Module:
    """A fresh network for a data set, by seed; the global generators are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(network, data.channels, data.num_classes, width, data.size)
    return model.to(resolve_device(device))


def make_batches(train_set: ImageSet, scoring: parameters.Scoring, seed: int) -> list[Batch]:
    """The scoring batches of a profile, by seed."""
    return scoring_batches(train_set, train_set.num_classes, scoring.per_class, scoring.count, seed)


def unscored_batches(train_set: ImageSet, scoring: parameters.Scoring, seed: int) -> list[Batch]:
    """As many scoring batches of images of which `make_batches`, with the same seed, draws none.

    Where few images are left, a batch has fewer of each class.

    Raises:
        ValueError: Of some class none is left.
    """
    classes = train_set.num_classes
    # The draw depends on the classes alone, so that the same one can be made of indices.
    indices = TensorDataset(torch.arange(len(train_set)), train_set.targets.cpu())
    drawn = scoring_batches(indices, classes, scoring.per_class, scoring.count, seed)
    left = torch.ones(len(train_set), dtype=torch.bool)
    left[torch.cat([index for index, _ in drawn])] = False
    left = left.to(train_set.targets.device)
    rest = replace(train_set, images=train_set.images[left], targets=train_set.targets[left])
    fewest = int(rest.targets.bincount(minlength=classes).min())
    if not fewest:
        raise ValueError(
            f"scoring: {scoring.count} batches of {scoring.per_class} images of each class leave "
            "none to look at; ask for fewer, or for no trials"
        )
    fewer = scoring.changed(per_class=min(scoring.per_class, fewest))
    return make_batches(rest, fewer, seed)


def make_policy(description: Any) -> Callable:
    """A policy from plain values: "staged", ["random", seed], rows of stages, p, or an agent."""
    if isinstance(description, Mapping):
        return AgentPolicy(description["weights"], description["card"])
    if description == "staged":
        return staged_policy()
    if description[0] == "random":
        return random_policy(description[1])
    if isinstance(description[0], Sequence):
        return staged_policy(description)
    return constant_policy(description)


def make_environment(
    *,
    data: str,
    environment: parameters.Environment,
    scoring: parameters.Scoring,
    network: str,
    width: float,
    seed: int,
    device: str = "auto",
    fraction: float = 1.0,
    settings: Mapping[str, Any] | None = None,
    holdout: float = 0.0,
) -> PanningEnv:
    """The environment of a profile, on any network."""
    train_set, _ = load(data, device)
    if holdout:
        train_set, _ = train_set.split(holdout, seed)
    train_set = train_set.subset(fraction, seed)
    return PanningEnv(
        make_network(network, width, seed, train_set, device),
        make_batches(train_set, scoring, seed),
        temperature=scoring.temperature,
        **environment.model_dump(exclude={"network", "width", "seed"}),
        **(settings or {}),
    )
