"""The published weights: their form in a file, and the architecture that their tensors tell.

The published code saves `{"state_dict": ...}` from a model in DataParallel, so names begin with `module.`; its
evaluation wants the bare mapping. All three forms are understood. Tensor names and shapes are ours already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from spos_cli.errors import CheckpointError
from spos_cli.models.blocks import build_block
from spos_cli.space.architecture import Architecture, Option
from spos_cli.space.choices import IDENTITY
from spos_cli.space.search_space import Layer, SearchSpace

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

PREFIX = "module."
STEM = "first_conv.0.weight"
STEM_SCALE = "first_conv.1.weight"  # there only where BatchNorm is affine
SUPERNET_TENSOR = re.compile(r"features\.\d+\.\d+\.")  # the second number is a choice; a network has none
LAYER_TENSOR = re.compile(r"features\.(\d{1,6})\.(.+)")


def state_of(content: Mapping[str, Any]) -> State | None:
    """The tensors in the content of a published checkpoint, named without `module.`; None if it is none."""
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        return None
    if all(isinstance(name, str) and name.startswith(PREFIX) for name in state):
        state = {name[len(PREFIX) :]: tensor for name, tensor in state.items()}
    if STEM not in state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        return None
    return dict(state)


def to_published(state: State) -> dict[str, Any]:
    """The content of a checkpoint that the published scripts load with `strict=True`."""
    return {"state_dict": {PREFIX + name: tensor.contiguous() for name, tensor in state.items()}}


def kind_of(state: State) -> Literal["supernet", "network"]:
    """Whether the tensors are those of a supernet, with several choices in each layer, or of one network."""
    return "supernet" if any(SUPERNET_TENSOR.match(name) for name in state) else "network"


def is_affine(state: State) -> bool:
    """Whether BatchNorm has a learned scale and shift."""
    return STEM_SCALE in state


def infer_architecture(space: SearchSpace, state: State) -> Architecture:
    """The architecture of a network, from the names and shapes of its tensors.

    Raises:
        CheckpointError: the network is none of the space.
    """
    layers: dict[int, Shapes] = {}
    for name, tensor in state.items():
        if match := LAYER_TENSOR.fullmatch(name):
            layers.setdefault(int(match[1]), {})[match[2]] = tuple(tensor.shape)
    may_be_empty = {layer.index for layer in space.layers if any(c.op == IDENTITY or c.is_own for c in layer.choices)}
    every = set(range(space.num_layers))
    if not every - may_be_empty <= layers.keys() <= every:
        raise CheckpointError(f"the network has {len(layers)} layers, the space {space.num_layers}")
    affine = is_affine(state)
    return Architecture.from_options(
        _option(layer, options, layers.get(layer.index, {}), affine)
        for layer, options in zip(space.layers, space.options.by_layer, strict=True)
    )


def _option(layer: Layer, options: Sequence[Option], found: Shapes, affine: bool) -> Option:
    """The choice of one layer that has these tensors, and its width."""
    alike = [option for option in options if _shapes(layer, option, affine) == found]
    if len(alike) == 1:
        return alike[0]
    if alike:
        same = ", ".join(f"{option} ({layer.choices[option.choice].name})" for option in alike)
        raise CheckpointError(
            f"layer {layer.index} of the network may be any of {same}, whose tensors are alike; a model.pt of spos says"
            " which"
        )
    names = ", ".join(choice.name for choice in layer.choices)
    depthwise = [shape for shape in found.values() if len(shape) == 4 and shape[1] == 1]
    raise CheckpointError(
        f"layer {layer.index} of the network is none of the space's choices ({names}) with"
        f" {_middles(layer, options)} middle channels; it has {len(found)} tensors, the depthwise ones"
        f" {', '.join('x'.join(map(str, shape)) for shape in depthwise[:4]) or 'missing'}"
    )


def _middles(layer: Layer, options: Sequence[Option]) -> str:
    """The numbers of middle channels that a layer may have."""
    every = {layer.hidden_channels(layer.choices[option.choice], option.width) for option in options}
    return ", ".join(map(str, sorted(every - {0})))


def _shapes(layer: Layer, option: Option, affine: bool) -> Shapes:
    """Names and shapes of an option's tensors."""
    with torch.device("meta"):
        block = build_block(layer.choices[option.choice], layer, affine, option.width)
    return {name: tuple(tensor.shape) for name, tensor in block.state_dict().items()}
