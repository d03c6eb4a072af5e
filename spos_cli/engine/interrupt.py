"""Turn Ctrl-C and SIGTERM into a request to stop at the next safe point."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spos_cli.engine.distributed import Processes


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


class StopVote:
    """Asks all processes after each step whether one of them has to stop, so that all stop after the same step.

    The answer to a question is read after the next step. By then it is there, so no process waits for a slower one, and
    a GPU is never short of work because of it. With one process, the answer is there at once.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.wait: Callable[[], bool] | None = None  # for the answer to the question before

    def ask(self, request: StopRequest, *, now: bool) -> bool:
        """Return whether to stop, the same in all processes.

        Args:
            now: wait for the present answer, too; where processes wait for each other anyway, or end. All processes
                must agree on it.
        """
        before = False if self.wait is None else self.wait()
        wait = self.processes.begin_any(request.is_set)
        if now or self.processes.world_size == 1:
            self.wait = None
            return wait() or before
        self.wait = wait
        return before

    def close(self) -> None:
        """Wait for an answer that nobody has read, as after an error: a process must not leave gloo before it comes."""
        if self.wait is not None:
            with contextlib.suppress(RuntimeError):  # Another process has ended, so there is no answer.
                self.wait()
            self.wait = None


@contextlib.contextmanager
def stop_on_signals(request: StopRequest) -> Iterator[None]:
    """Let SIGINT and SIGTERM only set a request within the block."""
    previous = {number: signal.signal(number, request.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
