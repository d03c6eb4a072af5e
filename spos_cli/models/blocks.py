"""Build the ops of a choice block, with the official names of their tensors.

The official file is `blocks.py` of megvii-model/SinglePathOneShot. In ShuffleNetV2's blocks (its figure 3)
`branch_main` does the main work. With stride 2, `branch_proj` projects the same input. With stride 1, half of the
channels pass by unchanged. `routing` concatenates, shuffles and splits the outputs on their way to later layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spos_cli.errors import ConfigError
from spos_cli.files.own_code import call_own_code
from spos_cli.models.depthwise import StripDepthwise, is_faster_in_strips
from spos_cli.models.routing import BlockChannels
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import Layer

AnyBatchNorm = nn.modules.batchnorm._BatchNorm  # A user's block may normalise one, two or three dimensions.
# Channel selection: original indices `(C,)` int64, the first n, or None for all.
ChannelSelection = Tensor | int | None


class Convolution(nn.Conv2d):
    """A convolution without bias that can work on a selection of its channels.

    Attributes:
        is_depthwise: whether each channel is convolved by itself. `groups` does not tell: with one channel it is 1 for
            every convolution.
    """

    is_depthwise: ClassVar[bool] = False

    def forward(self, features: Tensor, inputs: ChannelSelection = None, outputs: ChannelSelection = None) -> Tensor:
        """Convolve `(B, in, H, W)` to `(B, out, H / stride, W / stride)`, for the selected channels."""
        weight = self.select_weight(inputs, outputs)
        if self.is_depthwise and is_faster_in_strips(features, weight, self.stride[0]):
            result: Tensor = StripDepthwise.apply(features, weight)
            return result
        return self.convolve(features, weight)

    def convolve(self, features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve `(B, in, H, W)` with another weight `(out, in / groups, k, k)` and bias `(out,)`."""
        groups = len(weight) if self.is_depthwise else self.groups
        return F.conv2d(features, weight, bias, self.stride, self.padding, self.dilation, groups)

    def select_weight(self, inputs: ChannelSelection, outputs: ChannelSelection) -> Tensor:
        """Return the weight `(out, in / groups, k, k)` of the selected channels.

        A depthwise convolution ignores `outputs`: they are its inputs.
        """
        if self.is_depthwise:
            return _select_slices(self.weight, 0, inputs)
        return _select_slices(_select_slices(self.weight, 0, outputs), 1, inputs)


class DepthwiseConvolution(Convolution):
    """A `kernel` x `kernel` convolution (odd) of each channel by itself; with stride 1 it keeps the size."""

    is_depthwise = True

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)


def _select_slices(tensor: Tensor, dimension: int, channels: ChannelSelection) -> Tensor:
    """Return the slices of a tensor that belong to the selected channels, along one dimension."""
    if channels is None:
        return tensor
    if isinstance(channels, int):
        # PyTorch computes otherwise on a part of a larger tensor, so that results would differ in their last bits.
        return tensor.narrow(dimension, 0, channels).contiguous(memory_format=torch.channels_last)
    return tensor.index_select(dimension, channels)


