"""Make batches that depend on seed and step only, not on workers or restarts."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spos_cli import seeding
from spos_cli.data.image_files import UNREADABLE, Pixels
from spos_cli.data.image_set import ImageSet
from spos_cli.data.order import Indices, Order, Sampling, make_order
from spos_cli.data.transforms import Colours, EvalTransform, Prepared, TrainTransform
from spos_cli.data.workers import stream
from spos_cli.errors import ConfigError, DataError, SposError
from spos_cli.files.quoting import plural

# A sample: in training how often its image was drawn before, in an evaluation its position; and its index in the set.
Key = tuple[int, int]
Transform = Callable[[Pixels], Prepared]
Replacements = Callable[[Key], Iterable[int]]  # returns the indices to try instead of an unreadable image
TrainingBatch = tuple[Tensor, Tensor | None, Tensor]

MAX_REPLACEMENTS = 20  # images that are tried instead of an unreadable one
MAX_NAMED = 20  # unreadable images that one message names


class BadImages:
    """The unreadable training images that this process has met. Each is reported once; too many are an error.

    Args:
        limit: how many images may be unreadable.
        say: called with a sentence about each new one.
    """

    def __init__(self, limit: int, say: Callable[[str], object]) -> None:
        self.limit, self.say = limit, say
        self.problems: dict[str, str] = {}

    def add(self, problems: Mapping[str, str]) -> None:
        """Count those of `problems`, by path, that are new.

        Raises:
            DataError: there are more than the limit.
        """
        for path, problem in problems.items():
            if path in self.problems:
                continue
            self.problems[path] = problem
            if len(self.problems) > self.limit:
                listed = [problem.removeprefix(UNREADABLE) for problem in self.problems.values()]
                raise DataError(
                    f"{len(listed)} training images cannot be read so far, and data.bad_images is {self.limit}:"
                    f" {', '.join(listed[:3])}{', ...' if len(listed) > 3 else ''}; remove or replace them (spos doctor"
                    " --full, with the same options, lists them all) and start over with --fresh, or raise"
                    " data.bad_images"
                )
            self.say(f"{problem}; using another image instead")


def require_readable(problems: Collection[str], images: ImageSet, purpose: str) -> None:
    """Raise DataError, which names all images of an evaluation that cannot be read; without problems, do nothing.

    Args:
        problems: what is wrong with each of them.
        images: the set that they are in.
        purpose: what they are for, such as `to score on`.
    """
    if not problems:
        return
    listed = [problem.removeprefix(UNREADABLE) for problem in problems]
    more = f" and {len(listed) - MAX_NAMED:,} more" if len(listed) > MAX_NAMED else ""
    advice = f"is {images.name} still there?"
    if not images.is_gone():
        advice = (
            "remove or replace them, and run the command again (spos doctor --full, with the same options, lists all"
            " broken images, those to train on, too)"
        )
    raise DataError(
        f"{plural(len(listed), 'image')} {purpose} cannot be read: {', '.join(listed[:MAX_NAMED])}{more}; {advice}"
    )


class Sample(NamedTuple):
    """A transformed image on its way into a batch."""

    image: Tensor | None  # `(C, S, S) uint8`
    label: int | NDArray[np.float32] = 0  # or the share of each class, `(classes,)`
    colours: Colours | None = None
    problems: Mapping[str, str] = {}  # of the unreadable images that it replaces, by path
    error: SposError | None = None


class Batch(NamedTuple):
    """Samples of one batch: images `(b, C, S, S) uint8`, colours `(b, 3)`, labels and numbers `(b,)`; or an error.

    Soft labels are `(b, classes)`. Numbers are the first parts of the keys. If every image was unreadable and skipped,
    there is neither. A user's mistake is a value here, since torch would wrap an exception of a worker.
    """

    images: Tensor | None
    colours: Tensor | None
    labels: Tensor | None
    numbers: Tensor | None
    problems: Mapping[str, str]
    error: SposError | None


class Samples(Dataset[Batch]):
    """Transformed images by key, in batches.

    Args:
        images: where they come from.
        make_transform: makes the transform of an image by its key.
        replacements: indices of other images, tried in turn if the image of a key is unreadable; None makes that an
            error.
        skip_unreadable: do not replace an unreadable image: its sample has the problem, but no image.
        soft: labels are the shares of the classes, if the images have shares.
    """

    def __init__(
        self,
        images: ImageSet,
        make_transform: Callable[[Key], Transform],
        replacements: Replacements | None = None,
        *,
        skip_unreadable: bool = False,
        soft: bool = False,
    ) -> None:
        self.images, self.make_transform, self.replacements = images, make_transform, replacements
        self.skip_unreadable, self.shares = skip_unreadable, images.shares if soft else None
        self.fatal: SposError | None = None

    def __getitems__(self, keys: list[Key]) -> Batch:
        """Return the batch of some keys; if any sample is an error, the batch is the first one.

        The order of the work saves up to a tenth of the time, since large images leave little else in the processor's
        cache: all transforms with their random generators are made first, and each image is copied into the batch at
        once, so that the next one is made in the same memory.
        """
        transforms = list(map(self.make_transform, keys))
        pixels: Tensor | None = None  # (b, S, S, C)
        labels: list[int | NDArray[np.float32]] = []
        numbers: list[int] = []
        drawn: list[Colours] = []
        problems: dict[str, str] = {}
        error: SposError | None = None
        for key, transform in zip(keys, transforms, strict=True):
            sample = self._load(key, transform)
            problems.update(sample.problems)
            error = error or sample.error
            if sample.image is None:
                continue
            image = sample.image.permute(1, 2, 0)
            if pixels is None:
                pixels = image.new_empty((len(keys), *image.shape))
            pixels[len(labels)] = image
            labels.append(sample.label)
            numbers.append(key[0])
            if sample.colours is not None:
                drawn.append(sample.colours)
        if error is not None or pixels is None:
            return Batch(None, None, None, None, problems, error)
        images = pixels[: len(labels)].permute(0, 3, 1, 2)  # (b, C, S, S) in channels_last memory
        colours = torch.tensor(drawn) if drawn else None
        return Batch(images, colours, torch.from_numpy(np.array(labels)), torch.tensor(numbers), problems, None)

    def _load(self, key: Key, transform: Transform) -> Sample:
        """Return the sample of a key."""
        if self.fatal is not None:  # On a file system that is gone, each further file may block for long.
            return Sample(None, error=self.fatal)
        problems: dict[str, str] = {}
        for candidate in itertools.chain([key[1]], self._draw_replacements(key)):
            try:
                image, colours = transform(self.images.image(candidate))
                label = int(self.images.labels[candidate]) if self.shares is None else self.shares[candidate]
                return Sample(image, label, colours, problems)
            except DataError as error:
                problems[self.images.path(candidate)] = str(error)
            except ConfigError as error:  # The image is readable, but a setting does not fit it.
                return Sample(None, error=error)
        first = next(iter(problems.values()))
        if self.skip_unreadable:
            return Sample(None, problems=problems)
        if self.replacements is None:
            return Sample(None, error=DataError(first))
        hint = f"Is {self.images.name} still there?" if self.images.is_gone() else "spos doctor --full says why"
        self.fatal = DataError(
            f"{first}; none of {len(problems) - 1} other training images that were tried instead can be read either."
            f" {hint}"
        )
        return Sample(None, problems=problems, error=self.fatal)

    def _draw_replacements(self, key: Key) -> Iterator[int]:
        """Draw replacements only when the first one is needed, since almost every image is readable."""
        if self.replacements is not None:
            yield from self.replacements(key)


def draw_replacements(indices: Indices, seed: int, key: Key) -> list[int]:
    """Draw other training images for an unreadable one. Like its augmentation, they depend on seed and key only."""
    rng = seeding.generator(seed, "replacement", *key)
    positions = rng.choice(len(indices), min(MAX_REPLACEMENTS + 1, len(indices)), replace=False)
    return [index for index in indices[positions].tolist() if index != key[1]][:MAX_REPLACEMENTS]


def make_augmentation(transform: TrainTransform, seed: int, key: Key) -> Transform:
    """Make the augmentation of an image. It depends on seed and key only."""
    return functools.partial(transform, rng=seeding.generator(seed, "augment", *key))


def make_evaluation(transform: EvalTransform, key: Key) -> Transform:
    """Make the preparation of an image for an evaluation, whatever its key."""
    return lambda image: Prepared(transform(image))


def _keep(batch: Batch) -> Batch:
    """Return a batch as it is: `Samples` are whole batches."""
    return batch


def load_batches(
    samples: Samples,
    batches: Iterable[list[Key]],
    workers: int,
    pin_memory: bool = False,
    bad_images: BadImages | None = None,
) -> Iterator[Any]:
    """Yield a `Batch` for each list of keys, in their order.

    Raises:
        SposError: the error of the first batch that has one.
    """
    loaded = stream(samples, batches, workers, _keep, pin_memory)
    try:
        for batch in loaded:
            if bad_images is not None:
                bad_images.add(batch.problems)
            if batch.error is not None:
                raise batch.error
            yield batch
    finally:
        del loaded  # End the workers now: the traceback of an error would keep this frame alive.


def images_per_pass(batch_size: int, world_size: int, accumulate: int) -> int:
    """Count the images of one forward pass of one process.

    Raises:
        ConfigError: the global batch cannot be divided evenly.
    """
    parts = world_size * accumulate
    if batch_size % parts:
        raise ConfigError(
            f"batch_size {batch_size} is not divisible by {world_size} processes x accumulate {accumulate};"
            f" use a multiple of {parts}"
        )
    return batch_size // parts


class _TrainingKeys:
    """The keys of each batch of this process.

    The order of samples is an endless sequence of epochs. Step `s` takes the samples `s * batch_size` up to, but not
    including, `(s + 1) * batch_size`.
    """

    def __init__(
        self,
        order: Order,
        batch_size: int,
        steps: range,
        rank: int,
        world_size: int,
        accumulate: int,
    ) -> None:
        self.order, self.batch_size, self.steps = order, batch_size, steps
        self.rank, self.world_size, self.accumulate = rank, world_size, accumulate
        self.size = images_per_pass(batch_size, world_size, accumulate)

    def __iter__(self) -> Iterator[list[Key]]:
        draw, draws = functools.lru_cache(maxsize=2)(self.order.draw), len(self.order)
        for step in self.steps:
            for micro in range(self.accumulate):
                begin = step * self.batch_size + (micro * self.world_size + self.rank) * self.size
                keys = []
                for position in range(begin, begin + self.size):
                    epoch, position_in_epoch = divmod(position, draws)
                    number, index = draw(epoch)[position_in_epoch].tolist()
                    keys.append((number, index))
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
    bad_images: BadImages | None = None,
    sampling: Sampling = "uniform",
) -> Iterator[TrainingBatch]:
    """Return this process's batches of the steps from `first_step` up to, but not including, `last_step`.

    Args:
        images: where they come from.
        indices: the images to train on.
        transform: augments an image.
        seed: of order and augmentation.
        batch_size: images per step over all processes.
        first_step, last_step: the steps.
        rank, world_size: this process among all.
        accumulate: batches per step and process.
        workers: loader processes.
        pin_memory: page-locked memory, so that copies to a GPU do not block.
        bad_images: counts unreadable images, each of which is replaced by another one; None makes the first an error.
        sampling: which images an epoch has: each once, or each class equally often.

    Yields:
        Images `(b, C, S, S) uint8` in channels_last memory; their colour changes, `(b, 3)` float32, or None if there
        are none (`preprocess` takes both); and labels `(b,)`, or `(b, classes)` if the images have shares. `b` is
        `batch_size / (world_size * accumulate)`.

    Raises:
        ConfigError: the batch cannot be divided evenly, or a setting does not fit an image.
        DataError: an image is unreadable, or too many are.
    """
    order = make_order(sampling, indices, images.labels[indices], seed)
    keys = _TrainingKeys(order, batch_size, range(first_step, last_step), rank, world_size, accumulate)
    replacements = None if bad_images is None else functools.partial(draw_replacements, indices, seed)
    samples = Samples(images, functools.partial(make_augmentation, transform, seed), replacements, soft=True)
    loaded = load_batches(samples, keys, workers, pin_memory, bad_images)
    return ((batch.images, batch.colours, batch.labels) for batch in loaded)


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
    """Return this process's share of images, each image exactly once over all processes.

    Yields:
        Images `(b, C, S, S) uint8` in channels_last memory, labels `(b,)` and positions `(b,)` in `indices`. Batches
        are the same for any number of processes, which take turns; the last batch may be smaller.

    Raises:
        DataError: an image is unreadable.
        ConfigError: a setting does not fit an image.
    """
    batches = chunks(list(enumerate(indices.tolist())), batch_size)[rank::world_size]
    samples = Samples(images, functools.partial(make_evaluation, transform))
    loaded = load_batches(samples, batches, workers, pin_memory)
    return ((batch.images, batch.labels, batch.numbers) for batch in loaded)


def readable_batches(
    images: ImageSet,
    transform: EvalTransform,
    *,
    batch_size: int,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Return batches of all images in their order, without those that are unreadable.

    Yields:
        A `Batch`: its `numbers` are indices in `images`, its `problems` say which images are left out, and why. It has
        no tensors if all of its images are.

    Raises:
        ConfigError: a setting does not fit an image.
    """
    batches = chunks([(index, index) for index in range(len(images))], batch_size)
    samples = Samples(images, functools.partial(make_evaluation, transform), skip_unreadable=True)
    # A worker makes whole batches, and starting one takes longer than making a batch here.
    return load_batches(samples, batches, min(workers, len(batches) - 1), pin_memory)


def chunks(keys: list[Any], size: int) -> list[list[Any]]:
    """Divide keys into batches of `size`, in their order; the last one may be smaller."""
    return [keys[begin : begin + size] for begin in range(0, len(keys), size)]
