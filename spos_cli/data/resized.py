"""Training images decoded once: no larger than random crops need them, in memory or in a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spos_cli.data.datasets import ImageSet, Pixels
from spos_cli.data.loaders import (
    BROKEN_RECIPE,
    BadImages,
    Indices,
    chunks,
    paths_digest,
    recipe_path,
    stream,
    versions_digest,
)
from spos_cli.data.transforms import antialiased_resize, size_for
from spos_cli.errors import ConfigError, DataError
from spos_cli.files.digests import file_digest

Progress = Callable[[int], object]  # is told how many more are done
AT_ONCE = 64  # images that a worker decodes at a time
SAMPLE = 32  # images that tell how large all are


class ResizedSet(ImageSet):
    """Another set, with every image whose short side is longer than `short_side` pixels resized to that.

    With antialiasing; smaller images stay as they are. A stored set has the same images to the bit, so it does not
    matter to a training where they come from.
    """

    def __init__(self, images: ImageSet, short_side: int) -> None:
        self.images, self.short_side = images, short_side
        self.name = f"{images.name} at {short_side} px"
        self.classes, self.labels, self.value_range = images.classes, images.labels, images.value_range

    def image(self, index: int) -> Pixels:
        image = self.images.image(index)
        if min(image.shape[:2]) <= self.short_side:
            return image
        resized = antialiased_resize(image, *size_for(self.short_side, *image.shape[:2]))
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
        """About how much memory these images take, from a few of them."""
        sizes = []
        for index in indices[np.linspace(0, len(indices) - 1, SAMPLE).astype(int)].tolist():
            with contextlib.suppress(DataError, ConfigError):
                sizes.append(self.image(index).nbytes)
        return round(np.mean(sizes) * len(indices)) if sizes else 0


class StoredSet(ResizedSet):
    """A resized set of which some images are kept in blocks of pixels; a broken one is kept as what is wrong with it.

    Args:
        images: the set itself, for all else.
        indices: of the images that are kept, in their order.
        sizes: `(n, 2)`: height and width of each, 0 of a broken one.
        blocks: their pixels, one after another, an image never over the end of a block; or the file that holds them,
            which each process maps for itself.
        problems: of broken images, by index.
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
        self.row = np.full(len(self.labels), -1)
        self.row[indices] = np.arange(len(indices))
        self.begin = np.cumsum(3 * sizes.prod(1)) - 3 * sizes.prod(1)
        self.file = blocks if isinstance(blocks, Path) else None
        self._open(blocks)

    def _open(self, blocks: list[Pixels] | Path) -> None:
        if isinstance(blocks, Path):
            nothing = blocks.stat().st_size == 0  # all are broken
            blocks = [np.zeros(0, np.uint8) if nothing else np.asarray(np.memmap(blocks, np.uint8, "r"))]
        self.blocks = blocks
        lengths = [len(block) for block in blocks]
        self.first = np.cumsum(lengths) - lengths  # where each block begins

    def image(self, index: int) -> Pixels:
        row = int(self.row[index])
        if row < 0:
            return super().image(index)
        if index in self.problems:
            raise DataError(self.problems[index])
        height, width = self.sizes[row].tolist()
        block = int(np.searchsorted(self.first, self.begin[row], "right")) - 1
        begin = int(self.begin[row] - self.first[block])
        return self.blocks[block][begin : begin + 3 * height * width].reshape(height, width, 3)

    def __getstate__(self) -> dict[str, Any]:
        """For workers that are not forked: a file is mapped anew there."""
        return {**self.__dict__, "blocks": self.blocks if self.file is None else self.file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open(state["blocks"])


class _Decoded(NamedTuple):
    """Images of one batch: pixels one after another, `(b, 2)` heights and widths, and problems of broken ones.

    A mistake of the user is a value, since torch would wrap it.
    """

    pixels: Tensor
    sizes: Tensor
    problems: dict[int, str]
    error: ConfigError | None = None


class _Each(Dataset[tuple[int, Pixels | str | ConfigError]]):
    """Images by index, or what is wrong with them."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __getitem__(self, index: int) -> tuple[int, Pixels | str | ConfigError]:
        try:
            return index, self.images.image(index)
        except DataError as error:
            return index, str(error)
        except ConfigError as error:
            return index, error


def _collate(samples: list[tuple[int, Pixels | str | ConfigError]]) -> _Decoded:
    error = next((image for _, image in samples if isinstance(image, ConfigError)), None)
    if error is not None:
        return _Decoded(torch.zeros(0), torch.zeros(0), {}, error)
    whole = [image.reshape(-1) for _, image in samples if isinstance(image, np.ndarray)]
    sizes = [image.shape[:2] if isinstance(image, np.ndarray) else (0, 0) for _, image in samples]
    problems = {index: image for index, image in samples if isinstance(image, str)}
    pixels = np.concatenate(whole) if whole else np.zeros(0, np.uint8)
    return _Decoded(torch.from_numpy(pixels), torch.tensor(sizes), problems)


def _decoded(
    images: ResizedSet, indices: Indices, workers: int, progress: Progress, bad_images: BadImages
) -> Iterator[_Decoded]:
    """All images in their order; those that are broken are counted."""
    for batch in stream(_Each(images), chunks(indices.tolist(), AT_ONCE), workers, _collate):
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
) -> StoredSet:
    """Decodes images once; workers that are forked share them.

    Raises:
        DataError: too many images are broken, or there is too little memory.
        ConfigError: a setting does not fit an image.
    """
    needed, free = images.bytes_for(indices), free_memory()
    if free is not None and needed > free:
        raise DataError(
            f"data.store: ram needs about {needed:,} bytes for {len(indices):,} images, and {free:,} are free; use"
            " data.store: disk, or none"
        )
    blocks, sizes, problems = [], [], {}
    for batch in _decoded(images, indices, workers, progress, bad_images):
        blocks.append(batch.pixels.numpy().copy())  # what a worker sends is shared memory, of which there is less
        sizes.append(batch.sizes.numpy())
        problems.update(batch.problems)
    return StoredSet(images, indices, np.concatenate(sizes), blocks, problems)


def write(
    path: Path,
    images: ResizedSet,
    indices: Indices,
    bad_images: BadImages,
    *,
    workers: int = 0,
    progress: Progress = lambda done: None,
) -> None:
    """Decodes images once to `path`, and writes beside it its recipe, with a digest of the bytes.

    What was there is removed first, since both might have no room.

    Raises:
        DataError: too many images are broken, or the disk has no room.
        ConfigError: a setting does not fit an image.
    """
    needed, sizes, problems = 0, [], {}
    described = _recipe(images, indices)  # first: a file that changes while it is decoded is decoded anew next time
    temporary = path.with_name(f".{path.name}.tmp")
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in (path, recipe_path(path), temporary):
            old.unlink(missing_ok=True)
        needed, free = images.bytes_for(indices), shutil.disk_usage(path.parent).free
        if needed > free:
            raise DataError(
                f"data.store: disk needs about {needed:,} bytes for {len(indices):,} images in {path.parent}, and"
                f" {free:,} are free; make room, choose another --run-dir, or use data.store: none"
            )
        with temporary.open("wb") as file:
            for batch in _decoded(images, indices, workers, progress, bad_images):
                content = batch.pixels.numpy().tobytes()
                digest.update(content)
                file.write(content)
                sizes += batch.sizes.tolist()
                problems.update(batch.problems)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        recipe = {**described, "sha256": digest.hexdigest(), "sizes": sizes, "problems": problems}
        temporary.write_text(json.dumps(recipe) + "\n", encoding="utf-8")
        temporary.replace(recipe_path(path))
    except OSError as error:
        raise DataError(f"cannot write {path} (about {needed:,} bytes): {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read(
    path: Path, images: ResizedSet, indices: Indices, *, check: bool = True, progress: Progress = lambda done: None
) -> StoredSet | None:
    """Maps what `write` has left, or None if it was written to another recipe or is not whole.

    Args:
        check: compare the digest as well, for which the whole file is read, and the times of the image files. Without,
            another process has done so: the files of another machine may have other times.
        progress: is told how many more bytes are read.
    """
    try:
        recipe: dict[str, Any] = json.loads(recipe_path(path).read_text(encoding="utf-8"))
        sizes = np.array(recipe.pop("sizes"), np.int64).reshape(-1, 2)
        problems = {int(index): str(problem) for index, problem in recipe.pop("problems").items()}
        digest = recipe.pop("sha256")
        whole = len(sizes) == len(indices) and sizes.min() >= 0 and path.stat().st_size == 3 * sizes.prod(1).sum()
        ours = _recipe(images, indices)
        if not check:
            recipe["versions"] = ours["versions"]
        if recipe != ours or not whole:
            return None
        if check and digest != file_digest(path, progress):
            return None
        return StoredSet(images, indices, sizes, path, problems)
    except (OSError, OverflowError, *BROKEN_RECIPE):
        return None


def _recipe(images: ResizedSet, indices: Indices) -> dict[str, Any]:
    """What a store's bytes depend on."""
    return {
        "images": images.images.name,
        "of": len(images),
        "chosen": paths_digest(images, indices),
        "versions": versions_digest(images, indices),
        "value_range": str(images.value_range),
        "short_side": images.short_side,
    }


def free_memory() -> int | None:
    """Bytes that a process can still have, where the system tells (Linux)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
