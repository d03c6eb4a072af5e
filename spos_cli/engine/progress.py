"""Long work as a bar on a terminal, and as a plain line now and then where there is none."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0

console = Console(stderr=True, highlight=False)  # results go to stdout, all else here


def warn(text: str) -> None:
    """A line on stderr about something that the work survives; names in it are shown as they are."""
    console.print(text, style="yellow", soft_wrap=True, markup=False)


class Task:
    """One piece of long work: `total` units, of which some are done."""

    def __init__(self, name: str, total: int, unit: str, done: int) -> None:
        self.name, self.total, self.unit, self.done = name, total, unit, done
        self.note = ""
        self._begin, self._begin_done = time.monotonic(), done

    @property
    def rate(self) -> float:
        """Units per second since the beginning."""
        return (self.done - self._begin_done) / max(time.monotonic() - self._begin, 1e-9)

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """More is done; `note` is what there is to say about it."""
        self.done += units
        self.note = self.note if note is None else note

    def skip(self, units: int) -> None:
        """Some need not be done; they do not count in the rate."""
        self.done += units
        self._begin_done += units


class _Bar(Task):
    def __init__(self, name: str, total: int, unit: str, done: int, bar: Progress) -> None:
        super().__init__(name, total, unit, done)
        self._bar = bar
        self._id = bar.add_task(name, total=total, completed=done, rate="", note="")

    def advance(self, units: int = 1, note: str | None = None) -> None:
        super().advance(units, note)
        self._bar.update(self._id, completed=self.done, rate=f"{self.rate:.1f} {self.unit}/s", note=self.note)


class _Lines(Task):
    def __init__(self, name: str, total: int, unit: str, done: int) -> None:
        super().__init__(name, total, unit, done)
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES

    def advance(self, units: int = 1, note: str | None = None) -> None:
        super().advance(units, note)
        if time.monotonic() >= self._next or self.done == self.total:
            self._next = time.monotonic() + SECONDS_BETWEEN_LINES
            left = (self.total - self.done) / max(self.rate, 1e-9)
            remaining = f", {duration(left)} left" if self.done < self.total else ""
            note = f", {self.note}" if self.note else ""
            line = f"{self.name}: {self.done}/{self.total} {self.unit}, {self.rate:.1f}/s{remaining}{note}"
            console.print(line, soft_wrap=True)


@contextlib.contextmanager
def track(name: str, total: int, unit: str, *, done: int = 0, quiet: bool = False) -> Iterator[Task]:
    """Shows the progress of the work within; `quiet` shows nothing (processes other than the first)."""
    if quiet:
        yield Task(name, total, unit, done)
    elif console.is_terminal:
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console) as bar:
            yield _Bar(name, total, unit, done, bar)
    else:
        yield _Lines(name, total, unit, done)


def duration(seconds: float) -> str:
    """`95` as `1:35`, `7300` as `2:01:40`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
