"""Removed weights stay zero, the rest learns as it would have, and every number is what it says."""

import copy
import math
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lib
from lib.data.images import ImageSet
from lib.networks.architectures import build_model
from lib.networks.inspection import flatten, prunable, unflatten
from lib.networks.paths import effective_mask
from lib.networks.training import _Seam, evaluate, train

SETTINGS = {"epochs": 3, "batch_size": 16, "learning_rate": 0.1, "weight_decay": 1e-4}


def some_masks(model: nn.Module, example: Tensor, density: float = 0.5) -> dict[str, Tensor]:
    """Random masks, of weights on paths alone."""
    weights = prunable(model)
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(flatten(weights).numel(), generator=generator) < density
    return unflatten(effective_mask(model, flat, example), weights)


def state(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


# --- masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_removed_weights_end_at_zero_and_the_kept_ones_move(
    network, image_set, memory, compact: bool
) -> None:
    network.to(memory_format=memory)
    masks = some_masks(network, image_set[0][0][None])
    before = flatten(prunable(network)).detach().clone()
    train(network, image_set, masks, **SETTINGS, compact=compact)
    after, kept = flatten(prunable(network)).detach(), flatten(masks)
    assert not after[~kept].any()
    assert (after != before)[kept].float().mean() > 0.95  # a dead unit's do not


