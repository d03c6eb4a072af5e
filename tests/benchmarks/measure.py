"""Time and memory of a piece of work, in a process of its own where it matters."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

MB = 1e6


@dataclass(frozen=True)
class Cost:
    """What a piece of work took.

    Attributes:
        seconds: of each turn.
        peak: largest resident memory of the process, bytes.
        rest: resident memory before the work, which is Python, PyTorch and the like, bytes.
    """

    seconds: list[float]
    peak: int
    rest: int

    @property
    def median(self) -> float:
        """Seconds of a turn."""
        return statistics.median(self.seconds)

    @property
    def above_rest(self) -> float:
        """Memory that the work itself needed, MB."""
        return (self.peak - self.rest) / MB


@dataclass(frozen=True)
class Row:
    """One measurement of how cost grows.

    Attributes:
        what: the piece of work.
        size: what it was done on.
        value: in `unit`.
        memory: that it needed above the process at rest, MB; None where it was not measured.
        target: what we promise, or nothing.
    """

    what: str
    size: str
    value: float
    unit: str
    memory: float | None = None
    target: str = ""


def _status(field: str) -> int:
    """A size of this process in bytes, as Linux has it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak_memory() -> int:
    """The largest resident memory that this process has had, or since `begin_peak`, bytes.

    Linux keeps it for the program itself; `ru_maxrss` would begin with the size of the process that started it.
    """
    if Path("/proc/self/status").exists():
        return _status("VmHWM")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def begin_peak() -> int:
    """Forgets earlier peaks where the system can, which is on Linux, and returns the memory at rest, bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak_memory()
    return _status("VmRSS")


def cost_of(work: Callable[[], object], turns: int, warm_up: int = 0) -> Cost:
    """Runs `work` `warm_up` times, which are not timed, and `turns` times; memory is that of all of them.

    To be called in a process of its own: memory that was used and freed before would be used again, unseen.
    """
    gc.collect()
    rest, seconds = begin_peak(), []
    for turn in range(warm_up + turns):
        begin = time.perf_counter()
        work()
        if turn >= warm_up:
            seconds.append(time.perf_counter() - begin)
    return Cost(seconds, peak_memory(), rest)


def in_child(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function of a module in a new process, with as many threads as here."""
    context = multiprocessing.get_context("spawn")
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, context, torch.set_num_threads, (threads,)) as pool:
        return pool.submit(function, *args, **kwargs).result()
