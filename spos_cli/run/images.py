"""The images of a run, as each command needs them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import fields
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spos_cli.config.data import AugmentationConfig
from spos_cli.config.schema import Config
from spos_cli.config.training import RetrainConfig, TrainingConfig
from spos_cli.data import cache, datasets, inspection, levels
from spos_cli.data.augmentation import Augmentation
from spos_cli.data.cache import ResizedSet
from spos_cli.data.class_checks import check_classes
from spos_cli.data.identity import Identity, TrainedOn, digest_images
from spos_cli.data.image_files import Decoding
from spos_cli.data.image_set import ImageSet
from spos_cli.data.loaders import (
    BadImages,
    TrainingBatch,
    evaluation_batches,
    images_per_pass,
    require_readable,
    training_batches,
)
from spos_cli.data.place import Place
from spos_cli.data.splits import holdout
from spos_cli.data.transforms import EvalTransform, TrainTransform, preprocess
from spos_cli.data.workers import shared_memory_free, shared_memory_needed
from spos_cli.engine import accelerator, distributed
from spos_cli.engine.distributed import Processes
from spos_cli.engine.progress import track, warn
from spos_cli.errors import ConfigError, DataError
from spos_cli.files import lock
from spos_cli.files.reading import read_json
from spos_cli.files.writing import write_atomically
from spos_cli.run.folder import RunFolder, name_at_size
from spos_cli.run.output import format_bytes
from spos_cli.run.preparation import make_normalisation
from spos_cli.space.image_size import ImageSize

PLACE_SETTINGS = {field.name for field in fields(Place)} - {"root", "decoding"}  # of the section `data`
SHARED_BY_SIZES = {"train", "val", "splits", "train_identity", "val_identity"}  # cached properties
CHECKED_IMAGES = 16  # images of each set whose values are checked before any work


class Images:
    """The images of a run. Nothing is read before it is asked for.

    Args:
        image_size: of the images of an evaluation; None for the size of the settings.

    Raises:
        DataError: images are missing, broken, too few, or of other classes than the space expects.
    """

    def __init__(self, config: Config, processes: Processes, image_size: ImageSize | None = None) -> None:
        self.config, self.data, self.processes = config, config.data, processes
        self.size = config.space.image_size
        # A training with random crops takes images of any size. Other trainings take images of the network's size,
        # which an evaluation then leaves unchanged.
        stored = self.data.augmentation.crop != "random_resized"
        self.evaluated_size = image_size or ImageSize(self.size, self.size)
        height, width = self.evaluated_size
        self.evaluation = EvalTransform(self.data.preset, height, stored=stored, width=width)
        self.normalisation = make_normalisation(config)
        self.preprocess = partial(preprocess, self.data.preset, normalisation=self.normalisation)
        self.decoding = Decoding(self.data.value_range, self.data.exif, config.space.stem.in_channels)
        self._trained_on: TrainedOn | None = None  # set by hold_out_as_in

    def at_size(self, side: int) -> Images:
        """Return the same images for networks of another image size; what was read of them is not read again.

        Args:
            side: in pixels; 0, as of an architecture without a size, changes nothing.
        """
        if side in (0, self.size):
            return self
        other = Images(self.config.at_size(side), self.processes)
        other._trained_on, other.bad_images = self._trained_on, self.bad_images
        vars(other).update({name: value for name, value in vars(self).items() if name in SHARED_BY_SIZES})
        return other

    @cached_property
    def train(self) -> ImageSet:
        """All training images, including the held-out ones."""
        return self._load("train")

    @cached_property
    def val(self) -> ImageSet:
        """The validation images, on which the final accuracy is reported."""
        return self._load("val")

    def _load(self, split: Literal["train", "val"]) -> ImageSet:
        data = self.data
        with self.processes.one_first():
            where = data.model_dump(include=PLACE_SETTINGS)
            return datasets.load(data.source, data.root, split, **where, decoding=self.decoding)

    @cached_property
    def splits(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of the training images to train on, and of those that are held out; the same in all stages.

        After `hold_out_as_in`, only images that were held out of the supernet's training are held out.
        """
        if self._trained_on is None:
            return holdout(self.train, self.data.holdout_per_class, self.data.holdout_share)
        held_out = self._trained_on.held_out_of(self.train, self.data.holdout_per_class, self.data.holdout_share)
        return np.setdiff1d(np.arange(len(self.train)), held_out), held_out

    def hold_out_as_in(self, trained_on: TrainedOn) -> None:
        """Hold out what was held out of a supernet's training and still exists."""
        self._trained_on = trained_on
        del self.splits

    @cached_property
    def train_identity(self) -> Identity:
        """Which training images there are, and which of them are held out, for files of the run."""
        return Identity.of(self.train, self.splits[1])

    @cached_property
    def val_identity(self) -> Identity:
        """Which validation images there are, for files of the run."""
        return Identity.of(self.val)

    @cached_property
    def augmented(self) -> TrainTransform:
        """How a training image is augmented for the supernet and for BatchNorm statistics of candidates."""
        return self._make_transform(self.data.augmentation)

    @cached_property
    def augmented_for_retraining(self) -> TrainTransform:
        """How a training image is augmented for a retraining."""
        chosen = self.config.retrain.augmentation
        return self.augmented if chosen is None else self._make_transform(chosen)

    def _make_transform(self, settings: AugmentationConfig) -> TrainTransform:
        return TrainTransform(self.data.preset, self.size, read_augmentation(settings), self.normalisation.mean)

    @cached_property
    def bad_images(self) -> BadImages:
        """The broken training images that this command has met. The first time, each causes a warning."""
        return BadImages(self.data.bad_images, warn)

    def batches(
        self,
        indices: NDArray[np.int64],
        training: TrainingConfig,
        first_step: int,
        last_step: int,
        seed: int | None = None,
    ) -> Iterator[TrainingBatch]:
        """Yield this process's training batches from `first_step` to before `last_step`.

        Args:
            seed: of order and augmentation; None for the seed of the run, which also says what is held out.
        """
        return training_batches(
            self.cached,
            indices,
            self.augmented_for_retraining if isinstance(training, RetrainConfig) else self.augmented,
            seed=self.config.seed if seed is None else seed,
            batch_size=training.batch_size,
            accumulate=training.accumulate,
            first_step=first_step,
            last_step=last_step,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            workers=self.data.workers,
            pin_memory=accelerator.pins_memory(self.processes.device),
            bad_images=self.bad_images,
            sampling=training.sampling,
        )

    def val_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield this process's share of the validation images: images, labels, indices."""
        return evaluation_batches(
            self.val,
            np.arange(len(self.val)),
            self.evaluation,
            batch_size=batch_size,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            workers=self.data.workers,
            pin_memory=accelerator.pins_memory(self.processes.device),
        )

    @cached_property
    def to_augment(self) -> ImageSet:
        """The training images before augmentation. With `data.store`, they are no larger than augmentation needs."""
        if self.data.store == "none" or self.train.in_memory:
            return self.train
        return ResizedSet(self.train, self.evaluation.short_side)

    @cached_property
    def cached(self) -> ImageSet:
        """The same images, from a cache if `data.store` asks for one. All processes must ask at the same time.

        Raises:
            DataError: too many images are broken, or there is no room for the cache.
            ConfigError: several processes would each need the memory.
            RunError: another command fills the cache.
        """
        images = self.to_augment
        if not isinstance(images, ResizedSet):
            return images
        return self._cache_in_memory(images) if self.data.store == "ram" else self._cache_on_disk(images)

    def _cache_in_memory(self, images: ResizedSet) -> ImageSet:
        if self.processes.world_size > 1:
            raise ConfigError(
                f"data.store is ram, but {self.processes.world_size} processes would hold the images once each; use"
                " data.store: disk, whose file they share"
            )
        training, _ = self.splits
        with track("caching training images", len(training), "images") as task:
            return cache.keep_in_memory(
                images, training, self.bad_images, workers=self.data.workers, progress=task.advance
            )

    def _cache_on_disk(self, images: ResizedSet) -> ImageSet:
        folder, (training, _) = RunFolder(self.config.folder), self.splits
        path = folder.cache
        if self.config.space.image_sizes == (self.size,):  # A stand-alone network leaves the supernet's cache in place.
            path = name_at_size(path, self.size)
        if self.processes.is_main:
            with lock.hold(folder.cache_lock):
                size = path.stat().st_size if path.exists() else 0
                with track("checking cached training images", size, "bytes", quiet=not size) as task:
                    cached = cache.read(path, images, training, progress=task.advance)
                if cached is None:
                    with track("caching training images", len(training), "images") as task:
                        cache.write(
                            path, images, training, self.bad_images, workers=self.data.workers, progress=task.advance
                        )
        self.processes.barrier()
        cached = cache.read(path, images, training, check=False)
        if cached is None:
            raise DataError(f"{path} is missing or torn; all machines need the same run folder")
        return cached

    def check(self) -> None:
        """Check that both sets and the space have the same classes, and look at the values of some images.

        Also check that all processes see the same images, and warn of what the user may not expect of the sets.

        Raises:
            DataError: the classes differ, there are too few images to hold out, or processes see different images.
            ConfigError: `data.value_range` does not fit the images, or the augmentation not an image size.
        """
        for side in self.config.space.image_sizes:
            _ = self.at_size(side).augmented
        both = self.train, self.val  # All processes load them together.
        for images in both if self.processes.is_main else ():
            for note in images.list_notes():
                warn(note)
        check_classes(self.train, self.val, self.config.space.classes)
        _ = self.splits
        self.require_same_everywhere(train=True)
        self.check_levels(self.train, self.val)

    def require_same_everywhere(self, *, train: bool) -> None:
        """Raise DataError, in all processes, if they do not all see the same images.

        Args:
            train: compare the training images, too.
        """
        if self.processes.world_size == 1:
            return
        sets = [("validation", self.val, self.val_identity)]
        if train:
            sets.insert(0, ("training", self.train, self.train_identity))
        for purpose, images, identity in sets:
            ours = torch.tensor([identity.number, len(images)], device=self.processes.device)
            rows = self.processes.gather(ours).tolist()  # (processes, 2)
            if any(row != rows[0] for row in rows):
                counts = " and ".join(f"{count:,}" for count in dict.fromkeys(count for _, count in rows))
                raise DataError(
                    f"the processes do not see the same {purpose} images ({counts} in {images.name}); all machines need"
                    " the same files"
                )

    def require_readable_held_out(self, record: Path) -> None:
        """Decode the images that a search will score on, before a training that it would otherwise end after.

        All processes must ask at the same time; the first one decodes.

        Args:
            record: a file that says for which images this was done. For the same images it is not done again.

        Raises:
            DataError: some cannot be read; the message names all of them.
        """
        held_out = self.splits[1]
        if self.config.search.split != "holdout" or self.train.in_memory:
            return
        digest = digest_images(self.train, held_out)
        if self.processes.is_main and read_json(record).get("readable") != digest:
            with track("checking held-out images", len(held_out), "images") as task:
                problems = inspection.find_unreadable(self.train, held_out, self.data.workers, task.advance)
            require_readable(problems.values(), self.train, "that are held out for the search")
            write_atomically(record, (json.dumps({"readable": digest}) + "\n").encode())
        self.processes.barrier()

    def check_levels(self, *sets: ImageSet) -> None:
        """Look at the values of some images of each set, so that a wrong `data.value_range` fails now, not hours later.

        Raises:
            ConfigError: `data.value_range` does not fit the images.
        """
        for images in sets:
            indices = np.unique(np.linspace(0, len(images) - 1, CHECKED_IMAGES).astype(int))
            measured = inspection.measure_values(images, indices)
            levels.require(measured, self.data.value_range)
            for doubt in levels.list_doubts(measured, self.data.value_range) if self.processes.is_main else ():
                warn(f"{images.name}, {doubt}")

    def warn_of_small_shared_memory(self, training: TrainingConfig) -> None:
        """Warn if shared memory has no room for the batches of a training: they then take a slower way."""
        free, processes_here = shared_memory_free(), distributed.count_local_processes()
        size = images_per_pass(training.batch_size, self.processes.world_size, training.accumulate)
        needed = processes_here * shared_memory_needed(self.data.workers, size, self.size, self.decoding.channels)
        if free is not None and needed > free and self.processes.is_main:
            warn(
                f"/dev/shm has {format_bytes(free)} free, and batches on their way from the loader workers take up to"
                f" {format_bytes(needed)}: batches that do not fit are sent through slower pipes;"
                f" {advise_shared_memory(needed)}"
            )


def read_augmentation(settings: AugmentationConfig) -> Augmentation:
    """Return a section of the config in the form that the loader takes."""
    values = settings.model_dump(exclude={"policy", "rand_augment"})
    chosen = settings.rand_augment
    return Augmentation(**values, rand_augment=None if chosen is None else (chosen.ops, chosen.magnitude))


def advise_shared_memory(needed: int) -> str:
    """Return what to do where /dev/shm has less room than `needed` bytes."""
    return f"give /dev/shm more room (docker run --shm-size={math.ceil(2 * needed / 2**30)}g), or lower data.workers"
