"""How a setting's value is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from spos_cli.config.identity import portable_settings
from spos_cli.config.schema import Config
from spos_cli.errors import ConfigError
from tests.config.yaml_texts import load


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("auto", "auto"),
        ("dtype", "dtype"),
        ("[0, 4095]", (0, 4095)),
        ("[-1000.0, 3000]", (-1000, 3000)),
        ("[0.25, 1e3]", (0.25, 1000)),
    ],
)
def test_a_range_of_values(tmp_path: Path, text: str, value: object) -> None:
    settings = load(tmp_path, "", f"data.value_range={text}")
    assert settings.data.value_range == value
    assert load(tmp_path, settings.to_yaml()) == settings
    assert portable_settings(settings) != portable_settings(Config()) or value == "auto", "results depend on it"


@pytest.mark.parametrize(
    "text", ["true", "4095", "[0]", "[0, 1, 2]", "[1, 1]", "[2, 1]", "[0, .nan]", "[0, .inf]", "[0, 1e99]", "[no, yes]"]
)
def test_what_is_no_range_of_values(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.value_range: should be auto, dtype or two numbers"):
        load(tmp_path, "", f"data.value_range={text}")


STANDARD = "data: {preset: standard}\n"


@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize(("text", "value"), [("null", None), ("[0.5, 1, 0.25]", (0.5, 1.0, 0.25))])
def test_mean_and_deviation(tmp_path: Path, name: str, text: str, value: object) -> None:
    settings = load(tmp_path, STANDARD, f"data.{name}={text}")
    assert getattr(settings.data, name) == value
    assert load(tmp_path, settings.to_yaml()) == settings
    same = portable_settings(settings) == portable_settings(load(tmp_path, STANDARD))
    assert same == (value is None), "results depend on it"


@pytest.mark.parametrize(
    "text",
    ["0.5", "[]", "true", "[0.5, no, 0.5]", "[0.5, .nan, 0.5]", "[0.5, 0, -0.1]", "[124, 116, 104]", "[a]"],
)
@pytest.mark.parametrize("name", ["mean", "std"])
def test_what_is_no_mean_or_deviation(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{name}: should be null or a list of numbers from 0(\.001)? to 1"):
        load(tmp_path, STANDARD, f"data.{name}={text}")


def test_mean_and_deviation_that_do_not_fit(tmp_path: Path) -> None:
    assert load(tmp_path, STANDARD, "data.mean=[0, 0, 0]").data.mean == (0, 0, 0)
    for values in ("[0.2, 0, 0.2]", "[0.2, 0.0001, 0.2]"):
        with pytest.raises(ConfigError, match=r"data\.std: should be null or a list of numbers from 0\.001"):
            load(tmp_path, STANDARD, f"data.std={values}")
    with pytest.raises(ConfigError, match=r"data\.std has 2 values, but space\.stem\.in_channels is 3"):
        load(tmp_path, STANDARD, "data.std=[0.2, 0.2]")
    with pytest.raises(ConfigError, match=r"mean and std are for preset standard.*set preset: standard"):
        load(tmp_path, "", "data.mean=[0.5, 0.5, 0.5]", "data.std=[0.5, 0.5, 0.5]")


def test_off_is_off(tmp_path: Path) -> None:
    """YAML reads it as false."""
    text = "search: {amp: off}\nretrain: {compile: off}\n"
    settings = load(tmp_path, text, "supernet.amp=off", "supernet.gradient_compression=off")
    assert (settings.search.amp, settings.retrain.compile, settings.supernet.amp) == ("off", "off", "off")
    assert yaml.safe_load(settings.to_yaml())["search"]["amp"] == "off"
