"""How a notebook begins, and what moves in it."""

import os
from collections.abc import Callable, Mapping
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


def slide(draw: Callable[[int], Any], last: int) -> None:
    """A slider in JupyterLab that calls `draw(t)`, for t from 1 to `last`.

    Elsewhere, as where papermill runs a notebook, no widget is alive, and nothing is shown.
    """
    if "JPY_SESSION_NAME" in os.environ:  # a kernel that JupyterLab has started for a notebook
        from ipywidgets import IntSlider, interact

        def show(t: int) -> None:
            draw(t)  # a figure that was also returned would be shown twice

        interact(show, t=IntSlider(last, 1, last, continuous_update=False))
