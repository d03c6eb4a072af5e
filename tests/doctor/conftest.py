"""A quick and quiet machine for all tests of the doctor, and images in class folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from spos_cli.doctor import speed
from spos_cli.engine import distributed
from tests.doctor.setups import save

CLASSES = [f"class{number}" for number in range(10)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure rates for a moment only, on a machine of two cores without a GPU."""
    monkeypatch.setattr(speed, "MEASURED_SECONDS", 0.05)
    monkeypatch.setattr(distributed, "count_usable_cores", lambda: 2)
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make class folders: 15 training and 3 validation images of each of 10 classes, all different."""
    seeds = iter(range(1000))
    for split, count in (("train", 15), ("val", 3)):
        for name in CLASSES:
            for image in range(count):
                save(tmp_path / "images" / split / name / f"{image}.jpg", next(seeds))
    return tmp_path / "images"
