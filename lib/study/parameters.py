"""The parameters of a profile, checked: params.yaml and profiles/*.yaml have the same form.

Each section of the yaml is a frozen pydantic model. A key that is unknown, missing or of the wrong
type raises at once and is named: a mistyped parameter must not leave a default in force.
Nothing has a default here, so the yaml shows every number that shapes a result.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from ..data.files import root


class Section(BaseModel):
    """A section of a profile, or a part of one."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    def changed(self, **changes: Any) -> "Section":
        """A copy with some values replaced, checked as if they were in the yaml."""
        return _validated(type(self), self.model_dump() | changes, type(self).__name__)


class Compute(Section):
    """Where the work is done. The number of workers changes no result; another device may."""

    device: str = Field(description='"auto", "cpu", "cuda", "cuda:1", ...')
    workers: int = Field(description="processes of one thread; 0: one a core, or one on a GPU")
    engine: Literal["joblib", "ray"] = Field(description="this machine, or a Ray cluster")
    address: str = Field(description='of the Ray cluster; "local" starts one on this machine')
    gpus_per_cell: float = Field(description="what Ray gives each worker")
    archive: str | None = Field(description="a file that keeps finished cells in git, too")


class Data(Section):
    """The data set, and how an embedded one is split."""

    name: str
    test_size: int = Field(description="images held out of an embedded set")
    split_seed: int


class Scoring(Section):
    """The class-balanced batches on which SNIP and GraSP are computed."""

    per_class: int
    count: int = Field(description="batches, cycled over the iterations")
    temperature: float = Field(description="the logits are divided by it in the scoring loss")


class PanningParameters(Section):
    """The Panning loop and the hand-made policy."""

    steps: int = Field(description="T")
    schedule: Literal["exponential", "linear", "cosine"]
    stages: tuple[tuple[float, float, float, float], ...] = Field(
        description="rows: target sparsity up to, p for SynFlow, SNIP, GraSP"
    )


class Training(Section):
    """How a network is trained: its learning rate falls to 0 along a cosine."""

    epochs: int
    batch_size: int
    optimizer: Literal["sgd", "adam"]
    learning_rate: float
    momentum: float = Field(description="of SGD; Adam's first beta")
    weight_decay: float


class Metrics(Section):
    """Notebook 01: what each metric says about one fresh network."""

    network: str
    seed: int
    sparsities: tuple[float, ...]


class Ground(Section):
    """A network on a data set, and the sparsities to which it is pruned there."""

    name: str
    data: str
    network: str
    width: float
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]


class Task(Ground):
    """One on which methods are compared, and how it is trained."""

    epochs: int
    batch_size: int
    weight_decay: float
    methods: tuple[str, ...] = Field(
        description='names in lib.METHODS or tickets.TICKETS, or "panning+shuffled"'
    )
    per_class: int = Field(description="samples of each class in a scoring batch")


class Comparison(Section):
    """Notebook 02: every method at every sparsity."""

    tasks: tuple[Task, ...]


class Place(Ground):
    """One that is pruned, not trained."""

    methods: tuple[str, ...] = Field(description="names in plans.VETOES")


class Flow(Section):
    """Notebook 02: which weights leave and return, when a layer is left empty, who vetoes whom."""

    network: str
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]
    collapse_methods: tuple[str, ...]
    compressions: tuple[float, ...] = Field(description="weights in all / weights kept")
    vetoes: tuple[Place, ...] = Field(description="where it is looked which weights are worthless")


class Environment(Section):
    """Notebook 03: the Panning process as a Markov decision process."""

    network: str
    width: float
    seed: int = Field(description="of the network that agents are trained on; no experiment's")
    steps: int = Field(description="T of an episode")
    sparsity: tuple[float, float] = Field(description="an episode draws its target from it")
    alpha: float = Field(description="weight of |effective - target sparsity| in the reward")
    grad_weight: float = Field(description="w, weight of the gradient-norm term")
    calibration_steps: int = Field(description="of the roll-outs that measure the range of losses")
    action: Literal["linear", "logarithmic"] = Field(description="how an action becomes p")
    objective: Literal["paper", "trainability", "sensitivity"] = Field(description="the reward")
    trial_steps: int = Field(description="of training, for the objective trainability")


