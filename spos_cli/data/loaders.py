"""Batches whose content depends on the seed and the step alone: not on workers, processes or restarts."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spos_cli import seeding
from spos_cli.data.datasets import ImageSet, Pixels
from spos_cli.data.transforms import EvalTransform, TrainTransform
from spos_cli.errors import ConfigError, DataError, SposError

Indices = NDArray[np.int64]
Key = tuple[int, int]  # a sample: (epoch in training, position in evaluation; index into the image set)
Transform = Callable[[Pixels, Key], Tensor]


class _Samples(Dataset[Any]):
    """Transformed images by key; a mistake of the user travels as a value, since torch would wrap it."""

    def __init__(self, images: ImageSet, transform: Transform) -> None:
        self.images, self.transform = images, transform

    def __getitem__(self, key: Key) -> tuple[Tensor, int, int] | SposError:
        number, index = key
        try:
            return self.transform(self.images.image(index), key), int(self.images.labels[index]), number
        except SposError as error:
            return error


def _augmented(transform: TrainTransform, seed: int, image: Pixels, key: Key) -> Tensor:
    """What a sample looks like in an epoch: a function of its key."""
    return transform(image, seeding.torch_seed(seed, "augment", *key))


def _evaluated(transform: EvalTransform, image: Pixels, key: Key) -> Tensor:
    return transform(image)


def _collate(samples: list[Any]) -> Any:
    errors = [sample for sample in samples if isinstance(sample, SposError)]
    if errors:
        return errors[0]
    images, labels, numbers = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(labels), torch.tensor(numbers)


def _begin_worker(_: int) -> None:
    """One thread each, since workers share the cores with the training.

    A group of its own, since Ctrl-C and many a SIGTERM go to the whole group: the main process answers them, and
    needs its workers until the step is done.
    """
    torch.set_num_threads(1)
    if hasattr(os, "setpgrp"):
        os.setpgrp()


def _load(samples: _Samples, batches: Any, workers: int, pin_memory: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Loads batches of keys in their order."""
    with warnings.catch_warnings():
        # More workers than cores is the user's choice; torch warns about it.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader = DataLoader(
            samples,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin_memory and torch.cuda.is_available(),
            worker_init_fn=_begin_worker,
            generator=torch.Generator().manual_seed(0),  # else torch draws a base seed from the global one
        )
        stream = iter(loader)
    try:
        for batch in stream:
            if isinstance(batch, SposError):
                raise batch
            yield batch
    finally:
        del loader, stream  # ends the workers now: an error's traceback keeps this frame


def images_per_pass(batch_size: int, world_size: int, accumulate: int) -> int:
    """Images of one forward pass of one process.

    Raises:
        ConfigError: the global batch cannot be shared out.
    """
    parts = world_size * accumulate
    if batch_size % parts:
        raise ConfigError(
            f"batch_size {batch_size} does not divide by {world_size} processes x accumulate {accumulate};"
            f" use a multiple of {parts}"
        )
    return batch_size // parts


class _TrainingKeys:
    """The keys of each batch of this process, from a first step on.

    The order of samples is an endless row of permutations of `indices`, one for each epoch; step `s` takes the
    samples `s * batch_size` to `(s + 1) * batch_size` of it.
    """

    def __init__(
        self,
        indices: Indices,
        seed: int,
        batch_size: int,
        steps: range,
        rank: int,
        world_size: int,
        accumulate: int,
    ) -> None:
        self.indices, self.seed, self.batch_size, self.steps = indices, seed, batch_size, steps
        self.rank, self.world_size, self.accumulate = rank, world_size, accumulate
        self.size = images_per_pass(batch_size, world_size, accumulate)

    def __iter__(self) -> Iterator[list[Key]]:
        order = functools.lru_cache(maxsize=2)(
            lambda epoch: seeding.generator(self.seed, "order", epoch).permutation(self.indices)
        )
        for step in self.steps:
            for micro in range(self.accumulate):
                begin = step * self.batch_size + (micro * self.world_size + self.rank) * self.size
                keys = []
                for position in range(begin, begin + self.size):
                    epoch, place = divmod(position, len(self.indices))
                    keys.append((epoch, int(order(epoch)[place])))
                yield keys


