"""Compare two ways to do the same piece of work, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Units per second of both sides, one value for each turn."""

    what: str
    unit: str
    baseline: list[float]
    ours: list[float]

    @property
    def ratio(self) -> float:
        """How many times as fast our side is, by the medians."""
        return statistics.median(self.ours) / statistics.median(self.baseline)


def compare(
    what: str, unit: str, units: int, baseline: Callable[[], object], ours: Callable[[], object], turns: int
) -> Comparison:
    """Measure both sides in turns, after a first turn that does not count."""
    rates: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for side, work in zip(rates, (baseline, ours), strict=True):
            begin = time.perf_counter()
            work()
            if turn:
                side.append(units / (time.perf_counter() - begin))
    return Comparison(what, unit, *rates)
