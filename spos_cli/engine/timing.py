"""Record how long a stage worked, and on what, in `timing.jsonl`.

A line is a JSON object: `seconds` of work in which `done` of the `unit` (steps, candidates) were finished, on
`processes` processes with `threads` CPU threads each, the first of them on `device`. No result depends on these lines.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from spos_cli.engine import accelerator
from spos_cli.engine.distributed import Processes
from spos_cli.engine.progress import warn
from spos_cli.files.os_errors import reason_of
from spos_cli.files.writing import append_line


class Clock:
    """Measures the time of a stage, from now on.

    Args:
        folder: the stage's folder.
        done: returns how many units are done. A time in which none was done leaves no line.
        unit: what is counted, such as `steps`.
    """

    def __init__(self, folder: Path, processes: Processes, done: Callable[[], int], unit: str) -> None:
        self.path, self.processes, self.done, self.unit = folder / "timing.jsonl", processes, done, unit
        self._begin, self._done = time.monotonic(), done()

    def lap(self) -> None:
        """Write the time since the last lap, from the first process. If it cannot be written, warn."""
        now, done = time.monotonic(), self.done()
        seconds, units = now - self._begin, done - self._done
        if units <= 0:
            return
        self._begin, self._done = now, done
        if not self.processes.is_main:
            return
        line = {
            "seconds": round(seconds, 3),
            "done": units,
            "unit": self.unit,
            "device": accelerator.get_name(self.processes.device),
            "processes": self.processes.world_size,
            "threads": torch.get_num_threads(),
        }
        try:
            append_line(self.path, json.dumps(line))
        except OSError as error:
            warn(f"cannot write {self.path}: {reason_of(error)}; a time is left out")


@contextlib.contextmanager
def record_time(folder: Path, processes: Processes, done: Callable[[], int], unit: str) -> Iterator[Clock]:
    """Record the time of the work within the block, also when it is interrupted."""
    clock = Clock(folder, processes, done, unit)
    try:
        yield clock
    finally:
        clock.lap()
