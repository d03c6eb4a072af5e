"""`--image-size`: a side, or height x width."""

from __future__ import annotations

import pytest

from spos_cli.errors import ConfigError
from spos_cli.space.image_size import ImageSize, parse_image_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64", (64, 64)),
        ("192x256", (192, 256)),
        (" 192 X 256 ", (192, 256)),
        ("1×8192", (1, 8192)),
    ],
)
def test_sizes_are_read_height_first(text: str, size: tuple[int, int]) -> None:
    found = parse_image_size(text)
    assert found == size
    assert found.is_square == (size[0] == size[1])
    assert str(ImageSize(192, 256)) == "192 x 256"


@pytest.mark.parametrize("text", ["", "0", "64x", "x64", "0x64", "8193", "64x64x3", "6.4", "-64", "64px", "٦٤", "1e2"])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not an image size; write the side of a square, such as 64, or height"):
        parse_image_size(text)
