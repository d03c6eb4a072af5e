"""Which settings a result depends on: what makes two runs the same.

The other settings say where a run is, on what machine it works and how often it reports. A run may continue after these
have changed.
"""

from __future__ import annotations

import copy
from typing import Any

from spos_cli.config.schema import Config

# The settings that no result depends on: where a run is, on what machine it works, how often it reports.
PLACE_AND_MACHINE = ("name", "run_dir", "devices", "threads", "timeout_minutes", "max_restarts")
LOADING = ("workers", "bad_images")  # These are in `data`.
REPORTING = ("log_every", "checkpoint_every", "keep_checkpoints", "milestone_every", "evaluate_every", "keep_best")

# The settings of `data` that say where images are.
IMAGE_PLACE = (
    *("source", "root", "train_folder", "val_folder", "val_share", "train_list", "val_list"),
    *("train_shards", "val_shards", "train_split", "val_split", "image_column", "label_column"),
)


def portable_settings(config: Config) -> dict[str, Any]:
    """Return the settings that a result depends on, in plain types: what a weights file keeps of a run.

    `audit` is left out, since it comes after all results. So is `augmentation.policy`: the settings that it has filled
    say all. `data.store: ram` becomes `disk`: both give the same images.
    """
    values = without_machine(config.model_dump(mode="json", exclude={"audit"}))
    for section in ("data", "retrain"):
        if values[section]["augmentation"] is not None:
            del values[section]["augmentation"]["policy"]
    if values["retrain"]["augmentation"] == values["data"]["augmentation"]:
        values["retrain"]["augmentation"] = None  # It makes no difference.
    if values["data"]["store"] == "ram":
        values["data"]["store"] = "disk"
    return values


def shared_settings(config: Config) -> dict[str, Any]:
    """Return the settings that all processes of a command must have in common, on whichever machines they run."""
    values = _without_teachers_file(portable_settings(config))
    del values["data"]["root"], values["costs"]  # A search compares the tables of costs.
    return {**values, "audit": config.audit.model_dump(mode="json")}


def data_identity(config: Config) -> dict[str, Any]:
    """Return the settings that the images depend on.

    The folder of the images is left out. So is `data.value_range`, which a run compares with its images
    (`run.image_comparison.require_same_images`): a run on 8-bit images may continue with any.
    """
    data = portable_settings(config)["data"]
    return {name: value for name, value in data.items() if name not in ("root", "value_range")}


def value_range(config: Config) -> Any:
    """Return `data.value_range` in plain types."""
    return config.data.model_dump(mode="json")["value_range"]


def training_identity(config: Config, section: str) -> dict[str, Any]:
    """Return the settings that a training depends on; a resumed training must have the same.

    The file of a teacher is left out: a training compares its content (`run.teacher.name_teacher`).

    Args:
        section: `supernet` or `retrain`.
    """
    settings = _without_teachers_file(portable_settings(config))
    training = {name: value for name, value in settings[section].items() if name not in REPORTING}
    return {"seed": config.seed, "space": settings["space"], "data": data_identity(config), section: training}


def _without_teachers_file(settings: dict[str, Any]) -> dict[str, Any]:
    """Remove `retrain.teacher.weights` from plain settings, in place: processes compare what is in the file."""
    if settings["retrain"]["teacher"] is not None:
        del settings["retrain"]["teacher"]["weights"]
    return settings


def without_machine(values: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of plain settings without those that say where and on what machine to work."""
    kept = {name: copy.deepcopy(value) for name, value in values.items() if name not in PLACE_AND_MACHINE}
    if isinstance(kept.get("data"), dict):
        kept["data"] = {name: value for name, value in kept["data"].items() if name not in LOADING}
    return kept


def with_images_of(config: Config, other: Config) -> Config:
    """Return these settings with the images and the machine of others; how images are prepared stays as it is.

    Args:
        config: the settings of a weights file.
        other: the user's settings.
    """
    names = [*IMAGE_PLACE, *LOADING]
    if config.data.value_range == "auto":  # The network saw 8-bit images only; the user says how to convert others.
        names.append("value_range")
    data = config.data.model_copy(update={name: getattr(other.data, name) for name in names})
    machine = {name: getattr(other, name) for name in PLACE_AND_MACHINE}
    return config.model_copy(update={"data": data, **machine})
