"""Checkpoints and metrics of a training: torn, flipped, or on a full disk."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from spos_cli.engine import checkpoint
from spos_cli.engine.trainer import Batch, Trainer
from spos_cli.engine.validation import Validation
from spos_cli.errors import CheckpointError, DataError, RunError
from tests.engine.test_trainer import STEPS, batches, trainer


def train(folder: Path, **changes: Any) -> None:
    training = trainer(folder, **changes)
    training.resume()
    training.train(lambda first: batches(first, STEPS))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nothing has disturbed; do not change it."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, ema_decay=0.9)
    return folder


def stop_after_4(folder: Path) -> Path:
    """Train the same, killed after step 4 of 6."""
    training = trainer(folder, ema_decay=0.9, keep_checkpoints=3)

    class Stop(Exception):
        pass

    def stopping(first: int) -> Iterator[Batch]:
        yield from batches(first, 5)
        raise Stop

    with pytest.raises(Stop):
        training.train(stopping)
    assert sorted(path.name for path in folder.glob("*.pt")) == ["last.pt", "step-00000002.pt", "step-00000004.pt"]
    return folder


def spoil(path: Path, how: str) -> None:
    """Damage a file in place, so that its other name is damaged, too."""
    content = bytearray(path.read_bytes())
    with path.open("r+b") as file:
        if how == "torn":
            file.truncate(len(content) // 2)
        elif how == "empty":
            file.truncate(0)
        else:
            file.seek(len(content) // 3)
            file.write(bytes([content[len(content) // 3] ^ 1]))


@pytest.mark.parametrize("how", ["torn", "empty", "flipped"])
def test_the_checkpoint_before_a_damaged_one_is_used(
    whole: Path, tmp_path: Path, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = stop_after_4(tmp_path / "run")
    spoil(folder / "last.pt", how)
    damaged = (folder / "last.pt").read_bytes()
    resumed = trainer(folder, ema_decay=0.9)
    resumed.resume()
    output = "".join(capfd.readouterr().err.split())
    assert resumed.step == 2
    assert "last.pt" in output
    assert "itiskeptas" in output
    assert "resumingfrom" in output
    assert (folder / "damaged" / "last.pt").read_bytes() == damaged
    resumed.train(lambda first: batches(first, STEPS))
    for name in ("last.pt", "step-00000006.pt"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_missing_last_is_found_again(whole: Path, tmp_path: Path) -> None:
    folder = stop_after_4(tmp_path / "run")
    (folder / "last.pt").unlink()
    train(folder, ema_decay=0.9)
    assert (folder / "last.pt").read_bytes() == (whole / "last.pt").read_bytes()


def test_when_none_is_whole_nothing_is_trained(tmp_path: Path) -> None:
    folder = stop_after_4(tmp_path / "run")
    for path in folder.glob("step-*.pt"):
        spoil(path, "torn")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole .* use --fresh"):
        trainer(folder, ema_decay=0.9).resume()
    kept = ["last.pt", "step-00000002.pt", "step-00000004.pt"]
    assert sorted(path.name for path in (folder / "damaged").iterdir()) == kept
    trainer(folder, ema_decay=0.9).resume()  # a second time there is nothing left to find


def full_disk(monkeypatch: pytest.MonkeyPatch, full: list[bool]) -> None:
    """Let `os.fsync` fail as long as the list's one element is set."""
    sync = os.fsync

    def synchronize(file: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", synchronize)


def test_training_continues_on_a_full_disk(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    full = [False]
    full_disk(monkeypatch, full)
    training = trainer(tmp_path, ema_decay=0.9)

    def filling(first: int) -> Iterator[Batch]:
        for step, batch in enumerate(batches(first, STEPS)):
            full[0] = step == 3  # the checkpoint after the fourth step does not fit
            if step == 4:
                assert sorted(path.name for path in tmp_path.iterdir()) == [
                    "last.pt",
                    "metrics.jsonl",
                    "step-00000002.pt",
                ]
                assert checkpoint.load(tmp_path / "last.pt")["step"] == 2
            yield batch

    training.train(filling)
    output = " ".join(capfd.readouterr().err.split())
    assert output.count("No space left on device; what was there is kept; continuing") == 1
    assert (tmp_path / "last.pt").read_bytes() == (whole / "last.pt").read_bytes()


def test_the_last_checkpoint_has_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = [False]
    full_disk(monkeypatch, full)
    training = trainer(tmp_path)

    def filling(first: int) -> Iterator[Batch]:
        for step, batch in enumerate(batches(first, STEPS)):
            full[0] = step >= 4
            yield batch

    with pytest.raises(RunError, match=r"No space left on device.* Make room and run the same command"):
        training.train(filling)
    full[0] = False
    train(tmp_path)
    assert checkpoint.load(tmp_path / "last.pt")["step"] == STEPS


def test_a_line_of_metrics_that_does_not_fit_is_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The system takes a part of the line."""
    training, path = trainer(tmp_path), tmp_path / "metrics.jsonl"
    training.metrics.write({"step": 1, "loss": 1.0})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 7, before[1]))
    try:
        training.metrics.write({"step": 2, "loss": 2.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    training.metrics.write({"step": 3, "loss": 3.0})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]
    assert "cannot write" in capfd.readouterr().err  # the limit cuts this message short, too


def test_milestones_are_kept(tmp_path: Path) -> None:
    train(tmp_path, checkpoint_every=1, keep_checkpoints=1, milestone_every=2)
    kept = [f"milestone-{step:08d}.pt" for step in (2, 4, 6)]
    assert sorted(path.name for path in tmp_path.glob("milestone-*.pt")) == kept
    assert [path.name for path in tmp_path.glob("step-*.pt")] == ["step-00000006.pt"]
    train(tmp_path / "other", checkpoint_every=100, keep_checkpoints=1, milestone_every=4)
    assert [path.name for path in (tmp_path / "other").glob("milestone-*.pt")] == kept[1:2]


def resume_with(folder: Path, evaluate: Callable[[nn.Module], dict[str, float]]) -> Trainer:
    training = trainer(folder)
    training.validation = Validation(evaluate, every=2)
    training.resume()
    return training


def read_validations(folder: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["val_top1"]) for line in lines if "val_top1" in line]


@pytest.mark.parametrize("step", [2, 4, 6])
def test_an_evaluation_that_fails_costs_nothing_and_is_made_up(tmp_path: Path, step: int) -> None:
    """On a broken validation image, say, that the user then replaces."""

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"top1": float(model.state_dict()["classifier.0.weight"].abs().sum())}

    def fail(model: nn.Module) -> dict[str, float]:
        if training.step == step:
            raise DataError("cannot read the image val/fox/03.jpg: torn")
        return evaluate(model)

    resume_with(tmp_path / "whole", evaluate).train(lambda first: batches(first, STEPS))
    training = resume_with(tmp_path / "failed", fail)
    with pytest.raises(DataError):
        training.train(lambda first: batches(first, STEPS))
    resumed = resume_with(tmp_path / "failed", evaluate)
    assert resumed.step == step
    resumed.train(lambda first: batches(first, STEPS))
    assert read_validations(tmp_path / "failed") == read_validations(tmp_path / "whole")
    assert [step for step, _ in read_validations(tmp_path / "whole")] == [2, 4, 6]
    assert (tmp_path / "failed" / "last.pt").read_bytes() == (tmp_path / "whole" / "last.pt").read_bytes()
    again = resume_with(tmp_path / "failed", fail)
    again.train(lambda first: batches(first, STEPS))  # all is there: nothing is measured again
