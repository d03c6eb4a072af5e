"""The store holds what the transform returns, and matches only the same images and transform."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spos_cli import seeding
from spos_cli.data.datasets import load
from spos_cli.data.image_set import ImageSet
from spos_cli.data.image_store import ImageStore
from spos_cli.data.transforms import Augmentation, EvalTransform, TrainTransform, recolour
from spos_cli.errors import DataError

EVAL = EvalTransform("spos", 32, stored=False)
TRAIN = TrainTransform("spos", 32, Augmentation())
INDICES = np.array([7, 3, 19, 0, 12])


@pytest.fixture
def images(image_root: Path) -> ImageSet:
    """Twenty JPEGs of four classes."""
    return load("folder", image_root, "train")


@pytest.mark.parametrize("workers", [0, 2])
def test_holds_what_the_transform_returns(tmp_path: Path, images: ImageSet, workers: int) -> None:
    path, done = tmp_path / "deep" / "store.u8", []
    ImageStore.build(path, images, INDICES, EVAL, workers=workers, progress=done.append)
    store = ImageStore.open(path)
    assert torch.equal(store.images, torch.stack([EVAL(images.image(index)) for index in INDICES.tolist()]))
    assert store.labels.tolist() == images.labels[INDICES].tolist()
    assert (store.images.dtype, store.labels.dtype) == (torch.uint8, torch.int64)
    assert store.images.is_contiguous(memory_format=torch.channels_last)
    assert sum(done) == 5
    assert sorted(file.name for file in path.parent.iterdir()) == ["store.u8", "store.u8.json"]


@pytest.mark.parametrize("workers", [0, 2])
def test_holds_augmented_images_by_seed(tmp_path: Path, images: ImageSet, workers: int) -> None:
    path = tmp_path / "store.u8"
    ImageStore.build(path, images, INDICES, TRAIN, seed=4, workers=workers)
    prepared = [TRAIN(images.image(index), seeding.generator(4, "augment", 0, index)) for index in INDICES.tolist()]
    pixels, colours = torch.stack([image for image, _ in prepared]), torch.tensor([drawn for _, drawn in prepared])
    assert torch.equal(ImageStore.open(path).images, recolour(pixels, colours).round().byte())


def test_more_images_than_one_batch(tmp_path: Path) -> None:
    images = load("digits", "", "train")
    path = tmp_path / "store.u8"
    ImageStore.build(path, images, np.arange(len(images)), EvalTransform("standard", 8, stored=True))
    store = ImageStore.open(path)
    assert store.images.shape == (1438, 3, 8, 8)
    assert store.labels.tolist() == images.labels.tolist()


def test_what_is_written_to_an_opened_store_stays_out_of_the_file(tmp_path: Path, images: ImageSet) -> None:
    path = tmp_path / "store.u8"
    ImageStore.build(path, images, INDICES, EVAL)
    before = path.read_bytes()
    ImageStore.open(path).images.zero_()
    assert path.read_bytes() == before


def test_matches_the_same_images_and_transform_only(tmp_path: Path, image_root: Path, images: ImageSet) -> None:
    path = tmp_path / "store.u8"
    assert not ImageStore.matches(path, images, INDICES, TRAIN, seed=4)
    ImageStore.build(path, images, INDICES, TRAIN, seed=4)
    assert ImageStore.matches(path, load("folder", image_root, "train"), INDICES.copy(), TRAIN, seed=4)
    others: list[tuple[Any, ...]] = [
        (images, INDICES, TRAIN, 5),
        (images, INDICES[::-1], TRAIN, 4),
        (images, INDICES[:4], TRAIN, 4),
        (load("folder", image_root, "val"), INDICES, TRAIN, 4),
        (images, INDICES, TrainTransform("spos", 31, Augmentation()), 4),
        (images, INDICES, TrainTransform("spos", 32, Augmentation(jitter=0.3)), 4),
        (images, INDICES, EVAL, None),
    ]
    for other, indices, transform, seed in others:
        assert not ImageStore.matches(path, other, indices, transform, seed=seed)
    old = image_root / "train" / "astronaut" / "0.jpg"
    old.rename(old.with_name("another.jpg"))  # as many images, but others
    assert not ImageStore.matches(path, load("folder", image_root, "train"), INDICES, TRAIN, seed=4)


def test_replaced_files_are_noticed(tmp_path: Path, image_root: Path, images: ImageSet) -> None:
    """By size or time; files that are not in the store do not matter."""
    path = tmp_path / "store.u8"
    ImageStore.build(path, images, INDICES, EVAL)
    inside, outside = (image_root / "train" / images.path(index) for index in (19, 1))
    outside.write_bytes(b"another")
    assert ImageStore.matches(path, load("folder", image_root, "train"), INDICES, EVAL)
    status, content = inside.stat(), inside.read_bytes()
    os.utime(inside, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert not ImageStore.matches(path, load("folder", image_root, "train"), INDICES, EVAL)
    os.utime(inside, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ImageStore.matches(path, load("folder", image_root, "train"), INDICES, EVAL)
    inside.write_bytes(content + b"1")
    os.utime(inside, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not ImageStore.matches(path, load("folder", image_root, "train"), INDICES, EVAL)


def test_a_file_that_changes_while_it_is_decoded_is_noticed(tmp_path: Path, image_root: Path, images: ImageSet) -> None:
    path, victim = tmp_path / "store.u8", image_root / "train" / images.path(12)
    ImageStore.build(path, images, INDICES, EVAL, progress=lambda done: shutil.copyfile(victim, victim.with_suffix("")))
    assert ImageStore.matches(path, load("folder", image_root, "train"), INDICES, EVAL)
    images = load("folder", image_root, "train")
    ImageStore.build(path, images, INDICES, EVAL, progress=lambda done: os.utime(victim, (0, 0)))
    assert not ImageStore.matches(path, load("folder", image_root, "train"), INDICES, EVAL)


def test_torn_files_are_neither_matched_nor_opened(tmp_path: Path, images: ImageSet) -> None:
    path, manifest = tmp_path / "store.u8", tmp_path / "store.u8.json"
    ImageStore.build(path, images, INDICES, EVAL)
    whole, text = path.read_bytes(), manifest.read_text()
    no_labels = json.dumps({key: value for key, value in json.loads(text).items() if key != "labels"})
    for content, beside in ((whole[:-1], text), (b"", text), (whole, text[:20]), (whole, "[]"), (whole, no_labels)):
        path.write_bytes(content)
        manifest.write_text(beside)
        assert not ImageStore.matches(path, images, INDICES, EVAL)
        with pytest.raises(DataError, match=r"store\.u8 is missing or torn; remove it"):
            ImageStore.open(path)
    with pytest.raises(DataError, match="missing or torn"):
        ImageStore.open(tmp_path / "absent")
    path.write_bytes(whole[:99] + bytes([whole[99] ^ 1]) + whole[100:])
    manifest.write_text(text)
    assert not ImageStore.matches(path, images, INDICES, EVAL), "one bit differs"
    ImageStore.build(path, images, INDICES, EVAL)
    assert path.read_bytes() == whole
    assert ImageStore.matches(path, images, INDICES, EVAL)


class FullDisk(io.BytesIO):
    """A file on a disk that has no room."""

    def write(self, content: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk(tmp_path: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stores" / "store.u8"
    ImageStore.build(path, images, INDICES, EVAL)
    before, really_open = path.read_bytes(), Path.open

    def full(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not self.name.endswith(".tmp"):
            return really_open(self, mode, *arguments, **options)
        really_open(self, mode).close()
        return FullDisk()

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match=r"cannot write .*store\.u8 \(15,360 bytes\): No space left on device"):
        ImageStore.build(path, images, INDICES, TRAIN, seed=0)
    assert sorted(file.name for file in path.parent.iterdir()) == ["store.u8", "store.u8.json"]
    assert path.read_bytes() == before
    assert ImageStore.matches(path, images, INDICES, EVAL)


def test_a_broken_image_leaves_nothing_behind(tmp_path: Path, images: ImageSet, image_root: Path) -> None:
    (image_root / "train" / "chelsea" / "2.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot read the image .*chelsea/2\.jpg"):
        ImageStore.build(tmp_path / "stores" / "store.u8", images, INDICES, EVAL, workers=1)
    assert not list((tmp_path / "stores").iterdir())
