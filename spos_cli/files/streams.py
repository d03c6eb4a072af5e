"""Stdout and stderr whose failure does not end a run.

A log on a full disk, a reader of a pipe that has gone and a terminal that was closed all make `print` raise OSError; a
letter that the terminal's encoding lacks makes it raise UnicodeEncodeError. After `protect`, stderr never does either,
and stdout only while a command has no other place for its results.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any

from spos_cli.errors import RunError
from spos_cli.files.os_errors import reason_of

ESCAPE = "backslashreplace"  # what Python does on stderr with letters that an encoding lacks
BROKEN_PIPE_EXIT_CODE = 1  # as Click ends a command
REPLACED_HANDLERS = ("strict", "surrogateescape")  # Python's defaults; others were chosen by the user.


class ProtectedFile(io.FileIO):
    """A standard stream's file, which drops what cannot be written.

    Attributes:
        is_required: whether the first failure is raised; what is written after it is dropped.
    """

    def __init__(self, number: int, is_required: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.is_required = is_required

    def write(self, data: Any) -> int:
        """Write bytes; return how many were written, or all if they are dropped.

        Raises:
            SystemExit: the reader has gone, as that of `spos predict | head`, so the command ends without a message.
            RunError: the bytes cannot be written for another reason.
        """
        try:
            while (count := super().write(data)) is None:  # Another program has made the stream non-blocking.
                select.select((), (self,), ())
            return count
        except OSError as error:
            if not self.is_required:
                return memoryview(data).nbytes
            self.is_required = False
            if error.errno == errno.EPIPE:
                raise SystemExit(BROKEN_PIPE_EXIT_CODE) from None
            raise RunError(f"cannot write to stdout: {reason_of(error)}") from None


def protect() -> None:
    """Protect stdout and stderr, unless something else has replaced them."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # It was closed with `>&-`.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
            continue
        buffer = getattr(stream, "buffer", None)
        is_plain_file = type(getattr(buffer, "raw", buffer)) is io.FileIO
        if stream is getattr(sys, f"__{name}__") and is_plain_file:
            setattr(sys, name, _protect(stream, is_required=name == "stdout"))


def _protect(stream: io.TextIOWrapper, *, is_required: bool) -> io.TextIOWrapper:
    """Return a stream to the same file as another one."""
    with contextlib.suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(ProtectedFile(stream.fileno(), is_required)),
        encoding=stream.encoding,
        errors=ESCAPE if stream.errors in REPLACED_HANDLERS else stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _get_stdout_file() -> ProtectedFile | None:
    """Return the protected file of stdout; None if something else has replaced it."""
    file = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return file if isinstance(file, ProtectedFile) else None


def ignore_failed_writes() -> None:
    """Let writes to stdout fail from here on, in a command whose results are files."""
    if file := _get_stdout_file():
        file.is_required = False


@contextlib.contextmanager
def require_stdout() -> Iterator[None]:
    """Raise RunError if what the block prints does not arrive on stdout."""
    file = _get_stdout_file()
    if file is None:
        yield
        return
    before, file.is_required = file.is_required, True
    yield
    sys.stdout.flush()
    file.is_required = before


def flush() -> None:
    """Write what is still buffered.

    Raises:
        SystemExit, RunError: as `ProtectedFile.write`.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
