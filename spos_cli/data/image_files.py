"""Decode image files to 8 bits a channel, and tell images from other files."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from spos_cli.data import levels, npy_file
from spos_cli.data.channels import fit_channels, read_bands
from spos_cli.data.levels import ValueRange
from spos_cli.data.orientation import (
    UPRIGHT,
    Exif,
    prevent_mapping,
    read_jpeg_orientation,
    read_orientation,
    turn_upright,
)
from spos_cli.errors import ConfigError, DataError
from spos_cli.space.search_space import COLOUR, GREY

Pixels = NDArray[np.uint8]

# Formats of pixels only. PIL recognises a file by its content, whatever its name, and runs Ghostscript for EPS; so it
# must not try documents, drawings, icons and data sets. For PIL, MPO is a kind of JPEG. TGA has no signature.
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "PPM", "WEBP", "TIFF", "GIF", "AVIF", "JPEG2000", "QOI", "TGA")
# Formats that PIL may have been built without, and PIL's names of the features that they need.
OPTIONAL_FORMATS = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
MAX_ASPECT_RATIO = 100  # Long side to short side: resizing a longer line of pixels to a square would fill the memory.
MAX_JPEG_BYTES = 2**28  # A larger JPEG file is not read into memory as a whole.
UNREADABLE = "cannot read the image "  # The first words of every message about an image that cannot be decoded.


class Decoding(NamedTuple):
    """How image files become pixels.

    Attributes:
        value_range: for images that do not have 8 bits per channel: the two values that become 0 and 255, or `dtype`
            for the smallest and the largest of their type. `auto` refuses such images. Ignored for 8-bit images.
        exif: turn images upright as their EXIF says (`apply`), or leave them as they are stored (`ignore`). Pillow
            turns TIFF files itself, with either.
        channels: of the pixels. To 1 and 3, grey and colour are converted; other images must have this number.
    """

    value_range: ValueRange = "auto"
    exif: Exif = "apply"
    channels: int = COLOUR


DEFAULT_DECODING = Decoding()


@functools.lru_cache(maxsize=1)
def list_formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that the installed PIL can decode."""
    Image.init()
    supported = features.get_supported()
    return tuple(
        name
        for name in FORMATS
        if name in Image.OPEN and (name not in OPTIONAL_FORMATS or OPTIONAL_FORMATS[name] in supported)
    )


@functools.lru_cache(maxsize=1)
def list_extensions() -> frozenset[str]:
    """Return the file name extensions of images, in lower case: PIL's for `list_formats`, and `.npy`."""
    readable = {*list_formats(), "MPO"}
    names = Image.registered_extensions().items()
    return frozenset((npy_file.EXTENSION, *(extension for extension, name in names if name in readable)))


def is_image(name: str) -> bool:
    """Tell from a file's name whether it is an image that can be decoded."""
    return get_extension(name) in list_extensions()


