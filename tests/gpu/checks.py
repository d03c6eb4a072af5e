"""Define checks, run them within a time limit, and compare their measurements."""

from __future__ import annotations

import contextlib
import math
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from spos_cli.engine import accelerator

T = TypeVar("T")

CPU_BUDGET_FACTOR = 6  # A machine without an accelerator may be busy, so each check has several times its budget.
MIN_SPEEDUP = 1.03  # A value must be this many times as fast as the default to win; less may be chance.


class Wrong(Exception):
    """The device or `spos` has computed a wrong result."""


class OutOfTime(BaseException):
    """A check has used up its time. It is not an Exception, so that code in between does not handle it as an error."""


@dataclass(frozen=True)
class Setting:
    """A setting: its value in a measurement, and its default."""

    name: str
    value: str
    default: str


@dataclass(frozen=True)
class Rate:
    """The speed of a piece of work, done in one way.

    Attributes:
        what: the piece of work.
        way: `default` is how `spos` does it by default, `official` how the official code does it.
        value: median, in `unit`.
        setting: the only setting in which the way differs from the default; None for other ways.
        memory: peak bytes of the device, without weights; None where it was not measured.
    """

    what: str
    way: str
    value: float
    unit: str
    setting: Setting | None = None
    memory: int | None = None


@dataclass
class Place:
    """The device and folder of the checks, and the results that they share.

    Attributes:
        device: an accelerator, or the CPU to test the checks themselves.
        folder: for files; removed at the end.
        rates: all measurements so far.
        begin, end: start and deadline of the current check, in seconds of `time.monotonic()`.
    """

    device: torch.device
    folder: Path
    rates: list[Rate] = field(default_factory=list)
    begin: float = 0.0
    end: float = math.inf

    @property
    def is_real(self) -> bool:
        """Whether there is an accelerator."""
        return self.device.type != "cpu"

    def pick(self, large: T, small: T) -> T:
        """Return the large size on an accelerator, the small one on the CPU."""
        return large if self.is_real else small

    def get_seconds_left(self) -> float:
        """Return the seconds that the current check still has."""
        return self.end - time.monotonic()

    def get_used_share(self) -> float:
        """Return the share of its time that the current check has used."""
        return (time.monotonic() - self.begin) / (self.end - self.begin)


Needs = Callable[[Place], str | None]  # Return why a check cannot run in a place, or None if it can.


def need_nothing(place: Place) -> str | None:
    """Run a check everywhere."""
    return None


def need_accelerator(place: Place) -> str | None:
    """Run a check on an accelerator only."""
    return None if place.is_real else "needs an accelerator"


@dataclass(frozen=True)
class Check:
    """One check, which is one line of the report.

    Attributes:
        name: for `--only`.
        what: a sentence for `--list`.
        budget: time limit in seconds on an accelerator; then the check is stopped.
        run: runs the check, and returns its finding as a line.
        needs: returns why it cannot run, or None.
    """

    name: str
    what: str
    budget: float
    run: Callable[[Place], str]
    needs: Needs = need_nothing


@dataclass(frozen=True)
class Result:
    """The result of a check; `found` is a figure, what is wrong, or why it was skipped."""

    name: str
    status: str  # ok, FAIL or skipped
    seconds: float
    budget: float
    found: str
    traceback: str | None = None

    @property
    def line(self) -> str:
        """The result as a line on the screen."""
        return f"{self.name:<18} {self.status:<7} {self.seconds:6.1f} s  {self.found}"


def perform(check: Check, place: Place) -> Result:
    """Run a check; any error in it becomes its result."""
    begin, allowed = time.monotonic(), place.pick(check.budget, check.budget * CPU_BUDGET_FACTOR)

    def result(status: str, found: str, trace: str | None = None) -> Result:
        line = " ".join(found.split())
        return Result(check.name, status, round(time.monotonic() - begin, 2), check.budget, line, trace)

    try:
        with limit_time(place, allowed):
            reason = check.needs(place)
            if reason is not None:
                return result("skipped", reason)
            found = check.run(place)
            accelerator.synchronize(place.device)  # An asynchronous error of the device is raised here.
            return result("ok", found)
    except OutOfTime:
        return result("FAIL", f"not done in {allowed:g} s", traceback.format_exc())
    except Exception as error:
        message = str(error) if isinstance(error, Wrong) else f"{type(error).__name__}: {error}"
        return result("FAIL", message[:300], traceback.format_exc())
    finally:
        with contextlib.suppress(RuntimeError):  # After an error of the device nothing works any more.
            accelerator.release_memory(place.device)


@contextlib.contextmanager
def limit_time(place: Place, seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after some seconds. A timer that was already running continues afterwards."""

    def stop(number: int, frame: object) -> None:
        raise OutOfTime

    begin = time.monotonic()
    handler = signal.signal(signal.SIGALRM, stop)
    before, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    place.begin, place.end = begin, begin + seconds
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, max(0.01, before - (time.monotonic() - begin)) if before else 0)
        signal.signal(signal.SIGALRM, handler)


def require_within(what: str, found: float, allowed: float) -> None:
    """Raise Wrong if a difference is larger than allowed, or NaN."""
    if not found <= allowed:
        raise Wrong(f"{what} differs by {found:.3g}, at most {allowed:g} is right")


def time_in_turns(place: Place, ways: Mapping[str, Callable[[], object]], turns: int, share: float) -> dict[str, float]:
    """Return the median seconds of each way to do the same work. All ways take turns; they must have run once before.

    Args:
        turns: the most turns; a slow device makes as many as fit into the time.
        share: share of the check's remaining time.
    """
    end = time.monotonic() + share * place.get_seconds_left()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns):
        if turn and time.monotonic() > end:
            break
        for name, call in ways.items():
            seconds[name].append(accelerator.time_call(place.device, call))
    return {name: statistics.median(values) for name, values in seconds.items()}


def find_winners(rates: list[Rate]) -> list[dict[str, Any]]:
    """Find, for each work and setting, the default, the fastest other value, and the winner of both."""
    found = []
    for default in [rate for rate in rates if rate.way == "default"]:
        others: dict[str, list[tuple[float, Setting]]] = {}
        for rate in rates:
            if rate.what == default.what and rate.setting is not None:
                others.setdefault(rate.setting.name, []).append((rate.value / default.value, rate.setting))
        for name, group in others.items():
            ratio, best = max(group, key=lambda pair: pair[0])
            wins = best.value if ratio > MIN_SPEEDUP else best.default
            row = {"what": default.what, "setting": name, "default": best.default, "fastest_other": best.value}
            found.append({**row, "ratio": ratio, "wins": wins})
    return found
