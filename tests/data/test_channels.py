"""Images of one channel, and of more than three."""

from __future__ import annotations

import base64
import io
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data as photographs

from spos_cli.data import cache, image_files
from spos_cli.data.array_set import ArraySet
from spos_cli.data.augmentation import Augmentation
from spos_cli.data.cache import ResizedSet
from spos_cli.data.channels import fit_channels
from spos_cli.data.folder_set import FolderSet
from spos_cli.data.image_files import Decoding, Pixels, decode, measure
from spos_cli.data.image_store import ImageStore
from spos_cli.data.levels import ValueRange
from spos_cli.data.loaders import BadImages, evaluation_batches, training_batches
from spos_cli.data.thumbnails import make_thumbnail
from spos_cli.data.transforms import EvalTransform, TrainTransform, compose_jitter, recolour
from spos_cli.errors import ConfigError, DataError

GREY, FIVE = Decoding(channels=1), Decoding(channels=5)
PHOTO = photographs.astronaut()[:60, :80]


def noise(*shape: int, high: int = 256, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def save_array(path: Path, values: Any) -> Path:
    np.save(path, values)
    return path


# One channel


@pytest.mark.parametrize("has_simplejpeg", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_becomes_grey_as_by_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, has_simplejpeg: bool
) -> None:
    if not has_simplejpeg:
        monkeypatch.setattr(image_files, "_import_simplejpeg", lambda: None)
    Image.fromarray(PHOTO).convert(mode).save(tmp_path / "x.jpg")
    with Image.open(tmp_path / "x.jpg") as image:
        expected = np.array(image.convert("RGB").convert("L"))[..., None]
    assert np.array_equal(decode(tmp_path / "x.jpg", GREY), expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1"])
def test_every_mode_becomes_grey(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(PHOTO).convert(mode)
    image.save(tmp_path / "x.png")
    grey = decode(tmp_path / "x.png", GREY)
    assert grey.shape == (60, 80, 1)
    assert np.array_equal(grey[..., 0], np.array(image.convert("RGB").convert("L")))
    if mode in ("L", "LA", "1"):
        assert np.array_equal(np.repeat(grey, 3, 2), decode(tmp_path / "x.png")), "grey keeps its values"


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.npy"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_become_grey(tmp_path: Path, name: str, channels: int) -> None:
    values = noise(20, 30, channels, high=4096, dtype=np.uint16)
    path, setting = tmp_path / name, Decoding((0, 4095), channels=1)
    if name == "x.npy":
        save_array(path, values)
    elif name == "x.tif" or channels == 3:
        tifffile.imwrite(path, values.squeeze()) if name == "x.tif" else write_png(path, values)
    else:
        Image.fromarray(values[..., 0]).save(path)
    scaled = (values * 255.0 / 4095 + 0.5).astype(np.uint8)
    assert np.array_equal(decode(path, setting), fit_channels(scaled, 1))
    with pytest.raises(ConfigError, match=r"16-bit values from \d+ to \d+; .*data\.value_range: \[0, 4095\]"):
        decode(path, GREY)


@pytest.mark.parametrize("name", ["x.tif", "x.npy"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_floating_point_numbers_become_grey(tmp_path: Path, name: str, orientation: int) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (20, 30)).astype(np.float32)
    if name == "x.npy":
        save_array(tmp_path / name, values)
    else:
        tifffile.imwrite(tmp_path / name, values, extratags=[(274, "H", 1, orientation, True)])
        values = np.rot90(values, -1) if orientation == 6 else values
    expected = np.clip((values.astype(float) + 0.5) * 255 + 0.5, 0, 255).astype(np.uint8)
    assert np.array_equal(decode(tmp_path / name, Decoding((-0.5, 0.5), channels=1))[..., 0], expected)
    assert np.array_equal(decode(tmp_path / name, Decoding((-0.5, 0.5)))[..., 2], expected)


def write_png(path: Path, values: NDArray[Any]) -> None:
    assert cv2.imwrite(str(path), values[..., ::-1])


def test_images_in_memory_become_grey() -> None:
    grey, colour = noise(4, 8, 8), noise(4, 8, 8, 3)
    for pixels in (grey, colour):
        images = ArraySet("x", ("a", "b"), pixels, np.arange(4) % 2, GREY)
        assert images.image(2).shape == (8, 8, 1)
    assert np.array_equal(ArraySet("x", ("a", "b"), grey, np.arange(4) % 2, GREY).image(2)[..., 0], grey[2])


def test_jitter_of_grey_is_that_of_colours_without_colour() -> None:
    grey = torch.from_numpy(noise(3, 1, 8, 6))
    for order in range(6):
        colours = torch.tensor([compose_jitter([0.7, 1.3, factor], order) for factor in (0.5, 1.0, 1.5)])
        expected = recolour(grey.repeat(1, 3, 1, 1), colours)
        for channel in range(3):
            torch.testing.assert_close(recolour(grey, colours)[:, 0], expected[:, channel], rtol=0, atol=0.1)


@pytest.mark.parametrize("policy", ["rand_augment", "trivial_augment"])
def test_torchvisions_operations_take_grey_images(policy: str) -> None:
    chosen = (2, 20) if policy == "rand_augment" else True
    augmentation = Augmentation("none", flip=False, jitter=0, **{policy: chosen})  # type: ignore[arg-type]
    transform, image = TrainTransform("standard", 16, augmentation, (0.5,)), noise(16, 16, 1)
    results = [transform(image, np.random.default_rng(seed)).image for seed in range(80)]
    assert {tuple(result.shape) for result in results} == {(1, 16, 16)}
    assert len({result.numpy().tobytes() for result in results}) > 40


# Any number of channels


@pytest.mark.parametrize("channels", [2, 5, 16])
@pytest.mark.parametrize(
    ("dtype", "low", "high", "value_range"),
    [
        (np.uint8, 0, 256, "auto"),
        (np.uint16, 0, 65536, "dtype"),
        (">u2", 0, 4096, (0, 4095)),
        (np.int8, -128, 128, "dtype"),
        (np.int64, -1000, 3000, (-1000, 3000)),
        (np.float32, -2, 3, (-1.5, 2.5)),
        (np.float16, 0, 9, (0, 8)),
    ],
)
def test_arrays_have_any_number_of_channels(
    tmp_path: Path, channels: int, dtype: Any, low: int, high: int, value_range: ValueRange
) -> None:
    values = np.random.default_rng(1).integers(low, high, (9, 11, channels)).astype(dtype)
    pixels = decode(save_array(tmp_path / "x.npy", values), Decoding(value_range, channels=channels))
    black, white = {"auto": (0, 255), "dtype": (low, high - 1)}.get(str(value_range), value_range)
    scaled = (values.astype(np.float64) - black) * 255 / (white - black) + 0.5  # type: ignore[operator]
    assert np.array_equal(pixels, np.clip(scaled, 0, 255).astype(np.uint8))
    measured = measure(tmp_path / "x.npy", channels)
    assert measured is None if dtype == np.uint8 else measured and measured.least == values.min()


def test_arrays_of_grey_and_colour_are_converted(tmp_path: Path) -> None:
    grey, colour = noise(9, 11), noise(9, 11, 3)
    assert np.array_equal(decode(save_array(tmp_path / "x.npy", grey)), np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(decode(save_array(tmp_path / "x.npy", grey[..., None]), GREY), grey[..., None])
    assert np.array_equal(decode(save_array(tmp_path / "x.npy", colour)), colour)
    pixels = decode(save_array(tmp_path / "x.npy", np.asfortranarray(colour)))
    assert np.array_equal(pixels, colour)
    assert pixels.flags.c_contiguous


def test_sixteen_bits_need_a_range(tmp_path: Path) -> None:
    save_array(tmp_path / "x.npy", noise(9, 11, 5, high=4000, dtype=np.uint16))
    with pytest.raises(ConfigError, match=r"x\.npy has 16-bit values from .*set data\.value_range: \[0, 4095\]"):
        decode(tmp_path / "x.npy", FIVE)
    save_array(tmp_path / "x.npy", np.full((4, 4, 5), np.nan))
    with pytest.raises(DataError, match="not finite"):
        decode(tmp_path / "x.npy", Decoding((0, 1), channels=5))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (noise(9, 11, 4), r"\(9, 11, 4\); it should be \(height, width, 5\)"),
        (noise(5, 9, 11), r"\(5, 9, 11\); it should be \(height, width, 5\)"),
        (noise(9, 11, 3), "has 3 channels, but space.stem.in_channels is 5"),
        (noise(9, 11), "has 1 channel, but"),
        (noise(9), r"\(9,\); it should be"),
        (noise(1, 9, 11, 5), r"\(1, 9, 11, 5\); it should be"),
        (noise(2, 300, 5), "aspect ratio too extreme"),
        (np.zeros((9, 11, 5), bool), "type bool"),
        (np.zeros((9, 11, 5), complex), "type complex128"),
        (np.zeros((9, 11), "u1,u1"), "save whole or floating-point"),
        (np.zeros((0, 11, 5), np.uint8), r"x\.npy"),
    ],
)
def test_what_is_no_image_of_five_channels(tmp_path: Path, values: Any, reason: str) -> None:
    with pytest.raises(DataError, match=rf"cannot read the image .*x\.npy.*{reason}|{reason}"):
        decode(save_array(tmp_path / "x.npy", values), FIVE)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        raise AssertionError("code from a file was run")


def test_files_that_are_not_arrays_are_errors_and_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, zipped = save_array(tmp_path / "whole.npy", noise(9, 11, 5)).read_bytes(), io.BytesIO()
    np.savez(zipped, x=noise(9, 11, 5))
    objects = save_array(tmp_path / "objects.npy", np.array([{"a": 1}], object)).read_bytes()
    huge = whole.replace(b"(9, 11, 5)", b"(90000, 11000, 5)").replace(b" " * 7 + b"\n", b"\n")
    contents = [b"", whole[:5], whole[:50], whole[:-1], b"hello", zipped.getvalue(), objects, pickle.dumps([1]), huge]
    for content in contents:
        (tmp_path / "x.npy").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.npy"):
            decode(tmp_path / "x.npy", FIVE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 98)
    with pytest.raises(DataError, match="too many pixels"):
        decode(tmp_path / "whole.npy", FIVE)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.webp"])
def test_four_bands_are_read_as_they_are(tmp_path: Path, name: str) -> None:
    values = noise(9, 11, 4)
    Image.fromarray(values).save(tmp_path / name, **({"lossless": True, "exact": True} if name == "x.webp" else {}))
    assert np.array_equal(decode(tmp_path / name, Decoding(channels=4)), values)
    assert np.array_equal(decode(tmp_path / name), values[..., :3])
    with pytest.raises(DataError, match=r"4 channels, but space\.stem\.in_channels is 5"):
        decode(tmp_path / name, FIVE)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_four_bands_of_16_bits(tmp_path: Path, name: str) -> None:
    values = noise(9, 11, 4, high=4096, dtype=np.uint16)
    values[0, 0, 3] = 5000
    if name == "x.png":
        assert cv2.imwrite(str(tmp_path / name), values[..., [2, 1, 0, 3]])
    else:
        tifffile.imwrite(tmp_path / name, values, photometric="rgb", extrasamples=["unassalpha"])
    setting = Decoding((0, 5000), channels=4)
    assert np.array_equal(decode(tmp_path / name, setting), (values * 255.0 / 5000 + 0.5).astype(np.uint8))
    most = [found.most for channels in (4, 3) if (found := measure(tmp_path / name, channels))]
    assert most == [5000, values[..., :3].max()], "what is dropped does not count"


def test_bands_that_pillow_leaves_out_are_an_error(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", noise(9, 11, 6), photometric="rgb", extrasamples=[0, 0, 0])
    for channels in (4, 6):
        with pytest.raises(DataError, match=r"x\.tif: Pillow reads [34] of its 6 channels; save it as \.npy"):
            decode(tmp_path / "x.tif", Decoding(channels=channels))
    tifffile.imwrite(tmp_path / "x.tif", noise(9, 11, 5), photometric="minisblack", extrasamples=[0, 0, 0, 0])
    with pytest.raises(DataError, match=r"x\.tif"):
        decode(tmp_path / "x.tif", FIVE)


# The way to the network


@pytest.mark.parametrize("preset", ["spos", "standard"])
@pytest.mark.parametrize("crop", ["random_resized", "padded", "none"])
def test_each_channel_is_cropped_alike(preset: Any, crop: Any) -> None:
    augmentation = Augmentation(crop, jitter=0, erasing=0.5, vertical_flip=True)
    image = noise(37, 50, 5)
    transform = TrainTransform(preset, 16, augmentation, (0.1, 0.2, 0.3, 0.4, 0.5))
    for seed in range(20):
        result = transform(image, np.random.default_rng(seed)).image
        assert result.shape == (5, 16, 16)
        for channel in range(5):
            single = TrainTransform(preset, 16, augmentation, ((channel + 1) / 10,))
            alone = single(np.ascontiguousarray(image[..., channel : channel + 1]), np.random.default_rng(seed)).image
            assert torch.equal(alone[0], result[channel])
    evaluated = EvalTransform(preset, 16, stored=False)(image)
    grey = EvalTransform(preset, 16, stored=False)(np.ascontiguousarray(image[..., 3:4]))
    assert torch.equal(evaluated[3], grey[0])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Make a class with twelve arrays of five channels, one of them torn and one of four channels."""
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    for index in range(12):
        save_array(folder / f"{index:02}.npy", np.random.default_rng(index).integers(0, 256, (20, 30, 5), np.uint8))
    (folder / "03.npy").write_bytes(b"torn")
    save_array(folder / "05.npy", noise(20, 30, 4))
    return tmp_path / "train"


def test_another_number_of_channels_counts_as_broken(files: Path) -> None:
    transform, said = TrainTransform("standard", 16, Augmentation("none", jitter=0), (0.5,) * 5), list[str]()
    options: dict[str, Any] = {"seed": 0, "batch_size": 12, "first_step": 0, "last_step": 1}
    images = FolderSet(files, FIVE)
    (batch,) = training_batches(images, np.arange(12), transform, bad_images=BadImages(2, said.append), **options)
    assert batch[0].shape == (12, 5, 16, 16)
    assert sorted("05.npy" in one for one in said) == [False, True]
    with pytest.raises(DataError, match=r"05\.npy.*\(20, 30, 4\)"):
        list(evaluation_batches(images, np.array([5]), EvalTransform("standard", 16, stored=False), batch_size=1))


def test_caches_keep_all_channels(files: Path, tmp_path: Path) -> None:
    images, good = ResizedSet(FolderSet(files, FIVE), 10), np.array([0, 1, 2, 4, 6, 7, 8, 9])
    kept = cache.keep_in_memory(images, np.arange(12), BadImages(2, print))
    cache.write(tmp_path / "cache.u8", images, np.arange(12), BadImages(2, print))
    read = cache.read(tmp_path / "cache.u8", images, np.arange(12))
    assert read is not None
    for index in good.tolist():
        expected = images.image(index)
        assert expected.shape == (10, 15, 5)
        assert np.array_equal(kept.image(index), expected)
        assert np.array_equal(read.image(index), expected)
    assert (
        cache.read(tmp_path / "cache.u8", ResizedSet(FolderSet(files, Decoding(channels=4)), 10), np.arange(12)) is None
    )

    transform, path = EvalTransform("standard", 8, stored=False), tmp_path / "store.u8"
    ImageStore.build(path, images, good, transform)
    assert torch.equal(ImageStore.open(path).images[1], transform(images.image(1)))
    assert ImageStore.open(path).images.shape == (8, 5, 8, 8)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_thumbnails_of_any_number_of_channels(channels: int) -> None:
    image: Pixels = noise(channels, 8, 8)
    content = base64.b64decode(make_thumbnail(torch.from_numpy(image)).partition(",")[2])
    shown = np.asarray(Image.open(io.BytesIO(content)))
    expected = image[:3] if channels == 5 else np.repeat(image[:1], 3, 0)
    assert np.array_equal(shown, expected.transpose(1, 2, 0))