def select_values(values: Tensor, channels: ChannelSelection) -> Tensor:
    """Return the values `(C,)` of the selected channels: a view for None or the first n, a copy for indices."""
    # An index in brackets has the same result, but a GPU sorts the indices in its backward pass.
    return values.index_select(0, channels) if isinstance(channels, Tensor) else values[:channels]


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm of a selection of its channels; parameters and statistics keep the official order."""

    def forward(self, features: Tensor, channels: ChannelSelection = None) -> Tensor:
        """Normalise `(B, C, H, W)`, whose channels are the selected ones."""
        if channels is None:
            return super().forward(features)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None, "a plain average needs momentum 1 / n, set for each batch"
        # (C,) each
        mean, variance = select_values(self.running_mean, channels), select_values(self.running_var, channels)
        scale, shift = self.select_scale_and_shift(channels) or (None, None)
        result = F.batch_norm(features, mean, variance, scale, shift, self.training, self.momentum, self.eps)
        if self.training:
            with torch.no_grad():
                if isinstance(channels, Tensor):  # The others are views, which `batch_norm` has already updated.
                    self.running_mean.index_copy_(0, channels, mean)
                    self.running_var.index_copy_(0, channels, variance)
                self.num_batches_tracked += 1
        return result

    def select_scale_and_shift(self, channels: ChannelSelection) -> tuple[Tensor, Tensor] | None:
        """Return the learned scale and shift of the selected channels, `(C,)` each, or None if it has none."""
        if not self.affine:
            return None
        return select_values(self.weight, channels), select_values(self.bias, channels)


def make_pointwise(in_channels: int, out_channels: int, affine: bool) -> list[nn.Module]:
    """Make a 1x1 convolution, BatchNorm and ReLU."""
    return [
        Convolution(in_channels, out_channels, 1, bias=False),
        BatchNorm(out_channels, affine=affine),
        nn.ReLU(inplace=True),
    ]


def make_depthwise(channels: int, kernel: int, stride: int, affine: bool) -> list[nn.Module]:
    """Make a depthwise convolution and BatchNorm, without an activation (ShuffleNetV2, figure 3)."""
    return [
        DepthwiseConvolution(channels, kernel, stride),
        BatchNorm(channels, affine=affine),
    ]


ACTIVATIONS: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.ReLU: torch.relu_,
    nn.ReLU6: functools.partial(F.relu6, inplace=True),
    nn.Hardswish: functools.partial(F.hardswish, inplace=True),
}


class Unit(NamedTuple):
    """A convolution, its BatchNorm and its activation (in place), with the channels of its input and output."""

    convolution: Convolution
    norm: BatchNorm
    activation: Callable[[Tensor], Tensor] | None
    inputs: ChannelSelection
    outputs: ChannelSelection


class Branch(nn.Sequential):
    """A sequence of convolution, BatchNorm and an optional activation; the last convolution is not depthwise."""

    def forward(
        self,
        features: Tensor,
        inputs: ChannelSelection = None,
        outputs: ChannelSelection = None,
        hidden: int | None = None,
    ) -> Tensor:
        """Map features `(B, in, H, W)` to `(B, out, H / stride, W / stride)`, for the selected channels.

        Args:
            inputs, outputs: channels of `features` and of the result.
            hidden: how many of the hidden channels to use, the first ones; None for all.
        """
        for unit in self.list_units(inputs, outputs, hidden):
            # (B, channels of unit.outputs, H, W)
            features = unit.norm(unit.convolution(features, unit.inputs, unit.outputs), unit.outputs)
            if unit.activation:
                features = unit.activation(features)
        return features

    def list_units(
        self, inputs: ChannelSelection = None, outputs: ChannelSelection = None, hidden: int | None = None
    ) -> list[Unit]:
        """List the units of the branch, each with the channels of its input and output."""
        modules = list(self)
        starts = [index for index, module in enumerate(modules) if isinstance(module, Convolution)]
        units = []
        for start in starts:
            convolution, norm, *rest = modules[start : start + 3]
            assert isinstance(convolution, Convolution)
            assert isinstance(norm, BatchNorm)
            unit_outputs = inputs if convolution.is_depthwise else outputs if start == starts[-1] else hidden
            activation = ACTIVATIONS.get(type(rest[0])) if rest else None
            units.append(Unit(convolution, norm, activation, inputs, unit_outputs))
            inputs = unit_outputs
        return units


class ChoiceBlock(nn.Module):
    """One op of one layer: `(B, op_in_channels, H, W)` to the tensors of `Layer.op_out_channels`.

    `forward` also takes the selection of channels. Where a layer is handed all channels, they are in the official
    order. A block is allocated with the most hidden channels that it can have, and uses the first of them (paper,
    section 3.3).
    """


class TwoBranchBlock(ChoiceBlock):
    """The base of ShuffleNetV2's blocks: a main branch, and with stride 2 a projection.

    Args:
        layer: channels and stride of the layer that the block is an op of.
        affine: whether BatchNorm has a learned scale and shift.
        hidden: number of channels between the convolutions of the main branch.
        kernel: side of the depthwise kernel of the projection, in pixels (odd).
    """

    branch_main: Branch

    def __init__(self, layer: Layer, affine: bool, hidden: int, kernel: int) -> None:
        super().__init__()
        self.stride, self.split = layer.stride, layer.split
        self.in_channels = layer.in_channels if layer.stride == 2 else layer.in_channels // 2
        self.hidden_channels = hidden
        self.main_channels = layer.out_channels - self.in_channels
        # The main branch comes before the projection, as in the official order of the tensors.
        self.branch_main = self.build_main(affine, kernel)
        if self.stride == 2:
            self.branch_proj = Branch(
                *make_depthwise(self.in_channels, kernel, 2, affine),
                *make_pointwise(self.in_channels, self.in_channels, affine),
            )

    def build_main(self, affine: bool, kernel: int) -> Branch:
        """Build the main branch: `(B, in_channels, H, W)` to `(B, main_channels, H / stride, W / stride)`."""
        raise NotImplementedError

    def list_branches(self, channels: BlockChannels) -> list[tuple[Branch, Tensor | None]]:
        """List the branches in the order of the block's outputs, each with its output channels `(C,)` int64."""
        branches = [self.branch_main] if self.stride == 1 else [self.branch_proj, self.branch_main]
        return list(zip(branches, channels.outputs[-len(branches) :], strict=True))

    def forward(self, features: Tensor, channels: BlockChannels = BlockChannels()) -> tuple[Tensor, ...]:  # noqa: B008, it is immutable
        if self.split:
            # One tensor for each branch, which `routing` takes to later layers.
            return tuple(
                branch(features, channels.inputs, outputs, channels.hidden)
                for branch, outputs in self.list_branches(channels)
            )
        # All channels come in, in the official order: (B, in, H, W) to (B, out, H / stride, W / stride).
        passed = self.branch_proj(features) if self.stride == 2 else features[:, ::2]
        worked = features if self.stride == 2 else features[:, 1::2]
        return (torch.cat((passed, self.branch_main(worked, hidden=channels.hidden)), 1),)


