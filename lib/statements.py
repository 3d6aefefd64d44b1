"""One statement: a difference that should be positive, its interval and its p-value, as a row.

The differences are one value for each unit of replication, or a table of agents and networks, both
of which are drawn at random.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from .inference import crossed, p_value
from .results import interval

Statement = dict[str, object]


def paired_statement(
    claim: str,
    statement: str,
    differences: Iterable[float],
    unit: str,
    of: str,
    confidence: float,
    headline: bool = False,
) -> Statement:
    """One row: the mean of `differences` over the units `of`; headlines are those README shows."""
    values = np.asarray(list(differences), dtype=float)
    mean, low, high = interval(values, confidence)
    numbers = {"difference": mean, "low": low, "high": high, "unit": unit, "n": len(values)}
    row = {"claim": claim, "statement": statement, **numbers, "of": of, "p": p_value(values)}
    return row | {"headline": headline}


def paired_gap(table: pd.DataFrame, column: str, first: str, second: str) -> pd.Series:
    """First minus second in points of accuracy, a value a seed: the mean over sparsities.

    Over those at which the seed has both, so that like is compared with like.
    """
    wide = table[table[column].isin([first, second])].pivot_table(
        index=["sparsity", "seed"], columns=column, values="accuracy"
    )
    return 100 * (wide[first] - wide[second]).dropna().groupby("seed").mean()


def crossed_statement(
    claim: str,
    statement: str,
    table: pd.DataFrame,
    value: str,
    unit: str,
    confidence: float,
    headline: bool,
) -> Statement:
    """One row on agents and networks, both drawn at random; see `inference.crossed`."""
    mean, low, high, p = crossed(table, value, confidence)
    agents, networks = table["agent"].nunique(), table["network"].nunique()
    numbers = {"difference": mean, "low": low, "high": high, "unit": unit, "n": agents}
    row = {"claim": claim, "statement": statement, **numbers}
    of = f"agents, {networks} network" + "s" * (networks > 1)
    return row | {"of": of, "p": p, "headline": headline}
