"""What the stages share: the run folder, the images of an experiment, and how results are shown."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spos_cli import seeding
from spos_cli.config import Config, TrainingConfig
from spos_cli.data import datasets, identity, inspection, levels, resized
from spos_cli.data.identity import Identity, TrainedOn
from spos_cli.data.loaders import (
    BadImages,
    TrainingBatch,
    evaluation_batches,
    images_per_pass,
    shared_memory_free,
    shared_memory_needed,
    training_batches,
)
from spos_cli.data.resized import ResizedSet
from spos_cli.data.transforms import Augmentation, EvalTransform, TrainTransform, preprocess
from spos_cli.engine import accelerator, checkpoint, distributed, history, lock
from spos_cli.engine.distributed import Processes
from spos_cli.engine.history import Guessing, find_guessing
from spos_cli.engine.optim import Schedule
from spos_cli.engine.progress import track, warn
from spos_cli.engine.trainer import Recipe
from spos_cli.errors import ConfigError, DataError, RunError
from spos_cli.space.search_space import SearchSpace
from spos_cli.stages.run_folder import Command


@dataclass(frozen=True)
class Run(Command):
    """One command of an experiment, with what needs torch.

    Attributes:
        fresh: start the stage over; what was there is kept under another name.
        tensorboard: mirror the scalars of the metrics to TensorBoard's files.
    """

    fresh: bool = False
    tensorboard: bool = False

    @contextlib.contextmanager
    def working_in(self, stage: Path, processes: Processes) -> Iterator[None]:
        """Within, this run alone works in a stage's folder.

        With `fresh`, what the stage left before is set aside first. What a kill has left half written is removed.

        Raises:
            RunError: another run works there, or the folder cannot be changed.
        """
        with contextlib.ExitStack() as held:
            if processes.is_main:
                held.enter_context(lock.hold(self.lock_of(stage)))
                try:
                    if self.fresh:
                        self._start_over(stage)
                    for torn in stage.glob(".*.tmp"):
                        torn.unlink()
                except OSError as error:
                    raise RunError(f"cannot change {stage}: {error.strerror or error}") from None
            processes.barrier()
            yield

    def _start_over(self, stage: Path) -> None:
        """Sets aside what the stage left, once a launch: processes that are started again go on."""
        launch, mark = distributed.launch_id(), self.folder / f".{self.name_of(stage)}.fresh"
        if launch == "none":
            raise RunError(
                "under torchrun, --fresh needs an --rdzv-id of its own, so that a machine that comes back goes on"
                " instead of starting over"
            )
        if launch is not None and mark.exists() and mark.read_text(encoding="utf-8") == launch:
            return
        # An audit is of its search.
        for folder in [stage, self.audit_folder] if stage == self.search_folder else [stage]:
            if folder.exists():
                self._set_aside(folder)
        if launch is not None:
            checkpoint.write_atomically(mark, launch.encode())

    def _set_aside(self, stage: Path) -> None:
        """Moves `<run>/<stage>` to `<run>/previous/<stage>-<n>`."""
        name, number = self.name_of(stage), 1
        while (aside := self.folder / "previous" / f"{name}-{number}").exists():
            number += 1
        aside.parent.mkdir(exist_ok=True)
        stage.rename(aside)
        self.say(f"kept the earlier {stage} as {aside}")

    def record_config(self, stage: Path, processes: Processes) -> None:
        """Writes the resolved settings to the run folder, and to the stage's; when nothing speaks against them.

        Those of an audit's short trainings are not the run's.
        """
        if processes.is_main:
            for folder in (stage,) if self.audit_folder in stage.parents else (self.folder, stage):
                checkpoint.write_atomically(folder / "config.yaml", self.config.to_yaml().encode())

    def record_settings(self) -> None:
        """Writes the resolved settings to the run folder, from a command that has no stage of its own there.

        Once a stage has begun, those of the stages stay: this command may have been no more than a question.
        """
        stages = (self.supernet_folder, self.search_folder, *self.retrain_folder.glob("*"))
        if not any((stage / "config.yaml").is_file() for stage in stages):
            checkpoint.write_atomically(self.folder / "config.yaml", self.config.to_yaml().encode())


def in_columns(space: SearchSpace, cells: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Texts of each choice, by layer, in columns of which each is of one choice: their titles, and the rows."""
    columns = list(dict.fromkeys(choice for layer in space.layers for choice in layer.choices))
    names = Counter(choice.name for choice in columns)
    titles = [choice.name if names[choice.name] == 1 else str(choice) for choice in columns]
    by_choice = [dict(zip(layer.choices, texts, strict=True)) for layer, texts in zip(space.layers, cells, strict=True)]
    return titles, [[of_layer.get(choice, "") for choice in columns] for of_layer in by_choice]


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
        said = identity.differing(self.identities(val="validation" in before), before)
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
                return resized.keep_in_memory(images, training, self.bad_images, progress=task.advance, **options)
        path = self.config.folder / "store" / "train.u8"
        if processes.is_main:
            with lock.hold(self.config.folder / ".store.lock"):
                size = path.stat().st_size if path.exists() else 0
                with track("checking stored training images", size, "bytes", quiet=not size) as task:
                    found = resized.read(path, images, training, progress=task.advance)
                if found is None:
                    with track("storing training images", len(training), "images") as task:
                        resized.write(path, images, training, self.bad_images, progress=task.advance, **options)
        processes.barrier()
        found = resized.read(path, images, training, check=False)
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
            if isinstance(images, datasets.FolderSet) and (count := images.passed_over.total()):
                files = "1 file is" if count == 1 else f"{count:,} files are"
                warn(f"{images.name}: {files} passed over: {datasets.kinds(images.passed_over)}")
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
            for doubt in levels.doubts(found, self.data.value_range) if self.processes.is_main else ():
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


