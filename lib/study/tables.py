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

from ..data.files import root, whole

DIGITS = 6  # significant


class Results:
    """Where the results of a profile lie: data/results/SIZE/, figures/SIZE/, data/agents/SIZE/.

    Args:
        size: "" for params.yaml, otherwise the name of the profile, see `Parameters.size`.
        tried: Whether to write to .cache/tried/ instead, and to read first from there.
    """

    def __init__(self, size: str = "", tried: bool = False):
        base = root() / ".cache/tried" if tried else root()
        self.committed = root() / "data/results" / size
        self.tables, self.agents = base / "data/results" / size, base / "data/agents" / size
        self.figures = base / "figures" / size
        self.committed_agents = root() / "data/agents" / size

    def write(self, name: str, rows: pd.DataFrame | Sequence[Mapping], keys: Sequence[str]) -> None:
        """Write NAME.csv, the columns `keys` first and the rows sorted by them.

        Raises:
            ValueError: Two rows have the same keys.
        """
        table = pd.DataFrame(rows)
        if (twice := table.duplicated(list(keys))).any():
            raise ValueError(f"{name}: two rows for {table[twice].iloc[0][list(keys)].to_dict()}")
        table = table[[*keys, *(c for c in table.columns if c not in keys)]]
        table = table.sort_values(list(keys), kind="stable")
        write_csv(self.tables / f"{name}.csv", table, f"%.{DIGITS}g")

    def read(self, name: str) -> pd.DataFrame:
        """Read NAME.csv.

        Raises:
            FileNotFoundError: No stage has written the table yet.
        """
        places = [folder / f"{name}.csv" for folder in (self.tables, self.committed)]
        path = next((path for path in places if path.is_file()), None)
        if path is None:
            raise FileNotFoundError(f"{places[-1]} is missing: `dvc repro` writes it")
        return pd.read_csv(path, dtype={"mask": str}, keep_default_na=True)

    def write_scalars(self, name: str, values: Mapping[str, Any]) -> None:
        """Write NAME.json, for `dvc metrics`; numbers to fixed precision."""

        def fixed(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {str(key): fixed(item) for key, item in value.items()}
            if isinstance(value, (float, np.floating)):
                return None if math.isnan(value) else float(f"{value:.{DIGITS}g}")
            return value

        text = json.dumps(fixed(values), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        with whole(self.tables / f"{name}.json") as file:
            file.write(text.encode())


def write_csv(path: Path, table: pd.DataFrame, float_format: str) -> None:
    """Write a table without its index, whole or not at all."""
    text = table.to_csv(index=False, float_format=float_format, lineterminator="\n")
    with whole(path) as file:
        file.write(text.encode())
