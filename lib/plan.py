"""The parameters of the full study, profiles/full.yaml: some of params.yaml's, and its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from . import config


@dataclass(frozen=True)
class Variant:
    """Another way to train an agent: what is changed of `environment` and of `agent`."""

    name: str
    environment: dict
    agent: dict


@dataclass(frozen=True)
class Learning:
    """Notebook 07: does the agent learn, and does the reward say what we want?"""

    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]  # agents of the variant `chosen`
    better_seeds: tuple[int, ...]  # agents of the variant `better`
    trial_seeds: tuple[int, ...]  # agents of each other variant
    search_sparsities: tuple[float, ...]  # targets of the search for the best constant p
    chosen: str  # the variant whose agents are used from here on
    better: str  # the one that learns from another reward
    policies: int  # random ones, whose reward and accuracy are compared
    policy_sparsities: tuple[float, ...]
    policy_steps: int  # T of their episodes
    trials: tuple[int, ...]  # training steps after which a better reward might look
    epochs: int


@dataclass(frozen=True)
class Task:
    """A network on a data set, and how it is pruned and trained there."""

    name: str
    data: str
    network: str
    width: float
    epochs: int
    batch_size: int
    weight_decay: float
    sparsities: tuple[float, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class ClaimA:
    """Notebook 08: every method at every sparsity."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Target:
    """Where an agent is used that was trained elsewhere."""

    name: str
    axis: str  # which change it belongs to, a key of `agent_evidence.AXES`, or "none"
    data: str
    network: str
    width: float
    fraction: float
    epochs: int
    native: bool  # whether an agent is trained here, too
    sparsities: tuple[float, ...]


@dataclass(frozen=True)
class ClaimB:
    """Notebook 09: the agents, unchanged, on other targets."""

    targets: tuple[Target, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class ClaimC:
    """Notebook 10: what moves in the loop, and which part of it helps."""

    network: str
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]
    epochs: int
    check_methods: tuple[str, ...]
    check_sparsities: tuple[float, ...]
    collapse_methods: tuple[str, ...]
    compressions: tuple[float, ...]


@dataclass(frozen=True)
class Choices:
    """Notebook 11: which metrics, how normalised, how fused, how many of everything."""

    network: str
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]
    epochs: int
    scores: tuple[str, ...]
    temperatures: tuple[float, ...]
    per_class: tuple[int, ...]
    counts: tuple[int, ...]
    schedules: tuple[str, ...]
    steps: tuple[int, ...]
    trials: int  # tables that each search tries
    searches: tuple[int, ...]  # their seeds
    search_epochs: int
    search_steps: int  # T of the networks that a search tries
    holdout: float  # of the training images, for the accuracy that is searched by


SHARED = ("compute", "data", "scoring", "panning", "training", "environment", "agent")
SECTIONS = {name: config.SECTIONS[name] for name in (*SHARED, "statistics", "figures")} | {
    "learning": Learning,
    "claim_a": ClaimA,
    "claim_b": ClaimB,
    "claim_c": ClaimC,
    "choices": Choices,
}


def parse(**sections: Mapping) -> SimpleNamespace:
    """Sections of profiles/full.yaml as checked, frozen dataclasses; see `config.parse`."""
    return config.parse(SECTIONS, **sections)


def load(path: Path | None = None) -> SimpleNamespace:
    """All sections of a full profile (default: profiles/full.yaml)."""
    return config.load(path or config.root() / "profiles" / "full.yaml", SECTIONS)