HARMLESS = {"log_every", "checkpoint_every", "keep_checkpoints", "milestone_every", "evaluate_every"}


def data_recipe(config: Config) -> dict[str, Any]:
    """The settings that images depend on; where they are does not matter, and their values are compared as images."""
    return {key: value for key, value in config.portable()["data"].items() if key not in ("root", "value_range")}


def value_range(config: Config) -> Any:
    """`data.value_range`, in plain types."""
    return config.data.model_dump(mode="json")["value_range"]


def recipe(config: Config, section: str) -> dict[str, Any]:
    """The settings that a training depends on, to be the same when it is resumed."""
    settings = config.portable()
    training = {key: value for key, value in settings[section].items() if key not in HARMLESS}
    return {"seed": config.seed, "space": settings["space"], "data": data_recipe(config), section: training}


def require_batch(space: SearchSpace, training: TrainingConfig, processes: int, section: str) -> int:
    """The images of one forward pass of one process.

    Raises:
        ConfigError: the batch cannot be shared out, or leaves too little for BatchNorm.
    """
    images = images_per_pass(training.batch_size, processes, training.accumulate)
    space.require_variance(images, f"{section}.batch_size")
    return images


def training_recipe(training: TrainingConfig, ema_decay: float | None = None) -> Recipe:
    """A config's training section as the engine takes it."""
    return Recipe(
        schedule=Schedule(
            training.lr, training.steps, training.schedule, training.warmup_steps, training.schedule_first
        ),
        batch_size=training.batch_size,
        accumulate=training.accumulate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        label_smoothing=training.label_smoothing,
        clip_grad_norm=training.clip_grad_norm,
        amp=training.amp,
        compile=training.compile,
        gradient_compression=training.gradient_compression,
        ema_decay=ema_decay,
        log_every=training.log_every,
        checkpoint_every=training.checkpoint_every,
        keep_checkpoints=training.keep_checkpoints,
        milestone_every=training.milestone_every,
    )


def guessing(folder: Path, classes: int, last_step: int | None = None) -> Guessing | None:
    """Whether the training in a folder is no better than guessing by its metrics, up to a step or to their end."""
    try:
        lines = history.read(folder / "metrics.jsonl")
    except OSError:
        return None
    return find_guessing([line for line in lines if last_step is None or line["step"] <= last_step], classes)


def warn_of_guessing(folder: Path, config: Config, section: str) -> None:
    """Says at the end of a training that it is no better than guessing, if so, and what to do."""
    if found := guessing(folder, config.space.classes):
        rate = getattr(config, section).lr
        warn(
            f"{section}: the training has {found.verdict}: {found}. Lower {section}.lr (it is {rate:g}), raise"
            f" {section}.warmup_steps or set {section}.clip_grad_norm, and start with --fresh"
        )


def read_settings(run: Run) -> dict[str, Any]:
    """What the scores of the run's search depend on, as the search wrote it down.

    Raises:
        RunError: it is not there, or cannot be read.
    """
    path = run.search_folder / "settings.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = None
    kinds = {"supernet": str, "search": dict}
    if not isinstance(settings, dict) or not all(isinstance(settings.get(key), kind) for key, kind in kinds.items()):
        raise RunError(f"{path} is missing or broken, so the scores beside it mean nothing; search with --fresh")
    return settings


def only_one(pattern: Sequence[Path], what: str, hint: str) -> Path:
    """The file that there is exactly one of.

    Raises:
        RunError: there is none, or there are several and the user has to choose.
    """
    found = sorted(pattern)
    if not found:
        raise RunError(f"there is no {what} here yet; run {hint} first")
    if len(found) > 1:
        raise RunError(f"there are several: name one of {', '.join(str(path) for path in found)}")
    return found[0]


def more_shared_memory(needed: int) -> str:
    """What to do where /dev/shm has less room than so many bytes."""
    return f"give /dev/shm more room (docker run --shm-size={math.ceil(2 * needed / 2**30)}g), or lower data.workers"


def in_bytes(size: int) -> str:
    """`1.2 GB`, `35 MB`."""
    return (
        f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
    )


def weights_seed(config: Config, purpose: str) -> int:
    """The seed of a model's first weights."""
    return seeding.torch_seed(config.seed, f"{purpose} weights")
