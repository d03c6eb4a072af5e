"""Costs of architectures, and how many architectures cost how much, exactly.

A `CostTable` has the cost of each option of each layer. Where output widths or image sizes are searched, it also
depends on the layer's context: on what the layers before have set. Its `CostDistribution` counts architectures by
dynamic programming over the layers and contexts, and draws uniformly from any range of costs.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple, cast

import numpy as np

from spos_cli.errors import LimitError
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost_kinds import CostKind, OwnKind
from spos_cli.space.options import Numbers, Options

MAX_INT64_COUNT = 2**62  # Larger numbers of architectures are counted in several machine numbers each.
LIMB_BITS = 32  # of such a number; a sum of 2**27 of them fits into 64 bits
LIMB_MASK = 2**LIMB_BITS - 1
MAX_CELLS = 2**27  # Size of a table of exact counts: 1 GiB of int64.
MAX_CELLS_WITH_WIDTHS = 2**21  # Widths and bits make so many architectures that counts are Python's own integers.
MAX_OWN_CELLS = 2**23  # Decimals of a user's own costs hardly share a divisor; a larger table would gain nothing.
COARSE_CELLS = 2**20  # Size of a table for rounded costs: rounding then moves few architectures into a range.
MAX_DRAWS = 10_000  # A range of rounded costs counts as empty after so many draws outside of it.
NEIGHBOUR_DRAWS = 200  # Draws in each window of costs beside an empty range of rounded costs.
MAX_STEPS_PER_NETWORK = 20_000  # The latency of an average network has at most about this many steps.


class CostTable:
    """A cost that adds up over layers: a fixed part, and one entry for each option of each layer.

    Args:
        kind: of the cost.
        fixed: cost of the stem and the head. What depends on the image size, or on the last stage's output width, is in
            the entries of the layers.
        rows: by layer, the cost of each option in the first context, then in the second one, and so on: see
            `Options.contexts`. Layers may have different numbers of options.
        options: of each layer; by default, choices without widths.
    """

    def __init__(
        self, kind: CostKind, fixed: int, rows: Sequence[Sequence[int]], options: Options | None = None
    ) -> None:
        self.kind, self.fixed = kind, fixed
        self.rows = tuple(tuple(map(int, row)) for row in rows)
        assert self.rows, "a cost table without layers"
        assert all(self.rows), "a layer without choices"
        self.options = options or Options.without_widths([len(row) for row in self.rows])
        columns = [len(following) for following in self.options.next_contexts]
        assert [len(row) for row in self.rows] == columns, "a cost for each option in each context"

    def of(self, arch: Architecture) -> int:
        """Return the cost of an architecture of the space."""
        return self.fixed + sum(row[column] for row, column in zip(self.rows, self.options.columns(arch), strict=True))

    @cached_property
    def minimum(self) -> int:
        """The smallest cost in the space."""
        return self.fixed + self.cheapest_rest[0][0]

    @cached_property
    def maximum(self) -> int:
        """The largest cost in the space."""
        return self.fixed + self._find_rest(max)[0][0]

    @property
    def cheapest(self) -> Architecture:
        """An architecture with the smallest cost; of several, the one with the first option in the first layers."""
        return self._follow(self.cheapest_rest)

    @property
    def most_expensive(self) -> Architecture:
        """An architecture with the largest cost; of several, the one with the first option in the first layers."""
        return self._follow(self._find_rest(max))

    @cached_property
    def cheapest_rest(self) -> list[list[int]]:
        """By layer and context, the smallest cost of the layers from this one on; 0 after the last layer."""
        return self._find_rest(min)

    def _find_rest(self, choose: Callable[[Sequence[int]], int]) -> list[list[int]]:
        """Return, by layer and context, the smallest or largest cost of the layers from this one on.

        Args:
            choose: `min` or `max`.
        """
        rest = [0] * (1 + max(self.options.next_contexts[-1]))
        by_layer = [rest]
        for layer in reversed(range(len(self.rows))):
            rest = [choose(totals) for totals in self.add_rest(layer, rest)]
            by_layer.append(rest)
        return by_layer[::-1]

    def add_rest(self, layer: int, rest: Sequence[int]) -> list[list[int]]:
        """Return, by context and option, the cost of a layer with that of the layers after it, by their context."""
        count = self.options.counts[layer]
        totals = [
            cost + rest[context]
            for cost, context in zip(self.rows[layer], self.options.next_contexts[layer], strict=True)
        ]
        return [totals[start : start + count] for start in range(0, len(totals), count)]

    def _follow(self, rest: Sequence[Sequence[int]]) -> Architecture:
        """Return the first architecture whose layers cost what `_find_rest` has returned."""
        indices, context = [], 0
        for layer, count in enumerate(self.options.counts):
            indices.append(self.add_rest(layer, rest[layer + 1])[context].index(rest[layer][context]))
            context = self.options.next_contexts[layer][context * count + indices[-1]]
        return self.options.architecture(indices)

    @property
    def mean(self) -> float:
        """The mean cost over all architectures, in which all contexts of a layer are equally frequent."""
        return float(self.fixed + sum(Fraction(sum(row), len(row)) for row in self.rows))

    @property
    def name(self) -> str:
        """The name of the cost in settings and files."""
        return self.kind.name

    def distribution(self) -> CostDistribution:
        """Return how many architectures cost how much; computed at the first call."""
        return self._distribution

    @cached_property
    def _distribution(self) -> CostDistribution:
        return CostDistribution(self)


class Step(NamedTuple):
    """What one option of a layer leads to, in one context.

    Attributes:
        units: what it costs above the cheapest way to go on.
        counts: by units, the ways to choose options for the layers after it with at most so many units; beyond the end,
            all ways are counted.
        end: the last index of `counts`.
        context: index of the next layer's context.
    """

    units: int
    counts: Sequence[int]
    end: int
    context: int


class CostDistribution:
    """How many architectures cost how much, and uniform draws from any range of costs.

    Costs are counted in units above the smallest one: an option costs what its cheapest architecture costs above the
    cheapest one of the layer's context. The unit is the greatest common divisor of these differences. Counts are int64
    where they fit, otherwise several numbers that become Python's own integers: exact either way.

    With too many units for a table (the costs of widths hardly share a divisor), each cost is rounded down to a coarser
    unit. A count of a range is then too high, because rounding moves architectures into the range. Draws stay exact:
    an architecture outside of the range is drawn again.

    Args:
        table: the cost.

    Attributes:
        table: the cost.
        unit: in which costs are counted; 1 if all architectures cost the same.
        num_units: from the smallest to the largest cost, both included.
        is_exact: whether the unit is the greatest common divisor, so that no cost is rounded.
    """

    def __init__(self, table: CostTable) -> None:
        self.table = table
        rest, above_cheapest = table.cheapest_rest, list[list[list[int]]]()  # by layer, context and option
        for layer, cheapest in enumerate(rest[:-1]):
            pairs = zip(table.add_rest(layer, rest[layer + 1]), cheapest, strict=True)
            above_cheapest.append([[total - least for total in totals] for totals, least in pairs])
        differences = (cost for layer in above_cheapest for costs in layer for cost in costs)
        self.unit = math.gcd(*differences) or 1
        layers, span = len(table.rows), table.maximum - table.minimum
        max_cells = MAX_OWN_CELLS if isinstance(table.kind, OwnKind) else MAX_CELLS
        if not table.options.has_choices_only:
            max_cells = MAX_CELLS_WITH_WIDTHS
        self.is_exact = sum(map(len, above_cheapest)) * (span // self.unit + 1) <= max_cells
        if not self.is_exact:
            self.unit = max(1, -(-span * layers // COARSE_CELLS))
        self._steps, self._at_most = self._count_ways(above_cheapest)
        self.num_units = len(self._at_most)

    def _count_ways(
        self, above_cheapest: Sequence[Sequence[Sequence[int]]]
    ) -> tuple[list[list[list[Step]]], Sequence[int]]:
        """Return the steps of all layers, by layer, context and option, and the counts of whole architectures.

        Args:
            above_cheapest: costs, by layer, context and option.
        """
        options, steps = self.table.options, list[list[list[Step]]]()
        ways = 1  # to choose the layers after the current one, in each context
        limbs = [[np.ones(1, np.int64)] for _ in self.table.cheapest_rest[-1]]  # by context, see `_carry`
        counts = [_to_cumulative_ints(numbers, ways) for numbers in limbs]
        for layer in reversed(range(len(above_cheapest))):
            count, following, by_context = options.counts[layer], options.next_contexts[layer], list[list[Step]]()
            for index, costs in enumerate(above_cheapest[layer]):
                pairs = zip(costs, following[index * count : (index + 1) * count], strict=True)
                by_context.append([Step(cost // self.unit, counts[c], len(counts[c]) - 1, c) for cost, c in pairs])
            steps.append(by_context)
            if ways * count >= MAX_INT64_COUNT:
                limbs = [_carry(numbers, ways) for numbers in limbs]  # The sums of the limbs then fit into int64.
            ways *= count
            limbs = [_add_shifted(limbs, options_of_context) for options_of_context in by_context]
            counts = [_to_cumulative_ints(numbers, ways) for numbers in limbs]
        return steps[::-1], counts[0]

    def _to_units(self, low: int | None, high: int | None) -> tuple[int, int]:
        """Return a range of costs in units above the smallest cost, both ends included; never too narrow."""
        minimum = self.table.minimum
        first = 0
        if low is not None and self.is_exact:
            first = max(0, -((minimum - low) // self.unit))
        elif low is not None:  # Rounding takes less than one unit from each layer.
            first = max(0, (low - minimum) // self.unit - len(self._steps) + 1)
        last = self.num_units - 1 if high is None else min(self.num_units - 1, (high - minimum) // self.unit)
        return first, last

    def count(self, low: int | None, high: int | None) -> int:
        """Count the architectures that cost `low` to `high`, both included; None is no bound.

        If costs are rounded, the result may be too high, never too low.
        """
        return _count_between(self._at_most, *self._to_units(low, high))

    def share(self, low: int | None, high: int | None) -> float:
        """Return the share of the space in a range of costs, 0 to 1."""
        return self.count(low, high) / self._at_most[-1]

    def quantile(self, q: float) -> int:
        """Return the smallest cost that at least a share `q` of the space does not exceed; `q` is from 0 to 1.

        If costs are rounded, the result may be too low by up to one unit per layer.
        """
        assert 0 <= q <= 1, f"a quantile of {q}"
        needed = math.ceil(Fraction(str(q)) * self._at_most[-1])
        return self._cost_of_rank(max(1, needed))

    def _cost_of_rank(self, rank: int) -> int:
        """Return the cost of the architecture with this rank (from 1) in the order of cost."""
        return self.table.minimum + bisect_left(self._at_most, rank) * self.unit

    def draw(self, rng: np.random.Generator, low: int | None, high: int | None) -> Architecture:
        """Draw an architecture uniformly from a range of costs, in one pass over the layers.

        The weight of an option is the number of ways to complete it, and 53 random bits pick one, so probabilities are
        exact to 2**-53 per layer. Without rounding nothing is rejected: a narrow range takes no longer than the whole
        space.

        Args:
            rng: the source of all draws.
            low, high: the range, both ends included; None is no bound.

        Raises:
            LimitError: the range is empty; the message says which costs there are.
        """
        if self.is_exact:
            return self.table.options.architecture(self._draw_indices(rng, low, high))
        for _ in range(MAX_DRAWS):
            arch = self.table.options.architecture(self._draw_indices(rng, low, high))
            if self._contains(arch, low, high):
                return arch
        raise LimitError(self._explain_empty(low, high))

    def _contains(self, arch: Architecture, low: int | None, high: int | None) -> bool:
        cost = self.table.of(arch)
        return (low is None or cost >= low) and (high is None or cost <= high)

    def _draw_indices(self, rng: np.random.Generator, low: int | None, high: int | None) -> list[int]:
        """Draw the index of each layer's option, of an architecture in the units of a range."""
        first, last = self._to_units(low, high)
        ways = _count_between(self._at_most, first, last)
        if not ways:
            raise LimitError(self._explain_empty(low, high))
        indices, context = [], 0
        too_few = first - 1  # the most units that are below the range
        for bits, steps in zip(rng.integers(0, 2**53, len(self._steps)).tolist(), self._steps, strict=True):
            remaining = (bits * ways) >> 53  # `ways` is the sum of the ways of all options of this layer.
            for index, (units, counts, end, following) in enumerate(steps[context]):
                # This is `_count_between`, written out: a call for each option would take half of the time.
                most, fewer = last - units, too_few - units
                ways = 0 if most < 0 else counts[most if most < end else end]
                if fewer >= 0:
                    ways -= counts[fewer if fewer < end else end]
                if remaining < ways:
                    indices.append(index)
                    last, too_few, context = most, fewer, following
                    break
                remaining -= ways
        return indices

    def enumerate(self, low: int | None, high: int | None) -> Iterator[Architecture]:
        """Yield all architectures in a range of costs, in lexicographic order of their options."""
        if not self.count(low, high):
            return
        prefixes: list[tuple[tuple[int, ...], int, int, int]] = [((), 0, *self._to_units(low, high))]
        while prefixes:
            prefix, context, first, last = prefixes.pop()
            if len(prefix) == len(self._steps):
                arch = self.table.options.architecture(prefix)
                if self.is_exact or self._contains(arch, low, high):
                    yield arch
                continue
            for index, step in reversed(list(enumerate(self._steps[len(prefix)][context]))):
                if _count_between(step.counts, first - step.units, last - step.units):
                    prefixes.append(((*prefix, index), step.context, first - step.units, last - step.units))

    def _explain_empty(self, low: int | None, high: int | None) -> str:
        """Return the message for a range without architectures."""
        kind, minimum, maximum = self.table.kind, self.table.minimum, self.table.maximum
        label, write, write_exactly = kind.label, kind.format, kind.format_exactly
        if {write(limit) for limit in (low, high) if limit is not None} & {write(minimum), write(maximum)}:
            write = write_exactly  # Rounded, a limit would look like an end of the space.
        reach = f"the space reaches from {write(minimum)} to {write(maximum)}"
        if low is None:
            assert high is not None, "the whole space is not empty"
            return f"no architecture has at most {write(high)} {label}; {reach}"
        if high is None:
            return f"no architecture has at least {write(low)} {label}; {reach}"
        if low > high or high < minimum or low > maximum:
            return f"no architecture has {write(low)} to {write(high)} {label}; {reach}"
        within = f"{write_exactly(low)} to {write_exactly(high)} {label}"
        if not self.is_exact:
            near = self._describe_neighbours(low, high)
            return f"no architecture was found with {within}; {near}{reach}"
        # The range is in a gap between two costs, which may look alike when rounded.
        below = self.count(None, low - 1)
        nearest = " and ".join(write_exactly(self._cost_of_rank(rank)) for rank in (below, below + 1))
        return f"no architecture has {within}; the nearest have {nearest}, and {reach}"

    def _describe_neighbours(self, low: int, high: int) -> str:
        """Name costs below and above a range in which draws found nothing; costs are rounded.

        Draws look in ever larger windows beside the range, so a cost is near the range, but seldom the nearest.
        """
        rng, near = np.random.default_rng(low), []
        for downward in (True, False):
            width, cost = max(1, high - low), None
            while cost is None and width < 2 * (self.table.maximum - self.table.minimum):
                window = (low - width, low - 1) if downward else (high + 1, high + width)
                cost, width = self._find_cost(rng, *window), 2 * width
            near += [] if cost is None else [self.table.kind.format_exactly(cost)]
        return f"near it are {' and '.join(near)}, and " if near else ""

    def _find_cost(self, rng: np.random.Generator, low: int, high: int) -> int | None:
        """Return the cost of an architecture in a range; None if a few draws find none."""
        if not self.count(low, high):
            return None
        costs = (
            self.table.of(self.table.options.architecture(self._draw_indices(rng, low, high)))
            for _ in range(NEIGHBOUR_DRAWS)
        )
        return next((cost for cost in costs if low <= cost <= high), None)


