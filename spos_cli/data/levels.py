"""Recognise, read, measure and scale images that do not have 8 bits per channel.

Most of them use only a part of their type's range: 12 bits of a camera in 16, say. Scaling the whole range would make
them black, and Pillow's own conversion clips them or keeps the high byte. So the user has to say which range they use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spos_cli.errors import ConfigError

ValueRange = Literal["auto", "dtype"] | tuple[float, float]
Layout = Literal["grey", "colour", "eight", "none"]

# Pillow's modes with at most 8 bits per channel.
EIGHT_BIT_MODES = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
)
MIN_IMAGES_FOR_TIGHT_RANGE = 10  # With fewer, other images may well have larger values.
MIN_USED_SHARE = 1 / 4  # of a range: with less, at most 64 of the 256 grey levels are left
BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR_CONFIGURATION, SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
WHITE_IS_ZERO, SEPARATE_PLANES, SIGNED = 0, 2, 2  # values of the last three tags
AVIF_HEADER_BYTES = 2**16  # of a file, which include its headers


class Depth(NamedTuple):
    """How an image stores values that are not 8 bits per channel.

    Attributes:
        name: for messages, such as `16-bit`.
        low, high: the range of its type; None for floating-point numbers.
        layout: `grey` or `colour`; `eight` if Pillow gives no values, but only 8 bits of the whole range; `none` if
            Pillow gives neither.
    """

    name: str
    low: int | None
    high: int | None
    layout: Layout


class Measured(NamedTuple):
    """The smallest and the largest finite value of an image; None where no values can be read."""

    path: str
    depth: Depth
    least: float | None
    most: float | None


# Recognise


def get_depth(image: Any) -> Depth | None:
    """Return the depth of an opened image by its header; None for at most 8 bits per channel.

    Raises:
        ValueError: the pixels are of an unknown mode.
    """
    get_depth_of_format = DEPTH_BY_FORMAT.get(image.format)
    depth = get_depth_of_format(image) if get_depth_of_format else None
    if depth is None and image.mode not in EIGHT_BIT_MODES:
        raise ValueError(f"pixels of mode {image.mode} are not supported for {image.format}; save it as PNG")
    return depth


def make_depth(bits: int, signed: bool, layout: Layout) -> Depth:
    """Return the depth of whole numbers."""
    low = -(2 ** (bits - 1)) if signed else 0
    return Depth(f"{'signed ' if signed else ''}{bits}-bit", low, low + 2**bits - 1, layout)


FLOATING_POINT = Depth("floating-point", None, None, "grey")


def _get_tiff_depth(image: Any) -> Depth | None:
    bits, sample_format = (_get_first(image.tag_v2.get(tag, 1)) for tag in (BITS_PER_SAMPLE, SAMPLE_FORMAT))
    if image.mode == "F":
        return FLOATING_POINT
    if bits <= 8 and sample_format != SIGNED:
        return None
    if image.mode in ("L", "I") or image.mode.startswith("I;16"):
        return make_depth(bits, sample_format == SIGNED, "grey")
    if image.tag_v2.get(PLANAR_CONFIGURATION, 1) == SEPARATE_PLANES:  # Pillow would read each byte as a pixel.
        return make_depth(bits, False, "none")
    is_readable = _get_rawmode(image).startswith(("RGB;16", "RGBA;16", "RGBX;16"))
    return make_depth(bits, False, "colour" if is_readable else "eight")


def _get_png_depth(image: Any) -> Depth | None:
    rawmode = _get_rawmode(image)
    if not rawmode.endswith(";16B"):
        return None
    return make_depth(16, False, "grey" if image.mode.startswith("I") else "colour")


def _get_ppm_depth(image: Any) -> Depth | None:
    """Return the depth of PGM, PPM or PFM; the largest value of the type is the one in the header."""
    if image.mode == "F":
        return FLOATING_POINT
    codec, args = image.tile[0][0], image.tile[0][3]
    largest = 65535 if _get_rawmode(image) == "I;16B" else args[-1] if codec in ("ppm", "ppm_plain") else 255
    if largest <= 255:
        return None
    layout: Layout = "grey" if image.mode == "I" else "eight" if codec == "ppm_plain" else "colour"
    return Depth("16-bit", 0, largest, layout)


def _get_jpeg2000_depth(image: Any) -> Depth | None:
    """Read the marker segment SIZ: from its byte 42 on, three bytes for each channel, the depth first."""
    content = Path(image.filename).read_bytes()
    siz = content.find(b"\xff\x4f\xff\x51")
    channels = int.from_bytes(content[siz + 40 : siz + 42], "big")
    depths = content[siz + 42 : siz + 42 + 3 * channels : 3]
    if siz < 0 or not depths:
        raise ValueError("its header does not say how many bits it has")
    bits, signed = max(depth % 128 + 1 for depth in depths), max(depths) >= 128
    if image.mode.startswith("I"):
        return Depth(f"{bits}-bit", 0, 65535, "grey")  # Pillow scales the values to 16 bits.
    return make_depth(bits, signed, "eight") if bits > 8 or signed else None


def _get_avif_depth(image: Any) -> Depth | None:
    """Read the configuration of the AV1 codec: its third byte says whether there are 10 or 12 bits."""
    with Path(image.filename).open("rb") as file:
        head = file.read(AVIF_HEADER_BYTES)
    configuration = head.find(b"av1C")
    flags = head[configuration + 6] if 0 <= configuration < len(head) - 6 else 0
    return make_depth(12 if flags & 0x20 else 10, False, "eight") if flags & 0x40 else None


DEPTH_BY_FORMAT: dict[str | None, Callable[[Any], Depth | None]] = {
    "TIFF": _get_tiff_depth,
    "PNG": _get_png_depth,
    "PPM": _get_ppm_depth,
    "JPEG2000": _get_jpeg2000_depth,
    "AVIF": _get_avif_depth,
}


def _get_first(value: Any) -> int:
    """Return a tag's value, or the first of several."""
    return int(value[0] if isinstance(value, tuple) else value)


