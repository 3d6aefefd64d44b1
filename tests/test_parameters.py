"""Every profile is whole and of one form, and a wrong parameter is refused by its name."""

import copy
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from lib.data import sources
from lib.data.files import root
from lib.methods import METHODS
from lib.networks.architectures import NETWORKS
from lib.policies import SCHEDULES, staged_policy
from lib.scores import SCORES
from lib.study import fetch, notebook, parameters
from lib.study.parameters import Parameters, load
from lib.study.plans import VETOES

ROOT = Path(__file__).resolve().parents[1]
FILES = ["params.yaml", "profiles/full.yaml", "profiles/paper.yaml", "profiles/smoke.yaml"]
SMOKE = yaml.safe_load((ROOT / "profiles/smoke.yaml").read_text())


@pytest.fixture(params=FILES)
def profile(request: pytest.FixtureRequest) -> Parameters:
    """Each profile in turn."""
    return load(ROOT / request.param)


# --- the files -----------------------------------------------------------------------------------


def test_these_are_all_profiles() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("profiles/*.yaml")}
    assert found | {"params.yaml"} == set(FILES)
    loaded = [load(ROOT / name) for name in FILES]
    assert not any(one == other for one, other in itertools.combinations(loaded, 2))


@pytest.mark.parametrize("name", FILES)
def test_a_profile_has_every_section_and_key_and_nothing_else(name: str) -> None:
    written = yaml.safe_load((ROOT / name).read_text())
    assert load(ROOT / name).model_dump(mode="json") == written
    assert list(written) == list(Parameters.model_fields)


def test_no_parameter_has_a_default() -> None:
    schema = Parameters.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        assert section["required"] == list(section["properties"])
        assert section["additionalProperties"] is False


def test_editors_check_a_profile_by_the_schema_of_the_library() -> None:
    assert (ROOT / "profiles/schema.json").read_text() == parameters.schema()
    for name in FILES:
        first = (ROOT / name).read_text().splitlines()[0]
        schema = first.removeprefix("# yaml-language-server: $schema=")
        assert ((ROOT / name).parent / schema).resolve() == ROOT / "profiles/schema.json"


