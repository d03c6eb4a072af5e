"""Class folders and arrays as image sets; everything wrong with one is a DataError that names it."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs
from torchvision.datasets import ImageFolder

from spos_cli.data import datasets, inspection
from spos_cli.data.array_set import ArraySet
from spos_cli.data.class_checks import check_classes, require_classes
from spos_cli.data.folder_set import OUTSIDE_CLASSES, FolderSet, describe_kinds
from spos_cli.data.image_set import GONE, ImageSet, hash_each
from spos_cli.data.splits import holdout
from spos_cli.errors import DataError

PHOTO = photographs.astronaut()[:60, :80]


def tree(root: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 2) -> Path:
    """A folder of JPEG photographs in the layout of ImageNet."""
    for split in ("train", "val"):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(each):
                Image.fromarray(PHOTO).save(folder / f"{number}.JPEG", quality=95)
    return root


def test_folder_tree(tmp_path: Path) -> None:
    images = datasets.load("folder", tree(tmp_path, ("zebra", "ant", "ünï cödé")), "train")
    assert images.classes == ("ant", "zebra", "ünï cödé")
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images.path(3) == "zebra/1.JPEG"
    pixels = images.image(3)
    assert (pixels.shape, pixels.dtype) == ((60, 80, 3), np.uint8)
    assert np.abs(pixels.astype(int) - PHOTO).mean() < 5


def test_files_tell_their_size_and_time(tmp_path: Path) -> None:
    root = tree(tmp_path)
    path = root / "train" / "dog" / "1.JPEG"
    images = datasets.load("folder", root, "train")
    before = images.versions.copy()
    assert images.contents.tolist() == [(root / "train" / images.path(index)).stat().st_size for index in range(4)]
    os.utime(path, ns=(0, 123_456_789_000_000_001))
    after = datasets.load("folder", root, "train").versions
    assert (before != after).tolist() == [[False, False]] * 3 + [[False, True]]
    assert after[3, 1] == 123_456_789_000_000_001
    images = datasets.load("folder", root, "train")
    path.unlink()
    assert images.contents.tolist() == [*before[:3, 0], GONE]


def test_images_in_memory_tell_their_pixels(tmp_path: Path) -> None:
    images = datasets.load("digits", tmp_path, "train")
    assert isinstance(images, ArraySet)
    other = images.pixels.copy()
    other[7, 3, 3] ^= 1
    changed = ArraySet(images.name, images.classes, other, images.labels)
    assert np.flatnonzero(images.contents != changed.contents).tolist() == [7]
    assert np.array_equal(images.names, changed.names)


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no image folder .*train"):
        datasets.load("folder", tmp_path / "nowhere", "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        datasets.load("folder", tmp_path, "train")
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(DataError, match="no images for 1 of 1 class: empty"):
        datasets.load("folder", tmp_path, "train")


def list_pairs(images: ImageSet) -> list[tuple[str, int]]:
    """Return the path and the label of each image."""
    return [(images.path(index), int(label)) for index, label in enumerate(images.labels)]


def test_undivided_folders_are_divided_for_good(tmp_path: Path) -> None:
    root = tree(tmp_path, ("cat", "dog"), 10).joinpath("train")
    for number in range(2):
        Image.fromarray(PHOTO).save(root / "dog" / f"{number}.png")
    (root / "dog" / "0.heic").write_bytes(b"")
    settings = {"train_folder": ".", "val_share": 0.2}
    train, val = (datasets.load("folder", root, split, **settings) for split in ("train", "val"))  # type: ignore[arg-type]
    assert (np.bincount(train.labels).tolist(), np.bincount(val.labels).tolist()) == ([8, 10], [2, 2])
    parts = [{path for path, _ in list_pairs(images)} for images in (train, val)]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == 22
    for images in (train, val):
        assert all(path.startswith(images.classes[label]) for path, label in list_pairs(images))
        assert images.names.tolist() == hash_each(path.encode() for path, _ in list_pairs(images)).tolist()
    assert (train.name, val.name) == (f"the training part of {root}", f"the validation part of {root}")
    notes = [f"{root}: 1 file is passed over: 1 .heic; convert .heic to .jpg to use these photographs"]
    assert (train.list_notes(), val.list_notes()) == (notes, [])
    held_out = {train.path(index) for index in holdout(train, 2)[1].tolist()}
    assert held_out < parts[0]
    (root / min(parts[0] - held_out)).unlink()
    again = datasets.load("folder", root, "val", **settings)
    assert {path for path, _ in list_pairs(again)} == parts[1]


def test_classes_that_cannot_be_divided(tmp_path: Path) -> None:
    root = tree(tmp_path, ("cat", "dog"), 2).joinpath("train")
    assert len(datasets.load("folder", root, "val", train_folder=".", val_share=0.01)) == 2
    assert len(datasets.load("folder", root, "train", train_folder=".", val_share=0.99)) == 2
    (root / "cat" / "0.JPEG").unlink()
    with pytest.raises(DataError, match=r"1 class has one image only, so none is left for validation \(cat\); add"):
        datasets.load("folder", root, "train", train_folder=".", val_share=0.2)


def test_one_undivided_class_is_told_once(tmp_path: Path) -> None:
    settings = {"train_folder": ".", "val_share": 0.5}
    root = tree(tmp_path, ("cat",)).joinpath("train")
    sets = [datasets.load("folder", root, split, **settings) for split in ("train", "val")]  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"^[^ ]* has only 1 class \(cat\); put"):
        require_classes(*sets)


def test_undivided_folders_get_advice(tmp_path: Path) -> None:
    root = tree(tmp_path).joinpath("train")
    with pytest.raises(DataError, match=r"if cat, dog in .*, set data\.train_folder=\. and data\.val_share=0\.2"):
        datasets.load("folder", root, "train")
    (tmp_path / "val").rename(tmp_path / "other")
    with pytest.raises(DataError, match=r"no image folder .*val;.*or set data\.val_share=0\.2"):
        datasets.load("folder", tmp_path, "val")


def test_classes_are_compared(tmp_path: Path) -> None:
    one = datasets.load("folder", tree(tmp_path / "a"), "train")
    other = datasets.load("folder", tree(tmp_path / "b", ("cat", "cow")), "val")
    with pytest.raises(
        DataError, match="only in training: dog; 1 class only in validation: cow; name the class folders"
    ):
        check_classes(one, other, 2)
    with pytest.raises(DataError, match=r"has 2 classes \(cat, dog\), but space\.classes is 3; set space\.classes: 2"):
        check_classes(one, one, 3)
    many = datasets.load("digits", ".", "train")
    with pytest.raises(DataError, match=r"has 10 classes \(0, 1, 2, 3, 4, \.\.\.\), but space\.classes is 3") as raised:
        check_classes(many, many, 3)
    assert "folders" not in str(raised.value)
    check_classes(one, one, 2)


def test_a_folder_is_read_as_torchvision_does(image_root: Path) -> None:
    (image_root / "train" / "chelsea" / "notes.txt").write_text("not an image")
    (image_root / "train" / "chelsea" / "1.JPEG").rename(image_root / "train" / "chelsea" / "ä.JPEG")
    images, oracle = datasets.load("folder", image_root, "train"), ImageFolder(image_root / "train")
    assert images.classes == tuple(oracle.classes) == ("astronaut", "chelsea", "coffee", "rocket")
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == oracle.targets
    for index, (file, _) in enumerate(oracle.samples):
        assert images.path(index) == str(Path(file).relative_to(image_root / "train"))
        assert np.array_equal(images.image(index), np.asarray(oracle[index][0]))


def test_one_class_is_refused(tmp_path: Path) -> None:
    """Every network is right about a single class."""
    one, two = (datasets.load("folder", tree(tmp_path / str(n), ("cat", "dog")[:n]), "train") for n in (1, 2))
    for train, val in ((one, one), (one, two), (two, one)):
        with pytest.raises(DataError, match=r"has only 1 class \(cat\); put the images of each class into .*<class>/"):
            check_classes(train, val, 1)


def test_nested_folders_are_named(tmp_path: Path) -> None:
    nested = tree(tmp_path / "train" / "images").rename(tmp_path / "moved")  # moved/train/cat, moved/val/cat
    (tmp_path / "D" / "train" / "a").mkdir(parents=True)
    (nested / "train").rename(tmp_path / "D" / "train" / "a" / "b")
    (tmp_path / "D" / "train" / ".cache").mkdir()
    train = datasets.load("folder", tmp_path / "D", "train")
    val = datasets.load("folder", nested, "val")
    for other in (val, train):
        with pytest.raises(DataError, match=r"holds only one folder, a/b, which holds cat, dog; ") as raised:
            require_classes(other, train)
        assert str(raised.value).endswith("set data.train_folder: train/a/b")
    below = datasets.load("folder", tmp_path / "D", "train", train_folder="train/a/b")
    check_classes(below, val, 2)


def test_a_link_that_leads_back_is_not_a_nested_folder(tmp_path: Path) -> None:
    tree(tmp_path, ("cat",))
    for path in (tmp_path / "train" / "cat").iterdir():
        path.rename(tmp_path / "train" / path.name)
    (tmp_path / "train" / "cat" / "again").symlink_to(tmp_path / "train")
    with pytest.raises(DataError, match="only 1 class"):
        require_classes(datasets.load("folder", tmp_path, "train"))


@pytest.mark.parametrize(
    "hidden", ["cat/._0.JPEG", "cat/.0.JPEG", ".ipynb_checkpoints/0.JPEG", "cat/.ipynb_checkpoints/0-checkpoint.JPEG"]
)
def test_hidden_files_and_folders_are_left_out(tmp_path: Path, hidden: str) -> None:
    before = FolderSet(tree(tmp_path / ".data") / "train")
    (tmp_path / ".data" / "train" / hidden).parent.mkdir(exist_ok=True)
    Image.fromarray(PHOTO).save(tmp_path / ".data" / "train" / hidden)
    after = FolderSet(tmp_path / ".data" / "train")
    assert (after.classes, after.paths) == (before.classes, before.paths) == (("cat", "dog"), after.paths)
    assert len(after) == 4
    assert inspection.find_other_files(after.folder) == []


@pytest.mark.parametrize(
    "ending", [".eps", ".ps", ".pdf", ".wmf", ".emf", ".icns", ".ico", ".psd", ".svg", ".h5", ".heic"]
)
def test_other_kinds_are_counted_and_never_opened(tmp_path: Path, ending: str) -> None:
    folder = tree(tmp_path, each=1) / "train"
    for place in ("cat", "cat/deep", "dog", ".hidden", "dog/.hidden", "."):
        for name in (f"file{ending}", f".file{ending}", "Thumbs.db"):
            (folder / place / name).parent.mkdir(exist_ok=True)
            (folder / place / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    images = FolderSet(folder)
    assert images.other_files == {ending: 3, OUTSIDE_CLASSES: 1}
    assert describe_kinds(images.other_files) == f"3 {ending}, 1 in no class folder"
    assert sum(images.other_files.values()) == len(inspection.find_other_files(images.folder))
    assert len(images) == 2


def test_many_kinds_are_cut_short() -> None:
    files = Counter({f".{letter}": 10 - rank for rank, letter in enumerate("abcdefgh")})
    assert describe_kinds(files) == "10 .a, 9 .b, 8 .c, 7 .d, 6 .e and 12 more"


def test_a_class_of_another_kind_only_says_which(tmp_path: Path) -> None:
    tree(tmp_path)
    for path in (tmp_path / "train" / "dog").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(DataError, match=r"no images for 1 of 2 classes: dog; of other kinds: 2 \.heic; put .*\.avif"):
        FolderSet(tmp_path / "train")


def test_one_class_without_images_is_named(image_root: Path) -> None:
    (image_root / "train" / "empty one").mkdir()
    with pytest.raises(DataError, match="no images for 1 of 5 classes: empty one;"):
        datasets.load("folder", image_root, "train")
