"""Multiply-adds and parameters of each op and of stem and head, from their shapes.

They are those of the modules in `models`; a test compares each op with what PyTorch counts. To build and run hundreds
of blocks only to count them would take seconds at the start of a command.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from spos_cli.space.architecture import Option
from spos_cli.space.layer import Layer
from spos_cli.space.search_space import SearchSpace

SMALLEST_SQUEEZE = 8  # channels; squeezed channels are multiples of it


class Part(NamedTuple):
    """A convolution or a linear layer, and the BatchNorm that follows it.

    Attributes:
        inputs, outputs: channels, or features of a linear layer.
        size: side of the output, in pixels.
        kernel: side of the kernel, in pixels.
        has_norm: whether BatchNorm with a learned scale and shift follows.
        has_bias: whether it has a bias, whose additions do not count as multiply-adds.
        has_clipping_level: whether it is quantized, with a learned clipping level.
    """

    inputs: int
    outputs: int
    size: int = 1
    kernel: int = 1
    groups: int = 1
    has_norm: bool = True
    has_bias: bool = False
    has_clipping_level: bool = False

    @property
    def weights(self) -> int:
        """Values of the weight."""
        return self.inputs // self.groups * self.outputs * self.kernel**2

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one image."""
        return self.weights * self.size**2

    @property
    def params(self) -> int:
        """Parameters, those of BatchNorm included."""
        return self.weights + self.outputs * (2 * self.has_norm + self.has_bias) + self.has_clipping_level


