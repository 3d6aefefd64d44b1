"""What a handful of seeds can say: intervals by bootstrap, interquartile means, wins and ranks.

Student's t (`results.interval`) decides verdicts: with five seeds a percentile bootstrap is too
narrow. The bootstrap draws bands, and serves statistics that t knows nothing of.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from .results import paired

RESAMPLES = 2000


def bootstrap(
    values: Sequence[float],
    confidence: float,
    statistic: Callable[..., np.ndarray] = np.mean,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A statistic and the ends of its percentile bootstrap interval; NaN ends for a single value.

    Args:
        values: One for each unit of replication.
        confidence: Level of the interval.
        statistic: Takes an array and an `axis`.
        seed: Of the resampling.
    """
    values = np.asarray(values, dtype=float)
    found = float(statistic(values, axis=-1))
    if len(values) < 2:
        return found, np.nan, np.nan
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(
        statistic(values[drawn], axis=-1), [(1 - confidence) / 2, (1 + confidence) / 2]
    )
    return found, float(low), float(high)


def iqm(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The interquartile mean: what is left after the best and the worst quarter are dropped."""
    return stats.trim_mean(values, 0.25, axis=axis)


def iqm_over_tasks(
    table: pd.DataFrame, tasks: Sequence[str], value: str, confidence: float, seed: int = 0
) -> tuple[float, float, float]:
    """The interquartile mean over all runs of all tasks, and its bootstrap interval over seeds.

    Agarwal et al. (2021); a run is a row, and every task has the same seeds. They resample seeds
    within each task; a seed here is one initialisation in all tasks, so that one draw serves all.
    """
    wide = table.pivot(index=list(tasks), columns="seed", values=value).to_numpy()
    drawn = np.random.default_rng(seed).integers(wide.shape[1], size=(RESAMPLES, wide.shape[1]))
    resampled = wide[:, drawn].swapaxes(0, 1).reshape(RESAMPLES, -1)
    low, high = np.quantile(iqm(resampled), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(iqm(wide.reshape(-1))), float(low), float(high)


def wins(
    table: pd.DataFrame, first: str, tasks: Sequence[str], value: str, confidence: float
) -> pd.DataFrame:
    """How often the method `first` is above, level with or below each other one, task by task.

    A task is won where the whole paired t-interval of the difference is above 0. Also the mean
    rank of each method over the tasks, 1 the best, equal values sharing theirs.
    """
    mean = table.groupby(["method", *tasks])[value].mean().unstack("method")
    rank = mean.rank(axis=1, ascending=False).mean()
    rows = [{"method": first, "mean_rank": rank[first]}]
    for method in mean.columns.drop(first):
        gap = paired(table, "method", first, method, tasks, value, confidence)
        won, lost = int((gap["low"] > 0).sum()), int((gap["high"] < 0).sum())
        row = {"method": method, "wins": won, "ties": len(gap) - won - lost, "losses": lost}
        rows.append(row | {"mean_gain": gap["mean"].mean(), "mean_rank": rank[method]})
    return pd.DataFrame(rows).sort_values("mean_rank", kind="stable").reset_index(drop=True)


def critical_difference(methods: int, tasks: int, confidence: float) -> float:
    """Mean ranks further apart than this differ (Nemenyi's test; Demšar 2006, equation in §3.2.2).

    It takes tasks for independent, which sparsities of one network are not: a guide, no proof.
    """
    q = stats.studentized_range.ppf(confidence, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * tasks)))


def p_value(differences: Sequence[float]) -> float:
    """Two-sided p of a t-test against 0; 1 where there is nothing to test, or no spread at 0."""
    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        return 1.0
    if values.std(ddof=1) == 0:
        return 1.0 if values.mean() == 0 else 0.0
    return float(stats.ttest_1samp(values, 0).pvalue)


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values corrected for their number (Holm 1979)."""
    p = np.asarray(p, dtype=float)
    order = p.argsort(kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(stepped, 1)
    return out


def crossed(
    table: pd.DataFrame, value: str, confidence: float
) -> tuple[float, float, float, float]:
    """Mean of a value that every agent has on every network, its interval and two-sided p.

    All agents are compared on the same few networks, whose luck they share: an interval over agents
    alone would speak of these very networks. Both are drawn at random, so that the variance of the
    mean is that of the agents' means plus that of the networks' (a little too large: the part that
    belongs to the pair is counted twice). Student's t, with the degrees of freedom that
    Satterthwaite (1946) gives the sum of two estimated variances.

    A single agent, or a single network, says nothing of others: the ends are NaN then, and p is 1.

    Args:
        table: agent, network and `value`, a row each.
        value: A column.
        confidence: Level of the interval.
    """
    wide = table.pivot_table(index="agent", columns="network", values=value).to_numpy()
    mean = float(wide.mean())
    if min(wide.shape) < 2:
        return mean, np.nan, np.nan, 1.0
    squares = np.array([wide.mean(axis=other).var(ddof=1) for other in (1, 0)]) / wide.shape
    if squares.sum() == 0:
        return mean, mean, mean, float(mean == 0)
    freedom = squares.sum() ** 2 / (squares**2 / (np.array(wide.shape) - 1)).sum()
    error = np.sqrt(squares.sum())
    low, high = stats.t.interval(confidence, freedom, mean, error)
    return mean, float(low), float(high), float(2 * stats.t.sf(abs(mean) / error, freedom))


def bootstrap_p(resampled: np.ndarray) -> float:
    """Two-sided p that a bootstrapped statistic is 0; never below what its number can tell."""
    beyond = min((resampled <= 0).sum(), (resampled >= 0).sum())
    return float(min(1, 2 * (1 + beyond) / (1 + len(resampled))))


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's ρ; 0 where one side is constant and has no ranks, NaN where one holds NaN."""
    if np.isnan(first).any() or np.isnan(second).any():
        return float("nan")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(stats.spearmanr(first, second).statistic)


def rank_correlation(
    table: pd.DataFrame, within: Sequence[str], first: str, second: str
) -> tuple[float, float, int]:
    """Spearman's ρ of two columns within groups: its mean, its smallest, the number of groups.

    Within, since a better network at a lower sparsity says nothing of what chose its weights. A
    constant column has no ranks and counts as 0.
    """
    groups = table.groupby(list(within))
    found = [spearman(group[first], group[second]) for _, group in groups]
    return float(np.mean(found)), float(np.min(found)), len(found)
