"""One instruction set everywhere, however the process was started, unless somebody asks."""

import functools
import os
import platform
import subprocess
import sys

import pytest

# Elsewhere `lib` sets nothing, which is tested on every machine.
x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"),
    reason="asks PyTorch for AVX2, instructions that x86-64 processors alone have",
)
SETTINGS = {"ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR"}
LOOK = "import torch; print(torch.backends.cpu.get_cpu_capability())"
# Convolutions, a batch normalisation, exponentials; forwards and backwards.
TRAIN = """
import hashlib
from lib import build_model
import torch
torch.manual_seed(0)
model = build_model("resnet20", width=0.25)
images, targets = torch.randn(20, 1, 28, 28), torch.arange(20) % 10
optimiser = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(3):
    optimiser.zero_grad()
    torch.nn.functional.cross_entropy(model(images), targets).backward()
    optimiser.step()
weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
print(hashlib.sha256(weights).hexdigest())
"""


@functools.cache
def run(code: str, **environment: str) -> str:
    plain = {k: v for k, v in os.environ.items() if "CPU" not in k and "MKL" not in k}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**plain, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@x86
@pytest.mark.parametrize("imports", ["import lib;", "import numpy, torch, lib;"])
def test_vectors_are_avx2_whatever_was_imported_first(imports: str) -> None:
    assert run(imports + LOOK) == "AVX2"


@pytest.mark.parametrize(("machine", "names"), [("x86_64", SETTINGS), ("aarch64", set())])
def test_instructions_are_set_on_x86_64_alone(machine: str, names: set[str]) -> None:
    there = f"import os, platform; platform.machine = lambda: {machine!r}; import lib;"
    assert set(run(there + "print(*os.environ)").split()) & SETTINGS == names


@x86
def test_who_asks_for_others_gets_them() -> None:
    assert run("import lib;" + LOOK, ATEN_CPU_CAPABILITY="default") == "DEFAULT"


@x86
def test_the_c_librarys_own_choice_of_instructions_changes_no_bit() -> None:
    """What a processor without AVX-512, AVX2 and FMA would choose in its exp and log."""
    plainer = "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-AVX2_Usable,-FMA,-FMA_Usable,-FMA4"
    assert run(TRAIN) == run(TRAIN, GLIBC_TUNABLES=plainer)


@x86
def test_other_vectors_do_change_bits() -> None:
    """Or the test above, and the setting, would be idle."""
    assert run(TRAIN) != run(TRAIN, ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="SSE41")
