"""Every process starts from the same settings, and devices go by name."""

import os

import pytest
import torch

from lib.study import process


def test_setup_means_one_thread_and_deterministic_algorithms(monkeypatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)
    process.setup()
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.tensor(1e-38) * torch.tensor(1e-3) == 0  # a denormal number
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_devices_go_by_name() -> None:
    assert process.resolve_device("cpu") == torch.device("cpu")
    assert process.resolve_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_an_automatic_device_is_cuda_where_there_is_any(monkeypatch, there, device) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert process.resolve_device("auto") == torch.device(device)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="compute.device must be auto, cpu or .*, got 'gpu'"):
        process.resolve_device("gpu")
