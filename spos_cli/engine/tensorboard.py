"""Mirror the numbers of a stage to TensorBoard's event files."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spos_cli.engine.history import is_number
from spos_cli.engine.progress import console, warn
from spos_cli.errors import ConfigError
from spos_cli.files.os_errors import reason_of


def require_tensorboard() -> None:
    """Raise ConfigError if the package is not installed, before any work."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "--tensorboard needs the package tensorboard, which is not installed: pip install tensorboard"
        )


class TensorBoardMirror:
    """A folder of event files to which each step is written once, however often the work is resumed.

    Args:
        folder: the folder of event files, to which this adds one.
        step: where the work resumes; TensorBoard forgets later steps of earlier files. None keeps them all.

    Raises:
        ConfigError: the package is not installed.
    """

    def __init__(self, folder: Path, step: int | None = None) -> None:
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        self.last_step = _read_last_step(folder)  # steps up to this one are mirrored already
        purges = step is not None and self.last_step > step
        if step is not None and purges:
            self.last_step = step
        self.writer: Any = None
        try:
            self.writer = SummaryWriter(str(folder), purge_step=self.last_step + 1 if purges else None)
            console.print(f"mirrored to TensorBoard: tensorboard --logdir {folder}", soft_wrap=True, markup=False)
        except OSError as error:
            self._give_up(error)

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the numbers of a step, by tag, unless they are there already. If the disk is full, warn and stop."""
        if self.writer is None or step <= self.last_step:
            return
        try:
            for tag, value in values.items():
                if is_number(value):
                    self.writer.add_scalar(tag, value, step)
            self.writer.flush()
        except OSError as error:
            self._give_up(error)

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        """Write a line of a training's `metrics.jsonl`: `val_top1` as `val/top1`, all others as `train/<name>`."""
        tags = {key: f"val/{key[4:]}" if key.startswith("val_") else f"train/{key}" for key in line if key != "step"}
        self.add(int(line["step"]), {tag: line[key] for key, tag in tags.items()})

    def close(self) -> None:
        """Close the event file."""
        if self.writer is not None:
            try:
                self.writer.close()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.writer = None
        warn(f"cannot write {self.folder}: {reason_of(error)}; nothing more is mirrored there")


def _read_last_step(folder: Path) -> int:
    """Return the largest step in the event files of a folder, -1 if there is none; files may be torn."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    last = -1
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            if event.HasField("session_log"):  # TensorBoard forgets earlier events from this step on
                last = min(last, event.step - 1)
            if event.HasField("summary"):
                last = max(last, event.step)
    return last
