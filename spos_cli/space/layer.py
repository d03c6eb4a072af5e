"""One choice block: its channels, its size, and the ops, widths and bits it may have."""

from __future__ import annotations

from dataclasses import dataclass

from spos_cli.errors import ConfigError
from spos_cli.space.architecture import WIDTH_UNIT, Option, format_width
from spos_cli.space.bits import format_bits
from spos_cli.space.choices import IDENTITY, OPS, SHUFFLE_OPS, SKIP, Choice
from spos_cli.space.options import Options


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
        starts_searched_stage: whether a network stage begins here whose output width is searched. Then no op adds its
            input to its output, whether they happen to have the same channels or not.
    """

    index: int
    in_channels: int
    out_channels: int
    stride: int
    in_size: int
    choices: tuple[Choice, ...]
    split: bool
    starts_searched_stage: bool = False

    @property
    def keeps_shape(self) -> bool:
        """Whether the output has the shape of the input, in all architectures."""
        return self.stride == 1 and self.in_channels == self.out_channels and not self.starts_searched_stage

    @property
    def out_size(self) -> int:
        """Side of the output, in pixels."""
        return -(-self.in_size // self.stride)

    @property
    def signature(self) -> tuple[int, int, int, int, bool]:
        """What the cost of a choice depends on; equal for layers that are alike."""
        return self.in_channels, self.out_channels, self.stride, self.in_size, self.keeps_shape

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
        return choice.op == IDENTITY or (choice.op == SKIP and self.keeps_shape)

    def has_shortcut(self, choice: Choice) -> bool:
        """Return whether an op adds its input to its output in this layer. What a user's own block does is unknown."""
        return choice.op in OPS and OPS[choice.op].adds_input and self.keeps_shape

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


def check_output_widths_of_ops(layer: Layer) -> None:
    """Raise ConfigError if an op cannot use the first of its input and output channels alone."""
    for choice in layer.choices:
        if choice.has_output_widths:
            continue
        allowed = ", ".join(name for name, op in OPS.items() if op.has_output_widths)
        reason = "has groups" if "groups" in dict(choice.parameters) else "is not one of them"
        raise ConfigError(
            f"layer {layer.index}: output_widths need ops that can use the first of their channels alone: {allowed};"
            f" {choice.name} {reason}"
        )


def scale_channels(channels: int, width: int) -> int:
    """Return the channels of a network stage at an output width, rounded down; all of them for 0.

    Args:
        width: in thousandths.
    """
    return channels * width // WIDTH_UNIT if width else channels


def check_stage_channels(number: int, channels: int, output_widths: tuple[int, ...]) -> None:
    """Raise ConfigError if an output width gives a network stage no channels, or as many as another one does.

    Args:
        number: of the network stage.
        channels: of its blocks, without output widths.
        output_widths: in thousandths.
    """
    width_of: dict[int, int] = {}  # by channels
    for width in output_widths:
        scaled = scale_channels(channels, width)
        if scaled == 0 or scaled in width_of:
            problem = f"as many as {format_width(width_of[scaled])}" if scaled else "but it needs at least 1"
            raise ConfigError(
                f"output width {format_width(width)} gives stage {number} {scaled} of {channels} channels, {problem};"
                " remove that output width"
            )
        width_of[scaled] = width


def explain_wrong_option(layer: Layer, option: Option, options: Options) -> str:
    """Return the message for an option whose choice exists, but with other fields than the layer has.

    Args:
        options: of the space.
    """
    choice = layer.choices[option.choice]
    known = [other for other in options.by_layer[layer.index] if other.choice == option.choice]
    if option.size not in {other.size for other in known}:
        sizes = [f"{size}px" for size in options.sizes]
        seen = f"the image size {option.size}px" if option.size else "no image size"
        advice = f"begin with {' or '.join(sizes)}" if sizes else "the space has one image size, so write none"
        return f"the architecture has {seen}; {advice}"
    name, field, values, write = next(
        (name, field, values, write)
        for name, field, values, write in (
            ("output widths", "output", options.outputs, format_width),
            ("widths", "width", options.widths, format_width),
            ("bits", "bits", options.bits, format_bits),
        )
        if getattr(option, field) not in {getattr(other, field) for other in known}
    )
    example = known[-1]
    if not values:
        return f"layer {layer.index} is {option}, but the space has no {name}; write {example}"
    own = dict.fromkeys(getattr(other, field) for other in known)
    if list(own) == [0] and field == "output":
        return f"layer {layer.index} is {option}, but only the first layer of a network stage has one of the {name}"
    if list(own) == [0]:
        return f"layer {layer.index} is {option}, but {choice.name} has no {name}; write {example}"
    value = getattr(option, field)
    singular = name if field == "bits" else name.removesuffix("s")
    seen = f"{singular} {write(value)}" if value else f"no {singular}"
    return (
        f"layer {layer.index} has {seen}; the {name} are {', '.join(map(write, own))}, so write {example}, for example"
    )
