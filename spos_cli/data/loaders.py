"""Batches whose content depends on the seed and the step alone: not on workers, processes or restarts."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from spos_cli import seeding
from spos_cli.data.datasets import UNREADABLE, ImageSet, Pixels
from spos_cli.data.transforms import Colours, EvalTransform, Prepared, TrainTransform, recolour
from spos_cli.errors import ConfigError, DataError, SposError
from spos_cli.files.digests import file_digest

Indices = NDArray[np.int64]
Key = tuple[int, int]  # a sample: (epoch in training, position in evaluation; index into the image set)
Transform = Callable[[Pixels, Key], Prepared]
TrainingBatch = tuple[Tensor, Tensor | None, Tensor]


REPLACEMENTS = 20  # images that are tried for a broken one
PREFETCH = 2  # batches that each worker makes ahead


class BadImages:
    """The broken training images that this process has met: each is said once, and too many are an error.

    Args:
        limit: how many may be broken.
        say: is told of each new one, in a sentence.
    """

    def __init__(self, limit: int, say: Callable[[str], object]) -> None:
        self.limit, self.say = limit, say
        self.problems: dict[str, str] = {}

    def add(self, problems: Mapping[str, str]) -> None:
        """Counts what is new among problems by path.

        Raises:
            DataError: there are more than the limit.
        """
        for path, problem in problems.items():
            if path in self.problems:
                continue
            self.problems[path] = problem
            if len(self.problems) > self.limit:
                first = [problem.removeprefix(UNREADABLE) for problem in self.problems.values()]
                raise DataError(
                    f"{len(first)} training images cannot be read so far, and data.bad_images is {self.limit}:"
                    f" {', '.join(first[:3])}{', ...' if len(first) > 3 else ''}; remove or replace them (spos doctor"
                    " --full, with the same options, lists them all) and begin with --fresh, or raise data.bad_images"
                )
            self.say(f"{problem}; another one is taken instead")


class _Sample(NamedTuple):
    """A sample on its way from a worker; a mistake of the user is a value, since torch would wrap it."""

    image: Tensor | None  # `(3, S, S) uint8`
    label: int
    number: int
    colours: Colours | None = None
    problems: Mapping[str, str] = {}  # of images that it was drawn instead of, by path
    error: SposError | None = None


class _Batch(NamedTuple):
    """Samples of one batch: images `(b, 3, S, S) uint8`, colours `(b, 3)`, labels and numbers `(b,)`; or an error."""

    images: Tensor | None
    colours: Tensor | None
    labels: Tensor | None
    numbers: Tensor | None
    problems: Mapping[str, str]
    error: SposError | None


class _Samples(Dataset[_Sample]):
    """Transformed images by key.

    Args:
        instead: indices of other images, to be tried in turn if the image of a key is broken; None makes that an
            error.
    """

    def __init__(
        self, images: ImageSet, transform: Transform, instead: Callable[[Key], Iterable[int]] | None = None
    ) -> None:
        self.images, self.transform, self.instead = images, transform, instead
        self.lost: SposError | None = None

    def __getitem__(self, key: Key) -> _Sample:
        number, index = key
        if self.lost is not None:  # a file system that is gone may let us wait for each file
            return _Sample(None, 0, number, error=self.lost)
        problems: dict[str, str] = {}
        for chosen in itertools.chain([index], self._others(key)):
            try:
                image, colours = self.transform(self.images.image(chosen), key)
                return _Sample(image, int(self.images.labels[chosen]), number, colours, problems)
            except DataError as error:
                problems[self.images.path(chosen)] = str(error)
            except ConfigError as error:  # no image is broken: a setting is wrong
                return _Sample(None, 0, number, error=error)
        first = next(iter(problems.values()))
        if self.instead is None:
            return _Sample(None, 0, number, error=DataError(first))
        hint = f"Is {self.images.name} still there?" if self.images.is_gone() else "spos doctor --full says why"
        self.lost = DataError(
            f"{first}; nor can any of {len(problems) - 1} other training images that were tried instead. {hint}"
        )
        return _Sample(None, 0, number, problems=problems, error=self.lost)

    def _others(self, key: Key) -> Iterator[int]:
        """Drawn only when the first is asked for, since almost no image is broken."""
        if self.instead is not None:
            yield from self.instead(key)


def _drawn_instead(indices: Indices, seed: int, key: Key) -> list[int]:
    """Other training images for a broken one: a function of the sample's key, as its augmentation is."""
    rng = seeding.generator(seed, "replacement", *key)
    places = rng.choice(len(indices), min(REPLACEMENTS + 1, len(indices)), replace=False)
    return [index for index in indices[places].tolist() if index != key[1]][:REPLACEMENTS]


