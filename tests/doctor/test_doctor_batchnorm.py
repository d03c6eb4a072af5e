"""BatchNorm in each stage: each planted fault is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from spos_cli.doctor import batchnorm
from tests.doctor.setups import expect, make_folder_setup, make_setup


@pytest.mark.parametrize(
    ("overrides", "stage", "phrase"),
    [
        (["supernet.affine=true"], "supernet", "set supernet.affine=false"),
        (["supernet.batch_size=15"], "supernet", "statistics of 15 images per batch"),
        (["devices=2", "supernet.batch_size=16"], "supernet", "raise supernet.batch_size"),
        (["supernet.accumulate=4"], "supernet", "statistics of 8 images per batch"),
        (["search.calibration_images=256"], "search", "raise search.calibration_images to 320"),
        (["search.calibration_batch_size=8"], "search", "raise search.calibration_batch_size to 16"),
        (["retrain.affine=false"], "retrain", "set retrain.affine=true"),
        (["retrain.batch_size=8"], "retrain", "raise retrain.batch_size"),
    ],
)
def test_faults_of_batchnorm(overrides: list[str], stage: str, phrase: str) -> None:
    expect(batchnorm.check(make_setup(*overrides)), f"BatchNorm: {stage}", "warn", phrase)


def test_calibration_batches_that_the_training_images_do_not_fill(root: Path) -> None:
    phrase = "lower search.calibration_batch_size to 20: only 100 images"
    expect(batchnorm.check(make_folder_setup(root)), "BatchNorm: search", "warn", phrase)
    enough = make_folder_setup(root, "search.calibration_batch_size=20")
    expect(batchnorm.check(enough), "BatchNorm: search", "ok", "5 batches of 20")


def test_batchnorm_is_described() -> None:
    findings = batchnorm.check(make_setup("search.calibration_momentum=0.1", "retrain.batchnorm_pass_steps=0"))
    expect(findings, "BatchNorm: search", "ok", "momentum 0.1 over 5 batches of 64")
    expect(findings, "BatchNorm: retrain", "ok", "final pass to recompute them: none")