def _get_rawmode(image: Any) -> str:
    """Return how Pillow will unpack the bytes of an opened file."""
    args = image.tile[0][3] if image.tile else ""
    return str(args if isinstance(args, str) else args[0])


# Read


def read_values(image: Any, depth: Depth, channels: int) -> NDArray[Any]:
    """Read the values of an opened image as they are in the file, `(H, W)` or `(H, W, C)`.

    Args:
        channels: 4 if the network takes them, so that the fourth one is read, too. Otherwise that is alpha, which is
            dropped.

    Raises:
        OSError: the file is damaged.
    """
    return _read_grey(image, depth) if depth.layout == "grey" else _read_colours(image)[..., : max(3, channels)]


def _read_grey(image: Any, depth: Depth) -> NDArray[Any]:
    rawmode = _get_rawmode(image)
    if image.format == "PPM" and image.tile[0][0] == "ppm":  # Pillow would scale the values to 16 bits.
        _set_rawmode(image, "I;16B", "raw")
    elif image.format == "PPM" and image.tile[0][0] == "ppm_plain":
        image.tile = [(*image.tile[0][:3], (rawmode, 65535))]
    elif image.tile[0][0] == "libtiff" and sys.byteorder == "little" and rawmode in LITTLE_ENDIAN:
        _set_rawmode(image, LITTLE_ENDIAN[rawmode])
    image.load()
    values = np.asarray(image)
    if image.format != "TIFF" or depth.low is None or depth.high is None:
        return values
    if (image.mode, depth.low) == ("L", -128):
        values = values.view(np.int8)
    elif depth.high == 2**32 - 1:
        values = values.view(np.uint32)
    if image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow inverts 8-bit images only.
        values = depth.low + depth.high - values.astype(np.int64)
    return values


# libtiff gives the numbers of a compressed file in this machine's byte order, which Pillow ignores for these modes.
LITTLE_ENDIAN = {"I;16BS": "I;16S", "I;32BS": "I;32S", "F;32BF": "F;32F"}


