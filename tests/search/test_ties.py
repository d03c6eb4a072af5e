"""Which candidates are statistically tied with the winner, against one comparison at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from spos_cli.search.journal import Entry
from spos_cli.search.outcomes import OutcomesFile
from spos_cli.search.results import Comparison, Results, ranking
from spos_cli.space.architecture import Architecture

IMAGES = 301


def tied(winner: np.ndarray, other: np.ndarray) -> bool:
    """Return whether SciPy's test of a fair coin cannot distinguish two candidates."""
    only_winner, only_other = int((winner & ~other).sum()), int((other & ~winner).sum())
    return only_winner == only_other or binomtest(only_winner, only_winner + only_other).pvalue > 0.05


def entry(number: int, outcomes: np.ndarray) -> Entry:
    return Entry(
        Architecture((number // 200, number % 200)), 100, 10, int(outcomes.sum()) / IMAGES, 1.0, IMAGES, 0, "random"
    )


@pytest.fixture
def outcomes() -> np.ndarray:
    """Make the outcomes of candidates that share most of their luck and get 50 to 62 % of the images right."""
    rng = np.random.default_rng(0)
    luck = np.where(rng.random((40, IMAGES)) < 0.8, rng.random(IMAGES), rng.random((40, IMAGES)))
    return luck < np.linspace(0.5, 0.62, 40)[:, None]


@pytest.fixture
def entries(outcomes: np.ndarray) -> list[Entry]:
    return [entry(number, row) for number, row in enumerate(outcomes)]


@pytest.fixture
def bits(tmp_path: Path, outcomes: np.ndarray) -> Path:
    path = tmp_path / "outcomes.bits"
    path.write_bytes(np.packbits(outcomes, axis=1).tobytes())
    return path


def compare(entries: list[Entry], bits: Path) -> Comparison:
    return Results.to_export(entries, bits).comparison


def test_tied_is_what_the_paired_test_cannot_distinguish(
    entries: list[Entry], bits: Path, outcomes: np.ndarray
) -> None:
    found = compare(entries, bits)
    winner = outcomes[entries.index(ranking(entries)[0])]
    expected = {e.architecture for e, row in zip(entries, outcomes, strict=True) if tied(winner, row)}
    assert found.tied == expected
    assert found.p_values.keys() == {e.architecture for e in entries}
    assert (found.count, found.problem) == (len(expected), "")
    assert 1 < len(expected) < len(entries)
    assert [found.is_tied(e.architecture) for e in entries] == [e.architecture in expected for e in entries]


def test_candidates_that_stopped_early_or_were_imported_are_not_tied(entries: list[Entry], bits: Path) -> None:
    best = ranking(entries)
    stopped, foreign = best[1], best[2]
    assert {stopped.architecture, foreign.architecture} <= compare(entries, bits).tied
    entries[entries.index(stopped)] = replace(stopped, partial=True, images=100, top1=1.0)
    entries[entries.index(foreign)] = replace(foreign, origin="imported")
    found = compare(entries, bits)
    assert found.tied
    assert [found.is_tied(candidate.architecture) for candidate in (stopped, foreign)] == [None, None]


@pytest.mark.parametrize(
    ("change", "said"), [({"origin": "imported"}, "by another search"), ({"partial": True}, "scored to the end")]
)
def test_nothing_is_tied_where_nothing_can_be_compared(
    entries: list[Entry], bits: Path, change: dict, said: str
) -> None:
    (winner,) = ranking(entries)[:1]
    found = compare([replace(one, **change) for one in (winner, *entries[:3])], bits)
    assert (found.count, found.p_values) == (None, {})
    assert said in found.problem
    assert found.is_tied(winner.architecture) is None


def test_without_outcomes_nothing_is_tied(entries: list[Entry], bits: Path, tmp_path: Path) -> None:
    whole = bits.read_bytes()
    for content in (None, b"", whole[:10], b"\0" * len(whole), whole[1:]):
        bits.unlink(missing_ok=True)
        if content is not None:
            bits.write_bytes(content)
        found = compare(entries, bits)
        assert found.count is None
        assert "outcomes.bits is missing, or does not have the outcomes of the best" in found.problem
    assert compare(entries, tmp_path).count is None  # a folder


def test_candidates_with_lost_rows_are_not_tied(entries: list[Entry], bits: Path) -> None:
    """The file was lost and the search continued, so it begins with zeros; or the end of the file is lost."""
    whole, complete = bits.read_bytes(), compare(entries, bits)
    row = ranking(entries)[0]
    index, width = entries.index(row), -(-IMAGES // 8)
    bits.write_bytes(bytes(index * width) + whole[index * width :])
    found = compare(entries, bits)
    assert found.tied == complete.tied - {e.architecture for e in entries[:index]}
    assert f"does not have the outcomes of {index} candidates" in found.problem
    bits.write_bytes(whole[: (index + 1) * width])
    assert compare(entries, bits).tied == complete.tied & {e.architecture for e in entries[: index + 1]}


def test_twenty_thousand_candidates(tmp_path: Path) -> None:
    rng, bits = np.random.default_rng(0), tmp_path / "outcomes.bits"
    rows = rng.integers(256, size=(20_000, 1000), dtype=np.uint8)
    bits.write_bytes(rows.tobytes())
    right, _ = OutcomesFile(bits, 8000).count_overlaps(0, range(20_000))
    entries = [replace(entry(n, np.ones(1)), top1=int(number) / 8000, images=8000) for n, number in enumerate(right)]
    found = compare(entries, bits)
    assert len(found.p_values) == 20_000
    assert 1 < len(found.tied) < 20_000
