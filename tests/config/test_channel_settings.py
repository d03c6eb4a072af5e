"""Settings that go together with the channels of the images, and those that do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from spos_cli.config.identity import portable_settings
from spos_cli.errors import ConfigError
from tests.config.yaml_texts import load

OF_FIVE = (
    "space.stem.in_channels=5",
    "data.preset=standard",
    "data.mean=[0.5, 0.5, 0.5, 0.5, 0.5]",
    "data.std=[0.2, 0.2, 0.2, 0.2, 0.2]",
    "data.augmentation.jitter=0",
)
GREY = ("space.stem.in_channels=1", "data.preset=standard")


def test_grey_images_need_two_settings(tmp_path: Path) -> None:
    settings = load(tmp_path, "", *GREY)
    assert settings.space.build().in_channels == 1
    assert portable_settings(settings) != portable_settings(load(tmp_path, "", "data.preset=standard"))
    load(tmp_path, "", *GREY, "data.source=cifar10", "data.augmentation.trivial_augment=true", "data.mean=[0.4]")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("space.stem.in_channels=0",), r"space\.stem\.in_channels.*1"),
        (("space.stem.in_channels=17",), r"space\.stem\.in_channels.*16"),
        (("space.stem.in_channels=1",), r"spos is the official preparation.*set data\.preset: standard"),
        ((*GREY, "data.std=[0.2, 0.2, 0.2]"), r"data\.std has 3 values, but space\.stem\.in_channels is 1"),
        ((*GREY, "data.augmentation.grayscale=0.2"), r"data\.augmentation\.grayscale changes colours.*grayscale: 0"),
        (OF_FIVE[:2], r"data\.mean has no default.*5 numbers each"),
        (OF_FIVE[:3], r"data\.std has no default.*spos doctor"),
        (OF_FIVE[:4], r"data\.augmentation\.jitter changes colours.*set data\.augmentation\.jitter: 0"),
        ((*OF_FIVE, "data.source=cifar10"), r"cifar10 has grey or colour images.*in_channels: 1 or 3"),
        (
            (*OF_FIVE, "retrain.augmentation.policy=strong"),
            r"retrain\.augmentation\.trivial_augment changes colours.*trivial_augment: false",
        ),
        (
            (*OF_FIVE, "data.augmentation.rand_augment.ops=2", "data.augmentation.grayscale=1"),
            r"grayscale and rand_augment change colours.*grayscale: 0, data\.augmentation\.rand_augment: null",
        ),
        (
            (*OF_FIVE, "retrain.teacher.weights=x.pt", "retrain.teacher.preset=spos"),
            r"set retrain\.teacher\.preset: standard",
        ),
    ],
)
def test_what_does_not_go_together_is_one_message(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, "", *overrides)


def test_the_advice_for_five_channels_works(tmp_path: Path) -> None:
    settings = load(tmp_path, "", *OF_FIVE, "retrain.augmentation.policy=light")
    assert settings.space.build().in_channels == 5
    assert load(tmp_path, settings.to_yaml()) == settings
