"""What a cell works on comes from plain values: policies and environments."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lib.networks.inspection import flatten
from lib.study import parameters
from lib.study.agents import evaluate
from lib.study.worlds import (
    load,
    make_batches,
    make_environment,
    make_policy,
    unscored_batches,
)

SCORING = parameters.Scoring(per_class=2, count=2, temperature=70.0)
ENVIRONMENT = parameters.load().environment.changed(
    **{"network": "lenet300", "width": 0.02, "seed": 5, "steps": 4, "calibration_steps": 4},
    sparsity=(0.5, 0.9),
)
WORLD = {"data": "digits", "environment": ENVIRONMENT, "scoring": SCORING, "device": "cpu"}
PLACE = {"network": "lenet300", "width": 0.02, "seed": 1}

# --- policies ------------------------------------------------------------------------------------


def choices(description: object) -> list[tuple[float, ...]]:
    policy = make_policy(description)
    states = torch.zeros(3, 7).double().numpy()
    states[:, 4] = (0.5, 0.95, 0.995)  # the target
    return [tuple(policy(state)) for state in states]


def test_policies_come_from_plain_values() -> None:
    assert choices("staged") == [(0.2, 0.5, 0.3), (0.2, 0.3, 0.5), (0.5, 0.0, 0.5)]
    assert choices([0.1, 0.2, 0.3]) == choices((0.1, 0.2, 0.3)) == [(0.1, 0.2, 0.3)] * 3
    rows = [[0.9, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]]
    assert choices(rows) == [(1, 0, 0), (0, 1, 0), (0, 1, 0)]
    assert choices(tuple(map(tuple, rows))) == choices(rows)
    assert choices(["random", 0]) == choices(["random", 0]) != choices(["random", 1])


@pytest.mark.parametrize(
    "description", [[0.1, 0.2], [0.1, 0.2, 1.3], [[0.9, 1.0, 0.0, 0.0]], "none"]
)
def test_a_policy_that_is_none_is_refused(description: object) -> None:
    with pytest.raises(ValueError, match="^(p|stages) must be"):
        make_policy(description)


# --- the environment of a profile ----------------------------------------------------------------


def as_set(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def scored(batches: list[tuple[Tensor, Tensor]]) -> set[bytes]:
    """The images of scoring batches, as they were before they were normalised."""
    mean, std = 0.3054, 0.3247  # of "digits"
    return as_set(torch.cat([((x * std + mean) * 255).round().to(torch.uint8) for x, _ in batches]))


def test_an_environment_is_made_as_params_say(toy) -> None:
    changed = ENVIRONMENT.changed(
        action="logarithmic", objective="trainability", trial_steps=2, alpha=50, grad_weight=1
    )
    place = WORLD | PLACE
    for values in (ENVIRONMENT, changed):
        env = make_environment(**place | {"environment": values})
        assert (env.action, env.objective) == (values.action, values.objective)
        assert (env.trial_steps, env.panning.steps) == (values.trial_steps, 4)
        assert env.sparsity_range == (0.5, 0.9)
        assert env.panning.bank.temperature == 70
        assert (env.alpha, env.grad_weight) == (values.alpha, values.grad_weight)
    cell = place | {"policies": {"hand-made": "staged"}, "sparsities": [0.6]}
    paper, other = (evaluate(**cell | {"environment": e}) for e in (ENVIRONMENT, changed))
    assert [row["p_snip"] for row in paper] == [row["p_snip"] for row in other]
    assert [row["reward_trainability"] for row in paper] == [0] * 4
    assert [row["reward"] for row in other[:-1]] == [0] * 3
    assert other[-1]["reward"] == other[-1]["reward_trainability"] < -1


def test_a_fraction_of_the_images_is_all_that_an_environment_sees(toy) -> None:
    """Of 120 images in ten classes a fifth is two of each: every batch is all there is."""
    whole, test = load("digits", "cpu")
    part = whole.subset(0.2, PLACE["seed"])
    assert len(part) == 20
    env = make_environment(**WORLD, **PLACE, fraction=0.2)
    for batch in env.panning.bank.batches:
        assert scored([batch]) == as_set(part.images)
    dense = make_environment(**WORLD, **PLACE)
    assert not scored(dense.panning.bank.batches) <= as_set(part.images)
    assert scored(dense.panning.bank.batches) <= as_set(whole.images)
    assert torch.equal(  # it is the same network
        flatten(env.panning.bank.weights), flatten(dense.panning.bank.weights)
    )
    assert env.extremes != dense.extremes
    assert not as_set(test.images) & as_set(whole.images)


def test_too_small_a_fraction_for_a_scoring_batch_is_refused(toy) -> None:
    with pytest.raises(ValueError, match="per_class: a scoring batch wants 2 samples of class 0"):
        make_environment(**WORLD, **PLACE, fraction=0.05)


# --- images that no score has seen ---------------------------------------------------------------


@pytest.mark.parametrize("fraction", [1.0, 0.1])
def test_unscored_batches_share_no_image_with_the_scored_ones(fraction: float, digits) -> None:
    train_set = digits[0].subset(fraction, 1)
    scoring = SCORING.changed(per_class=3, count=3)
    numbered = replace(  # an image that is its own number, so that equal images do not matter
        train_set,
        images=torch.arange(len(train_set), dtype=torch.float32).view(-1, 1, 1, 1),
        mean=(0.0,),
        std=(1 / 255,),
    )
    seen, unseen = (draw(numbered, scoring, 1) for draw in (make_batches, unscored_batches))
    first, second = ({round(float(i)) for x, _ in own for i in x} for own in (seen, unseen))
    assert first and second and not first & second
    assert len(unseen) == 3
    for images, labels in unseen:
        assert labels.bincount().tolist() == [len(labels) // 10] * 10
        assert train_set.targets[images.flatten().round().long()].equal(labels)
    again = unscored_batches(numbered, scoring, 1)
    assert all(x.equal(y) for (x, _), (y, _) in zip(unseen, again, strict=True))


def test_where_every_image_is_scored_none_is_left_to_look_at(digits) -> None:
    train_set = digits[0].subset(0.01, 1)  # one or two of each class
    with pytest.raises(ValueError, match="scoring: 9 batches of 1 .* leave none"):
        unscored_batches(train_set, SCORING.changed(per_class=1, count=9), 1)
