"""The images of an experiment, and how each command sees them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spos_cli.config.identity import value_range
from spos_cli.config.schema import Config, TrainingConfig
from spos_cli.data import cache, datasets, identity, inspection, levels
from spos_cli.data.cache import ResizedSet
from spos_cli.data.identity import Identity, TrainedOn
from spos_cli.data.loaders import (
    BadImages,
    TrainingBatch,
    evaluation_batches,
    images_per_pass,
    training_batches,
)
from spos_cli.data.transforms import Augmentation, EvalTransform, TrainTransform, preprocess
from spos_cli.data.workers import shared_memory_free, shared_memory_needed
from spos_cli.engine import accelerator, distributed
from spos_cli.engine.distributed import Processes
from spos_cli.engine.progress import track, warn
from spos_cli.errors import ConfigError, DataError, RunError
from spos_cli.files import lock
from spos_cli.run.folder import RunFolder
from spos_cli.run.output import in_bytes

LOOKED_AT = 16  # images of a set, before any work


class Images:
    """The images of an experiment, and how each stage sees them.

    Raises:
        DataError: they are missing, broken, too few, or of other classes than the space expects.
    """

    def __init__(self, config: Config, processes: Processes) -> None:
        self.config, self.data, self.processes = config, config.data, processes
        self.size = config.space.image_size
        # A training that crops at random takes images of any size; one that only shifts them takes them as stored.
        stored = self.data.augmentation.crop != "random_resized"
        self.evaluation = EvalTransform(self.data.preset, self.size, stored=stored)
        self.preprocess = partial(preprocess, self.data.preset)
        self.supernet: TrainedOn | None = None  # what it was trained on, where its images are to be scored on

    def _load(self, split: Any) -> datasets.ImageSet:
        data = self.data
        with self.processes.one_first():
            return datasets.load(
                data.source,
                data.root,
                split,
                train_folder=data.train_folder,
                val_folder=data.val_folder,
                value_range=data.value_range,
            )

    @cached_property
    def train(self) -> datasets.ImageSet:
        """All training images, the held-out ones among them."""
        return self._load("train")

    @cached_property
    def val(self) -> datasets.ImageSet:
        """The images that the final accuracy is reported on."""
        return self._load("val")

    @cached_property
    def splits(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of the training images without the held-out ones, and of those; the same in all stages.

        For candidates of a supernet that says what was held out of its training, these are what is still there of that.
        """
        if self.supernet is None:
            return datasets.holdout(self.train, self.data.holdout_per_class)
        held_out = self.supernet.held_out_of(self.train, self.data.holdout_per_class)
        return np.setdiff1d(np.arange(len(self.train)), held_out), held_out

    @cached_property
    def train_identity(self) -> Identity:
        """What a run remembers of the training images, and of which are held out."""
        return Identity.of(self.train, self.splits[1])

    @cached_property
    def val_identity(self) -> Identity:
        """What a run remembers of the validation images."""
        return Identity.of(self.val)

    def identities(self, *, val: bool) -> dict[str, Identity]:
        """What a result depends on: the training images, and the validation images where it has seen them."""
        return {"training": self.train_identity, **({"validation": self.val_identity} if val else {})}

    def remembered(self, *, val: bool) -> dict[str, Any]:
        """The same for a file, which `require_same` compares with, and how values become 8 bits."""
        found = {purpose: found.to_dict() for purpose, found in self.identities(val=val).items()}
        return {**found, "value_range": value_range(self.config)}

    def require_same(self, remembered: Any, what: str, *, val: bool) -> None:
        """Raises RunError if what is on the disk was made with other images; `what` begins the message.

        A range of values may be named where none was needed before: then all images were of 8 bits.
        """
        identity.require_same(self.identities(val=val), remembered, what)
        ours, theirs = value_range(self.config), remembered.get("value_range", "auto")
        if theirs not in ("auto", ours):
            raise RunError(
                f"{what} with data.value_range: {theirs}, not {ours}; use that, another --run-dir, or --fresh to start"
                " over"
            )

    def require_same_classes(self, remembered: Any, what: str) -> None:
        """Raises RunError if labels mean other classes than when something on the disk was made."""
        before = Identity.read(remembered.get("training")) if isinstance(remembered, dict) else None
        if before is None:
            raise RunError(f"{what} of images that it does not name; use another --run-dir, or --fresh to start over")
        if said := self.train_identity.other_classes(before):
            raise RunError(
                f"{what} of other images ({said}); give the folders their names again, use another --run-dir, or"
                " --fresh to start over"
            )

    def said_to_differ(self, settings: dict[str, Any]) -> str:
        """What has changed since a search has kept its settings, in brackets; empty if names and sizes have not."""
        before = settings["images"]
        said = identity.describe_changes(self.identities(val="validation" in before), before)
        return f" ({'; '.join(said)})" if said else ""

    def require_resumable(self, remembered: Any, what: str) -> None:
        """The same for a training that goes on. Other validation images are said: no weight depends on them.

        Raises:
            RunError: the training images are others, or the classes of the validation images.
        """
        self.require_same(remembered, what, val=False)
        before = Identity.read(remembered.get("validation"))
        if before is None or (changes := self.val_identity.changes(before)) == []:
            return
        if self.val_identity.other_classes(before):
            raise RunError(f"{what} with other validation images ({'; '.join(changes)}); restore those, or use --fresh")
        if self.processes.is_main:
            warn(f"{what} with other validation images ({'; '.join(changes)}): accuracies from here on are of these")

    def compare_with(self, trained: TrainedOn | None, path: Path, *, scoring: bool = False) -> None:
        """Compares the training images with those that a supernet was trained on, and says what has changed.

        Files may have been added or removed since: what was held out then stays held out.

        Args:
            trained: what the supernet's file says; None if it says nothing, as an official one.
            path: of the supernet.
            scoring: whether candidates are to be scored on held-out training images (`splits`).

        Raises:
            RunError: labels would mean other classes, or all images to score on may have been trained on.
        """
        said = []
        if trained is None:
            said.append(f"{path} does not say which images it was trained on, so that cannot be checked")
            if scoring:
                said.append("see that those to score on were not among them")
        else:
            trained.require_same_classes(self.train_identity, path)
            if changes := self.train_identity.changes(trained.identity, split=False):
                said.append(f"the training images are not all those that {path} was trained on ({'; '.join(changes)})")
            if scoring:
                usual = self.splits[1]
                if np.isin(self.train.names, trained.held_out[:, 0]).any():
                    self.supernet = trained
                    del self.splits
                left = self.splits[1]
                trained.require_unseen(self.train, self.train_identity, left, path)
                if len(left) < len(usual):
                    said.append(f"candidates are scored on {len(left):,} images, since no others were held out then")
                elif changes:
                    said.append(f"the {len(left):,} images to score on were held out then, too")
        if said and self.processes.is_main:
            warn("; ".join(said))

    @cached_property
    def to_augment(self) -> datasets.ImageSet:
        """The training images as augmentation takes them: with `data.store`, no larger than it needs them."""
        if self.data.store == "none" or isinstance(self.train, datasets.ArraySet):
            return self.train
        return ResizedSet(self.train, self.evaluation.short_side)

    @cached_property
    def stored(self) -> datasets.ImageSet:
        """The same images, decoded once if `data.store` says so; all processes ask for them at the same time.

        Raises:
            DataError: too many are broken, or there is no room for them.
            ConfigError: several processes would each need the memory.
            RunError: another command is storing them.
        """
        images, processes = self.to_augment, self.processes
        if not isinstance(images, ResizedSet):
            return images
        training, _ = self.splits
        options = {"workers": self.data.workers}
        if self.data.store == "ram":
            if processes.world_size > 1:
                raise ConfigError(
                    f"data.store is ram, but {processes.world_size} processes would hold the images once each; use"
                    " data.store: disk, whose file they share"
                )
            with track("storing training images", len(training), "images") as task:
                return cache.keep_in_memory(images, training, self.bad_images, progress=task.advance, **options)
        path = RunFolder(self.config.folder).cache
        if processes.is_main:
            with lock.hold(RunFolder(self.config.folder).cache_lock):
                size = path.stat().st_size if path.exists() else 0
                with track("checking stored training images", size, "bytes", quiet=not size) as task:
                    found = cache.read(path, images, training, progress=task.advance)
                if found is None:
                    with track("storing training images", len(training), "images") as task:
                        cache.write(path, images, training, self.bad_images, progress=task.advance, **options)
        processes.barrier()
        found = cache.read(path, images, training, check=False)
        if found is None:
            raise DataError(f"{path} is missing or torn; all machines need the same run folder")
        return found

    @cached_property
    def augmented(self) -> TrainTransform:
        """How training images are prepared."""
        return TrainTransform(self.data.preset, self.size, Augmentation(**self.data.augmentation.model_dump()))

    @cached_property
    def bad_images(self) -> BadImages:
        """The broken training images of this command; each is said when it is first met."""
        return BadImages(self.data.bad_images, warn)

    def check(self) -> None:
        """Compares the classes of both sets and the space, divides the training images, and looks at some images.

        All processes must see the same. Says how many files are passed over, which nobody may have meant.
        """
        sets = self.train, self.val  # all processes load them together
        for images in sets if self.processes.is_main else ():
            if isinstance(images, datasets.FolderSet) and (count := images.other_files.total()):
                files = "1 file is" if count == 1 else f"{count:,} files are"
                warn(f"{images.name}: {files} passed over: {datasets.describe_kinds(images.other_files)}")
        datasets.check_classes(self.train, self.val, self.config.space.classes)
        _ = self.splits
        self.require_same_everywhere(train=True)
        self.check_levels(self.train, self.val)

    def require_same_everywhere(self, *, train: bool) -> None:
        """Raises DataError, in all processes, if they do not all see the same images.

        Args:
            train: compare the training images, too.
        """
        if self.processes.world_size == 1:
            return
        sets = [("validation", self.val, self.val_identity)]
        if train:
            sets.insert(0, ("training", self.train, self.train_identity))
        for purpose, images, found in sets:
            ours = torch.tensor([found.number, len(images)], device=self.processes.device)
            seen = self.processes.gather(ours).tolist()
            if any(row != seen[0] for row in seen):
                counts = " and ".join(f"{count:,}" for count in dict.fromkeys(count for _, count in seen))
                raise DataError(
                    f"the processes do not see the same {purpose} images ({counts} in {images.name}); all machines need"
                    " the same files"
                )

    def check_levels(self, *sets: datasets.ImageSet) -> None:
        """Looks at the values of some images of each set, so that a setting that does not fit them ends no long work.

        Raises:
            ConfigError: `data.value_range` does not fit them.
        """
        for images in sets:
            chosen = np.unique(np.linspace(0, len(images) - 1, LOOKED_AT).astype(int))
            found = inspection.levels_of(images, chosen)
            levels.require(found, self.data.value_range)
            for doubt in levels.list_doubts(found, self.data.value_range) if self.processes.is_main else ():
                warn(f"{images.name}, {doubt}")

    def warn_of_small_shared_memory(self, training: TrainingConfig) -> None:
        """Say it if shared memory has no room for the batches of a training, which are then slower on their way."""
        free, here = shared_memory_free(), distributed.processes_here()
        size = images_per_pass(training.batch_size, self.processes.world_size, training.accumulate)
        needed = here * shared_memory_needed(self.data.workers, size, self.size)
        if free is not None and needed > free and self.processes.is_main:
            warn(
                f"/dev/shm has {in_bytes(free)} free, and batches on their way from the loader workers take up to"
                f" {in_bytes(needed)}: what finds no room goes through slower pipes; {more_shared_memory(needed)}"
            )

    def batches(
        self,
        indices: NDArray[np.int64],
        training: TrainingConfig,
        first_step: int,
        last_step: int,
    ) -> Iterator[TrainingBatch]:
        """Training batches of the steps from `first_step` up to but without `last_step`."""
        return training_batches(
            self.stored,
            indices,
            self.augmented,
            seed=self.config.seed,
            batch_size=training.batch_size,
            accumulate=training.accumulate,
            first_step=first_step,
            last_step=last_step,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            workers=self.data.workers,
            pin_memory=accelerator.pins_memory(self.processes.device),
            bad_images=self.bad_images,
        )

    def val_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """This process's share of the validation set: images, labels, positions."""
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


def more_shared_memory(needed: int) -> str:
    """What to do where /dev/shm has less room than so many bytes."""
    return f"give /dev/shm more room (docker run --shm-size={math.ceil(2 * needed / 2**30)}g), or lower data.workers"
