"""Files that are whole or not there, and that run no code when they are read."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from spos_cli.errors import CheckpointError, RunError


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


def serialize(content: dict[str, Any]) -> bytes:
    """The bytes of a checkpoint: equal content gives equal bytes, whether or not it was loaded before."""
    buffer = io.BytesIO()
    torch.save(_canonical(content), buffer)
    return buffer.getvalue()


def _canonical(value: Any) -> Any:
    """A copy without shared containers or strings: pickle writes a second mention of an object otherwise."""
    if isinstance(value, dict):
        return {_canonical(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_canonical(item) for item in value)
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    return value


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint atomically; content is tensors and plain types.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    write_atomically(path, serialize(content))


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, on the CPU, after checking every member's CRC; nothing in it is executed.

    Raises:
        CheckpointError: there is no such file, or it is torn, foreign or unsafe.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no weights file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, ValueError, EOFError):
        raise CheckpointError(f"{path} is not a weights file of spos, or is torn") from None
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: the checksum of {damaged} is wrong")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError, AttributeError, TypeError):
        raise CheckpointError(
            f"{path} is not a weights file of spos: it holds more than tensors and plain values"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a weights file of spos: it holds no named parts")
    return content


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    summary = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            summary.update(block)
    return summary.hexdigest()
