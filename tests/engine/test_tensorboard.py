"""Event files of TensorBoard, read back as TensorBoard reads them."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from spos_cli.engine.mirrors import Mirrors
from spos_cli.engine.tensorboard import TensorBoardMirror

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

# It and its dependencies warn of each other at import.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def read(folder: Path) -> dict[str, dict[int, float]]:
    """Return the values by tag and step; each step must be there once."""
    events = accumulator.EventAccumulator(str(folder), {accumulator.SCALARS: 0})
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        assert len(steps) == len(set(steps)), f"{tag} has steps twice: {steps}"
        found[tag] = {event.step: event.value for event in events.Scalars(tag)}
    return found


def open_mirror(folder: Path, step: int | None = None) -> Mirrors:
    """Mirror to `tensorboard/` in a folder."""
    return Mirrors(["tensorboard"], folder, step)


def line(step: int, loss: float) -> dict[str, Any]:
    return {"step": step, "loss": loss, "top1": 0.5, "lr": 0.25}


def test_metrics_are_mirrored(tmp_path: Path) -> None:
    mirror = open_mirror(tmp_path, 0)
    mirror.log_metrics(line(10, 2.0))
    mirror.log_metrics({"step": 10, "val_top1": 0.75, "val_loss": float("nan")})
    mirror.log_metrics(line(20, 1.0))
    mirror.close()
    assert read(tmp_path / "tensorboard") == {
        "train/loss": {10: 2.0, 20: 1.0},
        "train/top1": {10: 0.5, 20: 0.5},
        "train/lr": {10: 0.25, 20: 0.25},
        "val/top1": {10: 0.75},
    }


def test_a_resumed_training_writes_no_step_twice(tmp_path: Path) -> None:
    """Killed after step 40, it resumes from the checkpoint of step 25 again and again, and once without a mirror."""
    killed = open_mirror(tmp_path, 0)
    for step in (10, 20, 30, 40):
        killed.log_metrics(line(step, 1.0))  # and not closed
    with next((tmp_path / "tensorboard").iterdir()).open("ab") as file:
        file.write(b"torn")
    for attempt in (2.0, 3.0):
        resumed = open_mirror(tmp_path, 25)
        for step in (10, 20, 30, 40):
            resumed.log_metrics(line(step, attempt))
        resumed.close()
    assert read(tmp_path / "tensorboard")["train/loss"] == {10: 1.0, 20: 1.0, 30: 3.0, 40: 3.0}
    later = open_mirror(tmp_path, 60)
    for step in (10, 20, 30, 40, 50, 60, 70):  # 50 and 60 were not mirrored then
        later.log_metrics(line(step, 4.0))
    later.close()
    assert read(tmp_path / "tensorboard")["train/loss"] == {
        10: 1.0,
        20: 1.0,
        30: 3.0,
        40: 3.0,
        50: 4.0,
        60: 4.0,
        70: 4.0,
    }


def test_a_search_replays_its_generations(tmp_path: Path) -> None:
    for last in (1, 3):
        mirror = open_mirror(tmp_path)
        for generation in range(last + 1):
            mirror.log(generation, {"search/best_top1": 0.5 + generation / 8})
        mirror.close()
    assert read(tmp_path / "tensorboard") == {"search/best_top1": {0: 0.5, 1: 0.625, 2: 0.75, 3: 0.875}}


def test_a_full_disk_ends_the_mirror_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    mirror = open_mirror(tmp_path, 0)
    writing = mirror.open["tensorboard"]
    assert isinstance(writing, TensorBoardMirror)
    monkeypatch.setattr(writing.writer, "add_scalar", full)
    mirror.log_metrics(line(10, 1.0))
    mirror.log_metrics(line(20, 1.0))
    mirror.close()
    assert capfd.readouterr().err.count("No space left on device; nothing more is mirrored there") == 1
