"""The journal: whole lines count, whatever a kill has left of the last one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spos_cli.errors import RunError
from spos_cli.search.journal import Bitmaps, Entry, Journal, pareto, ranking
from spos_cli.space.architecture import Architecture

ENTRIES = [
    Entry(Architecture((0, index)), 100 + index, 10, top1 / 100, 0.9, 100, 0, "random")
    for index, top1 in enumerate((50, 70, 70, 60))
]


def test_round_trip(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "journal.jsonl")
    early = replace(ENTRIES[3], origin="rescored", earlier=True, partial=True)
    for entry in (*ENTRIES, early):
        journal.append(entry)
    assert journal.read() == [*ENTRIES, early]
    assert "earlier" not in ENTRIES[0].to_line()


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
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(ENTRIES[0].to_line().encode() + line.rstrip(b"\n") + b"\n" + ENTRIES[1].to_line().encode())
    with pytest.raises(RunError, match=r"journal\.jsonl:2"):
        Journal(path).read()


def test_ranking_prefers_the_cheaper_of_equals_and_respects_a_limit() -> None:
    assert [entry.architecture[1] for entry in ranking(ENTRIES)] == [1, 2, 3, 0]
    assert [entry.architecture[1] for entry in ranking(ENTRIES, 101)] == [1, 0]


def test_outcomes_are_kept_by_line(tmp_path: Path) -> None:
    bitmaps = Bitmaps(tmp_path / "outcomes.bits", 21)
    assert bitmaps.read(0) is None
    rng = np.random.default_rng(0)
    rows = rng.random((3, 21)) < 0.5
    bitmaps.write(2, rows[2])
    bitmaps.write(0, rows[0][:9])  # a partial score
    with (tmp_path / "outcomes.bits").open("ab") as file:
        file.write(b"x")  # what a kill has cut short
    assert bitmaps.read(3) is None
    bitmaps.write(3, rows[1])
    found = [bitmaps.read(row) for row in range(4)]
    expected = [np.pad(rows[0][:9], (0, 12)), np.zeros(21, bool), rows[2], rows[1]]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert (tmp_path / "outcomes.bits").stat().st_size == 4 * 3


def test_overlaps_are_counted_image_by_image(tmp_path: Path) -> None:
    bitmaps = Bitmaps(tmp_path / "outcomes.bits", 1003)
    assert [part.tolist() for part in bitmaps.overlaps(0, [0, 1])] == [[-1, -1]] * 2
    rows = np.random.default_rng(0).random((1100, 1003)) < 0.6
    bitmaps.path.write_bytes(np.packbits(rows, axis=1).tobytes() + b"torn")
    asked = [3, 1099, 0, 3, 1100, 5000, *range(1100)]
    right, both = bitmaps.overlaps(7, asked)
    for row, ours, shared in zip(asked, right, both, strict=True):
        expected = (rows[row].sum(), (rows[row] & rows[7]).sum()) if row < 1100 else (-1, -1)
        assert (ours, shared) == expected
    assert all((part == -1).all() for part in bitmaps.overlaps(1100, asked))


def test_the_front_is_of_those_scored_to_the_end() -> None:
    lost = replace(ENTRIES[0], flops=1, top1=0.99, partial=True)
    assert [entry.architecture[1] for entry in pareto([*ENTRIES, lost])] == [0, 1]
    assert pareto([lost]) == []


def test_partial_scores_come_last(tmp_path: Path) -> None:
    whole = Entry(Architecture((0,)), 5, 1, 0.5, 1.0, 20, 0, "random")
    partial = replace(whole, architecture=Architecture((1,)), top1=0.9, images=4, partial=True)
    assert ranking([partial, whole]) == [whole, partial]
    assert "partial" not in whole.to_line()
    assert Entry.from_line(partial.to_line()) == partial
