"""A file of decoded pixels, and the manifest beside it that tells what is in it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spos_cli.data.image_set import ImageSet

# What reading a missing or damaged manifest may raise: not JSON, other fields, absurd numbers, endless nesting.
MANIFEST_ERRORS = (OSError, OverflowError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def manifest_path(path: Path) -> Path:
    """Return the path of the manifest beside a file of pixels."""
    return path.with_name(path.name + ".json")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest beside a file of pixels; raise one of `MANIFEST_ERRORS` if there is no complete one."""
    manifest: dict[str, Any] = json.loads(manifest_path(path).read_text(encoding="utf-8"))
    return manifest


def describe_images(images: ImageSet, indices: NDArray[np.int64]) -> dict[str, Any]:
    """Return what the manifest says of the images that were decoded: which ones, and how."""
    paths = "\n".join(images.path(index) for index in indices.tolist())
    return {
        "images": images.name,
        "of": len(images),
        "chosen": hashlib.sha256(paths.encode(errors="surrogateescape")).hexdigest(),
        "versions": hashlib.sha256(images.versions[indices].astype("<i8").tobytes()).hexdigest(),
        **{name: str(value) for name, value in images.decoding._asdict().items()},
    }


def write(path: Path, parts: Iterable[bytes], make_manifest: Callable[[str], dict[str, Any]]) -> None:
    """Write pixels to `path`, then their manifest beside it. An old file stays until the new one is complete.

    Args:
        path: the file.
        parts: the pixels; each part is made while the file is written.
        make_manifest: called with the SHA-256 of all parts when the last one is written.

    Raises:
        OSError: the disk has no room, or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with temporary.open("wb") as file:
            for part in parts:
                digest.update(part)
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        manifest_path(path).unlink(missing_ok=True)  # It describes the old file.
        temporary.replace(path)
        temporary.write_text(json.dumps(make_manifest(digest.hexdigest())) + "\n", encoding="utf-8")
        temporary.replace(manifest_path(path))
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file of pixels, its manifest, and what was left of it by a process that was killed."""
    for old in (path, manifest_path(path), *path.parent.glob(f".{path.name}.*.tmp")):
        old.unlink(missing_ok=True)
