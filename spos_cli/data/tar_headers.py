"""List the files in a tar file by their headers: where the bytes of each are."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

BLOCK = tarfile.BLOCKSIZE  # bytes
REGULAR = b"0\0"  # the types of a regular file
MAGIC = b"ustar"
EMPTY_CHECKSUM = 8 * ord(" ")  # The checksum counts its own eight bytes as blanks.


class Entry(NamedTuple):
    """A regular file in a tar file: its path in there, where its bytes begin, and how many there are."""

    path: str
    offset: int
    size: int


class UnusualHeader(Exception):
    """A header that is not the plain one of a file with a short name, or one that is damaged."""


def list_entries(path: Path) -> list[Entry]:
    """List the regular files in a tar file that is not compressed; links within it count as the files that they name.

    Raises:
        OSError: the file cannot be read.
        tarfile.TarError, ValueError, KeyError: it is damaged, compressed or not a tar file.
    """
    with path.open("rb") as file:
        try:
            return list(_read_plain_headers(file, path.stat().st_size))
        except UnusualHeader:
            return _list_with_tarfile(path)


def _read_plain_headers(file: BinaryIO, file_size: int) -> Iterator[Entry]:
    """Yield the files of an archive with plain headers only, several times as fast as `tarfile`.

    Raises:
        UnusualHeader: it has other headers, too, or is damaged.
    """
    while header := file.read(BLOCK):
        if not header.strip(b"\0"):  # The end of the archive.
            return
        kind, size_field = header[156:157], header[124:136].strip(b" \0")
        if len(header) < BLOCK or kind not in REGULAR or header[257:262] != MAGIC or not size_field.isdigit():
            raise UnusualHeader
        checksum = sum(header) - sum(header[148:156]) + EMPTY_CHECKSUM
        name, prefix = (header[begin:end].partition(b"\0")[0] for begin, end in ((0, 100), (345, 500)))
        # With GNU's magic, the place of the prefix may hold other fields.
        if int(header[148:156].strip(b" \0") or b"0", 8) != checksum or prefix or name.endswith(b"/"):
            raise UnusualHeader
        offset, size = file.tell(), int(size_field, 8)
        if offset + size > file_size:
            raise UnusualHeader
        yield Entry(name.decode("utf-8", "surrogateescape"), offset, size)
        file.seek(offset + -(-size // BLOCK) * BLOCK)
    raise UnusualHeader  # It does not end as an archive should.


def _list_with_tarfile(path: Path) -> list[Entry]:
    """List the files of any archive that is not compressed."""
    entries: dict[str, Entry] = {}
    with tarfile.open(path, "r:") as archive:
        for info in archive:
            if info.islnk():
                target = entries[info.linkname]
                entries[info.name] = Entry(info.name, target.offset, target.size)
            elif info.isreg():
                if info.issparse():
                    raise tarfile.ReadError(f"{info.name} is stored as a sparse file")
                entries[info.name] = Entry(info.name, info.offset_data, info.size)
        assert archive.fileobj is not None, "it is open"
        archive.fileobj.seek(archive.offset)
        # `tarfile` takes a damaged header, or the end of a file that was cut off, for the end of the archive.
        if archive.fileobj.read(BLOCK) != bytes(BLOCK):
            raise tarfile.ReadError(f"it is damaged or cut off at byte {archive.offset:,}")
    return list(entries.values())
