"""Neural Network Panning: screening the optimal sparse network before training.

The public names below are resolved on first use (PEP 562), so that ``from lib.metrics import snip``
imports `lib.metrics` and what it needs, and nothing else: a DVC stage depends on the modules that
it really uses.
"""

import os
import platform
from importlib import import_module

from gymnasium.envs.registration import register

_HOME = {
    "build_model": "models",
    "load_data": "data",
    "scoring_batches": "data",
    "snip": "metrics",
    "grasp": "metrics",
    "synflow": "metrics",
    "effective_mask": "reachability",
    "apply_masks": "masks",
    "Panning": "panning",
    "staged_policy": "policies",
    "constant_policy": "policies",
    "random_policy": "policies",
    "pan": "methods",
    "METHODS": "methods",
    "compact": "compaction",
    "train": "training",
    "evaluate": "training",
    "PanningEnv": "environment",
    "train_agent": "agent",
    "load_policy": "agent",
    "save_policy": "agent",
}

__all__ = sorted(_HOME)

# The same sums in the same order on every x86-64 processor: else each library takes the widest
# vectors that it finds, and the last bits differ. They ask when they first compute, which is after
# this. A training step costs up to a ninth more (ResNet-20; LeNet-300-100 nothing) than with
# AVX-512; who wants that all the same sets it beforehand.
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
    os.environ.setdefault("MKL_CBWR", "AVX2")

# The entry point is a string: nothing of the environment is imported before it is made.
register(id="lib/Panning-v0", entry_point="lib.environment:PanningEnv")


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"lib.{_HOME[name]}"), name)
    raise AttributeError(f"module 'lib' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
