"""Unreadable training images are replaced by the same images in every run, and counted; others are errors."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spos_cli.data.array_set import ArraySet
from spos_cli.data.cache import ResizedSet
from spos_cli.data.datasets import load
from spos_cli.data.image_files import Pixels
from spos_cli.data.image_set import ImageSet
from spos_cli.data.image_store import ImageStore
from spos_cli.data.loaders import BadImages, TrainingBatch, evaluation_batches, training_batches
from spos_cli.data.transforms import Augmentation, EvalTransform, TrainTransform
from spos_cli.errors import DataError

COUNT, CLASSES, BROKEN = 40, 5, (3, 17, 31)
INDICES = np.flatnonzero(np.arange(COUNT) % 8)  # 35 of them, including the broken ones
PLAIN = TrainTransform("standard", 4, Augmentation("none", flip=False, jitter=0))
TRAIN = TrainTransform("standard", 4, Augmentation("padded", padding=1))


class Damaged(ArraySet):
    """Each image is of one colour: its index. Some cannot be read."""

    def __init__(self, broken: tuple[int, ...] = BROKEN) -> None:
        pixels = np.broadcast_to(np.arange(COUNT, dtype=np.uint8)[:, None, None, None], (COUNT, 4, 4, 3))
        super().__init__("damaged", tuple("abcde"), pixels, np.arange(COUNT) % CLASSES)
        self.broken, self.read = broken, 0

    def image(self, index: int) -> Pixels:
        self.read += 1
        if index in self.broken:
            raise DataError(f"cannot read the image {self.path(index)}: torn")
        return super().image(index)


def batches(
    images: ImageSet, first: int, last: int, bad: BadImages | None = None, **changes: Any
) -> list[TrainingBatch]:
    options: dict[str, Any] = {"seed": 1, "batch_size": 10, "transform": TRAIN, "indices": INDICES, **changes}
    bad = BadImages(20, lambda _: None) if bad is None else bad
    return list(training_batches(images, first_step=first, last_step=last, bad_images=bad, **options))


def same(one: list[TrainingBatch], other: list[TrainingBatch]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return bool(pairs) and all(
        a is b if a is None or b is None else torch.equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_restarts_do_not_matter(workers: int) -> None:
    whole = batches(Damaged(), 0, 14)
    assert same(whole, batches(Damaged(), 0, 14, workers=workers))
    assert same(whole[9:], batches(Damaged(), 9, 14, workers=workers))


def test_processes_do_not_matter() -> None:
    whole = batches(Damaged(), 0, 14)
    parts = [batches(Damaged(), 0, 14, rank=rank, world_size=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        for field in range(3):  # images, colours, labels
            assert torch.equal(torch.cat([part[step][field] for part in parts]), batch[field])


def test_the_label_goes_with_the_image_and_only_broken_ones_change() -> None:
    ours, whole = (batches(Damaged(broken), 0, 70, transform=PLAIN) for broken in (BROKEN, ()))
    colours, expected = (torch.cat([pixels[:, 0, 0, 0] for pixels, _, _ in run]).tolist() for run in (ours, whole))
    assert torch.cat([labels for _, _, labels in ours]).tolist() == [colour % CLASSES for colour in colours]
    changed = [(new, old) for new, old in zip(colours, expected, strict=True) if new != old]
    assert len(changed) == 20 * len(BROKEN)  # each once per epoch
    assert {old for _, old in changed} == set(BROKEN)
    replacements = {new for new, _ in changed}
    assert replacements <= set(INDICES.tolist()) - set(BROKEN), "training images only, never held-out ones"
    assert len(replacements) > 15, "other images in each epoch"


def test_each_bad_image_is_reported_once_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    messages: list[str] = []
    bad = BadImages(3, messages.append)
    batches(Damaged(), 0, 30, bad, workers=2)
    batches(Damaged(), 30, 40, bad)
    assert sorted(messages) == [
        f"cannot read the image damaged/{index}: torn; using another image instead" for index in (17, 31, 3)
    ]
    assert sorted(bad.problems) == ["damaged/17", "damaged/3", "damaged/31"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("limit", [0, 2])
def test_too_many_are_an_error_that_names_them(limit: int, workers: int) -> None:
    messages: list[str] = []
    with pytest.raises(DataError) as caught:
        batches(Damaged(), 0, 10, BadImages(limit, messages.append), workers=workers)
    assert len(messages) == limit
    for part in (
        f"{limit + 1} training images cannot be read so far, and data.bad_images is {limit}: damaged/",
        ": torn",
        "spos doctor --full",
        "raise data.bad_images",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_replacement_is_replaced_too() -> None:
    broken = tuple(index for index in range(COUNT) if index not in (1, 2, 39))
    bad = BadImages(1000, lambda _: None)
    run = batches(Damaged(broken), 0, 7, bad, transform=PLAIN, indices=INDICES[INDICES < 23])
    assert {int(colour) for pixels, _, _ in run for colour in pixels[:, 0, 0, 0]} == {1, 2}
    assert len(bad.problems) == 18


@pytest.mark.parametrize("workers", [0, 2])
def test_no_image_can_be_read(workers: int) -> None:
    images = Damaged(tuple(range(COUNT)))
    with pytest.raises(DataError, match=r"none of 20 other training images.*\. spos doctor --full says why$"):
        batches(images, 0, 100, BadImages(10**9, lambda _: None), workers=workers)
    assert images.read < 30, "the rest of the batch is not tried"
    with pytest.raises(DataError, match=r"none of 0 other"):
        batches(images, 0, 1, indices=INDICES[:1])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_that_disappears(image_root: Path, workers: int) -> None:
    images = load("folder", image_root, "train")
    stream = training_batches(
        images,
        np.arange(20),
        TRAIN,
        seed=0,
        batch_size=8,
        first_step=0,
        last_step=10**9,
        workers=workers,
        bad_images=BadImages(20, lambda _: None),
    )
    next(stream)
    (image_root / "train").rename(image_root / "elsewhere")  # at once: rmtree would leave a folder of fewer images
    with pytest.raises(DataError, match=r"No such file.*(still there|data\.bad_images)"):
        for _ in itertools.islice(stream, 50):
            pass


@pytest.mark.parametrize("gone", [False, True])
def test_whether_the_folder_is_there_is_looked_up(image_root: Path, gone: bool) -> None:
    images = ResizedSet(load("folder", image_root, "train"), 8)
    for path in image_root.glob("train/*/*"):
        path.write_bytes(b"%PDF-1.7")
    if gone:
        shutil.rmtree(image_root / "train")
    with pytest.raises(DataError, match="none of 19 other training images") as raised:
        batches(images, 0, 1, BadImages(1000, lambda _: None), indices=np.arange(20))
    assert ("still there?" in str(raised.value)) == gone


def test_a_broken_evaluation_image_is_an_error(image_root: Path) -> None:
    images = load("folder", image_root, "val")
    (image_root / "val" / "coffee" / "3.JPEG").write_bytes(b"\xff\xd8 and no more")
    transform = EvalTransform("standard", 8, stored=False)
    with pytest.raises(DataError, match=r"^cannot read the image .*coffee/3\.JPEG: "):
        list(evaluation_batches(images, np.arange(20), transform, batch_size=8))


def test_a_store_of_training_images(tmp_path: Path) -> None:
    messages: list[str] = []
    stores = []
    for number, workers in enumerate((0, 2)):
        path = tmp_path / f"{number}.u8"
        ImageStore.build(
            path, Damaged(), INDICES, PLAIN, seed=1, workers=workers, bad_images=BadImages(3, messages.append)
        )
        assert ImageStore.matches(path, Damaged(), INDICES, PLAIN, seed=1)
        stores.append(ImageStore.open(path))
    colours = stores[0].images[:, 0, 0, 0]
    assert torch.equal(stores[0].images, stores[1].images)
    assert torch.equal(stores[0].labels, stores[1].labels)
    assert torch.equal(stores[0].labels, colours % CLASSES)
    assert not set(colours.tolist()) & set(BROKEN)
    good = np.flatnonzero(~np.isin(INDICES, BROKEN))
    assert torch.equal(colours[good], torch.from_numpy(INDICES[good]))
    assert len(messages) == 6
    with pytest.raises(DataError, match=r"3 training images cannot be read so far, and data\.bad_images is 2"):
        ImageStore.build(tmp_path / "x.u8", Damaged(), INDICES, PLAIN, seed=1, bad_images=BadImages(2, messages.append))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.u8", "0.u8.json", "1.u8", "1.u8.json"]
