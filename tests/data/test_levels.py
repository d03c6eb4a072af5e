"""Every kind of pixel values is scaled as NumPy scales the values that were written."""

from __future__ import annotations

import functools
import re
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import yaml
from numpy.typing import NDArray
from PIL import Image

from spos_cli.config import loading
from spos_cli.data import image_files, inspection, levels
from spos_cli.data.cache import ResizedSet, keep_in_memory
from spos_cli.data.folder_set import FolderSet
from spos_cli.data.image_files import Decoding, Pixels, list_extensions, measure
from spos_cli.data.image_store import ImageStore
from spos_cli.data.levels import ValueRange
from spos_cli.data.loaders import BadImages, evaluation_batches, training_batches
from spos_cli.data.transforms import Augmentation, EvalTransform, TrainTransform
from spos_cli.errors import ConfigError, DataError

Values = NDArray[Any]
Write = Callable[[Path, Values], object]
HEIGHT, WIDTH = 40, 50


def decode(path: Path, value_range: ValueRange = "auto") -> Pixels:
    return image_files.decode(path, Decoding(value_range))


def tif(**options: Any) -> Write:
    return lambda path, values: tifffile.imwrite(path, values, **options)


def planes(path: Path, values: Values) -> None:
    tifffile.imwrite(path, np.moveaxis(values, 2, 0), photometric="rgb", planarconfig="separate")


def pillow(path: Path, values: Values) -> None:
    Image.fromarray(values).save(path)


def opencv(path: Path, values: Values) -> None:
    assert cv2.imwrite(str(path), values[..., ::-1] if values.ndim == 3 else values)


def png(path: Path, values: Values) -> None:
    """16-bit PNG of any number of channels, with the filter `Sub` in each row."""
    height, width, channels = (*values.shape, 1)[:3]
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = rows.copy()
    filtered[:, 2 * channels :] -= rows[:, : -2 * channels]
    content = b"".join(b"\1" + row.tobytes() for row in filtered)
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(content)), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    )


def netpbm(magic: str, largest: int, path: Path, values: Values) -> None:
    head = f"{magic}\n# a comment\n{values.shape[1]} {values.shape[0]}\n{largest}\n".encode()
    plain = " ".join(map(str, values.ravel().tolist())).encode()
    path.write_bytes(head + (plain if magic in ("P2", "P3") else values.astype(">u2").tobytes()))


def pnm(magic: str, largest: int = 65535) -> Write:
    return functools.partial(netpbm, magic, largest)


def ramp(low: int, high: int, dtype: Any, channels: int = 0) -> Values:
    """From `low` to `high`, both included; each channel in another order."""
    grey = np.linspace(low, high, HEIGHT * WIDTH).round().astype(dtype).reshape(HEIGHT, WIDTH)
    turned = [grey, grey[::-1], grey[:, ::-1], grey[::-1, ::-1]]
    return np.stack(turned[:channels], 2) if channels else grey


def expected(values: Values, low: float, high: float) -> Values:
    """Fractions, since floating-point numbers are what is tested; halves are rounded up."""
    colours = values[..., :3] if values.ndim == 3 and values.shape[2] >= 3 else values
    colours = colours[..., 0] if colours.ndim == 3 and colours.shape[2] == 2 else colours
    unique, indices = np.unique(colours, return_inverse=True)
    levels_of = []
    for value in unique.tolist():
        share = (Fraction(value) - Fraction(low)) / (Fraction(high) - Fraction(low))
        levels_of.append(min(255, max(0, (share * 255 + Fraction(1, 2)).__floor__())))
    scaled = np.array(levels_of, np.uint8)[indices].reshape(colours.shape)
    return scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, 2)