def _read_colours(image: Any) -> NDArray[Any]:
    """Read colours of 16 bits, `(H, W, C)`, with alpha, by reading 8 bits twice; of grey with alpha, grey alone.

    Pillow has no mode for them, but the high bytes in one byte order are the low bytes in the other.
    """
    rawmode, codec = _get_rawmode(image), None
    if rawmode == "LA;16B":
        _set_rawmode(image, "RGBA")  # It has as many bytes per pixel.
        image.load()
        grey_alpha = np.asarray(image).astype(np.uint16)
        return (grey_alpha[..., 0] << 8 | grey_alpha[..., 1])[..., None]
    if image.format == "PPM":
        rawmode, codec = "RGB;16B", "raw"
    order = rawmode[-1] if rawmode[-1] != "N" else sys.byteorder[0].upper()
    other = rawmode[:-1] + {"L": "B", "B": "L"}[order]
    with Image.open(image.filename, formats=[image.format]) as again:
        _set_rawmode(again, other, codec)
        again.load()
        low = np.asarray(again).astype(np.uint16)
    if codec:
        _set_rawmode(image, rawmode, codec)
    image.load()
    return np.asarray(image).astype(np.uint16) << 8 | low


def _set_rawmode(image: Any, rawmode: str, codec: str | None = None) -> None:
    """Make Pillow unpack the bytes of an opened file in another way."""
    tiles = []
    for tile in image.tile:
        name, box, offset, args = tile
        rest = (0, 1) if codec else args[1:]
        new = (codec or name, box, offset, rawmode if isinstance(args, str) else (rawmode, *rest))
        tiles.append(new if type(tile) is tuple else type(tile)(*new))
    image.tile = tiles


# Measure and scale


def measure(image: Any, depth: Depth, channels: int = 3) -> Measured:
    """Measure the range of an opened image's values; `channels` as in `read_values`.

    Raises:
        OSError: the file is damaged.
    """
    if depth.layout in ("eight", "none"):
        return Measured(image.filename, depth, None, None)
    return measure_array(read_values(image, depth, channels), depth, image.filename)


def measure_array(values: NDArray[Any], depth: Depth, path: str) -> Measured:
    """Measure the range of an image's values."""
    finite = values[np.isfinite(values)] if depth.low is None else values
    least, most = (finite.min().item(), finite.max().item()) if finite.size else (None, None)
    return Measured(path, depth, least, most)


def to_8_bits(image: Any, depth: Depth, value_range: ValueRange, channels: int = 3) -> NDArray[np.uint8]:
    """Scale an opened image's values from `value_range` to 0..255, rounded; values outside the range are clipped.

    Args:
        channels: as in `read_values`.

    Returns:
        `(H, W)` or `(H, W, C)`.

    Raises:
        ConfigError: the setting does not give a range, or the image cannot be scaled to it.
        ValueError: some values are not finite.
        OSError: the file is damaged.
    """
    if not fits(depth, value_range):
        require([measure(image, depth, channels)], value_range)
    if depth.layout == "eight":
        return np.array(image.convert("RGB"))
    return array_to_8_bits(read_values(image, depth, channels), depth, value_range)


def array_to_8_bits(values: NDArray[Any], depth: Depth, value_range: ValueRange) -> NDArray[np.uint8]:
    """Scale values as `to_8_bits` does, by a setting that fits them.

    Raises:
        ValueError: some values are not finite.
    """
    if depth.low is None and not np.isfinite(values).all():
        raise ValueError("some of its pixels are not finite numbers")
    return scale(values, *get_bounds(depth, value_range))


