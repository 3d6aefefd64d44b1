"""What is counted while the loop runs: weights that return, layers left empty, vetoes."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from small import PLACE, SCORING
from torch import nn

from lib.masks import kept_count
from lib.methods import METHODS, pan
from lib.panning import PanResult
from lib.policies import STAGES, targets
from lib.study import loops
from lib.study.loops import collapse, trace, vetoes
from lib.study.worlds import load, make_batches, make_network, make_policy

TRACE = {"data": "digits", **PLACE, "device": "cpu", "scoring": SCORING}
TRACE |= {"sparsity": 0.9, "steps": 6, "policy": "staged"}
SIZES = {"fc1": 784 * 6, "fc2": 12, "fc3": 20}
N = sum(SIZES.values())
LOWEST = [0.0, 0.0, 0.0]  # asks for the lowest indices, and so for the same ones in each iteration
KEPT = kept_count(N, 0.9)


def seen(found: dict) -> SimpleNamespace:
    layers = pd.DataFrame(found["layers"])
    layers["kept"] = layers["density"] * layers["layer"].map(SIZES)
    return SimpleNamespace(**found | {"layers": layers, "flow": pd.DataFrame(found["flow"])})


@pytest.fixture
def traced(toy) -> SimpleNamespace:
    return seen(trace(**TRACE))


def finished(method: str = "panning", steps: int = 6, **changes: object) -> PanResult:
    train_set, _ = load("digits", "cpu")
    model = make_network("lenet300", 0.02, 1, train_set, "cpu")
    batches = make_batches(train_set, SCORING, 1)
    return pan(model, batches, 0.9, steps, method=method, **changes)


# --- every weight watched ------------------------------------------------------------------------


def test_in_each_layer_what_is_kept_changes_by_what_leaves_and_returns(traced) -> None:
    assert list(traced.layers["layer"][:3]) == list(SIZES)
    assert len(traced.layers) == 3 * 6
    for layer, part in traced.layers.groupby("layer"):
        change = np.diff([SIZES[layer], *part["kept"]])
        assert change == pytest.approx(part["reactivated"] - part["removed"], abs=1e-3)


@pytest.mark.parametrize("reactivate", [True, False])
def test_the_traced_process_is_panning_itself(toy, reactivate: bool) -> None:
    found = seen(trace(**TRACE | {"settings": {"reactivate": reactivate}}))
    result = finished(reactivate=reactivate)
    for column in ("removed", "reactivated"):
        expected = result.history[column].tolist()
        assert found.flow[column].tolist() == expected
        assert found.layers.groupby("iteration")[column].sum().tolist() == expected
    assert (found.flow["reactivated"].sum() > 0) == reactivate
    last = found.layers[found.layers["iteration"] == 6].set_index("layer")["kept"]
    for name, mask in result.masks.items():
        assert last[name.removesuffix(".weight")] == pytest.approx(int(mask.sum()), abs=1e-3)


def test_of_the_final_mask_there_is_what_the_mask_of_each_iteration_shares_with_it(traced) -> None:
    final = finished().masks.flat
    train_set, _ = load("digits", "cpu")
    model = make_network("lenet300", 0.02, 1, train_set, "cpu")
    batches = make_batches(train_set, SCORING, 1)
    # The mask of iteration t is that of a run which ends there.
    ends = enumerate(targets(0.9, 6, "exponential"), start=1)
    path = [pan(model, batches, rho, t).masks.flat for t, rho in ends]
    shared = [int((mask & final).sum()) / KEPT for mask in path]
    assert traced.flow["iteration"].tolist() == [1, 2, 3, 4, 5, 6]
    assert traced.flow["of_final"].tolist() == shared
    assert shared[0] < 1 == shared[-1]


def test_a_mask_that_only_loses_weights_holds_its_final_ones_from_the_start(toy) -> None:
    for change in ({"settings": {"reactivate": False}}, {"policy": LOWEST}):
        found = seen(trace(**TRACE | change))
        assert found.departures == [KEPT]
        assert set(found.flow["of_final"]) == {1.0}
        assert found.flow["reactivated"].sum() == found.layers["reactivated"].sum() == 0


def test_the_shares_of_the_score_sum_to_1(traced) -> None:
    shares = traced.layers.groupby("iteration")["score_share"]
    assert shares.sum().tolist() == pytest.approx([1] * 6)
    assert (traced.layers["score_share"] > 0).all()


def test_where_nothing_is_scored_there_is_no_share(toy) -> None:
    found = trace(**TRACE | {"policy": LOWEST})
    assert {row["score_share"] for row in found["layers"]} == {0.0}


def test_every_weight_of_the_final_mask_is_counted_once(traced) -> None:
    assert sum(traced.departures) == KEPT
    assert 0 < traced.departures[0] < KEPT
    times = sum(count * times for times, count in enumerate(traced.departures))
    assert KEPT - traced.departures[0] <= times <= traced.flow["reactivated"].sum()


def test_agreement_is_the_overlap_with_other_masks(traced) -> None:
    rows = {(row["other"], row["steps"]): row for row in traced.agreement}
    assert list(rows) == sorted(
        [
            *(("magnitude", 1), ("snip", 1), ("grasp", 1)),
            *(("synflow", 1), ("synflow", 6), ("iterative_fused", 1), ("iterative_fused", 6)),
        ]
    )
    assert len(rows) == len(traced.agreement)
    mine = finished().masks
    for (other, steps), row in rows.items():
        masks = finished(other, steps).masks
        assert row["overlap"] == (mine.flat & masks.flat).sum().item() / KEPT
        assert row["by_chance"] == KEPT / N
        densities = [
            a.float().mean().item() * b.float().mean().item() * a.numel()
            for a, b in zip(mine.values(), masks.values(), strict=True)
        ]
        assert row["by_layer_densities"] == pytest.approx(sum(densities) / KEPT)
        assert 0 <= row["overlap"] <= 1 and 0 < row["by_layer_densities"] <= 1


def test_whether_weights_return_is_asked_of_panning_and_not_of_its_control(toy) -> None:
    plain, told, without = (
        trace(**TRACE | {"settings": settings})["agreement"]
        for settings in ({}, {"reactivate": True}, {"reactivate": False})
    )
    assert told == plain
    (same,) = [row for row in without if (row["other"], row["steps"]) == ("iterative_fused", 6)]
    assert same["overlap"] == 1


@pytest.mark.parametrize("policy", ["staged", [0.0, 0.0, 1.0], [0.1, 1.0, 0.3]], ids=str)
def test_in_one_step_any_policy_is_its_own_control(toy, policy: object) -> None:
    rows = trace(**TRACE | {"steps": 1, "policy": policy})["agreement"]
    overlap = {(row["other"], row["steps"]): row["overlap"] for row in rows}
    assert overlap["iterative_fused", 1] == 1
    assert len(overlap) == 5


@pytest.mark.parametrize("schedule", ["exponential", "linear", "cosine"])
def test_all_layers_together_follow_the_schedule(toy, schedule: str) -> None:
    found = trace(**TRACE | {"settings": {"schedule": schedule}})
    assert (found == trace(**TRACE)) == (schedule == "exponential")
    kept = seen(found).layers.groupby("iteration")["kept"].sum()
    expected = [kept_count(N, rho) for rho in targets(0.9, 6, schedule)]
    assert kept.tolist() == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize(
    ("policy", "settings"),
    [
        ("staged", {"schedule": "linear"}),
        ([0.0, 1.0, 0.0], {}),
        ([[0.7, 0.0, 1.0, 0.0], [1.0, 0.5, 0.0, 0.5]], {"schedule": "cosine"}),
    ],
    ids=["schedule", "policy", "both"],
)
def test_the_masks_it_is_compared_with_are_found_in_the_same_way(
    toy, policy: object, settings: dict[str, str]
) -> None:
    found = trace(**TRACE | {"policy": policy, "settings": settings})["agreement"]
    assert found != trace(**TRACE)["agreement"]
    final = finished(policy=make_policy(policy), **settings).masks.flat
    for row in found:
        chosen = make_policy(policy) if METHODS[row["other"]].p is None else None
        other = finished(row["other"], row["steps"], policy=chosen, **settings)
        assert row["overlap"] == (final & other.masks.flat).sum().item() / KEPT


# --- layer collapse ------------------------------------------------------------------------------

COMPRESSIONS = [1, 10, 100, 300, 1000, N / 3]  # the last one leaves one weight a layer


@pytest.fixture
def collapsing(toy) -> Callable[..., pd.DataFrame]:
    cell = {"data": "digits", "network": "lenet300", "width": 0.02, "device": "cpu"}
    cell |= {"scoring": SCORING, "compressions": COMPRESSIONS, "steps": 100}

    def run(method: str, seed: int = 1, **changes: object) -> pd.DataFrame:
        return pd.DataFrame(collapse(**cell | {"method": method, "seed": seed} | changes))

    return run


@pytest.mark.parametrize("method", ["random", "magnitude", "snip", "grasp", "synflow"])
def test_the_smallest_layer_falls_with_compression(collapsing, method: str) -> None:
    found = collapsing(method, steps=30)
    assert found["compression"].tolist() == COMPRESSIONS
    assert found["smallest_layer"].iloc[0] == min(SIZES.values())
    assert (np.diff(found["smallest_layer"]) <= 0).all()
    assert found["smallest_layer"].iloc[-1] <= 1
    assert found["effective_share"].between(0, 1).all()
    assert found["effective_share"].iloc[0] == 1


def test_a_network_with_an_empty_layer_has_no_effective_weight(collapsing) -> None:
    found = pd.concat(collapsing(method) for method in ("random", "magnitude", "snip"))
    collapsed = found[found["smallest_layer"] == 0]
    assert 0 < len(collapsed) < len(found)
    assert (collapsed["effective_share"] == 0).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_synflow_empties_no_layer_up_to_one_weight_a_layer(collapsing, seed: int) -> None:
    found = collapsing("synflow", seed, compressions=[1000, N / 4, N / 3])
    assert (found["smallest_layer"] > 0).all()
    assert found["smallest_layer"].iloc[-1] == 1
    assert (found["effective_share"] > 0.9).all()


def test_a_policy_decides_where_the_method_lets_it(collapsing) -> None:
    few = {"compressions": [100], "steps": 5}
    hand_made = collapsing("panning", **few)
    assert hand_made.equals(collapsing("panning", policy=[list(row) for row in STAGES], **few))
    assert not hand_made.equals(collapsing("panning", policy=LOWEST, **few))


@pytest.mark.parametrize("method", ["panning", "synflow"])
def test_a_schedule_can_be_chosen_for_a_collapse(collapsing, method: str) -> None:
    few = {"compressions": [30, 100, 300], "steps": 5}
    plain = collapsing(method, **few)
    assert plain.equals(collapsing(method, settings={"schedule": "exponential"}, **few))
    assert not plain.equals(collapsing(method, settings={"schedule": "linear"}, **few))


def test_a_random_mask_is_another_one_by_its_seed(collapsing) -> None:
    assert not collapsing("random", 1).equals(collapsing("random", 2))


def test_one_shot_methods_take_one_step_whatever_is_asked(collapsing) -> None:
    one, many = (collapsing("snip", steps=steps) for steps in (1, 50))
    assert METHODS["snip"].steps == 1 and one.equals(many)


# --- metrics that veto ---------------------------------------------------------------------------

VETO = {"data": "digits", **PLACE, "device": "cpu", "scoring": SCORING}
VETO |= {"sparsity": 0.9, "steps": 6, "policy": "staged"}
LOOPS = {
    "synflow": {"policy": [1.0, 0.0, 0.0], "settings": {"score": "absolute", "reactivate": False}},
    "force": {"policy": [0.0, 1.0, 0.0], "settings": {"score": "absolute", "gradients": "masked"}},
    "panning": {},
    "product": {
        "policy": [1.0, 1.0, 0.0],
        "settings": {"fusion": "product", "gradients": "masked"},
    },
}


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_said_of_the_kept_weights_is_said_of_no_more_than_are_kept(
    toy, loop: str, sparsity: float
) -> None:
    found = pd.DataFrame(vetoes(**VETO | LOOPS[loop] | {"sparsity": sparsity}))
    k = kept_count(N, sparsity)
    assert found["layer"].tolist() == list(SIZES)
    assert found["index"].tolist() == [0, 1, 2]
    assert found["weights"].tolist() == list(SIZES.values())
    assert found["kept"].sum() == found["chosen_synflow"].sum() == found["chosen_snip"].sum() == k
    for part in ("dead", "worthless_synflow", "worthless_snip", "worthless", "dark"):
        assert (found[part].fillna(0) / found["kept"].clip(1)).between(0, 1).all()
    either = found[["worthless_synflow", "worthless_snip"]]
    assert (found["worthless"] >= either.max(axis=1)).all()
    assert (found["worthless"] <= either.sum(axis=1)).all()
    for name in ("synflow", "snip"):
        assert (found[f"refused_{name}"] <= found[f"chosen_{name}"]).all()
    assert found["dark"].notna().tolist() == [True, False, False]
    assert 0 <= found["refused_dark"][0] <= found["refused_synflow"][0]


def test_the_watched_masks_are_those_of_pan(toy) -> None:
    found = pd.DataFrame(vetoes(**VETO))
    result = finished()
    assert found["kept"].tolist() == [int(mask.sum()) for mask in result.masks.values()]
    effective = [int(mask.sum()) for mask in result.effective.values()]
    assert (found["kept"] - found["dead"]).tolist() == effective


@pytest.mark.parametrize(("loop", "metric"), [("synflow", "synflow"), ("force", "snip")])
def test_a_metric_refuses_nothing_of_its_own_choice(toy, loop: str, metric: str) -> None:
    cell = VETO | LOOPS[loop] | {"sparsity": 0.6, "steps": 2}
    cell["settings"] = cell["settings"] | {"reactivate": True}  # also what it would have back
    found = pd.DataFrame(vetoes(**cell))
    assert found[f"refused_{metric}"].sum() == found[f"worthless_{metric}"].sum() == 0
    assert found[f"chosen_{metric}"].tolist() == found["kept"].tolist()


class Half(nn.Module):
    """784 inputs, two units, 10 outputs; nothing reads the first unit."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, 2, bias=False), nn.Linear(2, 10, bias=False)
        with torch.no_grad():
            self.fc1.weight.fill_(0.1)
            self.fc2.weight[:, 0] = 0
            self.fc2.weight[:, 1] = torch.arange(1, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.fc1(x.flatten(1)))


