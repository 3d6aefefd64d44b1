"""What a probe says of a sparse network is what slower arithmetic says, and it leaves no trace."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.data.images import scoring_batches
from lib.networks.architectures import build_model
from lib.networks.inspection import flatten, prunable, unflatten
from lib.networks.probes import jacobian_singular_values, ntk_trace, trainability, trial

Masks = dict[str, Tensor]


def masks_of(model: nn.Module, flat: Tensor | None = None) -> Masks:
    """A flat mask in the public form; by default that of the dense network."""
    weights = prunable(model)
    everything = torch.ones(flatten(weights).numel(), dtype=torch.bool)
    return unflatten(everything if flat is None else flat, weights)


def without(model: nn.Module, layer: int) -> Masks:
    """Everything is kept but one layer, so that no path is left."""
    masks = masks_of(model)
    list(masks.values())[layer].zero_()
    return masks


def pruned(model: nn.Module, masks: Masks) -> nn.Module:
    """A copy whose removed weights are 0."""
    model = copy.deepcopy(model)
    for name, weight in prunable(model).items():
        weight.data *= masks[name]
    return model


@pytest.fixture
def half(network, some_mask) -> Masks:
    """Half of the weights of the network."""
    return masks_of(network, some_mask(flatten(prunable(network)).numel(), 0.5))


# --- the Jacobian --------------------------------------------------------------------------------


def test_the_jacobian_of_a_linear_network_is_the_product_of_its_masked_weights(some_mask) -> None:
    """Whatever the image, and whatever the biases."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Linear(7, 5), nn.Linear(5, 3))
    masks = masks_of(model, some_mask(84 + 35 + 15, 0.7))
    first, second, third = (w.detach() * masks[name] for name, w in prunable(model).items())
    expected = torch.linalg.svdvals((third @ second @ first).double()).float()
    found = jacobian_singular_values(model, masks, torch.randn(4, 1, 3, 4))
    assert found.shape == (4, 3)
    torch.testing.assert_close(found, expected.expand(4, 3))
    assert expected.min() > 0.01
    dense = jacobian_singular_values(model, masks_of(model), torch.ones(1, 1, 3, 4))
    assert not torch.allclose(dense, expected)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_orthogonal_layers_are_an_isometry(scale: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, 4))
    for weight in prunable(model).values():
        nn.init.orthogonal_(weight)
    model[1].weight.data *= scale
    found = jacobian_singular_values(model, masks_of(model), torch.randn(2, 1, 3, 3))
    torch.testing.assert_close(found, torch.full((2, 4), scale))


def by_autograd(model: nn.Module, masks: Masks, images: Tensor) -> Tensor:
    """Image by image, on a copy without its removed weights, normalised as all images are."""
    sparse, out = pruned(model, masks), []
    norms = [m for m in sparse.modules() if isinstance(m, nn.BatchNorm2d)]
    found: dict[nn.Module, Tensor] = {}
    hooks = [n.register_forward_pre_hook(lambda n, x: found.update({n: x[0]})) for n in norms]
    with torch.no_grad():
        sparse.train()(images)
    for norm in norms:
        x = found[norm]
        norm.running_mean, norm.running_var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    sparse.eval()
    for hook in hooks:
        hook.remove()
    for image in images:
        jacobian = torch.autograd.functional.jacobian(sparse, image[None])
        out.append(torch.linalg.svdvals(jacobian.flatten(2)[0].flatten(1)))
    return torch.stack(out)


