"""The search space: stages of choice blocks, and the ops that each of them may be."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spos_cli.errors import ArchitectureError, ConfigError
from spos_cli.files.quoting import quote_value
from spos_cli.space.architecture import WIDTH_UNIT, Architecture, Option, format_width
from spos_cli.space.options import Options

MAX_LAYERS, MAX_CHOICES, MAX_CHANNELS, MAX_PIXELS, MAX_CLASSES = 512, 64, 65_536, 8_192, 1_000_000
MAX_WIDTHS, MAX_WIDTH = 64, 100 * WIDTH_UNIT
MAX_NAME, MAX_NUMBER = 64, 10**9  # of what is read from a file: characters of a word, any number


# The ops that `models.blocks` can build, and the parameters that each must have.
OPS: dict[str, tuple[str, ...]] = {
    "shuffle": ("kernel",),
    "shuffle_xception": (),
    "mbconv": ("expand", "kernel"),
    "identity": (),
}
SHUFFLED = ("shuffle", "shuffle_xception")  # with stride 1 they work on half of the channels; the others pass by
IDENTITY = "identity"
MAX_KERNEL, MAX_EXPAND = 31, 64
OWN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)  # a user's block: package.module:Class


@dataclass(frozen=True)
class Choice:
    """One op of a choice block, as data; `models.blocks` knows how to build it.

    Attributes:
        op: its name, such as `shuffle`; or `package.module:Class`, a block of the user's.
        parameters: `(name, value)` pairs; kept sorted by name.
    """

    op: str
    parameters: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", tuple(sorted(self.parameters)))

    @staticmethod
    def from_spec(spec: str | Mapping[str, Any]) -> Choice:
        """From `shuffle_xception` or `{shuffle: {kernel: 5}}`.

        Raises:
            ConfigError: it is neither.
        """
        if isinstance(spec, str):
            spec = {spec: {}}
        if isinstance(spec, Mapping) and len(spec) == 1:
            op, parameters = next(iter(spec.items()))
            known = _is_word(op) or (isinstance(op, str) and len(op) <= 4 * MAX_NAME and OWN.fullmatch(op))
            if isinstance(parameters, Mapping) and known and all(map(_is_word, parameters)):
                pairs = tuple(parameters.items())
                if all(type(value) is int and abs(value) <= MAX_NUMBER for _, value in pairs):
                    return Choice(op, pairs)
        raise ConfigError(f"choices: cannot read {quote_value(spec)}; write an op such as shuffle: {{kernel: 5}}")

    def to_spec(self) -> str | dict[str, dict[str, int]]:
        """As in the YAML file."""
        return {self.op: dict(self.parameters)} if self.parameters else self.op

    @property
    def is_own(self) -> bool:
        """Whether it is a block of the user's, which is imported when it is built."""
        return ":" in self.op

    @property
    def is_scaled(self) -> bool:
        """Whether it has channels in its middle, whose number widths can change."""
        return self.op in SHUFFLED or (self.op == "mbconv" and dict(self.parameters)["expand"] > 1)

    def __str__(self) -> str:
        return " ".join([self.op, *(f"{key}={value}" for key, value in self.parameters)])

    @property
    def name(self) -> str:
        """A short label for tables: `shuffle 5x5`, `mbconv 3x3 x6`."""
        parameters = dict(self.parameters)
        kernel, expand = (parameters.get(name) for name in ("kernel", "expand"))
        if self.is_own:
            return " ".join([self.op.partition(":")[2], *(f"{name}={value}" for name, value in self.parameters)])
        return " ".join([self.op, *([f"{kernel}x{kernel}"] if kernel else []), *([f"x{expand}"] if expand else [])])