# What is written, by whom, and the range of its type.
KINDS: dict[str, tuple[str, Write, Values, tuple[int, int] | None]] = {
    "uint16 PNG": ("x.png", png, ramp(0, 65535, np.uint16), (0, 65535)),
    "12 bits in uint16 PNG": ("x.png", png, ramp(0, 4095, np.uint16), (0, 65535)),
    "uint16 PNG by Pillow": ("x.png", pillow, ramp(7, 4095, np.uint16), (0, 65535)),
    "uint16 PNG, RGB": ("x.png", png, ramp(0, 65535, np.uint16, 3), (0, 65535)),
    "uint16 PNG, RGB, by OpenCV": ("x.png", opencv, ramp(0, 1023, np.uint16, 3), (0, 65535)),
    "uint16 PNG, RGBA": ("x.png", png, ramp(0, 4095, np.uint16, 4), (0, 65535)),
    "uint16 PNG, LA": ("x.png", png, ramp(0, 4095, np.uint16, 2), (0, 65535)),
    "uint16 TIFF": ("x.tif", tif(), ramp(0, 4095, np.uint16), (0, 65535)),
    "uint16 TIFF, big-endian": ("x.tif", tif(byteorder=">"), ramp(0, 4095, np.uint16), (0, 65535)),
    "uint16 TIFF, compressed": ("x.tif", tif(compression="zlib"), ramp(0, 4095, np.uint16), (0, 65535)),
    "uint16 TIFF, compressed, big-endian": (
        "x.tif",
        tif(compression="zlib", byteorder=">"),
        ramp(0, 4095, np.uint16),
        (0, 65535),
    ),
    "uint16 TIFF in tiles": ("x.tif", tif(tile=(16, 16)), ramp(0, 4095, np.uint16), (0, 65535)),
    "uint16 TIFF of two pages": (
        "x.tif",
        lambda path, values: tifffile.imwrite(path, np.stack([values, values[::-1]]), photometric="minisblack"),
        ramp(0, 4095, np.uint16),
        (0, 65535),
    ),
    "uint16 TIFF, RGB": ("x.tif", tif(photometric="rgb"), ramp(0, 4095, np.uint16, 3), (0, 65535)),
    "uint16 TIFF, RGB, big-endian": (
        "x.tif",
        tif(photometric="rgb", byteorder=">"),
        ramp(0, 4095, np.uint16, 3),
        (0, 65535),
    ),
    "uint16 TIFF, RGB, by OpenCV": ("x.tif", opencv, ramp(0, 4095, np.uint16, 3), (0, 65535)),
    "uint16 TIFF, RGB, compressed, big-endian": (
        "x.tif",
        tif(photometric="rgb", compression="zlib", byteorder=">"),
        ramp(0, 65535, np.uint16, 3),
        (0, 65535),
    ),
    "uint16 TIFF, RGBA": (
        "x.tif",
        tif(photometric="rgb", extrasamples=["unassalpha"]),
        ramp(0, 4095, np.uint16, 4),
        (0, 65535),
    ),
    "uint16 TIFF, RGBX in tiles": (
        "x.tif",
        tif(photometric="rgb", extrasamples=["unspecified"], tile=(16, 16)),
        ramp(0, 4095, np.uint16, 4),
        (0, 65535),
    ),
    "int8 TIFF": ("x.tif", tif(), ramp(-128, 127, np.int8), (-128, 127)),
    "int8 TIFF, compressed": ("x.tif", tif(compression="zlib"), ramp(-20, 127, np.int8), (-128, 127)),
    "int16 TIFF": ("x.tif", tif(), ramp(-1000, 3000, np.int16), (-32768, 32767)),
    "int16 TIFF, big-endian": ("x.tif", tif(byteorder=">"), ramp(-1000, 3000, np.int16), (-32768, 32767)),
    "int16 TIFF, compressed, big-endian": (
        "x.tif",
        tif(compression="zlib", byteorder=">"),
        ramp(-1000, 3000, np.int16),
        (-32768, 32767),
    ),
    "int32 TIFF of 8 bits": ("x.tif", pillow, ramp(0, 255, np.int32), (-(2**31), 2**31 - 1)),
    "int32 TIFF, -256 to -1": ("x.tif", pillow, ramp(-256, -1, np.int32), (-(2**31), 2**31 - 1)),
    "int32 TIFF, compressed, big-endian": (
        "x.tif",
        tif(compression="zlib", byteorder=">"),
        ramp(-5, 10**6, np.int32),
        (-(2**31), 2**31 - 1),
    ),
    "uint32 TIFF": ("x.tif", tif(), ramp(0, 2**32 - 1, np.uint32), (0, 2**32 - 1)),
    "uint32 TIFF, compressed": ("x.tif", tif(compression="zlib"), ramp(0, 70000, np.uint32), (0, 2**32 - 1)),
    "float32 TIFF": ("x.tif", tif(), ramp(0, 1000, np.float32) / 1024, None),
    "float32 TIFF, big-endian": ("x.tif", tif(byteorder=">"), ramp(-500, 500, np.float32) / 1024, None),
    "float32 TIFF, compressed, big-endian": (
        "x.tif",
        tif(compression="zlib", byteorder=">"),
        ramp(-500, 500, np.float32) / 1024,
        None,
    ),
    "float32 PFM": ("x.pfm", pillow, ramp(0, 1000, np.float32) / 8, None),
    "JPEG 2000": ("x.jp2", pillow, ramp(0, 4095, np.uint16), (0, 65535)),
    "PGM": ("x.pgm", pnm("P5"), ramp(0, 4095, np.uint16), (0, 65535)),
    "PGM that declares 12 bits": ("x.pgm", pnm("P5", 4095), ramp(0, 4000, np.uint16), (0, 4095)),
    "PGM in digits": ("x.pgm", pnm("P2", 4095), ramp(0, 4095, np.uint16), (0, 4095)),
    "PPM": ("x.ppm", pnm("P6"), ramp(0, 4095, np.uint16, 3), (0, 65535)),
    "PPM that declares 12 bits": ("x.ppm", pnm("P6", 4095), ramp(0, 4000, np.uint16, 3), (0, 4095)),
}
every = pytest.mark.parametrize(("name", "write", "values", "whole"), KINDS.values(), ids=KINDS.keys())


