"""Panning written plainly: what `lib` is measured against, and must agree with.

Every iteration runs a double backward pass on its batch and sorts all scores; every step of the
environment prunes a deep copy of the network. The formulas are those of `lib`; the memory layout is
PyTorch's default.
"""

import copy
from collections.abc import Callable, Sequence

import gymnasium
import numpy as np
import torch
from stable_baselines3 import TD3
from torch import Tensor, nn
from torch.nn import functional

from lib.masks import kept_count
from lib.metrics import Batch
from lib.networks.inspection import flatten, prunable, unflatten
from lib.policies import targets


def set_weights(model: nn.Module, values: dict[str, Tensor]) -> dict[str, nn.Parameter]:
    """Overwrite the prunable weights."""
    weights = prunable(model)
    for name, weight in weights.items():
        weight.data = values[name].clone()
    return weights


def z(scores: Tensor) -> Tensor:
    """|s - mean| / std, in float32."""
    scores = scores.double()
    return ((scores - scores.mean()).abs() / scores.std()).float()


def snip_and_grasp(model: nn.Module, batch: Batch, temperature: float = 200.0) -> list[Tensor]:
    """The scores of the dense network."""
    model = copy.deepcopy(model).train()
    weights = list(prunable(model).values())
    loss = functional.cross_entropy(model(batch[0]) / temperature, batch[1])
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    flow = torch.autograd.grad(sum(g.square().sum() for g in gradients), weights)
    theta = flatten(weights).detach()
    return [theta * flatten(gradients).detach(), theta * flatten(flow)]


def synflow(model: nn.Module, mask: Tensor, shape: torch.Size) -> Tensor:
    """The scores of the masked network, in float64."""
    theta = flatten(prunable(model)).detach().double()
    model = copy.deepcopy(model).double().eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.abs()
    weights = prunable(model)
    set_weights(model, unflatten(flatten(weights).detach() * mask, weights))
    total = model(torch.ones(1, *shape[1:], dtype=torch.float64)).sum()
    return theta * flatten(torch.autograd.grad(total, list(weights.values())))


def snip_of_masked(
    model: nn.Module, mask: Tensor, batch: Batch, temperature: float = 200.0
) -> Tensor:
    """SNIP's scores, the gradients being those of the masked network."""
    theta = flatten(prunable(model)).detach()
    model = copy.deepcopy(model).train()
    weights = prunable(model)
    weights = set_weights(model, unflatten(theta * mask, weights))
    loss = functional.cross_entropy(model(batch[0]) / temperature, batch[1])
    return theta * flatten(torch.autograd.grad(loss, list(weights.values())))


def masked_product(
    model: nn.Module, mask: Tensor, batch: Batch, target: float, returns: bool
) -> Tensor:
    """One iteration of `panning_masked`, ours: Z(SynFlow) times the root of masked Z(SNIP)."""
    scores = z(synflow(model, mask, batch[0].shape)) * z(snip_of_masked(model, mask, batch)).sqrt()
    if not returns:
        scores[~mask] = -torch.inf
    kept = torch.topk(scores, kept_count(len(mask), target)).indices
    return torch.zeros_like(mask).index_fill(0, kept, True)


def iteration(
    model: nn.Module, mask: Tensor, batch: Batch, p: Sequence[float], target: float
) -> Tensor:
    """One iteration of the loop: the next mask, (N,) bool."""
    scores = torch.zeros(len(mask))
    if p[0]:
        scores = scores + p[0] * z(synflow(model, mask, batch[0].shape))
    if p[1] or p[2]:
        for weight, metric in zip(p[1:], snip_and_grasp(model, batch), strict=True):
            scores = scores + weight * z(metric)
    kept = torch.topk(scores, kept_count(len(mask), target)).indices
    return torch.zeros_like(mask).index_fill(0, kept, True)


def pan(
    model: nn.Module,
    batches: Sequence[Batch],
    sparsity: float,
    steps: int,
    policy: Callable[[np.ndarray], Sequence[float]],
) -> Tensor:
    """The whole loop; the policy sees only the next target. (N,) bool."""
    mask = torch.ones(sum(w.numel() for w in prunable(model).values()), dtype=torch.bool)
    for t, target in enumerate(targets(sparsity, steps, "exponential")):
        state = np.array([np.nan] * 4 + [target, np.nan, np.nan])
        mask = iteration(model, mask, batches[t % len(batches)], policy(state), target)
    return mask


def pan_masked(
    model: nn.Module, batches: Sequence[Batch], sparsity: float, steps: int = 14
) -> Tensor:
    """The whole loop of `panning_masked`: weights return in the first half. (N,) bool."""
    mask = torch.ones(sum(w.numel() for w in prunable(model).values()), dtype=torch.bool)
    for t, target in enumerate(targets(sparsity, steps, "exponential")):
        batch = batches[t % len(batches)]
        mask = masked_product(model, mask, batch, target, returns=t < steps // 2)
    return mask


def observe(model: nn.Module, mask: Tensor, batch: Batch) -> tuple[float, float]:
    """(L, ΔL) of the masked network at temperature 1."""
    model = copy.deepcopy(model).train()
    weights = prunable(model)
    weights = set_weights(model, unflatten(flatten(weights).detach() * mask, weights))
    loss = functional.cross_entropy(model(batch[0]), batch[1])
    gradients = torch.autograd.grad(loss, list(weights.values()))
    return loss.item(), (flatten(gradients) * mask).square().sum().item()


def environment_step(
    model: nn.Module, mask: Tensor, batch: Batch, p: Sequence[float], target: float
) -> tuple[Tensor, tuple[float, float], tuple[float, float]]:
    """An iteration, and (L, ΔL) of the dense and of the sparse network, for state and reward."""
    after = iteration(model, mask, batch, p, target)
    return after, observe(model, torch.ones_like(mask), batch), observe(model, after, batch)


class PlainEnv(gymnasium.Env):
    """As much of an environment as TD3 needs: a state of 7 numbers, an action of 3, a reward."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (7,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)

    def __init__(self, model: nn.Module, batches: Sequence[Batch], sparsity: float, steps: int):
        self.model, self.batches = model, batches
        self.targets = targets(sparsity, steps, "exponential")

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        """Start again from the dense network."""
        super().reset(seed=seed)
        self.t, total = 0, sum(w.numel() for w in prunable(self.model).values())
        self.mask = torch.ones(total, dtype=torch.bool)
        return np.zeros(7), {}

    def step(self, action: np.ndarray) -> tuple:
        """One iteration, and a reward of the losses alone."""
        batch, target = self.batches[self.t % len(self.batches)], self.targets[self.t]
        p = (action.astype(float) + 1) / 2
        self.mask, dense, sparse = environment_step(self.model, self.mask, batch, p, target)
        self.t += 1
        state = np.array([*dense, *sparse, target, self.mask.float().mean(), self.t])
        gap = -abs(dense[0] - sparse[0]) - abs(dense[1] - sparse[1])
        return state, gap, self.t == len(self.targets), False, {}


def train(env: gymnasium.Env, seed: int, steps: int, hidden: Sequence[int], **td3: float) -> None:
    """TD3 of stable-baselines3; `td3` holds its own settings."""
    layers = {"net_arch": list(hidden)}
    TD3(
        "MlpPolicy", env, buffer_size=steps, policy_kwargs=layers, seed=seed, device="cpu", **td3
    ).learn(steps)
