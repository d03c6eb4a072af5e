"""The sections of the settings: their units and rules."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from spos_cli.config import loading
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
        ("retrain: {lr: 0.1, min_lr: 0.1}\n", "min_lr (0.1) must be below lr (0.1)"),
        ("retrain: {schedule: step}\n", "schedule: step needs step_every"),
        ("retrain: {step_every: 5}\n", "step_every is for schedule: step, but schedule is linear; remove step_every"),
        ("retrain: {schedule: cosine, step_factor: 0.5}\n", "step_factor is for schedule: step"),
        ("retrain: {schedule: step, step_every: 5, step_factor: 1}\n", "retrain.step_factor: input should be less"),
        ("supernet: {betas: [0.8, 0.99]}\n", "betas is for optimizer: adamw, but optimizer is sgd; remove betas"),
        ("retrain: {optimizer: rmsprop, lr: 0.1, betas: [0.8, 0.9]}\n", "betas is for optimizer: adamw"),
        ("retrain: {optimizer: nesterov, alpha: 0.9}\n", "alpha is for optimizer: rmsprop, but optimizer is nesterov"),
        ("retrain: {eps: 1e-3}\n", "eps is for optimizer: adamw or rmsprop, but optimizer is sgd"),
        (
            "retrain: {optimizer: adamw, lr: 0.1, momentum: 0.8}\n",
            "momentum is for optimizer: sgd or nesterov or rmsprop, but optimizer is adamw",
        ),
        ("retrain: {optimizer: adamw, lr: 0.1, betas: [0.8]}\n", "retrain.betas"),
        ("retrain: {optimizer: adamw, lr: 0.1, betas: [0.8, 1]}\n", "retrain.betas.1: input should be less than 1"),
        ("retrain: {optimizer: rmsprop, lr: 0.1, eps: 0}\n", "retrain.eps: input should be greater than 0"),
        ("retrain: {optimizer: nesterov, momentum: 0}\n", "nesterov needs momentum above 0"),
        ("retrain: {optimizer: adamw}\n", "an update of adamw changes a weight by about lr: set lr, such as 0.001"),
        ("retrain: {loss: focal}\n", "retrain.loss: input should be 'cross_entropy' or 'bce'"),
        ("retrain: {class_weights: [1, 2]}\n", "retrain.class_weights has 2 weights, but space.classes is 1000"),
        ("supernet: {class_weights: [1, -2]}\n", "should be null, balanced or a list of positive numbers"),
        ("supernet: {class_weights: [1, yes]}\n", "should be null, balanced or a list of positive numbers"),
        ("supernet: {class_weights: even}\n", "supernet.class_weights: should be null, balanced or a list"),
        ("supernet: {betas: [0.9]}\n", "supernet.betas: the list has too few values, only 1"),
        ("supernet: {mixup: off}\n", "write null for none (it is False)"),
        ("retrain: {cutmix: 0}\n", "write null for none (it is 0)"),
        ("data: {augmentation: {rand_augment: 9}}\n", "should be a section with the settings ops, magnitude (it is 9)"),
        (
            "retrain: {class_weights: balanced, sampling: balanced}\n",
            "each make up for classes of different sizes; use one of them",
        ),
        (
            "retrain: {stochastic_depth: 0.2}\n",
            "stochastic_depth needs blocks with a shortcut, such as mbconv with stride 1",
        ),
        (
            "space: {stages: [{blocks: 1, channels: 32}], choices: [mbconv: {kernel: 3, expand: 2}]}\n"
            "retrain: {stochastic_depth: 0.2}\n",
            "but the space has none; set retrain.stochastic_depth: 0",
        ),
        ("retrain: {stochastic_depth: 1}\n", "retrain.stochastic_depth: input should be less than 1"),
        ("supernet: {stochastic_depth: 0.2}\n", "unknown setting 'supernet.stochastic_depth'"),
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
        ("retrain: {teacher: {weight: 0.5}}\n", "retrain.teacher.weights: field required"),
        ("retrain: {teacher: model.pt}\n", "retrain.teacher: should be a section with the settings weights"),
        ("retrain: {teacher: {weights: ''}}\n", "should be a file or package.module:function"),
        ("retrain: {teacher: {weights: a, weight: 1.5}}\n", "retrain.teacher.weight: input should be less than"),
        ("retrain: {teacher: {weights: a, temperature: 0}}\n", "retrain.teacher.temperature: input should be greater"),
        ("retrain: {teacher: {weights: a, loss: hard, temperature: 2}}\n", "temperature is for loss: soft"),
        ("retrain: {teacher: {weights: a, presets: spos}}\n", "did you mean 'preset'?"),
        ("supernet: {teacher: {weights: a}}\n", "unknown setting 'supernet.teacher'"),
        ("supernet: {mixup: 0}\n", "supernet.mixup: input should be greater than or equal to 0.001"),
        ("retrain: {cutmix: 101}\n", "retrain.cutmix: input should be less than or equal to 100"),
        ("data: {holdout_per_class: 0}\n", "search.split is holdout, but data.holdout_per_class is 0"),
        (
            "data: {holdout_per_class: 5, holdout_share: 0.1}\n",
            "can be set; set holdout_per_class: null, or",
        ),
        ("data: {holdout_per_class: null}\n", "holdout_per_class and holdout_share are both null"),
        ("data: {holdout_share: 1}\n", "data.holdout_share: input should be less than 1"),
        ("search: {fitness: balanced, racing: 0.01}\n", "does not work with fitness: balanced"),
        ("search: {fitness: f1}\n", "search.fitness: input should be 'top1' or 'balanced'"),
        ("search: {objective: pareto, racing: 0.01}\n", "so it does not work with objective: pareto"),
        ("search: {pareto_cost: latency}\n", "set objective: pareto, or pareto_cost: flops"),
        (
            "search: {objective: pareto, pareto_cost: time}\n",
            "search.pareto_cost: there is no cost 'time'; known: flops, params, bitops, latency; own ones",
        ),
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
            "space: {widths: [0.5, 1]}\nsupernet: {steps: 9, width_warmup_steps: 9, sampler: uniform}\n",
            "width_warmup_steps (9) must be below supernet.steps (9)",
        ),
        (
            "space: {choices: [mbconv: {kernel: 3, expand: 1}], widths: [0.5, 1]}\n",
            "widths need ops with hidden channels, but this space has none",
        ),
        ("supernet: {width_warmup_steps: 9}\n", "width_warmup_steps needs a space with widths"),
        (
            "space: {widths: [0.5, 1]}\nsupernet: {width_warmup_steps: 9}\n",
            "use supernet.sampler: uniform",
        ),
        (
            "space: {widths: [0.5, 1]}\nsupernet: {width_warmup_steps: 9, sampler: sandwich}\n",
            "use supernet.sampler: uniform",
        ),
        ("space: {choices: [{shuffle: {kernel: 4}}]}\n", "kernel must be an odd number"),
        (
            "space: {choices: [{shuffle_xception: {kernel: 3}}]}\n",
            "shuffle_xception takes optionally activation, se, not kernel",
        ),
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
        (f"{ALIASES}space: *a11\n", "space: should be a section with the settings image_size, classes,"),
    ],
    ids=lambda value: value[-40:],
)
def test_each_mistake(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adamw", "rmsprop"])
def test_resolved_settings_of_each_optimizer_can_be_read_again(tmp_path: Path, optimizer: str) -> None:
    """They name all settings, also those that the optimizer does not use."""
    settings = load(tmp_path, "", f"retrain.optimizer={optimizer}", "retrain.lr=0.1", "retrain.schedule=cosine")
    assert load(tmp_path, settings.to_yaml()) == settings


@pytest.mark.parametrize("weights", ["balanced", "null", "[1, 2.5]"])
def test_weights_of_classes_can_be_read_again(tmp_path: Path, weights: str) -> None:
    settings = load(tmp_path, "space: {classes: 2}\n", f"retrain.class_weights={weights}")
    assert settings.retrain.class_weights == {"balanced": "balanced", "null": None}.get(weights, (1, 2.5))
    assert load(tmp_path, settings.to_yaml()) == settings


@pytest.mark.parametrize(("weights", "is_import_path"), [("m.py:f", True), ("a/m.pt", False), ("a:b:c", False)])
def test_a_teacher_can_be_read_again(tmp_path: Path, weights: str, is_import_path: bool) -> None:
    settings = load(tmp_path, "", f"retrain.teacher.weights={weights}", "retrain.teacher.loss=hard")
    assert settings.retrain.teacher is not None
    assert settings.retrain.teacher.is_import_path == is_import_path
    assert load(tmp_path, settings.to_yaml()) == settings


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


def test_a_share_replaces_the_default_number_of_held_out_images() -> None:
    """Resolved settings, which name both, are read again."""
    config = loading.validate({"data": {"holdout_share": 0.1}}, [])
    assert (config.data.holdout_per_class, config.data.holdout_share) == (None, 0.1)
    assert loading.validate(config.dump(), []) == config
    assert (Config().data.holdout_per_class, Config().data.holdout_share) == (50, None)
    changed = loading.validate(Config().dump(), ["data.holdout_share=0.2", "data.holdout_per_class=null"])
    assert changed.data.holdout_share == 0.2
