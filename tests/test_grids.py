"""Each grid's cells are what its functions take, named once, and differ in what they say alone."""

import inspect
import itertools
import math
from collections.abc import Callable
from dataclasses import asdict, is_dataclass, replace
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib import grids, plan, sanity
from lib.experiments import prune_and_train
from lib.methods import METHODS
from lib.panning import Panning
from lib.studies import judge
from lib.worlds import make_environment, make_policy

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for path in sorted(ROOT.glob("profiles/*.yaml")) if path.name != "smoke.yaml"]


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def params(request: pytest.FixtureRequest) -> SimpleNamespace:
    """Each full profile in turn."""
    return plan.load(request.param)


def agents(task: plan.Task) -> dict[int, str]:
    return {seed: f"the agent of {seed}" for seed in task.seeds}


def compared(params: SimpleNamespace) -> list[grids.Named]:
    tasks = params.claim_a.tasks
    return [pair for task in tasks for pair in grids.comparison(params, task, agents(task))]


def transferred(params: SimpleNamespace) -> list[grids.Named]:
    policies = {t.name: {f"for {t.name}": (1, 0, 0)} for t in params.claim_b.targets}
    return grids.transfers(params, params.learning.variants[-1], policies)


GRIDS: dict[str, Callable[[SimpleNamespace], list[grids.Named]]] = {
    "comparison": compared,
    "checks": grids.checks,
    "choices": grids.choices,
    "transfers": transferred,
}


def leaves(value: Any, where: str = "") -> dict[str, Any]:
    """A cell's parameters, one by one, through its sections and its settings."""
    if is_dataclass(value):
        value = asdict(value)
    if isinstance(value, dict):
        parts = [leaves(inner, f"{where}.{key}") for key, inner in value.items()]
        return {key: leaf for part in parts for key, leaf in part.items()}
    return {where: value}


def unlike(one: dict, other: dict) -> set[str]:
    """The parameters in which two cells differ."""
    one, other = leaves(one), leaves(other)
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


# --- what all grids have in common ---------------------------------------------------------------


@pytest.mark.parametrize("grid", ["comparison", "checks", "choices"])
def test_every_network_of_a_grid_can_be_pruned_and_trained(params, grid: str) -> None:
    settings = set(inspect.signature(Panning).parameters)
    for _, cell in GRIDS[grid](params):
        bound = inspect.signature(prune_and_train).bind(**cell).arguments
        assert bound["method"] in {*METHODS, "dense"}
        assert (bound["sparsity"] == 0) == (bound["method"] == "dense")
        assert set(bound.get("settings", {})) <= settings
        assert bound.get("check") in {None, *sanity.CHECKS}
        chooses = bound["method"] != "dense" and METHODS[bound["method"]].p is None
        assert ("policy" in bound) == chooses  # pan() refuses a policy where p is fixed


def test_every_transfer_can_be_judged_in_an_environment_that_can_be_made(params) -> None:
    for _, cell in transferred(params):
        world = inspect.signature(judge).bind(**cell).arguments["world"]
        environment = inspect.signature(make_environment).bind(**world).arguments["environment"]
        assert environment.action == params.learning.variants[-1].environment.get(
            "action", params.environment.action
        )


@pytest.mark.parametrize("grid", GRIDS)
def test_no_two_rows_of_a_grid_have_one_name_or_one_cell(params, grid: str) -> None:
    named = GRIDS[grid](params)
    assert len({tuple(name.items()) for name, _ in named}) == len(named) > 1
    assert len({tuple(name) for name, _ in named}) == 1  # the same columns in every row
    cells = [str(sorted(leaves(cell).items())) for _, cell in named]
    assert len(set(cells)) == len(cells)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_row_says_which_seed_and_sparsity_its_cell_has(params, grid: str) -> None:
    for name, cell in GRIDS[grid](params):
        assert (name["seed"], name["sparsity"]) == (cell["seed"], cell["sparsity"])


# --- claim A -------------------------------------------------------------------------------------


def test_methods_of_a_task_share_everything_but_how_they_prune(params) -> None:
    shared = ["data", "network", "width", "training", "scoring", "device"]
    for task in params.claim_a.tasks:
        cells = [cell for _, cell in grids.comparison(params, task, agents(task))]
        for cell in cells:
            assert {key: cell[key] for key in shared} == {key: cells[0][key] for key in shared}
        first = cells[0]
        assert (first["data"], first["network"], first["width"]) == (
            *(task.data, task.network),
            task.width,
        )
        assert first["scoring"] == params.scoring
        own = {"epochs": task.epochs, "batch_size": task.batch_size}
        own |= {"weight_decay": task.weight_decay}
        assert first["training"] == replace(params.training, **own)


