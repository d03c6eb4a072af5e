"""Kinds of costs: what they are called, and how people write them.

A cost is a whole number everywhere: multiply-adds, parameters or microseconds. Its `CostKind` says how settings,
options, messages, tables and charts write it. A new kind of cost is one more instance in `COST_KINDS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Literal

from spos_cli.errors import ConfigError
from spos_cli.files.quoting import quote_value

MAX_COST = 10**18
MAX_DURATION = 10**9  # microseconds
SIZES = {"": 0, "K": 3, "M": 6, "G": 9, "T": 12}  # Powers of ten.
DURATIONS = {"us": 1, "ms": 10**3, "s": 10**6}  # microseconds
SIZE = re.compile(r"(\d+\.?\d*|\.\d+)(?:e([+-]?\d{1,3}))?([kmgt]?)", re.ASCII | re.IGNORECASE)
DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(us|ms|s)", re.ASCII)
MAX_SIZE_CHARACTERS = 60
UNKNOWN = "–"  # a cell of a table
CostName = Literal["flops", "params", "latency"]


@dataclass(frozen=True)
class CostKind:
    """A kind of cost that is counted, such as FLOPs, and is written as a size, such as 330M.

    Attributes:
        name: in settings, options and files: `params`.
        noun: in texts: a limit on `parameters`.
        title: of a column of a table: `params`.
        label: behind a number: 3M `parameters`.
    """

    name: str
    noun: str
    title: str
    label: str
    example: ClassVar[str] = "250M-330M"  # a range
    scale: ClassVar[int] = 1  # of the axis of a chart: a cost is divided by it
    unit: ClassVar[str] = ""  # of the axis of a chart

    def parse(self, value: Any) -> int:
        """Read a cost above 0 as people write it, in settings or options.

        Raises:
            ConfigError: the value is not such a cost.
        """
        return parse_cost(value)

    def format(self, cost: int) -> str:
        """Write a cost for people, rounded: `330M`."""
        return format_cost(cost)

    def format_exactly(self, cost: int) -> str:
        """Write a cost with all its digits: `330,012,345`. Without the commas, `parse` reads it."""
        return f"{cost:,}"

    def format_cell(self, cost: int | None) -> str:
        """Write a cost for a column titled `title`; a cost that is unknown is a dash."""
        return UNKNOWN if cost is None else self.format(cost)

    def write_range(self, low: int, high: int) -> str:
        """Write both ends of a range exactly, as `parse` reads them: `250M-330M`."""
        short = [_write_exactly(end, format_cost, parse_cost) for end in (low, high)]
        return "-".join(short if all(short) else [str(low), str(high)])


class LatencyKind(CostKind):
    """The latency: microseconds, written as a duration, such as 12ms."""

    example: ClassVar[str] = "8ms-12ms"
    scale: ClassVar[int] = 1000
    unit: ClassVar[str] = "ms"

    def parse(self, value: Any) -> int:
        """Read a duration; files may have a whole number of microseconds."""
        return value if type(value) is int and 1 <= value <= MAX_DURATION else parse_duration(value)

    def format(self, cost: int) -> str:
        """Write a duration for people, rounded: `12.5ms`."""
        return format_duration(cost)

    def format_exactly(self, cost: int) -> str:
        """Write a duration with all its digits: `12,512us`."""
        return f"{cost:,}us"

    def format_cell(self, cost: int | None) -> str:
        """Write milliseconds without their unit, which is in the title of the column."""
        return UNKNOWN if cost is None else f"{float(f'{cost / 1000:.4g}'):.10g}"

    def write_range(self, low: int, high: int) -> str:
        """Write both ends of a range exactly: `8ms-12345us`."""
        return "-".join(_write_exactly(end, format_duration, parse_duration) or f"{end}us" for end in (low, high))


FLOPS = CostKind("flops", "FLOPs", "FLOPs", "FLOPs")
PARAMS = CostKind("params", "parameters", "params", "parameters")
LATENCY = LatencyKind("latency", "latency", "latency (ms)", "of latency")
COST_KINDS = {kind.name: kind for kind in (FLOPS, PARAMS, LATENCY)}  # in the order in which they are shown


def parse_cost(text: str | int | float) -> int:
    """Read `330M`, `0.33G`, `330e6` or `330000000`, exactly; blanks and underscores are skipped.

    Raises:
        ConfigError: the value is not a size, or not a positive whole number up to 10**18.
    """
    written = text if isinstance(text, str) else quote_value(text)  # A bool or a list does not match as text.
    match = SIZE.fullmatch(re.sub(r"[\s_]", "", written)) if len(written) <= MAX_SIZE_CHARACTERS else None
    if match:
        number, exponent, unit = match.groups()
        # Decimal reads a text exactly, whereas its arithmetic would round to 28 digits.
        cost = Decimal(f"{number}e{int(exponent or 0) + SIZES[unit.upper()]}")
        if 0 < cost <= MAX_COST and cost == cost.to_integral_value():
            return int(cost)
    raise ConfigError(f"{quote_value(text)} is not a size; write a number above 0, such as 330M, 0.33G or 330000000")


def format_cost(cost: int) -> str:
    """Write at most four significant digits and the largest unit that fits: `322.9M`, `3.558M`, `330M`, `1G`, `512`.

    The digits are rounded before the unit is chosen. `parse_cost` reads the result.
    """
    rounded = float(f"{cost:.4g}")
    for unit, exponent in reversed(SIZES.items()):
        if rounded >= 10**exponent:
            return f"{rounded / 10**exponent:.4g}{unit}"
    return str(cost)


def parse_duration(text: str | int | float) -> int:
    """Read `12ms`, `900us` or `1.5s` as whole microseconds, rounded.

    Raises:
        ConfigError: the value is not a time, or not from 1 microsecond to 1,000 seconds.
    """
    match = DURATION.fullmatch(re.sub(r"[\s_]", "", str(text))[:MAX_SIZE_CHARACTERS])
    duration = round(Decimal(match[1]) * DURATIONS[match[2]]) if match else 0
    if not 1 <= duration <= MAX_DURATION:
        raise ConfigError(f"{quote_value(text)} is not a latency; write one such as 12ms, 900us or 1.5s, up to 1000s")
    return duration


def format_duration(duration: int) -> str:
    """Write microseconds with at most four significant digits: `12.5ms`, `900us`."""
    unit = "s" if duration >= 10**6 else "ms" if duration >= 10**3 else "us"
    return f"{float(f'{duration / DURATIONS[unit]:.4g}'):g}{unit}"


def _write_exactly(cost: int, write: Callable[[int], str], parse: Callable[[str], int]) -> str:
    """Return a cost as people write it; empty if rounding changes it, or if it has no unit."""
    text = write(cost)
    return text if not text[-1].isdecimal() and parse(text) == cost else ""
