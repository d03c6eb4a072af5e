"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from spos_cli.errors import RunError


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside `path`, flushes to the disk and renames: the file is the old one or the new one.

    Raises:
        RunError: it cannot be written; what was there is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunError(f"cannot write {path}: {error.strerror or error}; what was there is kept") from None
