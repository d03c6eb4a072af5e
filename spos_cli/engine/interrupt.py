"""Ctrl-C and SIGTERM, as a wish to stop that long work meets at its next safe point."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Interrupted(Exception):
    """The work was saved and stopped on a signal; the command exits with 128 plus its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopRequest:
    """Whether a signal has asked to stop, and which."""

    def __init__(self) -> None:
        self.number = 0

    @property
    def made(self) -> bool:
        """Whether to stop at the next safe point."""
        return self.number != 0

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler. A second Ctrl-C does not wait any more; torch's launcher makes a SIGTERM of it."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


@contextlib.contextmanager
def stop_on_signals(request: StopRequest) -> Iterator[None]:
    """Within, SIGINT and SIGTERM only make a request."""
    previous = {number: signal.signal(number, request.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
