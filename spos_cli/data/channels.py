"""Give images the channels that the network takes: 1, 3 or any other number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spos_cli.files.quoting import plural
from spos_cli.space.search_space import COLOUR, GREY

SAMPLES_PER_PIXEL = 277  # a tag of TIFF


def fit_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Return pixels `(H, W)` or `(H, W, C)` with a number of channels: grey is repeated, colour becomes grey.

    Grey is `0.299 R + 0.587 G + 0.114 B`, rounded, as in Pillow.

    Raises:
        ValueError: the image has another number of channels, and neither it nor the network is of grey or colour.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    found = pixels.shape[2]
    if found == channels:
        return pixels
    if (found, channels) == (GREY, COLOUR):
        return np.repeat(pixels, COLOUR, 2)
    if (found, channels) == (COLOUR, GREY):
        return np.array(Image.fromarray(pixels).convert("L"))[..., None]
    raise ValueError(f"it has {plural(found, 'channel')}, but space.stem.in_channels is {channels}")


def read_bands(image: Any) -> NDArray[np.uint8]:
    """Return all bands of an opened image of 8 bits per channel as they are, `(H, W)` or `(H, W, C)`.

    Raises:
        ValueError: Pillow does not read all of them.
    """
    stored = image.tag_v2.get(SAMPLES_PER_PIXEL, 1) if image.format == "TIFF" else len(image.getbands())
    if stored != len(image.getbands()):
        raise ValueError(f"Pillow reads {len(image.getbands())} of its {stored} channels; save it as .npy")
    return np.array(image.convert("L") if image.mode == "1" else image)
