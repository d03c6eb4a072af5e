"""Values from files that may be of any form."""

from __future__ import annotations

from typing import Any

from spos_cli.engine.history import is_number
from spos_cli.report.findings import Number


def as_count(value: Any) -> int | None:
    """Return a whole number of at least 0, else None."""
    return value if type(value) is int and value >= 0 and is_number(value) else None


def as_number(value: Any) -> Number:
    """Return a finite number that arithmetic can use, else None."""
    return float(value) if is_number(value) else None


def list_dicts(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a list; empty for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def read_interval(value: Any) -> tuple[float, float, float] | None:
    """Return the value, low end and high end of a correlation; None if one of them is missing."""
    fields = [value.get(key) for key in ("value", "low", "high")] if isinstance(value, dict) else []
    numbers = [number for field in fields if (number := as_number(field)) is not None]
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None
