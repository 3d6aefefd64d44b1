"""Neural Network Panning: screening the optimal sparse network before training.

The public names below are resolved on first use (PEP 562), so that ``from lib.metrics import snip``
imports only `lib.metrics` and what it needs.
"""

import os
import platform
from importlib import import_module

from gymnasium.envs.registration import register

_HOME = {
    "build_model": "networks.architectures",
    "load_data": "data.images",
    "scoring_batches": "data.images",
    "snip": "metrics",
    "grasp": "metrics",
    "synflow": "metrics",
    "effective_mask": "networks.paths",
    "Mask": "masks",
    "apply_masks": "masks",
    "load_masks": "masks",
    "Panning": "panning",
    "staged_policy": "policies",
    "constant_policy": "policies",
    "random_policy": "policies",
    "pan": "methods",
    "METHODS": "methods",
    "compact": "networks.compaction",
    "flops": "networks.cost",
    "train": "networks.training",
    "evaluate": "networks.training",
    "PanningEnv": "environment",
    "train_agent": "agent",
    "load_policy": "agent",
    "save_policy": "agent",
}

__all__ = sorted(_HOME)

# One vector width for every x86-64 processor: otherwise each library takes the widest it finds, and
# the last bits differ. Libraries read these settings when they first compute, which is later. MKL,
# which multiplies matrices, obeys only on Intel processors. On others it takes its own path, and
# the one path common to all (COMPATIBLE) doubles the time of a training step of LeNet-300-100. So
# equal bytes are promised only for one kind of processor, see data/provenance.json.
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
    os.environ.setdefault("MKL_CBWR", "AVX2")

# The entry point is a string, so that the environment is imported only when one is made.
register(id="lib/Panning-v0", entry_point="lib.environment:PanningEnv")


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"lib.{_HOME[name]}"), name)
    raise AttributeError(f"module 'lib' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
