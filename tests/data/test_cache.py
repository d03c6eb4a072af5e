"""Cached training images and their batches equal those that are decoded each time, to the bit."""

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

from spos_cli.data import cache
from spos_cli.data.array_set import ArraySet
from spos_cli.data.cache import CachedSet, ResizedSet
from spos_cli.data.datasets import load
from spos_cli.data.image_files import Pixels
from spos_cli.data.image_set import ImageSet
from spos_cli.data.loaders import BadImages, training_batches
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


def refuse_bad_images() -> BadImages:
    return BadImages(0, lambda problem: None)


def make_cache(
    images: ResizedSet, kind: str, folder: Path, bad: BadImages | None = None, workers: int = 0
) -> CachedSet:
    bad = refuse_bad_images() if bad is None else bad
    if kind == "ram":
        return cache.keep_in_memory(images, INDICES, bad, workers=workers)
    cache.write(folder / "store" / "train.u8", images, INDICES, bad, workers=workers)
    found = cache.read(folder / "store" / "train.u8", images, INDICES)
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
def test_a_cached_set_equals_the_set(tmp_path: Path, images: ResizedSet, kind: str, workers: int) -> None:
    cached = make_cache(images, kind, tmp_path, workers=workers)
    again = pickle.loads(pickle.dumps(cached))  # as it goes to workers that are not forked
    for index in range(20):  # also those that are not in the cache
        assert np.array_equal(cached.image(index), images.image(index))
        assert np.array_equal(again.image(index), images.image(index))
        assert cached.path(index) == images.path(index)
    assert (cached.name, cached.classes, cached.labels.tolist()) == (
        images.name,
        images.classes,
        images.labels.tolist(),
    )
    assert same(batches(cached, workers=workers), batches(images))
    if kind == "disk":
        assert len(pickle.dumps(cached)) < cached.blocks[0].nbytes
        assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["train.u8", "train.u8.json"]


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_cached_images_are_not_read_again(tmp_path: Path, image_root: Path, images: ResizedSet, kind: str) -> None:
    expected, cached = batches(images), make_cache(images, kind, tmp_path)
    shutil.rmtree(image_root / "train")
    assert same(batches(cached, workers=1), expected)


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("broken", [2, len(INDICES)])
def test_broken_images_are_replaced_and_counted_as_without_a_cache(
    tmp_path: Path, image_root: Path, images: ResizedSet, kind: str, broken: int
) -> None:
    for index in INDICES[:broken].tolist():
        (image_root / "train" / images.path(index)).write_bytes(b"torn")
    met, reported = (BadImages(broken, lambda problem: None) for _ in range(2))
    with pytest.raises(DataError, match=rf"{broken} training images cannot be read so far, and data\.bad_images is"):
        make_cache(images, kind, tmp_path, BadImages(broken - 1, lambda problem: None))
    assert not (tmp_path / "store").exists() or not list((tmp_path / "store").iterdir())
    cached = make_cache(images, kind, tmp_path, reported)
    assert len(reported.problems) == broken
    if broken == 2:
        assert same(batches(cached, replayed := BadImages(2, lambda problem: None)), batches(images, met))
        assert replayed.problems == met.problems == reported.problems
    else:
        with pytest.raises(DataError, match=r"none of \d+ other training images"):
            batches(cached, met)


def test_a_file_is_reused_for_the_same_images_only(tmp_path: Path, image_root: Path, images: ResizedSet) -> None:
    path = tmp_path / "train.u8"
    assert cache.read(path, images, INDICES) is None
    cache.write(path, images, INDICES, refuse_bad_images())
    done: list[int] = []
    assert cache.read(path, ResizedSet(images.images, SHORT), INDICES.copy(), progress=done.append) is not None
    assert sum(done) == path.stat().st_size
    assert cache.read(path, images, INDICES[:-1]) is None
    assert cache.read(path, images, INDICES[::-1]) is None
    assert cache.read(path, ResizedSet(images.images, SHORT + 1), INDICES) is None
    assert cache.read(path, ResizedSet(load("folder", image_root, "val"), SHORT), INDICES) is None


def test_replaced_files_are_decoded_again(tmp_path: Path, image_root: Path, images: ResizedSet) -> None:
    path, victim = tmp_path / "train.u8", image_root / "train" / images.path(int(INDICES[3]))
    cache.write(path, images, INDICES, refuse_bad_images())

    def read() -> CachedSet | None:
        return cache.read(path, ResizedSet(load("folder", image_root, "train"), SHORT), INDICES)

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
    cache.write(path, images, INDICES, refuse_bad_images())
    whole, text = path.read_bytes(), beside.read_text()
    fields = json.loads(text)
    for content, manifest in [
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
        beside.write_text(manifest)
        assert cache.read(path, images, INDICES) is None, manifest[:200]
    cache.write(path, images, INDICES, refuse_bad_images())
    assert path.read_bytes() == whole
    assert cache.read(path, images, INDICES) is not None


def test_the_room_is_checked_first(tmp_path: Path, images: ResizedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sum(images.image(index).nbytes for index in INDICES.tolist())
    assert abs(images.bytes_for(INDICES) / needed - 1) < 0.1
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed // 2))
    with pytest.raises(DataError, match=r"data\.store: disk needs about [\d,]+ bytes for 17 images in .*choose"):
        cache.write(tmp_path / "store" / "train.u8", images, INDICES, refuse_bad_images())
    monkeypatch.setattr(cache, "free_memory", lambda: needed // 2)
    with pytest.raises(DataError, match=r"data\.store: ram needs about .* use data\.store: disk, or none"):
        cache.keep_in_memory(images, INDICES, refuse_bad_images())
    monkeypatch.setattr(cache, "free_memory", lambda: None)
    cache.keep_in_memory(images, INDICES, refuse_bad_images())
    monkeypatch.undo()
    assert (cache.free_memory() or 2**20) >= 2**20


def test_a_disk_that_fills_up_leaves_nothing(
    tmp_path: Path, images: ResizedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"cannot write .*train\.u8 \(about [\d,]+ bytes\): No space left on device"):
        cache.write(tmp_path / "store" / "train.u8", images, INDICES, refuse_bad_images())
    assert not list((tmp_path / "store").iterdir())
