"""Keep the report of a running search up to date, for little time and at no risk."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator

from spos_cli.engine.progress import warn
from spos_cli.errors import RunError, SposError, make_printable
from spos_cli.report.page import PLOTLY_MISSING, read_plotly_js
from spos_cli.report.writing import write_report
from spos_cli.run.command import Run

MAX_TIME_SHARE = 0.02  # of the search's time that its report may take
EXPECTED_ERRORS = (SposError, OSError)  # all others are defects of the program


class LiveReport:
    """The report of a running search, updated as often as `MAX_TIME_SHARE` of the search's time allows.

    An error prints one line and ends the updates; the search continues.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._last_end, self._last_seconds = -math.inf, 0.0  # of the last report
        self._error: Exception | None = None

    def update(self) -> None:
        """Write the report if enough time has passed and no earlier report has failed."""
        begin = time.monotonic()
        if self._error is not None or begin - self._last_end < self._last_seconds / MAX_TIME_SHARE:
            return
        with self._guarded():
            if has_plotly():  # if not, `finish` says so
                write_report(self.run.folder)
        self._last_end = time.monotonic()
        self._last_seconds = self._last_end - begin

    def finish(self) -> None:
        """Write the report and print its path, or how to get it.

        This also tries again after an expected error, such as a full disk, but not after a defect.
        """
        if self._error is not None and not isinstance(self._error, EXPECTED_ERRORS):
            return
        message = ""
        with self._guarded():
            if has_plotly():
                message = f"report: {write_report(self.run.folder)}"
            else:
                message = f"{PLOTLY_MISSING}, then {self.run.command('report')}"
        if message:
            self.run.say(message)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Catch every error and print it as one line."""
        try:
            yield
        except EXPECTED_ERRORS as error:
            self._error = error
            warn(f"no report: {error}")
        except Exception as error:  # a defect of the report must not end a search that took days
            self._error = error
            first_line = make_printable(str(error).partition("\n")[0])
            command = self.run.command("report")
            warn(f"no report: {type(error).__name__}: {first_line}; {command} shows the whole error")


def has_plotly() -> bool:
    """Return whether plotly is installed."""
    with contextlib.suppress(RunError):
        return bool(read_plotly_js())
    return False
