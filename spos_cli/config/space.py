"""The section `space`: which architectures exist."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from spos_cli.config.section import Section
from spos_cli.config.units import (
    BitPair,
    Count,
    Number,
    PathText,
    Width,
    as_value_error,
)
from spos_cli.space.bits import parse_bits
from spos_cli.space.choices import Choice, Value
from spos_cli.space.search_space import SearchSpace, Stage, parse_width

OpSpecs = tuple[str | dict[str, dict[str, Value]], ...]  # such as (`shuffle_xception`, `{shuffle: {kernel: 5}}`)


class StemConfig(Section):
    """The first 3x3 convolution."""

    in_channels: Annotated[Number, Field(ge=1, le=16)] = Field(
        3, description="Channels of the images: 3 for RGB, 1 for grey, or as many as your files have."
    )
    channels: Count = Field(16, description="Output channels of the first 3x3 convolution.")
    stride: Literal[1, 2] = Field(2, description="Stride of the first convolution; 1 for small images.")


class StageConfig(Section):
    """A network stage: consecutive choice blocks with the same output channels."""

    blocks: Count = Field(description="Number of choice blocks.")
    channels: Count = Field(description="Output channels of each block.")
    stride: Literal[1, 2] = Field(2, description="Stride of the first block; the others have stride 1.")
    choices: OpSpecs | None = Field(None, description="Ops of these blocks. null: space.choices.")


class SpaceConfig(Section):
    """Which architectures exist."""

    image_size: Count = Field(224, description="Side of the square input, in pixels.")
    classes: Annotated[Number, Field(ge=2, le=10**12)] = Field(1000, description="Number of classes of the data set.")
    stem: StemConfig = StemConfig()
    stages: tuple[StageConfig, ...] = Field(
        (
            StageConfig(blocks=4, channels=64),
            StageConfig(blocks=4, channels=160),
            StageConfig(blocks=8, channels=320),
            StageConfig(blocks=4, channels=640),
        ),
        description="Network stages, in the order of the forward pass.",
    )
    head_channels: Count = Field(1024, description="Output channels of the last 1x1 convolution.")
    head_linear: Count | None = Field(
        None,
        description="Outputs of a linear layer and an activation between pooling and classifier: 1280 in MobileNetV3."
        " null: none.",
    )
    linear_bias: bool = Field(
        False, description="Whether the linear layers have biases; not in the official code, but in torchvision."
    )
    activation: Literal["relu", "relu6", "hswish", "silu"] = Field(
        "relu",
        description="Activation of stem and head: relu6 in MobileNetV2, hswish in MobileNetV3, silu in EfficientNet."
        " Ops have their own.",
    )
    choices: OpSpecs = Field(
        (
            {"shuffle": {"kernel": 3}},
            {"shuffle": {"kernel": 5}},
            {"shuffle": {"kernel": 7}},
            "shuffle_xception",
        ),
        description="Ops of every choice block, by index.",
    )
    widths: tuple[Width, ...] = Field(
        (),
        description="Width multipliers for each block's hidden channels, ascending. Empty: no channel search.",
    )

    bits: tuple[BitPair, ...] = Field(
        (),
        description="Bits of weights and activations that each block may have, such as [w1a2, w2a2, w1a4, w2a4, w3a4,"
        " w4a4] (mixed-precision quantization; paper, section 3.3): w and a, each with 1, 2, 3, 4 or 8. Ops must be"
        " basic or bottleneck, and also identity and skip. Empty: full precision.",
    )

    output_widths: tuple[Width, ...] = Field(
        (),
        description="Width multipliers for the channels of each network stage, ascending, such as [0.5, 0.75, 1.0]."
        " Ops must be mbconv without groups, fused_mbconv, basic, bottleneck, skip or identity. Empty: not searched.",
    )

    image_sizes: tuple[Count, ...] = Field(
        (),
        description="Sides of the images that an architecture may have, in pixels, ascending; the last is image_size."
        " Empty: all have image_size.",
    )

    channels_of: PathText | None = Field(
        None,
        exclude=True,  # `config.channels` replaces it by the stages and widths that it stands for.
        description="An architecture of this space, as a file or a literal: its blocks are fixed, and their widths are"
        " searched, those of widths or else from 0.2 to 2.0. The run is then called NAME-channels-ID. null: all"
        " choices are searched.",
    )

    @model_validator(mode="after")
    def _require_possible_space(self) -> SpaceConfig:
        as_value_error(SpaceConfig.build)(self)
        return self

    def build(self) -> SearchSpace:
        """Return the search space that this section describes; with `channels_of`, the space of that architecture."""
        return SearchSpace(
            stages=tuple(
                Stage(
                    stage.blocks, stage.channels, stage.stride, None if stage.choices is None else _ops(stage.choices)
                )
                for stage in self.stages
            ),
            choices=_ops(self.choices),
            image_size=self.image_size,
            classes=self.classes,
            stem_channels=self.stem.channels,
            stem_stride=self.stem.stride,
            head_channels=self.head_channels,
            activation=self.activation,
            head_linear=self.head_linear or 0,
            linear_bias=self.linear_bias,
            widths=() if self.channels_of is not None else tuple(map(parse_width, self.widths)),
            in_channels=self.stem.in_channels,
            bits=tuple(map(parse_bits, self.bits)),
            output_widths=tuple(map(parse_width, self.output_widths)),
            image_sizes=self.image_sizes,
        )

    @property
    def own_blocks(self) -> set[str]:
        """The user's own blocks, as import paths."""
        lists = [self.choices, *(stage.choices or () for stage in self.stages)]
        return {choice.op for specs in lists for choice in _ops(specs) if choice.is_own}


def _ops(specs: Iterable[str | dict[str, dict[str, Value]]]) -> tuple[Choice, ...]:
    return tuple(map(Choice.from_spec, specs))
