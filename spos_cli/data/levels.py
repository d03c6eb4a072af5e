"""Images whose values are not 8 bits a channel: how they are recognised, read, measured and scaled to 0..255.

Most of them use a part of the range of their type only: 12 bits of a camera in 16, say. To scale the whole range would
make them black, and Pillow's own conversion clips them or keeps the high byte. So somebody has to say what range it is.
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

EIGHT_BITS = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
SEVERAL = 10  # images that tell what range all of them use
HARDLY_USED = 1 / 4  # of a range: at most 64 grey levels of 256 are left
BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR_CONFIGURATION, SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
WHITE_IS_ZERO, SIGNED, PLANES = 0, 2, 2  # values of the last three
AVIF_HEAD = 2**16  # bytes of an AVIF file that hold its headers


class Depth(NamedTuple):
    """How an image keeps its values, where that is not 8 bits a channel.

    Attributes:
        said: for messages.
        low, high: the range of its type; None for floating-point numbers.
        layout: grey, colour, or `eight`: Pillow gives no values, but 8 bits of the whole range. `none`: nor those.
    """

    said: str
    low: int | None
    high: int | None
    layout: Literal["grey", "colour", "eight", "none"]


class Measured(NamedTuple):
    """What an image holds: the smallest and largest finite value; None where no values can be read."""

    path: str
    depth: Depth
    least: float | None
    most: float | None


# Recognise


def depth_of(image: Any) -> Depth | None:
    """Looks at the header of an opened image; None for 8 bits a channel or less.

    Raises:
        ValueError: it is of a kind that nobody has thought of.
    """
    look = LOOKS.get(image.format)
    depth = look(image) if look else None
    if depth is None and image.mode not in EIGHT_BITS:
        raise ValueError(f"its pixels are of mode {image.mode}, which is not known for {image.format}; save it as PNG")
    return depth


def _of_type(bits: int, signed: bool, layout: Literal["grey", "colour", "eight", "none"]) -> Depth:
    low = -(2 ** (bits - 1)) if signed else 0
    return Depth(f"{'signed ' if signed else ''}{bits}-bit", low, low + 2**bits - 1, layout)


FLOATS = Depth("floating-point", None, None, "grey")


def _of_tiff(image: Any) -> Depth | None:
    bits, sample_format = (_first(image.tag_v2.get(tag, 1)) for tag in (BITS_PER_SAMPLE, SAMPLE_FORMAT))
    if image.mode == "F":
        return FLOATS
    if bits <= 8 and sample_format != SIGNED:
        return None
    if image.mode in ("L", "I") or image.mode.startswith("I;16"):
        return _of_type(bits, sample_format == SIGNED, "grey")
    if image.tag_v2.get(PLANAR_CONFIGURATION, 1) == PLANES:  # Pillow would take each byte for a pixel
        return _of_type(bits, False, "none")
    readable = _rawmode(image).startswith(("RGB;16", "RGBA;16", "RGBX;16"))
    return _of_type(bits, False, "colour" if readable else "eight")


def _of_png(image: Any) -> Depth | None:
    rawmode = _rawmode(image)
    if not rawmode.endswith(";16B"):
        return None
    return _of_type(16, False, "grey" if image.mode.startswith("I") else "colour")


def _of_ppm(image: Any) -> Depth | None:
    """Of PGM, PPM and PFM; the largest value of the type is that of the header."""
    if image.mode == "F":
        return FLOATS
    codec, args = image.tile[0][0], image.tile[0][3]
    largest = 65535 if _rawmode(image) == "I;16B" else args[-1] if codec in ("ppm", "ppm_plain") else 255
    if largest <= 255:
        return None
    layout: Literal["grey", "colour", "eight"] = (
        "grey" if image.mode == "I" else "eight" if codec == "ppm_plain" else "colour"
    )
    return Depth("16-bit", 0, largest, layout)


def _of_jpeg2000(image: Any) -> Depth | None:
    """From the marker segment SIZ: from its byte 42 on, three bytes for each channel, its depth first."""
    content = Path(image.filename).read_bytes()
    siz = content.find(b"\xff\x4f\xff\x51")
    channels = int.from_bytes(content[siz + 40 : siz + 42], "big")
    depths = content[siz + 42 : siz + 42 + 3 * channels : 3]
    if siz < 0 or not depths:
        raise ValueError("it does not say how many bits it has")
    bits, signed = max(depth % 128 + 1 for depth in depths), max(depths) >= 128
    if image.mode.startswith("I"):
        return Depth(f"{bits}-bit", 0, 65535, "grey")  # Pillow scales them to 16 bits
    return _of_type(bits, signed, "eight") if bits > 8 or signed else None


def _of_avif(image: Any) -> Depth | None:
    """From the configuration of the AV1 codec: its third byte says whether there are 10 or 12 bits."""
    with Path(image.filename).open("rb") as file:
        head = file.read(AVIF_HEAD)
    place = head.find(b"av1C")
    flags = head[place + 6] if 0 <= place < len(head) - 6 else 0
    return _of_type(12 if flags & 0x20 else 10, False, "eight") if flags & 0x40 else None


LOOKS: dict[str | None, Callable[[Any], Depth | None]] = {
    "TIFF": _of_tiff,
    "PNG": _of_png,
    "PPM": _of_ppm,
    "JPEG2000": _of_jpeg2000,
    "AVIF": _of_avif,
}


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _rawmode(image: Any) -> str:
    """How Pillow will unpack the file's bytes."""
    args = image.tile[0][3] if image.tile else ""
    return str(args if isinstance(args, str) else args[0])


