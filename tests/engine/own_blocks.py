"""A user's own blocks: each process may use other parameters, or train only some of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Own(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.main = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.other = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class Frozen(_Own):
    """Adds a branch that is never trained."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, affine: bool) -> None:
        super().__init__(in_channels, out_channels, stride, affine)
        self.other.weight.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, out_channels, H / stride, W / stride)`."""
        output: Tensor = self.main(features) + self.other(features)
        return output


class StochasticDepth(nn.Module):
    """Skips its convolution in half of the training passes (Huang et al., arXiv 1603.09382)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.main = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, out_channels, H / stride, W / stride)`."""
        passed = F.avg_pool2d(features, self.main.stride, ceil_mode=True)
        repeats = -(-self.main.out_channels // self.main.in_channels)
        passed = passed.repeat(1, repeats, 1, 1)[:, : self.main.out_channels]
        if self.training and not features.is_meta and float(torch.rand(())) < 0.5:
            return passed
        return passed + self.main(features)


class OneOfTwo(_Own):
    """Uses one of two branches, drawn for each training pass."""

    def forward(self, features: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, out_channels, H / stride, W / stride)`."""
        first = not self.training or features.is_meta or float(torch.rand(())) < 0.5
        output: Tensor = (self.main if first else self.other)(features)
        return output