@dataclass(frozen=True)
class Stage:
    """Consecutive choice blocks of one width; `stride` is that of the first, the others have 1.

    `choices` are the ops of its blocks where they are not those of the space.
    """

    blocks: int
    channels: int
    stride: int = 2
    choices: tuple[Choice, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for files."""
        own = {} if self.choices is None else {"choices": [choice.to_spec() for choice in self.choices]}
        return {"blocks": self.blocks, "channels": self.channels, "stride": self.stride, **own}

    @staticmethod
    def from_dict(values: Any) -> Stage:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: the values describe no stage.
        """
        choices = None
        if isinstance(values, Mapping) and "choices" in values:
            choices = tuple(map(Choice.from_spec, _items(values["choices"])))
            values = {name: value for name, value in values.items() if name != "choices"}
        blocks, channels, stride = map(_whole, _fields(values, "blocks", "channels", "stride"))
        return Stage(blocks, channels, stride, choices)


@dataclass(frozen=True)
class Layer:
    """One choice block: channels, stride, the side of its input in pixels, and its ops by index.

    `split` says that all ops of the space are `SHUFFLED`, so that with stride 1 half of the channels pass by whatever
    is chosen; else an op is handed all channels.
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
        """Side of its output in pixels."""
        return -(-self.in_size // self.stride)

    @property
    def signature(self) -> tuple[int, int, int, int]:
        """What the cost of a choice depends on: the same in layers that are alike."""
        return self.in_channels, self.out_channels, self.stride, self.in_size

    @property
    def worked_channels(self) -> int:
        """Channels that its op is handed: all with stride 2, else half if the others pass by."""
        return self.in_channels // 2 if self.split and self.stride == 1 else self.in_channels

    @property
    def made_channels(self) -> tuple[int, ...]:
        """Channels of the tensors that its op makes: with stride 2 the projection's too, before the main branch's."""
        if not self.split:
            return (self.out_channels,)
        main = self.out_channels - self.worked_channels
        return (self.worked_channels, main) if self.stride == 2 else (main,)

    def middle(self, choice: Choice, width: int = 0) -> int:
        """Channels in the middle of an op, at a width in thousandths, rounded down; 0 if it has no middle."""
        expand = dict(choice.parameters).get("expand", 0)
        whole = self.out_channels // 2 if choice.op in SHUFFLED else self.in_channels * expand
        return whole * width // WIDTH_UNIT if width else whole


@dataclass(frozen=True)
class SearchSpace:
    """Which architectures exist (paper, section 4 and table 1).

    Attributes:
        stages: in the order of the forward pass.
        choices: the ops of every choice block, by index. `identity`, which must be the last, is there only where
            stride and channels allow it.
        image_size: side of the square input, pixels.
        classes: size of the output.
        stem_channels, stem_stride: of the first 3x3 convolution.
        head_channels: of the last 1x1 convolution.
        widths: what the middle channels of a block may be multiplied with, in thousandths, ascending (paper, section
            3.3: channel search); empty where all blocks have their full width.

    Raises:
        ConfigError: no network can be built to these numbers.
    """

    stages: tuple[Stage, ...]
    choices: tuple[Choice, ...]
    image_size: int
    classes: int
    stem_channels: int
    stem_stride: int
    head_channels: int
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._check_numbers()
        _check_widths(self.widths)
        for layer in self.layers:
            _check_layer(layer)
            _check_middles(layer, self.widths)
        if self.widths and not any(choice.is_scaled for layer in self.layers for choice in layer.choices):
            raise ConfigError("widths are of middle channels, which no choice of this space has; leave them away")

    def _check_numbers(self) -> None:
        if not self.stages:
            raise ConfigError("a space needs at least one stage")
        bounds = [
            ("image_size", self.image_size, MAX_PIXELS),
            ("classes", self.classes, MAX_CLASSES),
            ("stem channels", self.stem_channels, MAX_CHANNELS),
            ("head_channels", self.head_channels, MAX_CHANNELS),
            *((f"stage {i} blocks", stage.blocks, MAX_LAYERS) for i, stage in enumerate(self.stages)),
            *((f"stage {i} channels", stage.channels, MAX_CHANNELS) for i, stage in enumerate(self.stages)),
            ("number of layers", sum(stage.blocks for stage in self.stages), MAX_LAYERS),
        ]
        for what, value, most in bounds:
            if not 1 <= value <= most:
                raise ConfigError(f"{what} is {value}; it must be from 1 to {most:,}")
        if self.stem_stride not in (1, 2) or any(stage.stride not in (1, 2) for stage in self.stages):
            raise ConfigError("every stride must be 1 or 2")
        for choices in self._lists:
            _check_choices(choices)

    @property
    def _lists(self) -> list[tuple[Choice, ...]]:
        """The choices of the space and of its stages."""
        return [self.choices, *(stage.choices for stage in self.stages if stage.choices is not None)]

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All choice blocks, in the order of the forward pass."""
        layers: list[Layer] = []
        channels, size = self.stem_channels, -(-self.image_size // self.stem_stride)
        split = all(choice.op in SHUFFLED for choices in self._lists for choice in choices)
        for stage in self.stages:
            for block in range(stage.blocks):
                stride = stage.stride if block == 0 else 1
                choices = stage.choices or self.choices
                if stride == 2 or channels != stage.channels:
                    choices = tuple(choice for choice in choices if choice.op != IDENTITY)
                layer = Layer(len(layers), channels, stage.channels, stride, size, choices, split)
                layers.append(layer)
                channels, size = layer.out_channels, layer.out_size
        return tuple(layers)

    @property
    def num_layers(self) -> int:
        """Choice blocks."""
        return len(self.layers)

    @cached_property
    def options(self) -> Options:
        """What each layer may be."""
        scaled = tuple(tuple(choice.is_scaled for choice in layer.choices) for layer in self.layers)
        return Options(scaled, self.widths)

    def middles(self, arch: Architecture) -> list[int | None]:
        """By layer, the channels in the middle of its op; None where it has no width of its own."""
        return [
            layer.middle(layer.choices[option.choice], option.width) if option.width else None
            for layer, option in zip(self.layers, arch.options, strict=True)
        ]

    @property
    def size(self) -> int:
        """Architectures."""
        return math.prod(self.options.counts)

    @property
    def work(self) -> int:
        """Multiply-adds of a 1x1 convolution of a layer, for one image, on average: how much there is to share out."""
        return sum(a.in_channels * a.out_channels * a.out_size**2 for a in self.layers) // self.num_layers

    def require_variance(self, images: int, setting: str) -> None:
        """Refuses batches of which BatchNorm would see one value per channel, which has no variance.

        Args:
            images: of one forward pass of one process.
            setting: what sets their number, for the message.

        Raises:
            ConfigError: it is one image, of which the last layers see one pixel.
        """
        if images == 1 and self.layers[-1].out_size == 1:
            raise ConfigError(
                f"{setting} leaves one image for a pass, and the last layers see one pixel of it: BatchNorm needs more"
                f" than one value; raise {setting}, or space.image_size"
            )

    def validate(self, arch: Architecture) -> None:
        """Raises ArchitectureError if the space does not have this architecture."""
        if len(arch) != self.num_layers:
            raise ArchitectureError(f"the architecture has {len(arch)} layers, the space {self.num_layers}")
        for layer, choice in zip(self.layers, arch, strict=True):
            if not 0 <= choice < len(layer.choices):
                names = ", ".join(f"{i} = {c.name}" for i, c in enumerate(layer.choices))
                raise ArchitectureError(f"layer {layer.index} has choice {choice}; the choices are {names}")
        for layer, option, options in zip(self.layers, arch.options, self.options.by_layer, strict=True):
            if option not in options:
                raise ArchitectureError(_wrong_width(layer, option, self.widths))

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for files."""
        return {
            "image_size": self.image_size,
            "classes": self.classes,
            "stem": {"channels": self.stem_channels, "stride": self.stem_stride},
            "stages": [stage.to_dict() for stage in self.stages],
            "head_channels": self.head_channels,
            "choices": [choice.to_spec() for choice in self.choices],
            **({"widths": [width / WIDTH_UNIT for width in self.widths]} if self.widths else {}),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> SearchSpace:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: the values describe no space, or say more than this version understands.
        """
        widths: list[Any] = []
        if isinstance(values, Mapping) and "widths" in values:
            widths = _items(values["widths"])
            values = {name: value for name, value in values.items() if name != "widths"}
        image_size, classes, stem, stages, head_channels, choices = _fields(
            values, "image_size", "classes", "stem", "stages", "head_channels", "choices"
        )
        stem_channels, stem_stride = _fields(stem, "channels", "stride")
        return SearchSpace(
            stages=tuple(map(Stage.from_dict, _items(stages))),
            choices=tuple(map(Choice.from_spec, _items(choices))),
            image_size=_whole(image_size),
            classes=_whole(classes),
            stem_channels=_whole(stem_channels),
            stem_stride=_whole(stem_stride),
            head_channels=_whole(head_channels),
            widths=tuple(map(parse_width, widths)),
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the space, in hex."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def parse_width(value: Any) -> int:
    """A width such as 1.4 in thousandths.

    Raises:
        ConfigError: it is no number, or finer than a thousandth.
    """
    number = type(value) in (int, float) and 0 < value <= MAX_WIDTH / WIDTH_UNIT
    width = round(value * WIDTH_UNIT) if number else 0
    if not number or abs(width / WIDTH_UNIT - value) > 1e-9:
        raise ConfigError(
            f"widths: {quote_value(value)} is none; write numbers such as 0.8 or 1.4, from 0.001 to"
            f" {MAX_WIDTH // WIDTH_UNIT}, in thousandths at the finest"
        )
    return width


def _check_widths(widths: tuple[int, ...]) -> None:
    """Raises ConfigError if they are too many, or do not ascend."""
    if len(widths) > MAX_WIDTHS:
        raise ConfigError(f"the number of widths is {len(widths)}; it must be at most {MAX_WIDTHS}")
    if list(widths) != sorted(set(widths)):
        written = ", ".join(map(format_width, widths))
        raise ConfigError(f"widths must ascend, without one that comes twice: {written} do not")


def _check_middles(layer: Layer, widths: tuple[int, ...]) -> None:
    """Raises ConfigError if a width leaves an op no channel, or as many as another one does."""
    for choice in (choice for choice in layer.choices if choice.is_scaled):
        channels: dict[int, int] = {}
        for width in widths:
            middle = layer.middle(choice, width)
            if middle == 0 or middle in channels:
                as_ = f"as many as width {format_width(channels[middle])}" if middle else "which is none"
                raise ConfigError(
                    f"layer {layer.index}: width {format_width(width)} leaves {choice.name} {middle} of"
                    f" {layer.middle(choice)} middle channels, {as_}; leave that width away"
                )
            channels[middle] = width


def _wrong_width(layer: Layer, option: Option, widths: tuple[int, ...]) -> str:
    """What to say about an option of an existing choice that the space does not have."""
    choice = layer.choices[option.choice]
    if not widths:
        return f"layer {layer.index} is {option}, but the space has no widths; write {option.choice}"
    if not choice.is_scaled:
        return f"layer {layer.index} is {option}, but {choice.name} has no width; write {option.choice}"
    written = ", ".join(map(format_width, widths))
    is_ = f"has width {format_width(option.width)}" if option.width else "has no width"
    return f"layer {layer.index} {is_}; the widths are {written}, so write {Option(option.choice, widths[-1])} or so"


def _check_choices(choices: tuple[Choice, ...]) -> None:
    """Raises ConfigError if an op cannot be built, comes twice, or stands where it must not."""
    if not 1 <= len(choices) <= MAX_CHOICES:
        raise ConfigError(f"the number of choices is {len(choices)}; it must be from 1 to {MAX_CHOICES}")
    for choice in choices:
        _check_op(choice)
    if len(set(choices)) < len(choices):
        raise ConfigError(f"a choice is listed twice: {', '.join(map(str, choices))}")
    if any(choice.op == IDENTITY for choice in choices[:-1]):
        raise ConfigError("choices: identity must stand last, since blocks that change the size do not have it")


def _check_op(choice: Choice) -> None:
    """Raises ConfigError if there is no such op, or if it does not take these parameters."""
    if choice.is_own:
        return
    if choice.op not in OPS:
        raise ConfigError(
            f"choices: there is no op {choice.op!r}; the ops are {', '.join(OPS)}, and package.module:Class is your own"
        )
    names = tuple(name for name, _ in choice.parameters)
    if names != OPS[choice.op]:
        takes = ", ".join(OPS[choice.op]) or "no parameters"
        raise ConfigError(f"choices: {choice.op} takes {takes}, not {', '.join(names) or 'none'}")
    parameters = dict(choice.parameters)
    kernel, expand = parameters.get("kernel", 3), parameters.get("expand", 1)
    if kernel % 2 == 0 or not 1 <= kernel <= MAX_KERNEL:
        raise ConfigError(f"choices: {choice}: kernel must be an odd number from 1 to {MAX_KERNEL}")
    if not 1 <= expand <= MAX_EXPAND:
        raise ConfigError(f"choices: {choice}: expand must be from 1 to {MAX_EXPAND}")


def _check_layer(layer: Layer) -> None:
    """Raises ConfigError if a block has no op, or one that its channels do not allow."""
    if not layer.choices:
        raise ConfigError(f"layer {layer.index} changes the size of its input, which identity alone cannot")
    if not any(choice.op in SHUFFLED for choice in layer.choices):
        return
    if layer.out_channels % 2:
        raise ConfigError(f"stage channels must be even, half of them pass by; {layer.out_channels} is odd")
    if layer.stride == 1 and layer.in_channels % 2:
        raise ConfigError(f"layer {layer.index}: {layer.in_channels} channels cannot be split in halves")
    kept = layer.in_channels // 2 if layer.stride == 1 else layer.in_channels
    if layer.out_channels <= kept:
        raise ConfigError(
            f"layer {layer.index} has {layer.out_channels} output channels; it needs more than the {kept} that"
            " its second branch keeps"
        )


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier() and len(value) <= MAX_NAME


def _fields(values: Any, *names: str) -> list[Any]:
    """The values of a mapping that has these keys and no other: one more may change what the space is."""
    if not isinstance(values, Mapping) or values.keys() != set(names):
        raise ConfigError(f"cannot read the search space: expected {', '.join(names)}, not {quote_value(values)}")
    return [values[name] for name in names]


def _items(values: Any) -> list[Any]:
    if not isinstance(values, (list, tuple)):
        raise ConfigError(f"cannot read the search space: expected a list, not {quote_value(values)}")
    return list(values)


def _whole(value: Any) -> int:
    if type(value) is not int or abs(value) > MAX_NUMBER:
        raise ConfigError(f"cannot read the search space: {quote_value(value)} is not a number up to {MAX_NUMBER:,}")
    return value


PUBLISHED = SearchSpace(
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
