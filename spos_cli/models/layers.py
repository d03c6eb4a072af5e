"""Layers that can work on a selection of their channels, and branches of them.

They have the official names of their tensors (`blocks.py` of megvii-model/SinglePathOneShot).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spos_cli.models import activations
from spos_cli.models.activations import make_activation
from spos_cli.models.depthwise import StripDepthwise, is_faster_in_strips
from spos_cli.models.quantizers import FIRST_CLIPPING_LEVEL, quantize_features, quantize_weight
from spos_cli.space.bits import split_bits
from spos_cli.space.block_costs import count_squeezed

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

    def forward(
        self, features: Tensor, inputs: ChannelSelection = None, outputs: ChannelSelection = None, bits: int = 0
    ) -> Tensor:
        """Convolve `(B, in, H, W)` to `(B, out, H / stride, W / stride)`, for the selected channels.

        Args:
            bits: for `QuantizedConvolution`; others compute with full precision.
        """
        weight = self.select_weight(inputs, outputs)
        if self.is_depthwise and is_faster_in_strips(features, weight):
            result: Tensor = StripDepthwise.apply(features, weight, self.stride[0])
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


class QuantizedConvolution(Convolution):
    """A convolution with weights and activations of few bits, which is handed features that are not negative.

    Args:
        bits: the pairs of bits that it may have, as in `space.bits`.

    Attributes:
        clipping_levels: by bits of the activations, such as `a4`: `(1, 1, 1, 1)`. The four dimensions give them the
            weight decay of the weights (`engine.optim.make_optimizer`).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, groups: int, bits: Sequence[int]
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bits = tuple(bits)
        names = sorted({self.name_level(pair) for pair in bits})
        self.clipping_levels = nn.ParameterDict(
            {name: nn.Parameter(torch.full((1, 1, 1, 1), FIRST_CLIPPING_LEVEL)) for name in names}
        )

    @staticmethod
    def name_level(bits: int) -> str:
        """Return the name of the clipping level of a pair of bits."""
        return f"a{split_bits(bits)[1]}"

    def forward(
        self, features: Tensor, inputs: ChannelSelection = None, outputs: ChannelSelection = None, bits: int = 0
    ) -> Tensor:
        """Convolve quantized features with quantized weights.

        Args:
            bits: those of the path; 0 where the convolution has one pair of bits only.
        """
        if not bits:
            (bits,) = self.bits
        weight_bits, feature_bits = split_bits(bits)
        x = quantize_features(features, self.clipping_levels[self.name_level(bits)], feature_bits)
        w = quantize_weight(self.select_weight(inputs, outputs), weight_bits)
        return self.convolve(x.numbers, w.numbers) * (x.step * w.step)


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


def make_convolution(
    in_channels: int,
    out_channels: int,
    affine: bool,
    *,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: str | None,
    bits: Sequence[int] = (),
) -> list[nn.Module]:
    """Make a convolution that keeps the size with stride 1, BatchNorm, and an activation unless it is None.

    Args:
        bits: the pairs of bits that the convolution may have; empty: full precision.
    """
    if bits:
        convolution: Convolution = QuantizedConvolution(in_channels, out_channels, kernel, stride, groups, bits)
    else:
        convolution = Convolution(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [
        convolution,
        BatchNorm(out_channels, affine=affine),
        *([] if activation is None else [make_activation(activation)]),
    ]


def make_depthwise(channels: int, kernel: int, stride: int, affine: bool) -> list[nn.Module]:
    """Make a depthwise convolution and BatchNorm, without an activation (ShuffleNetV2, figure 3)."""
    return [
        DepthwiseConvolution(channels, kernel, stride),
        BatchNorm(channels, affine=affine),
    ]


class GateWeights(NamedTuple):
    """The tensors of a `SqueezeExcitation` for the selected channels C, with S squeezed channels.

    Attributes:
        squeeze, squeeze_bias: `(S, C, 1, 1)` and `(S,)`.
        excite, excite_bias: `(C, S, 1, 1)` and `(C,)`.
    """

    squeeze: Tensor
    squeeze_bias: Tensor
    excite: Tensor
    excite_bias: Tensor

    def to(self, dtype: torch.dtype) -> GateWeights:
        """Return the tensors in another type."""
        return GateWeights(*(tensor.to(dtype) for tensor in self))


class SqueezeExcitation(nn.Module):
    """Multiply each channel by a gate that depends on the means of all channels (Hu et al., arXiv 1709.01507).

    The gates come from two 1x1 convolutions with biases, which begin at 0. As in MobileNetV3 (arXiv 1905.02244), ReLU
    and the hard sigmoid follow them. With `is_smooth`, SiLU and the sigmoid do, as in EfficientNet (arXiv 1905.11946).

    Args:
        channels: of the features, C.
        ratio: squeezed channels for each of the channels. They are rounded as in MobileNetV3, so that a selection of
            the first channels is squeezed to fewer of them.
        squeezed: squeezed channels of all selections; 0: by the ratio. Where a path uses the first of the block's input
            channels, they are the ratio of these.
        is_smooth: which activations.
    """

    def __init__(self, channels: int, ratio: float, squeezed: int = 0, *, is_smooth: bool = False) -> None:
        super().__init__()
        self.ratio, self.squeezed = ratio, squeezed
        self.activation: nn.Module = nn.SiLU() if is_smooth else nn.ReLU()
        self.gate: nn.Module = nn.Sigmoid() if is_smooth else nn.Hardsigmoid()
        allocated = squeezed or count_squeezed(channels, ratio)
        self.fc1 = nn.Conv2d(channels, allocated, 1)
        self.fc2 = nn.Conv2d(allocated, channels, 1)
        for convolution in (self.fc1, self.fc2):
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)

    def count_squeezed(self, channels: ChannelSelection, block_inputs: ChannelSelection) -> int | None:
        """Return S, the first squeezed channels to use, for selected channels; None for all.

        Args:
            channels: of the features.
            block_inputs: of the block's input.
        """
        if self.squeezed:
            return max(1, int(block_inputs * self.ratio)) if isinstance(block_inputs, int) else None
        return count_squeezed(channels, self.ratio) if isinstance(channels, int) else None

    def select_weights(self, channels: ChannelSelection, squeezed: int | None) -> GateWeights:
        """Return the tensors for the selected channels, and for the first squeezed channels, or None for all."""
        assert self.fc1.bias is not None
        assert self.fc2.bias is not None
        return GateWeights(
            _select_slices(_select_slices(self.fc1.weight, 0, squeezed), 1, channels),
            select_values(self.fc1.bias, squeezed),
            _select_slices(_select_slices(self.fc2.weight, 0, channels), 1, squeezed),
            select_values(self.fc2.bias, channels),
        )

    def scale(self, features: Tensor, weights: GateWeights) -> Tensor:
        """Multiply features `(B, C, H, W)` by their gates."""
        means = features.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        squeezed = self.activation(F.conv2d(means, weights.squeeze, weights.squeeze_bias))  # (B, S, 1, 1)
        gates: Tensor = self.gate(F.conv2d(squeezed, weights.excite, weights.excite_bias))  # (B, C, 1, 1)
        return features * gates

    def forward(self, features: Tensor, channels: ChannelSelection = None, squeezed: int | None = None) -> Tensor:
        """Multiply features `(B, C, H, W)`, whose channels are the selected ones, by their gates."""
        return self.scale(features, self.select_weights(channels, squeezed))


