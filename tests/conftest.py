"""Networks of a few hundred weights, the authors' reference, and a watch on a caller's model."""

import gzip
import hashlib
import io
import pickle
import shutil
import struct
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from lib.data import sources
from lib.data.images import ImageSet
from lib.study import process

CLONE = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _reproducible() -> None:
    process.setup()


@pytest.fixture(autouse=True)
def _no_images_of_the_clone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory) -> None:
    """A fresh clone has no images: what `make` has put into data/raw/ is hidden from the tests."""
    bare, found = tmp_path_factory.getbasetemp() / "clone", sources.root
    monkeypatch.setattr(sources, "root", lambda: bare if found() == CLONE else found())


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> tuple[ImageSet, ImageSet]:
    """The training and the test images of "digits", which scikit-learn brings."""
    found, folder = sources.DATASETS["digits"], tmp_path_factory.mktemp("digits")
    found.source.fetch(folder, 1000, 0)
    parts = (found.source.read(folder, train) for train in (True, False))
    return tuple(ImageSet(*part, found.num_classes, found.mean, found.std) for part in parts)


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    """Three scoring batches of six 6x6 images in three classes."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.arange(6) % 3
    return [(torch.randn(6, 1, 6, 6, generator=generator), targets) for _ in range(3)]


@pytest.fixture
def some_mask() -> Callable[..., Tensor]:
    """`some_mask(N, density, seed)`: a random flat mask."""

    def draw(total: int, density: float = 0.6, seed: int = 0) -> Tensor:
        return torch.rand(total, generator=torch.Generator().manual_seed(seed)) < density

    return draw


@pytest.fixture
def mlp() -> nn.Sequential:
    """Three linear layers with biases: 354 weights."""
    torch.manual_seed(2)
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(36, 8), nn.ReLU()),
        *(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)),
    )


@pytest.fixture
def cnn() -> nn.Sequential:
    """Convolutions, a used batch norm and max-pooling: 131 weights."""
    torch.manual_seed(3)
    norm = nn.BatchNorm2d(4)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        tensor.normal_()  # of either sign, as after some training
    norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(5, 3)),
    )


@pytest.fixture(params=["mlp", "cnn"])
def network(request: pytest.FixtureRequest) -> nn.Sequential:
    """Each of the two in turn."""
    return request.getfixturevalue(request.param)


class Busy(nn.Module):
    """Everything that a careless call would disturb: batch norm, and dropout of both kinds."""

    def __init__(self, rate: float = 0.5):
        super().__init__()
        self.rate = rate
        self.conv, self.norm = nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4)
        self.drop, self.fc1 = nn.Dropout(rate), nn.Linear(16, 6)
        self.fc2 = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(functional.relu(self.norm(self.conv(x)))).flatten(1)
        x = functional.dropout(self.fc1(x).relu(), self.rate, self.training)
        return self.fc2(x)


@pytest.fixture(params=["train", "eval"])
def busy(request: pytest.FixtureRequest) -> Busy:
    """The busy network in the middle of somebody's work, in either mode."""
    torch.manual_seed(4)
    model = Busy().train()
    model(torch.randn(5, 1, 6, 6)).sum().backward()  # gradients and running statistics
    model.conv.bias.requires_grad_(False)
    model.train(request.param == "train")
    model.norm.train(request.param == "eval")  # one module in a mode of its own
    return model


def _snapshot(model: nn.Module) -> dict[str, object]:
    def copy(tensor: Tensor | None) -> bytes | None:
        if tensor is None:
            return None
        flat = tensor.detach().reshape(-1)  # numpy knows no bfloat16
        return flat.contiguous().view(torch.uint8).numpy().tobytes()

    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "names": list(tensors),
        "random numbers": (copy(torch.get_rng_state()), str(np.random.get_state())),
        "modes": [module.training for module in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        **{name: (id(t), t.requires_grad, copy(t), copy(t.grad)) for name, t in tensors.items()},
    }


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    before = _snapshot(model)
    try:
        yield
    finally:
        after = _snapshot(model)
        changed = [name for name in before if before[name] != after[name]]
        assert not changed, f"a call changed {changed}"


