"""Send images to a device, and choose the precision of the forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Amp = Literal["off", "bf16", "fp16"]


def autocast(device: torch.device, amp: Amp) -> torch.autocast:
    """Return the context of a forward pass in mixed precision; with `off` it changes nothing."""
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=amp != "off")


def prepare_images(
    preprocess: Callable[[Tensor, Tensor | None], Tensor], images: Tensor, colours: Tensor | None, device: torch.device
) -> Tensor:
    """Send training images `(B, C, H, W) uint8` to the device, and turn them into the network's input.

    Args:
        preprocess: maps uint8 images and their colour changes, on the device, to `(B, C, H, W)` float.
        images: on any device.
        colours: the drawn colour changes of the images, or None.
        device: of the network.
    """
    colours = None if colours is None else colours.to(device, non_blocking=True)
    return preprocess(to_device(images, device), colours)


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """Copy `(B, C, H, W)` to channels_last memory on the device, without waiting if the source is pinned."""
    return images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
