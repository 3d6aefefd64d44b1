"""A search keeps to its budget, starts from what is known, and sees no test image."""

from collections.abc import Callable

import numpy as np
import pytest
from small import CELL, ENVIRONMENT, SCORING, TRAINING, WORLD

from lib.environment import PanningEnv
from lib.policies import STAGES
from lib.study import agents, pruning, search, worlds
from lib.study.agents import earn
from lib.study.pruning import prune_and_train
from lib.study.search import search_policy, search_stages
from lib.study.worlds import make_environment, make_policy

CONSTANT = WORLD | {"environment": ENVIRONMENT.changed(steps=3, calibration_steps=3)}
PLACE = {"network": "lenet300", "width": 0.02, "seed": 5}  # an agent's own
BUDGET = {"budget": 100, "sparsities": [0.7, 0.9], "seed": 0}
STAGED = {"data": "digits", "network": "lenet300", "width": 0.02, "network_seed": 7}
STAGED |= {"training": TRAINING, "scoring": SCORING, "device": "cpu"}
STAGED |= {"steps": 2, "sparsities": [0.8, 0.9], "holdout": 0.25}
HAND_MADE = [list(row) for row in STAGES]


# --- a constant ----------------------------------------------------------------------------------


@pytest.fixture
def steps(monkeypatch) -> list[tuple[float, ...]]:
    """The p of every step that is taken in an environment."""
    taken, real = [], PanningEnv.apply
    monkeypatch.setattr(
        PanningEnv, "apply", lambda self, p: taken.append(tuple(p)) or real(self, p)
    )
    return taken


@pytest.mark.parametrize("budget", [18, 23, 24, 60, 100])
def test_the_search_takes_no_more_steps_than_its_budget(toy, steps, budget: int) -> None:
    found = search_policy(**CONSTANT | BUDGET | {"budget": budget})
    episode = 3 * 2  # of both targets
    assert len(steps) == found["trials"] * episode
    assert budget - episode < len(steps) <= budget


@pytest.mark.parametrize("budget", [0, 6, 17])
def test_a_budget_that_does_not_reach_for_the_corners_is_refused(toy, steps, budget: int) -> None:
    with pytest.raises(ValueError, match=f"budget: {budget} steps are {budget // 6} episodes"):
        search_policy(**CONSTANT | BUDGET | {"budget": budget})
    assert not steps


def test_the_corners_are_tried_first_and_the_search_ends_no_lower(toy, steps) -> None:
    found = search_policy(**CONSTANT, **BUDGET)
    assert list(dict.fromkeys(steps))[:3] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    env = make_environment(**CONSTANT, **PLACE)

    def mean_return(p: list[float]) -> float:
        return float(np.mean([earn(env, make_policy(p), rho)["return"] for rho in (0.7, 0.9)]))

    tried = {p: mean_return(list(p)) for p in dict.fromkeys(steps)}
    assert found["return"] == max(tried.values()) >= max(list(tried.values())[:3])
    assert found["return"] == mean_return(found["policy"])
    assert len(tried) == found["trials"]


def test_a_search_for_a_constant_is_the_same_again_by_its_seed(toy) -> None:
    first = search_policy(**CONSTANT, **BUDGET)
    assert search_policy(**CONSTANT, **BUDGET) == first
    assert set(first) == {"policy", "return", "trials"}
    assert len(first["policy"]) == 3 and all(0 <= p <= 1 for p in first["policy"])


def test_another_seed_tries_other_constants(toy, steps) -> None:
    def tried(seed: int) -> list[tuple[float, ...]]:
        steps.clear()
        search_policy(**CONSTANT | BUDGET | {"seed": seed, "budget": 36})
        return list(dict.fromkeys(steps))

    one, other = tried(0), tried(1)
    assert one[:3] == other[:3]
    assert not set(one[3:]) & set(other[3:])


# --- a table, by the return ----------------------------------------------------------------------


def test_a_table_searched_by_its_return_has_a_row_for_each_edge(toy, steps) -> None:
    edges = [0.5, 1.0]
    found = search_policy(**CONSTANT | BUDGET | {"budget": 120}, edges=edges)
    assert [row[0] for row in found["policy"]] == edges
    assert all(len(row) == 4 and all(0 <= p <= 1 for p in row[1:]) for row in found["policy"])
    assert list(dict.fromkeys(steps))[:3] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert len(steps) == 120 and found["trials"] == 20
    env = make_environment(**CONSTANT, **PLACE)
    table = make_policy(found["policy"])
    own = float(np.mean([earn(env, table, rho)["return"] for rho in (0.7, 0.9)]))
    assert own == found["return"]
    rows = [tuple(row[1:]) for row in found["policy"]]
    assert len(set(rows)) > 1  # it has tried tables that are no constants, and keeps one


# --- a table -------------------------------------------------------------------------------------