def _augmented(transform: TrainTransform, seed: int, image: Pixels, key: Key) -> Prepared:
    """What a sample looks like in an epoch: a function of its key."""
    return transform(image, seeding.generator(seed, "augment", *key))


def _recoloured(transform: TrainTransform, seed: int, image: Pixels, key: Key) -> Prepared:
    """The same with its colours changed, and rounded."""
    pixels, colours = _augmented(transform, seed, image, key)
    if colours is None:
        return Prepared(pixels)
    return Prepared(recolour(pixels[None], torch.tensor([colours]))[0].round().to(torch.uint8))


def _evaluated(transform: EvalTransform, image: Pixels, key: Key) -> Prepared:
    return Prepared(transform(image))


def _collate(samples: list[_Sample]) -> _Batch:
    problems = {path: problem for sample in samples for path, problem in sample.problems.items()}
    for sample in samples:
        if sample.error is not None:
            return _Batch(None, None, None, None, problems, sample.error)
    pixels = torch.stack([sample.image.permute(1, 2, 0) for sample in samples if sample.image is not None])
    labels, numbers = ([getattr(sample, name) for sample in samples] for name in ("label", "number"))
    drawn = [sample.colours for sample in samples if sample.colours is not None]
    colours = torch.tensor(drawn) if drawn else None
    images = pixels.permute(0, 3, 1, 2)  # channels_last
    return _Batch(images, colours, torch.tensor(labels), torch.tensor(numbers), problems, None)


def begin_worker(_: int) -> None:
    """One thread each, since workers share the cores with the training.

    A group of its own, since Ctrl-C and many a SIGTERM go to the whole group: the main process answers them, and
    needs its workers until the step is done.
    """
    torch.set_num_threads(1)
    if hasattr(os, "setpgrp"):
        os.setpgrp()


