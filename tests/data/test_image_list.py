"""Lists of image files: paths, labels, shares, and each mistake with its line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spos_cli.data import datasets
from spos_cli.data.augmentation import Augmentation
from spos_cli.data.cache import ResizedSet, keep_in_memory
from spos_cli.data.image_set import ImageSet
from spos_cli.data.loaders import BadImages, evaluation_batches, training_batches
from spos_cli.data.transforms import EvalTransform, TrainTransform
from spos_cli.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four files in one flat folder."""
    rng = np.random.default_rng(0)
    (tmp_path / "flat").mkdir()
    for name in "dabc":
        Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8)).save(tmp_path / "flat" / f"{name}.png")
    return tmp_path


def read(root: Path, *lines: str, name: str = "train.csv", **settings: str) -> ImageSet:
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return datasets.load("csv", root, "train", **settings)


def test_a_flat_folder_with_labels(root: Path) -> None:
    lines = ("flat/d.png,zebra", '"flat/a.png",ant', "flat/b.png,zebra", "flat/c.png, ant ")
    images = read(root, "path,label", *lines)
    assert images.classes == ("ant", "zebra")
    assert [images.path(index) for index in range(4)] == ["flat/a.png", "flat/c.png", "flat/b.png", "flat/d.png"]
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(images.image(3), np.asarray(Image.open(root / "flat" / "d.png")))
    assert images.contents.tolist() == [(root / "flat" / f"{name}.png").stat().st_size for name in "acbd"]
    assert images.list_notes() == []


def test_several_roots_and_the_home_folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (root / "flat" / "a.png").rename(other / "a.png")
    (root / "flat" / "b.png").rename(root / "b.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(root))
        images = read(root, "path,label", f"{other}/a.png,x", "~/b.png,y", "./flat/../flat/c.png,y")
    assert [images.path(index) for index in range(3)] == [f"{other}/a.png", "b.png", "flat/c.png"]
    assert all(images.image(index).shape == (6, 7, 3) for index in range(3))


def test_names_stay_when_the_root_is_moved(root: Path) -> None:
    lines = ("path,label", "train/a.png,x", f"{root}/train/b.png,y")
    (root / "flat").rename(root / "train")
    images = read(root, *lines)
    assert [images.path(index) for index in range(2)] == ["a.png", "b.png"]


def test_other_columns_and_tabs(root: Path) -> None:
    (root / "list.tsv").write_text("kind\tfile\na\tflat/a.png\nb\tflat/b.png\n")
    settings = {"image_column": "file", "label_column": "kind", "train_list": "list.tsv"}
    assert datasets.load("csv", root, "train", **settings).classes == ("a", "b")


SHARES = ("path,b,a", "flat/c.png,0.3333,0.6666", "flat/b.png,1,", "flat/a.png,0.3,0.7")


def test_shares(root: Path) -> None:
    """The label is the class with the largest share, and the order is by label and name."""
    images = read(root, *SHARES)
    assert images.classes == ("a", "b")
    assert [images.path(index) for index in range(3)] == ["flat/a.png", "flat/c.png", "flat/b.png"]
    assert images.labels.tolist() == [0, 0, 1]
    assert images.shares is not None
    assert images.shares.dtype == np.float32
    assert np.allclose(images.shares, [[0.7, 0.3], [2 / 3, 1 / 3], [0, 1]], atol=1e-4)
    assert np.allclose(images.shares.sum(1), 1)
    assert read(root, "path,label", "flat/a.png,x").shares is None


def test_another_share_is_another_content(root: Path) -> None:
    before, after = read(root, *SHARES), read(root, *SHARES[:3], "flat/a.png,0.4,0.6")
    assert (before.contents != after.contents).tolist() == [True, False, False]
    assert np.array_equal(before.names, after.names)


def test_trainings_get_shares_and_evaluations_labels(root: Path) -> None:
    images, everything = read(root, *SHARES), np.arange(3)
    cached = keep_in_memory(ResizedSet(images, 8), everything, BadImages(0, print))
    assert images.shares is not None
    for source in (images, cached):
        transform = TrainTransform("standard", 6, Augmentation(crop="none", flip=False, jitter=0))
        batches = training_batches(source, everything, transform, seed=0, batch_size=3, first_step=0, last_step=1)
        (_, _, labels), *_ = batches
        assert labels.dtype == torch.float32
        assert sorted(labels.tolist()) == sorted(images.shares.tolist())
    evaluated = evaluation_batches(images, everything, EvalTransform("standard", 6, stored=False), batch_size=3)
    ((_, labels, numbers),) = evaluated
    assert (labels.tolist(), numbers.tolist()) == ([0, 0, 1], [0, 1, 2])
    assert labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("lines", "phrase"),
    [
        (["file,label"], "line 1: there is no column path among file, label; name"),
        (["path,kind"], "line 1: there is no column label among path, kind; name"),
        (["path,label,size"], "line 1: unknown columns size beside path and label"),
        (["path,label,label"], "line 1: two columns have the same name"),
        (["path,label"], "lists no images"),
        ([], "there is no column path"),
        (["path,label", "flat/a.png,"], "line 2: the label is empty"),
        (["path,label", "flat/a.png"], "line 2: the label is empty"),
        (["path,label", ",x"], "line 2: the path is empty"),
        (["path,label", "flat/a.png,x,y"], "line 2: it has more values than there are columns"),
        (["path,label", "flat/a.png,x", "", "./flat/a.png,y"], "line 4: flat/a.png is on line 2 already"),
        (["path,label", "flat/a.png,x", "flat/e.png,y"], "line 3: there is no file flat/e.png"),
        (["path,label", "flat/a\0.png,x"], "line"),
        (["path,label", f"{'a' * 5000},x"], "line 2: there is no file aaa"),
        (["path,label", *(f"{name},x" for name in "pqrst")], "and 2 more lines"),
        (["path,a,b", "flat/a.png,0.5,0.6"], "line 2: the shares of the classes should be from 0 to 1 with a sum of 1"),
        (["path,a,b", "flat/a.png,-1,2"], "line 2: the shares"),
        (["path,a,b", "flat/a.png,nan,1"], "line 2: the shares"),
        (["path,a,b", "flat/a.png,dog,1"], "line 2: the share of a should be a number, not 'dog'"),
        (["path,label", '"flat/a.png,x'], "line"),
    ],
)
def test_mistakes_have_their_lines(root: Path, lines: list[str], phrase: str) -> None:
    with pytest.raises(DataError) as raised:
        read(root, *lines)
    message = str(raised.value)
    assert phrase in message
    assert str(root / "train.csv") in message
    assert "\n" not in message


