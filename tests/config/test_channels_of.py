"""`space.channels_of`: the widths of a found architecture's blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from spos_cli.config import loading
from spos_cli.config.schema import Config
from spos_cli.errors import ConfigError
from spos_cli.models.counting import count
from spos_cli.official.golden import WINNER
from spos_cli.space.architecture import Architecture, parse
from spos_cli.space.limits import Limit

# What CanyonWind's channel search found: 328M FLOPs, 74.7 to 74.9 % top-1 (README).
FOUND = parse(
    "0@1.4,0@1.2,3@0.8,1@1.2,1@0.6,1@1.4,0@0.8,0@1.0,2@0.6,0@1.2,2@1.6,1@1.2,1@1.0,0@1.4,2@1.6,0@1.0,2@1.0,1@1.2,3@1.0,2@0.8"
)
BLOCKS = Architecture(FOUND.choices)
SHALLOW = "0,1,0,6,3,0,6,1,5,2,6,6,4,0,6,6,6,1,0,0,0,1"  # of imagenet_mobilenet, with seven identities


def resolve(recipe: str, arch: object, *overrides: str) -> Config:
    overrides = (f"space.channels_of={arch}", *overrides)
    return loading.load(loading.find_config(recipe), overrides)


@pytest.mark.parametrize("recipe", ["imagenet", "imagenet_channels"])
def test_the_architecture_of_the_papers_best_row_is_one_of_its_blocks(recipe: str) -> None:
    """Exactly: the same blocks and widths as in the space of all choices, and the same costs."""
    settings = resolve(recipe, BLOCKS)
    space, whole = settings.space.build(), loading.load(loading.find_config("imagenet_channels")).space.build()
    assert space.size == 10**20
    found = Architecture((0,) * 20, FOUND.widths)
    assert space.network_key(found) == whole.network_key(FOUND)
    costs = count(space)
    assert (costs.flops.of(found), costs.params.of(found)) == (327_857_920, 3_432_579)
    assert settings.name == f"{recipe}-channels-{BLOCKS.id}"
    assert settings.search.flops_limit == Limit(330_000_000)
    assert all(layer.split for layer in space.layers)


def test_the_settings_of_the_run_do_not_depend_on_the_file(tmp_path: Path) -> None:
    """From a file or a literal, they are the same, and what is recorded loads again without the architecture."""
    path = tmp_path / "arch.yaml"
    path.write_text(yaml.safe_dump({"architecture": WINNER.to_list()}))
    settings = resolve("imagenet", path)
    assert settings == resolve("imagenet", WINNER)
    assert "channels_of" not in settings.to_yaml()
    recorded = tmp_path / "config.yaml"
    recorded.write_text(settings.to_yaml())
    path.unlink()
    assert loading.load(recorded) == settings


def test_blocks_without_a_layer_are_left_out_and_those_without_widths_stay() -> None:
    settings = resolve("imagenet_mobilenet", SHALLOW, "space.widths=[0.5,1]")
    space = settings.space.build()
    assert space.num_layers == 22 - 7
    assert space.options.counts == [1, *[2] * 14]  # The first block has no expansion.
    assert space.widths == (500, 1000)
    base = loading.load(loading.find_config("imagenet_mobilenet")).space.build()
    full = space.options.architecture([len(options) - 1 for options in space.options.by_layer])
    assert count(space).flops.of(full) == count(base).flops.of(parse(SHALLOW))


def test_the_warm_up_of_widths_goes_with_the_widths_that_it_adds() -> None:
    more = ("supernet.sampler=uniform", "supernet.width_warmup_steps=75000")
    assert resolve("imagenet", BLOCKS, *more).supernet.width_warmup_steps == 75_000


def test_a_long_name_is_cut() -> None:
    assert len(resolve("imagenet", BLOCKS, f"name={'x' * 100}").name) == 100


def test_usual_widths_that_do_not_fit_are_named() -> None:
    small = ("space.stem.channels=4", "space.stages=[{blocks: 20, channels: 8}]", "supernet.sampler=uniform")
    with pytest.raises(ConfigError, match=r"at least 1; remove that width from 0\.2, .*as space\.widths"):
        resolve("imagenet", BLOCKS, *small)
    assert resolve("imagenet", BLOCKS, *small, "space.widths=[0.5,1]").space.widths == (0.5, 1.0)


@pytest.mark.parametrize(
    ("recipe", "arch", "more", "phrase"),
    [
        ("imagenet", "missing.yaml", {}, "there is no architecture file missing.yaml"),
        ("imagenet", "0,1", {}, "the architecture has 2 layers, the space 20"),
        ("imagenet", FOUND, {}, "has widths already; write its choices only"),
        ("imagenet", ",".join("9" * 20), {}, "layer 0 has choice 9"),
        ("cifar10_nas_bench_macro", "0,0,0,0,0,0,0,0", {}, "has hidden channels, which widths would scale: it has"),
        ("imagenet", BLOCKS, {"widths": [0.001, 1]}, "hidden channels, but it needs at least 1; remove that width"),
    ],
)
def test_what_has_no_channels_to_search(recipe: str, arch: object, more: dict[str, Any], phrase: str) -> None:
    overrides = [f"space.{name}={value}" for name, value in more.items()]
    with pytest.raises(ConfigError, match=phrase) as raised:
        resolve(recipe, arch, *overrides)
    assert "space" in str(raised.value)
    assert "\n" not in str(raised.value)
