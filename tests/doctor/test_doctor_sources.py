"""The doctor's checks of images from lists and tar files: each planted fault is found, under its place."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spos_cli.doctor import data
from spos_cli.doctor.setup import Setup
from tests.doctor.setups import expect, make_setup


def make_list_setup(root: Path) -> Setup:
    for split in ("train", "val"):
        files = sorted((root / split).rglob("*.jpg"))
        lines = [f"{file.relative_to(root)},{file.relative_to(root).parts[1]}" for file in files]
        (root / f"{split}.csv").write_text("\n".join(["path,label", *lines]))
    return make_setup("data.source=csv", f"data.root={root}", "data.holdout_per_class=5", full=True)


def make_tar_setup(root: Path) -> Setup:
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}.tar", "w") as archive:
            archive.add(root / split, split)
    return make_setup("data.source=tar", f"data.root={root}", "data.holdout_per_class=5", full=True)


@pytest.mark.parametrize(
    ("make", "train", "val"),
    [
        (make_list_setup, "{root}/train/", "{root}/val/"),
        (make_tar_setup, "{root}/train.tar:train/", "{root}/val.tar:val/"),
    ],
)
def test_faults_are_found(root: Path, make: object, train: str, val: str) -> None:
    assert callable(make)
    train, val = (text.format(root=root) for text in (train, val))
    shutil.copyfile(root / "train" / "class7" / "4.jpg", root / "val" / "class3" / "1.jpg")
    broken = root / "val" / "class4" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60
    Image.fromarray(deep).save(root / "train" / "class5" / "3.jpg", "PNG")
    findings = data.check(make(root))
    copies = expect(findings, "images in both sets", "fail", "1 among all 30 validation and all 150 training images")
    assert f"{val}class3/1.jpg = {train}class7/4.jpg" in copies.seen
    expect(findings, "unreadable images", "fail", f"1 among all 180 images: {val}class4/2.jpg: ")
    expect(findings, "value range", "fail", f"16-bit values from 0 to 3780, such as {train}class5/3.jpg")
    expect(findings, "other files", "ok", "not checked, since all images are in no class folders")


def test_files_of_a_tar_file_that_no_command_uses(root: Path) -> None:
    for name in ("train/class3/1.heic", "train/notes.txt", "val/Thumbs.db"):
        (root / name).write_bytes(b"")
    finding = expect(
        data.check(make_tar_setup(root)), "other files", "warn", "2 files are passed over: 1 .heic, 1 .txt"
    )
    assert "folder" not in finding.advice


@pytest.mark.parametrize("make", [make_list_setup, make_tar_setup])
def test_advice_does_not_speak_of_folders(root: Path, make: object) -> None:
    """Of lists and tar files, nobody can rename or remove folders."""
    assert callable(make)
    for path in sorted((root / "train" / "class3").iterdir())[6:]:
        path.unlink()
    shutil.copytree(root / "val" / "class7", root / "val" / "class10")
    for number in range(5):
        shutil.copytree(root / "train" / "class7", root / "train" / "class10" / str(number))
    findings = data.check(make(root))
    expect(findings, "classes", "fail", "but space.classes is ")
    expect(findings, "training images", "warn", "from ")
    assert not [finding for finding in findings if "folder" in finding.advice]


@pytest.mark.parametrize("make", [make_list_setup, make_tar_setup])
def test_classes_that_differ(root: Path, make: object) -> None:
    assert callable(make)
    (root / "val" / "class3").rename(root / "val" / "class_3")
    finding = expect(data.check(make(root)), "classes", "fail", "1 class only in training: class3")
    assert finding.advice.startswith("name the classes of ")


def test_images_that_cannot_be_opened(root: Path) -> None:
    setup = make_setup("data.source=csv", f"data.root={root}")
    expect(data.check(setup), "images", "fail", "cannot read the list of images")
