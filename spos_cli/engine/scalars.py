"""Numbers of a stage, mirrored to TensorBoard's event files."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spos_cli.engine.history import is_number
from spos_cli.engine.progress import console, warn
from spos_cli.errors import ConfigError


def require_tensorboard() -> None:
    """Raises ConfigError if the package is not there; before any work."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "--tensorboard needs the package tensorboard, which is not installed: pip install tensorboard"
        )


class Scalars:
    """A folder of event files that each step is written to once, however often the work is resumed.

    Args:
        folder: of the event files; this adds one.
        step: where the work goes on: what earlier files have of later steps is purged. None if those are still true.

    Raises:
        ConfigError: the package is not there.
    """

    def __init__(self, folder: Path, step: int | None = None) -> None:
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        self.known = _last_step(folder)  # what is mirrored already
        purge = step is not None and self.known > step
        if step is not None and purge:
            self.known = step
        self.writer: Any = None
        try:
            self.writer = SummaryWriter(str(folder), purge_step=self.known + 1 if purge else None)
            console.print(f"mirrored to TensorBoard: tensorboard --logdir {folder}", soft_wrap=True, markup=False)
        except OSError as error:
            self._give_up(error)

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the numbers of a step, by tag, unless it was mirrored before; on a full disk, gives up and says so."""
        if self.writer is None or step <= self.known:
            return
        try:
            for tag, value in values.items():
                if is_number(value):
                    self.writer.add_scalar(tag, value, step)
            self.writer.flush()
        except OSError as error:
            self._give_up(error)

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        """A line of a training's `metrics.jsonl`: `val_top1` as `val/top1`, all others as `train/<name>`."""
        tags = {key: f"val/{key[4:]}" if key.startswith("val_") else f"train/{key}" for key in line if key != "step"}
        self.add(int(line["step"]), {tag: line[key] for key, tag in tags.items()})

    def close(self) -> None:
        """All is in the file."""
        if self.writer is not None:
            try:
                self.writer.close()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.writer = None
        warn(f"cannot write {self.folder}: {error.strerror or error}; nothing more is mirrored there")


def _last_step(folder: Path) -> int:
    """The largest step in the event files of a folder, -1 if there is none; files may be torn."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    last = -1
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            if event.HasField("session_log"):  # what came before is purged from here on
                last = min(last, event.step - 1)
            if event.HasField("summary"):
                last = max(last, event.step)
    return last
