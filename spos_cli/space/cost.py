"""What architectures cost, and how many of them cost how much: exactly, by dynamic programming."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spos_cli.errors import ConfigError, LimitError
from spos_cli.space.architecture import Architecture

MAX_CELLS = 2**27  # of a table of counts: 1 GiB
MAX_COST = 10**18
UNITS = {"K": 3, "M": 6, "G": 9, "T": 12}


@dataclass(frozen=True, eq=False)
class CostTable:
    """An additive cost: a fixed part, and one entry for each choice of each layer.

    Attributes:
        name: what is counted.
        fixed: cost of the stem and the head.
        table: `(layers, choices)` int64.
    """

    name: str
    fixed: int
    table: NDArray[np.int64]

    def __post_init__(self) -> None:
        table = np.array(self.table, np.int64)
        table.setflags(write=False)
        object.__setattr__(self, "table", table)

    @cached_property
    def _rows(self) -> list[list[int]]:
        rows: list[list[int]] = self.table.tolist()
        return rows

    def of(self, arch: Architecture) -> int:
        """The cost of one architecture: a sum of look-ups."""
        return self.fixed + sum(row[choice] for row, choice in zip(self._rows, arch, strict=True))

    @property
    def minimum(self) -> int:
        """The least cost in the space."""
        return self.fixed + int(self.table.min(1).sum())

    @property
    def maximum(self) -> int:
        """The largest cost in the space."""
        return self.fixed + int(self.table.max(1).sum())

    @property
    def mean(self) -> float:
        """The mean cost of all architectures."""
        return self.fixed + int(self.table.sum()) / self.table.shape[1]

    def distribution(self) -> CostDistribution:
        """How many architectures cost how much; computed once."""
        return self._distribution

    @cached_property
    def _distribution(self) -> CostDistribution:
        return CostDistribution(self)


class CostDistribution:
    """How many architectures cost how much, and uniform draws from any range of costs.

    Costs are counted in units of the greatest common divisor of the differences within each layer, above the
    least cost. `at_most[l][c]` is the number of ways to complete the layers from `l` on with at most `c` units.
    Counts are int64 where they fit, else Python's whole numbers: exact either way.

    Raises:
        LimitError: the costs have no common unit coarse enough for a table.
    """

    def __init__(self, table: CostTable) -> None:
        self.table = table
        offsets = table.table - table.table.min(1, keepdims=True)
        self.unit = int(np.gcd.reduce(offsets, axis=None)) or 1
        steps = offsets // self.unit
        self.width = int(steps.max(1).sum()) + 1
        layers, choices = steps.shape
        if layers * self.width > MAX_CELLS:
            raise LimitError(
                f"{table.name} differ by multiples of {self.unit} only, which makes {self.width:,} different sums:"
                " too many to count"
            )
        self._steps: list[list[int]] = steps.tolist()
        dtype = np.int64 if choices**layers < 2**62 else object
        counts = np.zeros(self.width, dtype)
        counts[0] = 1
        suffixes = [counts]
        for row in reversed(self._steps):
            longer = np.zeros(self.width, dtype)
            for step in row:
                longer[step:] += counts[: self.width - step]
            counts = longer
            suffixes.append(counts)
        # Plain lists: reading single elements of an array would be most of the time of a draw.
        self._at_most: list[list[int]] = [np.cumsum(suffix).tolist() for suffix in reversed(suffixes)]

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
        return counts[last] - (counts[first - 1] if first > 0 else 0)

    def count(self, low: int | None, high: int | None) -> int:
        """Architectures with a cost from `low` to `high`, both included; None is no bound."""
        return self._completions(0, *self._units(low, high))

    def share(self, low: int | None, high: int | None) -> float:
        """The share of the space in a range of costs."""
        return self.count(low, high) / self._at_most[0][-1]

    def quantile(self, q: float) -> int:
        """The least cost that at least a share `q` of the space is at or under."""
        total = self._at_most[0][-1]
        needed = max(1, math.ceil(q * total))
        position = next(i for i, count in enumerate(self._at_most[0]) if count >= min(needed, total))
        return self.table.minimum + position * self.unit

    def draw(self, rng: np.random.Generator, low: int | None, high: int | None) -> Architecture:
        """An architecture, uniformly out of all in a range of costs, in one pass over the layers.

        Raises:
            LimitError: there is none; the message says which costs are there.
        """
        first, last = self._units(low, high)
        if not self._completions(0, first, last):
            raise LimitError(self._empty(low, high))
        choices = []
        for layer, bits in enumerate(rng.integers(0, 2**53, len(self._steps)).tolist(), 1):
            steps = self._steps[layer - 1]
            weights = [self._completions(layer, first - step, last - step) for step in steps]
            place = (bits * sum(weights)) >> 53
            choice = 0
            while place >= weights[choice]:
                place -= weights[choice]
                choice += 1
            choices.append(choice)
            first -= steps[choice]
            last -= steps[choice]
        return Architecture(tuple(choices))

    def enumerate(self, low: int | None, high: int | None) -> Iterator[Architecture]:
        """All architectures in a range of costs, in lexicographic order."""

        def complete(prefix: tuple[int, ...], first: int, last: int) -> Iterator[Architecture]:
            layer = len(prefix)
            if layer == len(self._steps):
                yield Architecture(prefix)
                return
            for choice, step in enumerate(self._steps[layer]):
                if self._completions(layer + 1, first - step, last - step):
                    yield from complete((*prefix, choice), first - step, last - step)

        first, last = self._units(low, high)
        if self._completions(0, first, last):
            yield from complete((), first, last)

    def _empty(self, low: int | None, high: int | None) -> str:
        """What to say about a range that holds nothing."""
        least, most = self.table.minimum, self.table.maximum
        asked = (
            f"at most {format_cost(high)}"
            if low is None and high is not None
            else (f"{format_cost(low or 0)} to {format_cost(high if high is not None else most)}")
        )
        gap = ", but none in between" if (high is None or high >= least) and (low is None or low <= most) else ""
        return (
            f"no architecture of the space has {asked} {self.table.name.upper() if self.table.name == 'flops' else self.table.name};"
            f" it reaches from {format_cost(least)} to {format_cost(most)}{gap}"
        )


def parse_cost(value: Any) -> int:
    """Reads `330M`, `0.33G`, `330e6` or `330000000`, exactly.

    Raises:
        ConfigError: it is none of these, or not a positive whole number.
    """
    text = "" if isinstance(value, bool) else str(value).strip().replace("_", "")
    exponent = UNITS.get(text[-1:].upper(), 0)
    number = text[:-1].strip() if exponent else text
    try:
        amount = Decimal(number) if len(number) <= 40 and number.isascii() else Decimal("nan")
        scaled = amount.scaleb(exponent)
        if not scaled.is_finite() or not 0 < scaled <= MAX_COST or scaled != int(scaled):
            raise ConfigError(f"{value!r:.60} is not a size; a size is a positive whole number, such as 330M")
    except InvalidOperation:
        raise ConfigError(f"{value!r:.60} is not a size; write 330M, 0.33G or 330000000") from None
    return int(scaled)


def format_cost(cost: int) -> str:
    """Four significant digits and a unit: `322.9M`, `3.558M`, `512`."""
    for unit, exponent in reversed(UNITS.items()):
        if cost >= 10**exponent:
            return f"{cost / 10**exponent:.4g}{unit}" if cost < 9999.5 * 10**exponent else f"{cost:.3e}"
    return str(cost)