@every
def test_a_range_is_scaled_to_0_to_255(
    tmp_path: Path, name: str, write: Write, values: Values, whole: tuple[int, int] | None
) -> None:
    write(tmp_path / name, values)
    least, most = values.min().item(), values.max().item()
    part = (most - least) / 4  # a float without rounding, so that halves are halves
    for low, high in ((least, most), (least + part, most - part), (least - part, most), (least, most + part)):
        assert np.array_equal(decode(tmp_path / name, (low, high)), expected(values, low, high))
    kept = len(np.unique(decode(tmp_path / name, (least, most))))
    assert kept >= min(200, len(np.unique(values))), "no level is lost"


@every
def test_dtype_is_the_range_of_the_type(
    tmp_path: Path, name: str, write: Write, values: Values, whole: tuple[int, int] | None
) -> None:
    write(tmp_path / name, values)
    if whole is None:
        with pytest.raises(ConfigError, match=r"floating-point values from .*set data\.value_range: \["):
            decode(tmp_path / name, "dtype")
    else:
        assert np.array_equal(decode(tmp_path / name, "dtype"), expected(values, *whole))


@every
def test_nothing_is_guessed(
    tmp_path: Path, name: str, write: Write, values: Values, whole: tuple[int, int] | None
) -> None:
    """The message names the file, what is in it, and a setting with which no level is lost."""
    write(tmp_path / name, values)
    with pytest.raises(ConfigError) as refused:
        decode(tmp_path / name)
    message = str(refused.value)
    colours = values[..., :3] if values.ndim == 3 and values.shape[2] > 2 else values
    colours = colours[..., 0] if colours.ndim == 3 and colours.shape[2] == 2 else colours
    found = re.search(r"values from (\S+) to (\S+); ", message)
    assert found
    assert [float(number) for number in found.groups()] == pytest.approx([colours.min(), colours.max()])
    assert str(tmp_path / name) in message
    assert "\n" not in message
    assert (f"dtype if all images use {whole[0]} to {whole[1]}" in message) if whole else ("dtype" not in message)
    advised = re.search(r"set (data\.value_range: \[.*?\])", message)
    assert advised
    section, _, setting = advised[1].partition(".")
    settings = loading.validate({section: yaml.safe_load(setting)})
    pixels = decode(tmp_path / name, settings.data.value_range)
    assert len(np.unique(pixels)) >= 64
    measured = measure(tmp_path / name)
    assert measured is not None
    assert not levels.list_doubts([measured], settings.data.value_range)


