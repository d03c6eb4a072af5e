"""The ops of a choice block, with the published tensor names (megvii-model/SinglePathOneShot, `blocks.py`).

`branch_main` works; with stride 2 `branch_proj` projects the same input, with stride 1 half of the channels pass by
instead (ShuffleNetV2, figure 3). What a block makes is joined, shuffled and split on its way to later layers: see
`routing`.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spos_cli.errors import ConfigError
from spos_cli.models import depthwise as depthwise_strips
from spos_cli.models.routing import Order
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import Layer

AnyBatchNorm = nn.modules.batchnorm._BatchNorm  # of one, two or three dimensions, as a user's block may have them
Channels = Tensor | int | None  # the published places of those that are there; or how many of the first; or all


class Convolution(nn.Conv2d):
    """A convolution without bias, of channels in any order, or of the first of them.

    Attributes:
        is_depthwise: whether each channel is worked on alone. The number of groups does not tell: a depthwise
            convolution of one channel has one, as all others have.
    """

    is_depthwise: ClassVar[bool] = False

    def forward(self, features: Tensor, inputs: Channels = None, outputs: Channels = None) -> Tensor:
        """`(B, in, H, W)` to `(B, out, ...)`."""
        weight = self.taken(inputs, outputs)
        if self.is_depthwise and depthwise_strips.pays(features, weight, self.stride[0]):
            result: Tensor = depthwise_strips.Depthwise.apply(features, weight)
            return result
        return self.convolved(features, weight)

    def convolved(self, features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The convolution with other weights."""
        groups = len(weight) if self.is_depthwise else self.groups
        return F.conv2d(features, weight, bias, self.stride, self.padding, self.dilation, groups)

    def taken(self, inputs: Channels, outputs: Channels) -> Tensor:
        """The weight for these channels; a depthwise one has the same outputs as inputs."""
        if self.is_depthwise:
            return _taken(self.weight, 0, inputs)
        return _taken(_taken(self.weight, 0, outputs), 1, inputs)


class DepthwiseConvolution(Convolution):
    """A `kernel` x `kernel` convolution (odd) of each channel with itself alone; with stride 1 it keeps the size."""

    is_depthwise = True

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)


def _taken(tensor: Tensor, dimension: int, channels: Channels) -> Tensor:
    if channels is None:
        return tensor
    if isinstance(channels, int):
        # As it would be allocated: PyTorch takes other ways through a part of a larger tensor.
        return tensor.narrow(dimension, 0, channels).contiguous(memory_format=torch.channels_last)
    return tensor.index_select(dimension, channels)


