"""`data.source`: its values, the settings of one source, and what a weights file may not ask for."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from spos_cli.config import identity
from spos_cli.config.data import SETTINGS_OF_SOURCES, SOURCES, DataConfig
from spos_cli.config.schema import Config
from spos_cli.data import datasets
from spos_cli.data.place import Place
from spos_cli.errors import ConfigError
from tests.config.yaml_texts import load

VALUES = {"val_share": 0.3}  # of settings that are not text


def test_settings_and_data_know_the_same_sources() -> None:
    assert set(SOURCES) == datasets.SOURCES.keys()
    names = {field.name for field in fields(Place)} - {"decoding"}
    assert {"source", *names} == set(identity.IMAGE_PLACE)
    defaults = {name: DataConfig.model_fields[name].default for name in names}
    assert defaults == {name: getattr(Place(), name) for name in names}


@pytest.mark.parametrize(
    ("source", "kind"),
    [("csv", "csv"), ("torchvision:DTD", "torchvision"), ("my_package.data:Photos", "own"), ("photos:make", "own")],
)
def test_sources(tmp_path: Path, source: str, kind: str) -> None:
    data = load(tmp_path, "", f"data.source={source}").data
    assert (data.source, data.source_kind) == (source, kind)


@pytest.mark.parametrize(
    ("source", "phrase"),
    [
        ("floder", "not 'floder'; did you mean 'folder'?"),
        ("webdataset", "should be 'folder', 'csv', 'tar'"),
        ("torchvision:/", "'torchvision:NAME' or your own 'package.module:name', not 'torchvision:/'"),
        ("a b:c", "not 'a b:c'"),
        ("[csv]", "not ['csv']"),
        ("null", "not None"),
        ("x" * 5000, "not 'xxx"),
    ],
)
def test_what_is_no_source(tmp_path: Path, source: str, phrase: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, "", f"data.source={source}")
    assert phrase in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("name", SETTINGS_OF_SOURCES)
def test_a_setting_of_another_source(tmp_path: Path, name: str) -> None:
    value, of = VALUES.get(name, "x"), SETTINGS_OF_SOURCES[name]
    other = "digits" if "folder" in of else "folder"
    with pytest.raises(ConfigError, match=rf"{name} is for source: .*, but source is {other}; set {name}: "):
        load(tmp_path, "", f"data.{name}={value}", f"data.source={other}")
    source = {"torchvision": "torchvision:DTD"}.get(of[0], of[0])
    settings = load(tmp_path, "", f"data.{name}={value}", f"data.source={source}")
    assert getattr(settings.data, name) == value
    assert identity.data_identity(settings) != identity.data_identity(load(tmp_path, "", f"data.source={source}"))


@pytest.mark.parametrize(
    ("overrides", "phrase"),
    [
        (["data.source=torchvision:DTD", "data.root=/elsewhere"], "downloaded to; if that is right, give --set"),
        (["data.source=huggingface", "data.root=hf://x/y"], "would be downloaded; if that is right, give --set"),
    ],
)
def test_a_weights_file_does_not_start_a_download(tmp_path: Path, overrides: list[str], phrase: str) -> None:
    with pytest.raises(ConfigError, match=phrase):
        load(tmp_path, "", *overrides).require_root_here("the settings in the weights file")
    Config().require_root_here("the settings in the weights file")


def test_a_weights_file_does_not_name_code_to_import(tmp_path: Path) -> None:
    settings = load(tmp_path, "", "data.source=evil:Photos")
    with pytest.raises(ConfigError, match=r"name a data set to import: evil:Photos; .*--config"):
        settings.require_known_source("folder", "the settings in the weights file")
    settings.require_known_source("evil:Photos", "the settings in the weights file")
    Config().require_known_source("csv", "the settings in the weights file")


@pytest.mark.parametrize(
    ("overrides", "phrase"),
    [
        (["data.val_share=0"], "greater than 0"),
        (["data.val_share=1"], "less than 1"),
        (
            ["data.val_share=0.2", "data.val_folder=v"],
            r"val_share \(0\.2\) and val_folder \('v'\) both .*val_folder: val",
        ),
    ],
)
def test_what_is_no_share_for_validation(tmp_path: Path, overrides: list[str], phrase: str) -> None:
    with pytest.raises(ConfigError, match=phrase):
        load(tmp_path, "", *overrides)
