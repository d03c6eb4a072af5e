"""Make small pictures of images, as text that an HTML page can hold."""

from __future__ import annotations

import base64
import io

from PIL import Image
from torch import Tensor

from spos_cli.data.channels import fit_channels

MAX_SIDE = 64  # pixels
MAX_LOSSLESS_SIDE = 32  # pixels; a JPEG of so few pixels would show more of its blocks than of the image
JPEG_QUALITY = 85
MAX_LETTERS = 16_000  # of a picture as text; one of nothing but noise takes half of them


def make_thumbnail(image: Tensor) -> str:
    """Return an image `(C, H, W) uint8` as a data URI with at most 64 x 64 pixels: a PNG if it is tiny, else a JPEG.

    Of more than three channels, the first three are shown as RGB; of two, the first one.
    """
    shown = image[:3] if len(image) >= 3 else image[:1]
    picture = Image.fromarray(fit_channels(shown.permute(1, 2, 0).numpy(), 3))
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    kind = "png" if max(picture.size) <= MAX_LOSSLESS_SIDE else "jpeg"
    content = io.BytesIO()
    picture.save(content, kind, quality=JPEG_QUALITY)  # PNG has no quality and ignores it.
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