# Read


def values_of(image: Any, depth: Depth) -> NDArray[Any]:
    """The values of an opened image as the file has them, `(H, W)` or `(H, W, 3)`; no alpha.

    Raises:
        OSError: the file is torn.
    """
    return _grey(image, depth) if depth.layout == "grey" else _colour(image)


def _grey(image: Any, depth: Depth) -> NDArray[Any]:
    rawmode = _rawmode(image)
    if image.format == "PPM" and image.tile[0][0] == "ppm":  # it would be scaled to 16 bits
        _unpack(image, "I;16B", "raw")
    elif image.format == "PPM" and image.tile[0][0] == "ppm_plain":
        image.tile = [(*image.tile[0][:3], (rawmode, 65535))]
    elif image.tile[0][0] == "libtiff" and sys.byteorder == "little" and rawmode in NATIVE:
        _unpack(image, NATIVE[rawmode])
    image.load()
    values = np.asarray(image)
    if image.format != "TIFF" or depth.low is None or depth.high is None:
        return values
    if (image.mode, depth.low) == ("L", -128):
        values = values.view(np.int8)
    elif depth.high == 2**32 - 1:
        values = values.view(np.uint32)
    if image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow does that for 8 bits only
        values = depth.low + depth.high - values.astype(np.int64)
    return values


# libtiff gives the numbers of a compressed file in the order of bytes of this machine, which Pillow forgets here.
NATIVE = {"I;16BS": "I;16S", "I;32BS": "I;32S", "F;32BF": "F;32F"}


def _colour(image: Any) -> NDArray[Any]:
    """Pillow has no mode for colours of 16 bits, but the high bytes of one byte order are the low ones of the other."""
    rawmode, codec = _rawmode(image), None
    if rawmode == "LA;16B":
        _unpack(image, "RGBA")  # that is as many bytes
        image.load()
        grey_alpha = np.asarray(image).astype(np.uint16)
        return grey_alpha[..., 0] << 8 | grey_alpha[..., 1]
    if image.format == "PPM":
        rawmode, codec = "RGB;16B", "raw"
    order = rawmode[-1] if rawmode[-1] != "N" else sys.byteorder[0].upper()
    other = rawmode[:-1] + {"L": "B", "B": "L"}[order]
    with Image.open(image.filename, formats=[image.format]) as again:
        _unpack(again, other, codec)
        again.load()
        low = np.asarray(again)[..., :3].astype(np.uint16)
    if codec:
        _unpack(image, rawmode, codec)
    image.load()
    return np.asarray(image)[..., :3].astype(np.uint16) << 8 | low


def _unpack(image: Any, rawmode: str, codec: str | None = None) -> None:
    """Has Pillow unpack the bytes of an opened file in another way."""
    tiles = []
    for tile in image.tile:
        name, box, offset, args = tile
        rest = (0, 1) if codec else args[1:]
        new = (codec or name, box, offset, rawmode if isinstance(args, str) else (rawmode, *rest))
        tiles.append(new if type(tile) is tuple else type(tile)(*new))
    image.tile = tiles


# Measure and scale


def measured(image: Any, depth: Depth) -> Measured:
    """The range of an opened image's values.

    Raises:
        OSError: the file is torn.
    """
    if depth.layout in ("eight", "none"):
        return Measured(image.filename, depth, None, None)
    return _measured(image.filename, depth, values_of(image, depth))


def _measured(path: str, depth: Depth, values: NDArray[Any]) -> Measured:
    finite = values[np.isfinite(values)] if depth.low is None else values
    return Measured(path, depth, *((finite.min().item(), finite.max().item()) if finite.size else (None, None)))


