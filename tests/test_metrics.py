"""The metrics are the derivatives they claim to be, and nobody's model is disturbed by them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from lib import metrics
from lib.networks.architectures import build_model
from lib.networks.inspection import flatten, prunable, unflatten
from lib.panning import Panning
from lib.policies import staged_policy
from lib.scores import normalise

Loss = Callable[[Tensor], Tensor]


def double(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[nn.Module, Tensor, tuple]:
    """All in float64, where finite differences mean something: model, weights (N,), batch."""
    model = model.double()
    return model, flatten(prunable(model)).detach(), (batch[0].double(), batch[1])


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor], temperature: float = 200.0) -> Loss:
    """The scoring loss as a function of all prunable weights, (N,) -> scalar."""
    buffers = dict(model.named_buffers())

    def loss(flat: Tensor) -> Tensor:
        state = {name: buffer.clone() for name, buffer in buffers.items()}
        logits = functional_call(model, state | unflatten(flat, prunable(model)), (batch[0],))
        return functional.cross_entropy(logits / temperature, batch[1])

    model.train()
    return loss


def path_norm_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Loss:
    """SynFlow's R as a function of the non-negative weights, (N,) -> scalar."""
    state = {name: tensor.abs() for name, tensor in model.state_dict().items()}
    ones = torch.ones_like(batch[0][:1])
    model.eval()
    return lambda flat: functional_call(
        model, state | unflatten(flat, prunable(model)), (ones,)
    ).sum()


def finite_differences(function: Loss, at: Tensor, step: float = 1e-5) -> Tensor:
    with torch.no_grad():
        moves = step * torch.eye(len(at), dtype=at.dtype)
        return torch.stack([function(at + e) - function(at - e) for e in moves]) / (2 * step)


# --- the authors' program ------------------------------------------------------------------------


@pytest.mark.parametrize("iteration", [0, 9])
@pytest.mark.parametrize("metric", metrics.METRICS)
def test_scores_are_those_of_the_authors_program(reference, metric: str, iteration: int) -> None:
    """SNIP and GraSP are the dense network's, so that only SynFlow's depend on the iteration."""
    process, policy = Panning(reference.model, reference.batches, 0.9, steps=10), staged_policy()
    for _ in range(iteration):
        process.step(policy(process.state(None)))
    mask = process.mask if metric == "synflow" else None
    scores = getattr(metrics, metric)(reference.model, mask, reference.batches[0])
    expected = torch.from_numpy(reference.data[f"score:{metric}:{iteration}"])
    torch.testing.assert_close(normalise(scores), expected, rtol=1e-4, atol=1e-4)


