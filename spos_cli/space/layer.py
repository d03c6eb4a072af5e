"""One choice block: its channels, its size, and the ops, widths and bits it may have."""

from __future__ import annotations

from dataclasses import dataclass

from spos_cli.errors import ConfigError
from spos_cli.space.architecture import WIDTH_UNIT, Option, format_width
from spos_cli.space.bits import format_bits
from spos_cli.space.choices import IDENTITY, OPS, SHUFFLE_OPS, SKIP, Choice


@dataclass(frozen=True)
class Layer:
    """One choice block.

    Attributes:
        index: position in the forward pass, from 0.
        in_channels, out_channels: of the whole block.
        stride: 1 or 2.
        in_size: side of the input, in pixels.
        choices: its ops, by index.
        split: whether all ops of the space are `SHUFFLE_OPS`. Then, with stride 1, half of the channels pass by
            whichever op is chosen. Otherwise an op gets all channels.
    """

    index: int
    in_channels: int
    out_channels: int
    stride: int
    in_size: int
    choices: tuple[Choice, ...]
    split: bool

    @property
    def out_size(self) -> int:
        """Side of the output, in pixels."""
        return -(-self.in_size // self.stride)

    @property
    def signature(self) -> tuple[int, int, int, int]:
        """What the cost of a choice depends on; equal for layers that are alike."""
        return self.in_channels, self.out_channels, self.stride, self.in_size

    @property
    def op_in_channels(self) -> int:
        """Input channels of the layer's op: all, or half of them where the other half passes by."""
        return self.in_channels // 2 if self.split and self.stride == 1 else self.in_channels

    @property
    def op_out_channels(self) -> tuple[int, ...]:
        """Channels of each output tensor of the op; with a split and stride 2, the projection comes first."""
        if not self.split:
            return (self.out_channels,)
        main = self.out_channels - self.op_in_channels
        return (self.op_in_channels, main) if self.stride == 2 else (main,)

    def is_identity(self, choice: Choice) -> bool:
        """Return whether an op returns its input in this layer."""
        keeps_shape = self.stride == 1 and self.in_channels == self.out_channels
        return choice.op == IDENTITY or (choice.op == SKIP and keeps_shape)

    def has_shortcut(self, choice: Choice) -> bool:
        """Return whether an op adds its input to its output in this layer. What a user's own block does is unknown."""
        keeps_shape = self.stride == 1 and self.in_channels == self.out_channels
        return choice.op in OPS and OPS[choice.op].adds_input and keeps_shape

    def hidden_channels(self, choice: Choice, width: int = 0) -> int:
        """Return the channels between an op's convolutions at a width, rounded down; 0 if the op has none.

        Args:
            choice: the op.
            width: in thousandths; 0 for the op as it is without channel search.
        """
        count_hidden = OPS[choice.op].count_hidden if choice.op in OPS else None
        if count_hidden is None:
            return 0
        channels = count_hidden(self.in_channels, self.out_channels, int(dict(choice.parameters).get("expand", 1)))
        return channels * width // WIDTH_UNIT if width else channels


def check_ops(layer: Layer) -> None:
    """Raise ConfigError if a block has no op, or one that its channels do not allow."""
    if not layer.choices:
        raise ConfigError(f"layer {layer.index} changes the size of its input, so it needs an op other than identity")
    for choice in layer.choices:
        groups = 1 if choice.is_own else int(dict(choice.parameters).get("groups", 1))
        if layer.in_channels % groups or layer.out_channels % groups:
            raise ConfigError(
                f"layer {layer.index}: {layer.in_channels} input and {layer.out_channels} output channels cannot be"
                f" divided into the {groups} groups of {choice.name}"
            )
    if not any(choice.op in SHUFFLE_OPS for choice in layer.choices):
        return
    if layer.out_channels % 2:
        raise ConfigError(f"stage channels must be even, because half of them pass by; {layer.out_channels} is odd")
    if layer.stride == 1 and layer.in_channels % 2:
        raise ConfigError(f"layer {layer.index}: {layer.in_channels} channels cannot be split in half")
    kept = layer.in_channels // 2 if layer.stride == 1 else layer.in_channels
    if layer.out_channels <= kept:
        raise ConfigError(
            f"layer {layer.index} has {layer.out_channels} output channels; it needs more than {kept}, because {kept}"
            " of them come from outside of its main branch"
        )


def check_hidden_channels(layer: Layer, widths: tuple[int, ...]) -> None:
    """Raise ConfigError if a width gives an op no hidden channels, or as many as another width."""
    for choice in (choice for choice in layer.choices if choice.is_scalable):
        width_of: dict[int, int] = {}  # by hidden channels
        for width in widths:
            hidden = layer.hidden_channels(choice, width)
            if hidden == 0 or hidden in width_of:
                problem = f"as many as width {format_width(width_of[hidden])}" if hidden else "but it needs at least 1"
                raise ConfigError(
                    f"layer {layer.index}: width {format_width(width)} gives {choice.name} {hidden} of"
                    f" {layer.hidden_channels(choice)} hidden channels, {problem}; remove that width"
                )
            width_of[hidden] = width


def check_bits_of_ops(layer: Layer) -> None:
    """Raise ConfigError if an op takes no bits, or if its output may be negative, which bits do not allow."""
    for choice in layer.choices:
        if choice.is_quantizable or layer.is_identity(choice):
            continue
        if choice.op == SKIP:
            raise ConfigError(
                f"layer {layer.index}: skip is a convolution where the shape changes, and its output may be negative,"
                " but bits need features that are not; remove skip from this network stage, or remove the bits"
            )
        allowed = " and ".join(name for name, op in OPS.items() if op.takes_bits)
        raise ConfigError(
            f"layer {layer.index}: {choice.name} takes no bits, because its convolutions may see negative features;"
            f" with bits, ops may be {allowed}, and also {IDENTITY} and {SKIP}"
        )


def explain_wrong_option(layer: Layer, option: Option, widths: tuple[int, ...], bits: tuple[int, ...]) -> str:
    """Return the message for an option whose choice exists, but not with this width or these bits.

    Args:
        widths, bits: of the space.
    """
    choice = layer.choices[option.choice]
    own_widths, own_bits = (widths if choice.is_scalable else ()), (bits if choice.is_quantizable else ())
    example = Option(option.choice, own_widths[-1] if own_widths else 0, own_bits[-1] if own_bits else 0)
    if option.width not in (own_widths or (0,)):
        name, in_space, own = "widths", widths, list(map(format_width, own_widths))
        seen = f"has width {format_width(option.width)}" if option.width else "has no width"
    else:
        name, in_space, own = "bits", bits, list(map(format_bits, own_bits))
        seen = f"has bits {format_bits(option.bits)}" if option.bits else "has no bits"
    if not in_space:
        return f"layer {layer.index} is {option}, but the space has no {name}; write {example}"
    if not own:
        return f"layer {layer.index} is {option}, but {choice.name} has no {name}; write {example}"
    return f"layer {layer.index} {seen}; the {name} are {', '.join(own)}, so write {example}, for example"
