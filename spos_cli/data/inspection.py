"""Faults of image sets that a training meets late or never: broken files, images in both sets, files passed over."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from spos_cli.data.datasets import GONE, SYSTEM_FILES, ArraySet, FolderSet, ImageSet, folders_below
from spos_cli.data.image_files import is_image, measure
from spos_cli.data.levels import Measured
from spos_cli.data.loaders import chunks
from spos_cli.data.workers import stream
from spos_cli.errors import ConfigError, DataError

Indices = NDArray[np.int64]
Progress = Callable[[int], object]  # is told how many more are done

BATCH = 64  # images that a worker takes at a time
WORTH_WORKERS = 1000  # images; starting workers for fewer takes longer than they save


def broken(
    images: ImageSet, indices: Indices, workers: int = 0, progress: Progress = lambda done: None
) -> dict[int, str]:
    """What is wrong with each image that cannot be decoded, by index; nothing for images that are in memory.

    Args:
        images: of which those at `indices` are read.
        workers: processes that read.
    """
    if isinstance(images, ArraySet):
        progress(len(indices))
        return {}
    found = _each(functools.partial(_problem, images), indices, workers, progress)
    return {index: problem for index, problem in zip(indices.tolist(), found, strict=True) if problem}


def _problem(images: ImageSet, index: int) -> str:
    try:
        images.image(index)
    except DataError as error:
        return str(error)
    except ConfigError:  # it is whole; `levels_of` says more
        return ""
    return ""


def levels_of(
    images: ImageSet, indices: Indices, workers: int = 0, progress: Progress = lambda done: None
) -> list[Measured]:
    """The range of each image's values, of those whose values are not 8 bits a channel; broken ones are left out.

    Args:
        images: of which those at `indices` are looked at. Most are known by their headers.
        workers: processes that read.
    """
    if not isinstance(images, FolderSet):
        progress(len(indices))
        return []
    found = _each(functools.partial(_measured, images), indices, workers, progress)
    return [one for one in found if one is not None]


def _measured(images: FolderSet, index: int) -> Measured | None:
    try:
        return measure(_file(images, index))
    except DataError:
        return None


def in_both(
    first: ImageSet,
    second: ImageSet,
    of_first: Indices,
    of_second: Indices,
    workers: int = 0,
    progress: Progress = lambda done: None,
) -> list[tuple[int, int]]:
    """Pairs of indices, into `first` and `second`, of images that are the same to the byte.

    Files are hashed only where a file of the other set has the same size. An image that was saved anew, in another
    size or quality, is not found. Each index of `second` appears at most once.

    Args:
        first, second: both class folders, or both in memory.
        of_first, of_second: the images to compare.
        workers: processes that read.
    """
    workers = 0 if isinstance(first, ArraySet) else workers
    of = {"first": (first, of_first), "second": (second, of_second)}
    sizes = {
        name: np.array(_each(functools.partial(_size, images), indices, workers), np.int64)
        for name, (images, indices) in of.items()
    }
    shared = np.setdiff1d(np.intersect1d(sizes["first"], sizes["second"]), [GONE])
    digests: dict[str, dict[int, bytes]] = {}
    for name, (images, indices) in of.items():
        alike = indices[np.isin(sizes[name], shared)]
        progress(len(indices) - len(alike))
        found = _each(functools.partial(_digest, images), alike, workers, progress)
        digests[name] = dict(zip(alike.tolist(), found, strict=True))
    by_digest = {digest: index for index, digest in digests["first"].items() if digest}
    return [(by_digest[digest], index) for index, digest in digests["second"].items() if digest in by_digest]


def _size(images: ImageSet, index: int) -> int:
    """Bytes of the image as it is stored."""
    try:
        return _file(images, index).stat().st_size if isinstance(images, FolderSet) else images.image(index).nbytes
    except OSError:
        return GONE


def _digest(images: ImageSet, index: int) -> bytes:
    """Of the file, or of the pixels where there is none; empty if it cannot be read, which `broken` reports."""
    try:
        content = _file(images, index).read_bytes() if isinstance(images, FolderSet) else images.image(index).tobytes()
    except OSError:
        return b""
    return hashlib.sha256(content).digest()


def _file(images: FolderSet, index: int) -> Path:
    return images.folder / images.paths[index]


def place(images: ImageSet, index: int) -> str:
    """Where to look for an image."""
    return str(_file(images, index)) if isinstance(images, FolderSet) else images.path(index)


def passed_over(images: FolderSet) -> list[str]:
    """Files in the folders of a set that are no images of it: of an unknown kind, or in no class folder.

    Hidden folders and files, and those that file managers leave behind, are not counted.
    """
    found = []
    for folder, files in folders_below(images.folder):
        in_a_class = Path(folder) != images.folder
        for name in files:
            if not (in_a_class and is_image(name)) and name.lower() not in SYSTEM_FILES:
                found.append(str(Path(folder) / name))
    return sorted(found)


class _Each(Dataset[Any]):
    """A function of an index, for the workers of a DataLoader."""

    def __init__(self, function: Callable[[int], Any]) -> None:
        self.function = function

    def __getitem__(self, index: int) -> Any:
        return self.function(index)


def _each(
    function: Callable[[int], Any], indices: Indices, workers: int, progress: Progress = lambda done: None
) -> list[Any]:
    """The function's results in the order of the indices."""
    keys, results = indices.tolist(), []
    workers = workers if len(keys) >= WORTH_WORKERS else 0
    for part in stream(_Each(function), chunks(keys, BATCH), workers, list):
        results += part
        progress(len(part))
    return results
