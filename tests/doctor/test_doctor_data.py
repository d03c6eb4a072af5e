"""Augmentation, classes and search split: each planted fault is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from spos_cli.doctor import data, disk, speed
from tests.doctor.setups import expect, make_folder_setup, make_setup, save


@pytest.mark.parametrize("full", [False, True])
def test_healthy_class_folders(root: Path, full: bool) -> None:
    assert {finding.status for finding in data.check(make_folder_setup(root, full=full))} == {"ok"}


def test_images_that_cannot_be_opened_are_one_failure(tmp_path: Path) -> None:
    broken = make_folder_setup(tmp_path / "nowhere")
    findings = data.check(broken)
    expect(findings, "images", "fail", "there is no image folder")
    expect(findings, "other image checks", "warn", "not run")
    later = disk.check(broken) + speed.check(broken)
    assert [finding.status for finding in findings + later].count("fail") == 1
    expect(later, "speed", "warn", "loader: not measured")


def test_augmentation_is_described() -> None:
    """That of the retraining, too, if it is another one."""
    both = make_setup("data.augmentation.erasing=0.5", "retrain.augmentation.trivial_augment=true")
    finding = expect(data.check(both), "augmentation", "ok", "erasing 0.5, colour jitter")
    assert "TrivialAugment, erasing 0.5" in finding.seen.partition("; retraining: crop")[2]
    (finding,) = [one for one in data.check(make_setup()) if one.check == "augmentation"]
    assert "retraining" not in finding.seen


def test_an_augmentation_that_loses_the_image() -> None:
    broken = make_setup("retrain.augmentation.padding=8")
    expect(data.check(broken), "augmentation", "fail", "padding is 8")
    broken = make_setup("data.augmentation.padding=8")
    expect(data.check(broken), "augmentation", "fail", "padding is 8")
    expect(speed.check(broken), "speed", "warn", "loader: not measured")


def test_classes_with_other_names(root: Path) -> None:
    (root / "val" / "class9").rename(root / "val" / "class_9")
    finding = expect(data.check(make_folder_setup(root)), "classes", "fail", "1 class only in training: class9")
    assert "1 class only in validation: class_9" in finding.seen


def test_a_class_without_validation_images(root: Path) -> None:
    shutil.rmtree(root / "val" / "class9")
    finding = expect(data.check(make_folder_setup(root)), "classes", "fail", "1 class only in training: class9")
    assert "only in validation" not in finding.seen


def test_another_number_of_classes_than_the_space_has(root: Path) -> None:
    expect(data.check(make_folder_setup(root, "space.classes=12")), "classes", "fail", "set space.classes=10")


def test_a_class_with_few_images(root: Path) -> None:
    for image in range(15, 15 * 11):
        save(root / "train" / "class3" / f"{image}.jpg", 2000 + image)
    findings = data.check(make_folder_setup(root))
    finding = expect(findings, "training images", "warn", "from 15 (class class0) to 165 (class class3)")
    assert "set retrain.class_weights=balanced, or retrain.sampling=balanced" in finding.advice
    assert "fitness" not in finding.advice  # as many images of each class are held out
    expect(findings, "validation images", "ok", "3 per class")
    settings = ["supernet.sampling=balanced", "retrain.class_weights=balanced", "data.holdout_share=0.2"]
    settings.append("data.holdout_per_class=null")
    findings = data.check(make_folder_setup(root, *settings))
    expect(
        findings,
        "training images",
        "warn",
        "small classes; set search.fitness=balanced",
    )
    expect(findings, "search split", "ok", "60 training images are held out (20% of each class)")
    findings = data.check(make_folder_setup(root, *settings, "search.fitness=balanced"))
    expect(findings, "training images", "ok", "to 165")


@pytest.mark.parametrize(
    ("overrides", "status", "phrase"),
    [
        (["data.holdout_per_class=15"], "fail", "data.holdout_per_class is 15"),
        (["data.holdout_per_class=8"], "warn", "lower data.holdout_per_class to at most 7"),
        (["data.holdout_per_class=null", "data.holdout_share=0.54"], "warn", "lower data.holdout_share to at most 0.5"),
        (["search.calibration_batch_size=101"], "fail", "lower search.calibration_batch_size from 101 to at most 100"),
        (["search.split=val"], "warn", "set search.split=holdout"),
        (["search.split=val", "data.holdout_per_class=0"], "warn", "candidates are scored on the validation set"),
    ],
)
def test_splits_that_the_search_cannot_use(root: Path, overrides: list[str], status: str, phrase: str) -> None:
    broken = make_folder_setup(root, *overrides)
    expect(data.check(broken), "search split", status, phrase)
    assert speed.check(broken)[0].status != "fail"
