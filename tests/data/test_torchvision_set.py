"""Data sets of torchvision by name, from files in their layouts; none is downloaded."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision
from PIL import Image

from spos_cli.data import datasets
from spos_cli.data.array_set import ArraySet
from spos_cli.data.file_images import FileImages
from spos_cli.data.torchvision_set import DATA_SETS
from spos_cli.errors import DataError


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)).save(path)


@pytest.mark.parametrize("name", DATA_SETS)
def test_all_names_are_known_to_torchvision(name: str) -> None:
    assert name in torchvision.datasets.__all__


def test_dtd(tmp_path: Path) -> None:
    """Labels come from lists in text files, and no image is opened."""
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        names = [f"{kind}/{kind}_{split}{index}.jpg" for kind in ("banded", "woven") for index in range(count)]
        for name in names:
            (tmp_path / "dtd" / "dtd" / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "dtd" / "dtd" / "images" / name).write_bytes(b"no image")
        (tmp_path / "dtd" / "dtd" / "labels").mkdir(exist_ok=True)
        (tmp_path / "dtd" / "dtd" / "labels" / f"{split}1.txt").write_text("\n".join(names) + "\n")
    for split, expected in (("train", 6), ("val", 2)):
        images = datasets.load("torchvision:DTD", tmp_path, split)
        assert len(images) == expected
        assert images.classes == ("banded", "woven")
        assert images.labels.tolist() == [0] * (expected // 2) + [1] * (expected // 2)
    assert images.path(0) == "banded/banded_test0.jpg"
    assert datasets.load("torchvision:DTD", tmp_path, "val", val_split="val").path(0) == "banded/banded_val0.jpg"
    with pytest.raises(DataError, match=r"data\.val_split: DTD has no split tset: .*train.*val.*test"):
        datasets.load("torchvision:DTD", tmp_path, "val", val_split="tset")
    with pytest.raises(DataError, match=r"cannot read the image .*banded_test0\.jpg"):
        images.image(0)


def test_gtsrb(tmp_path: Path) -> None:
    """Its classes have no names."""
    for label in (0, 12):
        for index in range(2):
            save(tmp_path / "gtsrb" / "GTSRB" / "Training" / f"{label:05}" / f"{index}.ppm", label + index)
    images = datasets.load("torchvision:GTSRB", tmp_path, "train")
    assert isinstance(images, FileImages)
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.classes == ("0", "1")
    assert images.path(3) == "00012/1.ppm"
    assert images.image(3).shape == (6, 7, 3)


def test_svhn_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its digit 0 has the label 10 in the file."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 5), np.uint8)
    for split in ("train", "test"):
        labels = np.array([[1], [10], [2], [3], [9]], np.uint8)
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": labels})
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)
    images = datasets.load("torchvision:SVHN", tmp_path, "val")
    assert isinstance(images, ArraySet)
    assert images.labels.tolist() == [1, 0, 2, 3, 9]
    assert len(images.classes) == 10
    assert np.array_equal(images.image(2), pixels[..., 2])


def test_an_undivided_set_is_divided_for_good(tmp_path: Path) -> None:
    for kind in ("Forest", "River"):
        for index in range(20):
            save(tmp_path / "eurosat" / "2750" / kind / f"{kind}_{index}.png", index)
    train, val = (datasets.load("torchvision:EuroSAT", tmp_path, split) for split in ("train", "val"))
    assert np.bincount(train.labels).tolist() == [16, 16]
    assert np.bincount(val.labels).tolist() == [4, 4]
    paths = [{images.path(index) for index in range(len(images))} for images in (train, val)]
    assert not paths[0] & paths[1]
    assert len(paths[0] | paths[1]) == 40
    (tmp_path / "eurosat" / "2750" / min(paths[0])).unlink()
    again = datasets.load("torchvision:EuroSAT", tmp_path, "val")
    assert {again.path(index) for index in range(len(again))} == paths[1]
    with pytest.raises(DataError, match=r"EuroSAT has no splits.*remove data\.train_split"):
        datasets.load("torchvision:EuroSAT", tmp_path, "train", train_split="train")


@pytest.mark.parametrize(
    ("name", "settings", "phrase"),
    [
        ("Contry211", {}, "no classification data set Contry211; did you mean Country211?"),
        ("mnist", {}, "did you mean .*MNIST"),
        ("Unheard", {}, "known: CIFAR10, CIFAR100, CLEVRClassification"),
        ("CocoDetection", {}, "CocoDetection is not a classification data set"),
        ("ImageFolder", {}, "use source: folder"),
        ("MNIST", {"train_split": "val"}, r"data\.train_split: MNIST has the splits train and test, not val"),
        ("OxfordIIITPet", {}, "cannot get OxfordIIITPet .*no network.*put its files"),
        ("ImageNet", {}, "cannot get ImageNet .*put its files"),
    ],
)
def test_mistakes(tmp_path: Path, name: str, settings: dict[str, str], phrase: str) -> None:
    with pytest.raises(DataError, match=phrase) as raised:
        datasets.load(f"torchvision:{name}", tmp_path, "train", **settings)
    assert "\n" not in str(raised.value)
