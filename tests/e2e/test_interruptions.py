"""Killed, interrupted and resumed: the end is the same, to the byte (invariant 3).

What is interrupted is the installed `spos`; what goes on may do so in the process of the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from spos_cli.config import loading
from spos_cli.models.counting import count
from spos_cli.search.journal import Journal
from spos_cli.search.results import pareto
from spos_cli.search.statistics import hypervolume
from tests.conftest import Spos

pytestmark = pytest.mark.slow


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("step", [10, 40])
def test_kill_during_supernet_training(finished: Spos, tmp_path: Path, step: int) -> None:
    spos = Spos(tmp_path)
    folder = spos.run / "supernet"
    saved = folder / f"step-{step:08d}.pt"
    code, _ = spos.interrupt(signal.SIGKILL, lambda: saved.exists() and (folder / "last.pt").exists(), "supernet-train")
    assert code == -signal.SIGKILL
    assert "resuming at step" in spos.here("supernet-train").stderr
    theirs = finished.run / "supernet" / "last.pt"
    assert (spos.run / "supernet" / "last.pt").read_bytes() == theirs.read_bytes()
    metrics = (spos.run / "supernet" / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) == 10


def test_kill_during_search(finished: Spos, tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    weights = ("--weights", finished.run / "supernet" / "last.pt")
    journal = spos.run / "search" / "journal.jsonl"
    code, _ = spos.interrupt(signal.SIGKILL, lambda: lines(journal) >= 8, "search", *weights)
    assert code == -signal.SIGKILL
    before = journal.read_bytes()
    assert lines(journal) < 18
    with journal.open("ab") as file:
        file.write(b'{"architecture": [0, 1')  # what a kill in the middle of a write leaves
    spos.here("search", *weights)
    theirs = finished.run / "search"
    assert journal.read_bytes().startswith(before)
    assert journal.read_bytes() == (theirs / "journal.jsonl").read_bytes()
    assert (spos.run / "search" / "result.yaml").read_bytes() == (theirs / "result.yaml").read_bytes()


@pytest.mark.parametrize("predictor", ["off", "ridge"])
def test_races_are_the_same_for_any_number_of_processes_and_after_a_kill(
    finished: Spos, tmp_path: Path, predictor: str
) -> None:
    """Also where the outcomes that all race against are written late, and where a predictor proposes candidates."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "def install():\n"
        "    from spos_cli.search.outcomes import OutcomesFile\n"
        "    write = OutcomesFile.write\n"
        "    OutcomesFile.write = lambda *arguments: (time.sleep(0.2), write(*arguments))\n"
        "if 'search' in sys.orig_argv: install()\n"
    )
    weights = ("--weights", finished.run / "supernet" / "last.pt", "--set", "search.racing=0.3")
    weights += ("--set", f"search.predictor={predictor}")
    command = ("search", *weights, "--set", "search.generations=4", "--set", "search.batch_size=10")
    one, two, killed = (Spos(tmp_path / name) for name in ("one", "two", "killed"))
    said = one.here(*command).stdout
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        two(*command, "--devices", 2)
    code, _ = killed.interrupt(signal.SIGKILL, lambda: lines(killed.run / "search" / "journal.jsonl") >= 20, *command)
    assert code == -signal.SIGKILL
    killed.here(*command)
    entries = Journal(one.run / "search" / "journal.jsonl").read()
    assert 3 <= sum(entry.partial for entry in entries) < 24  # never of the first generation
    predicted = {entry.generation for entry in entries if entry.origin == "predicted"}
    assert predicted == ({1, 2, 3, 4} if predictor == "ridge" else set())
    assert ("predictions against scores of the last" in said) == (predictor == "ridge")
    for name in ("journal.jsonl", "outcomes.bits", "result.yaml"):
        content = (one.run / "search" / name).read_bytes()
        assert [(spos.run / "search" / name).read_bytes() == content for spos in (two, killed)] == [True, True]


def test_kill_during_a_search_for_the_front(finished: Spos, tmp_path: Path) -> None:
    """It goes on to the same bytes; result and table have the front of all its candidates."""
    whole, broken = Spos(tmp_path / "whole"), Spos(tmp_path / "broken")
    command = ("search", "--weights", finished.run / "supernet" / "last.pt", "--objective", "pareto", "--json")
    told = json.loads(whole.here(*command).stdout)
    folders = [spos.run / "search" for spos in (whole, broken)]
    code, _ = broken.interrupt(signal.SIGKILL, lambda: lines(folders[1] / "journal.jsonl") >= 8, *command)
    assert code == -signal.SIGKILL
    for again in (command[:-1], ("status",), ("status", broken.run)):
        assert "next: spos export-arch --pareto" in broken.here(*again).stdout
    for name in ("journal.jsonl", "result.yaml", "outcomes.bits"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    theirs = finished.run / "search" / "journal.jsonl"
    assert (folders[0] / "journal.jsonl").read_bytes() != theirs.read_bytes()

    entries = Journal(folders[0] / "journal.jsonl").read()
    result = yaml.safe_load((folders[0] / "result.yaml").read_text())
    front = [entry.to_dict() for entry in pareto(entries)]
    assert [{key: entry[key] for key in front[0]} for entry in result["front"]] == front
    assert told == result["front"]
    assert all(entry["interval"][0] < entry["top1"] < entry["interval"][1] for entry in told)
    space = loading.load(whole.folder / "spos.yaml").space.build()
    corner = count(space).flops.maximum  # there is no limit
    assert result["reference"] == {"flops": corner, "top1": 0}
    costs, scores = [entry["flops"] for entry in front], [entry["top1"] for entry in front]
    assert result["hypervolume"] == pytest.approx(hypervolume(costs, scores, corner))
    settings = [json.loads((spos.run / "search" / "settings.json").read_text()) for spos in (whole, finished)]
    assert [setting["search"]["objective"] for setting in settings] == ["pareto", "accuracy"]  # not to be mixed


def test_kill_during_retraining(finished: Spos, tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    shutil.copytree(finished.run / "archs", spos.run / "archs")
    folder = spos.run / "retrain" / finished.arch().parent.name
    code, _ = spos.interrupt(signal.SIGKILL, (folder / "step-00000050.pt").exists, "retrain")
    assert code == -signal.SIGKILL
    spos.here("retrain")
    theirs = finished.run / "retrain" / folder.name
    for name in ("last.pt", "model.pt"):
        assert (folder / name).read_bytes() == (theirs / name).read_bytes()


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_save_and_stop(tmp_path: Path, number: signal.Signals, code: int, devices: int) -> None:
    spos = Spos(tmp_path)
    long = ("--set", "supernet.steps=100000", "--set", "supernet.checkpoint_every=100000", "--devices", devices)
    metrics = spos.run / "supernet" / "metrics.jsonl"
    ended, said = spos.interrupt(number, lambda: lines(metrics) >= 2, "supernet-train", *long)
    assert ended == code, said
    assert "Traceback" not in said
    assert "stopped by" in said
    (saved,) = spos.run.glob("supernet/step-*.pt")
    assert int(saved.stem.removeprefix("step-")) >= 20
    assert (spos.run / "supernet" / "last.pt").exists()


def test_a_signal_during_search(finished: Spos, tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    weights = ("--weights", finished.run / "supernet" / "last.pt")
    journal = spos.run / "search" / "journal.jsonl"
    code, said = spos.interrupt(signal.SIGTERM, lambda: lines(journal) >= 3, "search", *weights)
    assert (code, "Traceback" in said) == (143, False)
    spos.here("search", *weights)
    assert journal.read_bytes() == (finished.run / "search" / "journal.jsonl").read_bytes()