@pytest.mark.parametrize(
    ("name", "write", "channels"),
    [
        ("x.ppm", pnm("P3"), 3),
        ("x.tif", tif(photometric="rgb", extrasamples=["assocalpha"]), 4),
        ("x.tif", tif(photometric="separated"), 4),
    ],
    ids=["PPM in digits", "premultiplied alpha", "CMYK"],
)
def test_colours_that_pillow_gives_in_8_bits_only(tmp_path: Path, name: str, write: Write, channels: int) -> None:
    values = ramp(0, 65535, np.uint16, 3)
    if channels == 4:
        values = np.concatenate([values, np.full((HEIGHT, WIDTH, 1), 40000, np.uint16)], 2)
    write(tmp_path / name, values)
    for setting in ("auto", (0, 4095)):
        with pytest.raises(ConfigError, match=r"16-bit values; .*set data\.value_range: dtype, or save it as"):
            decode(tmp_path / name, setting)
    with Image.open(tmp_path / name) as image:
        assert np.array_equal(decode(tmp_path / name, "dtype"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("name", ["x.jp2", "x.avif"])
def test_colours_of_more_bits_in_other_formats(tmp_path: Path, name: str) -> None:
    if Path(name).suffix not in list_extensions():
        pytest.skip("this Pillow cannot read it")
    big = cv2.resize(ramp(0, 65535, np.uint16, 3), (200, 160))
    Image.fromarray((big // 256).astype(np.uint8)).save(tmp_path / name)
    assert measure(tmp_path / name) is None
    with Image.open(tmp_path / name) as image:
        assert np.array_equal(decode(tmp_path / name), np.asarray(image.convert("RGB")))
    try:
        depth = [cv2.IMWRITE_AVIF_DEPTH, 10] if name == "x.avif" else []
        written = cv2.imwrite(str(tmp_path / name), big // 64 if depth else big, depth)
    except (cv2.error, AttributeError):
        written = False
    if not written:
        pytest.skip(f"this OpenCV cannot write {name}")
    for setting in ("auto", (0, 4095)):
        with pytest.raises(ConfigError, match=r"1[06]-bit values; .*set data\.value_range: dtype, or save it as"):
            decode(tmp_path / name, setting)
    with Image.open(tmp_path / name) as image:
        assert np.array_equal(decode(tmp_path / name, "dtype"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("setting", ["auto", "dtype", (0, 4095)])
def test_planes_of_16_bits_are_never_read_as_8(tmp_path: Path, setting: ValueRange) -> None:
    planes(tmp_path / "x.tif", ramp(0, 4095, np.uint16, 3))
    with pytest.raises(ConfigError, match="save it as 16-bit PNG"):
        decode(tmp_path / "x.tif", setting)


def test_white_that_is_zero(tmp_path: Path) -> None:
    """As Pillow does it for 8 bits, it is turned around."""
    values = ramp(0, 65535, np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="miniswhite")
    assert np.array_equal(decode(tmp_path / "x.tif", "dtype"), expected(65535 - values, 0, 65535))
    tifffile.imwrite(tmp_path / "y.tif", ramp(0, 255, np.uint8), photometric="miniswhite")
    assert np.array_equal(decode(tmp_path / "y.tif")[..., 0], 255 - ramp(0, 255, np.uint8))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint64])
def test_what_pillow_cannot_read_is_an_error(tmp_path: Path, dtype: Any) -> None:
    tifffile.imwrite(tmp_path / "x.tif", ramp(0, 255, dtype))
    for setting in ("auto", "dtype", (0, 255)):
        with pytest.raises(DataError, match="cannot identify"):
            decode(tmp_path / "x.tif", setting)


def test_signed_colours_are_an_error(tmp_path: Path) -> None:
    for dtype in (np.int8, np.int16):
        tifffile.imwrite(tmp_path / "x.tif", ramp(0, 100, dtype, 3), photometric="rgb")
        with pytest.raises(DataError, match="cannot identify"):
            decode(tmp_path / "x.tif", (0, 100))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_broken_images(tmp_path: Path, wrong: float) -> None:
    values = ramp(0, 100, np.float32)
    values[3, 4] = wrong
    tifffile.imwrite(tmp_path / "x.tif", values)
    with pytest.raises(DataError, match="not finite"):
        decode(tmp_path / "x.tif", (0, 100))
    with pytest.raises(ConfigError, match="values from 0 to 100; "):
        decode(tmp_path / "x.tif")


@pytest.mark.parametrize("setting", ["auto", "dtype", (10, 20)])
@pytest.mark.parametrize(
    ("mode", "name"),
    [
        *((mode, "x.png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        *((mode, "x.tif") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")),
        ("L", "x.pgm"),
        ("RGB", "x.ppm"),
        ("1", "x.pbm"),
        ("RGB", "x.bmp"),
        ("RGB", "x.webp"),
        ("P", "x.gif"),
        ("L", "x.jpg"),
    ],
)
def test_8_bits_and_less_are_not_scaled(tmp_path: Path, mode: str, name: str, setting: ValueRange) -> None:
    image = Image.fromarray(ramp(0, 255, np.uint8, 3)).convert(mode)
    image.save(tmp_path / name)
    with Image.open(tmp_path / name) as read:
        assert np.array_equal(decode(tmp_path / name, setting), np.asarray(read.convert("RGB")))
    assert measure(tmp_path / name) is None


def test_2_and_4_bits_are_spread_as_their_file_says(tmp_path: Path) -> None:
    for bits in (2, 4):
        grey = ramp(0, 2**bits - 1, np.uint8)
        image = Image.fromarray(grey)
        image.putpalette([round(v * 255 / (2**bits - 1)) for v in range(2**bits) for _ in range(3)])
        image.save(tmp_path / "x.png", bits=bits)
        assert np.array_equal(decode(tmp_path / "x.png"), expected(grey, 0, 2**bits - 1))


def test_torn_files_are_broken_and_not_of_another_range(tmp_path: Path) -> None:
    for name, write in (("x.png", png), ("x.tif", tif()), ("z.tif", tif(compression="zlib")), ("x.ppm", pnm("P6"))):
        write(tmp_path / name, ramp(0, 4095, np.uint16, 3))
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        for setting in ("auto", "dtype", (0, 4095)):
            with pytest.raises(DataError):
                decode(tmp_path / name, setting)


@pytest.mark.parametrize(
    ("least", "most", "of_one", "of_several"),
    [
        (0, 4080, "[0, 4095]", "[0, 4095]"),
        (5, 200, "[0, 255]", "[0, 255]"),
        (0, 3, "[0, 255]", "[0, 3]"),
        (1000, 3000, "[0, 4095]", "[0, 4095]"),
        (1920, 2864, "[0, 4095]", "[1920, 2864]"),
        (30000, 33000, "[0, 65535]", "[30000, 33000]"),
        (-1000, 3000, "[-4096, 4095]", "[-1000, 3000]"),
        (-2000, 30, "[-2048, 2047]", "[-2000, 30]"),
        (7, 7, "[0, 255]", "[0, 255]"),
        (-7, -7, "[-128, 127]", "[-7, -6]"),
        (0.25, 0.75, "[0.25, 0.75]", "[0.25, 0.75]"),
        (0.5, 0.5, "[0.5, 1.5]", "[0.5, 1.5]"),
    ],
)
def test_the_range_that_is_suggested(least: float, most: float, of_one: str, of_several: str) -> None:
    """One image tells little about the others: the suggestion must not make them black."""
    for images, suggestion in ((1, of_one), (20, of_several)):
        assert levels.suggest_range(least, most, images) == suggestion
        low, high = yaml.safe_load(suggestion)
        assert low <= least <= most <= high


# In image sets and loaders


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """60 images in 3 classes, of 8 bits but for one, which a check of a few images does not meet."""
    for index in range(60):
        folder = tmp_path / "abc"[index % 3]
        folder.mkdir(exist_ok=True)
        pillow(folder / f"{index:02}.png", np.full((20, 20, 3), index, np.uint8))
    images = FolderSet(tmp_path)
    png(images.folder / images.paths[17], ramp(0, 4095, np.uint16))
    return tmp_path


SIZE = 8
TRAIN = TrainTransform("standard", SIZE, Augmentation("none", flip=False, jitter=0))
EVAL = EvalTransform("standard", SIZE, stored=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_meets_a_deep_image_ends_and_replaces_nothing(deep: Path, workers: int, tmp_path: Path) -> None:
    images, everything, said = FolderSet(deep), np.arange(60), []
    bad = BadImages(20, said.append)
    options: dict[str, Any] = {"workers": workers}
    training = functools.partial(
        training_batches, indices=everything, transform=TRAIN, seed=0, batch_size=6, first_step=0, last_step=20
    )
    for work in (
        lambda: list(training(images, bad_images=bad, **options)),
        lambda: list(training(ResizedSet(images, 9), bad_images=bad, **options)),
        lambda: list(evaluation_batches(images, everything, EVAL, batch_size=7, **options)),
        lambda: keep_in_memory(ResizedSet(images, 9), everything, bad, **options),
        lambda: ImageStore.build(tmp_path / "x.u8", images, everything, TRAIN, seed=0, bad_images=bad, **options),
        lambda: ImageStore.build(tmp_path / "x.u8", images, everything, EVAL, **options),
    ):
        with pytest.raises(ConfigError, match=r"\.png has 16-bit values from 0 to 4095; .*data\.value_range: \[0, 4"):
            work()
    assert not said
    assert not bad.problems


@pytest.mark.parametrize("workers", [0, 2])
def test_with_a_range_a_deep_image_is_read_like_others(deep: Path, workers: int) -> None:
    images = FolderSet(deep, Decoding((0, 4095)))
    (batch,) = evaluation_batches(images, np.arange(60), EVAL, batch_size=60, workers=workers)
    assert batch[0][17].min() < 20
    assert batch[0][17].max() > 200


def test_a_store_does_not_match_another_range(deep: Path, tmp_path: Path) -> None:
    path, everything = tmp_path / "x.u8", np.arange(60)
    ImageStore.build(path, FolderSet(deep, Decoding((0, 4095))), everything, EVAL)
    assert ImageStore.matches(path, FolderSet(deep, Decoding((0, 4095))), everything, EVAL)
    for other in ((0, 4096), "dtype", "auto"):
        assert not ImageStore.matches(path, FolderSet(deep, Decoding(other)), everything, EVAL)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_measured_by_workers_too(deep: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "MIN_IMAGES_FOR_WORKERS", 1)
    images, done = FolderSet(deep), []
    (found,) = inspection.measure_values(images, np.arange(60), workers, done.append)
    assert (found.path, found.least, found.most) == (str(deep / images.paths[17]), 0, 4095)
    assert levels.fits(found.depth, "dtype")
    assert sum(done) == 60
    assert inspection.find_unreadable(images, np.arange(60), workers) == {}


@pytest.mark.parametrize(
    ("setting", "lost"),
    [("dtype", True), ((0, 65535), True), ((0, 4095), False), ((0, 2000), True), ((100, 4095), True)],
)
def test_lost_grey_levels_are_reported(tmp_path: Path, setting: ValueRange, lost: bool) -> None:
    png(tmp_path / "x.png", ramp(0, 4095, np.uint16))
    found = measure(tmp_path / "x.png")
    assert found is not None
    assert bool(levels.list_doubts([found], setting)) == lost
