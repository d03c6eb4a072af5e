"""Show long work: a bar or a dashboard on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.control import Control
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import ControlType
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0
LABEL_WIDTH = 10  # columns of a row's label
GAP = "  "
MIN_BAR, MIN_CURVE, MIN_PIECE = 8, 6, 10  # columns; what would have fewer is left out
MAX_CURVE = 60  # columns
MIN_WIDTH_FOR_UNITS = 72  # columns of a terminal
LEVELS, ASCII_LEVELS = "▁▂▃▄▅▆▇█", "_.-~=+*#"

console = Console(stderr=True, highlight=False)  # results go to stdout, everything else goes here


def warn(text: str) -> None:
    """Print a line on stderr about a problem that does not stop the work; rich markup in names has no effect."""
    console.print(text, style="yellow", soft_wrap=True, markup=False)


@dataclass(frozen=True)
class Curve:
    """Numbers that a row shows as a sparkline, in the columns that its texts leave."""

    values: Sequence[float]


Row = tuple[str, Sequence[str | Curve]]  # a label, and the pieces after it


class Task:
    """One piece of long work: `total` units, some of which are done.

    Attributes:
        note: a text after the numbers of a bar or a line.
        phase: what is going on, such as `generation 3 of 20`, for a dashboard.
        under_way: work that is done on unfinished units, in units.
        rows: the rows below a dashboard's bar. Another thread draws them: assign new ones, do not change them.
    """

    def __init__(self, name: str, total: int, unit: str, done: int) -> None:
        self.name, self.total, self.unit, self.done = name, total, unit, done
        self.note, self.phase, self.under_way = "", "", 0.0
        self.rows: Sequence[Row] = ()
        self._begin, self._begin_done = time.monotonic(), done

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return max(time.monotonic() - self._begin, 1e-9)

    @property
    def rate(self) -> float:
        """Units per second since the beginning."""
        return (self.done + self.under_way - self._begin_done) / self.seconds

    @property
    def left(self) -> float:
        """Seconds until all units are done, at this rate."""
        return (self.total - self.done - self.under_way) / max(self.rate, 1e-9)

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Count more units as done, and replace the note if there is a new one."""
        self.done += units
        self.note = self.note if note is None else note

    def skip(self, units: int) -> None:
        """Count units as done that needed no work; they do not count in the rate."""
        self.done += units
        self._begin_done += units


class _Bar(Task):
    """A task as a bar on a terminal."""

    def __init__(self, name: str, total: int, unit: str, done: int, bar: Progress) -> None:
        super().__init__(name, total, unit, done)
        self._bar = bar
        self._id = bar.add_task(name, total=total, completed=done, rate="", note="")

    def advance(self, units: int = 1, note: str | None = None) -> None:
        super().advance(units, note)
        self._bar.update(self._id, completed=self.done, rate=f"{self.rate:.1f} {self.unit}/s", note=self.note)


class _Lines(Task):
    """A task as plain lines, now and then."""

    def __init__(self, name: str, total: int, unit: str, done: int) -> None:
        super().__init__(name, total, unit, done)
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES

    def advance(self, units: int = 1, note: str | None = None) -> None:
        super().advance(units, note)
        if time.monotonic() >= self._next or self.done == self.total:
            self._next = time.monotonic() + SECONDS_BETWEEN_LINES
            remaining = f", {format_seconds(self.left)} left" if self.done < self.total else ""
            note = f", {self.note}" if self.note else ""
            line = f"{self.name}: {self.done}/{self.total} {self.unit}, {self.rate:.1f}/s{remaining}{note}"
            console.print(line, soft_wrap=True)


