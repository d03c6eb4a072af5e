"""Resize prepared images on the device."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, channels_last


def resize(images: Tensor, side: int) -> Tensor:
    """Return images as `(B, C, side, side)`, resized with antialiasing, or themselves if they have that size.

    Preparing is linear in the pixels, so it may come before the resize.

    Args:
        images: `(B, C, H, W)` float, prepared for a network.
        side: in pixels; 0, as of an architecture without an image size, changes nothing.
    """
    if not side or images.shape[2:] == (side, side):
        return images
    resized = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return resized.contiguous(memory_format=channels_last)
