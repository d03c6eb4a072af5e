"""Lock a folder, so that only one run works in it at a time."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from spos_cli.errors import RunError
from spos_cli.files.os_errors import os_errors_as

try:
    import fcntl
except ImportError:  # Windows has no such locks; there, the user has to keep two runs out of one folder
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold a lock file within the block; the system releases it when this process ends, however it ends.

    It is a POSIX record lock: loader workers, which this process forks, do not hold it, and it works between
    machines if their shared file system supports locks.

    Raises:
        RunError: another process holds it (the message says which), or the folder cannot be written.
    """
    file = _acquire(path)
    try:
        yield
    finally:
        if file is not None:
            with contextlib.suppress(OSError):
                path.unlink()
            file.close()


def find_holder(path: Path) -> str | None:
    """Return who holds a lock file, in words; None if nobody does, or if the system cannot say.

    This only asks. The process that holds the lock must not call it: closing the file would release its lock.
    """
    if fcntl is None:
        return None
    # The system's `struct flock`, for a write lock on the whole file. F_GETLK replaces it by the lock in its way.
    linux = sys.platform.startswith("linux")
    layout, request = ("hhqqi", (fcntl.F_WRLCK, 0, 0, 0, 0)) if linux else ("qqihhi", (0, 0, 0, fcntl.F_WRLCK, 0, 0))
    try:
        with path.open("rb") as file:
            existing = struct.unpack(layout, fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, *request)))
            if existing[0 if linux else 3] == fcntl.F_UNLCK:
                return None
            return " ".join(file.read(200).decode("utf-8", "replace").split()) or "another process"
    except OSError:
        return None


def _acquire(path: Path) -> IO[str] | None:
    """Open and lock a file, and write a line about this process into it."""
    if fcntl is None:
        return None
    while True:
        with os_errors_as(RunError, f"cannot write {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink == 0:  # its holder removed it before we locked it
                file.close()
                continue
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            file.flush()
        except BlockingIOError:
            file.seek(0)
            holder = " ".join(file.read(200).split()) or "another process"
            file.close()
            raise RunError(
                f"{path.parent} is in use by {holder}; wait until it has ended, or use another --run-dir"
            ) from None
        except OSError:  # a file system without locks, or a full one: the run matters more than the lock
            return file
        return file
