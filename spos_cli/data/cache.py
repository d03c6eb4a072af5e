"""The cache of decoded training images (`data.store`), in memory or in a file."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spos_cli.data import pixel_file
from spos_cli.data.image_files import Pixels
from spos_cli.data.image_set import ImageSet
from spos_cli.data.loaders import BadImages, chunks
from spos_cli.data.order import Indices
from spos_cli.data.transforms import antialiased_resize, compute_size
from spos_cli.data.workers import stream
from spos_cli.errors import ConfigError, DataError
from spos_cli.files.digests import file_digest
from spos_cli.files.os_errors import reason_of

Progress = Callable[[int], object]  # called with the number of images, or bytes, that were just done
IMAGES_PER_BATCH = 64  # that a worker decodes at a time
IMAGES_IN_ESTIMATE = 32  # that are decoded to estimate the size of all


class ResizedSet(ImageSet):
    """Another set, with each image whose short side is longer than `short_side` pixels resized to that.

    Images are resized with antialiasing; smaller ones stay as they are. A `CachedSet` has the same images to the bit,
    so a training does not depend on whether they are cached.
    """

    def __init__(self, images: ImageSet, short_side: int) -> None:
        self.images, self.short_side = images, short_side
        self.name = f"{images.name} at {short_side} px"
        self.classes, self.labels, self.decoding = images.classes, images.labels, images.decoding
        self.shares = images.shares

    def image(self, index: int) -> Pixels:
        image = self.images.image(index)
        if min(image.shape[:2]) <= self.short_side:
            return image
        resized = antialiased_resize(image, *compute_size(self.short_side, *image.shape[:2]))
        pixels: Pixels = np.ascontiguousarray(resized.permute(1, 2, 0).numpy())
        return pixels

    def path(self, index: int) -> str:
        return self.images.path(index)

    @property
    def contents(self) -> NDArray[np.int64]:
        return self.images.contents

    @property
    def versions(self) -> NDArray[np.int64]:
        return self.images.versions

    def is_gone(self) -> bool:
        return self.images.is_gone()

    def bytes_for(self, indices: Indices) -> int:
        """Estimate the bytes that these images need when they are decoded, from some of them."""
        sizes = []
        for index in indices[np.linspace(0, len(indices) - 1, IMAGES_IN_ESTIMATE).astype(int)].tolist():
            with contextlib.suppress(DataError, ConfigError):
                sizes.append(self.image(index).nbytes)
        return round(np.mean(sizes) * len(indices)) if sizes else 0


class CachedSet(ResizedSet):
    """A resized set with some of its images in a cache. Of an unreadable image, the cache keeps the error.

    Args:
        images: the set itself, for everything that is not in the cache.
        indices: the cached images, in the order of the cache.
        sizes: `(n, 2)`: height and width of each, 0 for an unreadable one.
        blocks: their pixels, one image after another, no image across the end of a block; or the file that holds
            them, which each process maps for itself.
        problems: why images are unreadable, by index.
    """

    def __init__(
        self,
        images: ResizedSet,
        indices: Indices,
        sizes: NDArray[np.int64],
        blocks: list[Pixels] | Path,
        problems: dict[int, str],
    ) -> None:
        super().__init__(images.images, images.short_side)
        self.sizes, self.problems = sizes, problems
        self.rows = np.full(len(self.labels), -1)  # by index; -1: not in the cache
        self.rows[indices] = np.arange(len(indices))
        lengths = self.decoding.channels * sizes.prod(1)
        self.begins = np.cumsum(lengths) - lengths  # in bytes, by row
        self.file = blocks if isinstance(blocks, Path) else None
        self._open(blocks)

    def _open(self, blocks: list[Pixels] | Path) -> None:
        if isinstance(blocks, Path):
            is_empty = blocks.stat().st_size == 0  # All images are unreadable, and an empty file cannot be mapped.
            blocks = [np.zeros(0, np.uint8) if is_empty else np.asarray(np.memmap(blocks, np.uint8, "r"))]
        self.blocks = blocks
        lengths = [len(block) for block in blocks]
        self.block_begins = np.cumsum(lengths) - lengths  # in bytes

    def image(self, index: int) -> Pixels:
        row = int(self.rows[index])
        if row < 0:
            return super().image(index)
        if index in self.problems:
            raise DataError(self.problems[index])
        height, width = self.sizes[row].tolist()
        block = int(np.searchsorted(self.block_begins, self.begins[row], "right")) - 1
        begin = int(self.begins[row] - self.block_begins[block])
        shape = height, width, self.decoding.channels
        return self.blocks[block][begin : begin + math.prod(shape)].reshape(shape)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for workers that are not forked: they map the file themselves."""
        return {**self.__dict__, "blocks": self.blocks if self.file is None else self.file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open(state["blocks"])


class _DecodedBatch(NamedTuple):
    """Images of one batch: pixels one image after another, `(b, 2)` heights and widths, and problems by index.

    A user's mistake is a value here, since torch would wrap an exception.
    """

    pixels: Tensor
    sizes: Tensor
    problems: dict[int, str]
    error: ConfigError | None = None


class _ImagesOrProblems(Dataset[tuple[int, Pixels | str | ConfigError]]):
    """Images by index; for an unreadable image the reason, for a setting that does not fit the error."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __getitem__(self, index: int) -> tuple[int, Pixels | str | ConfigError]:
        try:
            return index, self.images.image(index)
        except DataError as error:
            return index, str(error)
        except ConfigError as error:
            return index, error


def _collate(samples: list[tuple[int, Pixels | str | ConfigError]]) -> _DecodedBatch:
    """Join the images of a batch; if a setting does not fit one of them, the batch is that error."""
    error = next((image for _, image in samples if isinstance(image, ConfigError)), None)
    if error is not None:
        return _DecodedBatch(torch.zeros(0), torch.zeros(0), {}, error)
    readable = [image.reshape(-1) for _, image in samples if isinstance(image, np.ndarray)]
    sizes = [image.shape[:2] if isinstance(image, np.ndarray) else (0, 0) for _, image in samples]
    problems = {index: image for index, image in samples if isinstance(image, str)}
    pixels = np.concatenate(readable) if readable else np.zeros(0, np.uint8)
    return _DecodedBatch(torch.from_numpy(pixels), torch.tensor(sizes), problems)


def _decode(
    images: ResizedSet, indices: Indices, workers: int, progress: Progress, bad_images: BadImages
) -> Iterator[_DecodedBatch]:
    """Yield all images in their order, and count the unreadable ones."""
    batches = chunks(indices.tolist(), IMAGES_PER_BATCH)
    for batch in stream(_ImagesOrProblems(images), batches, workers, _collate):
        if batch.error is not None:
            raise batch.error
        bad_images.add({images.path(index): problem for index, problem in batch.problems.items()})
        yield batch
        progress(len(batch.sizes))


def keep_in_memory(
    images: ResizedSet,
    indices: Indices,
    bad_images: BadImages,
    *,
    workers: int = 0,
    progress: Progress = lambda done: None,
) -> CachedSet:
    """Decode images once and keep them in memory, which forked workers share.

    Raises:
        DataError: too many images are unreadable, or there is too little memory.
        ConfigError: a setting does not fit an image.
    """
    needed, free = images.bytes_for(indices), free_memory()
    if free is not None and needed > free:
        raise DataError(
            f"data.store: ram needs about {needed:,} bytes for {len(indices):,} images, and {free:,} are free; use"
            " data.store: disk, or none"
        )
    blocks, sizes, problems = [], [], {}
    for batch in _decode(images, indices, workers, progress, bad_images):
        blocks.append(batch.pixels.numpy().copy())  # A worker's batch is in shared memory, which is scarce.
        sizes.append(batch.sizes.numpy())
        problems.update(batch.problems)
    return CachedSet(images, indices, np.concatenate(sizes), blocks, problems)


def write(
    path: Path,
    images: ResizedSet,
    indices: Indices,
    bad_images: BadImages,
    *,
    workers: int = 0,
    progress: Progress = lambda done: None,
) -> None:
    """Decode images once and write them to `path`, with a manifest beside it.

    An old file is removed first, since the disk may not have room for both.

    Raises:
        DataError: too many images are unreadable, or the disk has no room.
        ConfigError: a setting does not fit an image.
    """
    # Made before decoding, so that a file that changes meanwhile is noticed the next time.
    manifest = _make_manifest(images, indices)
    needed, sizes, problems = 0, [], {}

    def decode() -> Iterator[bytes]:
        for batch in _decode(images, indices, workers, progress, bad_images):
            sizes.extend(batch.sizes.tolist())
            problems.update(batch.problems)
            yield batch.pixels.numpy().tobytes()

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixel_file.remove(path)
        needed, free = images.bytes_for(indices), shutil.disk_usage(path.parent).free
        if needed > free:
            raise DataError(
                f"data.store: disk needs about {needed:,} bytes for {len(indices):,} images in {path.parent}, and"
                f" {free:,} are free; make room, choose another --run-dir, or use data.store: none"
            )
        pixel_file.write(
            path, decode(), lambda digest: {**manifest, "sha256": digest, "sizes": sizes, "problems": problems}
        )
    except OSError as error:
        raise DataError(f"cannot write {path} (about {needed:,} bytes): {reason_of(error)}") from None


def read(
    path: Path, images: ResizedSet, indices: Indices, *, check: bool = True, progress: Progress = lambda done: None
) -> CachedSet | None:
    """Map a file that `write` has written; None if it is for other images, or damaged.

    Args:
        path: the file.
        images, indices: the images that it should hold.
        check: also compare the digest, which reads the whole file, and the versions of the image files. False if
            another process has done so: on another machine the image files may have other times.
        progress: called with the number of bytes just read.
    """
    try:
        manifest = pixel_file.read_manifest(path)
        sizes = np.array(manifest.pop("sizes"), np.int64).reshape(-1, 2)
        problems = {int(index): str(problem) for index, problem in manifest.pop("problems").items()}
        digest = manifest.pop("sha256")
        expected = _make_manifest(images, indices)
        if not check:
            manifest["versions"] = expected["versions"]
        length = images.decoding.channels * sizes.prod(1).sum()  # in bytes
        is_complete = len(sizes) == len(indices) and sizes.min() >= 0 and path.stat().st_size == length
        if manifest != expected or not is_complete:
            return None
        if check and digest != file_digest(path, progress):
            return None
        return CachedSet(images, indices, sizes, path, problems)
    except pixel_file.MANIFEST_ERRORS:
        return None


def _make_manifest(images: ResizedSet, indices: Indices) -> dict[str, Any]:
    """Return everything that the bytes of the cache depend on."""
    return {
        **pixel_file.describe_images(images.images, indices),
        "short_side": images.short_side,
    }


def free_memory() -> int | None:
    """Look up the bytes of memory that a process can still get; None where the system does not tell (not Linux)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
