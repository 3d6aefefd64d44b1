"""The pipeline's first stage: `python -m lib.study.fetch PROFILE` gets the images it needs."""

import sys

from ..data import sources
from . import parameters


def fetch(params: parameters.Parameters) -> None:
    """Put every data set of a profile into data/raw/, from its package or from the internet."""
    for name in params.datasets:
        sources.fetch(name, params.data.test_size, params.data.split_seed)


if __name__ == "__main__":
    fetch(parameters.load(*sys.argv[1:]))