class ShuffleBlock(TwoBranchBlock):
    """ShuffleNetV2's unit with a `kernel` x `kernel` depthwise convolution: 1x1, depthwise, 1x1."""

    def build_main(self, affine: bool, kernel: int) -> Branch:
        return Branch(
            *make_pointwise(self.in_channels, self.hidden_channels, affine),
            *make_depthwise(self.hidden_channels, kernel, self.stride, affine),
            *make_pointwise(self.hidden_channels, self.main_channels, affine),
        )


class ShuffleXceptionBlock(TwoBranchBlock):
    """Three depthwise-separable convolutions, Xception style, all 3x3."""

    def __init__(self, layer: Layer, affine: bool, hidden: int) -> None:
        super().__init__(layer, affine, hidden, 3)

    def build_main(self, affine: bool, kernel: int) -> Branch:
        return Branch(
            *make_depthwise(self.in_channels, kernel, self.stride, affine),
            *make_pointwise(self.in_channels, self.hidden_channels, affine),
            *make_depthwise(self.hidden_channels, kernel, 1, affine),
            *make_pointwise(self.hidden_channels, self.hidden_channels, affine),
            *make_depthwise(self.hidden_channels, kernel, 1, affine),
            *make_pointwise(self.hidden_channels, self.main_channels, affine),
        )


class InvertedResidual(ChoiceBlock):
    """MobileNetV2's block: 1x1 to `expand` times the channels, depthwise, 1x1 (Sandler et al., arXiv 1801.04381).

    With stride 1 and as many output as input channels, the input is added. With `expand` 1 there is no first
    convolution. `activation` is ReLU6 as in MobileNetV2, ReLU, or h-swish (MobileNetV3, arXiv 1905.02244).

    Attributes:
        residual: whether the input is added.
        stochastic_depth: what drops the output of random images in training, so that only their input is left; None
            for nothing (`network.set_stochastic_depth`).
    """

    def __init__(
        self, layer: Layer, affine: bool, hidden: int, kernel: int, expand: int, activation: str = "relu6"
    ) -> None:
        super().__init__()
        make_activation = {"relu6": nn.ReLU6, "relu": nn.ReLU, "hswish": nn.Hardswish}[activation]
        self.residual = layer.stride == 1 and layer.in_channels == layer.out_channels
        self.stochastic_depth: nn.Module | None = None
        expansion = [
            Convolution(layer.in_channels, hidden, 1, bias=False),
            BatchNorm(hidden, affine=affine),
            make_activation(),
        ]
        self.layers = Branch(
            *(expansion if expand > 1 else []),
            *make_depthwise(hidden, kernel, layer.stride, affine),
            make_activation(),
            Convolution(hidden, layer.out_channels, 1, bias=False),
            BatchNorm(layer.out_channels, affine=affine),
        )

    def forward(self, features: Tensor, channels: BlockChannels = BlockChannels()) -> tuple[Tensor, ...]:  # noqa: B008, it is immutable
        output: Tensor = self.layers(features, hidden=channels.hidden)  # (B, out, H / stride, W / stride)
        if self.stochastic_depth is not None:
            output = self.stochastic_depth(output)
        return (features + output if self.residual else output,)


