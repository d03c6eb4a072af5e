"""What makes two runs the same."""

from __future__ import annotations

from typing import Any

from spos_cli.config.schema import Config

HARMLESS = {"log_every", "checkpoint_every", "keep_checkpoints", "milestone_every", "evaluate_every"}


def data_recipe(config: Config) -> dict[str, Any]:
    """The settings that images depend on; where they are does not matter, and their values are compared as images."""
    return {key: value for key, value in config.portable()["data"].items() if key not in ("root", "value_range")}


def value_range(config: Config) -> Any:
    """`data.value_range`, in plain types."""
    return config.data.model_dump(mode="json")["value_range"]


def recipe(config: Config, section: str) -> dict[str, Any]:
    """The settings that a training depends on, to be the same when it is resumed."""
    settings = config.portable()
    training = {key: value for key, value in settings[section].items() if key not in HARMLESS}
    return {"seed": config.seed, "space": settings["space"], "data": data_recipe(config), section: training}
