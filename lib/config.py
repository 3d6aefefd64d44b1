"""The parameters of params.yaml, checked.

One frozen dataclass describes each section of params.yaml. A key that is unknown, missing or of the
wrong type raises at once and names the section and the key: a mistyped parameter must not silently
leave a default in force.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace

import yaml


@dataclass(frozen=True)
class Compute:
    """Where the work is done. The number of workers changes no result; another device may."""

    device: str  # "auto", "cpu", "cuda", "cuda:1", ...
    workers: int  # processes, one torch thread each; 0: one for each core, or one on a GPU
    engine: str = "joblib"  # on this machine; "ray" on a cluster
    address: str = "auto"  # of the Ray cluster; "local" starts one on this machine
    gpus_per_cell: float = 0.0  # what Ray gives each worker


@dataclass(frozen=True)
class Data:
    """The data set, and how the embedded one is split."""

    name: str
    test_size: int  # images held out of an embedded set; torchvision's sets bring their own split
    split_seed: int


@dataclass(frozen=True)
class Scoring:
    """The class-balanced batches on which SNIP and GraSP are computed."""

    per_class: int
    count: int
    temperature: float  # the scoring loss is the cross-entropy of logits / temperature


@dataclass(frozen=True)
class Panning:
    """The Panning loop and the hand-made policy."""

    steps: int
    schedule: str
    stages: tuple[tuple[float, float, float, float], ...]  # (target sparsity up to, p)


@dataclass(frozen=True)
class Training:
    """SGD with momentum and a learning rate that falls to 0 along a cosine."""

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float


@dataclass(frozen=True)
class Metrics:
    """Notebook 01: what each metric says of one fresh network."""

    network: str
    seed: int
    sparsities: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """Notebooks 02, 03 and 05: every method on one network."""

    network: str
    width: float
    methods: tuple[str, ...]
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Environment:
    """The Panning process seen as a Markov decision process."""

    network: str
    width: float
    seed: int  # of the network that the agent is trained on
    steps: int
    sparsity: tuple[float, float]  # the range from which an episode draws its target
    alpha: float  # weight of |effective - target sparsity| in the reward
    grad_weight: float  # weight w of the gradient-norm term in the reward
    calibration_steps: int  # iterations of the roll-outs that measure the range of the losses
    action: str = "linear"  # how an action becomes p: "linear" or "logarithmic"
    objective: str = "paper"  # what is rewarded: "paper" or "trainability"
    trial_steps: int = 100  # of training, for the objective "trainability"


@dataclass(frozen=True)
class Agent:
    """The agent, TD3 by default, and how its policy is judged."""

    steps: int
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
    checkpoint_every: int
    seeds: tuple[int, ...]  # the first one is the agent that ships
    evaluation_sparsities: tuple[float, ...]
    evaluation_seeds: tuple[int, ...]  # of networks that the agent has not seen
    algorithm: str = "td3"  # or "sac"
    reward_scale: float = 1.0  # what the reward is multiplied by before it is learned from


@dataclass(frozen=True)
class Ablations:
    """Notebook 04: one thing changed at a time."""

    network: str
    width: float
    epochs: int
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: tuple[int, ...]  # values of T
    fractions: tuple[float, ...]  # of the training images
    widths: tuple[float, ...]


@dataclass(frozen=True)
class Statistics:
    """How uncertainty is stated."""

    confidence: float  # level of every interval drawn or printed


@dataclass(frozen=True)
class Figures:
    """How figures look. Nothing but notebook 05 depends on it."""

    dpi: int
    width: float  # inches
    font_size: float


SECTIONS = {
    cls.__name__.lower(): cls
    for cls in (
        *(Compute, Data, Scoring, Panning, Training),
        *(Metrics, Comparison, Environment, Agent, Ablations, Statistics, Figures),
    )
}


def _coerce(kind: object, value: object, where: str) -> object:
    """`value` as `kind`: lists become tuples, whole numbers floats; else a TypeError at `where`."""
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{where} must be a list, got {value!r}")
        if inner[-1] is Ellipsis:
            inner = (inner[0],) * len(value)
        if len(inner) != len(value):
            raise TypeError(f"{where} must have {len(inner)} entries, got {value!r}")
        pairs = enumerate(zip(inner, value, strict=True))
        return tuple(_coerce(each, item, f"{where}[{i}]") for i, (each, item) in pairs)
    if is_dataclass(kind):
        return _section(kind, value, where.removeprefix("params: "))
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        hint = ""
        if kind is float and isinstance(value, str):
            hint = " (YAML reads 1e-3 as text: write 0.001)"
        raise TypeError(f"{where} must be of type {kind.__name__}, got {value!r}{hint}")
    return value


def parse(known: Mapping[str, type] = SECTIONS, /, **sections: Mapping) -> SimpleNamespace:
    """Sections of params.yaml as checked, frozen dataclasses.

    >>> parse(scoring={"per_class": 10, "count": 10, "temperature": 200}).scoring.per_class
    10

    Args:
        known: The sections that there are, by name; those of params.yaml by default.
        **sections: {key: value} of each.

    Raises:
        ValueError: A section or a key is unknown or missing.
        TypeError: A value has the wrong type.
    """
    out = {}
    for name, values in sections.items():
        if name not in known:
            raise ValueError(f"params: unknown section {name!r}; known are {', '.join(known)}")
        out[name] = _section(known[name], values, name)
    return types.SimpleNamespace(**out)


def _section(cls: type, values: object, where: str) -> object:
    """A mapping as the dataclass `cls`, checked; errors say where it stands."""
    if not isinstance(values, Mapping):
        raise TypeError(f"params: section {where!r} must be a mapping, got {values!r}")
    known = {field.name: field for field in fields(cls)}
    if unknown := set(values) - set(known):
        raise ValueError(
            f"params: unknown key {sorted(unknown)[0]!r} in section {where!r}; "
            f"known are {', '.join(known)}"
        )
    required = {key for key, field in known.items() if field.default is MISSING}
    if missing := required - set(values):
        raise ValueError(f"params: section {where!r} lacks the key {sorted(missing)[0]!r}")
    kinds = typing.get_type_hints(cls)
    return cls(
        **{key: _coerce(kinds[key], v, f"params: {where}.{key}") for key, v in values.items()}
    )


def changed(section: object, **changes: object) -> object:
    """A section with some of its values replaced, checked as if params.yaml had them."""
    return _section(type(section), asdict(section) | changes, type(section).__name__.lower())


def root() -> Path:
    """The repository: the nearest folder, from the working directory upwards, with a params.yaml.

    Notebooks run from the root under papermill and from notebooks/ in JupyterLab; both find it.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"no params.yaml in {here} or above it: run this from a clone of the companion"
    )


def load(path: Path | None = None, known: Mapping[str, type] = SECTIONS) -> SimpleNamespace:
    """All sections of a params file (default: the repository's params.yaml)."""
    path = path or root() / "params.yaml"
    values = yaml.safe_load(path.read_text())
    if missing := set(known) - set(values):
        raise ValueError(f"{path.name}: lacks the section {sorted(missing)[0]!r}")
    return parse(known, **values)
