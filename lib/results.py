"""Tables in and out of data/results/: sorted, of fixed precision, without dates.

Two runs on one machine write the same bytes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from . import config
from .files import whole

DIGITS = 6  # significant


def folder() -> Path:
    """data/results/ of the repository."""
    return config.root() / "data" / "results"


def write_table(name: str, rows: pd.DataFrame | Sequence[Mapping], keys: Sequence[str]) -> None:
    """Write data/results/NAME.csv, the columns `keys` first and the rows sorted by them.

    Raises:
        ValueError: Two rows have the same keys.
    """
    table = pd.DataFrame(rows)
    if (twice := table.duplicated(list(keys))).any():
        raise ValueError(f"{name}: two rows for {table[twice].iloc[0][list(keys)].to_dict()}")
    table = table[[*keys, *(c for c in table.columns if c not in keys)]]
    table = table.sort_values(list(keys), kind="stable")
    text = table.to_csv(index=False, float_format=f"%.{DIGITS}g", lineterminator="\n")
    with whole(folder() / f"{name}.csv") as file:
        file.write(text.encode())


def read_table(name: str, **select: Sequence) -> pd.DataFrame:
    """Read data/results/NAME.csv; `select` keeps the rows whose column is in a list of values.

    Raises:
        FileNotFoundError: No stage has written the table yet.
    """
    path = folder() / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: `dvc repro` writes it")
    table = pd.read_csv(path, keep_default_na=True)
    for column, values in select.items():
        table = table[table[column].isin(list(values))]
    return table.reset_index(drop=True)


def write_scalars(name: str, values: Mapping[str, Any]) -> None:
    """Write data/results/NAME.json, for `dvc metrics`; numbers to fixed precision."""

    def fixed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): fixed(item) for key, item in value.items()}
        if isinstance(value, (float, np.floating)):
            return None if math.isnan(value) else float(f"{value:.{DIGITS}g}")
        return value

    text = json.dumps(fixed(values), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    with whole(folder() / f"{name}.json") as file:
        file.write(text.encode())


def read_scalars(name: str) -> dict[str, Any]:
    """Read data/results/NAME.json."""
    return json.loads((folder() / f"{name}.json").read_text(encoding="utf-8"))


def interval(values: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """Mean and the ends of its Student-t confidence interval; NaN ends for a single value.

    With three seeds the interval is wide (4.3 standard errors at 95 %), and it should be.
    """
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, math.nan, math.nan
    error = values.std(ddof=1) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * error)
    return mean, mean - half, mean + half


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

    Pairing takes out what the two share: initialisation, data order and scoring batches.
    """
    index = [*by, "seed"]
    wide = table[table[column].isin([first, second])].pivot(
        index=index, columns=column, values=value
    )
    difference = (wide[first] - wide[second]).dropna().rename("difference").reset_index()
    return summary(difference, by, "difference", confidence)
