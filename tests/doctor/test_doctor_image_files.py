"""Other, duplicate and unreadable files: each planted fault is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from spos_cli.data.array_set import ArraySet
from spos_cli.data.folder_set import FolderSet
from spos_cli.doctor import data, image_files, speed
from spos_cli.doctor.setup import Setup
from tests.doctor.setups import expect, make_folder_setup, make_setup, save


@pytest.mark.parametrize("full", [False, True])
def test_images_in_both_sets(root: Path, full: bool) -> None:
    copy, original = root / "val" / "class3" / "1.jpg", root / "train" / "class7" / "4.jpg"
    shutil.copyfile(original, copy)
    findings = data.check(make_folder_setup(root, full=full))
    finding = expect(findings, "images in both sets", "fail", "1 among all 30 validation and all 150 training images")
    assert f"{copy} = {original}" in finding.seen


def test_a_few_images_in_both_sets_are_a_warning(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_SHARE_IN_BOTH", 0.05)
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
    monkeypatch.setattr(image_files, "COMPARED_SAMPLE", {"train": 20, "val": 10})
    phrase = "none among 10 of 30 validation and 20 of 150 training images (--full compares all)"
    expect(data.check(make_folder_setup(root)), "images in both sets", "ok", phrase)
    findings = data.check(make_folder_setup(root, full=True))
    expect(findings, "images in both sets", "ok", "none among all 30 validation and all 150")


def tear(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:200])
    return path


def list_trained_files(setup: Setup) -> list[Path]:
    """List the files of the training images that are not held out."""
    train = setup.images.train
    assert isinstance(train, FolderSet)
    return [train.folder / train.paths[index] for index in setup.images.splits[0]]


@pytest.mark.parametrize(("allowed", "status"), [(7, "warn"), (6, "fail")])
def test_training_images_that_cannot_be_read(root: Path, allowed: int, status: str) -> None:
    broken = make_folder_setup(root, f"data.bad_images={allowed}")
    torn = [tear(path) for path in list_trained_files(broken)[:7]]
    finding = expect(data.check(broken), "unreadable images", status, "7 among all 180 images: ")
    assert str(torn[4]) in finding.seen
    assert str(torn[5]) not in finding.seen
    assert " and 2 more" in finding.seen
    is_measured = "not measured" not in speed.check(broken)[0].seen
    assert is_measured == (status == "warn")
    findings = data.check(make_folder_setup(root, full=True))
    (finding,) = [finding for finding in findings if finding.check == "unreadable images"]
    assert all(f"\n{path}: " in finding.seen for path in torn)


def test_a_held_out_image_that_cannot_be_read(root: Path) -> None:
    train = make_folder_setup(root).images
    assert isinstance(train.train, FolderSet)
    held_out = tear(root / "train" / train.train.paths[train.splits[1][3]])
    expect(data.check(make_folder_setup(root)), "unreadable images", "fail", str(held_out))


def test_a_validation_image_that_cannot_be_read(root: Path) -> None:
    broken = make_folder_setup(root)
    path = tear(root / "val" / "class4" / "2.jpg")
    expect(data.check(broken), "unreadable images", "fail", f"1 among all 180 images: {path}")
    expect(speed.check(broken), "speed", "warn", "loader: not measured")


def test_the_sample_stands_for_all_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the 10 sampled images means about 15 of all 150; `data.bad_images` allows 15 or 14."""
    monkeypatch.setattr(image_files, "DECODED_SAMPLE", 10)
    for allowed, status in ((15, "warn"), (14, "fail")):
        broken = make_folder_setup(root, f"data.bad_images={allowed}")
        train = broken.images.train
        assert isinstance(train, FolderSet)
        sampled = set(image_files.draw_sample(broken, "train", train, 10).tolist())
        sampled &= set(broken.images.splits[0].tolist())  # not a held-out image, which is never tolerated
        (root / "train" / train.paths[min(sampled)]).write_bytes(b"no image")
        expect(data.check(broken), "unreadable images", status, "1 among 20 of 180 images")


def test_full_reads_what_a_sample_misses(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "DECODED_SAMPLE", 10)
    sampled = set(image_files.draw_sample(make_folder_setup(root), "train", FolderSet(root / "train"), 10).tolist())
    missed = next(index for index in range(150) if index not in sampled)
    (root / "train" / FolderSet(root / "train").paths[missed]).write_bytes(b"no image")
    expect(
        data.check(make_folder_setup(root)), "unreadable images", "ok", "none among 20 of 180 images (--full reads all)"
    )
    findings = data.check(make_folder_setup(root, "data.bad_images=0", full=True))
    expect(findings, "unreadable images", "fail", "1 among all 180 images")


@pytest.mark.parametrize("name", ["train/class1/picture.svg", "val/class2/picture", "train/0.jpg"])
def test_other_files(root: Path, name: str) -> None:
    save(root / name, 5000)
    for harmless in ("train/.DS_Store", "train/class1/Thumbs.db"):
        (root / harmless).write_bytes(b"")
    finding = expect(data.check(make_folder_setup(root)), "other files", "warn", "1 file that no command uses")
    assert str(root / name) in finding.seen
