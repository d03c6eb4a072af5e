"""Read images that are arrays of NumPy in .npy files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spos_cli.data.levels import FLOATING_POINT, Depth, make_depth

EXTENSION = ".npy"


def open_array(path: Path, channels: int) -> NDArray[Any]:
    """Map the array of a file: `(H, W)` or `(H, W, C)` whole or floating-point numbers. No code from it is run.

    Args:
        path: the file.
        channels: of the network, for messages.

    Raises:
        ValueError: the file is torn, or its array is not an image.
        OSError: it cannot be read.
    """
    values = np.lib.format.open_memmap(path, mode="r")
    if values.dtype.kind not in "uif":
        raise ValueError(f"its values are of type {values.dtype}; save whole or floating-point numbers")
    is_image = values.ndim == 2 or (values.ndim == 3 and (values.shape[2] == channels or values.shape[2] in (1, 3)))
    if not is_image:
        raise ValueError(
            f"its array is {values.shape}; it should be (height, width, {channels}), as space.stem.in_channels says"
        )
    return values


def get_depth(values: NDArray[Any]) -> Depth | None:
    """Return the depth of an array by its type; None for bytes."""
    if values.dtype == np.uint8:
        return None
    if values.dtype.kind == "f":
        return FLOATING_POINT
    return make_depth(8 * values.dtype.itemsize, values.dtype.kind == "i", "colour")
