"""Say in one line why the system could not read or write a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from spos_cli.errors import SposError


def reason_of(error: OSError) -> str:
    """Return the system's words for an error, such as "No space left on device"."""
    return error.strerror or str(error)


@contextlib.contextmanager
def os_errors_as(kind: type[SposError], problem: str, advice: str = "") -> Iterator[None]:
    """Raise an OSError of the block as an error of `kind`: "problem: the system's reason; advice".

    Args:
        problem: what failed, such as "cannot write runs/a/result.yaml".
        advice: what is kept, or what to do; may be empty.
    """
    try:
        yield
    except OSError as error:
        raise kind("; ".join(filter(None, (f"{problem}: {reason_of(error)}", advice)))) from None
