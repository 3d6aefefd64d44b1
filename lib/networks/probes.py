"""What can be measured on a sparse network before training and may predict how well it trains."""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.nn import functional

from .inspection import Batch, call, copy_of, mode_of, plainly

BatchNorm = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def _sparse(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy whose removed weights are 0."""
    sparse = copy_of(model)
    for name, mask in masks.items():
        sparse.get_parameter(name).mul_(mask)
    return sparse


@torch.no_grad()
def _normalised_by(model: nn.Module, inputs: Tensor) -> nn.Module:
    """The model, its running statistics set to those of one batch."""
    with mode_of(model, training=True):
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.momentum = 1.0
        model(inputs.clone())
    return model


def jacobian_singular_values(
    model: nn.Module, masks: Mapping[str, Tensor], inputs: Tensor
) -> Tensor:
    """The singular values of the input-output Jacobian, (images, classes), largest first.

    The sparse network normalises by the statistics of `inputs`, held fixed, since the buffers of a
    fresh network hold no statistics of any data. Under dynamical isometry all singular values are
    near 1 (Saxe et al. 2014); Lee et al. (2020) relate them to how well a sparse network trains.

    Args:
        model: The network; it is not changed.
        masks: {parameter name: bool tensor}.
        inputs: (images, channels, height, width).
    """
    sparse = _normalised_by(_sparse(model, masks), inputs)
    state = {name: tensor.detach() for name, tensor in sparse.state_dict().items()}

    def logits(image: Tensor) -> Tensor:
        return call(sparse, state, image[None])[0]

    with mode_of(sparse, training=False):
        jacobians = vmap(jacrev(logits), chunk_size=20)(inputs)
    return torch.linalg.svdvals(jacobians.flatten(2))


def some_of(inputs: Tensor) -> Tensor:
    """A hundred images or so of a batch: a Jacobian is large if there are many."""
    return inputs[:: max(1, len(inputs) // 100)]


@plainly()
@torch.enable_grad()
def ntk_trace(
    model: nn.Module, masks: Mapping[str, Tensor], inputs: Tensor, draws: int = 20
) -> float:
    """The trace of the empirical neural tangent kernel per image, Σ ‖∂f_c/∂θ‖² over classes c.

    Over kept weights alone, other parameters left out. The sum is estimated without bias by random
    signs (Hutchinson 1990): E‖∂(Σ ε f)/∂θ‖² = Σ ‖∂f/∂θ‖². The sparse network normalises by the
    statistics of `inputs`, held fixed, so that images do not see each other.

    Args:
        model: The network; it is not changed.
        masks: {parameter name: bool tensor}.
        inputs: (images, channels, height, width).
        draws: Of signs for all logits; always the same ones.
    """
    sparse = _normalised_by(_sparse(model, masks), inputs)
    kept = {name: sparse.get_parameter(name) for name in masks}
    generator, found = torch.Generator().manual_seed(0), []
    with mode_of(sparse, training=False):
        logits = sparse(inputs.clone())
        for _ in range(draws):
            signs = torch.randint(2, logits.shape, generator=generator) * 2.0 - 1
            total = (logits * signs.to(logits)).sum()
            every = torch.autograd.grad(
                total, list(kept.values()), retain_graph=True, materialize_grads=True
            )
            pairs = zip(every, masks.values(), strict=True)
            found.append(sum((gradient * mask).square().sum().item() for gradient, mask in pairs))
    return sum(found) / draws / len(inputs)


@plainly()
@torch.enable_grad()
def trial(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    batches: Sequence[Batch],
    stops: Sequence[int],
    looked_at: Sequence[Sequence[Batch]],
    learning_rate: float = 0.1,
) -> list[list[float]]:
    """The loss of the sparse network along a short training on the scoring batches alone.

    SGD with momentum 0.9.

    Args:
        model: The network; a copy is trained.
        masks: {parameter name: bool tensor}.
        batches: The scoring batches, cycled.
        stops: Numbers of steps after which to look, rising.
        looked_at: The sets of batches to look at.
        learning_rate: Of SGD.

    Returns:
        For each stop, and each set of batches: their mean loss in nats, at temperature 1.
    """
    trained = _sparse(model, masks)
    weights = {name: trained.get_parameter(name) for name in masks}
    optimiser = torch.optim.SGD(trained.parameters(), learning_rate, momentum=0.9, fused=True)
    pruned = [weight.detach() for weight in weights.values()]
    kept = [mask.to(weight) for mask, weight in zip(masks.values(), pruned, strict=True)]
    supply, found = cycle(batches), []
    with mode_of(trained, training=True):
        for done, stop in zip((0, *stops), stops, strict=False):
            for inputs, targets in islice(supply, stop - done):
                optimiser.zero_grad()
                functional.cross_entropy(trained(inputs.clone()), targets).backward()
                optimiser.step()
                with torch.no_grad():
                    torch._foreach_mul_(pruned, kept)
            with torch.no_grad():
                found.append([_mean_loss(trained, some) for some in looked_at])
    return found


def _mean_loss(model: nn.Module, batches: Sequence[Batch]) -> float:
    losses = [functional.cross_entropy(model(x.clone()), y) for x, y in batches]
    return float(torch.stack(losses).mean())


def trainability(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    batches: Sequence[Batch],
    steps: int,
    learning_rate: float = 0.1,
) -> float:
    """The loss of the sparse network after some steps of SGD on the scoring batches alone.

    Mean over the scoring batches, see `trial`. The lower, the sooner the network leaves its
    plateau.

    Args:
        model: The network; a copy is trained.
        masks: {parameter name: bool tensor}.
        batches: The scoring batches, cycled.
        steps: Of SGD.
        learning_rate: Of SGD.
    """
    return trial(model, masks, batches, [steps], [batches], learning_rate)[0][0]
