"""The files that a tar file lists: the same as Python's `tarfile` finds, or an error."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from spos_cli.data.tar_headers import Entry, UnusualHeader, _read_plain_headers, list_entries

ERRORS = (tarfile.TarError, ValueError, KeyError)
SHORT = {"a.jpg": b"x" * 700, "b/c.cls": b"7", "ü.jpg": b"", "d/e/f.png": b"y" * 512}
LONG = {**SHORT, f"{'long/' * 40}g.jpg": b"z" * 10, "h.jpg": b"last"}


def write(path: Path, files: dict[str, bytes], kind: int) -> bytes:
    with tarfile.open(path, "w", format=kind) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path.read_bytes()


def find_with_tarfile(path: Path) -> list[Entry]:
    with tarfile.open(path) as archive:
        return [Entry(info.name, info.offset_data, info.size) for info in archive if info.isreg()]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("files", [SHORT, LONG])
def test_all_formats(tmp_path: Path, kind: int, files: dict[str, bytes]) -> None:
    content = write(tmp_path / "x.tar", files, kind)
    entries = list_entries(tmp_path / "x.tar")
    assert entries == find_with_tarfile(tmp_path / "x.tar")
    assert {path: content[offset : offset + size] for path, offset, size in entries} == files


def test_plain_headers_take_the_short_way(tmp_path: Path) -> None:
    content = write(tmp_path / "x.tar", {"a.jpg": b"x", "b.cls": b"1"}, tarfile.USTAR_FORMAT)
    entries = list(_read_plain_headers(io.BytesIO(content), len(content)))
    assert entries == find_with_tarfile(tmp_path / "x.tar")
    content = write(tmp_path / "x.tar", LONG, tarfile.GNU_FORMAT)
    with pytest.raises(UnusualHeader):
        list(_read_plain_headers(io.BytesIO(content), len(content)))


def test_folders_and_links(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("d", tarfile.DIRTYPE), ("s", tarfile.SYMTYPE), ("p", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a"
            archive.addfile(info)
        info = tarfile.TarInfo("a")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
        info = tarfile.TarInfo("l")
        info.type, info.linkname = tarfile.LNKTYPE, "a"
        archive.addfile(info)
    first, second = list_entries(path)
    assert (first.path, second.path) == ("a", "l")
    assert first[1:] == second[1:]
    assert path.read_bytes()[first.offset :][: first.size] == b"abc"


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_file_cut_anywhere(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "x.tar"
    whole = write(path, LONG, kind)
    needed = len(whole.rstrip(b"\0")) // 512 * 512 + 512 + 512  # up to the first block of the end
    for length in [*range(0, needed, 64), needed - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ERRORS):
            list_entries(path)
    path.write_bytes(whole[:needed])
    assert len(list_entries(path)) == len(LONG)


def test_a_damaged_header(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    whole = write(path, SHORT, tarfile.USTAR_FORMAT)
    header = whole.index(b"b/c.cls")
    for position in range(header, header + 512, 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        with pytest.raises(ERRORS):
            list_entries(path)
