"""One command of a run: its settings, its output, its work in a folder. No torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spos_cli.config.schema import Config
from spos_cli.errors import ConfigError, RunError
from spos_cli.files import lock
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.writing import write_atomically
from spos_cli.run.folder import RunFolder, StageFolder
from spos_cli.run.output import Output

if TYPE_CHECKING:
    from spos_cli.engine.distributed import Processes
    from spos_cli.engine.mirrors import MirrorName


def use_one_device(config: Config, work: str) -> Config:
    """Return settings for work on one device: with `auto`, on the first GPU if there is one.

    Args:
        work: the beginning of the message, such as "spos predict works on".

    Raises:
        ConfigError: the settings ask for several processes.
    """
    if config.devices not in ("auto", "cpu", 1):
        raise ConfigError(f"{work} one device, but devices is {config.devices}; use --devices 1")
    return config.model_copy(update={"devices": 1}) if config.devices == "auto" else config


@dataclass(frozen=True)
class Run(Output):
    """A run, as one command sees it.

    Attributes:
        config: the resolved settings.
        fresh: start the stage over; its earlier files are kept under `previous/`.
        mirrors: where the metrics go besides the run folder.
        extend: go on with a training that had another schedule.
    """

    config: Config
    fresh: bool = False
    mirrors: tuple[MirrorName, ...] = ()
    extend: bool = False

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return RunFolder(self.config.folder)

    @contextlib.contextmanager
    def working_in(self, stage: StageFolder, processes: Processes) -> Iterator[None]:
        """Lock the folder of a stage, so that no other command works there within the context.

        First, with `fresh`, set the stage's earlier files aside, and remove files that a killed process has left
        half-written.

        Raises:
            RunError: another command works in the folder, or the folder cannot be changed.
        """
        with contextlib.ExitStack() as stack:
            if processes.is_main:
                stack.enter_context(lock.hold(stage.lock))
                with os_errors_as(RunError, f"cannot change {stage}"):
                    if self.fresh:
                        self._start_over(stage)
                    for half_written in stage.path.glob(".*.tmp"):
                        half_written.unlink()
            processes.barrier()
            yield

    def _start_over(self, stage: StageFolder) -> None:
        """Set the stage's earlier files aside, once per launch: restarted processes resume."""
        from spos_cli.engine import distributed  # It imports torch, which `spos status` does without.

        launch = distributed.get_launch_id()
        if launch == "none":
            raise RunError(
                "under torchrun, --fresh needs an --rdzv-id of its own, so that a machine that comes back resumes"
                " instead of starting over"
            )
        mark = stage.fresh_mark
        if launch is not None and mark.exists() and mark.read_text(encoding="utf-8") == launch:
            return
        # An audit belongs to its search.
        for folder in [stage, self.folder.audit] if stage == self.folder.search else [stage]:
            if folder.path.exists():
                self._set_aside(folder)
        if launch is not None:
            write_atomically(mark, launch.encode())

    def _set_aside(self, stage: StageFolder) -> None:
        """Move `<run>/<stage>` to `<run>/previous/<stage>-<n>`."""
        number = 1
        while (aside := self.folder.previous / f"{stage.name}-{number}").exists():
            number += 1
        aside.parent.mkdir(exist_ok=True)
        stage.path.rename(aside)
        self.say(f"kept the earlier {stage} as {aside}")

    def record_config(self, stage: StageFolder, processes: Processes) -> None:
        """Write the resolved settings to the folders of the stage and of the run, once the stage may begin.

        The settings of an audit's short trainings are not those of the run, so they stay out of the run folder.
        """
        if processes.is_main:
            is_training_of_audit = self.folder.audit.path in stage.path.parents
            for path in (stage.config,) if is_training_of_audit else (self.folder.config, stage.config):
                write_atomically(path, self.config.to_yaml().encode())

    def record_config_unless_begun(self) -> None:
        """Write the resolved settings to the run folder, from a command that has no stage of its own there.

        Once a stage has begun, its settings stay: this command may only have asked a question.
        """
        retrained = [self.folder.retrain(path.name) for path in self.folder.retrained.glob("*")]
        if not any(stage.config.is_file() for stage in (self.folder.supernet, self.folder.search, *retrained)):
            write_atomically(self.folder.config, self.config.to_yaml().encode())
