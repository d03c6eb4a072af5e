"""Compare two ways to do the same piece of work, in turns, and tell a result from noise."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Largest spread of a result. The median of seven turns with this spread has a standard error of about 7 %.
MAX_SPREAD = 0.2
TOO_NOISY = "too noisy"
OFFICIAL = "official procedure"  # what most rows are compared with


def measure_spread(values: Sequence[float]) -> float:
    """Return the interquartile range over the median; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / statistics.median(values)


@dataclass(frozen=True)
class Comparison:
    """Units per second of both sides, one value for each turn.

    Attributes:
        what: the work.
        unit: what a second has so many of.
        against: what the baseline is.
    """

    what: str
    unit: str
    baseline: list[float]
    ours: list[float]
    against: str = OFFICIAL

    @property
    def ratio(self) -> float:
        """How many times as fast our side is, by the medians."""
        return statistics.median(self.ours) / statistics.median(self.baseline)

    @property
    def spread(self) -> float:
        """The larger spread of both sides."""
        return max(map(measure_spread, (self.baseline, self.ours)))

    @property
    def verdict(self) -> str:
        """The ratio in words, unless it is noise."""
        return TOO_NOISY if self.spread > MAX_SPREAD else f"{self.ratio:.2f}x"


def compare(
    what: str,
    unit: str,
    units: int,
    baseline: Callable[[], object],
    ours: Callable[[], object],
    turns: int,
    against: str = OFFICIAL,
) -> Comparison:
    """Measure both sides in turns, after a first turn that does not count."""
    rates: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for side, work in zip(rates, (baseline, ours), strict=True):
            begin = time.perf_counter()
            work()
            if turn:
                side.append(units / (time.perf_counter() - begin))
    return Comparison(what, unit, *rates, against)
