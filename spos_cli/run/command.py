"""One command of an experiment: where its run keeps what, and who works there. Imported without torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from spos_cli.config import loading
from spos_cli.config.schema import Config
from spos_cli.errors import ConfigError, RunError
from spos_cli.files import lock
from spos_cli.files.quoting import as_override
from spos_cli.files.writing import write_atomically
from spos_cli.run.folder import RunFolder
from spos_cli.run.output import screen, table

if TYPE_CHECKING:
    from spos_cli.engine.distributed import Processes

EXPORT = {"accuracy": "export-arch", "pareto": "export-arch --pareto"}  # what follows a search, by its objective


@dataclass(frozen=True)
class Command:
    """One command of an experiment.

    Attributes:
        config: the resolved settings.
        flags: the command-line options that led to them, for the next command to type.
        as_json: print the result as JSON, for scripts.
    """

    config: Config
    flags: str = ""
    as_json: bool = False

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return RunFolder(self.config.folder)

    def say(self, text: str, style: str = "") -> None:
        """A line on stdout, unless that is for JSON."""
        if not self.as_json:
            screen().print(Text(text, style), soft_wrap=True)

    def show(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table on stdout, unless that is for JSON; columns whose title ends in a colon are aligned left."""
        self.say(f"\n{title}", "bold")
        if not self.as_json:
            screen().print(table(columns, rows))

    def command(self, command: str) -> str:
        """A command of `spos` with the options that lead to these settings, as it is to be typed."""
        return f"spos {command} {self.flags}".rstrip()

    def next(self, command: str) -> None:
        """Says what to type next."""
        self.say(f"next: {self.command(command)}", "bold")

    def result(self, value: Any) -> None:
        """Prints the result for scripts, if asked for."""
        if self.as_json:
            print(json.dumps(value))


def settings_of(folder: Path) -> Config | None:
    """What a stage was begun with; None if that is missing, or cannot be read."""
    path = folder / "config.yaml"
    try:
        return loading.load(path) if path.is_file() else None
    except ConfigError:
        return None


def root_from_here(recorded: Path, folder: Path) -> list[str]:
    """What to lay over the settings in a run folder so that they find the same images from this working folder.

    A `data.root` that is not absolute counts from where the run was begun: the folder that `run_dir` is below of.
    Nothing is laid over if that is here, or if it cannot be told, as where the run folder has been moved.

    Args:
        recorded: a file of settings in it.
        folder: the run folder.
    """
    settings = settings_of(recorded.parent)
    if settings is None or settings.data.source == "digits":
        return []
    named, root, whole = settings.folder, Path(settings.data.root), folder.resolve()
    if named.is_absolute() or root.is_absolute() or whole.parts[-len(named.parts) :] != named.parts:
        return []
    begun = Path(*whole.parts[: -len(named.parts)])
    return [] if begun == Path.cwd() else [as_override("data.root", begun / root)]


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
                held.enter_context(lock.hold(self.folder.lock_of(stage)))
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
        from spos_cli.engine import distributed  # brings torch, which a question about a run does not need

        launch, mark = distributed.get_launch_id(), self.folder.root / f".{self.folder.name_of(stage)}.fresh"
        if launch == "none":
            raise RunError(
                "under torchrun, --fresh needs an --rdzv-id of its own, so that a machine that comes back goes on"
                " instead of starting over"
            )
        if launch is not None and mark.exists() and mark.read_text(encoding="utf-8") == launch:
            return
        # An audit is of its search.
        for folder in [stage, self.folder.audit.path] if stage == self.folder.search.path else [stage]:
            if folder.exists():
                self._set_aside(folder)
        if launch is not None:
            write_atomically(mark, launch.encode())

    def _set_aside(self, stage: Path) -> None:
        """Moves `<run>/<stage>` to `<run>/previous/<stage>-<n>`."""
        name, number = self.folder.name_of(stage), 1
        while (aside := self.folder.previous / f"{name}-{number}").exists():
            number += 1
        aside.parent.mkdir(exist_ok=True)
        stage.rename(aside)
        self.say(f"kept the earlier {stage} as {aside}")

    def record_config(self, stage: Path, processes: Processes) -> None:
        """Writes the resolved settings to the run folder, and to the stage's; when nothing speaks against them.

        Those of an audit's short trainings are not the run's.
        """
        if processes.is_main:
            for folder in (stage,) if self.folder.audit.path in stage.parents else (self.folder.root, stage):
                write_atomically(folder / "config.yaml", self.config.to_yaml().encode())

    def record_settings(self) -> None:
        """Writes the resolved settings to the run folder, from a command that has no stage of its own there.

        Once a stage has begun, those of the stages stay: this command may have been no more than a question.
        """
        stages = (self.folder.supernet.path, self.folder.search.path, *self.folder.retrained.glob("*"))
        if not any((stage / "config.yaml").is_file() for stage in stages):
            write_atomically(self.folder.config, self.config.to_yaml().encode())