def scale(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Scale `low` to `high` to 0 to 255, rounded to the nearest integer, halves up."""
    shifted = values.astype(np.float64) - low
    return np.clip(shifted * 255 / (high - low) + 0.5, 0, 255).astype(np.uint8)


def get_bounds(depth: Depth, value_range: ValueRange) -> tuple[float, float]:
    """Return the values that become black and white."""
    if isinstance(value_range, tuple):
        return value_range
    assert depth.low is not None, "floating-point numbers are refused"
    assert depth.high is not None
    return depth.low, depth.high


def fits(depth: Depth, value_range: ValueRange) -> bool:
    """Tell whether a setting says how to scale an image."""
    if depth.layout == "none" or value_range == "auto":
        return False
    if depth.layout == "eight":
        return value_range == "dtype"
    return depth.low is not None or value_range != "dtype"


def require(images: Sequence[Measured], value_range: ValueRange) -> None:
    """Require that a setting fits all images.

    Raises:
        ConfigError: it does not fit one of them; the message says which setting would.
    """
    for image in images:
        if not fits(image.depth, value_range):
            same_depth = [other for other in images if other.depth == image.depth]
            raise ConfigError(f"{image.path} has {describe([image])}; {advise(same_depth)}")


def advise(images: Sequence[Measured]) -> str:
    """Say what to do about images of one depth that a setting does not fit."""
    depth = images[0].depth
    if depth.layout == "none":
        return "its colour planes are stored separately, which cannot be read: save it as 16-bit PNG"
    if depth.layout == "eight":
        return "only their whole range can be read: set data.value_range: dtype, or save it as 16-bit PNG or TIFF"
    whole = "" if depth.low is None else f", or dtype if all images use {depth.low} to {depth.high}"
    choice = f"{suggest_range(*get_extent(images), len(images))}{whole}"
    return (
        f"say which values are black and white: set data.value_range: {choice} (spos doctor --full measures all images)"
    )


def describe(images: Sequence[Measured]) -> str:
    """Describe the values of one image or several, such as `16-bit values from 0 to 4080`."""
    kinds = " and ".join(sorted({image.depth.name for image in images}))
    least, most = get_extent(images)
    return f"{kinds} values" + ("" if least is None or most is None else f" from {_format(least)} to {_format(most)}")


def get_extent(images: Sequence[Measured]) -> tuple[float | None, float | None]:
    """Return the smallest and the largest value of all images; None if no values could be read."""
    least = [image.least for image in images if image.least is not None]
    most = [image.most for image in images if image.most is not None]
    return min(least, default=None), max(most, default=None)


def suggest_range(least: float | None, most: float | None, images: int = 1) -> str:
    """Suggest a range for the values that were measured in a number of images.

    For whole numbers, suggest the range of the fewest bits that hold them, since other images may have larger values.
    If several images use little of that range, suggest what they use.
    """
    if least is None or most is None:
        return "[low, high]"
    if isinstance(least, int) and isinstance(most, int):
        white = 2 ** max(7 if least < 0 else 8, most.bit_length(), (-least - 1).bit_length() if least < 0 else 0) - 1
        black = -white - 1 if least < 0 else 0
        uses_enough = least >= 0 and (most - least >= MIN_USED_SHARE * white or least == most)
        if images < MIN_IMAGES_FOR_TIGHT_RANGE or uses_enough:
            return f"[{black}, {white}]"
    return f"[{_format(least)}, {_format(most if most > least else least + 1)}]"


def _format(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.9g}"


def list_doubts(images: Sequence[Measured], value_range: ValueRange) -> list[str]:
    """List what speaks against a setting that fits the images: the grey levels that it loses."""
    known = [image for image in images if image.least is not None and fits(image.depth, value_range)]
    least, most = get_extent(known)
    if least is None or most is None:
        return []
    bounds = [get_bounds(image.depth, value_range) for image in known]
    low, high = min(low for low, _ in bounds), max(high for _, high in bounds)
    losses = []
    if least < low or most > high:
        losses.append(f"values outside {_format(low)} to {_format(high)} become black or white")
    if min(most, high) - max(least, low) < MIN_USED_SHARE * (high - low):
        losses.append(f"that is a small part of {_format(low)} to {_format(high)}, so most grey levels are lost")
    if not losses:
        return []
    return [f"{describe(known)}: {' and '.join(losses)}; measured: {suggest_range(least, most, len(known))}"]
