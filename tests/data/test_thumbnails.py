"""Small pictures of images: of bounded size, whatever they show."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from spos_cli.data.thumbnails import MAX_LETTERS, make_thumbnail


def open_picture(text: str) -> Image.Image:
    kind, _, content = text.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return Image.open(io.BytesIO(base64.b64decode(content, validate=True)))


@pytest.mark.parametrize("side", [8, 28, 32])
def test_a_tiny_image_keeps_its_pixels(side: int) -> None:
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    picture = open_picture(make_thumbnail(image))
    assert picture.format == "PNG"
    assert np.array_equal(np.asarray(picture), image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("side", [33, 64, 224])
def test_a_larger_image_becomes_a_small_jpeg(side: int) -> None:
    image = torch.zeros(3, side, side, dtype=torch.uint8)
    image[0, :, : side // 2] = 200  # red on the left
    picture = open_picture(make_thumbnail(image))
    assert (picture.format, picture.size) == ("JPEG", (min(side, 64),) * 2)
    left, right = (picture.getpixel((x, picture.height // 2)) for x in (4, picture.width - 5))
    assert np.abs(np.subtract(left, (200, 0, 0))).max() < 12
    assert np.abs(right).max() < 12


def test_noise_is_bounded_too() -> None:
    for side in (32, 64, 500):
        image = torch.randint(0, 2, (3, side, side), dtype=torch.uint8) * 255
        assert len(make_thumbnail(image)) < MAX_LETTERS
