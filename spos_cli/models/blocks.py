"""The ops of a choice block, with the published tensor names (megvii-model/SinglePathOneShot, `blocks.py`).

`branch_main` works; with stride 2 `branch_proj` projects the same input, with stride 1 half of the channels pass by
instead (ShuffleNetV2, figure 3). What a block makes is joined, shuffled and split on its way to later layers: see
`routing`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spos_cli.models.routing import Order
from spos_cli.space.search_space import Choice, Layer


class Convolution(nn.Conv2d):
    """A convolution without bias, of channels in any order."""

    def forward(self, features: Tensor, inputs: Tensor | None = None, outputs: Tensor | None = None) -> Tensor:
        """`(B, in, H, W)` to `(B, out, ...)`; the orders hold the published places of the channels."""
        return F.conv2d(
            features, self.ordered(inputs, outputs), None, self.stride, self.padding, self.dilation, self.groups
        )

    def ordered(self, inputs: Tensor | None, outputs: Tensor | None) -> Tensor:
        """The weight for channels in these orders; a depthwise one has its inputs' order only."""
        weight = self.weight
        if self.is_depthwise:
            return weight if inputs is None else weight.index_select(0, inputs)
        if outputs is not None:
            weight = weight.index_select(0, outputs)
        return weight if inputs is None else weight.index_select(1, inputs)

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is worked on alone."""
        return self.groups > 1


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm of channels in any order; its parameters and statistics are in the published one."""

    def forward(self, features: Tensor, order: Tensor | None = None) -> Tensor:
        """`(B, C, H, W)`; the order holds the published places of the channels."""
        if order is None:
            return super().forward(features)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None, "a plain average is momentum 1 / n, batch by batch"
        mean, variance = self.running_mean[order], self.running_var[order]
        scale, shift = (self.weight[order], self.bias[order]) if self.affine else (None, None)
        result = F.batch_norm(features, mean, variance, scale, shift, self.training, self.momentum, self.eps)
        if self.training:
            with torch.no_grad():
                self.running_mean.index_copy_(0, order, mean)
                self.running_var.index_copy_(0, order, variance)
                self.num_batches_tracked += 1
        return result


def pointwise(in_channels: int, out_channels: int, affine: bool) -> list[nn.Module]:
    """1x1 convolution, BatchNorm, ReLU."""
    return [
        Convolution(in_channels, out_channels, 1, bias=False),
        BatchNorm(out_channels, affine=affine),
        nn.ReLU(inplace=True),
    ]


def depthwise(channels: int, kernel: int, stride: int, affine: bool) -> list[nn.Module]:
    """Depthwise convolution and BatchNorm; no activation follows (ShuffleNetV2, figure 3)."""
    return [
        Convolution(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False),
        BatchNorm(channels, affine=affine),
    ]


def run(branch: nn.Sequential, features: Tensor, inputs: Tensor | None, outputs: Tensor | None) -> Tensor:
    """Convolutions, BatchNorm and ReLU one after another, from channels in one order to channels in another.

    Within, channels are in the published order; the last convolution mixes channels.
    """
    last = max(index for index, module in enumerate(branch) if isinstance(module, Convolution))
    order = inputs
    for index, module in enumerate(branch):
        if isinstance(module, Convolution):
            made = order if module.is_depthwise else outputs if index == last else None
            features, order = module(features, order, made), made
        elif isinstance(module, BatchNorm):
            features = module(features, order)
        else:
            features = module(features)
    return features


class TwoBranchBlock(nn.Module):
    """What the blocks share: the two branches.

    Args:
        layer: channels and stride of the choice block that this is an op of.
        kernel: side of the depthwise kernel of the projection, in pixels (odd).
        affine: whether BatchNorm has a learned scale and shift.
    """

    branch_main: nn.Sequential

    def __init__(self, layer: Layer, kernel: int, affine: bool) -> None:
        super().__init__()
        self.stride = layer.stride
        self.in_channels = layer.worked_channels
        self.mid_channels = layer.out_channels // 2
        self.main_channels = layer.made_channels[-1]
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

    def forward(self, features: Tensor, order: Order = Order()) -> tuple[Tensor, ...]:  # noqa: B008, it is immutable
        """`(B, self.in_channels, H, W)` that are worked on to what the layer makes (`Layer.made_channels`)."""
        main = run(self.branch_main, features, order.inputs, order.outputs[-1])
        if self.stride == 1:
            return (main,)
        return run(self.branch_proj, features, order.inputs, order.outputs[0]), main


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
