"""Compute digests of files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path


def file_digest(path: Path, progress: Callable[[int], object] = lambda done: None) -> str:
    """Return the SHA-256 of a file, in hex; `progress` is given the number of bytes after each part that is read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**22):
            digest.update(part)
            progress(len(part))
    return digest.hexdigest()
