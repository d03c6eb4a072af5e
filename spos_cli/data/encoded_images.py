"""Decode images whose encoded bytes are in memory, not in a file of their own."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from spos_cli.data import image_files
from spos_cli.data.image_files import DEFAULT_DECODING, UNREADABLE, Decoding, Pixels, get_extension
from spos_cli.data.levels import Measured
from spos_cli.errors import ConfigError, DataError
from spos_cli.files.os_errors import reason_of

JPEG = b"\xff\xd8\xff"  # the first bytes of a JPEG file
# Linux has files without a path on a disk. A JPEG file is decoded so fast that a file on a disk would cost a quarter of
# that time.
HAS_MEMORY_FILES = hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")  # noqa: PTH112


def decode_bytes(content: bytes, name: str, decoding: Decoding = DEFAULT_DECODING) -> Pixels:
    """Decode an encoded image to `(H, W, C) uint8`, as `image_files.decode` decodes a file with this content.

    Args:
        content: of a file.
        name: for messages; its extension is that of the file.
        decoding: how encoded images become pixels.

    Raises:
        DataError: the content is damaged.
        ConfigError: `decoding.value_range` does not fit the image's values.
    """
    with _as_file(content, name) as path:
        return image_files.decode(path, decoding)
    raise AssertionError("either pixels or an error")


def measure_bytes(content: bytes, name: str, channels: int) -> Measured | None:
    """Measure the range of an encoded image's values, as `image_files.measure` does for a file with this content.

    Raises:
        DataError: the content is damaged.
    """
    with _as_file(content, name) as path:
        measured = image_files.measure(path, channels)
        return None if measured is None else measured._replace(path=name)
    raise AssertionError("either a range or an error")


def find_orientation_of_bytes(content: bytes, name: str) -> int:
    """Return the orientation that the EXIF of an encoded image says, as `image_files.find_orientation` does.

    Raises:
        DataError: the content is damaged.
    """
    with _as_file(content, name) as path:
        return image_files.find_orientation(path)
    raise AssertionError("either an orientation or an error")


@contextlib.contextmanager
def _as_file(content: bytes, name: str) -> Iterator[Path]:
    """Make a file for the time of the block; in errors of the block, `name` stands for its path.

    Pillow reads some formats from a file twice, and simplejpeg's caller opens one.
    """
    try:
        in_memory = HAS_MEMORY_FILES and content.startswith(JPEG)
        with _write_in_memory(content) if in_memory else _write(content, name) as path:
            try:
                yield path
            except (DataError, ConfigError) as error:
                raise type(error)(str(error).replace(str(path), name)) from None
    except OSError as error:
        raise DataError(f"{UNREADABLE}{name}: cannot write a temporary file: {reason_of(error)}") from None


@contextlib.contextmanager
def _write_in_memory(content: bytes) -> Iterator[Path]:
    """Write a file that is in memory only. It has no extension."""
    number = os.memfd_create("image")
    try:
        with open(number, "wb", buffering=0, closefd=False) as file:
            file.write(content)
        yield Path(f"/proc/self/fd/{number}")
    finally:
        os.close(number)


@contextlib.contextmanager
def _write(content: bytes, name: str) -> Iterator[Path]:
    """Write a temporary file with the extension of `name`."""
    with tempfile.NamedTemporaryFile(suffix=get_extension(name)) as file:
        file.write(content)
        file.flush()
        yield Path(file.name)
