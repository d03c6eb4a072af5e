"""What architectures cost, and how many of them cost how much: exactly, by dynamic programming."""

from __future__ import annotations

import math
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spos_cli.errors import ConfigError, LimitError
from spos_cli.files.quoting import quote_value
from spos_cli.space.architecture import Architecture
from spos_cli.space.options import Options

MAX_INT64_COUNT = 2**62  # of architectures; more are counted in Python's whole numbers
MAX_CELLS = 2**27  # of a table of exact counts: 1 GiB of int64
MAX_WIDE_CELLS = 2**21  # where there are widths, and so many architectures that counts are Python's whole numbers
COARSE_CELLS = 2**20  # of one whose costs are rounded: rounding moves few architectures into a range
DRAWS = 10_000  # until a range of costs that could not be counted exactly is taken for empty
MAX_COST = 10**18
LABELS = {"flops": "FLOPs", "params": "parameters", "latency": "of latency"}  # what is counted, as people write it
UNITS = {"": 0, "K": 3, "M": 6, "G": 9, "T": 12}  # and their powers of ten
SIZE = re.compile(r"(\d+\.?\d*|\.\d+)(?:e([+-]?\d{1,3}))?([kmgt]?)", re.ASCII | re.IGNORECASE)


class CostTable:
    """An additive cost: a fixed part, and one entry for each option of each layer.

    Args:
        name: what is counted, `flops` (multiply-adds), `params` or `latency` (microseconds).
        fixed: cost of the stem and the head.
        rows: by layer, the costs of its options; layers may have different numbers of them.
        options: what they are; by default choices without widths.
    """

    def __init__(self, name: str, fixed: int, rows: Sequence[Sequence[int]], options: Options | None = None) -> None:
        self.name, self.fixed = name, fixed
        self.rows = tuple(tuple(map(int, row)) for row in rows)
        assert self.rows, "a cost table without layers"
        assert all(self.rows), "a layer without choices"
        counts = [len(row) for row in self.rows]
        self.options = options or Options.plain(counts)
        assert counts == self.options.counts, "a cost for each option"

    def of(self, arch: Architecture) -> int:
        """The cost of one architecture that the space has: a sum of look-ups."""
        return self.fixed + sum(row[place] for row, place in zip(self.rows, self.options.places(arch), strict=True))

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
        return self.options.architecture([row.index(min(row)) for row in self.rows])

    @property
    def dearest(self) -> Architecture:
        """The first architecture of the largest cost."""
        return self.options.architecture([row.index(max(row)) for row in self.rows])

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

    def exactly(self, cost: int) -> str:
        """A cost with all its digits: `330,012,345`, or `12,512us`."""
        return f"{cost:,}{'us' * (self.name == 'latency')}"

    def idle(self, limit: int) -> str:
        """Says that a limit excludes nothing, since it is above the whole space; empty if it is not above it."""
        if limit <= self.maximum:
            return ""
        written = self.exactly if self.written(limit) == self.written(self.maximum) else self.written
        return (
            f"the limit of {written(limit)} {self.label} excludes nothing: no architecture of the space has more than"
            f" {written(self.maximum)}"
        )

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

    Where there are too many units for a table (widths of channels have costs that hardly share a divisor), each cost is
    rounded down to a coarser one. A range then counts too many architectures, those that rounding has moved into it;
    draws are exact still, since what is outside of the range is drawn again.

    Attributes:
        table: the cost that is counted.
        unit: what costs are counted in; 1 if all architectures cost the same.
        width: number of units from the least to the largest cost, both included.
        is_exact: whether it is the greatest common divisor.
    """

    def __init__(self, table: CostTable) -> None:
        self.table = table
        offsets = [[cost - min(row) for cost in row] for row in table.rows]
        self.unit = math.gcd(*(offset for row in offsets for offset in row)) or 1
        layers, span = len(offsets), sum(map(max, offsets))
        most = MAX_WIDE_CELLS if table.options.widths else MAX_CELLS
        self.is_exact = layers * (span // self.unit + 1) <= most
        if not self.is_exact:
            self.unit = max(1, -(-span * layers // COARSE_CELLS))
        self._steps = [[offset // self.unit for offset in row] for row in offsets]
        self.width = sum(map(max, self._steps)) + 1
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
        """A range of costs, both ends included, in units above the least cost; cut to the table, no narrower."""
        least = self.table.minimum
        first = 0
        if low is not None and self.is_exact:
            first = max(0, -((least - low) // self.unit))
        elif low is not None:  # less than a unit may be missing in each layer
            first = max(0, (low - least) // self.unit - len(self._steps) + 1)
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
        """Architectures with a cost from `low` to `high`, both included; None is no bound. If not exact, no fewer."""
        return self._completions(0, *self._units(low, high))

    def share(self, low: int | None, high: int | None) -> float:
        """The share of the space in a range of costs, 0 to 1."""
        return self.count(low, high) / self._at_most[0][-1]

    def quantile(self, q: float) -> int:
        """The least cost that at least a share `q` of the space is at or under; `q` from 0 to 1, as written.

        If not exact, up to a unit a layer less.
        """
        assert 0 <= q <= 1, f"a quantile of {q}"
        needed = math.ceil(Fraction(str(q)) * self._at_most[0][-1])
        return self._cost_of_place(max(1, needed))

    def _cost_of_place(self, place: int) -> int:
        """The cost of an architecture, by its place (from 1) in the order of cost."""
        return self.table.minimum + bisect_left(self._at_most[0], place) * self.unit

    def draw(self, rng: np.random.Generator, low: int | None, high: int | None) -> Architecture:
        """An architecture, uniformly out of all in a range of costs, in one pass over the layers.

        An option is drawn with the number of its completions as weight, from 53 random bits: exact to 2**-53 a
        layer. If costs are counted exactly, nothing is rejected: a narrow range takes no longer than the whole space.

        Raises:
            LimitError: there is none; the message says which costs are there.
        """
        if self.is_exact:
            return self.table.options.architecture(self._draw(rng, low, high))
        for _ in range(DRAWS):
            arch = self.table.options.architecture(self._draw(rng, low, high))
            if self._contains(arch, low, high):
                return arch
        raise LimitError(self._empty(low, high))

    def _contains(self, arch: Architecture, low: int | None, high: int | None) -> bool:
        cost = self.table.of(arch)
        return (low is None or cost >= low) and (high is None or cost <= high)

    def _draw(self, rng: np.random.Generator, low: int | None, high: int | None) -> list[int]:
        """The option of each layer, of an architecture in the units of a range."""
        first, last = self._units(low, high)
        ways = self._completions(0, first, last)
        if not ways:
            raise LimitError(self._empty(low, high))
        options = []
        before = first - 1  # the units that are too few
        layers = zip(rng.integers(0, 2**53, len(self._steps)).tolist(), self._steps, self._at_most[1:], strict=True)
        for bits, steps, at_most in layers:
            end = len(at_most) - 1  # more units than that complete nothing more
            place = (bits * ways) >> 53  # `ways` is the sum of the options' completions
            for option, step in enumerate(steps):
                # As `_completions`, but a call for each option would be half of the time.
                most, too_few = last - step, before - step
                ways = 0 if most < 0 else at_most[most if most < end else end]
                if too_few >= 0:
                    ways -= at_most[too_few if too_few < end else end]
                if place < ways:
                    options.append(option)
                    last, before = most, too_few
                    break
                place -= ways
        return options

    def enumerate(self, low: int | None, high: int | None) -> Iterator[Architecture]:
        """All architectures in a range of costs, in lexicographic order of their options."""
        prefixes: list[tuple[tuple[int, ...], int, int]] = [((), *self._units(low, high))]
        while prefixes:
            prefix, first, last = prefixes.pop()
            layer = len(prefix)
            if not self._completions(layer, first, last):
                continue
            if layer == len(self._steps):
                arch = self.table.options.architecture(prefix)
                if self.is_exact or self._contains(arch, low, high):
                    yield arch
                continue
            for option, step in reversed(list(enumerate(self._steps[layer]))):
                prefixes.append(((*prefix, option), first - step, last - step))

    def _empty(self, low: int | None, high: int | None) -> str:
        """What to say about a range that holds nothing."""
        least, most, label, written = self.table.minimum, self.table.maximum, self.table.label, self.table.written
        if {written(limit) for limit in (low, high) if limit is not None} & {written(least), written(most)}:
            written = self.table.exactly  # they would look alike
        reach = f"the space reaches from {written(least)} to {written(most)}"
        if low is None:
            assert high is not None, "the whole space is not empty"
            return f"no architecture has at most {written(high)} {label}; {reach}"
        if high is None:
            return f"no architecture has at least {written(low)} {label}; {reach}"
        if low > high or high < least or low > most:
            return f"no architecture has {written(low)} to {written(high)} {label}; {reach}"
        if not self.is_exact:
            return f"no architecture was found with {low:,} to {high:,} {label}; {reach}"
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
    written = text if isinstance(text, str) else quote_value(text)  # a bool or a list then reads as no size
    match = SIZE.fullmatch(re.sub(r"[\s_]", "", written)) if len(written) <= 60 else None
    if match:
        number, exponent, unit = match.groups()
        # Decimal reads its text exactly; its arithmetic would round to 28 digits.
        cost = Decimal(f"{number}e{int(exponent or 0) + UNITS[unit.upper()]}")
        if 0 < cost <= MAX_COST and cost == cost.to_integral_value():
            return int(cost)
    raise ConfigError(
        f"{quote_value(text)} is not a size; write a positive whole number such as 330M, 0.33G or 330000000"
    )


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
        raise ConfigError(f"{quote_value(text)} is not a latency; write one such as 12ms, 900us or 1.5s, up to 1000s")
    return duration


def format_duration(duration: int) -> str:
    """Microseconds with four significant digits at most: `12.5ms`, `900us`."""
    unit = "s" if duration >= 10**6 else "ms" if duration >= 10**3 else "us"
    return f"{float(f'{duration / DURATIONS[unit]:.4g}'):g}{unit}"
