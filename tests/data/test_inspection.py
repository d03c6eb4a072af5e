"""Unreadable, duplicate and other files are found in this process and by workers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from spos_cli.data import inspection
from spos_cli.data.folder_set import FolderSet


def all_indices(images: FolderSet) -> inspection.Indices:
    return np.arange(len(images))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_find_the_same(image_root: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "MIN_IMAGES_FOR_WORKERS", 1)
    monkeypatch.setattr(inspection, "IMAGES_PER_TASK", 3)
    train, val = FolderSet(image_root / "train"), FolderSet(image_root / "val")
    for images, name in ((train, "again.jpg"), (val, "copy.jpg"), (val, "copy2.jpg")):
        shutil.copyfile(train.folder / train.paths[7], images.folder / "rocket" / name)
    (val.folder / val.paths[2]).write_bytes(b"no image")
    train, val = FolderSet(image_root / "train"), FolderSet(image_root / "val")
    done: list[int] = []
    pairs = inspection.find_in_both(train, val, all_indices(train), all_indices(val), workers, done.append)
    assert sum(done) == len(train) + len(val)
    same = {
        (train.paths[first], val.paths[second])
        for first in range(len(train))
        for second in range(len(val))
        if (train.folder / train.paths[first]).read_bytes() == (val.folder / val.paths[second]).read_bytes()
    }
    assert len(same) > len(train)  # the fixture has the same images in both sets, some of them twice
    found = [(train.paths[first], val.paths[second]) for first, second in pairs]
    assert set(found) <= same
    assert sorted(second for _, second in found) == sorted({second for _, second in same})
    assert {"rocket/copy.jpg", "rocket/copy2.jpg"} <= {second for _, second in found}

    done.clear()
    ((index, problem),) = inspection.find_unreadable(val, all_indices(val), workers, done.append).items()
    assert index == 2
    assert val.paths[2] in problem
    assert sum(done) == len(val)


def test_files_that_vanish_are_not_the_same(image_root: Path) -> None:
    train, val = FolderSet(image_root / "train"), FolderSet(image_root / "val")
    for images in (train, val):
        (images.folder / images.paths[0]).unlink()
    pairs = inspection.find_in_both(train, val, all_indices(train), all_indices(val))
    assert 0 not in {first for first, _ in pairs} | {second for _, second in pairs}
    assert len(inspection.find_unreadable(val, all_indices(val))) == 1


def test_links_that_lead_in_circles_are_walked_once(image_root: Path) -> None:
    images = FolderSet(image_root / "train")
    for name in images.classes:
        for number in range(3):
            (image_root / "train" / name / f"link{number}").symlink_to(image_root / "train")
    (image_root / "train" / "coffee" / "notes.txt").write_text("no image")
    assert [Path(file).name for file in inspection.find_other_files(images.folder)] == ["notes.txt"]
