"""How a network's images are prepared, by the settings of its run."""

from __future__ import annotations

from typing import Any

from spos_cli.config.schema import Config
from spos_cli.data.transforms import IMAGENET, IMAGENET_GREY, Normalisation


def make_normalisation(config: Config) -> Normalisation:
    """Return mean and deviation that the settings give; where they give none, those of ImageNet."""
    usual = IMAGENET_GREY if config.space.stem.in_channels == 1 else IMAGENET
    return Normalisation(config.data.mean or usual.mean, config.data.std or usual.std)


def describe_preparation(config: Config) -> dict[str, Any]:
    """Return how images are prepared, in plain types, for readers of a `model.pt` who do not have `spos`."""
    mean, std = map(list, make_normalisation(config)) if config.data.preset == "standard" else (None, None)
    return {
        "preset": config.data.preset,
        "image_size": config.space.image_size,
        "in_channels": config.space.stem.in_channels,
        "exif": config.data.exif,
        "mean": mean,
        "std": std,
    }


def format_setting(value: Any) -> str:
    """Return the value of a setting as in YAML: `null`, `standard`, `[0.5, 0.25]`."""
    return "null" if value is None else str(value)
