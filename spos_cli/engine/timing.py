"""How long a stage has worked, and on what: lines of `timing.jsonl`, which no result depends on.

A line is a JSON object: `seconds` of work, in which `done` of the `unit` (steps, candidates) were done, on `processes`
processes with `threads` CPU threads each, the first of them on `device`.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from spos_cli.engine import accelerator
from spos_cli.engine.distributed import Processes
from spos_cli.engine.progress import warn


class Clock:
    """Keeps the time of a stage, from now on.

    Args:
        folder: of the stage.
        done: how many units are done; a time in which none was done leaves no line.
        unit: what is counted, such as `steps`.
    """

    def __init__(self, folder: Path, processes: Processes, done: Callable[[], int], unit: str) -> None:
        self.path, self.processes, self.done, self.unit = folder / "timing.jsonl", processes, done, unit
        self._begin, self._done = time.monotonic(), done()

    def lap(self) -> None:
        """Writes down the time since the last lap, from the first process; what cannot be written is left out."""
        now, done = time.monotonic(), self.done()
        seconds, units = now - self._begin, done - self._done
        if units <= 0:
            return
        self._begin, self._done = now, done
        if not self.processes.is_main:
            return
        line: dict[str, Any] = {
            "seconds": round(seconds, 3),
            "done": units,
            "unit": self.unit,
            "device": accelerator.get_name(self.processes.device),
            "processes": self.processes.world_size,
            "threads": torch.get_num_threads(),
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                file.write((json.dumps(line) + "\n").encode())
        except OSError as error:
            warn(f"cannot write {self.path}: {error.strerror or error}; a time is left out")


@contextlib.contextmanager
def timed(folder: Path, processes: Processes, done: Callable[[], int], unit: str) -> Iterator[Clock]:
    """Keeps the time of the work within, also when it is interrupted."""
    clock = Clock(folder, processes, done, unit)
    try:
        yield clock
    finally:
        clock.lap()
