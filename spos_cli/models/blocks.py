"""Build the ops of a choice block, with the official names of their tensors.

The official file is `blocks.py` of megvii-model/SinglePathOneShot. In ShuffleNetV2's blocks (its figure 3)
`branch_main` does the main work. With stride 2, `branch_proj` projects the same input. With stride 1, half of the
channels pass by unchanged. `routing` concatenates, shuffles and splits the outputs on their way to later layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spos_cli.errors import ConfigError
from spos_cli.files.own_code import call_own_code
from spos_cli.models.activations import make_activation
from spos_cli.models.layers import (
    BatchNorm,
    Branch,
    ChannelSelection,
    Convolution,
    SqueezeExcitation,
    make_convolution,
    make_depthwise,
)
from spos_cli.models.routing import BlockChannels
from spos_cli.space.architecture import Option
from spos_cli.space.choices import Choice, Value
from spos_cli.space.layer import Layer


class ChoiceBlock(nn.Module):
    """One op of one layer: `(B, op_in_channels, H, W)` to the tensors of `Layer.op_out_channels`.

    `forward` also takes the selection of channels. Where a layer is handed all channels, they are in the official
    order. A block is allocated with the most channels that it can have, and uses the first of them (paper, section
    3.3): of its hidden channels, and with output widths of its inputs and outputs as well.

    Attributes:
        has_branches: whether the block runs its whole input through the branches of `list_branches` and joins their
            outputs by `join`.
    """

    has_branches: bool = False

    def list_branches(self, channels: BlockChannels) -> list[tuple[Branch, ChannelSelection]]:
        """List the branches, each with its output channels."""
        return []

    def join(self, features: Tensor, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the block's output tensors.

        Args:
            features: the block's input `(B, in, H, W)`.
            outputs: of the branches, `(B, C, H / stride, W / stride)` each.
        """
        return tuple(outputs)


class TwoBranchBlock(ChoiceBlock):
    """The base of ShuffleNetV2's blocks: a main branch, and with stride 2 a projection.

    With `activation: hswish` and `se: 0.25` they are those of ShuffleNetV2+, but for the biases of the gates.

    Args:
        layer: channels and stride of the layer that the block is an op of.
        affine: whether BatchNorm has a learned scale and shift.
        hidden: number of channels between the convolutions of the main branch.
        kernel: side of the depthwise kernel of the projection, in pixels (odd).
        activation: behind the 1x1 convolutions.
        se: squeezed channels for each output channel of the main branch, which then ends with a gate; 0: no gate.
    """

    branch_main: Branch

    def __init__(
        self, layer: Layer, affine: bool, hidden: int, kernel: int, activation: str = "relu", se: float = 0
    ) -> None:
        super().__init__()
        self.stride, self.split = layer.stride, layer.split
        self.has_branches = layer.split  # Otherwise a branch may work on half of the input.
        self.in_channels = layer.in_channels if layer.stride == 2 else layer.in_channels // 2
        self.hidden_channels = hidden
        self.main_channels = layer.out_channels - self.in_channels
        self.make_pointwise = functools.partial(make_convolution, affine=affine, activation=activation)
        # The main branch comes before the projection, as in the official order of the tensors.
        self.branch_main = self.build_main(affine, kernel)
        if se:
            squeezed = max(1, int(self.main_channels * se))
            self.branch_main.append(SqueezeExcitation(self.main_channels, se, squeezed))
        if self.stride == 2:
            self.branch_proj = Branch(
                *make_depthwise(self.in_channels, kernel, 2, affine),
                *self.make_pointwise(self.in_channels, self.in_channels),
            )

    def build_main(self, affine: bool, kernel: int) -> Branch:
        """Build the main branch: `(B, in_channels, H, W)` to `(B, main_channels, H / stride, W / stride)`."""
        raise NotImplementedError

    def list_branches(self, channels: BlockChannels) -> list[tuple[Branch, ChannelSelection]]:
        """List the branches in the order of the block's outputs, each with the order of its output channels."""
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
            *self.make_pointwise(self.in_channels, self.hidden_channels),
            *make_depthwise(self.hidden_channels, kernel, self.stride, affine),
            *self.make_pointwise(self.hidden_channels, self.main_channels),
        )


