"""Accuracy over seconds, pruning included, on all of FashionMNIST: does pruning pay by the clock?

The rivals of a sparse network are the dense one, and the dense one trained for fewer epochs, its
learning rate falling to 0 all the same: whoever has less time can have that, too.
"""

import time

import pytest
import torch

from lib.data.images import load_data, scoring_batches
from lib.methods import pan
from lib.networks.architectures import build_model
from lib.networks.training import train

METHOD = "panning_masked"
EPOCHS = {"lenet300": (20, 10, 5), "lenet5": (4, 2, 1)}  # the dense network's; the first is ours
RUNS = [
    (network, rho, epochs)
    for network in EPOCHS
    for rho in (0.0, 0.98, 0.99, 0.999)
    for epochs in (EPOCHS[network][:1] if rho else EPOCHS[network])
]


@pytest.fixture(scope="module")
def fashion(device):
    try:
        return [part.to(device) for part in load_data("fashion_mnist")]
    except FileNotFoundError:
        pytest.skip("FashionMNIST is not in data/raw/: `make data-fashion` brings it")


@pytest.mark.parametrize(("network", "rho", "epochs"), RUNS)
def test_race(fashion, benchmark, device, network: str, rho: float, epochs: int) -> None:
    """One thread, batch 256, and the learning rate of the paper; one seed."""
    train_set, test_set = fashion
    torch.manual_seed(0)
    model = build_model(network, 1, 10, 1.0, 28).to(device)
    batches = scoring_batches(train_set, 10, per_class=10, count=10, seed=0)
    began = time.perf_counter()
    masks = pan(model, batches, rho, method=METHOD).effective if rho else None
    pruning = time.perf_counter() - began
    history = train(
        *(model, train_set, masks),
        epochs=epochs,
        batch_size=256,
        test_set=test_set,
        sparse="fastest" if rho else (),
    )
    what = {"network": network, "sparsity": rho, "epochs": epochs, "pruning": pruning}
    what["layers"] = " ".join(history.sparse)
    rows = [
        what | {"epoch": i + 1, "seconds": pruning + seconds, "accuracy": accuracy}
        for i, (seconds, accuracy) in enumerate(zip(history.seconds, history.accuracy, strict=True))
    ]
    benchmark.extra_info.update(race=rows)
    benchmark.pedantic(lambda: None, rounds=1)