@pytest.fixture
def unchanged():
    """`with unchanged(model)`: the block may raise, but must leave no trace on the model."""
    return _unchanged


@pytest.fixture
def reference() -> SimpleNamespace:
    """A small network, its one batch, and what the authors' own program says of them."""
    data = dict(np.load(Path(__file__).parent / "data/tiny.npz"))
    layers = OrderedDict(
        conv1=nn.Conv2d(1, 6, 3), relu1=nn.ReLU(), pool=nn.MaxPool2d(2),
        conv2=nn.Conv2d(6, 12, 3), relu2=nn.ReLU(), flat=nn.Flatten(),
        fc1=nn.Linear(300, 24), relu3=nn.ReLU(), fc2=nn.Linear(24, 4),
    )  # fmt: skip
    model = nn.Sequential(layers)
    model.load_state_dict(
        {name: torch.from_numpy(data[f"param:{name}"]) for name in model.state_dict()}
    )
    batch = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    return SimpleNamespace(model=model, batches=[batch], data=data, total=7998)


# --- images, and a repository to write into ------------------------------------------------------


def _pictures(count: int, side: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a bright row where the class says; (count, 1, side, side) uint8, and classes."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(100, (count, 1, side, side), dtype=torch.uint8, generator=generator)
    targets = torch.arange(count) % classes
    images[torch.arange(count), 0, targets * side // classes] += 150
    return images, targets


@pytest.fixture
def image_set() -> ImageSet:
    """60 images for the networks above: 6x6, three classes that can be learned."""
    return ImageSet(*_pictures(60, 6, 3, seed=5), 3, (0.25,), (0.25,))


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository with the committed params.yaml, in which the test runs."""
    shutil.copy(CLONE / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PANNING_REBUILD", raising=False)
    return tmp_path


@pytest.fixture
def toy(workspace: Path) -> Callable[[int], None]:
    """The workspace with made-up images in place of "digits"; `toy(seed)` writes others."""

    def write(seed: int) -> None:
        parts = {"train": _pictures(120, 28, 10, seed), "test": _pictures(40, 28, 10, seed + 1)}
        arrays = {}
        for part, (images, targets) in parts.items():
            arrays |= {f"{part}_images": images.numpy(), f"{part}_targets": targets.numpy()}
        folder = workspace / "data/raw/digits"
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "images.npz", **arrays)

    write(0)
    return write


# --- data sets in the files that their makers publish --------------------------------------------

Parts = dict[str, tuple[Tensor, Tensor]]  # {"train" and "test": (images, classes)}


def _md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def _noise(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def _idx(array: np.ndarray) -> bytes:
    """The format of MNIST's files: type and number of dimensions, their sizes, the bytes."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.tobytes())


def _mnist(cls: type, classes: int, counts: dict, folder: Path, monkeypatch) -> Parts:
    """The four files of MNIST and FashionMNIST, with their checksums."""
    written, resources = {}, []
    for part, prefix in (("train", "train"), ("test", "t10k")):
        count = counts[part]
        images = _noise(count, 28, 28, seed=count)
        targets = (np.arange(count) % classes).astype(np.uint8)
        written[part] = torch.from_numpy(images[:, None]), torch.from_numpy(targets).long()
        for kind, array in (("images-idx3", images), ("labels-idx1", targets)):
            path = folder / cls.__name__ / "raw" / f"{prefix}-{kind}-ubyte.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_idx(array))
            resources.append((path.name, _md5(path.read_bytes())))
            if cls.__name__ == "FashionMNIST":
                unpacked = hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()
                monkeypatch.setitem(sources.FASHION, path.stem, unpacked)
    assert {name for name, _ in cls.resources} == {name for name, _ in resources}
    monkeypatch.setattr(cls, "resources", resources)
    return written


def _cifar(cls: type, classes: int, counts: dict, folder: Path, monkeypatch) -> Parts:
    """The archive of pickles of CIFAR-10 and CIFAR-100, with its checksums."""
    label, written = ("labels" if cls.base_folder.endswith("py") else "fine_labels"), {}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:

        def add(name: str, content: dict) -> str:
            data = pickle.dumps(content)
            member = tarfile.TarInfo(f"{cls.base_folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            return _md5(data)

        for part, attribute in (("train", "train_list"), ("test", "test_list")):
            files, pictures = [], []
            targets = [i % classes for i in range(counts[part])]
            for seed, (name, _) in enumerate(getattr(cls, attribute)):
                pictures.append(_noise(counts[part], 3, 32, 32, seed=seed))
                content = {"data": pictures[-1].reshape(counts[part], -1), label: targets}
                files.append([name, add(name, content)])
            monkeypatch.setattr(cls, attribute, files)
            every = torch.tensor(targets).repeat(len(files))
            written[part] = torch.from_numpy(np.concatenate(pictures)), every
        meta = {**cls.meta, "md5": add(cls.meta["filename"], {cls.meta["key"]: []})}
    monkeypatch.setattr(cls, "meta", meta)
    monkeypatch.setattr(cls, "tgz_md5", _md5(buffer.getvalue()))
    (folder / cls.filename).write_bytes(buffer.getvalue())
    return written


PUBLISHED = {
    "mnist": ("MNIST", _mnist),
    "fashion_mnist": ("FashionMNIST", _mnist),
    "cifar10": ("CIFAR10", _cifar),
    "cifar100": ("CIFAR100", _cifar),
}


@pytest.fixture
def published(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int, int], Parts]:
    """`published(name, train=6, test=4)`: noise in the files of MNIST or CIFAR, put there by hand.

    So many images a file (CIFAR-10 has five for training), their classes in turn. The checksums
    that torchvision knows are replaced by theirs. Returns what is in the files.
    """

    def write(name: str, train: int = 6, test: int = 4) -> Parts:
        cls, writer = PUBLISHED[name]
        folder = sources.folder_of(name)
        folder.mkdir(parents=True)
        counts = {"train": train, "test": test}
        classes = sources.spec(name).num_classes
        return writer(getattr(torchvision.datasets, cls), classes, counts, folder, monkeypatch)

    return write


def _jpeg(colour: tuple[int, ...] | int) -> bytes:
    """One colour survives compression nearly unchanged; a number makes a grey picture."""
    buffer = io.BytesIO()
    mode = "L" if isinstance(colour, int) else "RGB"
    Image.new(mode, (64, 64), colour).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def tiny_files() -> Callable[..., dict[str, bytes]]:
    """`tiny_files(colours, order, grey=True)`: {name: bytes} of a Tiny-ImageNet, a colour a class.

    A picture of each class for training, and a grey one if wanted; and one to test for each class
    in `order`.
    """

    def make(
        colours: Sequence[tuple[int, int, int]], order: Sequence[int], grey: bool = True
    ) -> dict[str, bytes]:
        files, lines = {}, []
        words = [f"n{1443537 + index:08d}" for index in range(len(colours))]
        for word, colour in zip(words, colours, strict=True):
            files[f"train/{word}/images/{word}_0.JPEG"] = _jpeg(colour)
            if grey:
                files[f"train/{word}/images/{word}_1.JPEG"] = _jpeg(100)
            files[f"train/{word}/{word}_boxes.txt"] = f"{word}_0.JPEG\t0\t0\t9\t9\n".encode()
        for number, label in enumerate(order):
            files[f"val/images/val_{number}.JPEG"] = _jpeg(colours[label])
            lines.append(f"val_{number}.JPEG\t{words[label]}\t0\t0\t62\t62\n")
        files["val/val_annotations.txt"] = "".join(lines).encode()
        files["test/images/test_0.JPEG"] = _jpeg(0)  # has no label, and is not read
        return {f"tiny-imagenet-200/{name}": data for name, data in files.items()}

    return make


@pytest.fixture(scope="session")
def cluster():
    """A Ray cluster on this machine, of two workers."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