class _Piped(NamedTuple):
    """A tensor on its way through a pipe: its numbers as they lie in memory, its shape and its strides."""

    numbers: NDArray[Any]
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _hand_over(collate: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    """Make a batch in a worker, with its tensors in shared memory as far as that has room.

    A DataLoader moves them there later, in a thread whose errors nobody sees: it would drop the batch, and the main
    process would wait for it for ever. What has no room goes through a pipe, which is slower.
    """
    batch = collate(samples)
    return type(batch)(*map(_shared, batch)) if isinstance(batch, tuple) else batch


def _shared(field: Any) -> Any:
    if not isinstance(field, Tensor):
        return field
    if _has_room(field.nbytes):
        with contextlib.suppress(RuntimeError):  # no room after all, or no more files
            return field.share_memory_()  # type: ignore[no-untyped-call]
    numbers = field.as_strided((field.numel(),), (1,)).numpy()
    return _Piped(numbers, tuple(field.shape), field.stride())


def _has_room(size: int) -> bool:
    """Tell whether shared memory has room for so many bytes of each worker on this machine.

    Older versions of PyTorch do not ask before they write, and the system ends the worker.
    """
    worker, free = get_worker_info(), shared_memory_free()
    workers = (worker.num_workers if worker else 1) * int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return free is None or size * workers <= free


def _take_over(batch: Any) -> Any:
    """The batch of `_hand_over`, in the main process."""
    if not isinstance(batch, tuple):
        return batch
    return type(batch)(
        *(
            torch.from_numpy(field.numbers).as_strided(field.size, field.stride) if isinstance(field, _Piped) else field
            for field in batch
        )
    )


def shared_memory_needed(workers: int, images: int, image_size: int) -> int:
    """Count the bytes of shared memory that batches of `images` take on their way from `workers` of one process."""
    return PREFETCH * workers * images * 3 * image_size**2


def shared_memory_free() -> int | None:
    """Look up how many bytes of shared memory are free; None where the system does not tell (other than Linux)."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return None


def stream(
    dataset: Dataset[Any],
    batches: Iterable[list[Any]],
    workers: int,
    collate: Callable[[list[Any]], Any],
    pin_memory: bool = False,
) -> Iterator[Any]:
    """Batches of a dataset's items, by `workers` processes, which end with the iterator.

    What `collate` returns may be a named tuple with tensors in it.
    """
    with warnings.catch_warnings():
        # More workers than cores is the caller's choice; torch warns about it.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loaded = iter(
            DataLoader(
                dataset,
                batch_sampler=batches,
                num_workers=workers,
                prefetch_factor=PREFETCH if workers else None,
                collate_fn=functools.partial(_hand_over, collate) if workers else collate,
                pin_memory=pin_memory and torch.accelerator.is_available(),
                worker_init_fn=begin_worker,
                generator=torch.Generator().manual_seed(0),  # else torch draws a base seed from the global one
            )
        )
    return map(_take_over, loaded)


def _load(
    samples: _Samples, batches: Any, workers: int, pin_memory: bool, bad_images: BadImages | None = None
) -> Iterator[Any]:
    """Loads batches of keys in their order, as a `_Batch` each; raises what is wrong with one."""
    loaded = stream(samples, batches, workers, _collate, pin_memory)
    try:
        for batch in loaded:
            if bad_images is not None:
                bad_images.add(batch.problems)
            if batch.error is not None:
                raise batch.error
            yield batch
    finally:
        del loaded  # ends the workers now: an error's traceback keeps this frame


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
    bad_images: BadImages | None = None,
) -> Iterator[TrainingBatch]:
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
        bad_images: counts broken images, for each of which another one is drawn; None makes the first an error.

    Yields:
        Images `(b, 3, S, S) uint8` in channels_last memory, what is left to do with their colours, `(b, 3)` float32
        or None if that is nothing (both for `preprocess`), and labels `(b,)`; `b` is `batch_size / (world_size *
        accumulate)`.

    Raises:
        ConfigError: the batch cannot be shared out.
        DataError: an image is broken, or too many are; a ConfigError where a setting does not fit one.
    """
    keys = _TrainingKeys(indices, seed, batch_size, range(first_step, last_step), rank, world_size, accumulate)
    instead = None if bad_images is None else functools.partial(_drawn_instead, indices, seed)
    samples = _Samples(images, functools.partial(_augmented, transform, seed), instead)
    loaded = _load(samples, keys, workers, pin_memory, bad_images)
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
    """This process's share of images, each exactly once over all processes.

    Yields:
        Images `(b, 3, S, S) uint8` in channels_last memory, labels `(b,)` and positions `(b,)` in `indices`. Batches
        are the same for any number of processes, which take them in turn; the last one may be short.

    Raises:
        DataError: an image is broken; a ConfigError where a setting does not fit one.
    """
    batches = chunks(list(enumerate(indices.tolist())), batch_size)[rank::world_size]
    samples = _Samples(images, functools.partial(_evaluated, transform))
    return ((batch.images, batch.labels, batch.numbers) for batch in _load(samples, batches, workers, pin_memory))


def chunks(keys: list[Any], size: int) -> list[list[Any]]:
    """Keys in batches, in their order."""
    return [keys[begin : begin + size] for begin in range(0, len(keys), size)]


class ImageStore:
    """Transformed images in one memory-mapped file, so that all candidates and processes read the same bytes.

    Attributes:
        images: `(N, 3, S, S) uint8` in channels_last memory.
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
        """Decodes images once and writes `path`, and beside it its recipe, with a digest of the bytes.

        Args:
            seed: of the augmentation, colours included; with a TrainTransform only.
            progress: is told how many more are done.
            bad_images: counts broken images, for each of which another one is drawn, with a TrainTransform only; None
                makes the first an error.

        Raises:
            DataError: an image is broken, or too many are, or the disk is full.
            ConfigError: a setting does not fit an image.
        """
        size = transform.image_size
        needed = len(indices) * 3 * size * size
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        samples = _Samples(images, *_stored(transform, seed, indices, bad_images))
        described = _recipe(images, indices, transform, seed)  # first: a file may change while it is decoded
        keys = chunks([(0, index) for index in indices.tolist()], 64)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                shown: list[int] = []
                digest = hashlib.sha256()
                for batch in _load(samples, keys, workers, False, bad_images):
                    content = batch.images.permute(0, 2, 3, 1).numpy().tobytes()
                    digest.update(content)
                    file.write(content)
                    shown += batch.labels.tolist()
                    progress(len(batch.labels))
                file.flush()
                os.fsync(file.fileno())
            recipe = recipe_path(path)
            recipe.unlink(missing_ok=True)  # what is there describes the old file
            temporary.replace(path)
            described |= {"labels": shown, "sha256": digest.hexdigest()}
            recipe.write_text(json.dumps(described) + "\n", encoding="utf-8")
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
        """Whether `path` was built to this recipe and is whole, to the last bit."""
        try:
            found = _read_recipe(path)
            del found["labels"]  # a broken image was stored as another one, with the label of that
            digest = found.pop("sha256")
            return found == _recipe(images, indices, transform, seed) and digest == file_digest(path)
        except (OSError, *BROKEN_RECIPE):
            return False

    @staticmethod
    def open(path: Path) -> ImageStore:
        """Maps a file that `build` has written.

        Raises:
            DataError: it is missing or torn.
        """
        try:
            recipe = _read_recipe(path)
            pixels = np.memmap(path, np.uint8, "c", shape=tuple(recipe["shape"]))  # "c": torch wants it writable
            return ImageStore(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor(recipe["labels"]))
        except (OSError, *BROKEN_RECIPE):
            raise DataError(f"{path} is missing or torn; remove it, it will be built again") from None


def _stored(
    transform: EvalTransform | TrainTransform, seed: int | None, indices: Indices, bad_images: BadImages | None
) -> tuple[Transform, Callable[[Key], Iterable[int]] | None]:
    """Either transform as a function of a key, and what is drawn for a broken image.

    A store holds epoch 0 of an augmentation.
    """
    if isinstance(transform, EvalTransform):
        assert bad_images is None, "other images would be another evaluation"
        return functools.partial(_evaluated, transform), None
    assert seed is not None, "an augmentation needs a seed"
    instead = None if bad_images is None else functools.partial(_drawn_instead, indices, seed)
    return functools.partial(_recoloured, transform, seed), instead


def recipe_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


# What a recipe raises that is none: no JSON, or of another form, or nested without end.
BROKEN_RECIPE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def read_recipe(path: Path) -> dict[str, Any] | None:
    """What a store was built to, with its labels and the digest of its bytes; None if it is not whole."""
    try:
        return _read_recipe(path)
    except (OSError, *BROKEN_RECIPE):
        return None


def _read_recipe(path: Path) -> dict[str, Any]:
    """The recipe and the labels of a store that is whole; raises OSError or one of `BROKEN_RECIPE` if it is not."""
    recipe: dict[str, Any] = json.loads(recipe_path(path).read_text(encoding="utf-8"))
    shape, labels = recipe["shape"], recipe["labels"]
    numbers = [*shape, *labels]
    if not all(type(number) is int and 0 <= number < 2**31 for number in numbers) or len(labels) != shape[0]:
        raise ValueError("no sizes and labels")
    if len(shape) != 4 or path.stat().st_size != math.prod(shape):
        raise ValueError("of another size")
    return recipe


def _recipe(
    images: ImageSet, indices: Indices, transform: EvalTransform | TrainTransform, seed: int | None
) -> dict[str, Any]:
    """What a store's bytes depend on."""
    return {
        "images": images.name,
        "of": len(images),
        "chosen": paths_digest(images, indices),
        "versions": versions_digest(images, indices),
        "transform": repr(transform),
        "value_range": str(images.value_range),
        "seed": seed,
        "shape": [len(indices), transform.image_size, transform.image_size, 3],
    }


def paths_digest(images: ImageSet, indices: Indices) -> str:
    """SHA-256 of the names of images, in their order."""
    paths = "\n".join(images.path(index) for index in indices.tolist())
    return hashlib.sha256(paths.encode(errors="surrogateescape")).hexdigest()


def versions_digest(images: ImageSet, indices: Indices) -> str:
    """SHA-256 of what tells that images were replaced: sizes and times of files, or pixels."""
    return hashlib.sha256(images.versions[indices].astype("<i8").tobytes()).hexdigest()
