"""One line of the doctor's table: what was checked, its status, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from spos_cli.errors import SposError

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: its name.
        status: `fail` if a command would end with an error or its results could not be trusted.
        seen: the values that were found.
        advice: what to do; empty if the status is ok.
    """

    check: str
    status: Status
    seen: str
    advice: str = ""


Findings = list[Finding]


def judge(check: str, seen: str, advice: Sequence[str]) -> Finding:
    """Return a warning if there is any advice, else ok."""
    return Finding(check, "warn" if advice else "ok", seen, "; ".join(advice))


def attempt(check: str, function: Callable[[], Finding], advice: str = "") -> Finding:
    """Return what a check finds; if it raises SposError, return a failure with the error's message.

    Args:
        check: the name for a failure. What the message says after its first semicolon becomes the advice.
        function: runs the check.
        advice: added to the advice of a failure.
    """
    try:
        return function()
    except SposError as error:
        return from_error(check, error, advice)


def from_error(check: str, error: SposError, advice: str = "") -> Finding:
    """Return a failure whose message says what was seen, then after a semicolon what to do."""
    seen, _, first = str(error).partition("; ")
    return Finding(check, "fail", seen, "; ".join(filter(None, (first, advice))))