def training_batches(
    images: ImageSet,
    indices: Indices,
    transform: TrainTransform,
    *,
    seed: int,
    batch_size: int,
    first_step: int,
    last_step: int,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's batches of the steps from `first_step` up to but without `last_step`.

    Args:
        images: where they come from.
        indices: those to train on.
        transform: augments an image, by seed.
        seed: of order and augmentation.
        batch_size: images per step over all processes.
        rank, world_size: this process among all.
        accumulate: batches per step and process.
        workers: loader processes.
        pin_memory: page-locked memory, for copies to a GPU that do not wait.

    Yields:
        Images `(b, 3, S, S) uint8` and labels `(b,)`, with `b = batch_size / (world_size * accumulate)`.

    Raises:
        ConfigError: the batch cannot be shared out.
        DataError: an image is broken.
    """
    keys = _TrainingKeys(indices, seed, batch_size, range(first_step, last_step), rank, world_size, accumulate)
    samples = _Samples(images, functools.partial(_augmented, transform, seed))
    return ((pixels, labels) for pixels, labels, _ in _load(samples, keys, workers, pin_memory))


def evaluation_batches(
    images: ImageSet,
    indices: Indices,
    transform: EvalTransform,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """This process's share of images, each exactly once over all processes.

    Yields:
        Images `(b, 3, S, S) uint8`, labels `(b,)` and positions `(b,)` in `indices`. Batches are the same for any
        number of processes, which take them in turn; the last one may be short.

    Raises:
        DataError: an image is broken.
    """
    batches = _chunks(list(enumerate(indices.tolist())), batch_size)[rank::world_size]
    return _load(_Samples(images, functools.partial(_evaluated, transform)), batches, workers, pin_memory)


def _chunks(keys: list[Key], size: int) -> list[list[Key]]:
    """Keys in batches, in their order."""
    return [keys[begin : begin + size] for begin in range(0, len(keys), size)]


class ImageStore:
    """Transformed images in one memory-mapped file, so that all candidates and processes read the same bytes.

    Attributes:
        images: `(N, 3, S, S) uint8`.
        labels: `(N,)`.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    @staticmethod
    def build(
        path: Path,
        images: ImageSet,
        indices: Indices,
        transform: EvalTransform | TrainTransform,
        *,
        seed: int | None = None,
        workers: int = 0,
        progress: Callable[[int], object] = lambda done: None,
    ) -> None:
        """Decodes images once and writes `path`, and its recipe beside it.

        Args:
            seed: of the augmentation; with a TrainTransform only.
            progress: is told how many more are done.

        Raises:
            DataError: an image is broken, or the disk is full.
        """
        size = transform.image_size
        needed = len(indices) * 3 * size * size
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        samples = _Samples(images, _stored(transform, seed))
        keys = _chunks([(0, index) for index in indices.tolist()], 64)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                for pixels, labels, _ in _load(samples, keys, workers, False):
                    file.write(pixels.numpy().tobytes())
                    progress(len(labels))
                file.flush()
                os.fsync(file.fileno())
            recipe = _recipe_path(path)
            recipe.unlink(missing_ok=True)  # what is there describes the old file
            temporary.replace(path)
            recipe.write_text(json.dumps(_recipe(images, indices, transform, seed)) + "\n", encoding="utf-8")
        except OSError as error:
            raise DataError(f"cannot write {path} ({needed:,} bytes): {error.strerror or error}") from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    @staticmethod
    def matches(
        path: Path,
        images: ImageSet,
        indices: Indices,
        transform: EvalTransform | TrainTransform,
        *,
        seed: int | None = None,
    ) -> bool:
        """Whether `path` was built to this recipe and is whole."""
        recipe = _recipe(images, indices, transform, seed)
        try:
            found = json.loads(_recipe_path(path).read_text(encoding="utf-8"))
            return bool(found == recipe) and path.stat().st_size == int(np.prod(recipe["shape"]))
        except (OSError, ValueError):
            return False

    @staticmethod
    def open(path: Path) -> ImageStore:
        """Maps a file that `build` has written.

        Raises:
            DataError: it is missing or torn.
        """
        try:
            recipe = json.loads(_recipe_path(path).read_text(encoding="utf-8"))
            pixels = np.memmap(path, np.uint8, "c", shape=tuple(recipe["shape"]))  # "c": torch wants it writable
            return ImageStore(torch.from_numpy(pixels), torch.tensor(recipe["labels"]))
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError(f"{path} is missing or torn; remove it, it will be built again") from None


def _stored(transform: EvalTransform | TrainTransform, seed: int | None) -> Transform:
    """Either transform as a function of a key; a store holds epoch 0 of an augmentation."""
    if isinstance(transform, EvalTransform):
        return functools.partial(_evaluated, transform)
    assert seed is not None, "an augmentation needs a seed"
    return functools.partial(_augmented, transform, seed)


def _recipe_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _recipe(
    images: ImageSet, indices: Indices, transform: EvalTransform | TrainTransform, seed: int | None
) -> dict[str, Any]:
    """What a store's bytes depend on."""
    paths = "\n".join(images.path(index) for index in indices.tolist())
    return {
        "images": images.name,
        "of": len(images),
        "chosen": hashlib.sha256(paths.encode(errors="surrogateescape")).hexdigest(),
        "transform": repr(transform),
        "seed": seed,
        "shape": [len(indices), 3, transform.image_size, transform.image_size],
        "labels": images.labels[indices].tolist(),
    }
