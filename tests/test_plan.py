"""The full study's profiles are whole, name what the library has, and refuse what they do not."""

import copy
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lib import agent_evidence, config, plan
from lib.fusion import SCORES
from lib.methods import METHODS
from lib.models import NETWORKS
from lib.policies import SCHEDULES, staged_policy

ROOT = Path(__file__).resolve().parents[1]
# params.yaml and profiles/smoke.yaml are of the other shape, see test_config.
FILES = [path for path in sorted(ROOT.glob("profiles/*.yaml")) if path.name != "smoke.yaml"]
SMOKE = yaml.safe_load((ROOT / "profiles" / "full-smoke.yaml").read_text())


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def profile(request: pytest.FixtureRequest) -> SimpleNamespace:
    """Each full profile in turn."""
    return plan.load(request.param)


# --- the files -----------------------------------------------------------------------------------


def differences(section: object, written: object, where: str) -> list[str]:
    """Places at which a file has other keys than the dataclasses, at any depth."""
    if is_dataclass(section):
        names = {field.name for field in fields(section)}
        found = [f"{where}: {sorted(names ^ set(written))}"] if names != set(written) else []
        for name in names & set(written):
            found += differences(getattr(section, name), written[name], f"{where}.{name}")
        return found
    if isinstance(section, tuple):
        assert len(section) == len(written)
        pairs = enumerate(zip(section, written, strict=True))
        return [text for i, pair in pairs for text in differences(*pair, f"{where}[{i}]")]
    return [] if section == written else [f"{where}: {section!r} for {written!r}"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_full_profile_has_every_section_and_key_and_nothing_else(path: Path) -> None:
    loaded, written = vars(plan.load(path)), yaml.safe_load(path.read_text())
    assert list(loaded) == list(written)
    assert set(loaded) == set(plan.SECTIONS)
    assert [
        text for name in loaded for text in differences(loaded[name], written[name], name)
    ] == []


def test_a_key_that_is_missing_would_be_noticed_at_any_depth() -> None:
    written = copy.deepcopy(SMOKE)
    del written["environment"]["objective"]  # it has a default
    loaded = vars(plan.parse(**copy.deepcopy(written)))
    assert differences(loaded["environment"], written["environment"], "environment") == [
        "environment: ['objective']"
    ]
    del written["claim_a"]["tasks"][1]["seeds"]
    assert differences(loaded["claim_a"], written["claim_a"], "claim_a") == [
        "claim_a.tasks[1]: ['seeds']"
    ]


def test_the_smoke_profile_is_not_the_full_one() -> None:
    assert {"full.yaml", "full-smoke.yaml"} <= {path.name for path in FILES}
    full, smoke = (plan.load(ROOT / "profiles" / f"{name}.yaml") for name in ("full", "full-smoke"))
    assert full.claim_a != smoke.claim_a and full.training != smoke.training


def test_every_way_to_train_changes_parameters_that_there_are(profile: SimpleNamespace) -> None:
    study = profile.learning
    names = [variant.name for variant in study.variants]
    assert len(set(names)) == len(names)
    assert {study.chosen, study.better} <= set(names)
    for variant in study.variants:
        for section, changes in (
            (profile.environment, variant.environment),
            (profile.agent, variant.agent),
        ):
            changed = config.changed(section, **changes)
            assert (changed != section) == bool(changes), variant.name


def test_what_a_profile_names_is_known_to_the_library(profile: SimpleNamespace) -> None:
    methods = {name for task in profile.claim_a.tasks for name in task.methods}
    assert {name.removesuffix("+shuffled") for name in methods} <= set(METHODS)
    assert {*profile.claim_c.check_methods, *profile.claim_c.collapse_methods} <= set(METHODS)
    places = [*profile.claim_a.tasks, *profile.claim_b.targets]
    networks = {place.network for place in places} | {profile.environment.network}
    assert networks | {profile.claim_c.network, profile.choices.network} <= set(NETWORKS)
    assert set(profile.choices.scores) <= set(SCORES)
    assert {profile.panning.schedule, *profile.choices.schedules} <= set(SCHEDULES)
    staged_policy(profile.panning.stages)
    # An axis with another name would fall out of the table of claims without a word.
    assert {t.axis for t in profile.claim_b.targets} <= {"none", *agent_evidence.AXES}


def test_names_and_seeds_of_a_profile_are_there_once(profile: SimpleNamespace) -> None:
    tasks, targets = profile.claim_a.tasks, profile.claim_b.targets
    lists = [[task.name for task in tasks], [target.name for target in targets]]
    sections = [*tasks, profile.learning, profile.claim_b, profile.claim_c, profile.choices]
    for section in sections:
        lists += [v for f in fields(section) if isinstance(v := getattr(section, f.name), tuple)]
    for values in lists:
        assert len({str(value) for value in values}) == len(values), values


def test_agents_are_not_judged_on_the_network_that_they_were_trained_on(
    profile: SimpleNamespace,
) -> None:
    seeds = {*profile.agent.evaluation_seeds, *profile.claim_b.seeds}
    seeds |= {seed for task in profile.claim_a.tasks for seed in task.seeds}
    assert profile.environment.seed not in seeds


def test_the_study_is_loaded_from_its_own_file(workspace: Path) -> None:
    (workspace / "profiles").mkdir()
    (workspace / "profiles" / "full.yaml").write_text(yaml.safe_dump(SMOKE, sort_keys=False))
    assert plan.load() == plan.load(ROOT / "profiles" / "full-smoke.yaml")
    with pytest.raises(ValueError, match="params.yaml: lacks the section 'c"):
        plan.load(workspace / "params.yaml")


def test_sections_of_tasks_are_frozen_and_of_tuples_to_the_last_level() -> None:
    parsed = plan.parse(claim_a=SMOKE["claim_a"])
    hash(parsed.claim_a)
    assert parsed.claim_a.tasks[0].sparsities == (0.9, 0.98)
    changed = copy.deepcopy(SMOKE["claim_a"])
    changed["tasks"][0]["width"] = 1
    assert type(plan.parse(claim_a=changed).claim_a.tasks[0].width) is float


# --- errors --------------------------------------------------------------------------------------

Change = Callable[[dict], object]
TASKS = "known are name, data, network"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda p: p["claim_a"]["tasks"][0].update(epoch=3),
            ValueError,
            rf"unknown key 'epoch' in section 'claim_a.tasks\[0\]'; {TASKS}",
        ),
        (
            lambda p: p["claim_a"]["tasks"][1].pop("width"),
            ValueError,
            r"section 'claim_a.tasks\[1\]' lacks the key 'width'",
        ),
        (
            lambda p: p["claim_a"]["tasks"][0].update(epochs="2"),
            TypeError,
            r"params: claim_a.tasks\[0\].epochs must be of type int, got '2'",
        ),
        (
            lambda p: p["claim_a"]["tasks"][0].update(weight_decay="1e-4"),
            TypeError,
            r"claim_a.tasks\[0\].weight_decay must be of type float, got '1e-4' \(YAML reads",
        ),
        (
            lambda p: p["claim_a"]["tasks"][2].update(sparsities=[0.9, "0.98"]),
            TypeError,
            r"params: claim_a.tasks\[2\].sparsities\[1\] must be of type float, got '0.98'",
        ),
        (
            lambda p: p["claim_a"]["tasks"][0].update(methods="snip"),
            TypeError,
            r"claim_a.tasks\[0\].methods must be a list, got 'snip'",
        ),
        (
            lambda p: p["claim_a"]["tasks"].__setitem__(0, "LeNet"),
            TypeError,
            r"section 'claim_a.tasks\[0\]' must be a mapping, got 'LeNet'",
        ),
        (
            lambda p: p["claim_a"].update(tasks=p["claim_a"]["tasks"][0]),
            TypeError,
            "params: claim_a.tasks must be a list, got {'name'",
        ),
        (
            lambda p: p["learning"]["variants"][1].update(env={}),
            ValueError,
            r"unknown key 'env' in section 'learning.variants\[1\]'; known are name, environment",
        ),
        (
            lambda p: p["learning"]["variants"][0].pop("agent"),
            ValueError,
            r"section 'learning.variants\[0\]' lacks the key 'agent'",
        ),
        (
            lambda p: p["learning"]["variants"][0].update(environment=None),
            TypeError,
            r"learning.variants\[0\].environment must be of type dict, got None",
        ),
        (
            lambda p: p["claim_b"]["targets"][3].update(native=1),
            TypeError,
            r"claim_b.targets\[3\].native must be of type bool, got 1",
        ),
        (
            lambda p: p["choices"].update(seeds=[0, 1.5]),
            TypeError,
            r"choices.seeds\[1\] must be of type int, got 1.5",
        ),
        (lambda p: p.update(claim_d={}), ValueError, "unknown section 'claim_d'; known are"),
        (lambda p: p.update(comparison={}), ValueError, "unknown section 'comparison'"),
    ],
)
def test_a_wrong_key_is_refused_by_its_place_its_name_and_its_value(
    change: Change, error: type[Exception], message: str
) -> None:
    sections = copy.deepcopy(SMOKE)
    plan.parse(**sections)
    change(sections)
    with pytest.raises(error, match=message):
        plan.parse(**sections)


