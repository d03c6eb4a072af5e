"""Rotated images are counted, and the doctor says what happens to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from spos_cli.doctor import data
from tests.doctor.setups import expect, make_folder_setup, make_setup


def rotate(path: Path) -> Path:
    metadata = Image.Exif()
    metadata[0x0112] = 6
    with Image.open(path) as image:
        image.save(path, exif=metadata)
    return path


def test_images_without_exif_are_upright(root: Path) -> None:
    expect(data.check(make_folder_setup(root)), "rotated images", "ok", "none by EXIF among all 180 images")
    expect(data.check(make_setup()), "rotated images", "ok", "in memory")


@pytest.mark.parametrize(
    ("exif", "status", "phrase"),
    [("apply", "ok", "turned upright"), ("ignore", "warn", "set data.exif: apply")],
)
def test_rotated_images(root: Path, exif: str, status: str, phrase: str) -> None:
    rotated = rotate(root / "train" / "class3" / "2.jpg"), rotate(root / "val" / "class5" / "1.jpg")
    findings = data.check(make_folder_setup(root, f"data.exif={exif}"))
    finding = expect(findings, "rotated images", status, phrase)
    assert finding.seen.startswith(f"2 by EXIF among all 180 images: {rotated[0]} (6), {rotated[1]} (6); they ")