def count_squeezed(channels: int, ratio: float) -> int:
    """Return the squeezed channels of a gate as MobileNetV3 rounds them.

    They are multiples of 8, and not below nine tenths of the ratio.
    """
    exact = int(channels * ratio)
    rounded = max(SMALLEST_SQUEEZE, int(exact + SMALLEST_SQUEEZE / 2) // SMALLEST_SQUEEZE * SMALLEST_SQUEEZE)
    return rounded if rounded >= 0.9 * exact else rounded + SMALLEST_SQUEEZE


def _list_gate(channels: int, squeezed: int) -> list[Part]:
    """List the parts of a gate: two 1x1 convolutions of the channels' means."""
    return [
        Part(channels, squeezed, has_norm=False, has_bias=True),
        Part(squeezed, channels, has_norm=False, has_bias=True),
    ]


def _list_gate_of_hidden(layer: Layer, channels: int, activation: str, se: float) -> list[Part]:
    """List the gate of an inverted residual's hidden channels, see `models.blocks.make_gate`; none for `se` 0."""
    if not se:
        return []
    squeezed = max(1, int(layer.in_channels * se)) if activation == "silu" else count_squeezed(channels, se)
    return _list_gate(channels, squeezed)


def _list_two_branches(layer: Layer, main: list[Part], kernel: int, se: float) -> list[Part]:
    """List a main branch, its gate, and with stride 2 the projection."""
    inputs, size = _count_branch_inputs(layer), layer.out_size
    outputs = layer.out_channels - inputs
    gate = _list_gate(outputs, max(1, int(outputs * se))) if se else []
    projection = [Part(inputs, inputs, size, kernel, groups=inputs), Part(inputs, inputs, size)]
    return [*main, *gate, *(projection if layer.stride == 2 else [])]


def _count_branch_inputs(layer: Layer) -> int:
    """Return the channels that enter the branches of ShuffleNetV2's blocks."""
    return layer.in_channels if layer.stride == 2 else layer.in_channels // 2


def _list_shuffle(layer: Layer, hidden: int, kernel: int, activation: str = "relu", se: float = 0) -> list[Part]:
    inputs, size = _count_branch_inputs(layer), layer.out_size
    main = [
        Part(inputs, hidden, layer.in_size),
        Part(hidden, hidden, size, kernel, groups=hidden),
        Part(hidden, layer.out_channels - inputs, size),
    ]
    return _list_two_branches(layer, main, kernel, se)


def _list_shuffle_xception(layer: Layer, hidden: int, activation: str = "relu", se: float = 0) -> list[Part]:
    inputs, size = _count_branch_inputs(layer), layer.out_size
    main = [
        Part(inputs, inputs, size, 3, groups=inputs),
        Part(inputs, hidden, size),
        Part(hidden, hidden, size, 3, groups=hidden),
        Part(hidden, hidden, size),
        Part(hidden, hidden, size, 3, groups=hidden),
        Part(hidden, layer.out_channels - inputs, size),
    ]
    return _list_two_branches(layer, main, 3, se)


def _list_mbconv(
    layer: Layer, hidden: int, kernel: int, expand: int, activation: str = "relu6", se: float = 0, groups: int = 1
) -> list[Part]:
    expansion = [Part(layer.in_channels, hidden, layer.in_size, groups=groups)]
    return [
        *(expansion if expand > 1 or groups > 1 else []),
        Part(hidden, hidden, layer.out_size, kernel, groups=hidden),
        *_list_gate_of_hidden(layer, hidden, activation, se),
        Part(hidden, layer.out_channels, layer.out_size, groups=groups),
    ]


def _list_fused_mbconv(
    layer: Layer, hidden: int, kernel: int, expand: int, activation: str = "relu6", se: float = 0
) -> list[Part]:
    widest = hidden if expand > 1 else layer.out_channels
    return [
        Part(layer.in_channels, widest, layer.out_size, kernel),
        *_list_gate_of_hidden(layer, widest, activation, se),
        *([Part(hidden, layer.out_channels, layer.out_size)] if expand > 1 else []),
    ]


def _list_shortcut(layer: Layer) -> list[Part]:
    """List the projection of ResNet's blocks, where the shape changes."""
    return [] if layer.keeps_shape else [Part(layer.in_channels, layer.out_channels, layer.out_size)]


def _list_basic(layer: Layer, hidden: int, kernel: int) -> list[Part]:
    return [
        Part(layer.in_channels, hidden, layer.out_size, kernel),
        Part(hidden, layer.out_channels, layer.out_size, kernel),
        *_list_shortcut(layer),
    ]


def _list_bottleneck(layer: Layer, hidden: int, kernel: int) -> list[Part]:
    return [
        Part(layer.in_channels, hidden, layer.in_size),
        Part(hidden, hidden, layer.out_size, kernel),
        Part(hidden, layer.out_channels, layer.out_size),
        *_list_shortcut(layer),
    ]


PARTS: dict[str, Callable[..., list[Part]]] = {
    "shuffle": _list_shuffle,
    "shuffle_xception": _list_shuffle_xception,
    "mbconv": _list_mbconv,
    "fused_mbconv": _list_fused_mbconv,
    "basic": _list_basic,
    "bottleneck": _list_bottleneck,
    "skip": lambda layer, hidden: _list_shortcut(layer),
    "identity": lambda layer, hidden: [],
}


def list_parts(layer: Layer, option: Option) -> list[Part]:
    """List the parts of one option of a layer; the user's own blocks are unknown here."""
    choice = layer.choices[option.choice]
    hidden = layer.hidden_channels(choice, option.width)
    parts = PARTS[choice.op](layer, hidden, **dict(choice.parameters))
    return [part._replace(has_clipping_level=option.bits > 0) for part in parts]


def list_stem_parts(space: SearchSpace, first: Layer) -> list[Part]:
    """List the parts of the stem, which hands its output to the first layer."""
    return [Part(space.in_channels, space.stem_channels, first.in_size, 3)]


def list_head_parts(space: SearchSpace, last: Layer) -> list[Part]:
    """List the parts of the head, which gets the output of the last layer."""
    features = space.head_linear or space.head_channels
    linear = Part(space.head_channels, space.head_linear, has_norm=False, has_bias=space.linear_bias)
    return [
        Part(last.out_channels, space.head_channels, last.out_size),
        *([linear] if space.head_linear else []),
        Part(features, space.classes, has_norm=False, has_bias=space.linear_bias),
    ]
