"""Compare the settings of this run with those of an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from spos_cli.errors import RunError

MAX_SHOWN = 6  # differences in a message


def require_same(ours: dict[str, Any], theirs: dict[str, Any], what: str) -> None:
    """Raise RunError if `theirs`, read from the disk, was made with other settings.

    Args:
        what: the beginning of the message.
    """
    differences = list(find_differences(ours, theirs))
    if differences:
        refuse_differences(differences, what)


def refuse_differences(differences: Sequence[tuple[str, Any, Any]], what: str, other_way: str = "") -> NoReturn:
    """Raise RunError for settings that differ.

    Args:
        differences: as `find_differences` yields them.
        what: the beginning of the message.
        other_way: one more thing that the user may do.
    """
    shown = [f"{name}: {one!r:.60}, was {other!r:.60}" for name, one, other in differences[:MAX_SHOWN]]
    raise RunError(
        f"{what} with other settings ({'; '.join(shown)});"
        f" use the same ones, {other_way}{', ' * bool(other_way)}another --run-dir, or --fresh to start over"
    )


def find_differences(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the fields of `ours` that differ in `theirs`: name (such as `supernet.lr`), our value, their value.

    Within sections, fields that only `theirs` has differ, too: settings that are switched off are not written down.
    """
    for key in [*ours, *(key for key in theirs if prefix and key not in ours)]:
        value, other = ours.get(key), theirs.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from find_differences(value, other, f"{prefix}{key}.")
        elif value != other:
            yield f"{prefix}{key}", value, other
