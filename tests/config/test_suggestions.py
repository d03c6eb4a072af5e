"""A name that no setting has: suggestions by meaning, by place, by letters, or none."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from spos_cli.config.suggestions import ADVICE, SYNONYMS, _list_settings, suggest_setting
from spos_cli.errors import ConfigError
from tests.config.yaml_texts import load


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("supernet.stepz", "did you mean 'steps'?"),
        ("supernet.batchsize", "did you mean 'batch_size'?"),
        ("supernet.Batch-Size", "did you mean 'batch_size'?"),
        ("supernet.learning_rate", "did you mean 'lr'?"),
        ("retrain.num_workers", "did you mean 'data.workers'?"),
        ("retrain.workers", "did you mean 'data.workers'?"),
        ("supernet.holdout_per_class", "did you mean 'data.holdout_per_class'?"),
        ("lr", "did you mean 'supernet.lr' or 'retrain.lr'?"),
        ("learning_rate", "did you mean 'supernet.lr' or 'retrain.lr'?"),
        ("max_flops", "did you mean 'search.flops_limit'?"),
        ("search.iterations", "did you mean 'generations'?"),
        ("supernet.iterations", "did you mean 'steps'?"),
        ("data.augmentation.rotate", "did you mean 'rand_augment' or 'trivial_augment'?"),
        ("mean", "did you mean 'data.mean'?"),
        ("retrain.std", "did you mean 'data.std'?"),
        ("data.normalize", "did you mean 'data.preset' or 'data.mean' or 'data.std'?"),
        ("data.jitter", "did you mean 'data.augmentation.jitter' or 'retrain.augmentation.jitter'?"),
        ("data.validation_split", "did you mean 'data.val_share' or 'data.holdout_share'?"),
        ("retrain.epochs", "set steps to epochs * training images / batch_size"),
        ("retrain.pretrained", "--init FILE"),
        ("retrain.weights", "--init FILE"),
        ("retrain.early_stopping", "did you mean 'patience'?"),
        ("supernet.patience", "did you mean 'retrain.patience'?"),
        ("retrain.save_best", "did you mean 'keep_best'?"),
        ("search.resume", "the same command resumes"),
    ],
)
def test_a_name_of_this_meaning(name: str, hint: str) -> None:
    assert hint in suggest_setting(name.split("."))


@pytest.mark.parametrize("name", ["quantum", "tricks", "flip_it", "x", "compiler_backend"])
@pytest.mark.parametrize("section", ["", "supernet.", "data.augmentation.", "search."])
def test_no_suggestion_is_better_than_one_by_chance(section: str, name: str) -> None:
    hint = suggest_setting(f"{section}{name}".split("."))
    assert hint.startswith("known here: ")
    assert {"": "name", "supernet.": "steps", "data.augmentation.": "crop", "search.": "population"}[section] in hint


def test_an_unknown_name_inside_a_value_or_a_list() -> None:
    assert suggest_setting(("space", "stages", "0", "chanels")) == "did you mean 'channels'?"
    assert suggest_setting(("retrain", "teacher", "temp")).startswith("known here: weights, ")


def test_each_suggestion_exists_and_no_word_is_a_setting() -> None:
    settings = list(_list_settings())
    known = {".".join(key) for key in settings} | {key[-1] for key in settings}
    assert set(itertools.chain(*SYNONYMS.values())) <= known
    words = [*itertools.chain(*SYNONYMS), *itertools.chain(*ADVICE)]
    assert len(words) == len(set(words))


def test_a_suggestion_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'data\.workers'\?"):
        load(tmp_path, "", "retrain.num_workers=3")
    assert load(tmp_path, "", "data.workers=3").data.workers == 3
