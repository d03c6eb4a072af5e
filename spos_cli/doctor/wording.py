"""Write numbers, durations and lists of examples as a finding shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from spos_cli.files.quoting import plural

MAX_EXAMPLES = 5  # examples in one line


def percent(share: float) -> str:
    """Write a share with two digits, so that a small one is not shown as none: `53%`, `0.12%`; `100%` means all."""
    return f"{share * 100:.2g}%" if share < 0.99 else f"{math.floor(share * 1000) / 10:g}%"


def of_all(number: int, total: int) -> str:
    """Write `all 359`, or `200 of 50,000`."""
    return f"all {total:,}" if number == total else f"{number:,} of {total:,}"


def first_line(error: RuntimeError) -> str:
    """Return the first line of a message of PyTorch, which may be a page long."""
    return str(error).partition("\n")[0] or type(error).__name__


def examples(names: Sequence[str], full: bool = False) -> str:
    """List the first few names and how many more there are; with `full` all of them, one per line."""
    if full and len(names) > MAX_EXAMPLES:
        return "".join(f"\n{name}" for name in names)
    more = len(names) - MAX_EXAMPLES
    return ", ".join(names[:MAX_EXAMPLES]) + (f" and {more:,} more" if more > 0 else "")


def rate(images: float) -> str:
    """Write images per second: `37 images/s`."""
    return f"{images:,.0f} images/s" if images >= 10 else f"{images:.1f} images/s"


def estimate(seconds: float) -> str:
    """Write how long the supernet's training takes, in the unit that fits."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"supernet-train takes about {seconds / length:.0f} {unit}"
    return f"supernet-train takes about {plural(math.ceil(seconds), 'second')}"
