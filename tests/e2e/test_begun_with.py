"""Begin with another search: scores on the same images count, others are found again."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from spos_cli.search.journal import Entry, Journal
from spos_cli.search.outcomes import OutcomesFile
from spos_cli.search.results import ranking
from tests.conftest import Spos
from tests.runs import SHORT_AUDIT

pytestmark = pytest.mark.slow


def read(spos: Spos, folder: str = "runs/tiny") -> list[Entry]:
    return Journal(spos.folder / folder / "search" / "journal.jsonl").read()


@pytest.fixture(scope="module")
def limit(finished: Spos) -> int:
    """Return a limit that a third of the finished search's candidates exceed."""
    return sorted(entry.flops for entry in read(finished))[11]


@pytest.fixture
def command(finished: Spos, limit: int) -> tuple[object, ...]:
    earlier = finished.run / "search" / "journal.jsonl"
    weights = finished.run / "supernet" / "last.pt"
    return ("search", "--weights", weights, "--from", earlier, "--flops-limit", limit)


def test_scores_on_the_same_images_are_taken_over(
    finished: Spos, tmp_path: Path, command: tuple[object, ...], limit: int
) -> None:
    """Outcomes are copied, too; killed and resumed, and with two processes, the bytes are the same."""
    one, two, killed = (Spos(tmp_path / name) for name in ("one", "two", "killed"))
    theirs = [entry for entry in read(finished) if entry.flops <= limit]
    said = one.here(*command).stdout
    assert "beginning with 12 candidates of another search" in said
    entries = read(one)
    earlier, new = entries[:12], entries[12:]
    assert all(entry.earlier for entry in earlier)
    assert [(entry.architecture, entry.top1, entry.origin) for entry in earlier] == [
        (entry.architecture, entry.top1, entry.origin) for entry in theirs
    ]
    assert len(new) == 18
    assert not any(entry.earlier or entry.origin == "imported" for entry in new)
    assert sorted(entry.origin for entry in new[:6]) == ["crossover"] * 2 + ["mutation"] * 2 + ["random"] * 2
    assert len({entry.architecture for entry in entries}) == 30
    bits = OutcomesFile(one.run / "search" / "outcomes.bits", 100)
    for row, entry in enumerate(entries):
        outcomes = bits.read(row)
        assert outcomes is not None
        assert int(outcomes.sum()) == entry.right
    result = yaml.safe_load((one.run / "search" / "result.yaml").read_text())
    assert result["best"][0]["architecture"] == ranking(entries)[0].architecture.to_list()
    assert (result["candidates"], result["best"][0]["tied"]) == (30, True)
    status = json.loads(one.here("status", "--json").stdout)
    (stage,) = [stage for stage in status["stages"] if stage["name"] == "search"]
    assert (stage["state"], stage["done"], stage["note"]) == ("complete", 18, "12 more from another search")
    assert "18 candidates and 12 of an earlier search" in (one.run / "search" / "report.html").read_text()

    two.together(*command)
    journal = killed.run / "search" / "journal.jsonl"
    code, _ = killed.interrupt(
        signal.SIGKILL, lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 14, *command
    )
    assert code == -signal.SIGKILL
    killed.here(*command)
    for name in ("journal.jsonl", "outcomes.bits", "result.yaml"):
        content = (one.run / "search" / name).read_bytes()
        assert [(spos.run / "search" / name).read_bytes() == content for spos in (two, killed)] == [True, True]
    assert (
        "has begun without" in one.here(*command[:4], one.run / "search" / "journal.jsonl", *command[5:], code=2).stderr
    )

    audited = one.here("audit", "runs/tiny", *command[1:3], *SHORT_AUDIT, "--json")
    curves = json.loads(audited.stdout)
    best = max(entry.top1 for entry in entries)
    assert curves["evolution"][0]["best"][-1] == best
    assert len(curves["evolution"][0]["best"]) == len(curves["random"][0]["best"]) == 18
    assert curves["random"][0]["best"][0] >= max(entry.top1 for entry in earlier)


@pytest.mark.parametrize(
    "changed", ["search.images=50", "search.calibration_images=64", "seed=1", "search.calibration_momentum=0.1"]
)
def test_architectures_scored_with_other_settings_are_scored_again(
    finished: Spos, spos: Spos, command: tuple[object, ...], changed: str
) -> None:
    said = spos.here(*command, "--set", changed, "--set", "search.generations=0").stdout
    assert "beginning with 18 candidates of another search, which has scored them on other images" in said
    assert "the 6 best under the limits are scored again" in said
    entries = read(spos)
    foreign = read(finished)
    assert [(entry.architecture, entry.top1) for entry in entries[:18]] == [
        (entry.architecture, entry.top1) for entry in foreign
    ]
    assert {entry.origin for entry in entries[:18]} == {"imported"}
    assert [entry.origin for entry in entries[18:]] == ["rescored"] * 6


def test_a_journal_without_its_settings_or_images_is_not_trusted(
    finished: Spos, tmp_path: Path, command: tuple[object, ...]
) -> None:
    for number, missing in enumerate(("settings.json", "scoring.u8.json", "calibration.u8")):
        copy, spos = tmp_path / f"copy{number}", Spos(tmp_path / str(number))
        shutil.copytree(finished.run / "search", copy)
        (copy / missing).unlink()
        spos.here(*command[:4], copy / "journal.jsonl", *command[5:], "--set", "search.generations=0")
        assert [entry.origin for entry in read(spos)] == ["imported"] * 18 + ["rescored"] * 6
