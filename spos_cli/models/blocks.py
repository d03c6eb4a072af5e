"""The ops of a choice block, with the published tensor names (megvii-model/SinglePathOneShot, `blocks.py`).

Every block maps `(B, in_channels, H, W)` to `(B, out_channels, ceil(H / stride), ceil(W / stride))` in two
branches, whose outputs are concatenated: `branch_main` works, `branch_proj` projects. With stride 1 the
second is no module at all: the even channels pass by untouched and the odd ones are worked on.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spos_cli.space.search_space import Choice, Layer


def split_channels(features: Tensor) -> tuple[Tensor, Tensor]:
    """ShuffleNetV2's channel shuffle and split in one: the even and the odd channels, as views.

    `(B, C, H, W)` to two of `(B, C / 2, H, W)`; nothing is copied.
    """
    batch, channels, height, width = features.shape
    even, odd = features.view(batch, channels // 2, 2, height, width).unbind(2)
    return even, odd


def pointwise(in_channels: int, out_channels: int, affine: bool) -> list[nn.Module]:
    """1x1 convolution, BatchNorm, ReLU."""
    return [
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels, affine=affine),
        nn.ReLU(inplace=True),
    ]


def depthwise(channels: int, kernel: int, stride: int, affine: bool) -> list[nn.Module]:
    """Depthwise convolution and BatchNorm; no activation follows (ShuffleNetV2, figure 3)."""
    return [
        nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


class TwoBranchBlock(nn.Module):
    """What the blocks share: the split, the projection and the concatenation.

    Args:
        layer: channels and stride of the choice block that this is an op of.
        kernel: side of the depthwise kernel of the projection, in pixels (odd).
        affine: whether BatchNorm has a learned scale and shift.
    """

    branch_main: nn.Sequential

    def __init__(self, layer: Layer, kernel: int, affine: bool) -> None:
        super().__init__()
        self.stride = layer.stride
        self.in_channels = layer.in_channels if layer.stride == 2 else layer.in_channels // 2
        self.mid_channels = layer.out_channels // 2
        self.main_channels = layer.out_channels - self.in_channels
        # Filled by the child before the projection, so that tensors come in the published order.
        self.branch_main = self.build_main(affine, kernel)
        if self.stride == 2:
            self.branch_proj = nn.Sequential(
                *depthwise(self.in_channels, kernel, 2, affine),
                *pointwise(self.in_channels, self.in_channels, affine),
            )

    def build_main(self, affine: bool, kernel: int) -> nn.Sequential:
        """`(B, self.in_channels, H, W)` to `(B, self.main_channels, H / stride, W / stride)`."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        if self.stride == 2:
            return torch.cat((self.branch_proj(features), self.branch_main(features)), 1)
        passed, worked = split_channels(features)
        return torch.cat((passed, self.branch_main(worked)), 1)


class ShuffleBlock(TwoBranchBlock):
    """The ShuffleNetV2 unit with a `kernel` x `kernel` depthwise convolution: 1x1, depthwise, 1x1."""

    def __init__(self, layer: Layer, affine: bool, kernel: int) -> None:
        super().__init__(layer, kernel, affine)

    def build_main(self, affine: bool, kernel: int) -> nn.Sequential:
        return nn.Sequential(
            *pointwise(self.in_channels, self.mid_channels, affine),
            *depthwise(self.mid_channels, kernel, self.stride, affine),
            *pointwise(self.mid_channels, self.main_channels, affine),
        )


class ShuffleXceptionBlock(TwoBranchBlock):
    """Three depthwise-separable convolutions, Xception style, all 3x3."""

    def __init__(self, layer: Layer, affine: bool) -> None:
        super().__init__(layer, 3, affine)

    def build_main(self, affine: bool, kernel: int) -> nn.Sequential:
        return nn.Sequential(
            *depthwise(self.in_channels, kernel, self.stride, affine),
            *pointwise(self.in_channels, self.mid_channels, affine),
            *depthwise(self.mid_channels, kernel, 1, affine),
            *pointwise(self.mid_channels, self.mid_channels, affine),
            *depthwise(self.mid_channels, kernel, 1, affine),
            *pointwise(self.mid_channels, self.main_channels, affine),
        )


BLOCKS: dict[str, Callable[..., nn.Module]] = {"shuffle": ShuffleBlock, "shuffle_xception": ShuffleXceptionBlock}


def build_block(choice: Choice, layer: Layer, affine: bool) -> nn.Module:
    """The module of one choice of one layer; the space has checked that it exists."""
    return BLOCKS[choice.op](layer, affine, **dict(choice.parameters))