def _count_between(counts: Sequence[int], first: int, last: int) -> int:
    """Return the ways with `first` to `last` units, both included, of cumulative counts by units."""
    if last < 0 or first > last:
        return 0
    end = len(counts) - 1
    return counts[min(last, end)] - (counts[min(first - 1, end)] if first > 0 else 0)


def _add_shifted(limbs: Sequence[Sequence[Numbers]], steps: Sequence[Step]) -> list[Numbers]:
    """Return by units, as limbs, the ways to choose one of a layer's options and the layers after it.

    Args:
        limbs: by context of the next layer, the ways to choose the layers after it.
        steps: of the layer's options.
    """
    length = max(step.units + len(limbs[step.context][0]) for step in steps)
    sums = [np.zeros(length, np.int64) for _ in limbs[0]]
    for step in steps:
        for total, limb in zip(sums, limbs[step.context], strict=True):
            total[step.units : step.units + len(limb)] += limb
    return sums


def _carry(limbs: Sequence[Numbers], most: int) -> list[Numbers]:
    """Write numbers of any size as limbs `(n,)` int64 of 32 bits each, the lowest first.

    Adding arrays of machine numbers takes a sixth of the time of adding Python's own integers.

    Args:
        limbs: of the numbers, perhaps larger than 32 bits.
        most: no number is larger.
    """
    carried: list[Numbers] = []
    rest = np.zeros_like(limbs[0])
    for limb in limbs:
        total = limb + rest
        carried.append(total & LIMB_MASK)
        rest = total >> LIMB_BITS
    while most >> (LIMB_BITS * len(carried)):
        carried.append(rest & LIMB_MASK)
        rest = rest >> LIMB_BITS
    return carried


def _to_cumulative_ints(limbs: Sequence[Numbers], most: int) -> Sequence[int]:
    """Return the cumulative sums of numbers as Python's own integers: a draw would be slow with those of NumPy.

    Args:
        limbs: of the numbers, as `_carry` takes them.
        most: the sum of all numbers.
    """
    if most < MAX_INT64_COUNT:
        return array("q", np.cumsum(limbs[0]).tobytes())
    sums = _carry([np.cumsum(limb) for limb in _carry(limbs, most)], most)
    pairs = zip(sums[::2], [*sums[1::2], np.zeros_like(sums[0])], strict=False)
    words = [(low | high << LIMB_BITS).view(np.uint64).astype(object) for low, high in pairs]  # 64 bits each
    total = words.pop()
    while words:
        total = (total << 2 * LIMB_BITS) + words.pop()
    return cast(list[int], total.tolist())


def choose_latency_step(mean: float) -> int:
    """Return the resolution of a table of latencies, for the mean latency of a network; all in microseconds.

    The space counts costs exactly, in whole steps. A finer step is below the noise of any measurement.
    """
    return max(1, round(mean) // MAX_STEPS_PER_NETWORK)