@pytest.fixture
def scored(monkeypatch) -> Callable[..., tuple[dict, list[dict]]]:
    """`scored(worth, trials)`: a search in which a table's accuracy is what `worth` says."""

    def run(worth: Callable[[list, float], float], trials: int = 8, **changes: object):
        cells = []

        def told(**cell: object) -> dict[str, float]:
            cells.append(cell)
            return {"accuracy": worth(cell["policy"], cell["sparsity"])}

        monkeypatch.setattr(search, "prune_and_train", told)
        found = search_stages(**STAGED | {"trials": trials, "seed": 0} | changes)
        return found, cells

    return run


def distance(table: list, sparsity: float) -> float:
    """The less of SNIP the better, at the higher sparsity above all."""
    return -sparsity * sum(row[2] for row in table)


def test_the_hand_made_table_is_tried_first(scored) -> None:
    found, cells = scored(distance)
    assert [cell["policy"] for cell in cells[:2]] == [HAND_MADE, HAND_MADE]
    assert found["history"][0] == pytest.approx(np.mean([distance(STAGES, r) for r in (0.8, 0.9)]))
    assert all(cell["policy"] != HAND_MADE for cell in cells[2:])


def test_every_table_is_tried_at_every_target_on_images_held_out(scored) -> None:
    _, cells = scored(distance)
    assert [cell["sparsity"] for cell in cells] == [0.8, 0.9] * 8
    for cell in cells:
        assert (cell["holdout"], cell["seed"], cell["method"]) == (0.25, 7, "panning")
        assert (cell["network"], cell["steps"]) == ("lenet300", 2)
        assert "network_seed" not in cell and "trials" not in cell
        assert [row[0] for row in cell["policy"]] == [row[0] for row in STAGES]
        make_policy(cell["policy"])
    for first, second in zip(cells[::2], cells[1::2], strict=True):
        assert first["policy"] == second["policy"]


def test_the_best_table_that_was_tried_is_the_one_returned(scored) -> None:
    found, cells = scored(distance)
    mean = [
        np.mean([distance(first["policy"], first["sparsity"]), distance(second["policy"], 0.9)])
        for first, second in zip(cells[::2], cells[1::2], strict=True)
    ]
    assert found["history"] == pytest.approx(mean)
    assert found["accuracy"] == max(found["history"]) > found["history"][0]
    assert found["policy"] == cells[2 * int(np.argmax(mean))]["policy"]


def test_where_nothing_is_better_the_hand_made_table_is_kept(scored) -> None:
    found, _ = scored(lambda table, sparsity: -float(np.abs(np.subtract(table, STAGES)).sum()))
    assert found["policy"] == HAND_MADE
    assert found["accuracy"] == found["history"][0] == 0


def test_a_search_for_a_table_is_the_same_again_by_its_seed(scored) -> None:
    assert scored(distance)[0] == scored(distance)[0]
    one, other = scored(distance, seed=1)[0], scored(distance, seed=2)[0]
    assert one["history"][0] == other["history"][0]
    assert one["history"][1:] != other["history"][1:]


def test_a_search_goes_by_what_networks_are_worth_on_held_out_images(toy) -> None:
    found = search_stages(**STAGED | {"trials": 3, "seed": 0})
    assert len(found["history"]) == 3
    cell = {key: STAGED[key] for key in ("data", "network", "width", "scoring", "training")}
    cell |= {"steps": 2, "device": "cpu", "seed": 7, "method": "panning", "holdout": 0.25}
    for table, expected in ((HAND_MADE, found["history"][0]), (found["policy"], found["accuracy"])):
        values = [
            prune_and_train(**cell, policy=table, sparsity=rho)["accuracy"] for rho in (0.8, 0.9)
        ]
        assert expected == pytest.approx(np.mean(values))
    assert found["accuracy"] >= found["history"][0]
    assert (np.array(found["history"]) * 60 % 1 < 1e-6).all()  # of 2 x 30 held-out images


# --- the test images -----------------------------------------------------------------------------


class Forbidden:
    """Test images that nobody may look at."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the search asked for {name} of the test images")

    def __len__(self) -> int:
        raise AssertionError("the search counted the test images")


def test_no_search_looks_at_a_test_image(toy, monkeypatch) -> None:
    real = worlds.load
    constant = search_policy(**CONSTANT | BUDGET | {"budget": 24})
    table = search_stages(**STAGED | {"trials": 2, "seed": 0})
    asked = []

    def load(name: str, device: str) -> tuple:
        asked.append(name)
        return real(name, device)[0], Forbidden()

    for room in (worlds, agents, pruning):
        monkeypatch.setattr(room, "load", load)
    assert search_policy(**CONSTANT | BUDGET | {"budget": 24}) == constant
    assert search_stages(**STAGED | {"trials": 2, "seed": 0}) == table
    assert asked == ["digits"] * (1 + 2 * 2)
    with pytest.raises(AssertionError, match="test images"):  # as who is tested would
        prune_and_train(**CELL)