def test_a_profile_without_one_of_the_sections_is_refused(tmp_path: Path) -> None:
    sections = {name: values for name, values in SMOKE.items() if name != "choices"}
    (tmp_path / "half.yaml").write_text(yaml.safe_dump(sections))
    with pytest.raises(ValueError, match="half.yaml: lacks the section 'choices'"):
        plan.load(tmp_path / "half.yaml")


# --- changed -------------------------------------------------------------------------------------


def test_a_changed_section_is_another_one_with_what_was_changed() -> None:
    before = plan.parse(environment=SMOKE["environment"]).environment
    after = config.changed(before, steps=7, sparsity=[0.5, 1], action="logarithmic")
    assert (after.steps, after.sparsity, after.action) == (7, (0.5, 1.0), "logarithmic")
    assert before.steps == SMOKE["environment"]["steps"]
    rest = {field.name for field in fields(before)} - {"steps", "sparsity", "action"}
    assert all(getattr(after, name) == getattr(before, name) for name in rest)
    assert config.changed(before) == before


def test_sections_with_tasks_can_be_changed_too() -> None:
    before = plan.parse(claim_a=SMOKE["claim_a"]).claim_a
    assert config.changed(before) == before
    assert config.changed(before, tasks=SMOKE["claim_a"]["tasks"][:1]).tasks == before.tasks[:1]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"step": 3}, ValueError, "unknown key 'step' in section 'environment'; known are network"),
        ({"steps": 3.0}, TypeError, "environment.steps must be of type int, got 3.0"),
        ({"steps": True}, TypeError, "environment.steps must be of type int, got True"),
        ({"alpha": "1e2"}, TypeError, "environment.alpha must be of type float, got '1e2'"),
        ({"sparsity": 0.9}, TypeError, "environment.sparsity must be a list, got 0.9"),
        ({"sparsity": [0.9]}, TypeError, "environment.sparsity must have 2 entries"),
        ({"action": None}, TypeError, "environment.action must be of type str, got None"),
    ],
)
def test_a_wrong_change_is_refused_as_in_a_file(changes, error, message: str) -> None:
    section = plan.parse(environment=SMOKE["environment"]).environment
    with pytest.raises(error, match=message):
        config.changed(section, **changes)