class Agent(Section):
    """Notebook 03: the agent's own settings, those of `lib.train_agent`."""

    steps: int
    algorithm: Literal["td3", "sac", "ddpg"]
    learning_rate: float
    batch_size: int
    gamma: float
    tau: float
    policy_noise: float
    noise_clip: float
    policy_delay: int
    exploration_noise: float
    learning_starts: int
    hidden: tuple[int, ...]
    reward_scale: float = Field(description="the reward is multiplied by it before it is learned")
    checkpoint_every: int


class Variant(Section):
    """A way to train agents: what it changes of `environment` and of `agent`."""

    name: str
    environment: dict[str, Any]
    agent: dict[str, Any]
    seeds: tuple[int, ...]


class Learning(Section):
    """Notebook 03: does the agent learn? Against a search that has its budget."""

    variants: tuple[Variant, ...]
    chosen: str = Field(description="the variant whose first agent ships and prunes in RLPanning")
    sparsities: tuple[float, ...] = Field(description="at which policies are evaluated")
    seeds: tuple[int, ...] = Field(description="of networks that no agent has seen")
    search_sparsities: tuple[float, ...] = Field(description="of the search for the best constant")


class Reward(Section):
    """Notebook 03: does a policy that earns more make networks that train better?"""

    policies: int = Field(description="random ones, whose return and accuracy are compared")
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int = Field(description="T")
    trials: tuple[int, ...] = Field(description="training steps after which the loss is looked at")
    epochs: int


class Target(Section):
    """A network and data set on which agents trained elsewhere are used."""

    name: str
    axis: Literal["none", "images", "scale", "network", "data"] = Field(description="what changes")
    data: str
    network: str
    width: float
    fraction: float = Field(description="of the training images")
    epochs: int
    native: bool = Field(description="whether an agent is trained here, too")
    sparsities: tuple[float, ...]


class Transfer(Section):
    """Notebook 03, claim B: the agents, unchanged, on other targets."""

    targets: tuple[Target, ...]
    seeds: tuple[int, ...]


class Ablations(Section):
    """Notebook 04: one thing of Panning changed at a time."""

    network: str
    epochs: int
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]
    scores: tuple[str, ...] = Field(description="other normalisations")
    temperatures: tuple[float, ...]
    per_class: tuple[int, ...]
    counts: tuple[int, ...]
    schedules: tuple[str, ...]
    steps: tuple[int, ...] = Field(description="other values of T")


class Checks(Section):
    """Notebook 04: what a method loses when it is deprived of one thing."""

    network: str
    epochs: int
    methods: tuple[str, ...]
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]


class Search(Section):
    """Notebook 04: a search over the hand-made table; the rest is as in `ablations`."""

    trials: int = Field(description="tables that each search tries")
    seeds: tuple[int, ...]
    epochs: int
    steps: int = Field(description="T of the networks that a search tries")
    holdout: float = Field(description="of the training images, for the accuracy it searches by")


class Candidate(Section):
    """A fixed fusion: the product with exponents p, unless its settings say otherwise."""

    name: str
    p: tuple[float, float, float] = Field(description="for SynFlow, SNIP, GraSP")
    steps: int = Field(description="T")
    settings: dict[str, Any] = Field(description="of `lib.Panning`, beside schedule and seed")
    scoring: dict[str, Any] = Field(description="what it changes of the section `scoring`")


class Development(Section):
    """Notebook 07: which fixed fusion is the strongest? Its images, networks, seeds are its own."""

    candidates: tuple[Candidate, ...]
    tasks: tuple[Task, ...] = Field(description="methods: names of candidates, or in lib.METHODS")
    holdout: float = Field(description="of the training images, for the accuracy that decides")


class Arena(Ground):
    """One on which policies are judged."""

    epochs: int
    per_class: int = Field(description="samples of each class in a scoring batch")


class Pool(Section):
    """Many small networks, of which an agent meets another one in each episode."""

    count: int
    widths: tuple[float, float] = Field(description="log-uniform; the network is `environment`'s")
    seed: int = Field(description="of the widths, and of the first network")


class Learner(Variant):
    """A way to train agents of the product's space."""

    networks: Pool | None = Field(description="null: the network of `environment` alone")


