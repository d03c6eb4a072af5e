"""Other and unreadable files: each planted fault is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from spos_cli.data.folder_set import FolderSet
from spos_cli.doctor import data, image_files, speed
from spos_cli.doctor.setup import Setup
from tests.doctor.setups import expect, make_folder_setup, save


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
    assert "convert" not in finding.advice


def test_photographs_to_convert(root: Path) -> None:
    for name in ("1.HEIC", "2.heic", "3.mov"):
        (root / "train" / "class1" / name).write_bytes(b"")
    finding = expect(data.check(make_folder_setup(root)), "other files", "warn", "3 files that no command uses")
    assert "(2 .heic, 1 .mov)" in finding.seen
    assert "convert .heic to .jpg" in finding.advice


def test_one_folder_for_both_sets(root: Path) -> None:
    (root / "train" / "class1" / "1.heic").write_bytes(b"")
    findings = data.check(make_folder_setup(root, "data.val_share=0.2"))
    expect(findings, "training images", "ok", "120 in 10 classes, 12 per class")
    expect(findings, "validation images", "ok", "30 in 10 classes, 3 per class")
    expect(findings, "other files", "warn", "1 file that no command uses")
    expect(findings, "images in both sets", "ok", "none")