def test_a_narrow_resnet_stays_pruned_in_each_of_its_layers() -> None:
    """Its strided 1x1 convolutions of few channels crash the process in the faster layout."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (8, 3, 8, 8), dtype=torch.uint8, generator=generator)
    data = ImageSet(images, torch.arange(8), 8, (0.5,) * 3, (0.5,) * 3)
    model = build_model("resnet20", 3, 8, width=0.1)
    masks = some_masks(model, data[0][0][None])
    train(model, data, masks, **SETTINGS | {"epochs": 1})
    for name, weight in prunable(model).items():
        assert not weight[~masks[name]].any(), name


def test_removed_weights_are_zero_at_each_step_and_not_at_the_end_alone(mlp, image_set) -> None:
    masks, seen = some_masks(mlp, image_set[0][0][None]), []

    def look(module: nn.Module, _: object) -> None:
        seen.append(bool(module.weight[~masks["1.weight"]].any()))

    mlp[1].register_forward_pre_hook(look)
    train(mlp, image_set, masks, **SETTINGS, compact=False)
    assert len(seen) == 3 * 4
    assert not any(seen)


@pytest.mark.parametrize("density", [0.25, 0.5])
def test_training_without_dead_channels_is_the_same_training(network, image_set, density) -> None:
    masks = some_masks(network, image_set[0][0][None], density)
    assert flatten(masks).any()
    twin = copy.deepcopy(network)
    slow = train(network, image_set, masks, **SETTINGS, compact=False)
    assert train(twin, image_set, masks, **SETTINGS) == pytest.approx(slow, rel=1e-4)
    weights = (flatten(prunable(model)).detach() for model in (twin, network))
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)
    assert evaluate(twin, image_set) == pytest.approx(evaluate(network, image_set), rel=1e-3)


def test_a_mask_that_keeps_all_is_dense_training_to_the_last_bit(network, image_set) -> None:
    start = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    dense = train(network, image_set, **SETTINGS)
    expected = state(network)
    network.load_state_dict(start)
    everything = {key: torch.ones_like(w, dtype=torch.bool) for key, w in prunable(network).items()}
    assert train(network, image_set, everything, **SETTINGS) == dense
    assert state(network) == expected


def test_a_mask_without_a_weight_leaves_nothing_but_biases(mlp, image_set) -> None:
    nothing = {key: torch.zeros_like(w, dtype=torch.bool) for key, w in prunable(mlp).items()}
    train(mlp, image_set, nothing, **SETTINGS)
    outputs = mlp(image_set.inputs(image_set.images))
    assert torch.equal(outputs, mlp[-1].bias.expand_as(outputs))


# --- determinism ---------------------------------------------------------------------------------


def test_training_twice_gives_the_same_bytes_whatever_the_global_seed(cnn, image_set) -> None:
    start = {key: tensor.clone() for key, tensor in cnn.state_dict().items()}
    data = replace(image_set, crop=1, flip=True)

    def trained(seed: int, outside: int) -> tuple[list[float], dict[str, bytes]]:
        cnn.load_state_dict(start)
        torch.manual_seed(outside)
        losses = train(cnn, data, some_masks(cnn, image_set[0][0][None]), seed, **SETTINGS)
        return losses, state(cnn)

    first = trained(seed=0, outside=0)
    assert trained(seed=0, outside=1) == first
    assert trained(seed=1, outside=0) != first


# --- the optimiser -------------------------------------------------------------------------------


@pytest.fixture
def optimiser(monkeypatch) -> list[torch.optim.SGD]:
    """The optimiser that `train` makes; it notes its learning rate at each step."""
    made = []

    class Spy(torch.optim.SGD):
        def __init__(self, *args: object, **settings: object):
            super().__init__(*args, **settings)
            self.rates: list[float] = []
            made.append(self)

        def step(self, closure: object = None) -> None:
            self.rates.append(self.param_groups[0]["lr"])
            super().step(closure)

    monkeypatch.setattr(torch.optim, "SGD", Spy)
    return made


@pytest.mark.parametrize(("epochs", "batch_size", "steps"), [(3, 16, 12), (2, 60, 2), (1, 7, 9)])
def test_the_learning_rate_falls_to_zero_along_a_cosine(
    mlp, image_set, optimiser, epochs: int, batch_size: int, steps: int
) -> None:
    train(mlp, image_set, **SETTINGS | {"epochs": epochs, "batch_size": batch_size})
    expected = [0.05 * (1 + math.cos(math.pi * i / steps)) for i in range(steps)]
    assert optimiser[0].rates == pytest.approx(expected)
    assert optimiser[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-15)


def test_momentum_and_weight_decay_reach_every_parameter(mlp, image_set, optimiser) -> None:
    train(mlp, image_set, **SETTINGS | {"momentum": 0.7, "weight_decay": 0.03, "epochs": 1})
    (group,) = optimiser[0].param_groups
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.7, 0.03, False)
    assert len(group["params"]) == len(list(mlp.parameters()))


def test_one_step_on_one_batch_is_the_textbooks(mlp, image_set) -> None:
    inputs, targets = image_set.inputs(image_set.images), image_set.targets
    loss = functional.cross_entropy(mlp(inputs), targets)
    before = [p.detach().clone() for p in mlp.parameters()]
    gradients = torch.autograd.grad(loss, list(mlp.parameters()))
    history = train(mlp, image_set, epochs=1, batch_size=60, learning_rate=0.2, weight_decay=0.05)
    assert history == [pytest.approx(loss.item())]
    for parameter, start, gradient in zip(mlp.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(parameter, start - 0.2 * (gradient + 0.05 * start))


def test_the_history_is_the_mean_loss_of_an_image_in_each_epoch(mlp, image_set) -> None:
    """With a learning rate of 0 that is the loss itself, though the last batch is smaller."""
    _, loss = evaluate(mlp, image_set)
    history = train(mlp, image_set, **SETTINGS | {"learning_rate": 0.0, "batch_size": 7})
    assert history == [pytest.approx(loss)] * 3


def test_a_network_that_trains_learns(mlp, image_set) -> None:
    history = train(mlp, image_set, **SETTINGS | {"epochs": 15})
    assert history[-1] < 0.3 * history[0]
    accuracy, loss = evaluate(mlp, image_set)
    assert accuracy > 0.95
    assert loss < history[0]


def test_adam_takes_the_textbooks_first_step_at_its_own_rate(mlp, image_set) -> None:
    inputs, targets = image_set.inputs(image_set.images), image_set.targets
    loss = functional.cross_entropy(mlp(inputs), targets)
    before = [p.detach().clone() for p in mlp.parameters()]
    gradients = torch.autograd.grad(loss, list(mlp.parameters()))
    settings = {"epochs": 1, "batch_size": 60, "optimizer": "adam", "weight_decay": 0.05}
    train(mlp, image_set, **settings)
    for parameter, start, gradient in zip(mlp.parameters(), before, gradients, strict=True):
        gradient = gradient + 0.05 * start  # its mean over its root mean square is its sign
        step = 0.001 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(parameter, start - step, rtol=1e-5, atol=1e-7)


def test_adams_momentum_is_its_first_beta(mlp, image_set, monkeypatch) -> None:
    made, real = [], torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    train(mlp, image_set, **SETTINGS | {"epochs": 1, "momentum": 0.7, "optimizer": "adam"})
    (group,) = made[0].param_groups
    assert (group["betas"], group["weight_decay"]) == ((0.7, 0.999), 1e-4)
    assert group["initial_lr"] == 0.1


@pytest.mark.parametrize("compact", [True, False])
def test_adam_keeps_removed_weights_at_zero_and_learns(cnn, image_set, compact: bool) -> None:
    masks = some_masks(cnn, image_set[0][0][None])
    settings = SETTINGS | {"optimizer": "adam", "learning_rate": 0.02, "epochs": 15}
    history = train(cnn, image_set, masks, **settings, compact=compact)
    assert not flatten(prunable(cnn))[~flatten(masks)].any()
    assert history[-1] < history[0]


def test_an_unknown_optimizer_is_refused(mlp, image_set) -> None:
    with pytest.raises(ValueError, match="optimizer must be one of sgd, adam, got 'lion'"):
        train(mlp, image_set, optimizer="lion")


# --- tested after each epoch ---------------------------------------------------------------------


def test_testing_after_each_epoch_changes_no_byte_of_the_training(network, image_set) -> None:
    masks = some_masks(network, image_set[0][0][None])
    twin = copy.deepcopy(network)
    plain = train(network, image_set, masks, **SETTINGS)
    tested = train(twin, image_set, masks, **SETTINGS, test_set=image_set)
    assert tested == plain and state(twin) == state(network)
    rows = tested.rows
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["train_loss"] for row in rows] == plain
    assert list(rows[0]) == ["epoch", "seconds", "train_loss", "accuracy", "test_loss"]
    last = rows[-1]["accuracy"], rows[-1]["test_loss"]
    assert last == pytest.approx(evaluate(network, image_set), rel=1e-5)
    seconds = [row["seconds"] for row in rows]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    assert list(plain.rows[0]) == ["epoch", "seconds", "train_loss"]


# --- interrupted ---------------------------------------------------------------------------------


class Power(Exception):
    """It is gone."""


class Forgetful(nn.Sequential):
    """With dropout, which draws from the global generator."""

    def __init__(self):
        torch.manual_seed(7)
        conv, norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        super().__init__(conv, norm, nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 3))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_interrupted_training_ends_with_the_bytes_of_an_uninterrupted_one(
    image_set, tmp_path, monkeypatch, optimizer: str, compact: bool, stop: int
) -> None:
    data, path = replace(image_set, crop=1, flip=True), tmp_path / "state.pt"
    settings = {**SETTINGS, "optimizer": optimizer, "compact": compact, "test_set": image_set}

    def trained(**more: object) -> tuple:
        model = Forgetful()
        torch.manual_seed(3)
        masks = some_masks(model, image_set[0][0][None], 0.3)
        history = train(model, data, masks, 5, **settings, **more)
        return history, history.accuracy, history.test_loss, state(model)

    expected = trained()
    real = _Seam.write

    def write(self: _Seam, history: list[float]) -> None:
        real(self, history)
        if len(history) == stop:
            raise Power

    with monkeypatch.context() as patch:
        patch.setattr(_Seam, "write", write)
        with pytest.raises(Power):
            trained(checkpoint=path)
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]
    epochs = []
    with monkeypatch.context() as patch:
        patch.setattr(_Seam, "write", lambda self, h: (epochs.append(len(h)), real(self, h)))
        assert trained(checkpoint=str(path)) == expected
    assert epochs == list(range(stop + 1, 4))
    assert trained(checkpoint=path) == expected  # of the finished training


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 1}, "seed is 0, this one's 1"),
        ({"epochs": 4}, "epochs is 3, this one's 4"),
        ({"optimizer": "adam"}, "optimizer is 'sgd', this one's 'adam'"),
        ({"learning_rate": 0.2}, "learning_rate is 0.1, this one's 0.2"),
        ({"masks": None}, "masks is"),
        ({"width": 5}, "model is"),
        ({"images": 3}, "images is"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    cnn, image_set, tmp_path, changes: dict, what: str
) -> None:
    masks = some_masks(cnn, image_set[0][0][None])
    other = copy.deepcopy(cnn)
    path = tmp_path / "state.pt"
    train(cnn, image_set, masks, 0, **SETTINGS, checkpoint=path)
    arguments = {"masks": masks, "seed": 0, **SETTINGS, **changes}
    if arguments.pop("width", None):
        other[4] = nn.Conv2d(4, 5, 2)
    if first := arguments.pop("images", None):
        image_set = replace(image_set, images=image_set.images.roll(first, 0))
    with pytest.raises(ValueError, match=f"is of another training: its {what}.*delete the file"):
        train(other, image_set, checkpoint=path, **arguments)


def test_a_damaged_checkpoint_is_refused_and_nothing_in_it_is_run(mlp, image_set, tmp_path) -> None:
    path = tmp_path / "state.pt"
    for content in (b"half a fi", pickle.dumps(Path("x"), 2), pickle.dumps({"identity": 1}, 2)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="state.pt holds no usable state; delete it"):
            train(mlp, image_set, **SETTINGS, checkpoint=path)


def test_a_checkpoint_is_written_no_more_often_than_asked(mlp, image_set, tmp_path) -> None:
    train(mlp, image_set, **SETTINGS, checkpoint=tmp_path / "s.pt", checkpoint_seconds=60)
    assert not list(tmp_path.iterdir())


# --- evaluation ----------------------------------------------------------------------------------


class Says(nn.Module):
    """Logits (0, brightness): class 1 for any light, ln 2 for none."""

    def forward(self, x: Tensor) -> Tensor:
        light = x.flatten(1)[:, :1]
        return torch.cat([torch.zeros_like(light), light], 1)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 500])
def test_accuracy_and_loss_are_means_over_images_and_not_over_batches(batch_size: int) -> None:
    images = torch.tensor([1, 2, 3, 4, 0], dtype=torch.uint8).view(5, 1, 1, 1)
    targets = torch.tensor([1, 1, 0, 1, 0])
    data = ImageSet(images, targets, 2, (0.0,), (1 / 255,))
    losses = [math.log(1 + math.exp(z)) for z in (-1.0, -2.0, 3.0, -4.0, 0.0)]
    accuracy, loss = evaluate(Says(), data, batch_size)
    assert accuracy == 4 / 5
    assert loss == pytest.approx(sum(losses) / 5, rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_is_in_eval_mode_and_gives_the_mode_back(cnn, image_set, training) -> None:
    expected = evaluate(cnn.eval(), image_set)
    cnn.train(training)
    before = state(cnn)
    assert evaluate(cnn, image_set) == expected
    assert state(cnn) == before  # running statistics too
    assert {module.training for module in cnn.modules()} == {training}
    assert all(parameter.grad is None for parameter in cnn.parameters())


def test_a_trained_network_is_left_in_eval_mode(cnn, image_set) -> None:
    train(cnn.eval(), image_set, **SETTINGS | {"epochs": 1})
    assert not any(module.training for module in cnn.modules())
    assert cnn[1].num_batches_tracked == 4  # it was in train mode while it learned


def test_masks_of_a_network_that_is_pruned_already_are_refused_by_name(image_set) -> None:
    model = lib.build_model("lenet300", image_set.channels, 3, 0.05, image_set.size)
    batches = lib.scoring_batches(image_set, 3, 2, 1)
    result = lib.pan(model, batches, 0.5, method="magnitude")
    assert torch.equal(
        lib.effective_mask(model, result.masks, batches[0][0]), result.effective.flat
    )
    lib.apply_masks(model, result.effective)
    with pytest.raises(ValueError, match=r"masks: the model has no parameter 'fc1.weight'; leave"):
        lib.train(model, image_set, result.effective, epochs=1, batch_size=10)
    assert len(lib.train(model, image_set, epochs=1, batch_size=10)) == 1
