"""`--extend`: a training goes on with a new schedule, killed and resumed, and nothing else may differ."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from spos_cli.engine import checkpoint
from tests.conftest import Mistake, Spos

pytestmark = pytest.mark.slow

ARCH = "0,1,2,3"
BASE = (
    "--set",
    "retrain.checkpoint_every=5",
    "--set",
    "retrain.log_every=1",
    "--set",
    "retrain.batchnorm_pass_steps=1",
)


def train(*settings: str) -> tuple[str, ...]:
    return "retrain", ARCH, *BASE, *(part for setting in settings for part in ("--set", setting))


def learning_rates(spos: Spos) -> list[float]:
    (metrics,) = spos.run.glob("retrain/*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [line["lr"] for line in lines if "lr" in line]


def test_a_finished_training_goes_on(tmp_path: Path) -> None:
    whole, killed = Spos(tmp_path / "whole"), Spos(tmp_path / "killed")
    for spos in (whole, killed):
        spos.here(*train("retrain.steps=10"))
    longer = (*train("retrain.steps=30", "retrain.lr=0.02", "retrain.warmup_steps=2"), "--extend")
    said = whole.here(*longer)
    assert "extending the training at step 10, with a new schedule of 20 steps" in said.stderr + said.stdout
    assert "retrain.steps: 30, was 10" in said.stderr + said.stdout
    first, new = [0.05 * (1 - step / 10) for step in range(10)], [0.02 * (1 - (step - 2) / 18) for step in range(2, 20)]
    assert learning_rates(whole) == pytest.approx([*first, 0.01, 0.02, *new])
    (folder,) = killed.run.glob("retrain/*")
    code, _ = killed.interrupt(signal.SIGKILL, lambda: (folder / "step-00000020.pt").exists(), *longer)
    assert code == -signal.SIGKILL
    killed.here(*longer[:-1])  # Once it has begun, the extended training is resumed as any other.
    names = ("last.pt", "model.pt")
    (other,) = whole.run.glob("retrain/*")
    assert [(folder / name).read_bytes() for name in names] == [(other / name).read_bytes() for name in names]
    assert checkpoint.load(folder / "model.pt")["metrics"]["steps"] == 30


def test_a_supernet_goes_on(finished: Spos, spos: Spos) -> None:
    (spos.run / "supernet").mkdir(parents=True)
    (spos.run / "supernet" / "last.pt").write_bytes((finished.run / "supernet" / "last.pt").read_bytes())
    spos.here("supernet-train", "--set", "supernet.steps=110", "--extend")
    assert checkpoint.load(spos.run / "supernet" / "last.pt")["step"] == 110


def test_mistakes(spos: Spos, mistake: Mistake) -> None:
    assert "no checkpoint" in mistake(*train("retrain.steps=10"), "--extend")
    assert "give one of them" in mistake(*train("retrain.steps=10"), "--extend", "--fresh")
    spos.here(*train("retrain.steps=10"))
    assert "add --extend to go on from its last step" in mistake(*train("retrain.steps=20"))
    assert "raise steps" in mistake(*train("retrain.steps=9"), "--extend")
    assert "leave nothing to extend" in mistake(*train("retrain.steps=20", "retrain.warmup_steps=10"), "--extend")
    said = mistake(*train("retrain.steps=20", "retrain.momentum=0.5"), "--extend")
    assert "retrain.momentum: 0.5, was 0.9" in said
    assert "only the settings of the schedule may change" in said
