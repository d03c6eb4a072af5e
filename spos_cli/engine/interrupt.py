"""Turn Ctrl-C and SIGTERM into a request to stop at the next safe point."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Interrupted(Exception):
    """The work was saved and stopped on a signal; the command exits with 128 plus the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopRequest:
    """Whether a signal has asked to stop, and which one."""

    def __init__(self) -> None:
        self.number = 0

    @property
    def is_set(self) -> bool:
        """Whether to stop at the next safe point."""
        return self.number != 0

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal. A second Ctrl-C stops at once, as does SIGTERM after Ctrl-C: torch's launcher sends that."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


@contextlib.contextmanager
def stop_on_signals(request: StopRequest) -> Iterator[None]:
    """Let SIGINT and SIGTERM only set a request within the block."""
    previous = {number: signal.signal(number, request.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
