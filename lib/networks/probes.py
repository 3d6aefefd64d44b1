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


@plainly()
@torch.enable_grad()
def trainability(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    batches: Sequence[Batch],
    steps: int,
    learning_rate: float = 0.1,
) -> float:
    """The loss of the sparse network after some steps of SGD on the scoring batches alone.

    Mean over the scoring batches, in nats, at temperature 1; SGD with momentum 0.9. The lower, the
    sooner the network leaves its plateau.

    Args:
        model: The network; a copy is trained.
        masks: {parameter name: bool tensor}.
        batches: The scoring batches, cycled.
        steps: Of SGD.
        learning_rate: Of SGD.
    """
    trained = _sparse(model, masks)
    weights = {name: trained.get_parameter(name) for name in masks}
    optimiser = torch.optim.SGD(trained.parameters(), learning_rate, momentum=0.9, fused=True)
    pruned = [weight.detach() for weight in weights.values()]
    kept = [mask.to(weight) for mask, weight in zip(masks.values(), pruned, strict=True)]
    with mode_of(trained, training=True):
        for inputs, targets in islice(cycle(batches), steps):
            optimiser.zero_grad()
            functional.cross_entropy(trained(inputs.clone()), targets).backward()
            optimiser.step()
            with torch.no_grad():
                torch._foreach_mul_(pruned, kept)
        with torch.no_grad():
            losses = [functional.cross_entropy(trained(x.clone()), y) for x, y in batches]
    return float(torch.stack(losses).mean())
