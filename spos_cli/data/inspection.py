"""Find unreadable, duplicate and other files in image sets, and measure values."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from spos_cli.data.folder_set import SYSTEM_FILES, walk_folders
from spos_cli.data.image_files import is_image
from spos_cli.data.image_set import GONE, ImageSet
from spos_cli.data.levels import Measured
from spos_cli.data.loaders import chunks
from spos_cli.data.orientation import UPRIGHT
from spos_cli.data.transforms import EvalTransform, Normalisation
from spos_cli.data.workers import stream
from spos_cli.errors import ConfigError, DataError, SposError

Indices = NDArray[np.int64]
Progress = Callable[[int], object]  # Called with the number of images that were just done.

IMAGES_PER_TASK = 64  # images that a worker processes at a time
# Starting workers takes longer than they save for fewer images.
MIN_IMAGES_FOR_WORKERS = 1000


def find_unreadable(
    images: ImageSet, indices: Indices, workers: int = 0, progress: Progress = lambda done: None
) -> dict[int, str]:
    """Return why each unreadable image cannot be decoded, by index; empty for images in memory.

    Args:
        images: the set.
        indices: the images to read.
        workers: processes that read; 0 for this process.
        progress: called with the number of images just done.
    """
    if images.in_memory:
        progress(len(indices))
        return {}
    problems = _map(functools.partial(_find_problem, images), indices, workers, progress)
    return {index: problem for index, problem in zip(indices.tolist(), problems, strict=True) if problem}


def _find_problem(images: ImageSet, index: int) -> str:
    """Return why an image cannot be decoded; empty if it can."""
    try:
        images.image(index)
    except DataError as error:
        return str(error)
    except ConfigError:  # The file is whole, but `data.value_range` does not fit: see `measure_values`.
        return ""
    return ""


def measure_values(
    images: ImageSet, indices: Indices, workers: int = 0, progress: Progress = lambda done: None
) -> list[Measured]:
    """Return the value range of each image that does not have 8 bits per channel; unreadable images are left out.

    Args:
        images: the set.
        indices: the images to look at. For most files, reading the header is enough.
        workers: processes that read; 0 for this process.
        progress: called with the number of images just done.
    """
    if images.in_memory:
        progress(len(indices))
        return []
    ranges = _map(functools.partial(_measure, images), indices, workers, progress)
    return [measured for measured in ranges if measured is not None]


def _measure(images: ImageSet, index: int) -> Measured | None:
    """Return the value range of an image; None for 8 bits per channel, and for an unreadable image."""
    try:
        return images.measure(index)
    except DataError:
        return None


def find_rotated(
    images: ImageSet, indices: Indices, workers: int = 0, progress: Progress = lambda done: None
) -> dict[int, int]:
    """Return the orientation, from 2 to 8, of each image that its EXIF does not call upright, by index.

    Arguments are as for `measure_values`; unreadable images are left out.
    """
    if images.in_memory:
        progress(len(indices))
        return {}
    orientations = _map(functools.partial(_find_orientation, images), indices, workers, progress)
    return {index: found for index, found in zip(indices.tolist(), orientations, strict=True) if found != UPRIGHT}


def _find_orientation(images: ImageSet, index: int) -> int:
    """Return the orientation of an image; that of an unreadable image is upright."""
    try:
        return images.find_orientation(index)
    except DataError:
        return UPRIGHT


def measure_normalisation(
    images: ImageSet,
    indices: Indices,
    transform: EvalTransform,
    workers: int = 0,
    progress: Progress = lambda done: None,
) -> Normalisation | None:
    """Measure mean and standard deviation of each channel over all pixels of some images, as an evaluation sees them.

    Unreadable images are left out; return None if there are no others.

    Args:
        transform: crops each image, so that all have as many pixels.
    """
    sums = [found for found in _map(functools.partial(_sum, images, transform), indices, workers, progress) if found]
    if not sums:
        return None
    pixels, total, squares = (np.sum([one[part] for one in sums], 0) for part in range(3))
    mean = total / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    return Normalisation(tuple(mean.tolist()), tuple(deviation.tolist()))


def _sum(
    images: ImageSet, transform: EvalTransform, index: int
) -> tuple[int, NDArray[np.float64], NDArray[np.float64]] | None:
    """Return an image's number of pixels, and by channel the sums of its values, from 0 to 1, and of their squares."""
    try:
        values = transform(images.image(index)).numpy().astype(np.float64) / 255  # (C, S, S)
    except (DataError, ConfigError):  # Other checks report it.
        return None
    return values[0].size, values.sum((1, 2)), (values**2).sum((1, 2))


