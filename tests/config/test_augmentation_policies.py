"""Augmentation in the settings: policies, and what a retraining takes over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from spos_cli.config import identity, loading
from spos_cli.config.data import POLICIES, AugmentationConfig
from spos_cli.config.schema import Config
from spos_cli.errors import ConfigError
from tests.config.yaml_texts import load

OFFICIAL = {"crop": "random_resized", "min_scale": 0.08, "flip": True, "jitter": 0.4}
OFF = {"vertical_flip": False, "grayscale": 0.0, "rand_augment": None, "trivial_augment": False, "erasing": 0.0}


def fields(config: Config, section: str = "data") -> dict[str, Any]:
    augmentation = getattr(config, section).augmentation
    assert isinstance(augmentation, AugmentationConfig)
    return augmentation.model_dump()


def expect(config: Config, section: str = "data", **expected: Any) -> None:
    found = fields(config, section)
    assert {name: found[name] for name in expected} == expected


def test_nothing_is_new_by_default() -> None:
    expect(Config(), policy=None, ratio=(3 / 4, 4 / 3), padding=4, **OFFICIAL, **OFF)
    assert Config().retrain.augmentation is None


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("paper", {**OFFICIAL, **OFF}),
        ("light", {"crop": "padded", "flip": False, "jitter": 0.0, **OFF}),
        ("strong", {**OFF, "crop": "padded", "flip": False, "jitter": 0.0, "trivial_augment": True, "erasing": 0.1}),
    ],
)
def test_a_policy_sets_what_it_documents(tmp_path: Path, policy: str, expected: dict[str, Any]) -> None:
    """`paper` sets the crop and mirroring too, if the file does not; the others leave both as they are."""
    geometry = "" if policy == "paper" else ", crop: padded, flip: false"
    config = load(tmp_path, f"data: {{augmentation: {{policy: {policy}{geometry}}}}}\n")
    expect(config, policy=policy, **expected)


def test_the_file_and_the_command_line_win_over_a_policy(tmp_path: Path) -> None:
    text = "data: {augmentation: {policy: strong, jitter: 0.2}}\n"
    config = load(tmp_path, text, "data.augmentation.erasing=0.3")
    expect(config, jitter=0.2, erasing=0.3, trivial_augment=True)
    expect(load(tmp_path, text, "data.augmentation.policy=light"), jitter=0.2, erasing=0.0, trivial_augment=False)


def test_a_strong_policy_leaves_trivial_augment_out_where_rand_augment_is_set(tmp_path: Path) -> None:
    config = load(tmp_path, "data: {augmentation: {policy: strong, rand_augment: {ops: 3}}}\n")
    expect(config, rand_augment={"ops": 3, "magnitude": 9}, trivial_augment=False, erasing=0.1)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_policy_survives_print_config(tmp_path: Path, policy: str) -> None:
    config = load(tmp_path, f"data: {{augmentation: {{policy: {policy}, erasing: 0.2, crop: padded}}}}\n",
                  f"retrain.augmentation.policy={policy}")  # fmt: skip
    again = loading.validate(yaml.safe_load(config.to_yaml()))
    assert again == config
    expect(again, policy=policy, erasing=0.2, crop="padded")


def test_the_name_of_a_policy_is_not_what_a_result_depends_on(tmp_path: Path) -> None:
    named = load(tmp_path, "data: {augmentation: {policy: strong}}\n")
    spelled = load(tmp_path, "data: {augmentation: {jitter: 0, trivial_augment: true, erasing: 0.1}}\n")
    assert identity.portable_settings(named) == identity.portable_settings(spelled)
    assert identity.portable_settings(named) != identity.portable_settings(Config())
    assert named != spelled


def test_a_retraining_takes_over_what_it_does_not_set(tmp_path: Path) -> None:
    text = "data: {augmentation: {crop: padded, padding: 2, flip: false, jitter: 0}}\n"
    config = load(tmp_path, text, "retrain.augmentation.trivial_augment=true")
    expect(config, "retrain", crop="padded", padding=2, flip=False, jitter=0.0, trivial_augment=True, erasing=0.0)
    expect(config, "data", trivial_augment=False)
    strong = load(tmp_path, text, "retrain.augmentation.policy=strong")
    expect(strong, "retrain", crop="padded", padding=2, flip=False, trivial_augment=True, erasing=0.1, policy="strong")
    assert load(tmp_path, text).retrain.augmentation is None
    alone = load(tmp_path, "retrain: {augmentation: {erasing: 0.5}}\n")
    expect(alone, "retrain", **OFFICIAL, **{**OFF, "erasing": 0.5})


def test_a_retraining_may_replace_the_way_to_draw_operations(tmp_path: Path) -> None:
    text = "data: {{augmentation: {{{}}}}}\nretrain: {{augmentation: {{{}}}}}\n"
    trivial = load(tmp_path, text.format("rand_augment: {}", "trivial_augment: true"))
    expect(trivial, "retrain", rand_augment=None, trivial_augment=True)
    rand = load(tmp_path, text.format("policy: strong", "rand_augment: {ops: 1}"))
    expect(rand, "retrain", rand_augment={"ops": 1, "magnitude": 9}, trivial_augment=False, erasing=0.1, policy=None)
    expect(load(tmp_path, text.format("policy: strong", "policy: paper")), "retrain", **OFFICIAL, **OFF)


def test_a_mistake_in_what_is_taken_over_is_reported_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "data: {augmentation: {erasing: 2}}\nretrain: {augmentation: {jitter: 0.1}}\n")
    assert str(caught.value).count("less than or equal to 1") == 1


def test_the_supernet_does_not_depend_on_the_augmentation_of_the_retraining(tmp_path: Path) -> None:
    other = load(tmp_path, "", "retrain.augmentation.policy=strong")
    assert identity.training_identity(other, "supernet") == identity.training_identity(Config(), "supernet")
    assert identity.training_identity(other, "retrain") != identity.training_identity(Config(), "retrain")
    assert identity.data_identity(other) == identity.data_identity(Config())
