"""The search space: network stages of choice blocks, down to each layer's shapes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from spos_cli.errors import ArchitectureError, ConfigError
from spos_cli.files.quoting import plural, quote_value
from spos_cli.space.architecture import WIDTH_UNIT, Architecture, Option, format_width
from spos_cli.space.bits import check_bits, format_bits, parse_bits
from spos_cli.space.choices import (
    ACTIVATIONS,
    IDENTITY,
    MAX_NUMBER,
    NON_NEGATIVE_ACTIVATIONS,
    SHUFFLE_OPS,
    Choice,
    check_choices,
)
from spos_cli.space.layer import (
    Layer,
    check_bits_of_ops,
    check_hidden_channels,
    check_ops,
    check_output_widths_of_ops,
    check_stage_channels,
    explain_wrong_option,
    scale_channels,
)
from spos_cli.space.options import Context, Options

MAX_LAYERS, MAX_CHANNELS, MAX_PIXELS, MAX_CLASSES = 512, 65_536, 8_192, 1_000_000
MAX_IN_CHANNELS = 16
GREY, COLOUR = 1, 3  # channels of the images that every file can become; other numbers must be in the file
MAX_WIDTHS, MAX_WIDTH = 64, 100 * WIDTH_UNIT


@dataclass(frozen=True)
class Stage:
    """A network stage: consecutive choice blocks with the same output channels.

    Attributes:
        blocks: number of choice blocks.
        channels: output channels of each block.
        stride: of the first block; the others have stride 1.
        choices: ops of these blocks; None for those of the space.
    """

    blocks: int
    channels: int
    stride: int = 2
    choices: tuple[Choice, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, for files."""
        own = {} if self.choices is None else {"choices": [choice.to_spec() for choice in self.choices]}
        return {"blocks": self.blocks, "channels": self.channels, "stride": self.stride, **own}

    @staticmethod
    def from_dict(values: Any) -> Stage:
        """Read what `to_dict` returns.

        Raises:
            ConfigError: the values do not describe a network stage.
        """
        choices = None
        if isinstance(values, Mapping) and "choices" in values:
            choices = tuple(map(Choice.from_spec, _read_items(values["choices"])))
            values = {name: value for name, value in values.items() if name != "choices"}
        blocks, channels, stride = map(_read_whole, _read_fields(values, "blocks", "channels", "stride"))
        return Stage(blocks, channels, stride, choices)


