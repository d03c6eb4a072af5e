"""Open a data set: class folders, a data set of torchvision, or digits."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from spos_cli.data.array_set import ArraySet
from spos_cli.data.arrays import Split, read_cifar, read_digits, read_fashion_mnist
from spos_cli.data.folder_set import FolderSet
from spos_cli.data.image_set import ImageSet
from spos_cli.data.levels import ValueRange

Source = Literal["folder", "cifar10", "cifar100", "fashion_mnist", "digits"]


def load(
    source: Source,
    root: str | Path,
    split: Split,
    *,
    train_folder: str = "train",
    val_folder: str = "val",
    value_range: ValueRange = "auto",
) -> ImageSet:
    """Open a data set.

    Args:
        source: its kind.
        root: its folder; data sets of torchvision are downloaded to it if they are missing.
        split: training or validation images.
        train_folder, val_folder: the folders of the splits, below `root`, for class folders.
        value_range: for images in class folders; see `decode`.

    Raises:
        DataError: images are missing or damaged; the message says what was expected where.
    """
    root = Path(root)
    if source == "folder":
        name = train_folder if split == "train" else val_folder
        return FolderSet(root / name, value_range, f"data.{split}_folder: {name}")
    if source == "digits":
        arrays = read_digits(split)
    elif source == "fashion_mnist":
        arrays = read_fashion_mnist(root, split)
    else:
        arrays = read_cifar("CIFAR10" if source == "cifar10" else "CIFAR100", root, split)
    return ArraySet(f"{source}/{split}", *arrays)