def test_a_unit_that_nothing_reads_is_found_dead_and_worthless(toy, monkeypatch) -> None:
    monkeypatch.setattr(loops, "make_network", lambda *place: Half())
    # Nothing is scored: the first weights are kept, those of the unit that nothing reads.
    cell = VETO | {"policy": LOWEST, "steps": 1, "sparsity": 1 - 700 / (2 * 784 + 20)}
    found = pd.DataFrame(vetoes(**cell)).set_index("layer")
    assert found["kept"].tolist() == [700, 0]
    for part in ("dead", "worthless_synflow", "worthless_snip", "worthless"):
        assert found[part].tolist() == [700, 0], part
    assert found["refused_synflow"].sum() == 700  # and all that it would have instead
    # With SynFlow to choose, the other unit's are kept, and its outputs.
    found = pd.DataFrame(vetoes(**cell | LOOPS["synflow"])).set_index("layer")
    assert found["kept"].tolist() == [690, 10]
    assert found["dead"].sum() == found["worthless_synflow"].sum() == 0


def test_weights_that_read_a_pixel_which_never_changes_are_counted(toy, monkeypatch) -> None:
    train_set, test_set = load("digits", "cpu")
    images = train_set.images.clone()
    images.flatten(1)[:, :100] = 7  # the same in all images, if not black
    images.flatten(1)[:, 100:] = torch.arange(len(images)).view(-1, 1) % 2
    changed = loops.load("digits", "cpu")[0].__class__(
        images, train_set.targets, train_set.num_classes, train_set.mean, train_set.std
    )
    monkeypatch.setattr(loops, "load", lambda *place: (changed, test_set))
    cell = VETO | {"policy": LOWEST, "steps": 1, "sparsity": 1 - 150 / N}
    found = pd.DataFrame(vetoes(**cell))
    assert found["kept"].tolist() == [150, 0, 0]  # of the first unit
    assert found["dark"][0] == 100
    assert found["inputs_dark"][0] == pytest.approx(100 / 784)


def test_a_convolution_reads_no_pixel_by_a_weight_of_its_own(toy) -> None:
    found = pd.DataFrame(vetoes(**VETO | {"network": "lenet5", "width": 0.2, "steps": 2}))
    assert found[["dark", "refused_dark", "inputs_dark"]].isna().all(axis=None)