def test_every_method_meets_every_sparsity_and_seed_and_the_dense_network_every_seed(
    params,
) -> None:
    for task in params.claim_a.tasks:
        found = {
            (name["method"], name["sparsity"], name["seed"])
            for name, _ in grids.comparison(params, task, agents(task))
        }
        expected = set(itertools.product(task.methods, task.sparsities, task.seeds))
        assert found == expected | {("dense", 0.0, seed) for seed in task.seeds}


def test_an_agent_of_its_own_prunes_each_network(params) -> None:
    used = {
        (cell["seed"], cell["policy"])
        for name, cell in compared(params)
        if name["method"] == "rlpanning"
    }
    assert {policy for _, policy in used} == {f"the agent of {seed}" for seed, _ in used}
    assert len(used) == len({seed for seed, _ in used}) > 1


def test_sparse_networks_are_looked_at_before_training_and_dense_ones_are_not(params) -> None:
    for name, cell in compared(params):
        assert cell["probe"] == (name["method"] != "dense")


def test_panning_shuffled_is_panning_with_that_check(params) -> None:
    for task in params.claim_a.tasks:
        task = replace(task, methods=("panning", grids.SHUFFLED))
        named = grids.comparison(params, task, {})
        by_method = {
            method: [cell for name, cell in named if name["method"] == method]
            for method in task.methods
        }
        expected = [cell | {"check": "shuffled"} for cell in by_method["panning"]]
        assert by_method[grids.SHUFFLED] == expected != []


def test_panning_has_the_table_the_steps_and_the_schedule_of_the_profile() -> None:
    params = plan.load(ROOT / "profiles" / "full-smoke.yaml")
    table = ((0.5, 1.0, 0.0, 0.0), (1.0, 0.0, 1.0, 0.0))
    params.panning = replace(params.panning, steps=7, schedule="linear", stages=table)
    named = [*compared(params), *grids.checks(params), *grids.choices(params)]
    seen = 0
    for name, cell in named:
        if name.get("method") == "panning" or name.get("study") == "reference":
            assert (cell["steps"], cell["settings"]) == (7, {"schedule": "linear"})
            assert cell["policy"] == table
            seen += 1
    assert seen > 3
    choose = make_policy(table)
    assert [tuple(choose([0] * 4 + [rho] + [0] * 2)) for rho in (0.4, 0.6)] == [
        (1, 0, 0),
        (0, 1, 0),
    ]


# --- claim C, and the choice of metrics ----------------------------------------------------------


def test_a_check_is_all_that_a_method_is_deprived_of(params) -> None:
    named = grids.checks(params)
    key = itemgetter("method", "sparsity", "seed")
    whole = {key(name): cell for name, cell in named if name["check"] == "unchanged"}
    for name, cell in named:
        expected = set() if name["check"] == "unchanged" else {".check"}
        assert unlike(whole[key(name)], cell) == expected
        assert cell["check"] == (None if name["check"] == "unchanged" else name["check"])
    assert {name["check"] for name, _ in named} == {"unchanged", *sanity.CHECKS}


def test_a_choice_changes_exactly_one_thing_of_the_reference(params) -> None:
    named = grids.choices(params)
    key = itemgetter("sparsity", "seed")
    reference = {key(name): cell for name, cell in named if name["study"] == "reference"}
    changes: dict[str, set[str]] = {}
    for name, cell in named:
        changed = unlike(reference[key(name)], cell)
        assert len(changed) == (name["study"] != "reference"), name
        changes.setdefault(name["study"], set()).update(changed)
    assert changes == {
        "reference": set(),
        "metrics": {".policy"},
        "fusion": {".settings.fusion"},
        "normalisation": {".settings.score"},
        "gradients": {".settings.gradients"},
        "return": {".method"},
        "temperature": {".scoring.temperature"},
        "samples": {".scoring.per_class"},
        "batches": {".scoring.count"},
        "schedule": {".settings.schedule"},
        "iterations": {".steps"},
    }


def test_a_choice_is_called_by_the_value_that_it_has(params) -> None:
    where = {
        "normalisation": lambda cell: cell["settings"]["score"],
        "schedule": lambda cell: cell["settings"]["schedule"],
        "iterations": lambda cell: f"T = {cell['steps']}",
        "samples": lambda cell: f"{cell['scoring'].per_class} a class",
        "batches": lambda cell: f"{cell['scoring'].count} batches",
        "temperature": lambda cell: f"logits / {cell['scoring'].temperature:g}",
        "metrics": lambda cell: next(
            name for name, p in grids.SUBSETS.items() if p == tuple(cell["policy"])
        ),
    }
    seen = set()
    for name, cell in grids.choices(params):
        if name["study"] in where:
            assert name["setting"] == where[name["study"]](cell)
            seen.add(name["study"])
    assert seen == set(where)


