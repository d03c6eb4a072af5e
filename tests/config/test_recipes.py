"""The shipped recipes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spos_cli.config import loading
from spos_cli.config.schema import Config
from spos_cli.space.limits import Limit
from tests.config.yaml_texts import load


@pytest.mark.parametrize("name", sorted(loading.list_recipes()))
def test_shipped_recipes_load(name: str) -> None:
    settings = loading.load(loading.find_config(name))
    assert settings.name == name
    assert settings.space.build().num_layers > 0


def test_imagenet_recipe_is_the_papers() -> None:
    settings = loading.load(loading.list_recipes()["imagenet"])
    supernet, search, retrain = settings.supernet, settings.search, settings.retrain
    assert (supernet.steps, supernet.batch_size, supernet.lr, supernet.schedule) == (
        150_000,
        1024,
        0.5,
        "linear",
    )
    assert (retrain.steps, retrain.batch_size, retrain.lr, retrain.schedule) == (300_000, 1024, 0.5, "linear")
    for training in (supernet, retrain):
        assert (training.momentum, training.weight_decay, training.label_smoothing) == (0.9, 4e-5, 0.1)
    bins = supernet.flops_bins
    assert (bins.low, bins.high, bins.width) == (290_000_000, 360_000_000, 10_000_000)
    assert supernet.sampler == "flops_bins"
    assert (search.population, search.generations, search.parents) == (50, 20, 10)
    assert (search.mutations, search.crossovers, search.mutation_probability) == (25, 25, 0.1)
    assert (search.flops_limit, search.split) == (Limit(330_000_000), "holdout")
    assert search.calibration_images == 2_560  # not 20,000: measured to be as close as the official 200 batches
    assert (supernet.affine, retrain.affine, settings.data.holdout_per_class) == (False, True, 50)
    assert settings == Config(name="imagenet", data=settings.data)  # the defaults say the same


def test_official_recipe_differs_where_the_official_code_does() -> None:
    """Every field that is not the paper's, and no other one."""
    paper, code = (loading.load(loading.list_recipes()[name]).dump() for name in ("imagenet", "imagenet_published"))
    assert dict(differences(paper, code)) == {
        "name": "imagenet_published",
        "data.holdout_per_class": 0,  # the supernet sees all training images
        "supernet.schedule_first": 1,  # stepped before the update
        "search.split": "val",
        "search.images": 40 * 200,
        "search.calibration_images": 200 * 128,
        "search.calibration_momentum": 0.1,
        "retrain.schedule_first": 1,
        "retrain.evaluate_every": 10_000,
        "retrain.batchnorm_pass_steps": 1_280_000 // 1024,
    }


def differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in other.items():
        if isinstance(value, dict):
            yield from differences(one[key], value, f"{prefix}{key}.")
        elif one[key] != value:
            yield prefix + key, value


def test_what_is_printed_loads_again(tmp_path: Path) -> None:
    for name, path in loading.list_recipes().items():
        settings = loading.load(path)
        assert load(tmp_path, settings.to_yaml()) == settings, name
