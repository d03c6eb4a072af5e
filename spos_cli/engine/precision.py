"""How images and numbers go to a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Amp = Literal["off", "bf16", "fp16"]


def autocast(device: torch.device, amp: Amp) -> torch.autocast:
    """Mixed precision of the forward pass, or none."""
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=amp != "off")


def prepared(
    preprocess: Callable[[Tensor, Tensor | None], Tensor], images: Tensor, colours: Tensor | None, device: torch.device
) -> Tensor:
    """Training images `(B, 3, H, W) uint8` and what is left to do with their colours, as the network takes them."""
    colours = None if colours is None else colours.to(device, non_blocking=True)
    return preprocess(to_device(images, device), colours)


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """`(B, 3, H, W)` in channels_last memory on the device; the copy does not wait if memory is pinned."""
    return images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
