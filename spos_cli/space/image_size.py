"""The size of images: a side of a square, or height x width."""

from __future__ import annotations

import re
from typing import NamedTuple

from spos_cli.errors import ConfigError
from spos_cli.files.quoting import quote_value
from spos_cli.space.search_space import MAX_PIXELS

SIZE = re.compile(r"(\d{1,9})(?:\s*[x×]\s*(\d{1,9}))?", re.ASCII | re.IGNORECASE)


class ImageSize(NamedTuple):
    """Height and width of images, in pixels."""

    height: int
    width: int

    @property
    def is_square(self) -> bool:
        """Whether height and width are equal."""
        return self.height == self.width

    def __str__(self) -> str:
        return f"{self.height} x {self.width}"


def parse_image_size(text: str) -> ImageSize:
    """Read `64`, the side of a square, or `192x256`, height x width.

    Raises:
        ConfigError: the text is neither, or a side is not from 1 to 8,192 pixels.
    """
    match = SIZE.fullmatch(text.strip())
    sides = [int(side) for side in match.groups() if side is not None] if match else []
    if not sides or not all(1 <= side <= MAX_PIXELS for side in sides):
        raise ConfigError(
            f"--image-size {quote_value(text)} is not an image size; write the side of a square, such as 64, or height"
            f" x width, such as 192x256, from 1 to {MAX_PIXELS:,} pixels"
        )
    return ImageSize(sides[0], sides[-1])