class ShuffleXceptionBlock(TwoBranchBlock):
    """Three depthwise-separable convolutions, Xception style, all 3x3."""

    def __init__(self, layer: Layer, affine: bool, hidden: int, activation: str = "relu", se: float = 0) -> None:
        super().__init__(layer, affine, hidden, 3, activation, se)

    def build_main(self, affine: bool, kernel: int) -> Branch:
        return Branch(
            *make_depthwise(self.in_channels, kernel, self.stride, affine),
            *self.make_pointwise(self.in_channels, self.hidden_channels),
            *make_depthwise(self.hidden_channels, kernel, 1, affine),
            *self.make_pointwise(self.hidden_channels, self.hidden_channels),
            *make_depthwise(self.hidden_channels, kernel, 1, affine),
            *self.make_pointwise(self.hidden_channels, self.main_channels),
        )


class ResidualBlock(ChoiceBlock):
    """The base of blocks that add their input to the output of `layers` where both have the same shape.

    Attributes:
        residual: whether the input is added as it is.
        stochastic_depth: what drops the output of random images in training, so that only their input is left; None
            for nothing (`network.set_stochastic_depth`).
    """

    has_branches = True
    layers: Branch

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.residual = layer.keeps_shape
        self.stochastic_depth: nn.Module | None = None

    def list_branches(self, channels: BlockChannels) -> list[tuple[Branch, ChannelSelection]]:
        return [(self.layers, channels.outputs[0])]

    def join(self, features: Tensor, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        (output,) = outputs
        return (features + output if self.residual else output,)

    def work(self, features: Tensor, channels: BlockChannels) -> Tensor:
        """Map features `(B, in, H, W)` to `(B, out, H / stride, W / stride)`, without the input."""
        output: Tensor = self.layers(features, channels.inputs, channels.outputs[0], channels.hidden, channels.bits)
        return output if self.stochastic_depth is None else self.stochastic_depth(output)

    def forward(self, features: Tensor, channels: BlockChannels = BlockChannels()) -> tuple[Tensor, ...]:  # noqa: B008, it is immutable
        return self.join(features, [self.work(features, channels)])


class InvertedResidual(ResidualBlock):
    """MobileNetV2's block: 1x1 to `expand` times the channels, depthwise, 1x1 (Sandler et al., arXiv 1801.04381).

    With stride 1 and as many output as input channels, the input is added. With `expand` 1 there is no first
    convolution. `activation` is ReLU6 as in MobileNetV2, ReLU, h-swish (MobileNetV3, arXiv 1905.02244), or SiLU
    (EfficientNet, arXiv 1905.11946). With `se`, a gate follows the depthwise convolution, see `make_gate`. With
    `groups`, both 1x1 convolutions have groups, also with `expand` 1, and channels are shuffled after the first one
    (FBNet, arXiv 1812.03443).
    """

    def __init__(
        self,
        layer: Layer,
        affine: bool,
        hidden: int,
        kernel: int,
        expand: int,
        activation: str = "relu6",
        se: float = 0,
        groups: int = 1,
    ) -> None:
        super().__init__(layer)
        expansion = make_convolution(layer.in_channels, hidden, affine, groups=groups, activation=activation)
        self.layers = Branch(
            *(expansion if expand > 1 or groups > 1 else []),
            *([nn.ChannelShuffle(groups)] if groups > 1 else []),
            *make_depthwise(hidden, kernel, layer.stride, affine),
            make_activation(activation),
            *make_gate(layer, hidden, activation, se),
            *make_convolution(hidden, layer.out_channels, affine, groups=groups, activation=None),
        )


class FusedInvertedResidual(ResidualBlock):
    """EfficientNetV2's block: `kernel` x `kernel` to `expand` times the channels, 1x1 (Tan and Le, arXiv 2104.00298).

    With `expand` 1, the first convolution is the only one. `activation` and `se` are as in `InvertedResidual`.
    """

    def __init__(
        self,
        layer: Layer,
        affine: bool,
        hidden: int,
        kernel: int,
        expand: int,
        activation: str = "relu6",
        se: float = 0,
    ) -> None:
        super().__init__(layer)
        widest = hidden if expand > 1 else layer.out_channels
        projection = make_convolution(hidden, layer.out_channels, affine, activation=None)
        self.layers = Branch(
            *make_convolution(
                layer.in_channels, widest, affine, kernel=kernel, stride=layer.stride, activation=activation
            ),
            *make_gate(layer, widest, activation, se),
            *(projection if expand > 1 else []),
        )


def make_gate(layer: Layer, channels: int, activation: str, se: float) -> list[nn.Module]:
    """Make the gate of an inverted residual's hidden channels; none for `se` 0.

    It is MobileNetV3's, which squeezes the hidden channels. With SiLU it is EfficientNet's, which squeezes them to a
    share of the block's input channels.
    """
    if not se:
        return []
    if activation == "silu":
        return [SqueezeExcitation(channels, se, max(1, int(layer.in_channels * se)), is_smooth=True)]
    return [SqueezeExcitation(channels, se)]


class ResNetBlock(ResidualBlock):
    """The base of ResNet's blocks (He et al., arXiv 1512.03385): the input is added, then comes ReLU.

    Where the shape changes, a 1x1 convolution with BatchNorm projects the input. The stride is that of the first 3x3
    convolution, as in torchvision. With `bits`, all convolutions of a block are quantized, also the projection: none
    of them sees negative features if the block does not.

    Args:
        layer: channels and stride of the layer that the block is an op of.
        affine: whether BatchNorm has a learned scale and shift.
        hidden: number of channels between the convolutions.
        kernel: side of the kernel, in pixels (odd).
        bits: the pairs of bits that the block may have, as in `space.bits`; empty: full precision.
    """

    def __init__(self, layer: Layer, affine: bool, hidden: int, kernel: int, bits: Sequence[int] = ()) -> None:
        super().__init__(layer)
        self.make_convolution = functools.partial(make_convolution, affine=affine, bits=bits)
        self.layers = self.build_layers(layer, hidden, kernel)
        self.shortcut = None
        if not self.residual:
            self.shortcut = Branch(
                *self.make_convolution(layer.in_channels, layer.out_channels, stride=layer.stride, activation=None)
            )

    def build_layers(self, layer: Layer, hidden: int, kernel: int) -> Branch:
        """Build what works on the input: `(B, in, H, W)` to `(B, out, H / stride, W / stride)`."""
        raise NotImplementedError

    def list_branches(self, channels: BlockChannels) -> list[tuple[Branch, ChannelSelection]]:
        return [(branch, channels.outputs[0]) for branch in (self.shortcut, self.layers) if branch is not None]

    def join(self, features: Tensor, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        # Without a projection, the input itself is added.
        shortcut, output = outputs if self.shortcut is not None else (features, *outputs)
        return (torch.relu_(shortcut + output),)

    def forward(self, features: Tensor, channels: BlockChannels = BlockChannels()) -> tuple[Tensor, ...]:  # noqa: B008, it is immutable
        shortcuts = []
        if self.shortcut is not None:
            shortcuts = [self.shortcut(features, channels.inputs, channels.outputs[0], bits=channels.bits)]
        return self.join(features, [*shortcuts, self.work(features, channels)])


class BasicBlock(ResNetBlock):
    """The block of ResNet-18 and 34: two `kernel` x `kernel` convolutions."""

    def build_layers(self, layer: Layer, hidden: int, kernel: int) -> Branch:
        return Branch(
            *self.make_convolution(layer.in_channels, hidden, kernel=kernel, stride=layer.stride, activation="relu"),
            *self.make_convolution(hidden, layer.out_channels, kernel=kernel, activation=None),
        )


class Bottleneck(ResNetBlock):
    """The block of ResNet-50: 1x1 to a quarter of the output channels, `kernel` x `kernel`, 1x1."""

    def build_layers(self, layer: Layer, hidden: int, kernel: int) -> Branch:
        return Branch(
            *self.make_convolution(layer.in_channels, hidden, activation="relu"),
            *self.make_convolution(hidden, hidden, kernel=kernel, stride=layer.stride, activation="relu"),
            *self.make_convolution(hidden, layer.out_channels, activation=None),
        )


class Skip(ChoiceBlock):
    """The identity, or where the shape changes a 1x1 convolution with BatchNorm (NAS-Bench-Macro, arXiv 2103.11922)."""

    has_branches = True

    def __init__(self, layer: Layer, affine: bool, hidden: int) -> None:
        super().__init__()
        self.layers = None
        if not layer.keeps_shape:
            self.layers = Branch(
                Convolution(layer.in_channels, layer.out_channels, 1, layer.stride, bias=False),
                BatchNorm(layer.out_channels, affine=affine),
            )

    def list_branches(self, channels: BlockChannels) -> list[tuple[Branch, ChannelSelection]]:
        return [] if self.layers is None else [(self.layers, channels.outputs[0])]

    def join(self, features: Tensor, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(outputs) or (features,)

    def forward(self, features: Tensor, channels: BlockChannels = BlockChannels()) -> tuple[Tensor, ...]:  # noqa: B008, it is immutable
        return (features if self.layers is None else self.layers(features, channels.inputs, channels.outputs[0]),)


class Identity(ChoiceBlock):
    """No layer at all, so that depth is searched."""

    has_branches = True

    def __init__(self, layer: Layer, affine: bool, hidden: int) -> None:
        super().__init__()

    def join(self, features: Tensor, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (features,)

    def forward(self, features: Tensor, channels: BlockChannels = BlockChannels()) -> tuple[Tensor, ...]:  # noqa: B008, it is immutable
        return (features,)


BLOCKS: dict[str, Callable[..., ChoiceBlock]] = {
    "shuffle": ShuffleBlock,
    "shuffle_xception": ShuffleXceptionBlock,
    "mbconv": InvertedResidual,
    "fused_mbconv": FusedInvertedResidual,
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
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

    def __init__(self, path: str, layer: Layer, affine: bool, parameters: dict[str, Value]) -> None:
        super().__init__()
        what = f"choices: cannot build {path} for layer {layer.index}"
        block = call_own_code(path, what, layer.in_channels, layer.out_channels, layer.stride, affine, **parameters)
        if not isinstance(block, nn.Module):
            raise ConfigError(f"choices: {path} is not a torch.nn.Module")
        self.block = block

    def forward(self, features: Tensor, channels: BlockChannels = BlockChannels()) -> tuple[Tensor, ...]:  # noqa: B008, it is immutable
        return (self.block(features),)


def build_block(choice: Choice, layer: Layer, affine: bool, width: int = 0, bits: Sequence[int] = ()) -> ChoiceBlock:
    """Build the module of one choice of one layer.

    The space has already checked that the op exists, except for a user's own block.

    Args:
        width: multiplier of the hidden channels, in thousandths; 0 for all of them.
        bits: the pairs of bits that the block may have, as in `space.bits`; empty: full precision.

    Raises:
        ConfigError: a user's own block cannot be built.
    """
    if choice.is_own:
        return OwnBlock(choice.op, layer, affine, dict(choice.parameters))
    parameters: dict[str, Any] = dict(choice.parameters)
    if bits:
        parameters["bits"] = bits
    return BLOCKS[choice.op](layer, affine, layer.hidden_channels(choice, width), **parameters)


def build_option(layer: Layer, option: Option, affine: bool) -> ChoiceBlock:
    """Build the module of one option of one layer, as a stand-alone network has it.

    Raises:
        ConfigError: a user's own block cannot be built.
    """
    bits = (option.bits,) if option.bits else ()
    return build_block(layer.choices[option.choice], layer, affine, option.width, bits)