# --- the definitions -----------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 200.0])
def test_snip_is_the_weight_times_the_slope_of_the_loss(
    network, batches, some_mask, masked: bool, temperature: float
) -> None:
    model, theta, batch = double(network, batches[0])
    mask = some_mask(len(theta)) if masked else None
    at = theta * mask if masked else theta
    slope = finite_differences(loss_of(model, batch, temperature), at)
    scores = metrics.snip(model, mask, batch, temperature)
    torch.testing.assert_close(scores, theta * slope, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("masked", [False, True])
def test_grasp_is_twice_the_weight_times_hessian_times_gradient(
    network, batches, some_mask, masked: bool
) -> None:
    """With a mask, the flow ΔL is that of the kept weights, so g is masked and H is not."""
    model, theta, batch = double(network, batches[0])
    mask = some_mask(len(theta)) if masked else None
    at = theta * mask if masked else theta
    loss = loss_of(model, batch)
    gradient = torch.autograd.functional.jacobian(loss, at)
    hessian = torch.autograd.functional.hessian(loss, at)
    product = hessian @ (gradient * mask if masked else gradient)
    scores = metrics.grasp(model, mask, batch)
    torch.testing.assert_close(scores, 2 * theta * product, rtol=1e-6, atol=1e-14)
    assert scores.abs().max() > 1e-9


def test_shrinking_a_weight_of_large_positive_grasp_lowers_the_gradient_flow(
    network, batches
) -> None:
    """The sign that everybody asks about: removing the weight changes ΔL by -s to first order."""
    model, theta, batch = double(network, batches[0])
    loss, scores = loss_of(model, batch), metrics.grasp(model, None, batch)

    def flow(at: Tensor) -> Tensor:
        return torch.autograd.functional.jacobian(loss, at).square().sum()

    for index, sign in ((scores.argmax(), -1), (scores.argmin(), 1)):
        smaller = theta.clone()
        smaller[index] *= 1 - 1e-4
        change = (flow(smaller) - flow(theta)) / 1e-4
        assert change.sign() == sign
        torch.testing.assert_close(change, -scores[index], rtol=1e-2, atol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_synflow_is_the_weight_times_the_slope_of_the_path_norm(
    network, batches, some_mask, masked: bool
) -> None:
    model, theta, batch = double(network, batches[0])
    mask = some_mask(len(theta)) if masked else None
    at = theta.abs() * mask if masked else theta.abs()
    slope = finite_differences(path_norm_of(model, batch), at)
    scores = metrics.synflow(model, mask, batch)
    torch.testing.assert_close(scores, theta * slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_weights_that_were_found_need_not_be_found_again(
    cnn, batches, some_mask, monkeypatch, metric: str
) -> None:
    """And may be a part of them: the others stay whole."""
    score = getattr(metrics, metric)
    weights = prunable(cnn, ["4"])
    mask = some_mask(flatten(weights).numel())
    found = score(cnn, mask, batches[0], weights=weights)
    everything = torch.ones(131, dtype=torch.bool)
    parts = unflatten(everything, prunable(cnn))
    for name, part in unflatten(mask, weights).items():
        parts[name].copy_(part)
    if metric != "grasp":  # whose flow ΔL is that of the weights that are counted
        whole = unflatten(score(cnn, everything, batches[0]), prunable(cnn))
        torch.testing.assert_close(found, flatten([whole[name] for name in weights]))
    monkeypatch.setattr(metrics, "prunable", None)
    assert torch.equal(score(cnn, mask, batches[0], weights=weights), found)


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_a_removed_weight_still_has_a_score(network, batches, some_mask, metric: str) -> None:
    """Or it could never return."""
    mask = some_mask(flatten(prunable(network)).numel())
    scores = getattr(metrics, metric)(network, mask, batches[0])
    assert scores[~mask].count_nonzero() > 0.3 * len(scores[~mask])


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_without_a_mask_every_weight_is_kept(network, batches, metric: str) -> None:
    score = getattr(metrics, metric)
    everything = torch.ones(flatten(prunable(network)).numel(), dtype=torch.bool)
    assert torch.equal(score(network, None, batches[0]), score(network, everything, batches[0]))


def test_both_data_driven_metrics_come_from_one_call(network, batches, some_mask) -> None:
    mask = some_mask(flatten(prunable(network)).numel())
    snip, grasp = metrics.snip_and_grasp(network, mask, batches[0])
    torch.testing.assert_close(snip, metrics.snip(network, mask, batches[0]))
    assert torch.equal(grasp, metrics.grasp(network, mask, batches[0]))


def test_loss_and_gradient_are_autograds_own(network, batches) -> None:
    """At temperature 1, as the state of the decision process has them."""
    inputs, targets = batches[0]
    loss, gradients = metrics.loss_and_gradient(network, None, batches[0], temperature=1.0)
    expected = functional.cross_entropy(network.train()(inputs), targets)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for name, weight in prunable(network).items():
        torch.testing.assert_close(gradients[name], weight.grad)


def test_the_squared_gradient_norm_counts_kept_weights_only() -> None:
    gradients = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([3.0])}
    assert metrics.grad_norm_sq(gradients) == 14
    assert metrics.grad_norm_sq(gradients, torch.tensor([True, False, True])) == 10


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_scores_depend_neither_on_the_models_mode_nor_on_dropout(
    busy, batches, metric: str
) -> None:
    score = getattr(metrics, metric)
    plain = type(busy)(rate=0.0)
    plain.load_state_dict(busy.state_dict())
    expected = score(plain.eval(), None, batches[0])
    assert torch.equal(score(busy, None, batches[0]), expected)
    assert torch.equal(score(plain.train(), None, batches[0]), expected)


def test_synflow_looks_at_the_shape_of_the_images_alone(network, batches) -> None:
    one, other = (metrics.synflow(network, None, batch) for batch in batches[:2])
    assert torch.equal(one, other)


# --- conservation, overflow ----------------------------------------------------------------------


def homogeneous(model: nn.Module) -> nn.Module:
    """Without biases, so that the output is linear in each layer's |θ|."""
    for name, tensor in model.state_dict().items():
        if name.endswith(("bias", "running_mean")):
            tensor.zero_()
    return model


@pytest.mark.parametrize("density", [1.0, 0.6, 0.3])
def test_synflow_is_conserved(network, batches, some_mask, density: float) -> None:
    """Tanaka et al. (2020), theorems 1 and 2: through each unit, and so through each layer."""
    model, theta, batch = double(homogeneous(network), batches[0])
    mask = some_mask(len(theta), density)
    total = path_norm_of(model, batch)(theta.abs() * mask)
    scores = metrics.synflow(model, mask, batch).abs() * mask
    layers = list(unflatten(scores, prunable(model)).values())
    assert total > 0
    for layer in layers:
        torch.testing.assert_close(layer.sum(), total)
    for before, after in zip(layers, layers[1:], strict=False):
        incoming = before.flatten(1).sum(1)
        outgoing = after.transpose(0, 1).flatten(1).sum(1)
        torch.testing.assert_close(incoming, outgoing)


def test_synflow_does_not_overflow_where_float32_does() -> None:
    torch.manual_seed(0)
    model = build_model("resnet32", in_channels=3).eval()
    ones = torch.ones(1, 3, 32, 32)
    state = {name: tensor.abs() for name, tensor in model.state_dict().items()}
    assert functional_call(model, state, (ones,)).isinf().any()
    scores = metrics.synflow(model, None, (ones, torch.zeros(1)))
    assert scores.dtype == torch.float64
    assert scores.isfinite().all()
    assert normalise(scores).isfinite().all()


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e-3, 1.0, 1e3, 1e9])
def test_synflow_is_as_good_in_the_precision_it_chooses(network, batches, scale: float) -> None:
    """Each score is that of float64 to float32's precision, at whatever scale."""
    for parameter in network.parameters():
        parameter.data *= scale
    found = metrics.synflow(network, None, batches[0])
    model, _, batch = double(network, batches[0])
    expected = metrics.synflow(model, None, batch)
    assert expected.dtype == torch.float64
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)


