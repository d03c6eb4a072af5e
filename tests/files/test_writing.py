"""Atomic writes, and lines that are appended: what a crash or a full disk leaves."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from spos_cli.errors import RunError
from spos_cli.files.writing import append_line, cut_torn_line, open_atomically, write_atomically


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.yaml"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.yaml"
    write_atomically(path, b"old")

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=r"cannot write .*result\.yaml: No space left on device; what was there is kept"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("sync", [False, True])
def test_lines_are_appended(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    append_line(path, "one", sync=sync)
    append_line(path, "two\n", sync=sync)
    append_line(path, "drei: ä", sync=sync)
    assert path.read_text(encoding="utf-8") == "one\ntwo\ndrei: ä\n"


def test_only_a_synchronized_line_is_flushed_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    append_line(tmp_path / "a", "x")
    assert not flushed
    append_line(tmp_path / "a", "x", sync=True)
    assert len(flushed) == 1


@pytest.mark.parametrize("sync", [False, True])
def test_a_torn_line_does_not_spoil_the_next_one(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st')
    append_line(path, '{"step": 3}', sync=sync)
    append_line(path, '{"step": 4}', sync=sync)
    assert path.read_bytes() == b'{"step": 1}\n{"st\n{"step": 3}\n{"step": 4}\n'


@pytest.mark.parametrize("before", [b"", b"one\n", b"to"])
def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(tmp_path: Path, before: bytes) -> None:
    """The system takes only a part of the line."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(before)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 7, limit[1]))
    try:
        with pytest.raises(OSError, match="No space left on device"):
            append_line(path, "a line of many letters")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        append_line(tmp_path / "file" / "metrics.jsonl", "x")


@pytest.mark.parametrize(
    ("before", "after"), [(b"one\ntwo\n", b"one\ntwo\n"), (b"one\ntw", b"one\n"), (b"on", b""), (b"", b"")]
)
def test_a_torn_line_is_cut(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    cut_torn_line(path)
    assert not path.exists()
    path.write_bytes(before)
    cut_torn_line(path)
    assert path.read_bytes() == after


def test_what_is_written_bit_by_bit_appears_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "top.csv"
    with open_atomically(path) as file:
        file.write(b"one\n")
        assert not path.exists()
        file.write(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"

    def write_half() -> None:
        with open_atomically(path) as file:
            file.write(b"three\n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"one\ntwo\n"
    assert list(path.parent.iterdir()) == [path]
