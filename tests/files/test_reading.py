"""Readers of files that may be missing, torn or foreign."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spos_cli.errors import DataError, RunError
from spos_cli.files import reading
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.reading import parse_object, read_complete_lines, read_json, read_json_lines, read_yaml

DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("read", "content", "expected"),
    [
        (read_json, b'{"a": [1, "b"]}', {"a": [1, "b"]}),
        (read_json, b'{"a": [1', {}),
        (read_json, b"[1]", {}),
        (read_json, b"\xff", {}),
        (read_json, DEEP, {}),
        (read_yaml, b"a: [1, b]\n", {"a": [1, "b"]}),
        (read_yaml, b"a: [1", {}),
        (read_yaml, b"- 1\n", {}),
        (read_yaml, b'a: !!int ""\n', {}),
        (read_yaml, b"a: !!python/object:os.system x\n", {}),
    ],
)
def test_mappings(tmp_path: Path, read: Callable[[Path], Any], content: bytes, expected: dict[str, Any]) -> None:
    assert read(tmp_path / "missing") == {}
    assert read(tmp_path) == {}
    path = tmp_path / "file"
    path.write_bytes(content)
    assert read(path) == expected


def test_a_file_that_is_too_large_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b'{"a": 1}')
    monkeypatch.setattr(reading, "MAX_BYTES", 8)
    assert read_json(path) == {"a": 1}
    monkeypatch.setattr(reading, "MAX_BYTES", 7)
    assert read_json(path) == {}


@pytest.mark.parametrize("line", [b"", b'{"a": 1', b"1", b"[1]", b"null", DEEP, b'{"a": 1}{"a": 2}'])
def test_a_line_that_is_not_an_object(line: bytes) -> None:
    assert parse_object(line) is None


def test_an_object_with_letters_that_are_not_utf_8_is_read() -> None:
    assert parse_object(b'{"device": "\xff", "done": 3}\r') == {"device": "\ufffd", "done": 3}


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_json_lines(path) == []
    path.write_bytes(b'{"step": 1}\n\n{"st\n[3]\n{"step": 4}\n{"step": 5}')
    assert read_json_lines(path) == [{"step": 1}, {"step": 4}, {"step": 5}]


def test_only_the_end_of_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(b'{"step": %d}\n' % step for step in range(10)))  # 12 bytes each
    assert read_json_lines(path, last_bytes=36) == [{"step": 7}, {"step": 8}, {"step": 9}]
    assert read_json_lines(path, last_bytes=35) == [{"step": 8}, {"step": 9}]
    assert len(read_json_lines(path, last_bytes=1000)) == 10


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    for read in (read_json_lines, read_complete_lines):
        with pytest.raises(OSError, match="directory"):
            read(tmp_path)


def test_complete_lines(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert read_complete_lines(path) == []
    for content, lines in ((b"", []), (b"a", []), (b"a\n\nb\n", [b"a", b"", b"b"]), (b"a\nb", [b"a"])):
        path.write_bytes(content)
        assert read_complete_lines(path) == lines


def test_errors_of_the_system_get_one_line() -> None:
    with pytest.raises(RunError) as caught, os_errors_as(RunError, "cannot read x"):
        Path("/nowhere/x").read_bytes()
    assert str(caught.value) == "cannot read x: No such file or directory"
    with pytest.raises(DataError) as caught_too, os_errors_as(DataError, "cannot write x", "use another folder"):
        raise OSError("odd")
    assert str(caught_too.value) == "cannot write x: odd; use another folder"
    with pytest.raises(ValueError, match="other"), os_errors_as(RunError, "cannot read x"):
        raise ValueError("other")