def find_equal(
    sets: Sequence[tuple[ImageSet, Indices]], workers: int = 0, progress: Progress = lambda done: None
) -> list[tuple[list[int], ...]]:
    """Find images that are the same to the byte, within a set and between sets.

    Files are read in part only if another one has the same size, and as a whole only if another one has the same size
    and the same end. Copies that were saved again, in another size or quality, are not found.

    Args:
        sets: image sets, all of files or all of pixels, each with the indices of the images to compare.
        workers: processes that read; 0 for this process.
        progress: called with the number of images just done.

    Returns:
        Groups of two equal images or more: for each set, the indices in it, ascending; empty for a set that has none.
        Groups are in the order of their first images.
    """
    workers = 0 if sets[0][0].in_memory else workers
    rest = [indices for _, indices in sets]
    keys = [_map(functools.partial(_size, images), indices, workers) for images, indices in sets]
    for read in (_digest_end, _digest):
        counts = Counter(itertools.chain.from_iterable(keys))
        for number, (images, _) in enumerate(sets):
            is_shared = np.array([counts[key] > 1 and key not in (GONE, b"") for key in keys[number]], bool)
            progress(int((~is_shared).sum()))
            rest[number] = rest[number][is_shared]
            keys_before = itertools.compress(keys[number], is_shared)
            digests = _map(
                functools.partial(read, images),
                rest[number],
                workers,
                progress if read is _digest else lambda done: None,
            )
            # A digest of the end alone would make equal what has different sizes; a missing file is equal to nothing.
            keys[number] = [(key, digest) if digest else b"" for key, digest in zip(keys_before, digests, strict=True)]
    groups: dict[Any, tuple[list[int], ...]] = {}
    for number, indices in enumerate(rest):
        for key, index in zip(keys[number], indices.tolist(), strict=True):
            groups.setdefault(key, tuple([] for _ in sets))[number].append(index)
    groups.pop(b"", None)
    return [group for group in groups.values() if sum(map(len, group)) > 1]


def _size(images: ImageSet, index: int) -> int:
    """Return the bytes of a file, or of the pixels of an image; `GONE` if there is no file, or it is unreadable."""
    try:
        return images.count_bytes(index)
    except SposError:
        return GONE


def _digest_end(images: ImageSet, index: int) -> bytes:
    """Return a digest of the end of a file; empty if it cannot be read."""
    try:
        return hashlib.sha256(images.read_end(index)).digest()
    except OSError:  # `find_unreadable` reports it.
        return b""


def _digest(images: ImageSet, index: int) -> bytes:
    """Return a digest of a file, or of the pixels of an image; empty if it cannot be read."""
    try:
        content = images.read_bytes(index)
    except (OSError, SposError):  # `find_unreadable` reports it.
        return b""
    return hashlib.sha256(content).digest()


def find_other_files(folder: Path) -> list[str]:
    """Return the files below class folders that are not images: of another kind, or in no class folder.

    Hidden files and folders, and files that file managers leave behind, do not count.
    """
    others = []
    for walked, files in walk_folders(folder):
        in_class_folder = Path(walked) != folder
        for name in files:
            if not (in_class_folder and is_image(name)) and name.lower() not in SYSTEM_FILES:
                others.append(str(Path(walked) / name))
    return sorted(others)


class _Results(Dataset[Any]):
    """The results of a function of an index, as a data set for the workers of a DataLoader."""

    def __init__(self, function: Callable[[int], Any]) -> None:
        self.function = function

    def __getitem__(self, index: int) -> Any:
        return self.function(index)


def _map(
    function: Callable[[int], Any], indices: Indices, workers: int, progress: Progress = lambda done: None
) -> list[Any]:
    """Return the function's results in the order of the indices."""
    keys, results = indices.tolist(), []
    workers = workers if len(keys) >= MIN_IMAGES_FOR_WORKERS else 0
    for part in stream(_Results(function), chunks(keys, IMAGES_PER_TASK), workers, list):
        results += part
        progress(len(part))
    return results
