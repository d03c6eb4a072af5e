"""The journal: whole lines count, whatever a kill has left of the last line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from spos_cli.errors import RunError
from spos_cli.search.journal import Entry, Journal
from spos_cli.search.results import ranking
from spos_cli.space.architecture import Architecture

ENTRIES = [
    Entry(Architecture((0, index)), 100 + index, 10, top1 / 100, 0.9, 100, 0, "random")
    for index, top1 in enumerate((50, 70, 70, 60))
]


def test_round_trip(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "journal.jsonl")
    early = replace(ENTRIES[3], origin="rescored", earlier=True, partial=True)
    timed = replace(ENTRIES[2], costs={"latency": 12_500})
    for entry in (*ENTRIES, early, timed):
        journal.append(entry)
    assert journal.read() == [*ENTRIES, early, timed]
    assert not any(name in ENTRIES[0].to_line() for name in ("earlier", "costs"))
    assert json.loads(timed.to_line())["costs"] == {"latency": 12_500}


def test_cut_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    whole = "".join(entry.to_line() for entry in ENTRIES).encode()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        journal = Journal(path)
        complete = whole[:length].count(b"\n")
        assert journal.read() == ENTRIES[:complete]
        journal.cut_incomplete_line()
        for entry in ENTRIES[complete:]:
            journal.append(entry)
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[]",
        b"null",
        b"nonsense",
        b"\xff",
        b'{"architecture": [0]}',
        ENTRIES[0].to_line().encode().replace(b"0.5", b"5.0"),
        ENTRIES[0].to_line().encode().replace(b'"images": 100', b'"images": 1' + b"0" * 400),
        ENTRIES[0].to_line().encode().replace(b"}", b', "earlier": 1}'),
        replace(ENTRIES[0], origin="imported", earlier=True).to_line().encode(),
        *(
            ENTRIES[0].to_line().encode().replace(b"}", b', "costs": %b}' % bad)
            for bad in (b'{"latency": -1}', b'{"latency": 1.5}', b'{"latency": null}', b'{"flops": 1}', b"[1]", b"null")
        ),
    ],
)
def test_a_line_that_is_not_a_candidate_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(ENTRIES[0].to_line().encode() + line.rstrip(b"\n") + b"\n" + ENTRIES[1].to_line().encode())
    with pytest.raises(RunError, match=r"journal\.jsonl:2"):
        Journal(path).read()
    assert Journal(path).read_valid() == (ENTRIES[:2], 1)


def test_candidates_that_stopped_early_come_last(tmp_path: Path) -> None:
    whole = Entry(Architecture((0,)), 5, 1, 0.5, 1.0, 20, 0, "random")
    stopped = replace(whole, architecture=Architecture((1,)), top1=0.9, images=4, partial=True)
    assert ranking([stopped, whole]) == [whole, stopped]
    assert "partial" not in whole.to_line()
    assert Entry.from_line(stopped.to_line()) == stopped
