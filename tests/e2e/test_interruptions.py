"""Killed, interrupted and resumed: the end is the same, to the byte (invariant 3)."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

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
    assert "resuming at step" in spos("supernet-train").stderr
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
    spos("search", *weights)
    theirs = finished.run / "search"
    assert journal.read_bytes().startswith(before)
    assert journal.read_bytes() == (theirs / "journal.jsonl").read_bytes()
    assert (spos.run / "search" / "result.yaml").read_bytes() == (theirs / "result.yaml").read_bytes()


def test_kill_during_retraining(finished: Spos, tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    shutil.copytree(finished.run / "archs", spos.run / "archs")
    folder = spos.run / "retrain" / finished.arch().parent.name
    code, _ = spos.interrupt(signal.SIGKILL, (folder / "step-00000050.pt").exists, "retrain")
    assert code == -signal.SIGKILL
    spos("retrain")
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
    spos("search", *weights)
    assert journal.read_bytes() == (finished.run / "search" / "journal.jsonl").read_bytes()
