"""How every process is set up: threads, determinism, device.

A result depends on its parameters alone only if all processes, those of notebooks and those of the
workers of a grid, start from the same settings.
"""

import ctypes
import os

import torch


def setup() -> None:
    """Make this process reproducible. The first call of every notebook and of every worker.

    One torch thread: sums over threads round differently with their number, and two one-thread
    workers do more work than one worker with two threads.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required for deterministic cuBLAS
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    # On newer GPUs PyTorch would cut float32 to 10 bits of mantissa in convolutions.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, guards nothing here
    # Weights that shrink towards 0 become denormal numbers, on which processors are slow.
    torch.set_flush_denormal(True)
    _keep_memory()


def _keep_memory() -> None:
    """Let the C library keep freed memory for the next tensor: a tenth less time in training.

    It would otherwise give large blocks back to the system, which hands them out again page by
    page, each filled with zeros. C libraries other than GNU's are left as they are.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, at its maximum
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def resolve_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA where there is any."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"compute.device must be auto, cpu or cuda[:n], got {name!r}") from error
