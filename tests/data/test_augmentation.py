"""Changes by torchvision's own transforms: what they do, and what their draws depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from skimage import data as photographs
from torch import Tensor
from torchvision.transforms import v2

from spos_cli import seeding
from spos_cli.data.array_set import ArraySet
from spos_cli.data.augmentation import Augmentation, change_with_seed, make_torchvision_changes
from spos_cli.data.loaders import TrainingBatch, training_batches
from spos_cli.data.transforms import SEED_LIMIT, Normalisation, TrainTransform, preprocess, to_tensor

PHOTO = photographs.astronaut()
MEAN_COLOUR = (124, 116, 104)  # of ImageNet, RGB in 0-255: nearly 0 once the image is normalised
PLAIN: dict[str, Any] = {"crop": "none", "flip": False, "jitter": 0.0}
BILINEAR = v2.InterpolationMode.BILINEAR
EVERYTHING: dict[str, Any] = {"vertical_flip": True, "grayscale": 0.3, "erasing": 0.6}
ALL = [Augmentation(rand_augment=(2, 9), **EVERYTHING), Augmentation("padded", trivial_augment=True, **EVERYTHING)]
PIXELS = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)
IMAGES = ArraySet("test", ("a", "b", "c"), PIXELS, np.arange(30) % 3)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


ORACLES = {
    "vertical_flip": ({"vertical_flip": True}, [v2.RandomVerticalFlip(0.5)]),
    "rand_augment": ({"rand_augment": (3, 14)}, [v2.RandAugment(3, 14, interpolation=BILINEAR)]),
    "trivial_augment": ({"trivial_augment": True}, [v2.TrivialAugmentWide(interpolation=BILINEAR)]),
    "grayscale": ({"grayscale": 0.5}, [v2.RandomGrayscale(0.5)]),
    "erasing": ({"erasing": 0.7}, [v2.RandomErasing(0.7, value=MEAN_COLOUR)]),
    "all": (
        {"vertical_flip": True, "trivial_augment": True, "grayscale": 0.5, "erasing": 0.7},
        [
            v2.RandomVerticalFlip(0.5),
            v2.TrivialAugmentWide(interpolation=BILINEAR),
            v2.RandomGrayscale(0.5),
            v2.RandomErasing(0.7, value=MEAN_COLOUR),
        ],
    ),
}


@pytest.mark.parametrize("name", ORACLES)
def test_each_change_is_torchvisions_with_the_same_seed(name: str) -> None:
    """After the crop and the flip, whose draws stay as they are without torchvision's changes."""
    fields, oracle = ORACLES[name]
    ours, plain = (TrainTransform("standard", 64, Augmentation(jitter=0.0, **extra)) for extra in (fields, {}))
    changed = 0
    for seed in range(25):
        image = plain(PHOTO, rng(seed)).image
        draws = rng(seed)
        draws.random((10, 4))  # of the crop
        draws.random(7)  # of padding, flip and jitter
        torch.manual_seed(int(draws.integers(SEED_LIMIT)))
        expected = v2.Compose(oracle)(image)
        assert torch.equal(ours(PHOTO, rng(seed)).image, expected)
        changed += not torch.equal(expected, image)
    assert changed >= 5


def test_an_image_in_memory_is_not_changed_itself() -> None:
    pixels = PIXELS.copy()
    for augmentation in ALL:
        plain = Augmentation(**{**vars(augmentation), **PLAIN})
        for seed in range(30):
            TrainTransform("standard", 16, plain)(pixels[seed], rng(seed))
    assert np.array_equal(pixels, PIXELS)


def test_an_erased_rectangle_is_almost_zero_for_the_network() -> None:
    own = Normalisation((0.2, 0.9, 0.4), (0.3, 0.3, 0.3))
    transform = TrainTransform("standard", 64, Augmentation(erasing=1.0, **PLAIN), own.mean)
    image, before = transform(PHOTO, rng(1)).image, TrainTransform("standard", 64, Augmentation(**PLAIN))(PHOTO, rng(1))
    erased = (image != before.image).any(0)
    assert 0.01 < erased.float().mean() < 0.34
    assert (torch.tensor([51, 230, 102]) == image[:, erased].T).all()
    assert preprocess("standard", image[None], normalisation=own)[0][:, erased].abs().max() < 0.01


def test_only_the_seed_counts_and_the_global_generator_is_left_alone() -> None:
    changes = make_torchvision_changes(ALL[1], MEAN_COLOUR)
    image = to_tensor(PIXELS[0])
    torch.manual_seed(1)
    first = change_with_seed(changes, image, 7)
    state = torch.get_rng_state()
    torch.rand(5)
    assert torch.equal(change_with_seed(changes, image, 7), first)
    torch.set_rng_state(state)
    change_with_seed(changes, image, 8)
    assert torch.equal(torch.get_rng_state(), state)
    assert len({change_with_seed(changes, image, seed).numpy().tobytes() for seed in range(20)}) > 10


def train(augmentation: Augmentation, first: int = 0, last: int = 6, **options: Any) -> list[TrainingBatch]:
    transform = TrainTransform("standard", 16, augmentation)
    chosen: dict[str, Any] = {"seed": 1, "batch_size": 8, **options}
    return list(training_batches(IMAGES, np.arange(30), transform, first_step=first, last_step=last, **chosen))


def flatten(batches: list[TrainingBatch]) -> list[Tensor]:
    return [field for batch in batches for field in batch if field is not None]


def same(one: list[TrainingBatch], other: list[TrainingBatch]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(flatten(one), flatten(other), strict=True))


@pytest.mark.parametrize("augmentation", ALL, ids=["rand_augment", "trivial_augment"])
def test_batches_do_not_depend_on_workers_processes_or_a_restart(augmentation: Augmentation) -> None:
    whole = train(augmentation)
    for workers in (1, 2):
        assert same(train(augmentation, workers=workers), whole)
    assert same(train(augmentation, 4), whole[4:])
    halves = [train(augmentation, rank=rank, world_size=2) for rank in range(2)]
    for step, (images, colours, labels) in enumerate(whole):
        parts = [half[step] for half in halves]
        assert torch.equal(torch.cat([part[0] for part in parts]), images)
        assert torch.equal(torch.cat([part[1] for part in parts]), colours)  # type: ignore[misc]
        assert torch.equal(torch.cat([part[2] for part in parts]), labels)
    assert not same(train(augmentation, seed=2), whole)
    assert not same(train(Augmentation(augmentation.crop)), whole)


def test_an_image_is_changed_by_its_epoch_and_index() -> None:
    ((images, _, _),) = train(ALL[0], 5, 6)  # samples 40 to 47 of 30 an epoch: the second
    order = seeding.generator(1, "order", 1).permutation(np.arange(30))[10:18].tolist()
    transform = TrainTransform("standard", 16, ALL[0])
    for image, index in zip(images, order, strict=True):
        assert torch.equal(image, transform(PIXELS[index], seeding.generator(1, "augment", 1, index)).image)


def test_changes_are_named_for_the_user() -> None:
    text = Augmentation("padded", rand_augment=(2, 9), vertical_flip=True, erasing=0.25, grayscale=0.1).describe()
    assert text == (
        "crop padded, random flip, vertical flip, RandAugment 2 x magnitude 9, grayscale 0.1, erasing 0.25,"
        " colour jitter 0.4"
    )
    assert Augmentation(flip=False, trivial_augment=True).describe() == (
        "crop random_resized, no flip, TrivialAugment, colour jitter 0.4"
    )