class Exponents(Section):
    """Notebook 07: an agent, a search, or three numbers: who chooses the exponents best?"""

    steps: int = Field(description="T")
    settings: dict[str, Any] = Field(description="of `lib.Panning`: the space of policies")
    holdout: float = Field(description="of the training images, for the accuracy that decides")
    policies: int = Field(description="random ones, by which rewards are compared")
    trials: tuple[int, ...] = Field(description="training steps after which the loss is looked at")
    rewards: tuple[Arena, ...] = Field(description="where rewards are compared")
    learners: tuple[Learner, ...]
    evaluate_at: tuple[float, ...] = Field(description="targets of greedy evaluations in training")
    evaluate_seed: int = Field(description="of the network of these evaluations")
    searched: str = Field(description="the learner whose reward and budget the searches have")
    decided: tuple[Arena, ...] = Field(
        description="where the best agent is chosen, held-out images"
    )
    reported: tuple[Arena, ...] = Field(description="where all are compared, test images")
    rivals: tuple[str, ...] = Field(description="names in lib.METHODS, beside them there")


class Statistics(Section):
    """How uncertainty is stated."""

    confidence: float = Field(description="level of every interval")


class Figures(Section):
    """How figures look. Notebook 05 alone depends on it."""

    dpi: int
    width: float = Field(description="inches")
    font_size: float


class Parameters(Section):
    """All sections of a profile."""

    compute: Compute
    data: Data
    scoring: Scoring
    panning: PanningParameters
    training: Training
    metrics: Metrics
    comparison: Comparison
    flow: Flow
    environment: Environment
    agent: Agent
    learning: Learning
    reward: Reward
    transfer: Transfer
    ablations: Ablations
    checks: Checks
    search: Search
    development: Development
    exponents: Exponents
    statistics: Statistics
    figures: Figures

    _size: str = PrivateAttr("")

    @property
    def size(self) -> str:
        """The folder of a profile's results: "" for params.yaml, "full" for profiles/full.yaml."""
        return self._size

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names of all data sets that some notebook needs."""
        tasks = (*self.comparison.tasks, *self.development.tasks)
        study = self.exponents
        arenas = (*study.rewards, *study.decided, *study.reported)
        places = (*tasks, *arenas, *self.transfer.targets, *self.flow.vetoes)
        return tuple(dict.fromkeys([self.data.name, *(place.data for place in places)]))


def _message(error: ValidationError, source: str) -> str:
    """The first error, where it is, and how to fix it, in one line."""
    first = error.errors(include_url=False)[0]
    where, value = ".".join(map(str, first["loc"])), first["input"]
    if first["type"] == "extra_forbidden":
        return f"{source}: there is no parameter {where!r}; check its spelling"
    if first["type"] == "missing":
        return f"{source}: lacks {where!r}; every parameter must be given"
    hint = ""
    if isinstance(value, str) and first["type"] in ("float_type", "int_type"):
        hint = " (YAML reads 1e-3 as text: write 0.001)"
    return f"{source}: {where}: {first['msg']}, got {value!r}{hint}"


def _validated(model: type[Section], values: object, source: str) -> Any:
    # As JSON: a list counts as a tuple and a whole number as a float; nothing else is converted.
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise ValueError(_message(error, source)) from None


def _merged(values: Any, changes: Mapping[str, Any]) -> Any:
    """`values` updated with `changes`, which may name only a part of a section."""
    out = dict(values)
    for key, change in changes.items():
        old = out.get(key)
        both = isinstance(change, Mapping) and isinstance(old, Mapping)
        out[key] = _merged(old, change) if both else change
    return out


def load(
    profile: str | Path = "params.yaml", changes: Mapping[str, Any] | None = None
) -> Parameters:
    """The parameters of a profile, checked.

    Args:
        profile: A path from the repository's root.
        changes: What to replace, for a reader who tries something:
            `{"panning": {"steps": 50}}`.

    Raises:
        FileNotFoundError: There is no such profile.
        ValueError: A key is unknown or missing, or a value has the wrong type.
    """
    path = root() / profile
    if not path.is_file():
        known = ", ".join(["params.yaml", *(f"profiles/{p.name}" for p in _profiles())])
        raise FileNotFoundError(f"profile: no file {str(profile)!r}; there are {known}")
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"profile: {profile} is no YAML: {error}") from error
    if not isinstance(written, dict):
        raise ValueError(f"profile: {profile} holds no sections, as params.yaml does")
    values = _merged(written, changes or {})
    params = _validated(Parameters, values, str(profile))
    params._size = "" if path == root() / "params.yaml" else path.stem
    return params


def _profiles() -> list[Path]:
    return sorted((root() / "profiles").glob("*.yaml"))


def schema() -> str:
    """The JSON schema of a profile, which profiles/schema.json holds for editors."""
    return json.dumps(Parameters.model_json_schema(), indent=2) + "\n"
