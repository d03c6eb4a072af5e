"""Mirror the numbers of a stage to TensorBoard's event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spos_cli.engine.progress import console


class TensorBoardMirror:
    """A folder of event files to which each step is written once, however often the work is resumed.

    Args:
        folder: the folder of event files, to which this adds one.
        step: where the work resumes; TensorBoard forgets later steps of earlier files. None keeps them all.
    """

    def __init__(self, folder: Path, step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.last_step = _read_last_step(folder)  # steps up to this one are mirrored already
        purges = step is not None and self.last_step > step
        if step is not None and purges:
            self.last_step = step
        self.writer = SummaryWriter(str(folder), purge_step=self.last_step + 1 if purges else None)
        console.print(f"mirrored to TensorBoard: tensorboard --logdir {folder}", soft_wrap=True, markup=False)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a step, by tag, unless they are there already."""
        if step > self.last_step:
            for tag, value in values.items():
                self.writer.add_scalar(tag, value, step)
            self.writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


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
