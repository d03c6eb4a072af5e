"""Limits on costs: the largest cost that is allowed, or a range of costs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from spos_cli.errors import ConfigError
from spos_cli.files.quoting import quote_value
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_kinds import CostKind

HYPHEN = re.compile("(?<!e)-", re.IGNORECASE)  # of a range, not of an exponent as in `3300e-1`
BOUND = re.compile(r"([\d.]+)\s*([a-z]*)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Limit:
    """Which costs are allowed: all up to `high`, or those from `low` to `high`; both ends are included.

    Attributes:
        high: largest cost, in the units of its table.
        low: smallest cost; None for no lower bound.
    """

    high: int
    low: int | None = None

    @property
    def is_range(self) -> bool:
        """Whether there is a lower bound."""
        return self.low is not None

    def allows(self, cost: int) -> bool:
        """Return whether a cost is within the limit."""
        return cost <= self.high and (self.low is None or cost >= self.low)


def get_bounds(limit: Limit | None) -> tuple[int | None, int | None]:
    """Return the smallest and the largest cost that a limit allows; None is no bound."""
    return (None, None) if limit is None else (limit.low, limit.high)


def parse_limit(kind: CostKind, value: Any) -> Limit:
    """Read a maximum, such as `330M`, or a range, such as `250M-330M`.

    Args:
        kind: of the cost.
        value: as written in the settings.

    Raises:
        ConfigError: the value is neither, or the range is reversed.
    """
    ends = HYPHEN.split(value) if isinstance(value, str) else []
    if len(ends) != 2 or not all(end.strip() for end in ends):
        return Limit(_parse_bound(kind, value, value))
    low_text, high_text = (end.strip() for end in ends)
    _require_clear_ends(value, low_text, high_text)
    low, high = (_parse_bound(kind, value, text) for text in (low_text, high_text))
    if low > high:
        raise ConfigError(f"{quote_value(value)} is reversed: the smaller end is first; write {high_text}-{low_text}")
    return Limit(high, low)


def _require_clear_ends(value: str, low: str, high: str) -> None:
    """Raise ConfigError for `0-330M`, and for `250-330M`, which would reach from 250 to 330,000,000."""
    first, last = BOUND.fullmatch(low), BOUND.fullmatch(high)
    if first and not first[1].strip("0."):
        raise ConfigError(f"{quote_value(value)} begins at 0; write {high} for all up to it")
    if first and last and last[2] and not first[2] and len(first[1]) <= len(last[1]):
        raise ConfigError(f"{quote_value(value)} has a unit at one end only; write {low}{last[2]}-{high}")


def _parse_bound(kind: CostKind, whole: Any, text: Any) -> int:
    """Read one end of a limit; the message of an error quotes the whole limit."""
    try:
        return kind.parse(text)
    except ConfigError as error:
        within = "" if text is whole else f"in {quote_value(whole)}, "
        raise ConfigError(f"{within}{error}; a range is written as {kind.example}") from None


def write_limit(kind: CostKind, limit: Limit) -> int | float | str:
    """Return a limit as files keep it: a maximum as a number, a range as a text that `parse_limit` reads exactly."""
    return kind.to_number(limit.high) if limit.low is None else kind.write_range(limit.low, limit.high)


def write_option(kind: CostKind, limit: Limit) -> str:
    """Return a limit as an option on the command line: `--flops-limit 250M-330M`, or `--limit energy=12.5`."""
    value = kind.write(limit.high) if limit.low is None else kind.write_range(limit.low, limit.high)
    return f"{kind.option}{value}"


def format_limit(kind: CostKind, limit: Limit) -> str:
    """Return a limit for people: `330M`, or `250M to 330M`."""
    high = kind.format(limit.high)
    return high if limit.low is None else f"{kind.format(limit.low)} to {high}"


def describe_limit(kind: CostKind, limit: Limit) -> str:
    """Return what a limit allows: `at most 330M FLOPs`, or `250M to 330M FLOPs`."""
    return f"{'' if limit.is_range else 'at most '}{format_limit(kind, limit)} {kind.label}"


def describe_all(limits: Iterable[tuple[CostKind, Limit]]) -> str:
    """Return what limits allow: `at most 330M FLOPs and 3M parameters`, or `250M to 330M FLOPs and at most ...`."""
    pairs = list(limits)
    if any(limit.is_range for _, limit in pairs):
        return " and ".join(describe_limit(kind, limit) for kind, limit in pairs)
    return f"at most {' and '.join(f'{format_limit(kind, limit)} {kind.label}' for kind, limit in pairs)}"


def explain_idle_limit(table: CostTable, limit: Limit) -> str:
    """Return a message if a limit excludes no architecture of the space; otherwise `""`."""
    if limit.high <= table.maximum or (limit.low is not None and limit.low >= table.minimum):
        return ""
    ends = {table.minimum, table.maximum} if limit.is_range else {table.maximum}
    kind = table.kind
    look_alike = {*map(kind.format, ends)} & {kind.format(end) for end in get_bounds(limit) if end is not None}
    write = kind.format_exactly if look_alike else kind.format
    if limit.low is None:
        return (
            f"the limit of {write(limit.high)} {kind.label} excludes nothing: no architecture of the space has more"
            f" than {write(table.maximum)}"
        )
    return (
        f"the limit of {write(limit.low)} to {write(limit.high)} {kind.label} excludes nothing: the architectures of"
        f" the space have {write(table.minimum)} to {write(table.maximum)}"
    )
