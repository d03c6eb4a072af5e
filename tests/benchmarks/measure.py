"""Measure time and memory of a piece of work, in a new process where it matters."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from spos_cli.data.memory import keep_freed_memory
from tests.benchmarks.comparison import MAX_SPREAD, TOO_NOISY, Comparison, measure_spread

P = ParamSpec("P")
T = TypeVar("T")

MB = 1e6
ROUNDS = (3, 3, 3)  # turns of the rounds of `compare_in_children`


@dataclass(frozen=True)
class Cost:
    """Time and memory of a piece of work.

    Attributes:
        seconds: of each turn.
        peak: largest resident memory of the process, bytes.
        rest: resident memory before the work (Python, PyTorch and so on), bytes.
    """

    seconds: list[float]
    peak: int
    rest: int

    @property
    def median(self) -> float:
        """Median seconds of a turn."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Interquartile range of the seconds over their median."""
        return measure_spread(self.seconds)

    @property
    def above_rest(self) -> float:
        """Memory of the work itself, MB."""
        return (self.peak - self.rest) / MB


@dataclass(frozen=True)
class Row:
    """One measurement of how cost grows.

    Attributes:
        what: the piece of work.
        size: what it was done on.
        value: in `unit`.
        memory: of the work itself, MB; None where it was not measured.
        target: what we promise, or an empty text.
        spread: interquartile range of the measured values over their median; 0 of a single value.
    """

    what: str
    size: str
    value: float
    unit: str
    memory: float | None = None
    target: str = ""
    spread: float = 0.0

    @property
    def verdict(self) -> str:
        """The value in words, unless it is noise."""
        return TOO_NOISY if self.spread > MAX_SPREAD else f"{self.value:.4g} {self.unit}"


def _read_status(field: str) -> int:
    """Read a size of this process from Linux, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def read_peak_memory() -> int:
    """Read the largest resident memory of this process since `reset_peak_memory`, or since its start, in bytes.

    Linux counts it for this program; `ru_maxrss` would start at the size of the parent process.
    """
    if Path("/proc/self/status").exists():
        return _read_status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory() -> int:
    """Forget earlier peaks where the system supports it (Linux), and return the memory at rest, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return read_peak_memory()
    return _read_status("VmRSS")


def measure_cost(work: Callable[[], object], turns: int, warm_up: int = 0) -> Cost:
    """Run `work` `warm_up` times without timing and `turns` times with it; memory is the peak over all of them.

    Call it in a new process: memory that was freed before would be used again unnoticed.
    """
    gc.collect()
    rest, seconds = reset_peak_memory(), []
    for turn in range(warm_up + turns):
        begin = time.perf_counter()
        work()
        if turn >= warm_up:
            seconds.append(time.perf_counter() - begin)
    return Cost(seconds, read_peak_memory(), rest)


def run_in_child(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function of a module in a new process, with as many threads as here."""
    context = multiprocessing.get_context("spawn")
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, context, torch.set_num_threads, (threads,)) as pool:
        return pool.submit(function, *args, **kwargs).result()


@dataclass(frozen=True)
class Side:
    """One side of a comparison, in processes of its own.

    Attributes:
        make: a function of a module, which returns the work.
        args: of `make`.
        keeps_freed_memory: as every process of `spos` on a CPU does, and a plain program does not.
    """

    make: Callable[..., Callable[[], object]]
    args: tuple[Any, ...]
    keeps_freed_memory: bool

    def time_turns(self, turns: int) -> list[float]:
        """Time some turns in a new process with as many threads as here, after one that does not count; seconds."""
        return run_in_child(_time_turns, self, turns)


def _time_turns(side: Side, turns: int) -> list[float]:
    if side.keeps_freed_memory:
        keep_freed_memory()
    return measure_cost(side.make(*side.args), turns, warm_up=1).seconds


def compare_in_children(
    what: str, unit: str, units: int, baseline: Side, ours: Side, rounds: Sequence[int], against: str
) -> Comparison:
    """Measure both sides in rounds of some turns each.

    The process of one side ends before that of the other begins. If both lived, the memory that one of them keeps
    would make the page faults of the other slower.
    """
    rates: tuple[list[float], list[float]] = ([], [])
    for turns in rounds:
        for values, side in zip(rates, (baseline, ours), strict=True):
            values += [units / seconds for seconds in side.time_turns(turns)]
    return Comparison(what, unit, *rates, against)
