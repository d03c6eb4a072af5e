"""The settings of an audit's stand-alone trainings."""

from __future__ import annotations

from spos_cli.config.schema import Config
from spos_cli.engine.optim import Schedule
from spos_cli.run.audit_settings import shorten
from spos_cli.run.training import make_training_plan


def test_a_shorter_training_has_the_same_learning_rates_in_less_time() -> None:
    training = {"steps": 1000, "warmup_steps": 100, "schedule": "step", "step_every": 300, "step_factor": 0.5}
    config = Config.model_validate({"retrain": {**training, "lr": 0.1, "min_lr": 0.03}, "audit": {"steps": 100}})
    plan = make_training_plan(shorten(config).retrain)
    assert plan.schedule == Schedule(0.1, 100, "step", 10, 0, 0.03, 30, 0.5)
    whole = make_training_plan(config.retrain).schedule
    assert [plan.schedule.lr(step) for step in range(9, 100)] == [whole.lr(10 * step + 9) for step in range(9, 100)]
