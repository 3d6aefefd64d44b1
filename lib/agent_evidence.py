"""Claim B as statements: what agents learn, what their reward says, and whether they transfer."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from .inference import RESAMPLES, bootstrap_p, spearman
from .plotting import percent
from .statements import Statement, crossed_statement

HEADLINE_TRANSFERS = {("return", "best constant"), ("accuracy", "hand-made")}
AXES = {
    "none": "with nothing changed",
    "images": "with fewer images",
    "scale": "on other widths",
    "network": "on {}",  # each network is a change of its own: a mean over two says little
    "data": "on another data set",
}


def learning(gaps: pd.DataFrame, confidence: float) -> list[Statement]:
    """Whether agents pass the best constant policy, for each way to train them.

    Args:
        gaps: `analysis.learning_gaps`.
        confidence: Level of the interval.
    """
    rows = []
    for name, part in gaps.groupby("settings", sort=False):
        agents = part[part["policy"].str.startswith("agent")]
        agents = agents.rename(columns={"policy": "agent", "seed": "network"})
        text = f"agents ({name}) earn more than the best constant p on unseen networks"
        headline = agents["agent"].nunique() > 2
        row = ("B: the agent learns", text, agents, "gap", "reward", confidence, headline)
        rows.append(crossed_statement(*row))
    return rows


def reward(table: pd.DataFrame, steps: int, confidence: float) -> list[Statement]:
    """Whether the reward ranks networks as their accuracy does; bootstrap over policies.

    Each sparsity has its statements: two strong correlations of different sign would have a mean
    that says there is none.

    Args:
        table: Rows of `studies.judge` for many policies.
        steps: Of the trial training whose loss is the rival of the reward.
        confidence: Level of the interval.
    """
    return [
        row
        for rho, part in table.groupby("sparsity")
        for row in _reward_at(part, f"at {percent(rho)}", steps, confidence)
    ]


def _reward_at(
    table: pd.DataFrame, where: str, steps: int, confidence: float
) -> Iterator[Statement]:
    """`reward` at one sparsity, which `where` names; the mean over networks."""
    wide = table.pivot(index="policy", columns="seed")
    networks = table["seed"].nunique()

    def correlation(rows: np.ndarray, quantity: str, sign: int) -> float:
        first, second = (wide[column].to_numpy()[rows].T for column in (quantity, "accuracy"))
        return float(np.mean([spearman(sign * x, y) for x, y in zip(first, second, strict=True)]))

    drawn = np.random.default_rng(0).integers(len(wide), size=(RESAMPLES, len(wide)))
    found = [  # the whole sample first, then the resampled ones
        np.array([correlation(rows, *what) for rows in (np.arange(len(wide)), *drawn)])
        for what in (("return", 1), (f"loss_after_{steps}", -1))
    ]
    texts = {
        "policies with a higher return make networks that train better": found[0],
        f"networks with a lower loss after {steps} steps of a trial train better": found[1],
        "the trial ranks networks better than the return does": found[1] - found[0],
    }
    for text, (value, *resampled) in texts.items():
        low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
        numbers = {"difference": value, "low": low, "high": high, "unit": "rank correlation"}
        row = {"claim": "B: the reward says what we want", "statement": f"{text} {where}"}
        row |= numbers | {
            "n": len(wide),
            "of": f"policies, {networks} network" + "s" * (networks > 1),
        }
        yield row | {"p": bootstrap_p(np.array(resampled)), "headline": True}


def claim_b(gaps: pd.DataFrame, axis_of: Mapping[str, str], confidence: float) -> list[Statement]:
    """Whether unchanged agents stay above their opponents, on each kind of change.

    Args:
        gaps: `analysis.transfer_gaps`.
        axis_of: {target: the kind of change}.
        confidence: Level of the interval.
    """
    claim = "B: withstands changes"
    # A seed is one initialisation on all targets of an axis: its luck there is shared, not drawn
    # anew. So that the unit is the seed, over whose targets the gaps are averaged.
    where_of = {target: AXES[axis].format(target) for target, axis in axis_of.items()}
    gaps = gaps.assign(where=gaps["target"].map(where_of), network=gaps["seed"])
    own, rows = gaps[gaps["kind"] == "agent"], []
    measured = {"return": ("earn more", "reward"), "accuracy": ("make better networks", "points")}
    for where in dict.fromkeys(where_of.values()):
        for value, (verb, unit) in measured.items():
            for opponent in ("hand-made", "best constant", "SynFlow alone", "random"):
                part = own[(own["where"] == where) & (own["opponent"] == opponent)]
                if part.empty:
                    continue
                text = f"the unchanged agents {verb} than {opponent} {where}"
                headline = (value, opponent) in HEADLINE_TRANSFERS
                rows.append(crossed_statement(claim, text, part, value, unit, confidence, headline))
    natives = own[own["opponent"] == "native agent"]
    for target in (name for name in axis_of if name in set(natives["target"])):
        part = natives[natives["target"] == target]
        for value, (verb, unit) in measured.items():
            text = f"the unchanged agents {verb} than one trained there ({target})"
            rows.append(crossed_statement(claim, text, part, value, unit, confidence, True))
    # The same opponent under both kinds of agents: what is left is the kinds' difference, here on
    # these networks, which both kinds pruned.
    mean = gaps[gaps["opponent"] == "hand-made"].groupby(["kind", "agent"])["accuracy"].mean()
    several = mean.groupby("kind").size() > 1  # one agent has no spread to test by
    if {"agent", "trainability"} <= set(several[several].index):
        test = stats.ttest_ind(mean["trainability"], mean["agent"], equal_var=False)
        low, high = test.confidence_interval(confidence)
        value = mean["trainability"].mean() - mean["agent"].mean()
        counts = len(mean["trainability"]), len(mean["agent"])
        text = "agents rewarded for trainability make better networks than the paper's, all targets"
        numbers = {"difference": value, "low": low, "high": high, "unit": "points"}
        row = {"claim": "B: a better reward", "statement": text, **numbers, "n": counts[0]}
        row |= {"of": f"agents against {counts[1]}", "p": float(test.pvalue), "headline": True}
        rows.append(row)
    return rows
