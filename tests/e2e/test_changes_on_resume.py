"""A training that was killed goes on with other settings: which change nothing, which are noted, which are refused."""

from __future__ import annotations

import functools
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spos_cli.data.loaders import TrainingBatch
from spos_cli.engine import checkpoint
from spos_cli.engine.trainer import Trainer
from spos_cli.models.blocks import ChoiceBlock
from tests.conftest import PROGRAM, Mistake, Spos
from tests.e2e.test_processes import started, until

pytestmark = pytest.mark.slow

ARCH = "0,1,2,3"
SHORT = (
    *("--set", "retrain.steps=24", "--set", "retrain.checkpoint_every=8", "--set", "retrain.evaluate_every=12"),
    *("--set", "retrain.batchnorm_pass_steps=1", "--set", "retrain.log_every=4", "--set", "retrain.ema_decay=null"),
    *("--set", "retrain.dropout=0"),
)
RETRAIN = ("retrain", ARCH, *SHORT)


def set_all(*settings: str) -> tuple[str, ...]:
    return tuple(part for setting in settings for part in ("--set", setting))


def folder_of(spos: Spos) -> Path:
    (folder,) = spos.run.glob("retrain/*")
    return folder


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def list_changes(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    return [(line["step"], line["changed"]) for line in read_lines(folder) if "changed" in line]


def list_values(folder: Path, name: str) -> list[float]:
    """Return a number of each line about the training."""
    return [line[name] for line in read_lines(folder) if "lr" in line]


def read_parameters(path: Path) -> Tensor:
    """Return all weights of a checkpoint as one vector, without BatchNorm's statistics."""
    state = checkpoint.load(path)["model"]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return torch.cat([tensor.flatten() for name, tensor in state.items() if not name.endswith(statistics)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Spos:
    """A training that nothing has disturbed."""
    spos = Spos(tmp_path_factory.mktemp("whole"))
    spos.here(*RETRAIN)
    return spos


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Spos:
    """The same training, killed after step 8; to be copied."""
    spos = Spos(tmp_path_factory.mktemp("killed"))
    path = spos.run / "retrain"
    code, _ = spos.interrupt(signal.SIGKILL, lambda: any(path.glob("*/last.pt")), *RETRAIN)
    assert code == -signal.SIGKILL
    return spos


def copy_of(original: Spos, folder: Path) -> Spos:
    spos = Spos(folder)
    shutil.copytree(original.run, spos.run)
    return spos


@pytest.mark.parametrize(
    "settings",
    [
        ["data.workers=1", "data.bad_images=3"],
        ["retrain.log_every=3", "retrain.checkpoint_every=5", "retrain.keep_checkpoints=4"],
        ["retrain.milestone_every=6", "retrain.evaluate_every=9", "retrain.keep_best=false"],
        ["search.batch_size=30", "timeout_minutes=3", "max_restarts=0"],
    ],
    ids=" ".join,
)
def test_settings_that_change_no_byte(whole: Spos, killed: Spos, tmp_path: Path, settings: list[str]) -> None:
    """Of the weights: a checkpoint also has the settings and the evaluations."""
    spos = copy_of(killed, tmp_path)
    said = spos.here(*RETRAIN, *set_all(*settings)).stderr
    assert "resuming at step" in said
    assert "from step" not in said
    assert list_changes(folder_of(spos)) == []
    ours, theirs = (checkpoint.load(folder_of(one) / "last.pt") for one in (spos, whole))
    for name in ("model", "optimizer"):
        assert checkpoint.fingerprint(ours[name]) == checkpoint.fingerprint(theirs[name])


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (["retrain.accumulate=4"], {"retrain.accumulate": [1, 4], "images_per_pass": [32, 8]}),
        (["retrain.amp=bf16"], {"retrain.amp": ["off", "bf16"]}),
        (["retrain.gradient_compression=bf16"], {"retrain.gradient_compression": ["off", "bf16"]}),
        (["retrain.patience=5"], {"retrain.patience": [None, 5]}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_changes_that_are_noted(
    whole: Spos, killed: Spos, tmp_path: Path, settings: list[str], changes: dict[str, list[Any]]
) -> None:
    spos = copy_of(killed, tmp_path)
    step = checkpoint.load(folder_of(spos) / "last.pt")["step"]
    said = spos.here(*RETRAIN, *set_all(*settings)).stderr
    assert f"from step {step}: {settings[0].replace('=', ' ')} (was " in said
    assert list_changes(folder_of(spos)) == [(step, changes)]
    content = checkpoint.load(folder_of(spos) / "last.pt")
    assert content["step"] == 24
    for name in ("lr", "images"):
        assert list_values(folder_of(spos), name) == list_values(folder_of(whole), name)
    again = spos.here(*RETRAIN, *set_all(*settings)).stderr  # Nothing is left, and nothing has changed since.
    assert "from step" not in again
    assert list_changes(folder_of(spos)) == [(step, changes)]


def test_blocks_may_be_compiled_from_now_on(killed: Spos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a backend that needs no compiler."""
    monkeypatch.setattr(ChoiceBlock, "compile", functools.partialmethod(nn.Module.compile, backend="eager"))
    monkeypatch.setattr("spos_cli.engine.compilation.require_compiler", lambda device: "none, with that backend")
    spos = copy_of(killed, tmp_path)
    spos.here(*RETRAIN, "--set", "retrain.compile=blocks")
    ((_, changes),) = list_changes(folder_of(spos))
    assert changes == {"retrain.compile": ["off", "blocks"]}


def test_a_change_is_noted_once_and_only_if_steps_with_it_are_kept(killed: Spos, tmp_path: Path) -> None:
    """A process that is killed again before its next checkpoint has lost its steps, and the line about them."""
    spos = copy_of(killed, tmp_path)
    folder, endless = folder_of(spos), ("--set", "retrain.checkpoint_every=1000")
    step = checkpoint.load(folder / "last.pt")["step"]
    for accumulate in (2, 4):

        def is_training(accumulate: int = accumulate) -> bool:
            changes = [line for _, line in list_changes(folder)]
            is_changed = [line["retrain.accumulate"] for line in changes] == [[1, accumulate]]
            return is_changed and read_lines(folder)[-1]["step"] > step

        changed = set_all(f"retrain.accumulate={accumulate}")
        code, _ = spos.interrupt(signal.SIGKILL, is_training, *RETRAIN, *endless, *changed)
        assert code == -signal.SIGKILL
    assert list_changes(folder) == [(step, {"retrain.accumulate": [1, 4], "images_per_pass": [32, 8]})]
    spos.here(*RETRAIN)
    assert list_changes(folder) == []


def train_in_two(spos: Spos) -> None:
    """Train in two processes, which are killed after step 8."""
    path = spos.run / "retrain"
    with started(spos, PROGRAM, *RETRAIN, "--devices", 2) as process:
        until(lambda: any(path.glob("*/last.pt")), process)


def test_other_processes_with_the_same_images_a_pass(tmp_path: Path) -> None:
    """One process with twice the passes computes the same step up to rounding; with other passes, BatchNorm differs."""
    two, one, other, back = (Spos(tmp_path / name) for name in ("two", "one", "other", "back"))
    two.together(*RETRAIN)
    train_in_two(one)
    for spos in (other, back):
        shutil.copytree(one.run, spos.run)
    step = checkpoint.load(folder_of(one) / "last.pt")["step"]
    said = one.here(*RETRAIN, "--set", "retrain.accumulate=2").stderr
    assert f"from step {step}: retrain.accumulate 2 (was 1), processes 1 (was 2)" in said
    assert list_changes(folder_of(one)) == [(step, {"retrain.accumulate": [1, 2], "processes": [2, 1]})]
    other.here(*RETRAIN)
    assert list_changes(folder_of(other)) == [(step, {"processes": [2, 1], "images_per_pass": [16, 32]})]
    expected, same, different = (read_parameters(folder_of(spos) / "last.pt") for spos in (two, one, other))
    moved = (expected - read_parameters(folder_of(two) / "step-00000016.pt")).abs().max()
    assert (same - expected).abs().max() < 0.01 * moved
    assert (different - expected).abs().max() > 0.05 * moved
    # With the same processes again, it ends in the same bytes.
    back.together(*RETRAIN)
    assert (folder_of(back) / "last.pt").read_bytes() == (folder_of(two) / "last.pt").read_bytes()


def test_more_processes(killed: Spos, tmp_path: Path) -> None:
    spos = copy_of(killed, tmp_path)
    spos.together(*RETRAIN)
    ((_, changes),) = list_changes(folder_of(spos))
    assert changes == {"processes": [1, 2], "images_per_pass": [32, 16]}
    assert checkpoint.load(folder_of(spos) / "model.pt")["metrics"]["steps"] == 24


@pytest.mark.parametrize(
    ("setting", "phrase"),
    [
        ("retrain.batch_size=64", "retrain.batch_size: 64, was 32); use the same ones, raise retrain.accumulate if"),
        ("retrain.lr=0.01", "add --extend"),
        ("retrain.momentum=0.5", "retrain.momentum: 0.5, was 0.9); use the same ones, another --run-dir"),
        ("retrain.ema_decay=0.9", "retrain.ema_decay: 0.9, was None"),
    ],
)
def test_what_changes_the_result_is_refused(
    killed: Spos, spos: Spos, mistake: Mistake, setting: str, phrase: str
) -> None:
    shutil.copytree(killed.run, spos.run)
    message = mistake(*RETRAIN, "--set", setting, "--set", "retrain.accumulate=2")
    assert phrase in message
    assert "accumulate: " not in message  # That may change.


class SmallMemory:
    """A device whose memory is too small for more than some images a pass, from a step on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, images: int, step: int) -> None:
        update = Trainer.update

        def update_or_fail(trainer: Trainer, stream: Iterator[TrainingBatch]) -> None:
            if trainer.step >= step and trainer.layout["images_per_pass"] > images:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 is full.")
            update(trainer, stream)

        monkeypatch.setattr(Trainer, "update", update_or_fail)


@pytest.mark.parametrize("command", ["retrain", "supernet-train"])
def test_advice_for_a_small_memory_gets_further(spos: Spos, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    SmallMemory(monkeypatch, images=8, step=20)
    section = command.removesuffix("-train")
    words = (command, *((ARCH,) if command == "retrain" else ()), *set_all(f"{section}.steps=40"))
    message = spos.here(*words, code=2).stderr
    assert f"raise {section}.accumulate: the batch of a step stays as it is" in message
    said = spos.here(*words, *set_all(f"{section}.accumulate=4")).stderr
    assert f"from step 20: {section}.accumulate 4 (was 1), images_per_pass 8 (was 32)" in said
    (last,) = spos.run.glob(f"{section}/**/last.pt")
    assert checkpoint.load(last)["step"] == 40


def test_advice_during_an_audit_gets_further(finished: Spos, spos: Spos, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in ("supernet", "search"):
        shutil.copytree(finished.run / stage, spos.run / stage)
    quick = set_all(
        *("audit.architectures=3", "audit.equal_flops=0", "audit.winner_seeds=1", "audit.steps=10"),
        *("retrain.batchnorm_pass_steps=1", "retrain.checkpoint_every=4"),
    )
    SmallMemory(monkeypatch, images=16, step=5)
    message = spos.here("audit", *quick, code=2).stderr
    assert "raise retrain.accumulate" in message
    said = spos.here("audit", *quick, *set_all("retrain.accumulate=2")).stderr
    assert "retrain.accumulate is 2 from here on" in said
    assert (spos.run / "audit" / "result.json").is_file()
    refused = spos.here("audit", *quick, *set_all("retrain.accumulate=2", "retrain.lr=0.01"), code=2).stderr
    assert "training.retrain.lr: 0.01, was 0.05" in refused
    assert "from here on" not in spos.here("audit", *quick, *set_all("retrain.accumulate=2")).stderr
