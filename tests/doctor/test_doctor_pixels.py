"""Rotated images are counted, and mean and deviation are measured."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from spos_cli.doctor import data, pixels
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


@pytest.mark.parametrize(("exif", "listed"), [("apply", 5), ("ignore", 7)])
def test_all_rotated_images_are_listed_only_if_something_is_to_do(root: Path, exif: str, listed: int) -> None:
    rotated = [str(rotate(root / "train" / "class3" / f"{number}.jpg")) for number in range(7)]
    findings = data.check(make_folder_setup(root, f"data.exif={exif}", full=True))
    (finding,) = [finding for finding in findings if finding.check == "rotated images"]
    assert sum(f"{path} (6)" in finding.seen for path in rotated) == listed


def test_mean_and_deviation_are_measured(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all pixels of the images as they are in the files, which have the network's size."""
    paths = sorted(root.glob("train/*/*.jpg"))
    paths[7].write_bytes(b"no image")
    values = np.stack([np.asarray(Image.open(path)) for path in paths if path != paths[7]]) / 255
    finding = expect(data.check(make_folder_setup(root)), "mean and deviation", "ok", "in all 150 training images")
    measured = {name: yaml.safe_load(text) for name, text in re.findall(r"data\.(\w+): (\[.*?\])", finding.seen[:90])}
    np.testing.assert_allclose(measured["mean"], values.mean((0, 1, 2)), atol=6e-4)
    np.testing.assert_allclose(measured["std"], values.std((0, 1, 2)), atol=6e-4)
    assert "; used: data.mean: [0.485, 0.456, 0.406], data.std: [0.229" in finding.seen

    own = [f"data.{name}={numbers}" for name, numbers in measured.items()]
    expect(
        data.check(make_folder_setup(root, *own)),
        "mean and deviation",
        "ok",
        f"used: data.mean: [{measured['mean'][0]}",
    )
    findings = data.check(make_folder_setup(root, "data.preset=spos"))
    expect(findings, "mean and deviation", "ok", "not used, since preset spos")
    monkeypatch.setattr(pixels, "MEASURED_SAMPLE", 20)
    expect(data.check(make_folder_setup(root)), "mean and deviation", "ok", "in 20 of 150 training images")
