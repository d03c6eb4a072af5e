"""What a resumed training may change, without a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spos_cli.config.training import RetrainConfig, SupernetConfig
from spos_cli.engine.optim import Schedule
from spos_cli.engine.resumption import FREE_SETTINGS, SCHEDULE_SETTINGS, Resumption, compare
from spos_cli.errors import RunError
from tests.engine.test_trainer import STEPS, batches, trainer

LAYOUT = {"processes": 1, "images_per_pass": 32}
RECIPE = {"lr": 0.5, "steps": 10, "accumulate": 1, "amp": "off", "batch_size": 32}


def resume(changes: dict[str, Any], layout: dict[str, int] = LAYOUT, *, extend: bool = False) -> Resumption:
    """Compare a checkpoint of step 4 with a training that has other settings."""
    content = {"kind": "retrain", "recipe": {"retrain": RECIPE}, "step": 4, **LAYOUT}
    ours = {"kind": "retrain", "recipe": {"retrain": {**RECIPE, **changes}}}
    return compare(ours, content, Path("last.pt"), layout=layout, schedule=Schedule(0.5, 10), extend=extend)


def test_each_name_is_a_setting() -> None:
    settings = {*SupernetConfig.model_fields, *RetrainConfig.model_fields}
    assert settings >= FREE_SETTINGS | SCHEDULE_SETTINGS
    assert not FREE_SETTINGS & SCHEDULE_SETTINGS


def test_the_same_training_has_nothing_to_say() -> None:
    for same in (resume({}), Resumption()):
        assert (same.is_extension, same.content, list(same.describe(4, 10))) == (False, {}, [])


def test_both_kinds_of_differences_are_told_apart() -> None:
    changed = resume({"accumulate": 2, "lr": 0.1}, {"processes": 2, "images_per_pass": 8}, extend=True)
    assert changed.is_extension
    assert changed.content == {
        "retrain.lr": [0.5, 0.1],
        "retrain.accumulate": [1, 2],
        "processes": [1, 2],
        "images_per_pass": [32, 8],
    }
    assert list(changed.describe(4, 10)) == [
        "extending the training at step 4, with a new schedule of 6 steps (recipe.retrain.lr: 0.1, was 0.5)",
        "from step 4: retrain.accumulate 2 (was 1), processes 2 (was 1), images_per_pass 8 (was 32)",
    ]


@pytest.mark.parametrize("extend", [False, True])
def test_only_what_must_not_change_is_refused(extend: bool) -> None:
    with pytest.raises(RunError) as refused:
        resume({"batch_size": 64, "accumulate": 2}, extend=extend)
    message = str(refused.value)
    assert "(recipe.retrain.batch_size: 64, was 32)" in message
    assert "raise retrain.accumulate if memory is short" in message
    assert message.startswith("with --extend only the settings of the schedule may change") == extend
    assert "add --extend" not in message


def test_precision_may_change_between_fp16_and_others(tmp_path: Path) -> None:
    """Only fp16 scales the loss, so only its checkpoints have a scale."""
    plain = trainer(tmp_path)
    plain.train(lambda first: batches(first, STEPS))
    scaled = trainer(tmp_path)
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaled.resume()
    assert (scaled.step, scaled.scaler.get_scale()) == (STEPS, 8.0)
    scaled.save()
    again = trainer(tmp_path)
    again.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    again.resume()
    assert again.scaler.get_scale() == 8.0
    plain = trainer(tmp_path)
    plain.resume()
    assert plain.scaler.state_dict() == {}
