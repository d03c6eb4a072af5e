"""Outcomes by image: whole rows count, whatever a kill has left of the last row."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spos_cli.search.outcomes import OutcomesFile


def test_outcomes_are_kept_by_line(tmp_path: Path) -> None:
    outcomes = OutcomesFile(tmp_path / "outcomes.bits", 21)
    assert outcomes.read(0) is None
    rng = np.random.default_rng(0)
    rows = rng.random((3, 21)) < 0.5
    outcomes.write(2, rows[2])
    outcomes.write(0, rows[0][:9])  # stopped early
    with (tmp_path / "outcomes.bits").open("ab") as file:
        file.write(b"x")  # what a kill has cut short
    assert outcomes.read(3) is None
    outcomes.write(3, rows[1])
    found = [outcomes.read(row) for row in range(4)]
    expected = [np.pad(rows[0][:9], (0, 12)), np.zeros(21, bool), rows[2], rows[1]]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert (tmp_path / "outcomes.bits").stat().st_size == 4 * 3


def test_overlaps_are_counted_image_by_image(tmp_path: Path) -> None:
    outcomes = OutcomesFile(tmp_path / "outcomes.bits", 1003)
    assert [part.tolist() for part in outcomes.count_overlaps(0, [0, 1])] == [[-1, -1]] * 2
    rows = np.random.default_rng(0).random((1100, 1003)) < 0.6
    outcomes.path.write_bytes(np.packbits(rows, axis=1).tobytes() + b"torn")
    asked = [3, 1099, 0, 3, 1100, 5000, *range(1100)]
    right, both = outcomes.count_overlaps(7, asked)
    for row, ours, shared in zip(asked, right, both, strict=True):
        expected = (rows[row].sum(), (rows[row] & rows[7]).sum()) if row < 1100 else (-1, -1)
        assert (ours, shared) == expected
    assert all((part == -1).all() for part in outcomes.count_overlaps(1100, asked))
