"""The sections of the settings: their units and rules."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from spos_cli.config.schema import Config
from spos_cli.config.section import Section
from spos_cli.errors import ConfigError
from tests.config.yaml_texts import ALIASES, load


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("supernet: {steps: 5}\nsupernet: {steps: 6}\n", "x.yaml:2: supernet is given twice"),
        ("a: [1,\n", "not valid YAML"),
        ("- 1\n", "expected a mapping"),
        ("seed: -1\n", "seed"),
        ("seed: .nan\n", "seed"),
        ("supernet: {steps: 10, warmup_steps: 10}\n", "warmup_steps (10) must be below steps (10)"),
        ("search: {population: 10, mutations: 6, crossovers: 6}\n", "must not exceed population (10)"),
        (
            "data: {augmentation: {erasing: 1.1}}\n",
            "augmentation.erasing: input should be less than or equal",
        ),
        ("data: {augmentation: {ratio: [2, 1]}}\n", "low at most high, not [2, 1]"),
        ("data: {augmentation: {ratio: [0, 1]}}\n", "both above 0"),
        ("data: {augmentation: {ratio: [1, 1, 1]}}\n", "data.augmentation.ratio"),
        ("data: {augmentation: {rand_augment: {magnitude: 31}}}\n", "rand_augment.magnitude: input should be less"),
        ("data: {augmentation: {rand_augment: {op: 3}}}\n", "did you mean 'ops'?"),
        ("data: {augmentation: {rand_augment: {}, trivial_augment: true}}\n", "only one of them can be set"),
        ("data: {augmentation: {policy: stronger}}\n", "data.augmentation.policy: input should be 'paper', 'light' or"),
        ("data: {augmentation: {policy: [strong]}}\n", "data.augmentation.policy"),
        ("retrain: {augmentation: {erasing: -1}}\n", "retrain.augmentation.erasing: input should be greater"),
        ("retrain: {augmentation: {erase: 1}}\n", "did you mean 'erasing'?"),
        ("retrain: {augmentation: strong}\n", "retrain.augmentation"),
        ("supernet: {mixup: 0}\n", "supernet.mixup: input should be greater than or equal to 0.001"),
        ("retrain: {cutmix: 101}\n", "retrain.cutmix: input should be less than or equal to 100"),
        ("data: {holdout_per_class: 0}\n", "search.split is holdout, but data.holdout_per_class is 0"),
        ("search: {objective: pareto, racing: 0.01}\n", "so it does not work with objective: pareto"),
        ("search: {algorithm: random, predictor: ridge}\n", "does not work with algorithm: random"),
        ("search: {calibration_momentum: 0}\n", "search.calibration_momentum"),
        ("search: {flops_limit: lots}\n", "search.flops_limit"),
        ("space: {stages: [{blocks: 2, channels: 33}]}\n", "33"),
        ("space: {stages: [{blocks: 2, chanels: 32}]}\n", "did you mean 'channels'?"),
        ("space: {choices: [{shuffle: {kernel: 3}}, {shuffle: {kernel: 3}}]}\n", "space"),
        ("space: {choices: [shuffel]}\n", "there is no op 'shuffel'"),
        ("space: {widths: [1.0, 0.5]}\n", "widths must be strictly increasing, got 1.0, 0.5"),
        ("space: {widths: 0.5}\n", "space.widths: input should be a list (it is 0.5)"),
        (
            "space: {widths: [0.5, wide]}\n",
            "widths: 'wide' is not a width; write multiples of 0.001 such as 0.8 or 1.4",
        ),
        ("space: {widths: [0.01, 1]}\n", "layer 0: width 0.01 gives shuffle 3x3 0 of 32 hidden channels"),
        (
            "space: {widths: [0.5, 1]}\nsupernet: {steps: 9, width_warmup_steps: 9, sampler: fair}\n",
            "width_warmup_steps (9) must be below supernet.steps (9)",
        ),
        (
            "space: {choices: [mbconv: {kernel: 3, expand: 1}], widths: [0.5, 1]}\n",
            "widths need ops with hidden channels, but this space has none",
        ),
        ("supernet: {width_warmup_steps: 9}\n", "width_warmup_steps needs a space with widths"),
        (
            "space: {widths: [0.5, 1]}\nsupernet: {width_warmup_steps: 9}\n",
            "use supernet.sampler: uniform or fair",
        ),
        ("space: {choices: [{shuffle: {kernel: 4}}]}\n", "kernel must be an odd number"),
        ("space: {choices: [{shuffle_xception: {kernel: 3}}]}\n", "shuffle_xception takes no parameters, not kernel"),
        (
            "supernet: {flops_bins: {low: 400M}}\n",
            "must divide the range from low to high, got width 10,000,000",
        ),
        ("supernet: {steps: yes}\n", "should be a number, not true"),
        ("devices: true\n", "should be auto, cpu or a number of processes"),
        ("seed: !!int ''\n", "not valid YAML"),
        ("name: ../../etc\n", "name"),
        ("supernet: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("a: &a [*a]\n", "unknown setting 'a'"),
        (f"{ALIASES}devices: *a11\n", "devices: should be auto, cpu or a number of processes, not [["),
        (f"{ALIASES}search: {{images: *a11}}\n", "search.images: input should be a valid integer (it is [["),
        (f"{ALIASES}space: *a11\n", "space: input should be a valid dictionary or instance of SpaceConfig (it is [["),
    ],
    ids=lambda value: value[-40:],
)
def test_each_mistake(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)


def test_every_field_says_what_it_is() -> None:
    def walk(section: type[Section]) -> None:
        for name, field in section.model_fields.items():
            kind = field.annotation
            inner = [one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, Section)]
            for one in inner:
                walk(one)
            if kind not in inner:
                assert field.description, f"{section.__name__}.{name}"

    walk(Config)