def to_8_bits(image: Any, depth: Depth, value_range: ValueRange) -> NDArray[np.uint8]:
    """An opened image's values from `value_range` scaled to 0..255 and rounded, those beyond it clipped.

    Returns:
        `(H, W)` or `(H, W, 3)`.

    Raises:
        ConfigError: the setting does not say what the range is, or the image cannot be scaled to it.
        ValueError: some values are not finite.
        OSError: the file is torn.
    """
    if not fits(depth, value_range):
        require([measured(image, depth)], value_range)
    if depth.layout == "eight":
        return np.array(image.convert("RGB"))
    values = values_of(image, depth)
    if depth.low is None and not np.isfinite(values).all():
        raise ValueError("some of its pixels are not finite numbers")
    low, high = bounds(depth, value_range)
    return scaled(values, low, high)


def scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """`low` to `high` as 0 to 255, rounded to the nearest, halves up."""
    shifted = values.astype(np.float64) - low
    return np.clip(shifted * 255 / (high - low) + 0.5, 0, 255).astype(np.uint8)


def bounds(depth: Depth, value_range: ValueRange) -> tuple[float, float]:
    """What becomes black, and what white."""
    if isinstance(value_range, tuple):
        return value_range
    assert depth.low is not None, "floating-point numbers are refused"
    assert depth.high is not None
    return depth.low, depth.high


def fits(depth: Depth, value_range: ValueRange) -> bool:
    """Whether a setting says how to scale an image."""
    if depth.layout == "none" or value_range == "auto":
        return False
    if depth.layout == "eight":
        return value_range == "dtype"
    return depth.low is not None or value_range != "dtype"


def require(found: Sequence[Measured], value_range: ValueRange) -> None:
    """Compares a setting with images that were measured.

    Raises:
        ConfigError: it does not fit one of them; the message says what would.
    """
    for one in found:
        if not fits(one.depth, value_range):
            alike = [other for other in found if other.depth == one.depth]
            raise ConfigError(f"{one.path} has {holding([one])}; {advice(alike)}")


def advice(found: Sequence[Measured]) -> str:
    """What to do about images of one depth that a setting does not fit."""
    depth = found[0].depth
    if depth.layout == "none":
        return "its colours are kept one after another, which cannot be read: save it as 16-bit PNG"
    if depth.layout == "eight":
        return "only their whole range can be read: set data.value_range: dtype, or save it as 16-bit PNG or TIFF"
    whole = "" if depth.low is None else f", or dtype if all images use {depth.low} to {depth.high}"
    choice = f"{suggested(*extent(found), len(found))}{whole}"
    return (
        f"say which values are black and white: set data.value_range: {choice} (spos doctor --full measures all images)"
    )


def holding(found: Sequence[Measured]) -> str:
    """`16-bit values from 0 to 4080`: of one image or several."""
    kinds = " and ".join(sorted({one.depth.said for one in found}))
    least, most = extent(found)
    return f"{kinds} values" + ("" if least is None or most is None else f" from {_short(least)} to {_short(most)}")


def extent(found: Sequence[Measured]) -> tuple[float | None, float | None]:
    """The smallest and the largest value of all, if any could be read."""
    least = [one.least for one in found if one.least is not None]
    most = [one.most for one in found if one.most is not None]
    return min(least, default=None), max(most, default=None)


def suggested(least: float | None, most: float | None, images: int = 1) -> str:
    """A range for values that were measured in so many images.

    Whole numbers get that of the least bits which hold them, since other images may have larger ones; unless several
    images use little of it.
    """
    if least is None or most is None:
        return "[low, high]"
    if isinstance(least, int) and isinstance(most, int):
        white = 2 ** max(7 if least < 0 else 8, most.bit_length(), (-least - 1).bit_length() if least < 0 else 0) - 1
        black = -white - 1 if least < 0 else 0
        if images < SEVERAL or (least >= 0 and (most - least >= HARDLY_USED * white or least == most)):
            return f"[{black}, {white}]"
    return f"[{_short(least)}, {_short(most if most > least else least + 1)}]"


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.9g}"


def doubts(found: Sequence[Measured], value_range: ValueRange) -> list[str]:
    """What speaks against a setting that fits the images: levels that it loses."""
    known = [one for one in found if one.least is not None and fits(one.depth, value_range)]
    least, most = extent(known)
    if least is None or most is None:
        return []
    ranges = [bounds(one.depth, value_range) for one in known]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    said = []
    if least < low or most > high:
        said.append(f"what is beyond {_short(low)} to {_short(high)} becomes black or white")
    if min(most, high) - max(least, low) < HARDLY_USED * (high - low):
        said.append(f"that is little of {_short(low)} to {_short(high)}, so most grey levels are lost")
    return [f"{holding(known)}: {' and '.join(said)}; measured: {suggested(least, most, len(known))}"] if said else []