def get_extension(name: str) -> str:
    """Return the extension of a file name in lower case, such as `.jpg`; empty if it has none."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  (a Path for each of a million names would be slow)


def decode(path: Path, decoding: Decoding = DEFAULT_DECODING) -> Pixels:
    """Decode one image file to `(H, W, C) uint8`: RGB, grey, or as many channels as it has.

    In RGB, grey is repeated and transparency dropped.

    Of several frames or pages, the first is decoded. If simplejpeg is installed it decodes JPEG files, to the same
    pixels as PIL and in two thirds of the time.

    Args:
        path: the file.
        decoding: how its values, its orientation and its channels are read.

    Raises:
        DataError: the file is missing, damaged, has another number of channels, or is so large that it must be an
            attack.
        ConfigError: `decoding.value_range` does not fit the image's values.
    """
    with _as_data_error(path):
        size, channels = _check_file(path), decoding.channels
        if is_array(path):
            return fit_channels(_decode_array(path, decoding), channels)
        if size <= MAX_JPEG_BYTES and channels in (GREY, COLOUR):
            pixels = _decode_with_simplejpeg(path, decoding.exif)
            if pixels is not None:
                return fit_channels(pixels, channels)
        with _open(path) as image:
            pixels = fit_channels(_decode_with_pillow(image, decoding), channels)
            return turn_upright(pixels, read_orientation(image)) if decoding.exif == "apply" else pixels
    raise AssertionError("either pixels or an error")


def _decode_with_pillow(image: Any, decoding: Decoding) -> Pixels:
    """Decode an opened image to `(H, W)` or `(H, W, C) uint8`, as it is stored."""
    depth = levels.get_depth(image)
    if depth is not None:
        return levels.to_8_bits(image, depth, decoding.value_range, decoding.channels)
    return np.array(image.convert("RGB")) if decoding.channels in (GREY, COLOUR) else read_bands(image)


def read_pil_image(image: Image.Image, decoding: Decoding) -> Pixels:
    """Return an image of PIL with 8 bits per channel as a file with it is decoded, `(H, W, C) uint8`.

    Raises:
        ValueError: it has another number of channels.
        OSError: its file is damaged.
    """
    prevent_mapping(image)
    pixels = np.array(image.convert("RGB")) if decoding.channels in (GREY, COLOUR) else read_bands(image)
    pixels = fit_channels(pixels, decoding.channels)
    return turn_upright(pixels, read_orientation(image)) if decoding.exif == "apply" else pixels


def is_array(path: Path) -> bool:
    """Tell by its name whether an image is an array of NumPy."""
    return get_extension(path.name) == npy_file.EXTENSION


def _open_array(path: Path, channels: int) -> NDArray[Any]:
    """Map the array of a file, `(H, W)` or `(H, W, C)`, of a size that an image may have."""
    values = npy_file.open_array(path, channels)
    height, width = values.shape[:2]
    _check_size(width, height)
    if height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise Image.DecompressionBombError
    return values


def _decode_array(path: Path, decoding: Decoding) -> Pixels:
    """Decode an array in a file to `(H, W)` or `(H, W, C) uint8`."""
    values = _open_array(path, decoding.channels)
    depth = npy_file.get_depth(values)
    if depth is None:
        return np.array(values, order="C")
    if not levels.fits(depth, decoding.value_range):
        levels.require([levels.measure_array(values, depth, str(path))], decoding.value_range)
    return levels.array_to_8_bits(values, depth, decoding.value_range)


def find_orientation(path: Path) -> int:
    """Return the orientation that the EXIF of an image file says, from 1 to 8; 1 (upright) if it says none.

    Raises:
        DataError: the file is missing or damaged.
    """
    with _as_data_error(path):
        _check_file(path)
        if is_array(path):
            return UPRIGHT
        with _open(path) as image:
            return read_orientation(image)
    raise AssertionError("either an orientation or an error")


def measure(path: Path, channels: int = COLOUR) -> levels.Measured | None:
    """Measure the range of an image file's values; None for 8 bits per channel, where reading the header is enough.

    Args:
        path: the file.
        channels: of `Decoding`.

    Raises:
        DataError: the file is missing or damaged.
    """
    with _as_data_error(path):
        _check_file(path)
        if is_array(path):
            values = _open_array(path, channels)
            depth = npy_file.get_depth(values)
            return None if depth is None else levels.measure_array(values, depth, str(path))
        with _open(path) as image:
            depth = levels.get_depth(image)
            return None if depth is None else levels.measure(image, depth, channels)
    raise AssertionError("either a range or an error")


def _check_file(path: Path) -> int:
    """Return the size of a file in bytes; raise ValueError if it is not a regular file."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # Reading a pipe or a device may never end.
        raise ValueError("not a regular file")
    return status.st_size


@contextlib.contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    """Turn any error about an image file, but a ConfigError, into a DataError."""
    try:
        yield
    except ConfigError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{UNREADABLE}{path}: too many pixels for an image") from None
    except Exception as error:  # PIL raises almost any kind of error for a damaged file.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{UNREADABLE}{path}: {reason}") from None


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open an image with PIL, which has only read its header so far."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning)  # PIL warns about unusual metadata.
        # Almost any content could be TGA, so only the extension can tell.
        is_tga = Image.registered_extensions().get(get_extension(path.name)) == "TGA"
        with Image.open(path, formats=[name for name in list_formats() if name != "TGA" or is_tga]) as image:
            _check_size(*image.size)
            prevent_mapping(image)
            yield image


def _decode_with_simplejpeg(path: Path, exif: Exif) -> Pixels | None:
    """Decode a JPEG file with simplejpeg; None where PIL has to: not plain colour or grey, or not complete.

    Both call libjpeg-turbo, with the accurate DCT and smooth upsampling.
    """
    simplejpeg = _import_simplejpeg()
    if simplejpeg is None:
        return None
    with path.open("rb", buffering=0) as file:
        content = file.read(3)
        if content != b"\xff\xd8\xff":
            return None
        content += file.read()
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray") or height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
            return None
        _check_size(width, height)
        pixels: Pixels = simplejpeg.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False)
    except ValueError:  # From libjpeg or `_check_size`. PIL will meet the same fault, and decide.
        return None
    return turn_upright(pixels, read_jpeg_orientation(content)) if exif == "apply" else pixels


@functools.lru_cache(maxsize=1)
def _import_simplejpeg() -> Any:
    """Import simplejpeg; None if it is not installed, or if PIL's libjpeg is another one, whose pixels may differ."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg if features.check_feature("libjpeg_turbo") else None


def _check_size(width: int, height: int) -> None:
    """Raise ValueError for an image without pixels, or one that is far too long for its width."""
    if min(width, height) < 1:
        raise ValueError("the image has no pixels")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ValueError(f"aspect ratio too extreme: {width} x {height} pixels, at most {MAX_ASPECT_RATIO} to 1")