def test_subsets_of_the_metrics_are_all_there_are() -> None:
    everything = set(itertools.product((0, 1), repeat=3)) - {(0, 0, 0)}
    assert set(grids.SUBSETS.values()) == everything
    for name, p in grids.SUBSETS.items():
        parts = [m for m, used in zip(("SynFlow", "SNIP", "GraSP"), p, strict=True) if used]
        assert name in (" + ".join(parts), "all three alike")


def test_without_return_nothing_else_of_panning_is_lost() -> None:
    without, whole = METHODS["iterative_fused"], METHODS["panning"]
    assert replace(without, reactivate=True) == whole


# --- claim B -------------------------------------------------------------------------------------


def test_a_world_is_that_of_the_profile_but_for_what_a_variant_changes(params) -> None:
    base = grids.world(params)
    assert base["environment"] == params.environment
    assert not {"network", "width", "seed", "fraction"} & set(base)  # it says not where
    for variant in params.learning.variants:
        expected = {f".environment.{key}" for key in variant.environment}
        assert unlike(base, grids.world(params, variant)) == expected


def test_each_target_is_pruned_by_its_own_contenders_in_its_own_place(params) -> None:
    targets = {target.name: target for target in params.claim_b.targets}
    named = transferred(params)
    for name, cell in named:
        target = targets[name["target"]]
        for key in ("data", "network", "width", "fraction"):
            assert cell[key] == getattr(target, key)
        assert cell["policies"] == {f"for {target.name}": (1, 0, 0)}
        assert replace(cell["training"], epochs=1) == replace(params.training, epochs=1)
    expected = [
        (target.name, rho, seed)
        for target in targets.values()
        for rho, seed in itertools.product(target.sparsities, params.claim_b.seeds)
    ]
    assert [itemgetter("target", "sparsity", "seed")(name) for name, _ in named] == expected


def test_fewer_images_are_shown_as_many_times_more_often(params) -> None:
    epochs = {name["target"]: cell["training"].epochs for name, cell in transferred(params)}
    for target in params.claim_b.targets:
        shown = epochs[target.name] * target.fraction
        assert shown == pytest.approx(target.epochs, abs=target.fraction / 2 + 1e-9)


def test_with_fewer_images_there_are_as_many_steps_of_sgd() -> None:
    params = plan.load(ROOT / "profiles" / "full-smoke.yaml")
    whole = replace(params.claim_b.targets[0], epochs=6)
    fractions = (1.0, 0.5, 0.25, 0.1, 0.05)
    targets = tuple(replace(whole, name=f"{part}", fraction=part) for part in fractions)
    params.claim_b = replace(params.claim_b, targets=targets)
    steps = {
        cell["training"].epochs * math.ceil(2000 * cell["fraction"] / 50)
        for _, cell in transferred(params)
    }
    assert steps == {6 * 2000 // 50}


# --- tables --------------------------------------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are computed here and now, without processes and files."""
    monkeypatch.setattr(
        grids, "run_grid", lambda function, cells, *_: [function(**cell) for cell in cells]
    )


def test_a_table_has_a_row_a_cell_in_the_order_of_the_cells(at_once) -> None:
    named = [({"seed": seed}, {"x": seed}) for seed in (3, 1, 2)]
    rows = grids.tabulate(lambda x: {"square": x**2}, named, None, "")
    assert rows == [{"seed": seed, "square": seed**2} for seed in (3, 1, 2)]
    assert [list(row) for row in rows] == [["seed", "square"]] * 3


def test_a_cell_of_many_rows_gives_its_name_to_each_of_them(at_once) -> None:
    named = [({"seed": seed}, {"count": seed}) for seed in (2, 0, 1)]
    rows = grids.tabulate(lambda count: [{"t": t} for t in range(count)], named, None, "")
    assert rows == [{"seed": 2, "t": 0}, {"seed": 2, "t": 1}, {"seed": 1, "t": 0}]


def test_a_table_takes_what_it_runs_from_the_arguments(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(grids, "run_grid", lambda *arguments: seen.append(arguments) or [{}, {}])
    named = [({"seed": 0}, {"x": 0}), ({"seed": 1}, {"x": 1})]
    assert grids.tabulate(max, named, "two workers", "words") == [{"seed": 0}, {"seed": 1}]
    assert seen == [(max, [{"x": 0}, {"x": 1}], "two workers", "words")]
