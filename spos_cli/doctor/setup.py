"""What all checks look at: an experiment, its images and this machine."""

from __future__ import annotations

from functools import cached_property

from spos_cli.config.training import TrainingConfig
from spos_cli.engine import distributed
from spos_cli.engine.distributed import Processes
from spos_cli.errors import DataError, SposError
from spos_cli.models.counting import Costs, count
from spos_cli.run.command import Run
from spos_cli.run.images import Images
from spos_cli.space.search_space import SearchSpace


class Setup:
    """An experiment on this machine.

    Attributes:
        run: the command, with its settings and run folder.
        config: the settings.
        full: read all images, not a sample.
        processes: number of processes that a training starts on this machine.
        threads: CPU threads of each process.
        device: what the first process computes on.
        images: the experiment's images; they are opened at first use.
        has_fatal_images: whether a check has found images that end a command: unreadable, or of another value range.
    """

    def __init__(self, run: Run, full: bool = False) -> None:
        self.run, self.config, self.full = run, run.config, full
        self.processes = distributed.count_processes(self.config.devices)
        work = self.space.work_per_layer * self.batch_per_process(self.config.supernet)
        self.threads = distributed.choose_threads(self.config.threads, self.processes, work)
        self.device = distributed.choose_device(self.config.devices, 1, 0)
        self.images = Images(self.config, Processes(0, 1, self.device))
        self.has_fatal_images = False

    @cached_property
    def space(self) -> SearchSpace:
        """The search space of the settings."""
        return self.config.space.build()

    @cached_property
    def costs(self) -> Costs:
        """FLOPs and parameters of the space's architectures."""
        return count(self.space)

    @cached_property
    def images_error(self) -> DataError | None:
        """Why the images cannot be opened; None if they can."""
        try:
            _ = self.images.train, self.images.val
        except DataError as error:
            return error
        return None

    @property
    def can_load(self) -> bool:
        """Whether the loader can work, as far as the checks before have found; if not, one of them has failed."""
        if self.images_error is not None or self.has_fatal_images:
            return False
        try:
            _ = self.images.splits, self.images.augmented, self.images.augmented_for_retraining
        except SposError:
            return False
        return True

    def batch_per_process(self, training: TrainingConfig) -> int:
        """Return the images of one forward pass of one process, rounded down if the batch does not divide evenly."""
        return max(1, training.batch_size // (self.processes * training.accumulate))
