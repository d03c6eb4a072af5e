"""Turn an image upright by the orientation that a camera wrote into its EXIF."""

from __future__ import annotations

import io
import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Exif = Literal["apply", "ignore"]

UPRIGHT = 1  # the orientation of an image that is stored as it is to be seen
ORIENTATION_TAG = 0x0112  # of EXIF and of TIFF
# Whether to flip rows and columns, by orientation; from 5 on, rows and columns are exchanged before.
FLIPS = {1: (False, False), 2: (False, True), 3: (True, True), 4: (True, False)}
# Without any of these, Pillow finds no orientation in a JPEG file: EXIF, and its copy in XMP.
SIGNS_IN_JPEG = (b"Exif\0\0", b"tiff:Orientation")
START_OF_SCAN = 0xDA  # marker of the segment that a JPEG file's compressed pixels follow
# Markers of segments with a length, as they come before the pixels: frames and tables, metadata and comments.
MARKERS_WITH_LENGTH = {*range(0xC0, 0xD0), 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE} - {0xC8}


def read_orientation(image: Any) -> int:
    """Return the orientation of an image of PIL, from 1 to 8; 1 (upright) if it has none, or damaged metadata.

    Read the pixels first: a PNG file may have its EXIF after them. Pillow turns a TIFF file upright when it reads its
    pixels, and then says that it is upright.
    """
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, UPRIGHT)
    except Exception:  # PIL raises almost any kind of error for damaged metadata. The pixels may be whole.
        return UPRIGHT
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else UPRIGHT


def read_jpeg_orientation(content: bytes) -> int:
    """Return the orientation of a JPEG file by its content, as `read_orientation` does."""
    # Pillow reads metadata before the pixels only. Searching all of a file would take a twentieth of its decoding.
    metadata = content[: find_scan(content)]
    if not any(sign in metadata for sign in SIGNS_IN_JPEG):
        return UPRIGHT  # Opening the file would take long for the many images without EXIF.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns about damaged metadata.
            with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
                return read_orientation(image)
    except Exception:  # As in `read_orientation`.
        return UPRIGHT


def find_scan(content: bytes) -> int:
    """Return the position of a JPEG file's first scan, its compressed pixels; the file's length if it is unusual."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == START_OF_SCAN:
            return position
        if marker not in MARKERS_WITH_LENGTH:
            break
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return len(content)


def prevent_mapping(image: Any) -> None:
    """Keep Pillow from mapping the pixels of a TIFF file into memory if its rows and columns are to be exchanged.

    It would map them with the sides of the upright image, so that rows are cut at the wrong places (Pillow 13.0).
    """
    if image.format == "TIFF" and getattr(image, "fp", None) is not None and read_orientation(image) > 4:
        image.load_seek = image.fp.seek  # Pillow maps no file that is read in a way of its own.


def turn_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return pixels `(H, W)` or `(H, W, C)` turned and mirrored as an orientation of EXIF asks for, contiguous."""
    if orientation == UPRIGHT:
        return pixels
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = FLIPS[(orientation - 1) % 4 + 1]
    return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])
