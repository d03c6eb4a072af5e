"""Batches depend on seed and step only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from spos_cli import seeding
from spos_cli.data.array_set import ArraySet
from spos_cli.data.image_files import Pixels
from spos_cli.data.image_set import ImageSet
from spos_cli.data.loaders import TrainingBatch, evaluation_batches, training_batches
from spos_cli.data.transforms import Augmentation, EvalTransform, TrainTransform
from spos_cli.errors import ConfigError, DataError

COUNT = 50
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
IMAGES = ArraySet("test", ("a", "b", "c"), PIXELS, np.arange(COUNT) % 3)
INDICES = np.flatnonzero(np.arange(COUNT) % 5)  # 40 of them
TRAIN = TrainTransform("standard", 8, Augmentation("padded", padding=2))
EVAL = EvalTransform("standard", 8, stored=True)


def train(first: int, last: int, **changes: Any) -> list[TrainingBatch]:
    options = {"seed": 1, "batch_size": 12, **changes}
    return list(training_batches(IMAGES, INDICES, TRAIN, first_step=first, last_step=last, **options))


def same(one: Iterable[Any], other: Iterable[Any]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return bool(pairs) and all(equal(a, b) for first, second in pairs for a, b in zip(first, second, strict=True))


def equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_matter(workers: int) -> None:
    assert same(train(0, 9), train(0, 9, workers=workers))


def test_a_restart_goes_on_with_the_same_batches() -> None:
    assert same(train(0, 9)[4:], train(4, 9))


def test_the_global_generator_does_not_matter_and_is_left_alone() -> None:
    torch.manual_seed(1)
    first = train(0, 3, workers=1)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(first, train(0, 3, workers=1))


def test_processes_divide_the_same_samples() -> None:
    whole = train(0, 6)
    for world_size, accumulate in [(2, 1), (1, 3), (2, 2)]:
        parts = [train(0, 6, rank=rank, world_size=world_size, accumulate=accumulate) for rank in range(world_size)]
        for step, batch in enumerate(whole):
            micro = [parts[rank][step * accumulate + a] for a in range(accumulate) for rank in range(world_size)]
            for field in range(3):  # images, colours, labels
                assert equal(torch.cat([part[field] for part in micro]), batch[field])


def test_every_epoch_has_every_image_once_in_another_order() -> None:
    plain = TrainTransform("standard", 8, Augmentation("none", flip=False, jitter=0))
    stream = training_batches(IMAGES, INDICES, plain, seed=1, batch_size=10, first_step=0, last_step=12)
    seen = [pixels.numpy().tobytes() for images, _, _ in stream for pixels in images]
    expected = sorted(np.ascontiguousarray(PIXELS[index].transpose(2, 0, 1)).tobytes() for index in INDICES)
    epochs = [seen[begin : begin + 40] for begin in range(0, 120, 40)]
    assert all(sorted(epoch) == expected for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_augmentation_differs_between_epochs() -> None:
    stream = training_batches(IMAGES, INDICES[:1], TRAIN, seed=1, batch_size=20, first_step=0, last_step=1)
    ((images, _, _),) = stream
    assert len({pixels.numpy().tobytes() for pixels in images}) > 5


def test_a_batch_that_cannot_be_divided_evenly() -> None:
    with pytest.raises(ConfigError, match="batch_size 12 is not divisible by 5 processes"):
        train(0, 1, world_size=5)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_covers_each_image_once_in_the_same_batches(workers: int) -> None:
    whole = list(evaluation_batches(IMAGES, INDICES, EVAL, batch_size=7, workers=workers))
    assert torch.cat([positions for _, _, positions in whole]).tolist() == list(range(40))
    for images, labels, positions in whole:
        chosen = INDICES[positions.numpy()]
        assert np.array_equal(images.numpy(), PIXELS[chosen].transpose(0, 3, 1, 2))
        assert np.array_equal(labels.numpy(), IMAGES.labels[chosen])
    parts = [list(evaluation_batches(IMAGES, INDICES, EVAL, batch_size=7, rank=r, world_size=2)) for r in range(2)]
    assert same(whole[::2], parts[0])
    assert same(whole[1::2], parts[1])


def test_more_processes_than_batches_leaves_some_without() -> None:
    parts = [list(evaluation_batches(IMAGES, INDICES, EVAL, batch_size=30, rank=r, world_size=3)) for r in range(3)]
    assert [len(part) for part in parts] == [1, 1, 0]


class Broken(ImageSet):
    """One of its images cannot be read."""

    def __init__(self) -> None:
        self.name, self.classes, self.labels = "broken", ("a",), np.zeros(20, np.int64)

    def image(self, index: int) -> Pixels:
        if index == 13:
            raise DataError("cannot read the image 13.jpg")
        return PIXELS[index]

    def path(self, index: int) -> str:
        return f"{index}.jpg"

    @property
    def contents(self) -> NDArray[np.int64]:
        return np.arange(20)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_a_plain_error(workers: int) -> None:
    with pytest.raises(DataError) as caught:
        list(evaluation_batches(Broken(), np.arange(20), EVAL, batch_size=4, workers=workers))
    assert str(caught.value) == "cannot read the image 13.jpg"


def test_a_sample_is_augmented_by_epoch_and_index() -> None:
    ((images, colours, _),) = train(7, 8)  # samples 84 to 95 of 40 an epoch: the third
    order = seeding.generator(1, "order", 2).permutation(INDICES)[4:16].tolist()
    for image, numbers, index in zip(images, colours, order, strict=True):
        expected = TRAIN(PIXELS[index], seeding.generator(1, "augment", 2, index))
        assert torch.equal(image, expected.image)
        assert torch.equal(numbers, torch.tensor(expected.colours))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_in_channels_last_memory(workers: int) -> None:
    for images, colours, _ in train(0, 2, workers=workers):
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert (images.dtype, colours.dtype, colours.shape) == (torch.uint8, torch.float32, (12, 3))
    ((images, _, _), *_) = evaluation_batches(IMAGES, INDICES, EVAL, batch_size=7, workers=workers)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_without_jitter_there_are_no_colours() -> None:
    plain = TrainTransform("standard", 8, Augmentation("padded", padding=2, jitter=0))
    stream = training_batches(IMAGES, INDICES, plain, seed=1, batch_size=10, first_step=0, last_step=2)
    assert [colours for _, colours, _ in stream] == [None, None]


class Counted(ArraySet):
    """Counts the images that are read; their pixels are the id of the process that read them."""

    def __init__(self) -> None:
        super().__init__("counted", IMAGES.classes, PIXELS, IMAGES.labels)
        self.count = torch.zeros(1, dtype=torch.int64).share_memory_()

    def image(self, index: int) -> Pixels:
        self.count += 1
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[0, 0] = list(os.getpid().to_bytes(3, "little"))
        return pixels


def test_workers_stay_over_the_end_of_an_epoch_and_read_ahead() -> None:
    images = Counted()
    plain = TrainTransform("standard", 8, Augmentation("none", flip=False, jitter=0))
    stream = training_batches(images, INDICES, plain, seed=1, batch_size=10, first_step=0, last_step=10**9, workers=1)
    seen = [next(stream)[0] for _ in range(4)]  # one epoch
    end = time.monotonic() + 20
    while int(images.count) < 60 and time.monotonic() < end:  # two batches are made while the last one is used
        time.sleep(0.005)
    assert int(images.count) >= 60
    seen += [next(stream)[0] for _ in range(8)]
    assert len({bytes(pixels[:, 0, 0].tolist()) for batch in seen for pixels in batch}) == 1


def test_refuses_a_batch_before_the_first_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="use a multiple of 10"):
        training_batches(
            IMAGES, INDICES, TRAIN, seed=0, batch_size=12, first_step=0, last_step=1, world_size=5, accumulate=2
        )


UNEVEN = np.flatnonzero((np.arange(COUNT) % 3 > 0) | (np.arange(COUNT) < 6))  # 2 images of class a, 17 and 16


def train_balanced(first: int, last: int, **changes: Any) -> list[TrainingBatch]:
    options: dict[str, Any] = {"seed": 1, "batch_size": 12, "sampling": "balanced", **changes}
    return list(training_batches(IMAGES, UNEVEN, TRAIN, first_step=first, last_step=last, **options))


def test_balanced_sampling_has_each_class_equally_often() -> None:
    """An epoch has 36 draws: 12 of each of 3 classes, for 35 images."""
    labels = torch.cat([labels for _, _, labels in train_balanced(0, 12)])
    assert len(UNEVEN) == 35
    for epoch in range(4):
        assert torch.bincount(labels[36 * epoch :][:36]).tolist() == [12, 12, 12]


def test_balanced_sampling_repeats_an_image_with_other_augmentation() -> None:
    batches = train_balanced(0, 3)
    drawn = [(pixels, label) for images, _, labels in batches for pixels, label in zip(images, labels, strict=True)]
    rare = {pixels.numpy().tobytes() for pixels, label in drawn if label == 0}
    assert len(rare) > 8  # of 12 draws of 2 images


def test_balanced_sampling_does_not_depend_on_workers_restarts_or_processes() -> None:
    whole = train_balanced(0, 9)
    assert same(whole, train_balanced(0, 9, workers=2))
    assert same(whole[4:], train_balanced(4, 9))
    parts = [train_balanced(0, 9, rank=rank, world_size=2, accumulate=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        micro = [parts[rank][step * 2 + a] for a in range(2) for rank in range(2)]
        for field in range(3):  # images, colours, labels
            assert equal(torch.cat([part[field] for part in micro]), batch[field])
