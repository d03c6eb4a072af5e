"""Kinds of costs: what they are called, and how people write them.

A cost is a whole number everywhere: multiply-adds, parameters, BitOPs, microseconds, or millionths of the unit of a
user's own cost. Its `CostKind` says how settings, options, messages, files, tables and charts write it. A new built-in
kind is one more instance in `COST_KINDS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from spos_cli.errors import ConfigError
from spos_cli.files.quoting import quote_value

MAX_COST = 10**18
MAX_DURATION = 10**9  # microseconds
SIZES = {"": 0, "K": 3, "M": 6, "G": 9, "T": 12}  # Powers of ten.
DURATIONS = {"us": 1, "ms": 10**3, "s": 10**6}  # microseconds
SIZE = re.compile(r"(\d+\.?\d*|\.\d+)(?:e([+-]?\d{1,3}))?([kmgt]?)", re.ASCII | re.IGNORECASE)
DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(us|ms|s)", re.ASCII)
MAX_SIZE_CHARACTERS = 60
NUMBER = re.compile(r"(\d{1,12}(\.\d{0,20})?|\.\d{1,20})(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
OWN_SCALE = 10**6  # A user's own cost is counted in millionths of its unit.
MAX_OWN_COST = 10**9 * OWN_SCALE  # A 64-bit floating-point number has all digits of such a cost.
OWN_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
UNKNOWN = "–"  # a cell of a table


@dataclass(frozen=True)
class CostKind:
    """A kind of cost that is counted, such as FLOPs, and is written as a size, such as 330M.

    Attributes:
        name: in settings, options and files: `params`.
        noun: in texts: a limit on `parameters`.
        title: of a column of a table: `params`.
        label: behind a number: 3M `parameters`.
        example: a range as people write it.
        scale: charts and CSV files have a cost divided by it.
        unit: of the number in charts; empty for a size, such as 330M.
    """

    name: str
    noun: str
    title: str
    label: str
    example: str = "250M-330M"
    scale: int = 1
    unit: str = ""

    @property
    def setting(self) -> str:
        """The setting of a limit on the cost."""
        return f"search.{self.name}_limit"

    @property
    def option(self) -> str:
        """The option of a limit on the cost, which its value follows at once."""
        return f"--{self.name}-limit "

    def parse(self, value: Any) -> int:
        """Read a cost above 0 as people write it, in settings or options.

        Raises:
            ConfigError: the value is not such a cost.
        """
        return parse_cost(value)

    def format(self, cost: int) -> str:
        """Write a cost for people, rounded: `330M`."""
        return format_cost(cost)

    def describe(self, cost: int) -> str:
        """Write a cost for people, rounded, and say what it is: `330M FLOPs`."""
        return f"{self.format(cost)} {self.label}"

    def format_exactly(self, cost: int) -> str:
        """Write a cost with all its digits: `330,012,345`."""
        return f"{cost:,}"

    def write(self, cost: int) -> str:
        """Write a cost exactly, as `parse` reads it: `330012345`."""
        return str(cost)

    def format_cell(self, cost: int | None) -> str:
        """Write a cost for a column titled `title`; a cost that is unknown is a dash."""
        return UNKNOWN if cost is None else self.format(cost)

    def write_range(self, low: int, high: int) -> str:
        """Write both ends of a range exactly, as `parse` reads them: `250M-330M`."""
        short = [_write_exactly(end, format_cost, parse_cost) for end in (low, high)]
        return "-".join(short if all(short) else [self.write(low), self.write(high)])

    def to_number(self, cost: int) -> int | float:
        """Return a cost as files keep it."""
        return cost

    def from_number(self, number: Any) -> int:
        """Return the cost that a file has; raise ValueError if it is not a cost."""
        if type(number) is int and 0 <= number <= MAX_COST:
            return number
        raise ValueError("a cost is out of range")


class LatencyKind(CostKind):
    """The latency: microseconds, written as a duration, such as 12ms."""

    def parse(self, value: Any) -> int:
        """Read a duration; files may have a whole number of microseconds."""
        return value if type(value) is int and 1 <= value <= MAX_DURATION else parse_duration(value)

    def format(self, cost: int) -> str:
        """Write a duration for people, rounded: `12.5ms`."""
        return format_duration(cost)

    def describe(self, cost: int) -> str:
        """Write a duration for people; its unit says what it is."""
        return self.format(cost)

    def format_exactly(self, cost: int) -> str:
        """Write a duration with all its digits: `12,512us`."""
        return f"{cost:,}us"

    def write(self, cost: int) -> str:
        """Write a duration exactly: `12512us`."""
        return f"{cost}us"

    def format_cell(self, cost: int | None) -> str:
        """Write milliseconds without their unit, which is in the title of the column."""
        return UNKNOWN if cost is None else f"{float(f'{cost / 1000:.4g}'):.10g}"

    def write_range(self, low: int, high: int) -> str:
        """Write both ends of a range exactly: `8ms-12345us`."""
        return "-".join(_write_exactly(end, format_duration, parse_duration) or self.write(end) for end in (low, high))


class OwnKind(CostKind):
    """A cost of the user's own: millionths of the user's unit, written as a number with decimals, such as 12.5."""

    @property
    def setting(self) -> str:
        """The setting of a limit on the cost."""
        return f"search.limits.{self.name}"

    @property
    def option(self) -> str:
        """The option of a limit on the cost, which its value follows at once."""
        return f"--limit {self.name}="

    def parse(self, value: Any) -> int:
        """Read a number above 0, of at most six decimals; more are rounded."""
        text = re.sub(r"[\s_]", "", str(value)) if type(value) in (int, float, str) else ""
        number = Decimal(text) * self.scale if NUMBER.fullmatch(text) else Decimal(0)
        if not 1 <= round(number) <= MAX_OWN_COST:
            raise ConfigError(
                f"{quote_value(value)} is not a cost; write a number above 0 without its unit, such as 12.5, up to"
                f" {MAX_OWN_COST // self.scale:,}"
            )
        return round(number)

    def format(self, cost: int) -> str:
        """Write a cost for people, rounded, with its unit: `12.5 mJ`."""
        return f"{self.format_cell(cost)} {self.unit}".rstrip()

    def format_exactly(self, cost: int) -> str:
        """Write a cost with all its digits, with its unit: `1,234.567891 mJ`."""
        return f"{self._to_decimal(cost):,f} {self.unit}".rstrip()

    def format_cell(self, cost: int | None) -> str:
        """Write a number without its unit, which is in the title of the column."""
        return UNKNOWN if cost is None else f"{float(f'{cost / self.scale:.4g}'):.10g}"

    def write(self, cost: int) -> str:
        """Write a cost exactly, without its unit: `1234.567891`."""
        return f"{self._to_decimal(cost):f}"

    def write_range(self, low: int, high: int) -> str:
        """Write both ends of a range exactly: `3-8.25`."""
        return f"{self.write(low)}-{self.write(high)}"

    def to_number(self, cost: int) -> int | float:
        """Return a cost in the user's unit; it has so few digits that `from_number` reads it exactly."""
        return cost // self.scale if cost % self.scale == 0 else cost / self.scale

    def from_number(self, number: Any) -> int:
        """Return the cost that a file has in the user's unit; raise ValueError if it is not a cost."""
        if type(number) is not bool and isinstance(number, int | float) and 0 <= number <= MAX_OWN_COST // self.scale:
            return round(number * self.scale)
        raise ValueError("a cost is out of range")

    def _to_decimal(self, cost: int) -> Decimal:
        """Return a cost in the user's unit, without zeros at the end."""
        number = Decimal(cost) / self.scale
        return number.to_integral_value() if number == number.to_integral_value() else number.normalize()


FLOPS = CostKind("flops", "FLOPs", "FLOPs", "FLOPs")
PARAMS = CostKind("params", "parameters", "params", "parameters")
BITOPS = CostKind("bitops", "BitOPs", "BitOPs", "BitOPs")
LATENCY = LatencyKind("latency", "latency", "latency (ms)", "of latency", "8ms-12ms", 1000, "ms")
COST_KINDS = {kind.name: kind for kind in (FLOPS, PARAMS, BITOPS, LATENCY)}  # in the order in which they are shown


def make_own_kind(name: str, unit: str = "") -> OwnKind:
    """Return the kind of a user's own cost; `unit` stands behind its numbers."""
    noun = name.replace("_", " ")
    title = f"{noun} ({unit})" if unit else noun
    return OwnKind(name, noun, title, f"of {noun}", example="3-8", scale=OWN_SCALE, unit=unit)


def get_kind(name: str) -> CostKind:
    """Return a built-in kind of cost, or that of a user's own cost, whose unit is not known here."""
    return COST_KINDS.get(name) or make_own_kind(name)


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
