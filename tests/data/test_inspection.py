"""Unreadable, duplicate and other files are found in this process and by workers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from spos_cli.data import inspection
from spos_cli.data.folder_set import FolderSet
from spos_cli.data.image_set import END_BYTES


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
    groups = inspection.find_equal([(train, all_indices(train)), (val, all_indices(val))], workers, done.append)
    assert sum(done) == len(train) + len(val)
    content = [[(images.folder / path).read_bytes() for path in images.paths] for images in (train, val)]
    expected = set()
    for one in {*content[0], *content[1]}:
        group = tuple(tuple(index for index, other in enumerate(part) if other == one) for part in content)
        if sum(map(len, group)) > 1:
            expected.add(group)
    assert len(expected) == 19  # all but the one that is broken; one of them has three copies more
    assert {tuple(map(tuple, group)) for group in groups} == expected
    assert len(groups) == len(expected)

    done.clear()
    ((index, problem),) = inspection.find_unreadable(val, all_indices(val), workers, done.append).items()
    assert index == 2
    assert val.paths[2] in problem
    assert sum(done) == len(val)


def test_files_that_vanish_are_not_the_same(image_root: Path) -> None:
    train, val = FolderSet(image_root / "train"), FolderSet(image_root / "val")
    for images in (train, val):
        (images.folder / images.paths[0]).unlink()
    groups = inspection.find_equal([(train, all_indices(train)), (val, all_indices(val))])
    assert groups
    assert 0 not in {index for group in groups for part in group for index in part}
    assert len(inspection.find_unreadable(val, all_indices(val))) == 1


def test_a_file_is_read_as_a_whole_only_if_another_has_its_size_and_end(
    image_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_root / "train" / "coffee"
    end = bytes(END_BYTES)
    for name, content in {"a": b"1" * 9 + end, "b": b"2" * 9 + end, "c": b"1" * 9 + end, "d": b"1" * 8 + end}.items():
        (folder / f"{name}.jpg").write_bytes(content)
    images, read = FolderSet(image_root / "train"), []
    digest = inspection._digest
    monkeypatch.setattr(inspection, "_digest", lambda one, index: read.append(index) or digest(one, index))
    (group,) = inspection.find_equal([(images, all_indices(images))])
    assert [images.paths[index] for index in group[0]] == ["coffee/a.jpg", "coffee/c.jpg"]
    assert {images.paths[index] for index in read} == {f"coffee/{name}.jpg" for name in "abc"}


def test_links_that_lead_in_circles_are_walked_once(image_root: Path) -> None:
    images = FolderSet(image_root / "train")
    for name in images.classes:
        for number in range(3):
            (image_root / "train" / name / f"link{number}").symlink_to(image_root / "train")
    (image_root / "train" / "coffee" / "notes.txt").write_text("no image")
    assert [Path(file).name for file in inspection.find_other_files(images.folder)] == ["notes.txt"]
