"""Copies of images: in both sets, and within the training images."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from spos_cli.data.array_set import ArraySet
from spos_cli.data.folder_set import FolderSet
from spos_cli.doctor import copies, data
from tests.doctor.setups import expect, make_folder_setup, make_setup, save


@pytest.mark.parametrize("full", [False, True])
def test_images_in_both_sets(root: Path, full: bool) -> None:
    copy, original = root / "val" / "class3" / "1.jpg", root / "train" / "class7" / "4.jpg"
    shutil.copyfile(original, copy)
    findings = data.check(make_folder_setup(root, full=full))
    finding = expect(findings, "images in both sets", "fail", "1 among all 30 validation and all 150 training images")
    assert f"{copy} = {original}" in finding.seen


def test_a_few_images_in_both_sets_are_a_warning(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MAX_SHARE_IN_BOTH", 0.05)
    for count, status in ((1, "warn"), (2, "fail")):
        shutil.copyfile(root / "train" / "class7" / "4.jpg", root / "val" / "class3" / f"{count}.jpg")
        expect(data.check(make_folder_setup(root)), "images in both sets", status, f"{count} among all 30")


def test_images_in_both_sets_in_memory() -> None:
    copied = make_setup()
    train, val = copied.images.train, copied.images.val
    assert isinstance(train, ArraySet)
    assert isinstance(val, ArraySet)
    val.pixels = val.pixels.copy()
    val.pixels[5] = train.pixels[3]
    expect(data.check(copied), "images in both sets", "fail", "digits/val/5 = digits/train/3")


def test_a_compared_sample_is_reported(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "COMPARED_SAMPLE", (20, 10))
    phrase = "none among 10 of 30 validation and 20 of 150 training images (--full compares all)"
    expect(data.check(make_folder_setup(root)), "images in both sets", "ok", phrase)
    findings = data.check(make_folder_setup(root, full=True))
    expect(findings, "images in both sets", "ok", "none among all 30 validation and all 150")


def test_each_training_image_twice(root: Path) -> None:
    for path in sorted((root / "train").glob("*/*.jpg")):
        shutil.copyfile(path, path.with_name(f"{path.stem}_copy.jpg"))
    doubled = make_folder_setup(root, full=True)
    held_out = set(doubled.images.splits[1].tolist())
    train = doubled.images.train
    assert isinstance(train, FolderSet)
    index_of = {path: index for index, path in enumerate(train.paths)}
    pairs = [
        (index, index_of[path.replace(".jpg", "_copy.jpg")]) for path, index in index_of.items() if "_" not in path
    ]
    split = sum((one in held_out) != (other in held_out) for one, other in pairs)
    assert 0 < split < len(held_out)
    finding = expect(data.check(doubled), "training copies", "fail", "150 copies among all 300 training images")
    assert f"{split} held-out images with a copy that is trained on" in finding.seen
    assert finding.seen.count("\n") == 150
    assert finding.seen.count("(held out and trained on)") == split
    assert "different classes" not in finding.seen


def test_copies_on_one_side_only_are_a_warning(root: Path) -> None:
    setup = make_folder_setup(root)
    train = setup.images.train
    assert isinstance(train, FolderSet)
    first, second = (root / "train" / train.paths[index] for index in setup.images.splits[0][:2])
    shutil.copyfile(first, second)
    finding = expect(data.check(make_folder_setup(root)), "training copies", "warn", "1 copy among all 150")
    assert f": {first} = {second}" in finding.seen
    assert "held" not in finding.seen


def test_equal_images_in_different_classes(root: Path) -> None:
    setup = make_folder_setup(root)
    train = setup.images.train
    assert isinstance(train, FolderSet)
    trained = [root / "train" / train.paths[index] for index in setup.images.splits[0]]
    first, second = trained[0], next(path for path in trained if path.parent != trained[0].parent)
    shutil.copyfile(first, second)
    finding = expect(
        data.check(make_folder_setup(root)), "training copies", "warn", "2 equal images in different classes"
    )
    assert "(in class0 and class1)" in finding.seen
    assert "keep the one in the right class" in finding.advice


def test_a_sample_has_both_images_of_a_pair(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the share of copies in a sample is about that in all images, where single images would miss most pairs."""
    for image in range(150):
        path = root / "train" / f"class{image % 10}" / f"{image // 10}.jpg"
        save(path, 3000 + image)
        path.write_bytes(path.read_bytes() + bytes(2 * image))  # a size that only its copy has
        shutil.copyfile(path, path.with_name(f"{path.stem}_copy.jpg"))
    monkeypatch.setattr(copies, "COMPARED_SAMPLE", (30, 10))
    finding = expect(data.check(make_folder_setup(root)), "training copies", "fail", "among 30 of 300 training images")
    assert int(finding.seen.split()[0]) >= 10, finding