def _of_each(values: Tensor, channels: Channels) -> Tensor:
    """`(C,)` values of these channels; of all and of the first it is a view."""
    # An index in brackets gives the same, but a GPU sorts it on the way back.
    return values.index_select(0, channels) if isinstance(channels, Tensor) else values[:channels]


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm of channels in any order, or of the first; its parameters and statistics are in the published one."""

    def forward(self, features: Tensor, channels: Channels = None) -> Tensor:
        """`(B, C, H, W)`."""
        if channels is None:
            return super().forward(features)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None, "a plain average is momentum 1 / n, batch by batch"
        mean, variance = _of_each(self.running_mean, channels), _of_each(self.running_var, channels)
        scale, shift = self.scale_and_shift(channels) or (None, None)
        result = F.batch_norm(features, mean, variance, scale, shift, self.training, self.momentum, self.eps)
        if self.training:
            with torch.no_grad():
                if isinstance(channels, Tensor):  # else they were counted where they are
                    self.running_mean.index_copy_(0, channels, mean)
                    self.running_var.index_copy_(0, channels, variance)
                self.num_batches_tracked += 1
        return result

    def scale_and_shift(self, channels: Channels) -> tuple[Tensor, Tensor] | None:
        """The learned ones of these channels, if it has some."""
        if not self.affine:
            return None
        return _of_each(self.weight, channels), _of_each(self.bias, channels)


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
        DepthwiseConvolution(channels, kernel, stride),
        BatchNorm(channels, affine=affine),
    ]


ACTIVATIONS: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.ReLU: torch.relu_,
    nn.ReLU6: functools.partial(F.relu6, inplace=True),
}


class Unit(NamedTuple):
    """A convolution, its BatchNorm and what follows, in place; and the channels that it finds and makes."""

    convolution: Convolution
    norm: BatchNorm
    activation: Callable[[Tensor], Tensor] | None
    inputs: Channels
    outputs: Channels


class Branch(nn.Sequential):
    """Convolutions, each with BatchNorm and perhaps ReLU, of channels in any order; the last is no depthwise one."""

    def forward(
        self, features: Tensor, inputs: Channels = None, outputs: Channels = None, middle: int | None = None
    ) -> Tensor:
        """`(B, C, H, W)` with channels in one order to such with channels in another."""
        for unit in self.units(inputs, outputs, middle):
            features = unit.norm(unit.convolution(features, unit.inputs, unit.outputs), unit.outputs)
            if unit.activation:
                features = unit.activation(features)
        return features

    def units(self, inputs: Channels = None, outputs: Channels = None, middle: int | None = None) -> list[Unit]:
        """Its parts, and the channels that each finds and makes: within, the first `middle` ones, or all."""
        modules = list(self)
        places = [place for place, module in enumerate(modules) if isinstance(module, Convolution)]
        units = []
        for place in places:
            convolution, norm, *rest = modules[place : place + 3]
            assert isinstance(convolution, Convolution)
            assert isinstance(norm, BatchNorm)
            made = inputs if convolution.is_depthwise else outputs if place == places[-1] else middle
            activation = ACTIVATIONS.get(type(rest[0])) if rest else None
            units.append(Unit(convolution, norm, activation, inputs, made))
            inputs = made
        return units


class ChoiceBlock(nn.Module):
    """One op of one layer: `(B, op_in_channels, H, W)` to the tensors that the layer makes (`Layer.op_out_channels`).

    `forward` also takes the order of the channels; it is the published one wherever a layer is handed all of them. The
    block is allocated for as many `middle` channels as it can have, and uses the first of them (paper, section 3.3).
    """


class TwoBranchBlock(ChoiceBlock):
    """What ShuffleNetV2's blocks share: the two branches.

    Args:
        layer: channels and stride of the choice block that this is an op of.
        affine: whether BatchNorm has a learned scale and shift.
        middle: channels between the convolutions.
        kernel: side of the depthwise kernel of the projection, in pixels (odd).
    """

    branch_main: Branch

    def __init__(self, layer: Layer, affine: bool, middle: int, kernel: int) -> None:
        super().__init__()
        self.stride, self.split = layer.stride, layer.split
        self.in_channels = layer.in_channels if layer.stride == 2 else layer.in_channels // 2
        self.mid_channels = middle
        self.main_channels = layer.out_channels - self.in_channels
        # Filled by the child before the projection, so that tensors come in the published order.
        self.branch_main = self.build_main(affine, kernel)
        if self.stride == 2:
            self.branch_proj = Branch(
                *depthwise(self.in_channels, kernel, 2, affine),
                *pointwise(self.in_channels, self.in_channels, affine),
            )

    def build_main(self, affine: bool, kernel: int) -> Branch:
        """`(B, self.in_channels, H, W)` to `(B, self.main_channels, H / stride, W / stride)`."""
        raise NotImplementedError

    def branches(self, order: Order) -> list[tuple[Branch, Tensor | None]]:
        """The branches, by the tensors that they make, and the order in which each makes its channels."""
        found = [self.branch_main] if self.stride == 1 else [self.branch_proj, self.branch_main]
        return list(zip(found, order.outputs[-len(found) :], strict=True))

    def forward(self, features: Tensor, order: Order = Order()) -> tuple[Tensor, ...]:  # noqa: B008, it is immutable
        if self.split:
            found = self.branches(order)
            return tuple(branch(features, order.inputs, outputs, order.middle) for branch, outputs in found)
        passed = self.branch_proj(features) if self.stride == 2 else features[:, ::2]
        worked = features if self.stride == 2 else features[:, 1::2]
        return (torch.cat((passed, self.branch_main(worked, middle=order.middle)), 1),)


class ShuffleBlock(TwoBranchBlock):
    """The ShuffleNetV2 unit with a `kernel` x `kernel` depthwise convolution: 1x1, depthwise, 1x1."""

    def build_main(self, affine: bool, kernel: int) -> Branch:
        return Branch(
            *pointwise(self.in_channels, self.mid_channels, affine),
            *depthwise(self.mid_channels, kernel, self.stride, affine),
            *pointwise(self.mid_channels, self.main_channels, affine),
        )


class ShuffleXceptionBlock(TwoBranchBlock):
    """Three depthwise-separable convolutions, Xception style, all 3x3."""

    def __init__(self, layer: Layer, affine: bool, middle: int) -> None:
        super().__init__(layer, affine, middle, 3)

    def build_main(self, affine: bool, kernel: int) -> Branch:
        return Branch(
            *depthwise(self.in_channels, kernel, self.stride, affine),
            *pointwise(self.in_channels, self.mid_channels, affine),
            *depthwise(self.mid_channels, kernel, 1, affine),
            *pointwise(self.mid_channels, self.mid_channels, affine),
            *depthwise(self.mid_channels, kernel, 1, affine),
            *pointwise(self.mid_channels, self.main_channels, affine),
        )


class InvertedResidual(ChoiceBlock):
    """MobileNetV2's block: 1x1 to `expand` times the channels, depthwise, 1x1 (Sandler et al., arXiv 1801.04381).

    With stride 1 and as many channels out as in, its input is added. `expand` 1 leaves the first convolution away.
    """

    def __init__(self, layer: Layer, affine: bool, middle: int, kernel: int, expand: int) -> None:
        super().__init__()
        self.residual = layer.stride == 1 and layer.in_channels == layer.out_channels
        widen = [Convolution(layer.in_channels, middle, 1, bias=False), BatchNorm(middle, affine=affine), nn.ReLU6()]
        self.layers = Branch(
            *(widen if expand > 1 else []),
            *depthwise(middle, kernel, layer.stride, affine),
            nn.ReLU6(),
            Convolution(middle, layer.out_channels, 1, bias=False),
            BatchNorm(layer.out_channels, affine=affine),
        )

    def forward(self, features: Tensor, order: Order = Order()) -> tuple[Tensor, ...]:  # noqa: B008, it is immutable
        made: Tensor = self.layers(features, middle=order.middle)
        return (features + made if self.residual else made,)


class Identity(ChoiceBlock):
    """No layer at all: depth is searched by it."""

    def __init__(self, layer: Layer, affine: bool, middle: int) -> None:
        super().__init__()

    def forward(self, features: Tensor, order: Order = Order()) -> tuple[Tensor, ...]:  # noqa: B008, it is immutable
        return (features,)


BLOCKS: dict[str, Callable[..., ChoiceBlock]] = {
    "shuffle": ShuffleBlock,
    "shuffle_xception": ShuffleXceptionBlock,
    "mbconv": InvertedResidual,
    "identity": Identity,
}


class OwnBlock(ChoiceBlock):
    """A block of the user's: any module `Class(in_channels, out_channels, stride, affine, **parameters)`.

    It maps `(B, in_channels, H, W)` to `(B, out_channels, ceil(H / stride), ceil(W / stride))`. The statistics of its
    BatchNorm layers are computed anew for each candidate; where `affine` is false, they should have no parameters. In
    training, processes may use different parameters of it in one step; the average of the gradients is right all the
    same. Its input is not to be changed in place. It is imported as Python does it, or from the working folder.

    Raises:
        ConfigError: it cannot be imported or built. What it makes is looked at when its costs are counted.
    """

    def __init__(self, path: str, layer: Layer, affine: bool, parameters: dict[str, int]) -> None:
        super().__init__()
        module, _, name = path.partition(":")
        if not {"", str(Path.cwd())} & set(sys.path):  # a console script does not look there
            sys.path.append(str(Path.cwd()))
        try:
            made = getattr(importlib.import_module(module), name)(
                layer.in_channels, layer.out_channels, layer.stride, affine, **parameters
            )
        except (Exception, SystemExit) as error:  # whatever a user's code may raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ConfigError(f"choices: cannot build {path} for layer {layer.index}: {reason}") from error
        if not isinstance(made, nn.Module):
            raise ConfigError(f"choices: {path} is no torch.nn.Module")
        self.block = made

    def forward(self, features: Tensor, order: Order = Order()) -> tuple[Tensor, ...]:  # noqa: B008, it is immutable
        return (self.block(features),)


def build_block(choice: Choice, layer: Layer, affine: bool, width: int = 0) -> ChoiceBlock:
    """The module of one choice of one layer; the space has checked that it exists, unless it is the user's own.

    Args:
        width: of its middle channels, in thousandths; 0 for all of them.

    Raises:
        ConfigError: a block of the user's cannot be built.
    """
    if choice.is_own:
        return OwnBlock(choice.op, layer, affine, dict(choice.parameters))
    return BLOCKS[choice.op](layer, affine, layer.hidden_channels(choice, width), **dict(choice.parameters))
