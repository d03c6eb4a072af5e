"""Write files atomically, and append lines that a crash cannot spoil."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from spos_cli.errors import RunError
from spos_cli.files.os_errors import os_errors_as


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file as a whole: it is either the old one or the new one.

    Raises:
        RunError: the file cannot be written; the old one is still there.
    """
    with open_atomically(path) as file:
        file.write(content)


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a file beside `path` to write to; at the end of the context, flush it to the disk and rename it to `path`.

    After an error in the context, the old file is still there.

    Raises:
        RunError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with os_errors_as(RunError, f"cannot write {path}", "what was there is kept"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def append_line(path: Path, line: str, *, sync: bool = False) -> None:
    """Append a line to a text file, and create the file and its folder if necessary.

    A line that an earlier process left without its end does not spoil this one: this one begins a line of its own. If
    the disk takes only a part of this line, that part is removed.

    Args:
        line: the text, with or without the newline at its end.
        sync: flush the line to the disk before this function returns, so that it survives a power cut.

    Raises:
        OSError: the line cannot be written.
    """
    content = line.encode() if line.endswith("\n") else f"{line}\n".encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                content = b"\n" + content  # the file is open for appending, so this goes to its end
        if file.write(content) < len(content):
            os.truncate(path, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if sync:
            os.fsync(file.fileno())


def cut_torn_line(path: Path) -> None:
    """Remove what follows the last newline of a file, if there is a file."""
    if path.exists():
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(path, end)
