"""What is seen of a sparse network before training, and may foretell how well it trains."""

import copy
from collections.abc import Mapping, Sequence
from itertools import cycle, islice

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn import functional

from .metrics import Batch, mode_of


def _sparse_state(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters and buffers of the masked network, detached."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {name: tensor.detach() for name, tensor in state.items()}
    return state | {name: state[name] * mask for name, mask in masks.items()}


def jacobian_singular_values(
    model: nn.Module, masks: Mapping[str, Tensor], inputs: Tensor
) -> Tensor:
    """The singular values of the input-output Jacobian, (images, classes), largest first.

    Of the sparse network in eval mode. Dynamical isometry would have them all near 1 (Saxe et al.
    2014); Lee et al. (2020) tie them to how well a sparse network trains.

    Args:
        model: The network; it is not changed.
        masks: {parameter name: bool tensor}.
        inputs: (images, channels, height, width).
    """
    state = _sparse_state(model, masks)

    def logits(image: Tensor) -> Tensor:
        return functional_call(model, state, (image[None],))[0]

    with mode_of(model, training=False):
        jacobians = vmap(jacrev(logits), chunk_size=20)(inputs)
    return torch.linalg.svdvals(jacobians.flatten(2))


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
    sooner the network leaves its plateau. What it costs is what it is: `steps` training steps.

    Args:
        model: The network; a copy is trained.
        masks: {parameter name: bool tensor}.
        batches: The scoring batches, cycled.
        steps: Of SGD.
        learning_rate: Of SGD.
    """
    trained = copy.deepcopy(model)
    weights = {name: trained.get_parameter(name) for name in masks}
    with torch.no_grad():
        for name, weight in weights.items():
            weight.mul_(masks[name])
    optimiser = torch.optim.SGD(trained.parameters(), learning_rate, momentum=0.9, fused=True)
    pruned = [weight.detach() for weight in weights.values()]
    kept = [mask.to(weight) for mask, weight in zip(masks.values(), pruned, strict=True)]
    with mode_of(trained, training=True):
        for inputs, targets in islice(cycle(batches), steps):
            optimiser.zero_grad()
            functional.cross_entropy(trained(inputs), targets).backward()
            optimiser.step()
            with torch.no_grad():
                torch._foreach_mul_(pruned, kept)
        with torch.no_grad():
            losses = [functional.cross_entropy(trained(x), y) for x, y in batches]
    return float(torch.stack(losses).mean())
