"""What a check is, how one is run, and what it may measure."""

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

PATIENCE_ON_CPU = 6  # times a check's budget: a machine without an accelerator is in no hurry, and may be busy
CLEARLY = 1.03  # so many times as fast as the default; less may be chance


class Wrong(Exception):
    """The device has computed, or `spos` has done, something else than what is right."""


class OutOfTime(BaseException):
    """A check has used up its budget. No Exception, so that nothing on the way takes it for an error of its own."""


@dataclass(frozen=True)
class Setting:
    """One thing that can be set: what it is in a measurement, and what it is if nothing is said."""

    name: str
    value: str
    default: str


@dataclass(frozen=True)
class Rate:
    """How fast a piece of work is done in one way.

    Attributes:
        what: the piece of work.
        way: `default` is how `spos` does it if nothing is set, `official` how the official code does it.
        value: median, in `unit`.
        setting: the only one in which the way differs from the default; None for the others.
        memory: bytes of the device that are needed at most, beside weights; None where it was not measured.
    """

    what: str
    way: str
    value: float
    unit: str
    setting: Setting | None = None
    memory: int | None = None


@dataclass
class Place:
    """Where checks are made, and what they leave for each other.

    Attributes:
        device: an accelerator, or the CPU for a check of the checks themselves.
        folder: for files, removed in the end.
        rates: what was measured so far.
        begin, end: when the present check has begun, and has to be done, `time.monotonic()`.
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
        """A size on an accelerator, or on the CPU."""
        return large if self.is_real else small

    def left(self) -> float:
        """Seconds that the present check still has."""
        return self.end - time.monotonic()

    def used(self) -> float:
        """The share of its time that the present check has used."""
        return (time.monotonic() - self.begin) / (self.end - self.begin)


Needs = Callable[[Place], str | None]  # why a check cannot be made in a place; None: it can


def nothing(place: Place) -> str | None:
    """Makes a check everywhere."""
    return None


def an_accelerator(place: Place) -> str | None:
    """Makes a check on an accelerator only."""
    return None if place.is_real else "needs an accelerator"


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: for `--only`.
        what: a sentence for `--list`.
        budget: seconds on an accelerator; at their end it is broken off.
        run: makes it, and returns what was found in a line.
        needs: tells why it cannot be made.
    """

    name: str
    what: str
    budget: float
    run: Callable[[Place], str]
    needs: Needs = nothing


@dataclass(frozen=True)
class Result:
    """What became of a check; `found` is a figure, what is wrong, or why it was skipped."""

    name: str
    status: str  # ok, FAIL or skipped
    seconds: float
    budget: float
    found: str
    traceback: str | None = None

    @property
    def line(self) -> str:
        """It on the screen."""
        return f"{self.name:<18} {self.status:<7} {self.seconds:6.1f} s  {self.found}"


def perform(check: Check, place: Place) -> Result:
    """Makes a check; whatever goes wrong in it is its result."""
    begin, allowed = time.monotonic(), place.pick(check.budget, check.budget * PATIENCE_ON_CPU)

    def result(status: str, found: str, trace: str | None = None) -> Result:
        line = " ".join(found.split())
        return Result(check.name, status, round(time.monotonic() - begin, 2), check.budget, line, trace)

    try:
        with limited(place, allowed):
            reason = check.needs(place)
            if reason is not None:
                return result("skipped", reason)
            found = check.run(place)
            accelerator.synchronize(place.device)  # an error of the device shows where it belongs
            return result("ok", found)
    except OutOfTime:
        return result("FAIL", f"not done in {allowed:g} s", traceback.format_exc())
    except Exception as error:
        said = str(error) if isinstance(error, Wrong) else f"{type(error).__name__}: {error}"
        return result("FAIL", said[:300], traceback.format_exc())
    finally:
        with contextlib.suppress(RuntimeError):  # after an error of the device nothing works any more
            accelerator.release_memory(place.device)


@contextlib.contextmanager
def limited(place: Place, seconds: float) -> Iterator[None]:
    """Within, OutOfTime is raised at the end of the time. A timer that already runs goes on afterwards."""

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


def within(what: str, found: float, allowed: float) -> None:
    """Raise Wrong if a difference is larger than it may be, or no number."""
    if not found <= allowed:
        raise Wrong(f"{what} differs by {found:.3g}, at most {allowed:g} is right")


def in_turns(place: Place, ways: Mapping[str, Callable[[], object]], turns: int, share: float) -> dict[str, float]:
    """Median seconds of each way to do the same work, one after another, turn by turn, and never of a first call.

    Args:
        turns: at most; of a slow device as many as fit into the time.
        share: of the time that the check has left.
    """
    end = time.monotonic() + share * place.left()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns):
        if turn and time.monotonic() > end:
            break
        for name, call in ways.items():
            seconds[name].append(accelerator.time_call(place.device, call))
    return {name: statistics.median(values) for name, values in seconds.items()}


def verdicts(rates: list[Rate]) -> list[dict[str, Any]]:
    """For each piece of work and each setting: the default, the fastest other value, and which of both wins."""
    found = []
    for default in [rate for rate in rates if rate.way == "default"]:
        others: dict[str, list[tuple[float, Setting]]] = {}
        for rate in rates:
            if rate.what == default.what and rate.setting is not None:
                others.setdefault(rate.setting.name, []).append((rate.value / default.value, rate.setting))
        for name, group in others.items():
            ratio, best = max(group, key=lambda pair: pair[0])
            wins = best.value if ratio > CLEARLY else best.default
            row = {"what": default.what, "setting": name, "default": best.default, "fastest_other": best.value}
            found.append({**row, "ratio": ratio, "wins": wins})
    return found