def test_synflow_is_in_float32_where_that_is_safe(network, batches) -> None:
    assert metrics.synflow(network, None, batches[0]).dtype == torch.float32
    for parameter in network.parameters():
        parameter.data *= 1e-12
    assert metrics.synflow(network, None, batches[0]).dtype == torch.float64


# --- nothing is disturbed ------------------------------------------------------------------------

CALLS = [
    metrics.loss_and_gradient,
    metrics.snip,
    metrics.grasp,
    metrics.snip_and_grasp,
    metrics.synflow,
]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_a_callers_model_is_left_as_it_was(
    busy, batches, unchanged, some_mask, call, masked: bool
) -> None:
    mask = some_mask(flatten(prunable(busy)).numel()) if masked else None
    with unchanged(busy):
        metrics.absolute_state(busy, torch.float64)
        call(busy, mask, batches[0])


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", ["weights", "images", "shape", "mask"])
def test_a_callers_model_is_left_as_it_was_by_a_call_that_fails(
    busy, batches, unchanged, call, fault: str
) -> None:
    mask, (inputs, targets) = None, batches[0]
    if fault == "weights":
        busy.fc1.weight.data[0, 0] = float("nan")
    if fault == "images":
        inputs = inputs * float("nan")
    if fault == "shape":  # fails in the middle of the network, behind the normalisation
        inputs = inputs[..., :4]
    if fault == "mask":
        mask = torch.ones(3, dtype=torch.bool)
    harmless = call is metrics.synflow and fault == "images"
    with unchanged(busy):
        if harmless:
            call(busy, mask, (inputs, targets))
        else:
            with pytest.raises((ValueError, RuntimeError)):
                call(busy, mask, (inputs, targets))


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_scores_can_be_asked_for_where_gradients_are_off(network, batches, metric: str) -> None:
    score = getattr(metrics, metric)
    expected = score(network, None, batches[0])
    with torch.no_grad():
        scores = score(network, None, batches[0])
    assert torch.equal(scores, expected)
    assert not scores.requires_grad


@pytest.mark.parametrize("metric", ["snip", "grasp"])
@pytest.mark.parametrize(
    ("images", "weights", "guilty"), [(float("nan"), 1.0, "batch"), (1.0, float("inf"), "model")]
)
def test_what_makes_the_loss_meaningless_is_named(
    mlp, batches, metric: str, images: float, weights: float, guilty: str
) -> None:
    inputs, targets = batches[0]
    mlp[1].weight.data[0, 0] *= weights
    with pytest.raises(ValueError, match=f"{guilty}: the scoring loss is nan"):
        getattr(metrics, metric)(mlp, None, (images * inputs, targets))


def test_synflow_says_it_when_only_its_gradient_is_not_finite() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x).sqrt() + x

    model = nn.Sequential(nn.Linear(3, 3), Root(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="its gradient is not finite in float64"):
        metrics.synflow(model, None, (torch.ones(1, 3), torch.zeros(1)))
