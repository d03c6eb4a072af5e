"""`python -m spos_cli`, for torchrun; also the console script `spos`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

INTERRUPTED_EXIT_CODE = 128 + signal.SIGINT
IMPORTING = "<frozen importlib"  # how the name of the file begins in whose code all imports run


def main() -> NoReturn:
    """Run the command line. From the first import on, Ctrl-C ends it without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # `nohup ... &` has SIGINT ignored.
        signal.signal(signal.SIGINT, interrupt)
    try:
        from spos_cli.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED_EXIT_CODE)
    finally:  # Everything is done, but the interpreter's end takes a moment.
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, end_at_once)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C: raise KeyboardInterrupt, but end at once while a module is imported.

    Libraries answer KeyboardInterrupt during their import with errors of their own, and PyTorch with an abort.
    """
    caller = frame
    while caller is not None:
        if caller.f_code.co_filename.startswith(IMPORTING):
            end_at_once(number, frame)
        caller = caller.f_back
    raise KeyboardInterrupt


def end_at_once(number: int, _frame: FrameType | None) -> None:
    """Handle a signal: end without the interpreter's end, which could be interrupted, too."""
    os._exit(128 + number)


if __name__ == "__main__":
    main()
