"""Preprocessing against OpenCV and torchvision."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from skimage import data as photographs
from torchvision import transforms as classic
from torchvision.transforms import v2

from spos_cli.data import transforms
from spos_cli.data.transforms import (
    GRAY_WEIGHTS,
    Augmentation,
    EvalTransform,
    Normalisation,
    PresetName,
    TrainTransform,
    compose_jitter,
    opencv_resize,
    preprocess,
    random_crop,
    recolour,
    shift,
    to_tensor,
)
from spos_cli.errors import ConfigError
from tests.data.conftest import as_torchvision

PHOTOS = {name: getattr(photographs, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")}


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("size", [(256, 341), (256, 256), (97, 33), (700, 901), (1, 1), (512, 513)])
def test_resize_is_opencvs(name: str, size: tuple[int, int]) -> None:
    photo = PHOTOS[name]
    ours = opencv_resize(photo, *size)
    theirs = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("square", [False, True], ids=["whole", "224x224"])
@pytest.mark.parametrize("name", PHOTOS)
def test_official_validation_pipeline(name: str, square: bool) -> None:
    """Short side to 256 with OpenCV, target size rule of the official code, torchvision's centre crop, BGR."""
    photo = PHOTOS[name][:224, :224] if square else PHOTOS[name]
    height, width = photo.shape[:2]
    target = (int(256 / height * width + 0.5), 256) if height < width else (256, int(256 / width * height + 0.5))
    resized = cv2.resize(photo, target, interpolation=cv2.INTER_LINEAR)
    cropped = np.array(classic.CenterCrop(224)(Image.fromarray(resized)))
    expected = torch.from_numpy(cropped[:, :, ::-1].transpose(2, 0, 1).astype(np.float32))
    ours = preprocess("spos", EvalTransform("spos", 224, stored=False)(photo)[None])[0]
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", PHOTOS)
def test_standard_validation_pipeline(name: str) -> None:
    photo = PHOTOS[name]
    oracle = classic.Compose(
        [
            classic.Resize(256),
            classic.CenterCrop(224),
            classic.ToTensor(),
            classic.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    ours = preprocess("standard", EvalTransform("standard", 224, stored=False)(photo)[None])[0]
    difference = (ours - oracle(Image.fromarray(photo))).abs()
    assert difference.mean() < 0.01  # torchvision's tensor and PIL resizes round differently
    assert difference.max() < 0.1


@pytest.mark.parametrize("preset", ["spos", "standard"])
def test_a_stored_image_of_the_right_size_is_left_alone(preset: PresetName) -> None:
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    assert np.array_equal(EvalTransform(preset, 28, stored=True)(image).numpy().transpose(1, 2, 0), image)


def test_preprocess_keeps_the_memory_format() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    for preset in ("spos", "standard"):
        result = preprocess(preset, images)  # type: ignore[arg-type]
        assert result.dtype == torch.float32
        assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(preprocess("spos", images)[:, 0], images[:, 2].float())


def test_own_mean_and_deviation_normalise_as_torchvision() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    own = Normalisation((0.1, 0.5, 0.9), (0.3, 0.01, 1.0))
    expected = classic.Normalize(*own)(images / 255)
    torch.testing.assert_close(preprocess("standard", images, normalisation=own), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(preprocess("spos", images, normalisation=own), preprocess("spos", images))


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_sample_is_a_function_of_its_random_numbers() -> None:
    photo = PHOTOS["coffee"]
    for crop in ("random_resized", "padded", "none"):
        transform = TrainTransform("standard", 64, Augmentation(crop=crop))
        first, colours = transform(photo, rng(5))
        torch.manual_seed(99)
        before = torch.get_rng_state()
        again = transform(photo, rng(5))
        assert torch.equal(again.image, first)
        assert again.colours == colours
        assert torch.equal(torch.get_rng_state(), before)
        assert transform(photo, rng(6)).colours != colours
        assert (first.shape, first.dtype) == ((3, 64, 64), torch.uint8)
        assert first.stride(0) == 1, "the channels of a pixel are together"


def test_the_image_itself_is_never_changed() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    before = image.copy()
    for crop in ("random_resized", "padded", "none"):
        for seed in range(4):
            TrainTransform("standard", 8, Augmentation(crop, padding=1)).__call__(image, rng(seed)).image.clone()
    assert np.array_equal(image, before)
    image.flags.writeable = False
    assert np.array_equal(to_tensor(image).permute(1, 2, 0).numpy(), before)


def test_padded_crop_is_torchvisions() -> None:
    image = torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8)
    for top in range(5):
        for left in range(5):
            oracle = classic.functional.crop(classic.functional.pad(image, 2), top, left, 9, 9)
            assert torch.equal(shift(image, 2 - left, 2 - top), oracle)


def test_padded_crops_and_flips_are_uniform() -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    image[4, 3] = 255
    transform = TrainTransform("standard", 9, Augmentation("padded", padding=2, jitter=0))
    counts: dict[tuple[int, int], int] = {}
    for seed in range(3000):
        row, column = divmod(int(transform(image, rng(seed)).image[0].argmax()), 9)
        counts[row, column] = counts.get((row, column), 0) + 1
    # The point is at column 3 or, flipped, 5; shifts of -2..2 overlap in the columns 3 to 5.
    expected = {
        (row, column): 3000 / 5 * (((1 <= column <= 5) + (3 <= column <= 7)) / 2) / 5
        for row in range(2, 7)
        for column in range(1, 8)
    }
    assert set(counts) == set(expected)
    observed = [counts[key] for key in expected]
    assert stats.chisquare(observed, list(expected.values())).pvalue > 1e-4


def features(draws: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Return features of each image: mean and deviation of each channel, and left against right."""
    return np.array([[*d.mean((0, 1)), *d.std((0, 1)), d[:, :32].mean() - d[:, 32:].mean()] for d in draws])


def test_training_distribution_is_torchvisions_on_pil() -> None:
    """Crop, colour jitter in random order and flip: two-sample Kolmogorov-Smirnov tests on seven features."""
    photo, count = PHOTOS["coffee"][::2, ::2], 500
    oracle = classic.Compose(
        [classic.RandomResizedCrop(64), classic.ColorJitter(0.4, 0.4, 0.4), classic.RandomHorizontalFlip()]
    )
    torch.manual_seed(0)
    theirs = features([np.asarray(oracle(Image.fromarray(photo)), np.float64) for _ in range(count)])
    transform = TrainTransform("spos", 64, Augmentation())
    drawn = [transform(photo, rng(seed)) for seed in range(count)]
    whole = recolour(torch.stack([image for image, _ in drawn]), torch.tensor([colours for _, colours in drawn]))
    ours = features(list(whole.permute(0, 2, 3, 1).double().numpy()))
    for column in range(theirs.shape[1]):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-4


def test_resize_of_small_images() -> None:
    draws = rng(0)
    for _ in range(300):
        (rows, columns), (height, width) = draws.integers(1, 40, (2, 2)).tolist()
        image = draws.integers(0, 256, (rows, columns, 3), np.uint8)
        expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(opencv_resize(image, height, width), expected)


def test_white_stays_white() -> None:
    for size in range(1, 120):
        assert (opencv_resize(np.full((41, 67, 3), 255, np.uint8), size, 2 * size) == 255).all()


@pytest.mark.parametrize("size", [32, 224, 225])
def test_standard_validation(photographs: dict[str, Any], size: int) -> None:
    oracle = v2.Compose([v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size)])
    for photograph in photographs.values():
        assert as_torchvision(EvalTransform("standard", size, stored=False)(photograph), oracle(to_tensor(photograph)))


def test_standard_size_is_torchvisions_where_rounding_is_close() -> None:
    image = np.random.default_rng(0).integers(0, 256, (206, 412, 3), np.uint8)  # 256 / 206 * 412 is 511.99...
    oracle = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    assert as_torchvision(EvalTransform("standard", 224, stored=False)(image), oracle(to_tensor(image)))


def test_padding_has_to_leave_an_image() -> None:
    TrainTransform("spos", 8, Augmentation("padded", padding=7, jitter=0))(np.zeros((8, 8, 3), np.uint8), rng(0))
    with pytest.raises(ConfigError, match=r"padding is 8, .* 8 pixels out of sight; use at most 7"):
        TrainTransform("spos", 8, Augmentation("padded", padding=8))


def test_one_crop_differs_from_pils_by_rounding_only(photographs: dict[str, Any]) -> None:
    transform = TrainTransform("spos", 224, Augmentation(flip=False, jitter=0))
    for seed, photograph in enumerate(photographs.values()):
        crop = random_crop(*photograph.shape[:2], 0.08, rng(seed))
        expected = np.asarray(classic.functional.resized_crop(Image.fromarray(photograph), *crop, [224, 224]), int)
        assert np.abs(transform(photograph, rng(seed)).image.permute(1, 2, 0).numpy() - expected).max() <= 1
        mirrored = TrainTransform("spos", 224, Augmentation(jitter=0))
        flips = [mirrored(photograph, rng(100 * seed + turn)).image for turn in range(20)]
        plain = [transform(photograph, rng(100 * seed + turn)).image for turn in range(20)]
        same = [torch.equal(one, other) for one, other in zip(flips, plain, strict=True)]
        assert 2 < sum(same) < 18
        assert all(torch.equal(a, b) or torch.equal(a, b.flip(2)) for a, b in zip(flips, plain, strict=True))


@pytest.mark.parametrize(
    ("min_scale", "ratio"), [(0.08, (3 / 4, 4 / 3)), (0.6, (3 / 4, 4 / 3)), (0.3, (1, 1)), (0.2, (0.5, 0.8))]
)
@pytest.mark.parametrize("size", [(375, 500), (40, 31), (60, 500), (700, 90)])
def test_random_crops_are_torchvisions(size: tuple[int, int], min_scale: float, ratio: tuple[float, float]) -> None:
    """Also where few of ten draws fit, or none."""
    count = 1500
    torch.manual_seed(0)
    blank = torch.empty(3, *size, device="meta")
    theirs = np.array(
        [
            classic.RandomResizedCrop.get_params(blank, [min_scale, 1.0], list(ratio))  # type: ignore[arg-type]
            for _ in range(count)
        ]
    )
    ours = np.array([random_crop(*size, min_scale, rng(seed), ratio) for seed in range(count)])
    for measure in (lambda p: p[:, 0], lambda p: p[:, 1], lambda p: p[:, 2] * p[:, 3], lambda p: p[:, 3] / p[:, 2]):
        assert stats.ks_2samp(measure(ours), measure(theirs)).pvalue > 1e-4


def test_a_crop_has_a_pixel_at_least() -> None:
    """Where torchvision's would be empty."""
    assert random_crop(1, 1, 0.9, rng(0), (5, 6)) == (0, 0, 1, 1)
    assert random_crop(2, 1, 0.9, rng(0), (5, 6))[2:] == (1, 1)


def test_a_crop_is_of_the_chosen_ratio() -> None:
    square = TrainTransform("standard", 8, Augmentation(ratio=(1, 1), flip=False, jitter=0))
    stripes = np.zeros((40, 40, 3), np.uint8)
    for seed in range(20):
        top, left, height, width = random_crop(40, 40, 0.08, rng(seed), (1, 1))
        assert height == width
        stripes[:] = 0
        stripes[top : top + height, left : left + width] = 255
        assert (square(stripes, rng(seed)).image == 255).all()


def test_crops_of_extreme_images_are_torchvisions() -> None:
    for size in [(1, 100), (100, 1), (3, 200), (1, 1), (2, 3)]:
        torch.manual_seed(0)
        blank = torch.empty(3, *size, device="meta")
        theirs = {classic.RandomResizedCrop.get_params(blank, [0.9, 1.0], [3 / 4, 4 / 3]) for _ in range(300)}  # type: ignore[arg-type]
        assert {random_crop(*size, 0.9, rng(seed)) for seed in range(300)} == theirs


CHANGES = [getattr(v2.functional, f"adjust_{name}") for name in ("brightness", "contrast", "saturation")]


@pytest.mark.parametrize("order", range(6))
def test_composed_jitter_is_torchvisions_in_each_order(order: int) -> None:
    """On middle values, where nothing is clipped; exact in floating point, but uint8 and PIL round down each time."""
    image = torch.from_numpy(PHOTOS["astronaut"][:200, :200]).permute(2, 0, 1) // 4 + 96
    for seed in range(10):
        factors = rng(seed).uniform(0.8, 1.2, 3).tolist()
        changes = list(itertools.permutations(range(3)))[order]
        exact, rounded, in_pil = image.double() / 255, image, Image.fromarray(image.permute(1, 2, 0).numpy())
        for change in changes:
            exact, rounded, in_pil = (CHANGES[change](x, factors[change]) for x in (exact, rounded, in_pil))
        ours = recolour(image[None], torch.tensor([compose_jitter(factors, order)]))[0]
        assert ours.min() > 0
        assert ours.max() < 255
        assert (ours - exact * 255).abs().max() < 0.001
        for theirs in (rounded, torch.from_numpy(np.array(in_pil)).permute(2, 0, 1)):
            assert (ours - theirs).abs().max() < 4
            assert (ours - theirs).mean() < 2


def test_jitter_is_distributed_as_torchvisions() -> None:
    transform = TrainTransform("spos", 4, Augmentation(jitter=0.4))
    ours = np.array([transform(np.zeros((4, 4, 3), np.uint8), rng(seed)).colours for seed in range(2000)])
    torch.manual_seed(0)
    interval, orders = [0.6, 1.4], list(itertools.permutations(range(3)))
    theirs = []
    for _ in range(2000):
        order, *factors, _ = classic.ColorJitter.get_params(interval, interval, interval, [0.0, 0.0])  # type: ignore[arg-type]
        changes = tuple(change for change in order.tolist() if change < 3)
        theirs.append(compose_jitter(factors, orders.index(changes)))  # type: ignore[arg-type]
    for column in range(3):
        assert stats.ks_2samp(ours[:, column], np.array(theirs)[:, column]).pvalue > 1e-4


@pytest.mark.parametrize("size", [1, 5, 6, 32])
def test_recolour_is_its_formula(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=generator)
    colours = torch.rand(3, 3, generator=generator) - torch.tensor([-0.5, 0.5, 0.5])
    values = images.double()
    gray = (values * torch.tensor(GRAY_WEIGHTS, dtype=torch.float64).view(3, 1, 1)).sum(1, keepdim=True)
    alpha, beta, delta = colours.double().view(3, 3, 1, 1, 1).unbind(1)
    expected = (alpha * values + beta * gray + delta * gray.mean((1, 2, 3), keepdim=True)).clamp(0, 255)
    for memory in (torch.channels_last, torch.contiguous_format):
        ours = recolour(images.contiguous(memory_format=memory), colours)
        assert ours.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-3)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(preprocess("spos", images, colours), ours.flip(1))
            torch.testing.assert_close(preprocess("standard", images, colours), preprocess("standard", ours))


def test_colours_that_change_nothing_leave_the_values_exact() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    nothing = torch.tensor([[1.0, 0.0, 0.0]]).repeat(2, 1)
    for preset in ("spos", "standard"):
        assert torch.equal(preprocess(preset, images, nothing), preprocess(preset, images))  # type: ignore[arg-type]


@pytest.mark.parametrize("preset", ["spos", "standard"])
def test_preprocessing_never_waits_for_the_device(preset: PresetName) -> None:
    """The meta device has no values to wait for."""
    images, colours = torch.empty(4, 3, 8, 8, dtype=torch.uint8, device="meta"), torch.empty(4, 3, device="meta")
    for given in (colours, None):
        assert preprocess(preset, images, given).shape == (4, 3, 8, 8)


def test_the_number_of_images_at_a_time_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    colours = torch.rand(7, 3)
    whole = recolour(images, colours)
    for number in (1, 2, 3, 7):
        monkeypatch.setattr(transforms, "VALUES_PER_PASS", number * 3 * 32 * 32)
        torch.testing.assert_close(recolour(images, colours), whole, rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(96, 160), (160, 96), (64, 65), (33, 200)])
def test_an_evaluation_of_height_and_width(photographs: dict[str, Any], size: tuple[int, int]) -> None:
    """The image keeps its proportions and covers 256 / 224 of the crop; then its centre is cropped."""
    height, width = size
    for preset in ("spos", "standard"):
        transform = EvalTransform(preset, height, stored=False, width=width)  # type: ignore[arg-type]
        for photograph in photographs.values():
            rows, columns = photograph.shape[:2]
            scale = max(round(height * 256 / 224) / rows, round(width * 256 / 224) / columns)
            add = 0.5 if preset == "spos" else 1e-9
            target = int(rows * scale + add), int(columns * scale + add)
            if preset == "standard":
                oracle = v2.Compose([v2.Resize(target, antialias=True), v2.CenterCrop(size)])
                assert as_torchvision(transform(photograph), oracle(to_tensor(photograph)))
            else:
                resized = cv2.resize(photograph, target[::-1], interpolation=cv2.INTER_LINEAR)
                expected = np.array(classic.CenterCrop(size)(Image.fromarray(resized)))
                assert np.array_equal(transform(photograph).permute(1, 2, 0).numpy(), expected)
    assert repr(transform) == f"EvalTransform('standard', {height}, stored=False, width={width})"
    stored = np.zeros((height, width, 3), np.uint8)
    stored[0, 0] = 9
    kept = EvalTransform("standard", height, stored=True, width=width)(stored)
    assert np.array_equal(kept.permute(1, 2, 0).numpy(), stored)
