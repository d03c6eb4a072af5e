"""Data sets of the package `datasets`: saved tables and image folders, columns, splits, and the missing package."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spos_cli.data import datasets
from spos_cli.data.image_set import ImageSet
from spos_cli.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:Cannot (locate|pickle)")  # of dill, which the package uses


def test_the_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the package datasets .*pip install 'spos\[huggingface\]'"):
        datasets.load("huggingface", tmp_path, "train")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The package, which keeps its cache in the test's folder and does not use the network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    package = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return package


def encode(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def save(package: Any, folder: Path, splits: dict[str, dict[str, list[Any]]], **features: Any) -> Path:
    """Save tables; a column of bytes is one of images."""
    tables = {name: package.Dataset.from_dict(columns, package.Features(features)) for name, columns in splits.items()}
    package.DatasetDict(tables).save_to_disk(folder)
    return folder


def load(root: Path, split: Any = "train", **settings: str) -> ImageSet:
    return datasets.load("huggingface", root, split, **settings)


def make_images(*seeds: int, named: bool = False) -> list[dict[str, Any]]:
    return [{"bytes": encode(seed), "path": f"{seed}.png" if named else None} for seed in seeds]


def test_columns_are_found_by_their_types(package: Any, tmp_path: Path) -> None:
    columns = {"id": [5, 6], "picture": make_images(0, 1, named=True), "kind": [1, 0]}
    features = {"id": package.Value("int64"), "picture": package.Image(), "kind": package.ClassLabel(names=["b", "a"])}
    root = save(package, tmp_path / "T", {"train": columns, "test": columns}, **features)
    images = load(root)
    assert images.classes == ("b", "a")
    assert images.labels.tolist() == [1, 0]
    assert [images.path(index) for index in range(2)] == ["a/0.png", "b/1.png"]
    assert images.contents.tolist() == [len(encode(0)), len(encode(1))]
    assert images.read_bytes(1) == encode(1)
    assert np.array_equal(images.image(1), np.asarray(Image.open(io.BytesIO(encode(1)))))
    assert load(root, "val").name == f"{root} (test)"


def test_columns_and_splits_that_settings_name(package: Any, tmp_path: Path) -> None:
    columns = {"x": make_images(0, 1, 2), "y": make_images(3, 4, 5), "kind": ["b", "a", "b"], "number": [0, 2, 1]}
    features = {"x": package.Image(), "y": package.Image(), "kind": package.Value("string")}
    root = save(package, tmp_path / "T", {"first": columns}, **features, number=package.Value("int64"))
    with pytest.raises(DataError, match=r"has no split train; it has first: set data\.train_split"):
        load(root)
    with pytest.raises(DataError, match=r"has 2 columns of type Image \(x, y\); set data\.image_column"):
        load(root, train_split="first")
    with pytest.raises(DataError, match=r"0 columns of type ClassLabel \(x, y, kind, number\); set data\.label_column"):
        load(root, train_split="first", image_column="y")
    with pytest.raises(DataError, match=r"data\.image_column: .* has no column z; it has x, y, kind, number"):
        load(root, train_split="first", image_column="z")
    settings = {"train_split": "first", "image_column": "y"}
    by_name = load(root, **settings, label_column="kind")
    assert (by_name.classes, by_name.labels.tolist()) == (("a", "b"), [1, 0, 1])
    assert by_name.read_bytes(2) == encode(5)
    assert by_name.path(2) == "train/2"
    by_number = load(root, **settings, label_column="number")
    assert (by_number.classes, by_number.labels.tolist()) == (("0", "1", "2"), [0, 2, 1])
    with pytest.raises(DataError, match="column x should be 3 integers"):
        load(root, **settings, label_column="x")
    with pytest.raises(DataError, match=r"column number cannot be read as images: .*; set data\.image_column"):
        load(root, train_split="first", image_column="number", label_column="kind")


def test_an_unreadable_image_and_a_missing_one(package: Any, tmp_path: Path) -> None:
    columns = {"image": [{"bytes": b"no image", "path": None}, *make_images(1)], "label": [0, 1]}
    features = {"image": package.Image(), "label": package.ClassLabel(names=["a", "b"])}
    images = load(save(package, tmp_path / "T", {"train": columns}, **features))
    with pytest.raises(DataError, match=r"cannot read the image .*T \(train\):train/0: cannot identify image"):
        images.image(0)


def test_an_image_folder(package: Any, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        for kind in ("cat", "dog"):
            (tmp_path / "F" / split / kind).mkdir(parents=True)
            (tmp_path / "F" / split / kind / "0.png").write_bytes(encode(len(split + kind)))
    images = load(tmp_path / "F")
    assert images.classes == ("cat", "dog")
    assert [images.path(index) for index in range(2)] == ["cat/0.png", "dog/0.png"]
    assert images.contents.tolist() == [len(encode(len(f"train{kind}"))) for kind in ("cat", "dog")]
    assert load(tmp_path / "F", "val").name == f"{tmp_path}/F (validation)"


def test_what_is_no_data_set(package: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*nowhere; data\.root should be .*hf://NAME"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="cannot load hf://nobody/nothing with the package datasets: "):
        datasets.load("huggingface", "hf://nobody/nothing", "train")
    columns = {"image": make_images(0), "label": [0]}
    features = package.Features({"image": package.Image(), "label": package.ClassLabel(names=["a", "b"])})
    package.Dataset.from_dict(columns, features).save_to_disk(tmp_path / "one")
    with pytest.raises(DataError, match="is one table without splits"):
        load(tmp_path / "one")
