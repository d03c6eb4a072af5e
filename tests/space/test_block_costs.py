"""Costs by shapes: for each op they are those that PyTorch counts of the built modules."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from spos_cli.models.counting import count_built_block, count_multiply_adds, count_parameters
from spos_cli.models.network import Network
from spos_cli.space.architecture import Option
from spos_cli.space.block_costs import PARTS, list_head_parts, list_parts, list_stem_parts
from spos_cli.space.choices import OPS, SHUFFLE_OPS, Choice
from spos_cli.space.search_space import OFFICIAL_SPACE, Layer, SearchSpace, Stage

VALUES = {
    "kernel": (1, 3, 5),
    "expand": (1, 2, 6),
    "activation": ("relu", "relu6", "hswish", "silu"),
    "se": (0.1, 0.25, 1.0),
    "groups": (2, 4),
}
# Input and output channels, stride and side of the input: both strides, equal and other channels, odd sides.
SHAPES = [(16, 16, 1, 8), (16, 16, 1, 7), (16, 24, 1, 7), (16, 40, 2, 7), (16, 40, 2, 8), (24, 56, 2, 1)]
WIDTHS = (0, 300, 1000, 1700)
BITS = (0, 24)


def list_choices(op: str) -> list[Choice]:
    """List all combinations of an op's parameters, optional ones left out or given."""
    names = [*OPS[op].required, *OPS[op].optional]
    values = [VALUES[name] + (() if name in OPS[op].required else (None,)) for name in names]
    return [
        Choice(op, tuple((name, value) for name, value in zip(names, chosen, strict=True) if value is not None))
        for chosen in itertools.product(*values)
    ]


def make_layers(choice: Choice) -> list[Layer]:
    """Make layers of all shapes, and where an op may have half of the channels, both kinds."""
    splits = (True, False) if choice.op in SHUFFLE_OPS else (False,)
    layers = [Layer(0, *shape, (choice,), split) for shape in SHAPES for split in splits]
    return layers if choice.op != "identity" else [layer for layer in layers if layer.is_identity(choice)][:2]


def test_each_op_is_known() -> None:
    assert PARTS.keys() == OPS.keys()


@pytest.mark.parametrize("op", OPS)
def test_an_op_costs_what_pytorch_counts(op: str) -> None:
    """A few hundred blocks of each op, drawn evenly from all combinations."""
    cases = [
        (layer, Option(0, width, bits))
        for choice in list_choices(op)
        for layer in make_layers(choice)
        for width in (WIDTHS if choice.is_scalable else WIDTHS[:1])
        for bits in (BITS if choice.is_quantizable else BITS[:1])
    ]
    for layer, option in cases[:: max(1, len(cases) // 200)]:
        parts = list_parts(layer, option)
        costs = sum(part.multiply_adds for part in parts), sum(part.params for part in parts)
        assert costs == count_built_block(layer, option), (layer, option)


@pytest.mark.parametrize(
    "space",
    [
        OFFICIAL_SPACE,
        replace(OFFICIAL_SPACE, linear_bias=True),
        replace(OFFICIAL_SPACE, head_linear=48, linear_bias=True, in_channels=1, image_size=33),
        replace(OFFICIAL_SPACE, head_linear=48, stem_stride=1, image_size=32, classes=7),
    ],
)
def test_stem_and_head_cost_what_pytorch_counts(space: SearchSpace) -> None:
    """A network is its blocks, and stem and head."""
    space = replace(space, stages=(Stage(1, 64), Stage(2, 160)))
    arch = space.options.architecture([1, 2, 3])
    parts = [*list_stem_parts(space, space.layers[0]), *list_head_parts(space, space.layers[-1])]
    for layer, option in zip(space.layers, arch.options, strict=True):
        parts += list_parts(layer, option)
    with torch.device("meta"):
        network = Network(space, arch).eval()
        images = torch.empty(1, space.in_channels, space.image_size, space.image_size)
        assert sum(part.multiply_adds for part in parts) == count_multiply_adds(network, images)
    assert sum(part.params for part in parts) == count_parameters(network)
