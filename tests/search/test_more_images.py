"""How many candidates would be tied on more images, on made-up files of a search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from spos_cli.search.journal import Entry
from spos_cli.search.more_images import estimate_ties
from spos_cli.search.results import Results
from tests.conftest import TINY
from tests.runs import write_run

IMAGES = 400


def test_outcomes_that_were_lost_say_nothing_of_more_images(tmp_path: Path) -> None:
    """Rows that a search has filled with zeros do not have as many right as the journal says."""
    lines = write_run(tmp_path / "run", TINY, images=IMAGES)
    bits, width = tmp_path / "run" / "search" / "outcomes.bits", IMAGES // 8
    results = Results.of(lines, bits)
    best = results.ranking
    lost = best[1:21:2]

    def estimate(without: list[Entry]) -> tuple[list[dict[str, Any]], str]:
        return estimate_ties(replace(results, candidates=[one for one in best if one not in without]), IMAGES)

    def lose(row: int) -> None:
        content = bits.read_bytes()
        bits.write_bytes(content[: row * width] + bytes(width) + content[(row + 1) * width :])

    expected, problem = estimate(without=lost)
    whole, also = estimate(without=[])
    assert whole[0]["tied"] > expected[0]["tied"] > 1
    assert (problem, also) == ("", "")
    for entry in lost:
        lose(lines.index(entry))
    rows, problem = estimate(without=[])
    assert rows == expected
    assert "does not have the outcomes of 10 of the best" in problem
    lose(lines.index(best[0]))
    rows, problem = estimate(without=[])
    assert rows == []
    assert "the outcomes of the best, so what more images would do is unknown" in problem
