"""Magnitude pruning after training: the largest trained weights, rewound and trained again."""

import pytest
import torch
from small import TRAINING

from lib.masks import kept_count, top_k
from lib.networks.inspection import flatten, prunable
from lib.study import parameters, plans, pruning, tickets

CELL = {"data": "digits", "network": "lenet300", "seed": 3, "width": 0.05, "device": "cpu"}
CELL |= {"training": TRAINING}


@pytest.fixture
def trainings(toy, monkeypatch) -> list[tuple]:
    """Each training's first weights, mask and last weights, flat."""
    seen, real = [], pruning.train_and_test

    def note(model, train_set, test_set, training, kept, seed):
        first = flatten(prunable(model)).detach().clone()
        found = real(model, train_set, test_set, training, kept, seed)
        last = flatten(prunable(model)).detach().clone()
        seen.append((first, None if kept is None else kept.flat, last))
        return found

    monkeypatch.setattr(tickets, "train_and_test", note)
    return seen


@pytest.mark.parametrize("iterative", [False, True])
def test_the_largest_trained_weights_are_rewound_and_trained_again(trainings, iterative) -> None:
    rows = tickets.rewound(**CELL, sparsities=[0.5, 0.8, 0.9], iterative=iterative)
    assert [row["sparsity"] for row in rows] == [0.5, 0.8, 0.9] and len(trainings) == 4
    (first, nothing, dense), *rest = trainings
    assert nothing is None
    before = dense
    for row, (start, mask, last) in zip(rows, rest, strict=True):
        assert torch.equal(start, first)
        chosen = top_k(before.abs(), kept_count(len(first), row["sparsity"]))
        assert row["sparsity_reached"] == pytest.approx(row["sparsity"], abs=1e-3)
        assert not (mask & ~chosen).any() and mask.any()  # the effective ones
        assert not last[~mask].any()
        before = last if iterative else dense
    if iterative:
        for (_, one, _), (_, other, _) in zip(rest, rest[1:], strict=False):
            assert not (other & ~one).any()


def test_a_ticket_of_sparsity_0_is_the_dense_network(toy) -> None:
    (row,) = tickets.rewound(**CELL, sparsities=[0.0], iterative=False)
    dense = pruning.prune_and_train(
        **CELL, sparsity=0.0, method="dense", scoring=parameters.load().scoring
    )
    assert row["accuracy"] == dense["accuracy"] and row["train_loss"] == dense["train_loss"]


def test_sparsities_that_do_not_ascend_are_refused(toy) -> None:
    with pytest.raises(ValueError, match=r"sparsities must ascend, got \[0.9, 0.5\]"):
        tickets.rewound(**CELL, sparsities=[0.9, 0.5], iterative=True)


def test_tasks_that_name_them_have_them_and_no_other_plan_has() -> None:
    params = parameters.load()
    assert plans.tickets(params) == []
    task = params.comparison.tasks[0].model_dump()
    task |= {"methods": ["snip", "lottery_ticket"], "seeds": [0, 1]}
    params = params.changed(comparison={"tasks": [task]})
    found = plans.tickets(params)
    assert [name["seed"] for name, _ in found] == [0, 1]
    assert all(cell["iterative"] and name["method"] == "lottery_ticket" for name, cell in found)
    assert all(cell["sparsities"] == task["sparsities"] for _, cell in found)
    assert {name["method"] for name, _ in plans.comparison(params)} == {"dense", "snip"}
