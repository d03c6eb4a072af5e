"""Images in memory."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spos_cli.data.channels import fit_channels
from spos_cli.data.image_files import DEFAULT_DECODING, Decoding, Pixels
from spos_cli.data.image_set import ImageSet, hash_each


class ArraySet(ImageSet):
    """Images in memory: `(N, H, W)` or `(N, H, W, 3)` uint8."""

    in_memory = True

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...],
        pixels: Pixels,
        labels: NDArray[Any],
        decoding: Decoding = DEFAULT_DECODING,
    ) -> None:
        self.name, self.classes, self.pixels, self.decoding = name, classes, pixels, decoding
        self.labels = np.asarray(labels, np.int64)

    def image(self, index: int) -> Pixels:
        return fit_channels(self.pixels[index], self.decoding.channels)

    def path(self, index: int) -> str:
        return f"{self.name}/{index}"

    @functools.cached_property
    def contents(self) -> NDArray[np.int64]:
        return hash_each(pixels.tobytes() for pixels in self.pixels)