class _Dashboard:
    """A task as a few lines that fit the terminal at the moment when they are drawn."""

    def __init__(self, task: Task) -> None:
        self.task, self.drawn, self.columns = task, [0], 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = render_lines(self.task, options.max_width, options.ascii_only)
        self.drawn, self.columns = [line.cell_len for line in lines], options.max_width
        yield Text("\n").join(lines)

    def erase(self, columns: int, rows: int) -> Control:
        """Return the codes that erase what was drawn last, and put the cursor where it began.

        A terminal that became narrower since then may have wrapped the lines, so that there are more.

        Args:
            columns, rows: the terminal's present size.
        """
        height = len(self.drawn)
        if columns < self.columns and _wraps_lines():
            height = sum(max(1, -(-width // columns)) for width in self.drawn)
        up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
        return Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *(up * (min(height, rows) - 1)))


def _wraps_lines() -> bool:
    """Tell whether the terminal wraps long lines when it becomes narrower; most do, some cut them off."""
    return os.environ.get("TERM") != "linux" and "XTERM_VERSION" not in os.environ


class _Live(Live):
    """rich's Live, for a terminal that becomes narrower: rich would leave rows behind, or erase others."""

    def __init__(self, task: Task) -> None:
        self.view = _Dashboard(task)
        # Results on stdout are drawn above the dashboard, unless they go to a file.
        super().__init__(self.view, console=console, redirect_stdout=sys.stdout.isatty())

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Return what is printed now, after the codes that erase the dashboard."""
        with self._lock:
            _, *others = super().process_renderables(renderables)  # the first would erase as rich does
            return [self.view.erase(*self.console.size), *others]


def render_lines(task: Task, width: int, ascii_only: bool = False) -> list[Text]:
    """Return the lines of a task's dashboard, none wider than `width` columns."""
    return [
        _render_head(task, width, ascii_only),
        *(_render_row(label, pieces, width, ascii_only) for label, pieces in task.rows),
    ]


def _render_head(task: Task, width: int, ascii_only: bool) -> Text:
    """Return the first line: name, phase, bar, count, rate and time left; without room, the less important go."""
    name = Text(f"{task.name:<{LABEL_WIDTH - len(GAP)}}", "bold")
    count = f"{task.done:,}/{task.total:,}" + (f" {task.unit}" if width >= MIN_WIDTH_FOR_UNITS else "")
    rate, left = "", ""
    if task.done == task.total:
        left = f"{format_seconds(task.seconds)} in all"
    elif task.rate > 0:
        rate, left = format_rate(task.rate), f"{format_seconds(task.left)} left"
    room, kept = width - len(name), set()
    for text in (task.phase, left, count, rate):  # the most important first
        if text and len(GAP) + len(text) <= room:
            room -= len(GAP) + len(text)
            kept.add(text)
    room = min(room - len(GAP), MAX_CURVE)
    bar = _render_bar(task, room, ascii_only) if room >= MIN_BAR else Text()
    texts = [Text(text, style) if text in kept else Text() for text, style in ((count, ""), (rate, ""), (left, "cyan"))]
    line = Text(GAP).join(part for part in (name, Text(task.phase * (task.phase in kept)), bar, *texts) if part)
    line.truncate(width)
    return line


def _render_bar(task: Task, width: int, ascii_only: bool) -> Text:
    """Return a bar of `width` columns."""
    done, rest = ("#", "-") if ascii_only else ("━", "─")
    filled = min(width, int(width * (task.done + task.under_way) / max(task.total, 1)))
    return Text.assemble((done * filled, "green"), (rest * (width - filled), "dim"))


def _render_row(label: str, pieces: Sequence[str | Curve], width: int, ascii_only: bool) -> Text:
    """Return a label and its pieces; a curve takes the room that the texts leave, and what does not fit is cut."""
    line = Text(f"{label:<{LABEL_WIDTH}}", "dim")
    texts = sum(len(piece) + len(GAP) for piece in pieces if isinstance(piece, str))
    for number, piece in enumerate(pieces):
        gap = GAP if number else ""
        room = width - line.cell_len - len(gap)
        if isinstance(piece, Curve):
            room = min(width - LABEL_WIDTH - texts, MAX_CURVE)
            if room >= MIN_CURVE and piece.values:
                line.append(gap).append(render_sparkline(piece.values, room, ascii_only), "cyan")
        elif len(piece) <= room:
            line.append(gap).append(piece)
        elif room >= MIN_PIECE:
            line.append(gap).append(piece[: room - 3] + "..." if ascii_only else piece[: room - 1] + "…")
    line.truncate(width)
    return line


def render_sparkline(values: Sequence[float], width: int, ascii_only: bool = False) -> str:
    """Draw numbers as a row of blocks, scaled from the smallest to the largest; more than `width` are averaged."""
    values = [value for value in values if math.isfinite(value)]
    count = min(len(values), width)
    edges = [len(values) * column // count for column in range(count + 1)] if count else []
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, span = min(means, default=0.0), max(means, default=0.0) - min(means, default=0.0)
    levels = ASCII_LEVELS if ascii_only else LEVELS
    return "".join(levels[round((mean - low) / span * (len(levels) - 1)) if span > 0 else 0] for mean in means)


def format_rate(rate: float) -> str:
    """Format units per second as `8.2/s`, or per minute where they are few."""
    return f"{rate:,.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"


@contextlib.contextmanager
def track(
    name: str, total: int, unit: str, *, done: int = 0, quiet: bool = False, dashboard: bool = False
) -> Iterator[Task]:
    """Show the progress of the work within the block.

    Args:
        name: the name of the work.
        total: the number of units.
        unit: what is counted, in the plural.
        done: units that were done before.
        quiet: show nothing (in processes other than the first).
        dashboard: on a terminal, show the task's rows below its bar.
    """
    terminal = console.is_terminal and console.is_interactive  # TERM=dumb is not interactive: it cannot move its cursor
    if quiet:
        yield Task(name, total, unit, done)
    elif terminal and dashboard:
        task = Task(name, total, unit, done)
        with _Live(task):
            yield task
    elif terminal:
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


def format_seconds(seconds: float) -> str:
    """Format seconds: 95 as `1:35`, 7300 as `2:01:40`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