class Unit(NamedTuple):
    """A convolution, BatchNorm and what follows them, with the channels of the input and the output.

    Attributes:
        activation: may work in place.
        shuffle: of the channels of several groups.
        gate: squeeze and excitation.
        squeezed: how many of the gate's squeezed channels to use, the first ones; None for all.
    """

    convolution: Convolution
    norm: BatchNorm
    activation: Callable[[Tensor], Tensor] | None
    inputs: ChannelSelection
    outputs: ChannelSelection
    shuffle: nn.ChannelShuffle | None = None
    gate: SqueezeExcitation | None = None
    squeezed: int | None = None


class Branch(nn.Sequential):
    """A sequence of convolution, BatchNorm, and optionally an activation, a shuffle of channels, and a gate.

    The last convolution is not depthwise.
    """

    def forward(
        self,
        features: Tensor,
        inputs: ChannelSelection = None,
        outputs: ChannelSelection = None,
        hidden: int | None = None,
        bits: int = 0,
    ) -> Tensor:
        """Map features `(B, in, H, W)` to `(B, out, H / stride, W / stride)`, for the selected channels.

        Args:
            inputs, outputs: channels of `features` and of the result.
            hidden: how many of the hidden channels to use, the first ones; None for all.
            bits: of quantized convolutions, see there.
        """
        for unit in self.list_units(inputs, outputs, hidden):
            # (B, channels of unit.outputs, H, W)
            features = unit.norm(unit.convolution(features, unit.inputs, unit.outputs, bits), unit.outputs)
            if unit.activation:
                features = unit.activation(features)
            if unit.shuffle is not None:
                features = unit.shuffle(features)
            if unit.gate is not None:
                features = unit.gate(features, unit.outputs, unit.squeezed)
        return features

    def list_units(
        self, inputs: ChannelSelection = None, outputs: ChannelSelection = None, hidden: int | None = None
    ) -> list[Unit]:
        """List the units of the branch, each with the channels of its input and output."""
        modules, block_inputs = list(self), inputs
        starts = [index for index, module in enumerate(modules) if isinstance(module, Convolution)]
        units = []
        for start, end in zip(starts, [*starts[1:], len(modules)], strict=True):
            convolution, norm, *rest = modules[start:end]
            assert isinstance(convolution, Convolution)
            assert isinstance(norm, BatchNorm)
            unit_outputs = inputs if convolution.is_depthwise else outputs if start == starts[-1] else hidden
            activation, shuffle, gate, squeezed = None, None, None, None
            for module in rest:  # PyTorch 2.6 does not compile `next` with a default.
                if isinstance(module, nn.ChannelShuffle):
                    shuffle = module
                elif isinstance(module, SqueezeExcitation):
                    gate, squeezed = module, module.count_squeezed(unit_outputs, block_inputs)
                elif type(module) in activations.FUNCTIONS:
                    activation = activations.FUNCTIONS[type(module)]
            units.append(Unit(convolution, norm, activation, inputs, unit_outputs, shuffle, gate, squeezed))
            inputs = unit_outputs
        return units
