"""The range of 𝒩, by which a network's losses become a state between 0 and 1."""

import copy
from collections.abc import Iterable

from .bank import Extremes, Observation
from .panning import Panning
from .policies import constant_policy, random_policy, staged_policy


def calibrate(
    panning: Panning, sparsities: Iterable[float], steps: int = 20, seed: int = 0
) -> Extremes:
    """The range of 𝒩 for one network: dense values, and a few fixed roll-outs.

    SynFlow, the hand-made and a random policy run at each of `sparsities` (the ends of the range),
    in at most `steps` iterations each, since the range covered does not depend on how finely.
    `panning` gives the network and the batches; it is not advanced.
    """
    rehearsal = copy.copy(panning)  # shares the score bank, and with it the dense scores
    rehearsal.steps = min(panning.steps, steps)
    seen = [
        Observation(*panning.bank.observe(i, None) * 2) for i in range(len(panning.bank.batches))
    ]
    for rho in sparsities:
        for policy in (constant_policy((1, 0, 0)), staged_policy(), random_policy(seed)):
            rehearsal.reset(rho)
            while not rehearsal.done:
                rehearsal.step(policy(rehearsal.state(None)))
                seen.append(rehearsal.observe())
    losses = [value for o in seen for value in (o.loss, o.loss_sparse)]
    norms = [value for o in seen for value in (o.grad_norm_sq, o.grad_norm_sq_sparse)]
    return Extremes((min(losses), max(losses)), (min(norms), max(norms)))