@dataclass(frozen=True)
class SearchSpace:
    """Which architectures exist (paper, section 4 and table 1).

    Attributes:
        stages: network stages, in the order of the forward pass.
        choices: ops of every choice block, by index. `identity` must be the last; a block has it only where stride and
            channels allow it.
        image_size: side of the square input, in pixels.
        classes: number of outputs.
        stem_channels, stem_stride: of the first 3x3 convolution.
        head_channels: output channels of the last 1x1 convolution.
        widths: width multipliers for each block's hidden channels, in thousandths, ascending (channel search; paper,
            section 3.3); empty without channel search.
        bits: pairs of bits for each block's weights and activations, as in `space.bits` (mixed-precision quantization;
            paper, section 3.3); empty: full precision.
        activation: of stem and head.
        head_linear: outputs of a linear layer, with the activation, between the pooled features and the classifier; 0:
            there is none.
        linear_bias: whether the linear layers have biases.
        in_channels: of the images: 3 for RGB.
        output_widths: width multipliers for the channels of each network stage, in thousandths, ascending; empty: they
            are not searched.
        image_sizes: sides of the images of an architecture, in pixels, ascending, with `image_size` as the last; empty:
            all have `image_size`.

    Raises:
        ConfigError: no network can be built with these numbers.
    """

    stages: tuple[Stage, ...]
    choices: tuple[Choice, ...]
    image_size: int
    classes: int
    stem_channels: int
    stem_stride: int
    head_channels: int
    widths: tuple[int, ...] = ()
    activation: str = "relu"
    head_linear: int = 0
    linear_bias: bool = False
    in_channels: int = 3
    bits: tuple[int, ...] = ()
    output_widths: tuple[int, ...] = ()
    image_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._check_numbers()
        _check_widths("widths", self.widths)
        _check_widths("output_widths", self.output_widths)
        self._check_image_sizes()
        for layer in self.layers:
            check_ops(layer)
            check_hidden_channels(layer, self.widths)
        if self.output_widths:
            self._check_output_widths()
        if self.widths and not any(choice.is_scalable for layer in self.layers for choice in layer.choices):
            raise ConfigError("widths need ops with hidden channels, but this space has none; remove the widths")
        if self.bits:
            self._check_bits()

    def _check_numbers(self) -> None:
        if not self.stages:
            raise ConfigError("a space needs at least one stage")
        bounds = [
            ("image_size", self.image_size, MAX_PIXELS),
            ("classes", self.classes, MAX_CLASSES),
            ("stem channels", self.stem_channels, MAX_CHANNELS),
            ("stem in_channels", self.in_channels, MAX_IN_CHANNELS),
            ("head_channels", self.head_channels, MAX_CHANNELS),
            ("head_linear", self.head_linear or 1, MAX_CHANNELS),
            *((f"stage {i} blocks", stage.blocks, MAX_LAYERS) for i, stage in enumerate(self.stages)),
            *((f"stage {i} channels", stage.channels, MAX_CHANNELS) for i, stage in enumerate(self.stages)),
            *(
                (
                    f"stage {i} channels at output width {format_width(widest)}",
                    scale_channels(stage.channels, widest),
                    MAX_CHANNELS,
                )
                for widest in self.output_widths[-1:]
                for i, stage in enumerate(self.stages)
            ),
            ("number of layers", sum(stage.blocks for stage in self.stages), MAX_LAYERS),
        ]
        for what, value, most in bounds:
            if not 1 <= value <= most:
                raise ConfigError(f"{what} is {value}; it must be from 1 to {most:,}")
        if self.activation not in ACTIVATIONS:
            allowed = ", ".join(ACTIVATIONS)
            raise ConfigError(f"activation is {quote_value(self.activation)}; it must be one of {allowed}")
        if self.stem_stride not in (1, 2) or any(stage.stride not in (1, 2) for stage in self.stages):
            raise ConfigError("every stride must be 1 or 2")
        for choices in self._choice_lists:
            check_choices(choices)

    def _check_image_sizes(self) -> None:
        """Raise ConfigError if image sizes are not strictly increasing up to `image_size`."""
        if not self.image_sizes:
            return
        sizes = list(self.image_sizes)
        if len(sizes) > MAX_WIDTHS or sizes != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != self.image_size:
            seen = ", ".join(map(str, sizes[:MAX_WIDTHS]))
            raise ConfigError(
                f"image_sizes must be strictly increasing and end with image_size ({self.image_size}), got {seen}"
            )

    def _check_output_widths(self) -> None:
        """Raise ConfigError if the space's network stages cannot have these output widths."""
        for number, stage in enumerate(self.stages):
            check_stage_channels(number, stage.channels, self.output_widths)
        for layer, contexts, options in zip(self.layers, self.options.contexts, self.options.by_layer, strict=True):
            check_output_widths_of_ops(layer)
            variants = {self.layer_in(layer, context, option) for context in contexts for option in options}
            for variant in sorted(variants, key=lambda variant: variant.signature):
                check_hidden_channels(variant, self.widths)

    def _check_bits(self) -> None:
        """Raise ConfigError if the space's blocks cannot have these bits."""
        check_bits(self.bits)
        for layer in self.layers:
            check_bits_of_ops(layer)
        if not any(choice.is_quantizable for layer in self.layers for choice in layer.choices):
            raise ConfigError("bits need ops that take bits, but this space has none; remove the bits")
        if self.activation not in NON_NEGATIVE_ACTIVATIONS:
            raise ConfigError(
                f"activation is {self.activation}, which may be negative, but the first block of a space with bits"
                f" needs features that are not; it must be {' or '.join(NON_NEGATIVE_ACTIVATIONS)}"
            )

    @property
    def _choice_lists(self) -> list[tuple[Choice, ...]]:
        """The choices of the space, and of each stage that has its own."""
        return [self.choices, *(stage.choices for stage in self.stages if stage.choices is not None)]

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All choice blocks, in the order of the forward pass, with the channels of the stages and `image_size`.

        An architecture with output widths or another image size has other ones: see `layers_of`.
        """
        layers: list[Layer] = []
        channels, size = self.stem_channels, -(-self.image_size // self.stem_stride)
        split = all(choice.op in SHUFFLE_OPS for choices in self._choice_lists for choice in choices)
        for stage in self.stages:
            for block in range(stage.blocks):
                stride = stage.stride if block == 0 else 1
                choices = stage.choices or self.choices
                starts_searched_stage = block == 0 and bool(self.output_widths)
                layer = Layer(
                    len(layers), channels, stage.channels, stride, size, choices, split, starts_searched_stage
                )
                if not layer.keeps_shape:
                    layer = replace(layer, choices=tuple(choice for choice in choices if choice.op != IDENTITY))
                layers.append(layer)
                channels, size = layer.out_channels, layer.out_size
        return tuple(layers)

    @property
    def num_layers(self) -> int:
        """Number of choice blocks."""
        return len(self.layers)

    @cached_property
    def options(self) -> Options:
        """The options of each layer."""
        scalable = tuple(tuple(choice.is_scalable for choice in layer.choices) for layer in self.layers)
        quantizable = tuple(tuple(choice.is_quantizable for choice in layer.choices) for layer in self.layers)
        starts = tuple(block == 0 for stage in self.stages for block in range(stage.blocks))
        return Options(scalable, self.widths, quantizable, self.bits, starts, self.output_widths, self.image_sizes)

    def layer_in(self, layer: Layer, context: Context, option: Option) -> Layer:
        """Return a layer with the channels and the size that it has after a context, with an option."""
        channels_before = self.stem_channels if layer.index == 0 else self.layers[layer.index - 1].out_channels
        output = option.output or context.output
        return replace(
            layer,
            in_channels=scale_channels(channels_before, context.output),
            out_channels=scale_channels(layer.out_channels, output),
            in_size=self._size_before(layer.index, option.size or context.size),
        )

    def _size_before(self, index: int, image_size: int) -> int:
        """Return the side of a layer's input, in pixels, for images of a size; 0 stands for `image_size`."""
        size = -(-(image_size or self.image_size) // self.stem_stride)
        for layer in self.layers[:index]:
            size = -(-size // layer.stride)
        return size

    def layers_of(self, arch: Architecture) -> tuple[Layer, ...]:
        """Return all choice blocks with the channels and sizes that they have in an architecture."""
        if not self.output_widths and not self.image_sizes:
            return self.layers
        layers, context = [], Context()
        for layer, option in zip(self.layers, arch.options, strict=True):
            layers.append(self.layer_in(layer, context, option))
            context = Context(option.size or context.size, option.output or context.output)
        return tuple(layers)

    def network_key(self, arch: Architecture) -> tuple[tuple[Choice, int, int, tuple[int, ...]], ...]:
        """Return the blocks of a network without those that do nothing: equal for architectures of the same network.

        For instance, `skip, mbconv` and `mbconv, skip` are the same network where both blocks keep the shape.
        """
        return tuple(
            (layer.choices[option.choice], option.width, option.bits, layer.signature)
            for layer, option in zip(self.layers_of(arch), arch.options, strict=True)
            if not layer.is_identity(layer.choices[option.choice])
        )

    def hidden_channels(self, arch: Architecture) -> list[int | None]:
        """Return the hidden channels of each layer's op; None where the op has no width."""
        return [
            layer.hidden_channels(layer.choices[option.choice], option.width) if option.width else None
            for layer, option in zip(self.layers_of(arch), arch.options, strict=True)
        ]

    def fix_blocks(self, arch: Architecture, widths: tuple[int, ...]) -> SearchSpace:
        """Return the space of the widths of an architecture's blocks: one network stage, with one choice, per block.

        Blocks without a layer (`identity`) are left out.

        Args:
            arch: an architecture of this space.
            widths: in thousandths, instead of those of this space.

        Raises:
            ArchitectureError: none of its blocks has hidden channels.
            ConfigError: a width does not fit one of its blocks.
        """
        blocks = [(layer, layer.choices[choice]) for layer, choice in zip(self.layers, arch, strict=True)]
        blocks = [(layer, choice) for layer, choice in blocks if choice.op != IDENTITY]
        if not any(choice.is_scalable for _, choice in blocks):
            names = ", ".join(dict.fromkeys(choice.name for _, choice in blocks)) or IDENTITY
            raise ArchitectureError(f"no block of {arch} has hidden channels, which widths would scale: it has {names}")
        stages = tuple(Stage(1, layer.out_channels, layer.stride, (choice,)) for layer, choice in blocks)
        choices = tuple(dict.fromkeys(choice for _, choice in blocks))
        return replace(self, stages=stages, choices=choices, widths=widths)

    @property
    def size(self) -> int:
        """Number of architectures."""
        return math.prod(self.options.counts)

    @property
    def work_per_layer(self) -> int:
        """Mean multiply-adds of a 1x1 convolution in a layer, for one image: how much work CPU threads can share."""
        total = sum(layer.in_channels * layer.out_channels * layer.out_size**2 for layer in self.layers)
        return total // self.num_layers

    def require_variance(self, images: int, setting: str, divisors: Sequence[str] = ()) -> None:
        """Refuse a batch in which BatchNorm would see one value per channel, which has no variance.

        Of several image sizes, the smallest one counts.

        Args:
            images: number of images in a forward pass of one process.
            setting: the name of the setting for that number, for the message.
            divisors: settings that divide the number, and may be lowered instead.

        Raises:
            ConfigError: there is one image, and the last layers see one pixel of it.
        """
        last = self.layers[-1]
        smallest = replace(last, in_size=self._size_before(last.index, min(self.image_sizes, default=0)))
        if images == 1 and smallest.out_size == 1:
            lower = f", or lower {' or '.join(divisors)}" if divisors else ""
            sizes = "space.image_sizes" if self.image_sizes else "space.image_size"
            raise ConfigError(
                f"{setting} leaves one image for a pass, and the last layers see one pixel of it, but BatchNorm needs"
                f" more than one value; raise {setting}, or {sizes}{lower}"
            )

    def validate(self, arch: Architecture) -> None:
        """Raise ArchitectureError if the space does not have this architecture."""
        if len(arch) != self.num_layers:
            raise ArchitectureError(f"the architecture has {plural(len(arch), 'layer')}, the space {self.num_layers}")
        for layer, choice in zip(self.layers, arch, strict=True):
            if not 0 <= choice < len(layer.choices):
                names = ", ".join(f"{i} = {c.name}" for i, c in enumerate(layer.choices))
                raise ArchitectureError(f"layer {layer.index} has choice {choice}; the choices are {names}")
        for layer, option, options in zip(self.layers, arch.options, self.options.by_layer, strict=True):
            if option not in options:
                raise ArchitectureError(explain_wrong_option(layer, option, self.options))

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, for files."""
        images = {} if self.in_channels == 3 else {"in_channels": self.in_channels}
        return {
            "image_size": self.image_size,
            "classes": self.classes,
            "stem": {**images, "channels": self.stem_channels, "stride": self.stem_stride},
            "stages": [stage.to_dict() for stage in self.stages],
            "head_channels": self.head_channels,
            "choices": [choice.to_spec() for choice in self.choices],
            **({"widths": [width / WIDTH_UNIT for width in self.widths]} if self.widths else {}),
            **({"bits": list(map(format_bits, self.bits))} if self.bits else {}),
            **({"output_widths": [width / WIDTH_UNIT for width in self.output_widths]} if self.output_widths else {}),
            **({"image_sizes": list(self.image_sizes)} if self.image_sizes else {}),
            **({"activation": self.activation} if self.activation != "relu" else {}),
            **({"head_linear": self.head_linear} if self.head_linear else {}),
            **({"linear_bias": True} if self.linear_bias else {}),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> SearchSpace:
        """Read what `to_dict` returns.

        Raises:
            ConfigError: the values do not describe a space, or have keys that this version does not know.
        """
        optional: dict[str, Any] = {
            "widths": (),
            "bits": (),
            "output_widths": (),
            "image_sizes": (),
            "activation": "relu",
            "head_linear": 0,
            "linear_bias": False,
        }
        if isinstance(values, Mapping):
            optional |= {name: values[name] for name in optional if name in values}
            values = {name: value for name, value in values.items() if name not in optional}
        if type(optional["linear_bias"]) is not bool:
            raise ConfigError(f"cannot read the search space: linear_bias is {quote_value(optional['linear_bias'])}")
        image_size, classes, stem, stages, head_channels, choices = _read_fields(
            values, "image_size", "classes", "stem", "stages", "head_channels", "choices"
        )
        in_channels: Any = 3
        if isinstance(stem, Mapping) and "in_channels" in stem:
            in_channels = stem["in_channels"]
            stem = {name: value for name, value in stem.items() if name != "in_channels"}
        stem_channels, stem_stride = _read_fields(stem, "channels", "stride")
        return SearchSpace(
            stages=tuple(map(Stage.from_dict, _read_items(stages))),
            choices=tuple(map(Choice.from_spec, _read_items(choices))),
            image_size=_read_whole(image_size),
            classes=_read_whole(classes),
            stem_channels=_read_whole(stem_channels),
            stem_stride=_read_whole(stem_stride),
            head_channels=_read_whole(head_channels),
            widths=tuple(map(parse_width, _read_items(optional["widths"]))),
            output_widths=tuple(map(parse_width, _read_items(optional["output_widths"]))),
            image_sizes=tuple(map(_read_whole, _read_items(optional["image_sizes"]))),
            bits=tuple(map(parse_bits, _read_items(optional["bits"]))),
            activation=optional["activation"],
            head_linear=_read_whole(optional["head_linear"]),
            linear_bias=optional["linear_bias"],
            in_channels=_read_whole(in_channels),
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the space, in hex."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def parse_width(value: Any) -> int:
    """Return a width such as 1.4 in thousandths.

    Raises:
        ConfigError: the value is not a number, is out of range, or is not a multiple of 0.001.
    """
    number = type(value) in (int, float) and 0 < value <= MAX_WIDTH / WIDTH_UNIT
    width = round(value * WIDTH_UNIT) if number else 0
    if not number or abs(width / WIDTH_UNIT - value) > 1e-9:
        raise ConfigError(
            f"widths: {quote_value(value)} is not a width; write multiples of 0.001 such as 0.8 or 1.4, from 0.001 to"
            f" {MAX_WIDTH // WIDTH_UNIT}"
        )
    return width


def _check_widths(name: str, widths: tuple[int, ...]) -> None:
    """Raise ConfigError if there are too many widths, or if they are not strictly increasing."""
    if len(widths) > MAX_WIDTHS:
        raise ConfigError(f"the number of {name} is {len(widths)}; it must be at most {MAX_WIDTHS}")
    if list(widths) != sorted(set(widths)):
        raise ConfigError(f"{name} must be strictly increasing, got {', '.join(map(format_width, widths))}")


def _read_fields(values: Any, *names: str) -> list[Any]:
    """Return the values of a mapping with exactly these keys: an unknown key may mean another space."""
    if not isinstance(values, Mapping) or values.keys() != set(names):
        raise ConfigError(f"cannot read the search space: expected {', '.join(names)}, not {quote_value(values)}")
    return [values[name] for name in names]


def _read_items(values: Any) -> list[Any]:
    """Return a list; raise ConfigError for anything else."""
    if not isinstance(values, (list, tuple)):
        raise ConfigError(f"cannot read the search space: expected a list, not {quote_value(values)}")
    return list(values)


def _read_whole(value: Any) -> int:
    """Return a whole number; raise ConfigError for anything else."""
    if type(value) is not int or abs(value) > MAX_NUMBER:
        raise ConfigError(f"cannot read the search space: {quote_value(value)} is not a number up to {MAX_NUMBER:,}")
    return value


# The space of the paper (table 1) and the official code, for ImageNet.
OFFICIAL_SPACE = SearchSpace(
    stages=(Stage(4, 64), Stage(4, 160), Stage(8, 320), Stage(4, 640)),
    choices=(
        Choice("shuffle", (("kernel", 3),)),
        Choice("shuffle", (("kernel", 5),)),
        Choice("shuffle", (("kernel", 7),)),
        Choice("shuffle_xception"),
    ),
    image_size=224,
    classes=1000,
    stem_channels=16,
    stem_stride=2,
    head_channels=1024,
)