class Skip(ChoiceBlock):
    """The identity, or where the shape changes a 1x1 convolution with BatchNorm (NAS-Bench-Macro, arXiv 2103.11922)."""

    def __init__(self, layer: Layer, affine: bool, hidden: int) -> None:
        super().__init__()
        self.layers = None
        if layer.stride != 1 or layer.in_channels != layer.out_channels:
            self.layers = Branch(
                Convolution(layer.in_channels, layer.out_channels, 1, layer.stride, bias=False),
                BatchNorm(layer.out_channels, affine=affine),
            )

    def forward(self, features: Tensor, channels: BlockChannels = BlockChannels()) -> tuple[Tensor, ...]:  # noqa: B008, it is immutable
        return (features if self.layers is None else self.layers(features),)


class Identity(ChoiceBlock):
    """No layer at all, so that depth is searched."""

    def __init__(self, layer: Layer, affine: bool, hidden: int) -> None:
        super().__init__()

    def forward(self, features: Tensor, channels: BlockChannels = BlockChannels()) -> tuple[Tensor, ...]:  # noqa: B008, it is immutable
        return (features,)


BLOCKS: dict[str, Callable[..., ChoiceBlock]] = {
    "shuffle": ShuffleBlock,
    "shuffle_xception": ShuffleXceptionBlock,
    "mbconv": InvertedResidual,
    "skip": Skip,
    "identity": Identity,
}


class OwnBlock(ChoiceBlock):
    """A user's own block: any module `Class(in_channels, out_channels, stride, affine, **parameters)`.

    It maps `(B, in_channels, H, W)` to `(B, out_channels, ceil(H / stride), ceil(W / stride))` and must not change its
    input in place. The statistics of its BatchNorm layers are recomputed for each candidate; where `affine` is false,
    they should have no parameters. In training, processes may use different parameters of it in one step; the average
    of the gradients is right all the same.

    Args:
        path: `package.module:Class`, importable as usual or from the working folder.
        layer: channels and stride of the layer that the block is an op of.
        affine: whether BatchNorm should have a learned scale and shift.
        parameters: further arguments of the class, by name.

    Raises:
        ConfigError: it cannot be imported or built. Its output is checked when its costs are counted.
    """

    def __init__(self, path: str, layer: Layer, affine: bool, parameters: dict[str, int | str]) -> None:
        super().__init__()
        what = f"choices: cannot build {path} for layer {layer.index}"
        block = call_own_code(path, what, layer.in_channels, layer.out_channels, layer.stride, affine, **parameters)
        if not isinstance(block, nn.Module):
            raise ConfigError(f"choices: {path} is not a torch.nn.Module")
        self.block = block

    def forward(self, features: Tensor, channels: BlockChannels = BlockChannels()) -> tuple[Tensor, ...]:  # noqa: B008, it is immutable
        return (self.block(features),)


def build_block(choice: Choice, layer: Layer, affine: bool, width: int = 0) -> ChoiceBlock:
    """Build the module of one choice of one layer.

    The space has already checked that the op exists, except for a user's own block.

    Args:
        width: multiplier of the hidden channels, in thousandths; 0 for all of them.

    Raises:
        ConfigError: a user's own block cannot be built.
    """
    if choice.is_own:
        return OwnBlock(choice.op, layer, affine, dict(choice.parameters))
    return BLOCKS[choice.op](layer, affine, layer.hidden_channels(choice, width), **dict(choice.parameters))
