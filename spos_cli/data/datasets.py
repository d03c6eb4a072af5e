"""Open the images of a split: the table of all sources."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spos_cli.data.array_set import ArraySet
from spos_cli.data.arrays import Arrays, read_cifar, read_digits, read_fashion_mnist
from spos_cli.data.folder_set import open_folder
from spos_cli.data.huggingface_set import open_huggingface
from spos_cli.data.image_list import open_list
from spos_cli.data.image_set import ImageSet
from spos_cli.data.own_set import open_own_set
from spos_cli.data.place import Place, Split
from spos_cli.data.tar_set import open_tar
from spos_cli.data.torchvision_set import open_torchvision

TORCHVISION = "torchvision:"  # The name of a data set follows.


def open_arrays(name: str, read: Callable[[Path, Split], Arrays], place: Place, split: Split) -> ArraySet:
    """Open a data set that fits in memory."""
    return ArraySet(f"{name}/{split}", *read(place.folder, split), place.decoding)


SOURCES: dict[str, Callable[[Place, Split], ImageSet]] = {
    "folder": open_folder,
    "csv": open_list,
    "tar": open_tar,
    "huggingface": open_huggingface,
    "cifar10": functools.partial(open_arrays, "cifar10", functools.partial(read_cifar, "CIFAR10")),
    "cifar100": functools.partial(open_arrays, "cifar100", functools.partial(read_cifar, "CIFAR100")),
    "fashion_mnist": functools.partial(open_arrays, "fashion_mnist", read_fashion_mnist),
    "digits": functools.partial(open_arrays, "digits", lambda _, split: read_digits(split)),
}


def load(source: str, root: str | Path, split: Split, **settings: Any) -> ImageSet:
    """Open a data set.

    Args:
        source: its kind, a key of `SOURCES`; `torchvision:NAME`; or the import path of the user's own data set.
        root: its folder; data sets of torchvision are downloaded to it if they are missing.
        split: training or validation images.
        settings: other fields of `Place`.

    Raises:
        DataError: images are missing or damaged; the message says what was expected where.
    """
    place = Place(str(root), **settings)
    if source in SOURCES:
        return SOURCES[source](place, split)
    if source.startswith(TORCHVISION):
        return open_torchvision(source.removeprefix(TORCHVISION), place, split)
    return open_own_set(source, place, split)