@pytest.mark.parametrize("count", [1, 20, 45])
def test_each_image_has_a_jacobian_of_its_own(network, half, count: int) -> None:
    """Also where there are more of them than are taken at a time."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 1, 6, 6, dtype=torch.float64, generator=generator)
    found = jacobian_singular_values(network.double(), half, images)
    assert found.shape == (count, 3)
    torch.testing.assert_close(found, by_autograd(network, half, images), rtol=1e-9, atol=1e-12)
    assert (found[:, :-1] >= found[:, 1:]).all()
    assert (found[:, 0] > 0.01).all()
    assert len(found[:, 0].unique()) > count // 4


@pytest.mark.parametrize(("name", "channels"), [("lenet5", 1), ("resnet20", 3), ("vgg11", 3)])
def test_the_networks_of_the_paper_have_a_jacobian(name: str, channels: int) -> None:
    torch.manual_seed(0)
    side = 28 if name == "lenet5" else 32
    model = build_model(name, channels, 10, 0.1, side)
    images = torch.randn(2, channels, side, side)
    masks = masks_of(model)
    found = jacobian_singular_values(model, masks, images)
    expected = by_autograd(model, masks, images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.max().item())
    assert found[:, 0].min() > 0


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_jacobian_of_a_dead_network_is_zero(network, batches, layer: int) -> None:
    found = jacobian_singular_values(network, without(network, layer), batches[0][0])
    assert torch.equal(found, torch.zeros(6, 3))


# --- a few steps of training ---------------------------------------------------------------------


def by_hand(model: nn.Module, masks: Masks, batches: list, steps: int, rate: float) -> float:
    """SGD with momentum 0.9 as its formula has it: v := 0.9 v + g, θ := (θ - rate v) ⊙ m."""
    model = pruned(model, masks).train()
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for step in range(steps):
        inputs, targets = batches[step % len(batches)]
        loss = functional.cross_entropy(model(inputs), targets)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for (name, parameter), gradient in zip(
                model.named_parameters(), gradients, strict=True
            ):
                velocity[name] = 0.9 * velocity[name] + gradient
                parameter -= rate * velocity[name]
                parameter *= masks.get(name, 1)
    with torch.no_grad():
        losses = [functional.cross_entropy(model(x), y).item() for x, y in batches]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("count", [1, 3])
def test_the_trace_of_the_tangent_kernel_is_the_squares_of_all_gradients(
    mlp, some_mask, count
) -> None:
    """Of every logit of every image, by kept weights; an estimate, whose error falls with draws."""
    masks = masks_of(mlp, some_mask(flatten(prunable(mlp)).numel(), 0.5))
    images = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    sparse = copy.deepcopy(mlp)
    weights = prunable(sparse)
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].mul_(mask)
    exact = 0.0
    for logit in sparse(images).flatten():
        gradients = torch.autograd.grad(logit, list(weights.values()), retain_graph=True)
        pairs = zip(gradients, masks.values(), strict=True)
        exact += sum(gradient[mask].square().sum().item() for gradient, mask in pairs)
    exact /= count
    assert exact > 0.1
    assert ntk_trace(mlp, masks, images, draws=4000) == pytest.approx(exact, rel=0.05)
    assert ntk_trace(mlp, masks, images) == pytest.approx(exact, rel=0.3)
    assert ntk_trace(mlp, masks, images) == ntk_trace(mlp, masks, images)
    assert ntk_trace(mlp, masks_of(mlp, some_mask(354, 0.0)), images) == 0


def test_a_trial_is_looked_at_on_its_way(network, half, batches) -> None:
    """At each stop the loss is that of a trial which ends there, on every set of batches."""
    others = [(x.flip(0) + 0.1, y) for x, y in batches]
    found = trial(network, half, batches, [0, 2, 5], [batches, others])
    for stop, (here, there) in zip((0, 2, 5), found, strict=True):
        assert here == trainability(network, half, batches, stop)
        assert there == trial(network, half, batches, [stop], [others])[0][0] != here


@pytest.mark.parametrize("rate", [0.1, 0.02])
@pytest.mark.parametrize("steps", [0, 1, 2, 7])
def test_the_trial_is_sgd_with_momentum_on_the_batches_in_turn(
    network, half, batches, steps: int, rate: float
) -> None:
    """With seven steps on three batches, each batch is used again."""
    network, batches = network.double(), [(x.double(), y) for x, y in batches]
    found = trainability(network, half, batches, steps, rate)
    assert found == pytest.approx(by_hand(network, half, batches, steps, rate), rel=1e-9)
    moved = abs(found - by_hand(network, half, batches, 0, rate))
    assert moved == pytest.approx(0, abs=1e-12) if steps == 0 else moved > 1e-5


def test_the_rate_is_a_tenth_where_none_is_given(network, half, batches) -> None:
    assert trainability(network, half, batches, 3) == trainability(network, half, batches, 3, 0.1)


def test_a_sparse_network_learns_what_can_be_learned(network, half, image_set) -> None:
    batches = scoring_batches(image_set, 3, per_class=10, count=3)
    losses = [trainability(network, half, batches, steps) for steps in (0, 5, 60)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * math.log(3) < losses[0]


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("steps", [0, 1, 20])
def test_a_dead_network_stays_on_the_plateau(mlp, batches, layer: int, steps: int) -> None:
    """At ln(classes): where all logits are 0 and the classes balanced, no bias has a gradient."""
    for name, parameter in mlp.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    found = trainability(mlp, without(mlp, layer), batches, steps)
    assert found == pytest.approx(math.log(3), abs=1e-5)
    assert abs(trainability(mlp, masks_of(mlp), batches, 20) - math.log(3)) > 0.1


def test_biases_alone_come_down_to_the_plateau_and_no_further(network, batches) -> None:
    losses = [trainability(network, without(network, 0), batches, steps) for steps in (0, 300)]
    assert losses[0] > losses[1] > math.log(3) - 1e-4
    assert losses[1] == pytest.approx(math.log(3), abs=0.02)


def test_what_a_removed_weight_was_has_no_effect(network, half, batches) -> None:
    images = batches[0][0]
    loss = trainability(network, half, batches, 5)
    jacobian = jacobian_singular_values(network, half, images)
    for name, weight in prunable(network).items():
        weight.data = torch.where(half[name], weight.data, torch.full_like(weight, 1000.0))
    assert trainability(network, half, batches, 5) == loss
    assert torch.equal(jacobian_singular_values(network, half, images), jacobian)
    dense = masks_of(network)
    assert trainability(network, dense, batches, 0) != trainability(network, half, batches, 0)


# --- nothing is disturbed ------------------------------------------------------------------------


def test_a_callers_model_is_left_as_it_was(busy, batches, unchanged, some_mask) -> None:
    masks = masks_of(busy, some_mask(flatten(prunable(busy)).numel()))
    with unchanged(busy), torch.no_grad():
        jacobian_singular_values(busy, masks, batches[0][0])
        trainability(busy, masks, batches, 4)


def test_a_callers_model_is_left_as_it_was_by_a_call_that_fails(busy, batches, unchanged) -> None:
    masks, images = masks_of(busy), batches[0][0][..., :4]  # fails behind the normalisation
    with unchanged(busy):
        with pytest.raises(RuntimeError):
            jacobian_singular_values(busy, masks, images)
        with pytest.raises(RuntimeError):
            trainability(busy, masks, [(images, batches[0][1])], 4)


def test_probes_depend_neither_on_chance_nor_on_the_mode_nor_on_dropout(busy, batches) -> None:
    plain = type(busy)(rate=0.0)
    plain.load_state_dict(busy.state_dict())
    plain.conv.bias.requires_grad_(False)
    masks = masks_of(busy)
    expected = trainability(plain.train(), masks, batches, 6)
    jacobian = jacobian_singular_values(plain.eval(), masks, batches[0][0])
    for seed in (0, 1):
        torch.manual_seed(seed)
        assert trainability(busy, masks, batches, 6) == expected
        assert torch.equal(jacobian_singular_values(busy, masks, batches[0][0]), jacobian)


def test_probes_can_be_asked_for_where_gradients_are_off(network, half, batches) -> None:
    jacobian = jacobian_singular_values(network, half, batches[0][0])
    loss = trainability(network, half, batches, 3)
    with torch.no_grad():
        assert torch.equal(jacobian_singular_values(network, half, batches[0][0]), jacobian)
        assert trainability(network, half, batches, 3) == loss
    assert not jacobian.requires_grad
