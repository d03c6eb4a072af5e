"""The best weights by validation, and a training that ends early: killed, resumed, in two processes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from spos_cli.engine import checkpoint
from tests.conftest import PROGRAM, Spos
from tests.e2e.test_processes import PATIENCE, started, until, workers

pytestmark = pytest.mark.slow

ARCH = "0,1,2,3"
NAMES = ("last.pt", "model.pt", "best.pt")
# A learning rate so high that evaluations go up and down.
RETRAIN = (
    "retrain",
    ARCH,
    *("--set", "retrain.steps=60", "--set", "retrain.evaluate_every=5", "--set", "retrain.checkpoint_every=8"),
    *("--set", "retrain.batchnorm_pass_steps=1", "--set", "retrain.lr=0.5", "--set", "retrain.log_every=4"),
)


def folder_of(spos: Spos) -> Path:
    (folder,) = spos.run.glob("retrain/*")
    return folder


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def list_validations(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines(folder) if "val_top1" in line]


def read_bytes(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in NAMES]


def test_the_best_weights_are_those_of_the_best_evaluation(tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    shown = spos.here(*RETRAIN).stdout
    folder = folder_of(spos)
    validations = [(line["val_top1"], -line["step"]) for line in list_validations(folder)]
    top1, step = max(validations)
    content = checkpoint.load(folder / "best.pt")
    assert (content["metrics"]["top1"], content["metrics"]["steps"]) == (top1, -step)
    assert content["selection"]["evaluations"] == len(validations) == 12
    assert "optimizer" not in content
    assert "best of 12 evaluations on these images, so optimistic" in shown
    # Each reader says what the weights are; the last ones stay the result.
    evaluated = spos.here("evaluate", "--weights", folder / "best.pt").stdout
    assert "as the best of 12 evaluations on these validation images, so its accuracy there is optimistic" in evaluated
    result = json.loads(spos.here("evaluate", "--weights", folder / "best.pt", "--json").stdout)
    assert (result["top1"], result["best_of_evaluations"], result["selected_on_these_images"]) == (top1, 12, True)
    default = json.loads(spos.here("evaluate", "--json").stdout)
    assert "best_of_evaluations" not in default
    assert default["top1"] == checkpoint.load(folder / "model.pt")["metrics"]["top1"]
    assert "(optimistic:" in spos.here("status").stdout
    (stage,) = json.loads(spos.here("status", "--json").stdout)["stages"][-1:]
    best = {"val_top1": top1, "evaluations": 12, "weights": str((folder / "best.pt").relative_to(spos.folder))}
    assert stage["best"] == best
    spos.here("report")
    page = (spos.run / "search" / "report.html").read_text()
    assert "best of 12" in page
    assert "their accuracy there is optimistic" in page
    before = read_bytes(folder)
    spos.here(*RETRAIN)  # Nothing is left to do.
    assert read_bytes(folder) == before


def is_evaluated(folder: Path) -> bool:
    """Return whether the evaluation of step 10 has ended, which no checkpoint has: they are of steps 8 and 16."""
    has_metrics = (folder / "metrics.jsonl").exists() and (folder / "best.pt").exists()
    return has_metrics and any(line["step"] == 10 for line in list_validations(folder))


@pytest.mark.parametrize("patience", [[], ["--set", "retrain.patience=3"]], ids=["all steps", "patience"])
def test_a_killed_training_keeps_the_same_best_weights(tmp_path: Path, patience: list[str]) -> None:
    whole, killed = Spos(tmp_path / "whole"), Spos(tmp_path / "killed")
    whole.here(*RETRAIN, *patience)
    folder = killed.run / folder_of(whole).relative_to(whole.run)
    code, _ = killed.interrupt(signal.SIGKILL, lambda: is_evaluated(folder), *RETRAIN, *patience)
    assert code == -signal.SIGKILL
    killed.here(*RETRAIN, *patience)
    assert read_bytes(folder) == read_bytes(folder_of(whole))
    assert list_validations(folder) == list_validations(folder_of(whole))
    assert ("ended_early" in read_lines(folder)[-1]) == bool(patience)


@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_decide_alike_also_when_one_is_killed(tmp_path: Path, rank: int) -> None:
    whole, killed = Spos(tmp_path / "whole"), Spos(tmp_path / "killed")
    command = (*RETRAIN, "--set", "retrain.patience=3")
    whole.together(*command)
    folder = killed.run / folder_of(whole).relative_to(whole.run)
    with started(killed, PROGRAM, *command, "--devices", 2) as process:
        until(lambda: is_evaluated(folder), process)
        os.kill(workers(process)[rank], signal.SIGKILL)
        assert process.wait(PATIENCE) == 0
    assert read_bytes(folder) == read_bytes(folder_of(whole))
    assert "ended_early" in read_lines(folder)[-1]


def test_patience_ends_a_training_and_may_be_changed(tmp_path: Path) -> None:
    """A training that goes on with more patience ends as one that had it from the start."""
    spos, patient = Spos(tmp_path / "one"), Spos(tmp_path / "patient")
    done = spos.here(*RETRAIN, "--set", "retrain.patience=2")
    folder = folder_of(spos)
    end = read_lines(folder)[-1]["step"]
    scores = [line["val_top1"] for line in list_validations(folder)]
    assert max(scores[-2:]) <= max(scores[:-2])
    assert all(max(scores[at - 2 : at]) > max(scores[: at - 2]) for at in range(3, len(scores)))
    assert f"retrain has ended early, at step {end} of 60: no new best in 2 evaluations" in done.stderr
    assert f"{end} of 60: ended early" in done.stdout
    assert checkpoint.load(folder / "model.pt")["metrics"]["steps"] == end < 60
    status = json.loads(spos.here("status", "--json").stdout)
    (stage,) = [one for one in status["stages"] if one["name"].startswith("retrain")]
    assert (stage["state"], stage["done"], stage["total"]) == ("complete", end, 60)
    assert "ended early: 2 evaluations without a new best" in stage["note"]
    assert "evaluate" in status["next"]
    before = read_bytes(folder)
    spos.here(*RETRAIN, "--set", "retrain.patience=2")
    assert read_bytes(folder) == before
    # Without patience, it goes on with the same schedule.
    said = spos.here(*RETRAIN).stderr
    assert f"from step {end}: retrain.patience null (was 2)" in said
    patient.here(*RETRAIN)
    assert read_bytes(folder) == read_bytes(folder_of(patient))
    assert list_validations(folder) == list_validations(folder_of(patient))
    assert [line["changed"] for line in read_lines(folder) if "changed" in line] == [{"retrain.patience": [2, None]}]
    assert not any("ended_early" in line for line in read_lines(folder))


def test_a_training_that_has_ended_early_can_be_extended(tmp_path: Path) -> None:
    """It has its whole patience again."""
    spos = Spos(tmp_path)
    spos.here(*RETRAIN, "--set", "retrain.patience=2")
    end = read_lines(folder_of(spos))[-1]["step"]
    longer = (*RETRAIN, "--set", "retrain.patience=2", "--set", "retrain.steps=80", "--set", "retrain.lr=0.001")
    assert "add --extend" in spos.here(*longer, code=2).stderr
    spos.here(*longer, "--extend")
    validated = [line["step"] for line in list_validations(folder_of(spos))]
    assert len([step for step in validated if step > end]) >= 2


def test_best_weights_may_be_left_out(tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    shown = spos.here(*RETRAIN, "--set", "retrain.keep_best=false").stdout
    assert not (folder_of(spos) / "best.pt").exists()
    assert "best top-1 in training" not in shown


def test_a_damaged_file_is_replaced_by_the_next_best(tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    spos.here(*RETRAIN, "--set", "retrain.patience=2")
    best = folder_of(spos) / "best.pt"
    best.write_bytes(best.read_bytes()[:-100])
    assert "the next evaluation replaces it" in spos.here(*RETRAIN).stderr
    assert checkpoint.load(best)["selection"]["evaluations"] == 12
