"""Which evaluation is the best, what its file holds, and when patience is over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spos_cli.engine import checkpoint
from spos_cli.engine.trainer import Trainer
from spos_cli.engine.validation import BestWeights, Scores, Validation
from spos_cli.errors import DataError
from tests.engine.test_trainer import STEPS, batches, trainer

IMAGES = 12


def make_content(state: dict[str, Tensor], scores: Scores, step: int) -> dict[str, Any]:
    return {"metrics": {**scores, "steps": step}, "model": state}


def validate(folder: Path, images: int = IMAGES, patience: int | None = None) -> Validation:
    """Return evaluations in which the top-1 of a network is its one weight, every 2 steps."""

    def measure(network: nn.Module) -> Scores:
        return {"top1": network.state_dict()["weight"].item()}

    best = BestWeights(folder / "best.pt", make_content)
    return Validation(measure, every=2, images=images, patience=patience, best=best)


def network(weight: float) -> nn.Module:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(weight)
    return model


def read_best(folder: Path) -> tuple[int, float, int]:
    """Return step, weight and number of evaluations in the file."""
    content = checkpoint.load(folder / "best.pt")
    evaluations = content["selection"]["evaluations"]
    return content["metrics"]["steps"], content["model"]["weight"].item(), evaluations


def test_the_first_of_equal_evaluations_is_the_best(tmp_path: Path) -> None:
    validation = validate(tmp_path, patience=3)
    over = []
    for step, weight in [(2, 0.25), (4, 0.5), (6, 0.5), (8, 0.375), (10, 0.5)]:
        validation.run(network(weight), step)
        over.append(validation.is_patience_over)
    assert over == [False, False, False, False, True]
    assert read_best(tmp_path) == (4, 0.5, 2)
    validation.finish()
    assert read_best(tmp_path) == (4, 0.5, 5)
    assert "no new best in 3 evaluations (patience 3); the best was 50.00% at step 4" in validation.describe_end()
    validation.renew_patience()
    assert not validation.is_patience_over


def test_an_evaluation_of_a_lost_continuation_is_kept_until_a_better_one(tmp_path: Path) -> None:
    """The checkpoint is of step 5, and a GPU does not repeat step 6 to the bit."""
    first = validate(tmp_path)
    first.run(network(0.25), 2)
    first.run(network(0.5), 4)
    state = first.state()
    first.run(network(0.75), 6)
    second = validate(tmp_path, patience=2)
    second.load(state, 5)
    second.open_best(5)
    second.run(network(0.625), 6)
    assert (second.record.best_step, second.record.since_best) == (6, 0)
    assert read_best(tmp_path)[:2] == (6, 0.75)
    second.run(network(0.875), 8)
    assert read_best(tmp_path) == (8, 0.875, 4)


@pytest.mark.parametrize("step", [0, 5], ids=["started over", "other images"])
def test_a_file_of_another_training_or_of_other_images_does_not_count(tmp_path: Path, step: int) -> None:
    first = validate(tmp_path)
    first.run(network(0.75), 4)
    second = validate(tmp_path, images=IMAGES + 1 if step else IMAGES)
    if step:
        second.load(first.state(), step)
        assert (second.record.evaluations, second.record.step) == (0, step)
    second.open_best(step)
    second.run(network(0.5), 6)
    second.finish()
    assert read_best(tmp_path) == (6, 0.5, 1)


def test_a_full_disk_costs_only_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    validation = validate(tmp_path)
    validation.run(network(0.5), 2)

    def refuse(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("spos_cli.files.writing.os.fsync", refuse)
        validation.run(network(0.875), 4)
    assert "continuing without the weights of step 4" in capsys.readouterr().err
    assert read_best(tmp_path) == (2, 0.5, 1)
    # The file has the best weights that it could have.
    validation.run(network(0.75), 6)
    assert validation.record.best_step == 4
    assert read_best(tmp_path) == (6, 0.75, 3)


def test_a_record_that_is_broken_is_an_error() -> None:
    with pytest.raises(TypeError):
        Validation(lambda model: {"top1": 0.0}, every=2).load({"evaluations": 1, "colour": 3}, 2)


def test_weights_are_those_of_the_moving_average_or_of_the_model(tmp_path: Path) -> None:
    """What was evaluated is what is written, also when it is trained further."""
    validation, model = validate(tmp_path), network(0.5)
    validation.run(model, 2)
    with torch.no_grad():
        model.get_parameter("weight").fill_(0.125)
    assert read_best(tmp_path)[1] == 0.5


def test_a_missed_evaluation_may_end_the_training(tmp_path: Path) -> None:
    """The training was stopped between its last checkpoint and the evaluation that ends it."""

    def begin(folder: Path, fails: bool = False) -> Trainer:
        def measure(model: nn.Module) -> Scores:
            if fails and training.step == 4:
                raise DataError("cannot read the image val/fox/03.jpg: torn")
            return {"top1": 0.5}

        training = trainer(folder)
        training.validation = Validation(measure, every=2, patience=1)
        training.resume()
        return training

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    begin(whole).train(lambda first: batches(first, STEPS))
    with pytest.raises(DataError):
        begin(stopped, fails=True).train(lambda first: batches(first, STEPS))
    for _ in range(2):  # The second time, there is nothing to do.
        resumed = begin(stopped)
        resumed.train(lambda first: batches(first, STEPS))
        assert (resumed.step, resumed.is_finished, resumed.saved[0]) == (4, True, 4)
        assert (stopped / "last.pt").read_bytes() == (whole / "last.pt").read_bytes()
        ends = [json.loads(line) for line in (stopped / "metrics.jsonl").read_text().splitlines()][-1:]
        assert ends == [{"step": 4, "ended_early": {"patience": 1}}]
