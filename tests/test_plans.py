"""Each plan's cells are what its functions take, named once, and differ in what they say alone."""

import inspect
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from lib.methods import METHODS
from lib.panning import Panning
from lib.study import agents, analysis, checks, exponents, loops, plans, pruning, search, tickets
from lib.study.parameters import Parameters, load
from lib.study.worlds import make_environment, make_policy

ROOT = Path(__file__).resolve().parents[1]
FILES = ["params.yaml", "profiles/full.yaml", "profiles/paper.yaml", "profiles/smoke.yaml"]
PROFILES = {name: load(ROOT / name) for name in FILES}


@pytest.fixture(params=FILES)
def params(request: pytest.FixtureRequest) -> Parameters:
    """Each profile in turn."""
    return PROFILES[request.param]


def learned(params: Parameters) -> dict[int, str]:
    """RLPanning's agents: one a seed."""
    seeds = {seed for task in params.comparison.tasks for seed in task.seeds}
    return {seed: f"the agent of {seed}" for seed in seeds}


def compared(params: Parameters) -> plans.Plan:
    return plans.comparison(params) + plans.comparison(params, learned(params))


def returned(params: Parameters) -> plans.Plan:
    names = [variant.name for variant in params.learning.variants]
    return plans.returns(
        params, {n: {f"{which} of {n}": "staged" for which in "ab"} for n in names}
    )


def transferred(params: Parameters) -> plans.Plan:
    policies = {t.name: {f"for {t.name}": (1, 0, 0)} for t in params.transfer.targets}
    return plans.transfers(params, policies)


def found(params: Parameters) -> plans.Plan:
    return plans.tables_found(params, {"search 0": ((1.0, 1, 0, 0),), "hand-made": "staged"})


def with_tickets(params: Parameters) -> plans.Plan:
    """In every task, since most profiles name them in none."""
    tasks = [
        task.model_dump() | {"methods": [*tickets.TICKETS]} for task in params.comparison.tasks
    ]
    return plans.tickets(params.changed(comparison={"tasks": tasks}))


CHOSEN = {"1 ½ 0": (1.0, 0.5, 0.0)}
PLANS: dict[str, tuple[Callable, Callable[[Parameters], plans.Plan]]] = {
    "comparison": (pruning.prune_and_train, compared),
    "tickets": (tickets.rewound, with_tickets),
    "traces": (loops.trace, plans.traces),
    "collapses": (loops.collapse, plans.collapses),
    "vetoes": (loops.vetoes, plans.vetoes),
    "agents": (agents.train_policy, plans.agents),
    "searches": (search.search_policy, plans.searches),
    "returns": (agents.evaluate, returned),
    "rewards": (agents.judge, plans.rewards),
    "natives": (agents.train_policy, plans.natives),
    "transfers": (agents.judge, transferred),
    "ablations": (pruning.prune_and_train, plans.ablations),
    "checks": (pruning.prune_and_train, plans.checks),
    "table searches": (search.search_stages, plans.table_searches),
    "tables found": (pruning.prune_and_train, found),
    "development": (pruning.prune_and_train, plans.development),
    "rewards of exponents": (agents.judge, exponents.rewards),
    "agents of exponents": (agents.train_policy, exponents.learners),
    "searches of exponents": (search.search_policy, exponents.searches),
    "exponents, held out": (agents.judge, lambda p: exponents.judgements(p, CHOSEN, True)),
    "exponents": (agents.judge, lambda p: exponents.judgements(p, CHOSEN)),
    "rivals of exponents": (pruning.prune_and_train, exponents.rivals),
}
TRAINED = [name for name, (function, _) in PLANS.items() if function is pruning.prune_and_train]


def takes_the_table(method: str) -> bool:
    """Whether the profile's hand-made table, the sum's, is this method's policy."""
    return method in ("panning", "iterative_fused")


