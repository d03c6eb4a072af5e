"""Transformed images in one file, so that all candidates see the same bytes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spos_cli.data import pixel_file
from spos_cli.data.image_files import Pixels
from spos_cli.data.image_set import ImageSet
from spos_cli.data.loaders import (
    BadImages,
    Key,
    Replacements,
    Samples,
    Transform,
    chunks,
    draw_replacements,
    load_batches,
    make_augmentation,
    make_evaluation,
    require_readable,
)
from spos_cli.data.order import Indices
from spos_cli.data.pixel_file import MANIFEST_ERRORS
from spos_cli.data.transforms import EvalTransform, Prepared, TrainTransform, recolour
from spos_cli.errors import DataError
from spos_cli.files.digests import file_digest
from spos_cli.files.os_errors import reason_of

IMAGES_PER_BATCH = 64  # that a worker decodes at a time


class ImageStore:
    """Transformed images in one memory-mapped file, which all processes share.

    Attributes:
        images: `(N, C, S, S) uint8` in channels_last memory.
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
        bad_images: BadImages | None = None,
    ) -> None:
        """Transform images and write them to `path`, with a manifest beside it.

        Args:
            path: the file to write.
            images: where they come from.
            indices: the images to write, in their order.
            transform: prepares an image.
            seed: of the augmentation, colours included; with a TrainTransform only.
            workers: loader processes.
            progress: called with the number of images just written.
            bad_images: counts unreadable images, each of which is replaced by another one, with a TrainTransform only.
                Without it, unreadable images are an error, which names all of them.

        Raises:
            DataError: images are unreadable, or too many are, or the disk is full.
            ConfigError: a setting does not fit an image.
        """
        make_transform, replacements = _prepare(transform, seed, indices, bad_images)
        samples = Samples(images, make_transform, replacements, skip_unreadable=bad_images is None)
        # Made before decoding, so that a file that changes meanwhile is noticed the next time.
        manifest = _make_manifest(images, indices, transform, seed)
        labels: list[int] = []
        problems: dict[str, str] = {}

        def decode() -> Iterator[bytes]:
            keys = chunks([(0, index) for index in indices.tolist()], IMAGES_PER_BATCH)
            loaded = load_batches(samples, keys, workers, bad_images=bad_images)
            for batch, keys_of_batch in zip(loaded, keys, strict=True):
                if bad_images is None:
                    problems.update(batch.problems)
                if not problems:
                    labels.extend(batch.labels.tolist())
                    yield batch.images.permute(0, 2, 3, 1).numpy().tobytes()
                progress(len(keys_of_batch))
            require_readable(problems.values(), images, "to score on")

        try:
            pixel_file.write(path, decode(), lambda digest: {**manifest, "labels": labels, "sha256": digest})
        except OSError as error:
            size = math.prod(manifest["shape"])
            raise DataError(f"cannot write {path} ({size:,} bytes): {reason_of(error)}") from None

    @staticmethod
    def matches(
        path: Path,
        images: ImageSet,
        indices: Indices,
        transform: EvalTransform | TrainTransform,
        *,
        seed: int | None = None,
    ) -> bool:
        """Tell whether `path` holds exactly these images, transformed in this way, undamaged to the last bit."""
        try:
            manifest = _read_complete_manifest(path)
            del manifest["labels"]  # An unreadable image was replaced by another one, with that one's label.
            digest = manifest.pop("sha256")
            expected = _make_manifest(images, indices, transform, seed)
            return bool(manifest == expected and digest == file_digest(path))
        except MANIFEST_ERRORS:
            return False

    @staticmethod
    def open(path: Path) -> ImageStore:
        """Map a file that `build` has written.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            manifest = _read_complete_manifest(path)
            # Mode "c": torch requires writable memory, and changes do not reach the file.
            pixels = np.memmap(path, np.uint8, "c", shape=tuple(manifest["shape"]))
            return ImageStore(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor(manifest["labels"]))
        except MANIFEST_ERRORS:
            raise DataError(f"{path} is missing or torn; remove it and run the command again to rebuild it") from None


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest of an image store, with its labels and the digest of its bytes; None if it is damaged."""
    try:
        return _read_complete_manifest(path)
    except MANIFEST_ERRORS:
        return None


def _read_complete_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of an image store; raise one of `MANIFEST_ERRORS` if it or the file is not complete."""
    manifest = pixel_file.read_manifest(path)
    shape, labels = manifest["shape"], manifest["labels"]
    numbers = [*shape, *labels]
    if not all(type(number) is int and 0 <= number < 2**31 for number in numbers) or len(labels) != shape[0]:
        raise ValueError("sizes or labels are missing")
    if len(shape) != 4 or path.stat().st_size != math.prod(shape):
        raise ValueError("the file has another size")
    return manifest


def _make_manifest(
    images: ImageSet, indices: Indices, transform: EvalTransform | TrainTransform, seed: int | None
) -> dict[str, Any]:
    """Return everything that the bytes of an image store depend on."""
    return {
        **pixel_file.describe_images(images, indices),
        "transform": repr(transform),
        "seed": seed,
        "shape": [len(indices), transform.image_size, transform.image_size, images.decoding.channels],
    }


def _prepare(
    transform: EvalTransform | TrainTransform, seed: int | None, indices: Indices, bad_images: BadImages | None
) -> tuple[Callable[[Key], Transform], Replacements | None]:
    """Return what makes either transform of a key, and the function that draws replacements, if any.

    A store holds epoch 0 of an augmentation.
    """
    if isinstance(transform, EvalTransform):
        assert bad_images is None, "with other images it would be another evaluation"
        return functools.partial(make_evaluation, transform), None
    assert seed is not None, "an augmentation needs a seed"
    replacements = None if bad_images is None else functools.partial(draw_replacements, indices, seed)
    return functools.partial(_make_augmentation_with_colours, transform, seed), replacements


def _make_augmentation_with_colours(transform: TrainTransform, seed: int, key: Key) -> Transform:
    """Make an augmentation that changes colours as well, which in training happens on the device; round to 8 bits."""
    augment = make_augmentation(transform, seed, key)

    def augment_with_colours(image: Pixels) -> Prepared:
        pixels, colours = augment(image)
        if colours is None:
            return Prepared(pixels)
        return Prepared(recolour(pixels[None], torch.tensor([colours]))[0].round().to(torch.uint8))

    return augment_with_colours
