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
