"""The shipped recipes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spos_cli.config import loading
from spos_cli.config.schema import Config
from spos_cli.models.counting import count
from spos_cli.space.architecture import parse
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


def test_the_network_of_shufflenet_v2_plus_is_in_its_space() -> None:
    """The architecture of its code has 360M FLOPs and 6.7M parameters, as its README says, with its last gate.

    This gate of 1280 channels has no place in the space.
    """
    space = loading.load(loading.find_config("imagenet_shufflenet_v2_plus")).space.build()
    costs, arch = count(space), parse("0,0,3,1,1,1,0,0,2,0,2,1,1,0,2,0,2,1,3,2")
    gate = 2 * 1280 * 320
    assert (costs.flops.of(arch) + gate) / 1e6 == pytest.approx(360, abs=0.5)
    assert (costs.params.of(arch) + gate) / 1e6 == pytest.approx(6.7, abs=0.1)
    assert all(layer.split for layer in space.layers)


def test_resnet_18_and_34_are_near_those_of_the_space() -> None:
    """With stem and head as they are here, and with other projections; torchvision has 1.814G and 3.664G FLOPs."""
    costs = count(loading.load(loading.find_config("imagenet_resnet")).space.build())
    small, large = parse("0,0,4,0,0,4,4,0,0,4,4,4,4,0,0,4"), parse(",".join("0" * 16))
    assert costs.flops.of(small) / 1e9 == pytest.approx(1.814, rel=0.05)
    assert costs.flops.of(large) / 1e9 == pytest.approx(3.664, rel=0.05)


def test_fbnet_c_is_in_its_space() -> None:
    """The architecture of its code; the paper reports 375M FLOPs and 5.5M parameters."""
    costs = count(loading.load(loading.find_config("imagenet_fbnet")).space.build())
    arch = parse("0,3,8,0,0,7,6,7,3,7,6,7,7,7,7,7,6,7,7,7,7,3")
    assert costs.flops.of(arch) / 1e6 == pytest.approx(375, rel=0.01)
    assert costs.params.of(arch) / 1e6 == pytest.approx(5.5, rel=0.02)