def keys(node: yaml.Node) -> Iterator[str]:
    """The keys of a yaml as they are written, at every depth."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key.value
            yield from keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from keys(item)


@pytest.mark.parametrize("name", FILES)
def test_sections_are_written_as_blocks_and_no_key_is_read_as_a_boolean(name: str) -> None:
    tree = yaml.compose((ROOT / name).read_text())
    assert not any(node.flow_style for node in (tree, *(section for _, section in tree.value)))
    found = list(keys(tree))
    assert len(found) > 100
    assert not {"on", "off", "yes", "no", "y", "n"} & {key.lower() for key in found}


# --- what they say -------------------------------------------------------------------------------


def test_every_way_to_train_changes_parameters_that_there_are(profile: Parameters) -> None:
    study = profile.learning
    names = [variant.name for variant in study.variants]
    assert len(set(names)) == len(names) and study.chosen in names
    for variant in study.variants:
        for section, changes in (
            (profile.environment, variant.environment),
            (profile.agent, variant.agent),
        ):
            assert (section.changed(**changes) != section) == bool(changes), variant.name
    exponents = profile.exponents
    assert exponents.searched in {learner.name for learner in exponents.learners}
    for learner in exponents.learners:
        profile.environment.changed(steps=exponents.steps, **learner.environment)
        assert profile.agent.changed(**learner.agent) != profile.agent


def test_what_a_profile_names_is_known_to_the_library(profile: Parameters) -> None:
    tasks, targets = profile.comparison.tasks, profile.transfer.targets
    methods = {name.removesuffix("+shuffled") for task in tasks for name in task.methods}
    ours = {each.name for each in profile.development.candidates}
    tried = {name for task in profile.development.tasks for name in task.methods}
    assert ours <= tried <= ours | {*METHODS} and not ours & {*METHODS}
    tasks = (*tasks, *profile.development.tasks)
    assert methods | {*profile.checks.methods, *profile.flow.collapse_methods} <= set(METHODS)
    sections = (profile.metrics, profile.flow, profile.environment, profile.ablations)
    exponents = profile.exponents
    arenas = (*exponents.rewards, *exponents.decided, *exponents.reported)
    places = (*tasks, *targets, *sections, *profile.flow.vetoes, *arenas)
    assert set(exponents.rivals) <= set(METHODS)
    assert {place.network for place in places} <= set(NETWORKS)
    assert {name for place in profile.flow.vetoes for name in place.methods} <= set(VETOES)
    assert profile.checks.network in NETWORKS
    assert set(profile.ablations.scores) <= set(SCORES)
    assert {profile.panning.schedule, *profile.ablations.schedules} <= set(SCHEDULES)
    assert all(sources.spec(name) for name in profile.datasets)
    staged_policy(profile.panning.stages)


def test_names_and_seeds_of_a_profile_are_there_once(profile: Parameters) -> None:
    def lists(section: BaseModel) -> Iterator[tuple]:
        for name, value in section:
            if isinstance(value, BaseModel):
                yield from lists(value)
            elif isinstance(value, tuple) and name not in {"hidden", "p"}:  # layers, exponents
                yield tuple(getattr(one, "name", one) for one in value)
                yield from (x for v in value if isinstance(v, BaseModel) for x in lists(v))

    found = list(lists(profile))
    assert len(found) > 25
    assert [values for values in found if len(set(values)) < len(values)] == []


def test_agents_are_not_judged_on_the_network_that_they_were_trained_on(
    profile: Parameters,
) -> None:
    seeds = {*profile.learning.seeds, *profile.transfer.seeds, *profile.reward.seeds}
    seeds |= {seed for task in profile.comparison.tasks for seed in task.seeds}
    assert profile.environment.seed not in seeds


# --- values --------------------------------------------------------------------------------------


def test_whole_numbers_become_floats_and_lists_become_tuples_to_the_last_level() -> None:
    loaded = load(ROOT / "profiles/smoke.yaml", {"panning": {"stages": [[0.5, 1, 0, 0]]}})
    assert (loaded.scoring.temperature, type(loaded.scoring.temperature)) == (200.0, float)
    assert loaded.panning.stages == ((0.5, 1.0, 0.0, 0.0),)
    assert {type(value) for value in loaded.panning.stages[0]} == {float}
    assert loaded.comparison.tasks[0].sparsities == (0.9, 0.98)


def test_a_section_cannot_be_changed_and_can_be_the_key_of_a_cache(profile: Parameters) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        profile.scoring.count = 3
    assert {profile.scoring: 1, profile.comparison: 2}[profile.comparison] == 2


@pytest.mark.parametrize(
    ("name", "size"), list(zip(FILES, ("", "full", "paper", "smoke"), strict=True))
)
def test_the_size_of_a_study_is_the_name_of_its_profile(name: str, size: str) -> None:
    assert load(name).size == load(ROOT / name).size == size


@pytest.mark.parametrize("name", FILES)
def test_the_data_sets_of_a_profile_are_all_that_its_notebooks_want(name: str) -> None:
    found, text = load(ROOT / name).datasets, (ROOT / name).read_text()
    written = [yaml.safe_load(text)["data"]["name"], *re.findall(r"\bdata: (\w+)", text)]
    assert found == tuple(dict.fromkeys(written))


# --- errors --------------------------------------------------------------------------------------

Change = Callable[[dict], object]


def first_task(profile: dict) -> dict:
    return profile["comparison"]["tasks"][0]


UNKNOWN, LACKS = "there is no parameter '{}'; check", "lacks '{}'; every parameter must be given"
HINT = r" \(YAML reads 1e-3 as text: write 0.001\)$"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(claim_d={}), UNKNOWN.format("claim_d")),
        (lambda p: p["scoring"].update(per_clas=10), UNKNOWN.format("scoring.per_clas")),
        (lambda p: first_task(p).update(epoch=3), UNKNOWN.format("comparison.tasks.0.epoch")),
        (
            lambda p: p["learning"]["variants"][1].update(env={}),
            UNKNOWN.format("learning.variants.1.env"),
        ),
        (lambda p: p.pop("scoring"), LACKS.format("scoring")),
        (lambda p: p.clear(), LACKS.format("compute")),
        (lambda p: p["scoring"].pop("per_class"), LACKS.format("scoring.per_class")),
        (lambda p: first_task(p).pop("width"), LACKS.format("comparison.tasks.0.width")),
        (lambda p: p["panning"]["stages"][0].pop(), LACKS.format("panning.stages.0.3")),
        (lambda p: p.update(scoring=None), "scoring: .*, got None$"),
        (lambda p: p.update(scoring=[1]), r"scoring: .*, got \[1\]$"),
        (lambda p: p["comparison"].update(tasks=["LeNet"]), "comparison.tasks.0: .*, got 'LeNet'$"),
        (
            lambda p: p["comparison"].update(tasks=first_task(p)),
            r"comparison.tasks: .*, got \{'batch",
        ),
        (
            lambda p: first_task(p).update(methods="snip"),
            "comparison.tasks.0.methods: .*, got 'snip'$",
        ),
        (lambda p: p["statistics"].update(confidence="1e-3"), "confidence: .*, got '1e-3'" + HINT),
        (
            lambda p: first_task(p).update(weight_decay="1e-4"),
            "0.weight_decay: .*, got '1e-4'" + HINT,
        ),
        (lambda p: p["metrics"].update(sparsities=0.9), "metrics.sparsities: .*, got 0.9$"),
        (
            lambda p: p["metrics"].update(sparsities=[0.9, "0.99"]),
            "metrics.sparsities.1: .* number, got '0.99'",
        ),
        (lambda p: p["figures"].update(dpi="150"), "figures.dpi: .* integer, got '150'"),
        (lambda p: p["figures"].update(dpi=150.5), "figures.dpi: .* integer, got 150.5$"),
        (lambda p: p["figures"].update(dpi=150.0), "figures.dpi: .* integer, got 150.0$"),
        (lambda p: p["figures"].update(dpi=True), "figures.dpi: .* integer, got True$"),
        (lambda p: p["figures"].update(width=True), "figures.width: .* number, got True$"),
        (lambda p: p["figures"].update(width=None), "figures.width: .* number, got None$"),
        (lambda p: p["ablations"].update(seeds=[0, 1.5]), "ablations.seeds.1: .*, got 1.5$"),
        (lambda p: p["transfer"]["targets"][0].update(native=1), "0.native: .* boolean, got 1$"),
        (lambda p: p["learning"]["variants"][0].update(agent=None), "0.agent: .*, got None$"),
        (lambda p: p["environment"].update(sparsity=[0, 0.5, 1]), r"sparsity: .*, got \[0, 0.5"),
        (lambda p: p["compute"].update(engine="dask"), "compute.engine: .*'ray', got 'dask'$"),
        (lambda p: p["environment"].update(action="log"), "action: .*'logarithmic', got 'log'$"),
        # An axis with another name would fall out of the table of claims without a word.
        (lambda p: p["transfer"]["targets"][0].update(axis="x"), "axis: .*'data', got 'x'$"),
    ],
)
def test_a_wrong_parameter_is_refused_by_profile_key_and_value(
    workspace: Path, change: Change, message: str
) -> None:
    values = copy.deepcopy(SMOKE)
    file = workspace / "profiles/mine.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(values))
    assert load("profiles/mine.yaml").size == "mine"
    change(values)
    file.write_text(yaml.safe_dump(values) if values else "# nothing\n")
    with pytest.raises(ValueError, match=f"^profiles/mine.yaml: .*{message}"):
        load("profiles/mine.yaml")


def test_a_profile_that_is_not_there_is_named_with_those_that_are(workspace: Path) -> None:
    (workspace / "profiles").mkdir()
    (workspace / "profiles/full.yaml").touch()
    known = "no file 'profiles/fill.yaml'; there are params.yaml, profiles/full.yaml$"
    with pytest.raises(FileNotFoundError, match=known):
        load("profiles/fill.yaml")


# --- changes -------------------------------------------------------------------------------------


def test_changes_merge_into_a_section_and_leave_the_rest(workspace: Path) -> None:
    before, seeds = load(), [7, 8]
    changes = {"panning": {"steps": 50}, "environment": {"sparsity": [0.5, 1]}}
    after = load(changes=changes | {"ablations": {"seeds": seeds}})
    assert (after.panning.steps, after.environment.sparsity) == (50, (0.5, 1.0))
    expected = before.model_dump(mode="json")
    expected["panning"]["steps"], expected["ablations"]["seeds"] = 50, seeds
    expected["environment"]["sparsity"] = [0.5, 1.0]
    assert after.model_dump(mode="json") == expected
    assert load() == load(changes={}) == before and after.size == before.size == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"panning": {"step": 50}}, UNKNOWN.format("panning.step")),
        ({"paning": {"steps": 50}}, UNKNOWN.format("paning")),
        ({"panning": {"steps": 50.0}}, "panning.steps: .*, got 50.0"),
        ({"panning": 50}, "panning: .*, got 50"),
        ({"agent": {"learning_rate": "1e-3"}}, "agent.learning_rate: .*, got '1e-3'" + HINT),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(workspace: Path, changes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^params.yaml: .*{message}"):
        load(changes=changes)


def test_a_changed_section_is_another_one_with_what_was_changed() -> None:
    before = load(ROOT / "params.yaml").environment
    after = before.changed(steps=7, sparsity=[0.5, 1], action="logarithmic")
    assert (after.steps, after.sparsity, after.action) == (7, (0.5, 1.0), "logarithmic")
    assert before.changed() == before != after
    assert after.changed(**{n: getattr(before, n) for n in ("steps", "sparsity", "action")}) == (
        before
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 3}, UNKNOWN.format("step")),
        ({"steps": 3.0}, "steps: .*, got 3.0"),
        ({"alpha": "1e2"}, "alpha: .*, got '1e2'" + HINT),
        ({"sparsity": [0.9]}, LACKS.format("sparsity.1")),
    ],
)
def test_a_wrong_change_of_a_section_is_refused_as_in_a_file(changes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^Environment: .*{message}"):
        load(ROOT / "params.yaml").environment.changed(**changes)


# --- the repository ------------------------------------------------------------------------------


@pytest.mark.parametrize("below", [".", "notebooks", "notebooks/deep"])
def test_the_root_is_found_from_anywhere_below_it(workspace, monkeypatch, below: str) -> None:
    (workspace / below).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(workspace / below)
    assert root() == workspace
    assert load() == load(workspace / "params.yaml")


def test_the_nearest_params_file_is_the_one_that_counts(workspace, monkeypatch) -> None:
    inner = workspace / "inner"
    inner.mkdir()
    (inner / "params.yaml").touch()
    monkeypatch.chdir(inner)
    assert root() == inner


def test_outside_of_a_clone_the_error_says_so(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no params.yaml in .*: run this from a clone"):
        root()


# --- how a stage begins --------------------------------------------------------------------------


def test_the_first_stage_gets_every_data_set_of_a_profile(profile, monkeypatch) -> None:
    got = []
    monkeypatch.setattr(sources, "fetch", lambda *arguments: got.append(arguments))
    fetch.fetch(profile)
    assert got == [(n, profile.data.test_size, profile.data.split_seed) for n in profile.datasets]


def test_what_a_reader_tries_leaves_the_committed_results_alone(
    workspace, toy, monkeypatch
) -> None:
    (workspace / "params.yaml").write_text(yaml.safe_dump(SMOKE))
    got = []
    monkeypatch.setattr(notebook, "fetch", lambda params: got.append(params))
    params, results = notebook.begin()
    assert (params, results.tables) == (load(), workspace / "data/results")
    changed, tried = notebook.begin(changes={"panning": {"steps": 3}})
    assert changed.panning.steps == 3
    assert tried.tables == workspace / ".cache/tried/data/results"
    assert got == []  # the images are there
    (wanted, _) = notebook.begin(changes={"data": {"name": "mnist5k"}})
    assert got == [wanted]