def leaves(value: Any, where: str = "") -> dict[str, Any]:
    """A cell's parameters, one by one, through its sections and its settings."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, dict):
        parts = [leaves(inner, f"{where}.{key}") for key, inner in value.items()]
        return {key: leaf for part in parts for key, leaf in part.items()}
    return {where: value}


def unlike(one: dict, other: dict) -> set[str]:
    """The parameters in which two cells differ."""
    one, other = leaves(one), leaves(other)
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


# --- what all plans have in common ---------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS)
def test_every_cell_is_what_its_function_takes(params, plan: str) -> None:
    function, make = PLANS[plan]
    for _, cell in make(params):
        arguments = inspect.signature(function).bind(**cell).arguments
        if world := arguments.get("world"):  # of an environment, which may say where it is
            place = {"network": "", "width": 1.0, "seed": 0, "environment": None}
            inspect.signature(make_environment).bind(**place | world)
        if rest := arguments.get("cell"):  # of a network that a search tries
            own = {"seed": rest.pop("network_seed"), "sparsity": 0.9, "method": "panning"}
            inspect.signature(pruning.prune_and_train).bind(**own | rest)


@pytest.mark.parametrize("plan", TRAINED)
def test_every_network_of_a_plan_can_be_pruned(params, plan: str) -> None:
    settings = set(inspect.signature(Panning).parameters)
    for _, cell in PLANS[plan][1](params):
        assert cell["method"] in {*METHODS, "dense"}
        assert (cell["sparsity"] == 0) == (cell["method"] == "dense")
        assert set(cell.get("settings", {})) <= settings
        assert cell.get("check") in {None, *checks.CHECKS}
        # The profile's table is the sum's; pan() refuses a policy where p is fixed.
        chooses = cell["method"] == "rlpanning" or takes_the_table(cell["method"])
        assert ("policy" in cell) == chooses


@pytest.mark.parametrize("plan", PLANS)
def test_no_two_rows_of_a_plan_have_one_name_or_one_cell(params, plan: str) -> None:
    named = PLANS[plan][1](params)
    if "rewards" not in plan:  # whose policies name the rows
        assert len({tuple(name.items()) for name, _ in named}) == len(named)
    assert len({tuple(name) for name, _ in named}) <= 1  # the same columns in every row
    assert named or plan == "natives"
    if plan not in ("searches", "returns"):  # of variants that share an environment
        cells = {str(sorted(leaves(cell).items())) for _, cell in named}
        assert len(cells) == len(named)


@pytest.mark.parametrize("plan", PLANS)
def test_a_row_says_which_seed_and_sparsity_its_cell_has(params, plan: str) -> None:
    for name, cell in PLANS[plan][1](params):
        for key in ("seed", "sparsity"):
            assert name.get(key) == cell.get(key) or key not in name
        shared = [key for key in ("seed", "sparsity") if key in cell and plan in TRAINED]
        assert all(key in name for key in shared)


# --- the comparison ------------------------------------------------------------------------------


def test_methods_of_a_task_share_everything_but_how_they_prune(params) -> None:
    shared = ["data", "network", "width", "training", "scoring", "device"]
    for task in params.comparison.tasks:
        cells = [cell for name, cell in compared(params) if name["task"] == task.name]
        for cell in cells:
            assert {key: cell[key] for key in shared} == {key: cells[0][key] for key in shared}
        first = cells[0]
        assert (first["data"], first["network"]) == (task.data, task.network)
        scoring = params.scoring.changed(per_class=task.per_class)
        assert (first["width"], first["scoring"]) == (task.width, scoring)
        own = {"epochs": task.epochs, "batch_size": task.batch_size}
        own |= {"weight_decay": task.weight_decay}
        assert first["training"] == params.training.changed(**own)


def test_every_method_meets_every_sparsity_and_seed_and_the_dense_network_every_seed(
    params,
) -> None:
    names = [tuple(name.values()) for name, _ in compared(params)]
    expected = set()
    for task in params.comparison.tasks:
        rows = itertools.product([task.name], task.methods, task.sparsities, task.seeds)
        expected |= {*rows, *((task.name, "dense", 0.0, seed) for seed in task.seeds)}
    assert set(names) == expected and len(names) == len(expected)


def test_an_agent_of_its_own_prunes_each_network_and_no_other_method_waits_for_one(params) -> None:
    first, second = plans.comparison(params), plans.comparison(params, learned(params))
    assert "rlpanning" not in {name["method"] for name, _ in first}
    assert {name["method"] for name, _ in second} == {"rlpanning"}
    wanted = [task.name for task in params.comparison.tasks if "rlpanning" in task.methods]
    assert list(dict.fromkeys(name["task"] for name, _ in second)) == wanted
    for name, cell in second:
        assert cell["policy"] == f"the agent of {name['seed']}"


def test_panning_shuffled_is_panning_with_that_check(params) -> None:
    task = params.comparison.tasks[0].model_dump() | {"methods": ["panning", "panning+shuffled"]}
    params = params.changed(comparison={"tasks": [task]})
    whole, shuffled = (
        [cell for name, cell in plans.comparison(params) if name["method"] == method]
        for method in task["methods"]
    )
    assert shuffled == [cell | {"check": "shuffled"} for cell in whole] != []


def test_panning_has_the_table_the_steps_and_the_schedule_of_the_profile() -> None:
    table = ((0.5, 1.0, 0.0, 0.0), (1.0, 0.0, 1.0, 0.0))
    panning = {"steps": 7, "schedule": "linear", "stages": table}
    params = PROFILES["profiles/smoke.yaml"].changed(panning=panning)
    seen = 0
    for plan in ("comparison", "checks", "ablations"):
        for name, cell in PLANS[plan][1](params):
            if name.get("method") == "panning" or name.get("study") == "reference":
                assert (cell["steps"], cell["settings"]) == (7, {"schedule": "linear"})
                assert cell["policy"] == table
                seen += 1
    assert seen > 3
    steps = {n["method"]: c["steps"] for n, c in plans.comparison(params) if "steps" in c}
    assert steps["synflow"] == 7 and steps["panning_masked"] == METHODS["panning_masked"].steps
    for _, cell in plans.traces(params):
        assert (cell["steps"], cell["policy"]) == (7, table)
        assert cell["settings"]["schedule"] == "linear"
    choose = make_policy(table)
    chosen = [tuple(choose([0] * 4 + [rho] + [0] * 2)) for rho in (0.4, 0.6)]
    assert chosen == [(1, 0, 0), (0, 1, 0)]


# --- the flow of force ---------------------------------------------------------------------------


def test_the_flow_is_watched_with_and_without_the_return_of_weights(params) -> None:
    named = plans.traces(params)
    key = itemgetter("sparsity", "seed")
    whole = {key(name): cell for name, cell in named if name["method"] == "panning"}
    for name, cell in named:
        without = name["method"] == "iterative_fused"
        expected = {".settings.reactivate"} if without else set()
        assert unlike(whole[key(name)], cell) == expected
        assert cell["settings"]["reactivate"] is not without
    assert len(named) == 2 * len(params.flow.sparsities) * len(params.flow.seeds)


def test_every_method_meets_every_compression(params) -> None:
    named = plans.collapses(params)
    expected = list(itertools.product(params.flow.collapse_methods, params.flow.seeds))
    assert [itemgetter("method", "seed")(name) for name, _ in named] == expected
    for name, cell in named:
        assert cell["compressions"] == params.flow.compressions
        assert (cell["method"], cell["seed"]) == (name["method"], name["seed"])
        assert ("policy" in cell) == takes_the_table(cell["method"])


def test_who_vetoes_whom_is_asked_of_every_method_alike(params) -> None:
    named = plans.vetoes(params)
    key = itemgetter("task", "sparsity", "seed")
    for method in plans.VETOES:
        assert [key(name) for name, _ in named if name["method"] == method] == [
            (place.name, rho, seed) for place in params.flow.vetoes if method in place.methods
            for rho in place.sparsities for seed in place.seeds
        ]  # fmt: skip
    base = {key(name): cell for name, cell in named if name["method"] == "panning"}
    own = {
        ".policy",
        *(f".settings.{part}" for part in ("reactivate", "gradients", "score", "fusion")),
    }
    for name, cell in named:
        assert unlike(base[key(name)], cell) <= own
        assert set(cell["settings"]) <= set(inspect.signature(Panning).parameters)
        if name["method"] in METHODS:
            loop = METHODS[name["method"]]
            assert all(getattr(loop, part) == cell["settings"][part] for part in
                       ("reactivate", "gradients", "score", "fusion"))  # fmt: skip


# --- agents --------------------------------------------------------------------------------------


def test_a_world_is_that_of_the_profile_but_for_what_a_variant_changes(params) -> None:
    base = plans.world(params)
    assert base["environment"] == params.environment
    assert not {"network", "width", "seed", "fraction"} & set(base)  # it says not where
    for variant in params.learning.variants:
        expected = {f".environment.{key}" for key in variant.environment}
        assert unlike(base, plans.world(params, variant.name)) == expected


def test_a_variant_that_there_is_not_is_refused(params) -> None:
    with pytest.raises(ValueError, match="learning.chosen must be one of design.*, got 'best'"):
        plans.variant(params, "best")


def test_agents_differ_in_what_their_variant_says_and_in_their_seeds(params) -> None:
    named = plans.agents(params)
    expected = [(v.name, seed) for v in params.learning.variants for seed in v.seeds]
    assert [itemgetter("settings", "seed")(name) for name, _ in named] == expected
    base = plans.world(params) | {"agent": params.agent}
    for name, cell in named:
        variant = plans.variant(params, name["settings"])
        changes = {f".environment.{key}" for key in variant.environment}
        changes |= {f".agent.{key}" for key in variant.agent}
        assert unlike(base, cell) == changes | {".seed"}


def test_a_search_has_the_world_of_its_variant_and_the_budget_of_an_agent(params) -> None:
    for name, cell in plans.searches(params):
        extra = {"budget": params.agent.steps, "seed": 0}
        extra["sparsities"] = params.learning.search_sparsities
        assert cell == plans.world(params, name["settings"]) | extra
        steps = cell["environment"].steps * len(cell["sparsities"])
        assert cell["budget"] // steps >= 3  # each metric alone is tried, see search_policy


def test_policies_are_evaluated_at_home_on_networks_of_other_seeds(params) -> None:
    named = returned(params)
    for name, cell in named:
        assert cell["environment"] == plans.world(params, name["settings"])["environment"]
        place = (params.environment.network, params.environment.width)
        assert (cell["network"], cell["width"]) == place
        assert set(cell["policies"]) == {f"{which} of {name['settings']}" for which in "ab"}
        assert cell["sparsities"] == params.learning.sparsities
    expected = [(v.name, seed) for v in params.learning.variants for seed in params.learning.seeds]
    assert [itemgetter("settings", "seed")(name) for name, _ in named] == expected


def test_every_random_policy_is_judged_once_on_each_network(params) -> None:
    study, judged = params.reward, []
    everyone = agents.random_policies(study.policies, seed=0)
    for name, cell in plans.rewards(params):
        judged += [(name["sparsity"], name["seed"], policy) for policy in cell["policies"]]
        assert cell["policies"].items() <= everyone.items()
        changed = {".environment.steps"} if study.steps != params.environment.steps else set()
        assert unlike(
            {"environment": params.environment}, {"environment": cell["environment"]}
        ) == (changed)
        assert cell["training"] == params.training.changed(epochs=study.epochs)
        assert cell["trials"] == study.trials
    expected = list(itertools.product(study.sparsities, study.seeds, everyone))
    assert judged == expected and len(everyone) == study.policies


def test_a_native_agent_is_the_chosen_one_trained_elsewhere(params) -> None:
    targets = {target.name: target for target in params.transfer.targets if target.native}
    named = plans.natives(params)
    assert [name["target"] for name, _ in named] == list(targets)
    chosen = plans.variant(params, params.learning.chosen)
    (_, first), *_ = [pair for pair in plans.agents(params) if pair[0]["settings"] == chosen.name]
    for name, cell in named:
        target = targets[name["target"]]
        place = (cell["data"], cell["environment"].network, cell["environment"].width)
        assert place == (target.data, target.network, target.width)
        where = {".data", ".environment.network", ".environment.width"}
        assert unlike(first, cell) <= where


def test_each_target_is_pruned_by_its_own_contenders_in_its_own_place(params) -> None:
    targets = {target.name: target for target in params.transfer.targets}
    named = transferred(params)
    chosen = plans.variant(params, params.learning.chosen)
    for name, cell in named:
        target = targets[name["target"]]
        for key in ("data", "network", "width", "fraction"):
            assert cell[key] == getattr(target, key)
        assert cell["policies"] == {f"for {target.name}": (1, 0, 0)}
        assert cell["training"].changed(epochs=1) == params.training.changed(epochs=1)
        assert cell["environment"] == params.environment.changed(**chosen.environment)
    expected = [
        (target.name, rho, seed)
        for target in targets.values()
        for rho, seed in itertools.product(target.sparsities, params.transfer.seeds)
    ]
    assert [itemgetter("target", "sparsity", "seed")(name) for name, _ in named] == expected


def test_with_fewer_images_there_are_as_many_steps_of_sgd(params) -> None:
    for name, cell in transferred(params):
        (target,) = [t for t in params.transfer.targets if t.name == name["target"]]
        shown = cell["training"].epochs * target.fraction
        assert shown == pytest.approx(target.epochs, abs=target.fraction / 2 + 1e-9)
    whole = params.transfer.targets[0].model_dump(mode="json") | {"epochs": 6}
    fractions = (1.0, 0.5, 0.25, 0.1, 0.05)
    targets = [whole | {"name": f"{part}", "fraction": part} for part in fractions]
    params = params.changed(transfer={"targets": targets, "seeds": [0]})
    steps = {
        cell["training"].epochs * math.ceil(2000 * cell["fraction"] / 50)
        for _, cell in transferred(params)
    }
    assert steps == {6 * 2000 // 50}


# --- one thing at a time -------------------------------------------------------------------------


def test_a_check_is_all_that_a_method_is_deprived_of(params) -> None:
    named = plans.checks(params)
    key = itemgetter("method", "sparsity", "seed")
    whole = {key(name): cell for name, cell in named if name["check"] == "unchanged"}
    for name, cell in named:
        expected = set() if name["check"] == "unchanged" else {".check"}
        assert unlike(whole[key(name)], cell) == expected
        assert cell["check"] == (None if name["check"] == "unchanged" else name["check"])
    assert {name["check"] for name, _ in named} == {"unchanged", *checks.CHECKS}


CHANGED = {
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


def test_an_ablation_changes_exactly_one_thing_of_the_reference(params) -> None:
    named = plans.ablations(params)
    key = itemgetter("sparsity", "seed")
    reference = {key(name): cell for name, cell in named if name["study"] == "reference"}
    for name, cell in named:
        assert unlike(reference[key(name)], cell) == CHANGED[name["study"]], name
    studies = {name["study"] for name, _ in named}
    assert studies == set(CHANGED) or params == PROFILES["profiles/smoke.yaml"]


def test_an_ablation_is_called_by_the_value_that_it_has(params) -> None:
    where = {
        "normalisation": lambda cell: cell["settings"]["score"],
        "schedule": lambda cell: cell["settings"]["schedule"],
        "iterations": lambda cell: f"T = {cell['steps']}",
        "samples": lambda cell: f"{cell['scoring'].per_class} a class",
        "batches": lambda cell: f"{cell['scoring'].count} batches".replace("1 batches", "1 batch"),
        "temperature": lambda cell: f"logits / {cell['scoring'].temperature:g}",
        "metrics": lambda cell: next(
            name for name, p in plans.SUBSETS.items() if p == tuple(cell["policy"])
        ),
    }
    for name, cell in plans.ablations(params):
        if name["study"] in where:
            assert name["setting"] == where[name["study"]](cell)


def test_subsets_of_the_metrics_are_all_there_are() -> None:
    everything = set(itertools.product((0, 1), repeat=3)) - {(0, 0, 0)}
    assert set(plans.SUBSETS.values()) == everything
    for name, p in plans.SUBSETS.items():
        parts = [m for m, used in zip(("SynFlow", "SNIP", "GraSP"), p, strict=True) if used]
        assert name in (" + ".join(parts), "all three alike")


def test_without_return_nothing_else_of_panning_is_lost() -> None:
    without, whole = METHODS["iterative_fused"], METHODS["panning"]
    assert replace(without, reactivate=True) == whole


def test_candidates_are_developed_apart_from_what_is_reported(params) -> None:
    study, seeds = params.development, set()
    for name, cell in plans.development(params):
        assert cell["holdout"] == study.holdout > 0
        seeds.add(cell["seed"])
        (own,) = [each for each in study.candidates if each.name == name["method"]] or [None]
        if own:
            assert (cell["method"], cell["policy"], cell["steps"]) == ("panning", own.p, own.steps)
            assert own.settings.items() <= cell["settings"].items()
            assert own.scoring.items() <= cell["scoring"].model_dump().items()
        else:
            assert cell["method"] == name["method"]
    others = [
        cell for plan in (compared, plans.ablations, plans.checks) for _, cell in plan(params)
    ]
    assert not seeds & {cell["seed"] for cell in others}


def test_exponents_are_learned_searched_and_judged_in_one_space(params) -> None:
    study = params.exponents
    worlds = [cell for name in PLANS if "exponents" in name for _, cell in PLANS[name][1](params)]
    worlds = [cell for cell in worlds if "environment" in cell]
    assert len(worlds) > 5
    for cell in worlds:
        assert cell["environment"].steps == study.steps
        assert study.settings.items() <= cell["settings"].items()
    own = {row["learner"]: cell for row, cell in exponents.learners(params)}[study.searched]
    for row, cell in exponents.searches(params):
        assert cell["budget"] == own["agent"].steps and cell["environment"] == own["environment"]
        assert ("edges" in cell) == row["policy"].endswith("schedule")


def test_exponents_are_chosen_apart_from_what_is_reported(params) -> None:
    """On images held out of the judged networks, and on networks that nobody has learned on."""
    decided = exponents.judgements(params, CHOSEN, decide=True)
    reported = exponents.judgements(params, CHOSEN)
    assert all(cell["holdout"] == params.exponents.holdout > 0 for _, cell in decided)
    assert all(cell["holdout"] == 0 for _, cell in reported)
    learned = {params.environment.seed, params.exponents.evaluate_seed}
    for _, cell in exponents.learners(params):
        learned |= {place["seed"] for place in cell.get("networks", ())}
    rewarded = {cell["seed"] for _, cell in exponents.rewards(params)}
    seeds = [{cell["seed"] for _, cell in plan} for plan in (decided, reported)]
    for one, other in itertools.combinations([learned, rewarded, *seeds], 2):
        assert not one & other
    paired = {(row["task"], row["sparsity"], row["seed"]) for row, _ in reported}
    assert paired == {
        (row["task"], row["sparsity"], row["seed"]) for row, _ in exponents.rivals(params)
    }


def test_a_pool_is_of_small_networks_that_differ(params) -> None:
    for learner in params.exponents.learners:
        if learner.networks is None:
            continue
        drawn = exponents._drawn(params, learner.networks)
        low, high = learner.networks.widths
        assert len({place["seed"] for place in drawn}) == len(drawn) == learner.networks.count
        assert all(low <= place["width"] <= high for place in drawn)
        assert len({place["width"] for place in drawn}) > 1


def test_agents_of_exponents_have_the_names_of_their_groups(params) -> None:
    groups = analysis.exponent_groups(params.exponents)
    names = [f"{row['learner']}, {row['seed']}" for row, _ in exponents.learners(params)]
    assert names == [name for own in list(groups.values())[:-1] for name in own]


def test_tables_are_searched_on_another_network_and_tried_as_ablations_are(params) -> None:
    seeds = {seed for section in (params.ablations, params.checks) for seed in section.seeds}
    for name, cell in plans.table_searches(params):
        assert cell["network_seed"] not in seeds
        assert (cell["seed"], cell["trials"]) == (name["search"], params.search.trials)
        assert (cell["steps"], cell["holdout"]) == (params.search.steps, params.search.holdout)
        assert cell["training"].epochs == params.search.epochs
        assert cell["sparsities"] == params.ablations.sparsities
    key = itemgetter("sparsity", "seed")
    reference = {
        key(name): cell for name, cell in plans.ablations(params) if name["study"] == "reference"
    }
    for name, cell in found(params):
        assert unlike(reference[key(name)], cell) == {".policy"}
        assert (name["policy"] == "hand-made") == (cell["policy"] == "staged")
