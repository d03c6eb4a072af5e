"""Two ways to do the same piece of work, taken in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Units per second of both sides; each list holds one value a turn."""

    what: str
    unit: str
    baseline: list[float]
    ours: list[float]

    @property
    def ratio(self) -> float:
        """How many times faster."""
        return statistics.median(self.ours) / statistics.median(self.baseline)


def compare(
    what: str, unit: str, units: int, baseline: Callable[[], object], ours: Callable[[], object], turns: int
) -> Comparison:
    """Takes turns, after one of each that does not count."""
    rates: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for side, work in zip(rates, (baseline, ours), strict=True):
            begin = time.perf_counter()
            work()
            if turn:
                side.append(units / (time.perf_counter() - begin))
    return Comparison(what, unit, *rates)