def test_a_list_that_cannot_be_read(root: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the list .*train\.csv: No such file.*; .*data\.train_list"):
        datasets.load("csv", root, "train")
    (root / "train.csv").write_bytes(b"path,label\n\xff\xfe,x\n")
    with pytest.raises(DataError, match="not UTF-8"):
        datasets.load("csv", root, "train")
    with pytest.raises(DataError, match="cannot read the list of images"):
        datasets.load("csv", root, "train", train_list="a\0b")


def test_a_removed_file_is_bad_and_a_replaced_one_is_another(root: Path) -> None:
    lines = ("path,label", "flat/a.png,x", "flat/b.png,y")
    before = read(root, *lines)
    assert before.contents.min() > 0
    os.utime(root / "flat" / "a.png", ns=(0, 1))
    assert (before.versions != read(root, *lines).versions).tolist() == [[False, True], [False, False]]
    (root / "flat" / "a.png").unlink()
    with pytest.raises(DataError, match=r"cannot read the image .*a\.png"):
        before.image(0)


def test_parquet(root: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"path": ["flat/a.png", "flat/b.png"], "label": ["y", "x"]})
    parquet.write_table(table, root / "train.parquet")
    images = datasets.load("csv", root, "train", train_list="train.parquet")
    assert [images.path(index) for index in range(2)] == ["flat/b.png", "flat/a.png"]
    (root / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"cannot read .*train\.parquet"):
        datasets.load("csv", root, "train", train_list="train.parquet")


def test_parquet_without_pyarrow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"needs pyarrow, which is not installed; pip install 'spos\[parquet\]'"):
        datasets.load("csv", root, "train", train_list="train.parquet")
