"""How images and numbers go to a device."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Amp = Literal["off", "bf16", "fp16"]


def autocast(device: torch.device, amp: Amp) -> torch.autocast:
    """Mixed precision of the forward pass, or none."""
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=amp != "off")


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """`(B, 3, H, W)` in channels_last memory on the device; the copy does not wait if memory is pinned."""
    return images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
