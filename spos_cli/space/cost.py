"""What architectures cost, and how many of them cost how much: exactly, by dynamic programming."""

from __future__ import annotations

import math
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spos_cli.errors import ConfigError, LimitError
from spos_cli.space.architecture import Architecture, shown

MAX_CELLS = 2**27  # of a table of counts: 1 GiB of int64
MAX_INT64_COUNT = 2**62  # of architectures; more are counted in Python's whole numbers
MAX_COST = 10**18
LABELS = {"flops": "FLOPs", "params": "parameters", "latency": "of latency"}  # what is counted, as people write it
UNITS = {"": 0, "K": 3, "M": 6, "G": 9, "T": 12}  # and their powers of ten
SIZE = re.compile(r"(\d+\.?\d*|\.\d+)(?:e([+-]?\d{1,3}))?([kmgt]?)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class CostTable:
    """An additive cost: a fixed part, and one entry for each choice of each layer.

    Attributes:
        name: what is counted, `flops` (multiply-adds), `params` or `latency` (microseconds).
        fixed: cost of the stem and the head.
        rows: by layer, the costs of its choices; layers may have different numbers of them.
    """

    name: str
    fixed: int
    rows: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        rows = tuple(tuple(map(int, row)) for row in self.rows)
        assert rows, "a cost table without layers"
        assert all(rows), "a layer without choices"
        object.__setattr__(self, "rows", rows)

    @property
    def counts(self) -> list[int]:
        """The number of choices of each layer."""
        return [len(row) for row in self.rows]

    def of(self, arch: Architecture) -> int:
        """The cost of one architecture that the space has: a sum of look-ups."""
        return self.fixed + sum(row[choice] for row, choice in zip(self.rows, arch, strict=True))

    @cached_property
    def minimum(self) -> int:
        """The least cost in the space."""
        return self.fixed + sum(map(min, self.rows))

    @cached_property
    def maximum(self) -> int:
        """The largest cost in the space."""
        return self.fixed + sum(map(max, self.rows))

    @property
    def cheapest(self) -> Architecture:
        """The first architecture of the least cost."""
        return Architecture(tuple(row.index(min(row)) for row in self.rows))

    @property
    def dearest(self) -> Architecture:
        """The first architecture of the largest cost."""
        return Architecture(tuple(row.index(max(row)) for row in self.rows))

    @property
    def mean(self) -> float:
        """The mean cost of all architectures."""
        return float(self.fixed + sum(Fraction(sum(row), len(row)) for row in self.rows))

    @property
    def label(self) -> str:
        """What is counted, as people write it."""
        return LABELS.get(self.name, self.name)

    def written(self, cost: int) -> str:
        """A cost as people write it: `330M`, or `12.5ms`."""
        return format_duration(cost) if self.name == "latency" else format_cost(cost)

    def distribution(self) -> CostDistribution:
        """How many architectures cost how much; computed once."""
        return self._distribution

    @cached_property
    def _distribution(self) -> CostDistribution:
        return CostDistribution(self)


class CostDistribution:
    """How many architectures cost how much, and uniform draws from any range of costs.

    Costs are counted in units of the greatest common divisor of the differences within each layer, above the
    least cost. `at_most[l][c]` is the number of ways to complete the layers from `l` on with at most `c` units; it
    ends where all of them are counted. Counts are int64 where they fit, else Python's whole numbers: exact either way.

    Attributes:
        table: the cost that is counted.
        unit: the greatest common divisor; 1 if all architectures cost the same.
        width: number of units from the least to the largest cost, both included.

    Raises:
        LimitError: the costs have no common unit coarse enough for a table.
    """

    def __init__(self, table: CostTable) -> None:
        self.table = table
        offsets = [[cost - min(row) for cost in row] for row in table.rows]
        self.unit = math.gcd(*(offset for row in offsets for offset in row)) or 1
        self._steps = [[offset // self.unit for offset in row] for row in offsets]
        self.width = sum(map(max, self._steps)) + 1
        layers = len(self._steps)
        if layers * self.width > MAX_CELLS:
            raise LimitError(
                f"the {table.label} of the choices differ by multiples of {self.unit:,} only: {layers} layers of"
                f" {self.width:,} possible sums are too many to count, at most {MAX_CELLS:,} are allowed in all."
                " Make the costs of the choices coarser (channels in multiples of 8), or do without a limit on them"
            )
        counts: NDArray[Any] = np.ones(1, np.int64)
        suffixes, ways = [counts], 1
        for row in reversed(self._steps):
            ways *= len(row)
            if ways >= MAX_INT64_COUNT:
                counts = counts.astype(object)
            longer = np.zeros(len(counts) + max(row), counts.dtype)
            for step in row:
                longer[step : step + len(counts)] += counts
            counts = longer
            suffixes.append(counts)
        self._at_most = [_plain(np.cumsum(suffix)) for suffix in reversed(suffixes)]

    def _units(self, low: int | None, high: int | None) -> tuple[int, int]:
        """A range of costs, both ends included, in units above the least cost; cut to the table."""
        least = self.table.minimum
        first = 0 if low is None else max(0, -((least - low) // self.unit))
        last = self.width - 1 if high is None else min(self.width - 1, (high - least) // self.unit)
        return first, last

    def _completions(self, layer: int, first: int, last: int) -> int:
        """Ways to complete the layers from `layer` on with `first` to `last` units."""
        if last < 0 or first > last:
            return 0
        counts = self._at_most[layer]
        most = len(counts) - 1
        return counts[min(last, most)] - (counts[min(first - 1, most)] if first > 0 else 0)

    def count(self, low: int | None, high: int | None) -> int:
        """Architectures with a cost from `low` to `high`, both included; None is no bound."""
        return self._completions(0, *self._units(low, high))

    def share(self, low: int | None, high: int | None) -> float:
        """The share of the space in a range of costs, 0 to 1."""
        return self.count(low, high) / self._at_most[0][-1]

    def quantile(self, q: float) -> int:
        """The least cost that at least a share `q` of the space is at or under; `q` from 0 to 1, as written."""
        assert 0 <= q <= 1, f"a quantile of {q}"
        needed = math.ceil(Fraction(str(q)) * self._at_most[0][-1])
        return self._cost_of_place(max(1, needed))

    def _cost_of_place(self, place: int) -> int:
        """The cost of an architecture, by its place (from 1) in the order of cost."""
        return self.table.minimum + bisect_left(self._at_most[0], place) * self.unit

    def draw(self, rng: np.random.Generator, low: int | None, high: int | None) -> Architecture:
        """An architecture, uniformly out of all in a range of costs, in one pass over the layers.

        A layer's choice is drawn with the number of its completions as weight, from 53 random bits: exact to
        2**-53 a layer. Nothing is rejected, so a narrow range takes no longer than the whole space.

        Raises:
            LimitError: there is none; the message says which costs are there.
        """
        first, last = self._units(low, high)
        ways = self._completions(0, first, last)
        if not ways:
            raise LimitError(self._empty(low, high))
        choices = []
        before = first - 1  # the units that are too few
        layers = zip(rng.integers(0, 2**53, len(self._steps)).tolist(), self._steps, self._at_most[1:], strict=True)
        for bits, steps, at_most in layers:
            end = len(at_most) - 1  # more units than that complete nothing more
            place = (bits * ways) >> 53  # `ways` is the sum of the choices' completions
            for choice, step in enumerate(steps):
                # As `_completions`, but a call for each choice would be half of the time.
                most, too_few = last - step, before - step
                ways = 0 if most < 0 else at_most[most if most < end else end]
                if too_few >= 0:
                    ways -= at_most[too_few if too_few < end else end]
                if place < ways:
                    choices.append(choice)
                    last, before = most, too_few
                    break
                place -= ways
        return Architecture(tuple(choices))

    def enumerate(self, low: int | None, high: int | None) -> Iterator[Architecture]:
        """All architectures in a range of costs, in lexicographic order."""
        prefixes: list[tuple[tuple[int, ...], int, int]] = [((), *self._units(low, high))]
        while prefixes:
            prefix, first, last = prefixes.pop()
            layer = len(prefix)
            if not self._completions(layer, first, last):
                continue
            if layer == len(self._steps):
                yield Architecture(prefix)
                continue
            for choice, step in reversed(list(enumerate(self._steps[layer]))):
                prefixes.append(((*prefix, choice), first - step, last - step))

    def _empty(self, low: int | None, high: int | None) -> str:
        """What to say about a range that holds nothing."""
        least, most, label, written = self.table.minimum, self.table.maximum, self.table.label, self.table.written
        reach = f"the space reaches from {written(least)} to {written(most)}"
        if low is None:
            assert high is not None, "the whole space is not empty"
            return f"no architecture has at most {written(high)} {label}; {reach}"
        if high is None:
            return f"no architecture has at least {written(low)} {label}; {reach}"
        if low > high or high < least or low > most:
            return f"no architecture has {written(low)} to {written(high)} {label}; {reach}"
        # Inside of a gap, costs may look alike when rounded.
        below = self.count(None, low - 1)
        nearest = f"{self._cost_of_place(below):,} and {self._cost_of_place(below + 1):,}"
        return f"no architecture has {low:,} to {high:,} {label}; the nearest have {nearest}, and {reach}"


def _plain(counts: NDArray[Any]) -> Sequence[int]:
    """Counts whose elements read as Python's own ints: with NumPy's, that would be most of the time of a draw."""
    return counts.tolist() if counts.dtype == object else array("q", counts.tobytes())


def parse_cost(text: str | int | float) -> int:
    """Reads `330M`, `0.33G`, `330e6` or `330000000`, exactly; blanks and underscores are skipped.

    Raises:
        ConfigError: it is none of these, or not a positive whole number up to 10**18.
    """
    written = text if isinstance(text, str) else shown(text)  # a bool or a list then reads as no size
    match = SIZE.fullmatch(re.sub(r"[\s_]", "", written)) if len(written) <= 60 else None
    if match:
        number, exponent, unit = match.groups()
        # Decimal reads its text exactly; its arithmetic would round to 28 digits.
        cost = Decimal(f"{number}e{int(exponent or 0) + UNITS[unit.upper()]}")
        if 0 < cost <= MAX_COST and cost == cost.to_integral_value():
            return int(cost)
    raise ConfigError(f"{shown(text)} is not a size; write a positive whole number such as 330M, 0.33G or 330000000")


def format_cost(cost: int) -> str:
    """Four significant digits at most, and the largest unit that fits: `322.9M`, `3.558M`, `330M`, `1G`, `512`.

    The digits are rounded before the unit is chosen, and `parse_cost` reads what this writes.
    """
    rounded = float(f"{cost:.4g}")
    for unit, exponent in reversed(UNITS.items()):
        if rounded >= 10**exponent:
            return f"{rounded / 10**exponent:.4g}{unit}"
    return str(cost)


DURATIONS = {"us": 1, "ms": 10**3, "s": 10**6}  # in microseconds


def parse_duration(text: str | int | float) -> int:
    """Reads `12ms`, `900us` or `1.5s` as whole microseconds, rounded.

    Raises:
        ConfigError: it is none of these, or not from 1 microsecond to 1,000 seconds.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(us|ms|s)", re.sub(r"[\s_]", "", str(text))[:60], re.ASCII)
    duration = round(Decimal(match[1]) * DURATIONS[match[2]]) if match else 0
    if not 1 <= duration <= 10**9:
        raise ConfigError(f"{shown(text)} is not a latency; write one such as 12ms, 900us or 1.5s, up to 1000s")
    return duration


def format_duration(duration: int) -> str:
    """Microseconds with four significant digits at most: `12.5ms`, `900us`."""
    unit = "s" if duration >= 10**6 else "ms" if duration >= 10**3 else "us"
    return f"{float(f'{duration / DURATIONS[unit]:.4g}'):g}{unit}"
