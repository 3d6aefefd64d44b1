"""What a handful of seeds can say: paired differences, their intervals and p-values, ranks."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats


def interval(values: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """Mean and the ends of its Student-t confidence interval; NaN ends for a single value.

    With three seeds the interval is wide (4.3 standard errors at 95 %), and it should be.
    """
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, math.nan, math.nan
    if _alike(values):
        return mean, mean, mean
    low, high = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    return mean, float(low), float(high)


def _alike(values: np.ndarray) -> bool:
    """Whether values differ by rounding at most: scipy would divide by that, or warn."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def p_value(differences: Sequence[float]) -> float:
    """Two-sided p of a t-test against 0; 1 if there is nothing to test, or all values are 0."""
    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        return 1.0
    if _alike(values):
        return 1.0 if values[0] == 0 else 0.0
    return float(stats.ttest_1samp(values, 0).pvalue)


def summary(table: pd.DataFrame, by: Sequence[str], value: str, confidence: float) -> pd.DataFrame:
    """Mean, low and high of `value` over the seeds of each group, and their number n."""
    rows = []
    for key, group in table.groupby(list(by), sort=True):
        mean, low, high = interval(group[value], confidence)
        count = {"mean": mean, "low": low, "high": high, "n": len(group)}
        rows.append(dict(zip(by, key, strict=True)) | count)
    return pd.DataFrame(rows)


def paired(
    table: pd.DataFrame,
    column: str,
    first: str,
    second: str,
    by: Sequence[str],
    value: str,
    confidence: float,
) -> pd.DataFrame:
    """The difference first - second of `value`, paired by seed, with its interval, in each group.

    Pairing removes what the two share: initialisation, data order and scoring batches.
    """
    index = [*by, "seed"]
    wide = table[table[column].isin([first, second])].pivot(
        index=index, columns=column, values=value
    )
    difference = (wide[first] - wide[second]).dropna().rename("difference").reset_index()
    return summary(difference, by, "difference", confidence)


def crossed(
    table: pd.DataFrame, value: str, confidence: float
) -> tuple[float, float, float, float]:
    """Mean of a value that every agent has on every network, its interval and two-sided p.

    All agents are compared on the same few networks, whose luck they share: an interval over agents
    alone would hold for these networks only. Both are drawn at random, so the variance of the
    mean is that of the agents' means plus that of the networks' (a little too large: the part that
    belongs to the pair is counted twice). Student's t, with the degrees of freedom that
    Satterthwaite (1946) gives the sum of two estimated variances.

    A single agent or network says nothing about others: the ends are then NaN, and p is 1.

    Args:
        table: agent, network and `value`, one row per pair.
        value: A column.
        confidence: Level of the interval.
    """
    wide = table.pivot_table(index="agent", columns="network", values=value).to_numpy()
    mean = float(wide.mean())
    if min(wide.shape) < 2:
        return mean, math.nan, math.nan, 1.0
    squares = np.array([wide.mean(axis=other).var(ddof=1) for other in (1, 0)]) / wide.shape
    if squares.sum() == 0:
        return mean, mean, mean, float(mean == 0)
    freedom = squares.sum() ** 2 / (squares**2 / (np.array(wide.shape) - 1)).sum()
    error = np.sqrt(squares.sum())
    low, high = stats.t.interval(confidence, freedom, mean, error)
    return mean, float(low), float(high), float(2 * stats.t.sf(abs(mean) / error, freedom))


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values corrected for their number (Holm 1979)."""
    p = np.asarray(p, dtype=float)
    order = p.argsort(kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(stepped, 1)
    return out


def bootstrap_p(resampled: np.ndarray) -> float:
    """Two-sided p that a bootstrapped statistic is 0; never below what their number resolves."""
    beyond = min((resampled <= 0).sum(), (resampled >= 0).sum())
    return float(min(1, 2 * (1 + beyond) / (1 + len(resampled))))


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's ρ; 0 if one side is constant and so has no ranks, NaN if one holds NaN."""
    if np.isnan(first).any() or np.isnan(second).any():
        return math.nan
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(stats.spearmanr(first, second).statistic)


def rank_correlation(
    table: pd.DataFrame, within: Sequence[str], first: str, second: str
) -> tuple[float, float, int]:
    """Spearman's ρ of two columns within groups: its mean, its smallest, the number of groups.

    Within groups, since a better network at a lower sparsity says nothing about what chose its
    weights. A constant column has no ranks and counts as 0.
    """
    groups = table.groupby(list(within))
    found = [spearman(group[first], group[second]) for _, group in groups]
    return float(np.mean(found)), float(np.min(found)), len(found)
