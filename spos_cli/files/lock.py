"""One run at a time in a stage's folder."""

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
except ImportError:  # Windows has none; there, two runs in one folder are the user's own care
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Holds a lock file, within; the system lets it go when this process ends, however it ends.

    It is a POSIX record lock: loader workers, which this process forks, do not hold it, and it works between
    machines where the file system passes locks on.

    Raises:
        RunError: another process holds it (the message says which), or the folder cannot be written.
    """
    file = _take(path)
    try:
        yield
    finally:
        if file is not None:
            with contextlib.suppress(OSError):
                path.unlink()
            file.close()


def holder(path: Path) -> str | None:
    """Who holds a lock file, in words; None if nobody does, or if it cannot be told. The lock is not touched.

    Not for the process that holds it: to close a file lets go of all locks on it.
    """
    if fcntl is None:
        return None
    # struct flock as the system has it: a lock of the whole file for writing, to be asked for, not taken.
    linux = sys.platform.startswith("linux")
    form, asked = ("hhqqi", (fcntl.F_WRLCK, 0, 0, 0, 0)) if linux else ("qqihhi", (0, 0, 0, fcntl.F_WRLCK, 0, 0))
    try:
        with path.open("rb") as file:
            found = struct.unpack(form, fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(form, *asked)))
            if found[0 if linux else 3] == fcntl.F_UNLCK:
                return None
            return " ".join(file.read(200).decode("utf-8", "replace").split()) or "another process"
    except OSError:
        return None


def _take(path: Path) -> IO[str] | None:
    """The locked file, with a line about this process in it."""
    if fcntl is None:
        return None
    while True:
        with os_errors_as(RunError, f"cannot write {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink == 0:  # its holder has removed it between our opening and locking
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
        except OSError:  # a file system without locks, or a full one: the run matters more
            return file
        return file
