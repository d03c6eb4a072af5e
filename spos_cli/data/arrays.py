"""Read data sets that fit in memory: digits, Fashion-MNIST and CIFAR."""

from __future__ import annotations

import gzip
import importlib.util
import math
import struct
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spos_cli import seeding
from spos_cli.data.image_files import Pixels
from spos_cli.data.place import Split
from spos_cli.errors import DataError

MAX_IDX_BYTES = 2**30  # of an IDX file, unpacked
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class Arrays(NamedTuple):
    """The images of one split: class names, pixels `(N, H, W)` or `(N, H, W, 3) uint8`, and labels `(N,)`."""

    classes: tuple[str, ...]
    pixels: Pixels
    labels: NDArray[Any]


def read_digits(split: Split) -> Arrays:
    """Read the 1,797 handwritten digits of 8x8 pixels that scikit-learn ships; 20 % of each class are for validation.

    Their file is read without importing scikit-learn, which would cost every command a second.

    Raises:
        DataError: scikit-learn is not installed, or has no such file.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("data.source: digits needs scikit-learn: pip install 'spos[demo]'")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not file.exists():
        raise DataError(f"data.source: digits: this scikit-learn has no {file}; install another version of it")
    with gzip.open(file, "rt") as rows:
        values = np.loadtxt(rows, delimiter=",")
    pixels = np.rint(values[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = values[:, 64].astype(np.int64)
    parts = []
    for label in range(10):
        members = np.flatnonzero(labels == label)
        members = seeding.generator(0, "digits", label).permutation(members)
        train_count = round(len(members) * 0.8)
        parts.append(members[:train_count] if split == "train" else members[train_count:])
    indices = np.sort(np.concatenate(parts))
    return Arrays(tuple("0123456789"), pixels[indices], labels[indices])


def read_fashion_mnist(root: Path, split: Split) -> Arrays:
    """Read Fashion-MNIST from IDX files, plain or gzipped; torchvision downloads them if there are none.

    They are looked for in `root`, in the folder below it where torchvision puts them, and in the folder of Debian's
    package `dataset-fashion-mnist`.

    Raises:
        DataError: the files are damaged or do not belong together, or there are none and the download failed.
    """
    raw = root / "FashionMNIST" / "raw"
    prefix = "train" if split == "train" else "t10k"
    folders = (root, raw, DEBIAN_FASHION_MNIST)
    paths = _find_idx(folders, prefix)
    if paths is None:
        by_hand = (
            f"put {prefix}-images-idx3-ubyte.gz and {prefix}-labels-idx1-ubyte.gz into one of"
            f" {', '.join(str(folder) for folder in folders)}"
        )
        _download("FashionMNIST", root, by_hand, train=split == "train")
        paths = _find_idx((raw,), prefix)
        if paths is None:
            raise DataError(f"the download to {raw} left no {prefix}-images-idx3-ubyte; {by_hand}")
    pixels, labels = (read_idx(path) for path in paths)
    if pixels.shape != (labels.size, 28, 28) or labels.ndim != 1 or not labels.size or labels.max() > 9:
        raise DataError(f"{paths[0]} and {paths[1]} do not belong together: {pixels.shape} and {labels.shape}")
    return Arrays(FASHION_CLASSES, pixels, labels)


def _find_idx(folders: tuple[Path, ...], prefix: str) -> tuple[Path, Path] | None:
    """Return the paths of images and labels in the first folder that has both; None if no folder has."""
    for folder in folders:
        for extension in ("", ".gz"):
            images = folder / f"{prefix}-images-idx3-ubyte{extension}"
            labels = folder / f"{prefix}-labels-idx1-ubyte{extension}"
            if images.is_file() and labels.is_file():
                return images, labels
    return None


def read_idx(path: Path) -> Pixels:
    """Read an IDX file of bytes, plain or gzipped, with up to eight dimensions.

    Raises:
        DataError: the file is damaged or too large, or not an IDX file of bytes.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            zero, kind, dimensions = struct.unpack(">HBB", file.read(4))
            if zero != 0 or kind != 8 or dimensions > 8:
                raise ValueError("not an IDX file of bytes")
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            size = math.prod(shape)
            if size > MAX_IDX_BYTES:
                raise ValueError(f"its header says {size:,} bytes, at most {MAX_IDX_BYTES:,} are read")
            content = file.read(size + 1)  # Not all of it, since a small file may unpack to a huge one.
        if len(content) != size:
            raise ValueError("its size is not the one in its header")
        return np.frombuffer(content, np.uint8).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise DataError(f"cannot read {path} ({error}); remove it or download it again") from None


def read_cifar(name: Literal["CIFAR10", "CIFAR100"], root: Path, split: Split) -> Arrays:
    """Read CIFAR-10 or CIFAR-100 with torchvision, which checks the files before it unpickles them.

    Raises:
        DataError: the files are not in `root` and cannot be downloaded.
    """
    archive = "cifar-10-python.tar.gz" if name == "CIFAR10" else "cifar-100-python.tar.gz"
    data = _download(name, root, f"put {archive} into {root}", train=split == "train")
    return Arrays(tuple(data.classes), data.data, np.array(data.targets))


def _download(name: str, root: Path, by_hand: str, *, train: bool) -> Any:
    """Return a torchvision data set, downloaded if it is missing; `by_hand` says what to do if that fails."""
    import torchvision

    try:
        return getattr(torchvision.datasets, name)(root, train=train, download=True)
    except Exception as error:  # The network, the disk and the archive may raise any kind of error.
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(f"cannot get {name} ({reason}); {by_hand}") from None
