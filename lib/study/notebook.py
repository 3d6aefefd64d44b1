"""How a notebook begins."""

from collections.abc import Mapping
from typing import Any

from ..data import sources
from ..figures import style
from . import parameters, process
from .fetch import fetch
from .tables import Results


def begin(
    profile: str = "params.yaml", changes: Mapping[str, Any] | None = None
) -> tuple[parameters.Parameters, Results]:
    """A reproducible process, the parameters of a profile, and the place of its results.

    Args:
        profile: A path from the repository's root.
        changes: What a reader tries, `{"panning": {"steps": 50}}`; see `parameters.load`. Its
            results go to .cache/tried/; the committed ones stay.
    """
    process.setup()
    params = parameters.load(profile, changes)
    if not all(sources.folder_of(name).is_dir() for name in params.datasets):
        fetch(params)
    style.use()
    return params, Results(params.size, tried=bool(changes))
