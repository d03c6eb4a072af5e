"""Stored training images are those that would be decoded each time, to the bit, and so are the batches."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from spos_cli.data import resized
from spos_cli.data.datasets import ArraySet, ImageSet, Pixels, load
from spos_cli.data.loaders import BadImages, training_batches
from spos_cli.data.resized import ResizedSet, StoredSet
from spos_cli.data.transforms import Augmentation, TrainTransform
from spos_cli.errors import DataError
from tests.data.conftest import as_torchvision
from tests.data.test_loaders import same

INDICES = np.flatnonzero(np.arange(20) % 7)
SHORT = 37


@pytest.fixture
def images(image_root: Path) -> ResizedSet:
    """Twenty JPEGs of 60 to 64 rows by 80 columns."""
    return ResizedSet(load("folder", image_root, "train"), SHORT)


def none_is_bad() -> BadImages:
    return BadImages(0, lambda problem: None)


def stored(images: ResizedSet, kind: str, folder: Path, bad: BadImages | None = None, workers: int = 0) -> StoredSet:
    bad = none_is_bad() if bad is None else bad
    if kind == "ram":
        return resized.keep_in_memory(images, INDICES, bad, workers=workers)
    resized.write(folder / "store" / "train.u8", images, INDICES, bad, workers=workers)
    found = resized.read(folder / "store" / "train.u8", images, INDICES)
    assert found is not None
    return found


def batches(images: ImageSet, bad: BadImages | None = None, workers: int = 0) -> list[Any]:
    transform = TrainTransform("spos", 32, Augmentation())
    options: dict[str, Any] = {"seed": 1, "batch_size": 6, "first_step": 0, "last_step": 9, "workers": workers}
    return list(training_batches(images, INDICES, transform, bad_images=bad, **options))


def test_resize_is_torchvisions(photographs: dict[str, Pixels]) -> None:
    for photo in photographs.values():
        for pixels in (photo, np.ascontiguousarray(photo.transpose(1, 0, 2)), photo[:50, :70], photo[:30, :20]):
            image = ResizedSet(ArraySet("one", ("a",), pixels[None], [0]), SHORT).image(0)
            if min(pixels.shape[:2]) <= SHORT:
                assert np.array_equal(image, pixels)
            else:
                oracle = v2.functional.resize(torch.from_numpy(pixels.copy()).permute(2, 0, 1), [SHORT], antialias=True)
                assert as_torchvision(torch.from_numpy(image.transpose(2, 0, 1)), oracle)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_stored_set_is_the_set(tmp_path: Path, images: ResizedSet, kind: str, workers: int) -> None:
    store = stored(images, kind, tmp_path, workers=workers)
    again = pickle.loads(pickle.dumps(store))  # as it goes to workers that are not forked
    for index in range(20):  # those that are not kept as well
        assert np.array_equal(store.image(index), images.image(index))
        assert np.array_equal(again.image(index), images.image(index))
        assert store.path(index) == images.path(index)
    assert (store.name, store.classes, store.labels.tolist()) == (images.name, images.classes, images.labels.tolist())
    assert same(batches(store, workers=workers), batches(images))
    if kind == "disk":
        assert len(pickle.dumps(store)) < store.blocks[0].nbytes
        assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["train.u8", "train.u8.json"]


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_kept_images_are_not_read_again(tmp_path: Path, image_root: Path, images: ResizedSet, kind: str) -> None:
    expected, store = batches(images), stored(images, kind, tmp_path)
    shutil.rmtree(image_root / "train")
    assert same(batches(store, workers=1), expected)


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("broken", [2, len(INDICES)])
def test_broken_images_are_replaced_and_counted_as_without_a_store(
    tmp_path: Path, image_root: Path, images: ResizedSet, kind: str, broken: int
) -> None:
    for index in INDICES[:broken].tolist():
        (image_root / "train" / images.path(index)).write_bytes(b"torn")
    met, said = (BadImages(broken, lambda problem: None) for _ in range(2))
    with pytest.raises(DataError, match=rf"{broken} training images cannot be read so far, and data\.bad_images is"):
        stored(images, kind, tmp_path, BadImages(broken - 1, lambda problem: None))
    assert not (tmp_path / "store").exists() or not list((tmp_path / "store").iterdir())
    store = stored(images, kind, tmp_path, said)
    assert len(said.problems) == broken
    if broken == 2:
        assert same(batches(store, none := BadImages(2, lambda problem: None)), batches(images, met))
        assert none.problems == met.problems == said.problems
    else:
        with pytest.raises(DataError, match="nor can any of"):
            batches(store, met)


def test_a_file_is_used_again_for_the_same_images_only(tmp_path: Path, image_root: Path, images: ResizedSet) -> None:
    path = tmp_path / "train.u8"
    assert resized.read(path, images, INDICES) is None
    resized.write(path, images, INDICES, none_is_bad())
    done: list[int] = []
    assert resized.read(path, ResizedSet(images.images, SHORT), INDICES.copy(), progress=done.append) is not None
    assert sum(done) == path.stat().st_size
    assert resized.read(path, images, INDICES[:-1]) is None
    assert resized.read(path, images, INDICES[::-1]) is None
    assert resized.read(path, ResizedSet(images.images, SHORT + 1), INDICES) is None
    assert resized.read(path, ResizedSet(load("folder", image_root, "val"), SHORT), INDICES) is None


def test_replaced_files_are_decoded_anew(tmp_path: Path, image_root: Path, images: ResizedSet) -> None:
    path, victim = tmp_path / "train.u8", image_root / "train" / images.path(int(INDICES[3]))
    resized.write(path, images, INDICES, none_is_bad())

    def read() -> StoredSet | None:
        return resized.read(path, ResizedSet(load("folder", image_root, "train"), SHORT), INDICES)

    status, content = victim.stat(), victim.read_bytes()
    os.utime(victim, ns=(0, status.st_mtime_ns - 1))
    assert read() is None
    victim.write_bytes(content + b"1")
    os.utime(victim, ns=(0, status.st_mtime_ns))
    assert read() is None
    victim.write_bytes(content)
    os.utime(victim, ns=(0, status.st_mtime_ns))
    assert read() is not None


def test_a_damaged_file_is_not_used(tmp_path: Path, images: ResizedSet) -> None:
    path, beside = tmp_path / "train.u8", tmp_path / "train.u8.json"
    resized.write(path, images, INDICES, none_is_bad())
    whole, text = path.read_bytes(), beside.read_text()
    fields = json.loads(text)
    for content, recipe in [
        (whole[:-1], text),
        (whole[:500] + bytes([whole[500] ^ 1]) + whole[501:], text),
        (whole, text[:-9]),
        (whole, "[]"),
        (whole, "[" * 10**5),
        *((whole, json.dumps({**fields, "sizes": odd})) for odd in ([], [[1]], "x", [[2**70, 1]], [["a", "b"]], {})),
        *((whole, json.dumps({**fields, "problems": odd})) for odd in ([], {"x": "y"}, 3)),
        *((whole, json.dumps({key: value for key, value in fields.items() if key != left_out})) for left_out in fields),
    ]:
        path.write_bytes(content)
        beside.write_text(recipe)
        assert resized.read(path, images, INDICES) is None, recipe[:200]
    resized.write(path, images, INDICES, none_is_bad())
    assert path.read_bytes() == whole
    assert resized.read(path, images, INDICES) is not None


def test_room_is_looked_for_first(tmp_path: Path, images: ResizedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sum(images.image(index).nbytes for index in INDICES.tolist())
    assert abs(images.bytes_for(INDICES) / needed - 1) < 0.1
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed // 2))
    with pytest.raises(DataError, match=r"data\.store: disk needs about [\d,]+ bytes for 17 images in .*choose"):
        resized.write(tmp_path / "store" / "train.u8", images, INDICES, none_is_bad())
    monkeypatch.setattr(resized, "free_memory", lambda: needed // 2)
    with pytest.raises(DataError, match=r"data\.store: ram needs about .* use data\.store: disk, or none"):
        resized.keep_in_memory(images, INDICES, none_is_bad())
    monkeypatch.setattr(resized, "free_memory", lambda: None)
    resized.keep_in_memory(images, INDICES, none_is_bad())
    monkeypatch.undo()
    assert (resized.free_memory() or 2**20) >= 2**20


def test_a_disk_that_fills_up_leaves_nothing(
    tmp_path: Path, images: ResizedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"cannot write .*train\.u8 \(about [\d,]+ bytes\): No space left on device"):
        resized.write(tmp_path / "store" / "train.u8", images, INDICES, none_is_bad())
    assert not list((tmp_path / "store").iterdir())
