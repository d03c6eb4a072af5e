"""The official weights: the forms of their files, and their architecture.

The official training saves `{"state_dict": ...}` of a model in DataParallel, so that names begin with `module.`. Its
evaluation uses the bare mapping. All forms are understood. Names and shapes of the tensors are the same as ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from spos_cli.errors import CheckpointError
from spos_cli.files.quoting import plural
from spos_cli.models.blocks import build_block
from spos_cli.space.architecture import Architecture, Option
from spos_cli.space.choices import IDENTITY, SKIP
from spos_cli.space.search_space import Layer, SearchSpace

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

PREFIX = "module."
STEM = "first_conv.0.weight"
STEM_SCALE = "first_conv.1.weight"  # exists only where BatchNorm is affine
SUPERNET_TENSOR = re.compile(r"features\.\d+\.\d+\.")  # layer and choice; a network's names have no choice
LAYER_TENSOR = re.compile(r"features\.(\d{1,6})\.(.+)")


def find_state(content: Mapping[str, Any]) -> State | None:
    """Return the tensors in an official checkpoint's content, named without `module.`; None if it is not one."""
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        return None
    if all(isinstance(name, str) and name.startswith(PREFIX) for name in state):
        state = {name[len(PREFIX) :]: tensor for name, tensor in state.items()}
    if STEM not in state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        return None
    return dict(state)


def to_official(state: State) -> dict[str, Any]:
    """Return the content of a checkpoint that the official scripts load with `strict=True`."""
    return {"state_dict": {PREFIX + name: tensor.contiguous() for name, tensor in state.items()}}


def detect_kind(state: State) -> Literal["supernet", "network"]:
    """Return whether the tensors belong to a supernet, with several choices in each layer, or to one network."""
    return "supernet" if any(SUPERNET_TENSOR.match(name) for name in state) else "network"


def is_affine(state: State) -> bool:
    """Return whether BatchNorm has a learned scale and shift."""
    return STEM_SCALE in state


def infer_architecture(space: SearchSpace, state: State) -> Architecture:
    """Infer the architecture of a network from the names and shapes of its tensors.

    Raises:
        CheckpointError: the network is not in the space, or several choices of a layer fit its tensors.
    """
    layers: dict[int, Shapes] = {}
    for name, tensor in state.items():
        if match := LAYER_TENSOR.fullmatch(name):
            layers.setdefault(int(match[1]), {})[match[2]] = tuple(tensor.shape)
    may_be_empty = {
        layer.index for layer in space.layers if any(c.op in (IDENTITY, SKIP) or c.is_own for c in layer.choices)
    }
    indices = set(range(space.num_layers))
    if not indices - may_be_empty <= layers.keys() <= indices:
        raise CheckpointError(f"the network has {plural(len(layers), 'layer')}, the space {space.num_layers}")
    affine = is_affine(state)
    return Architecture.from_options(
        _infer_option(layer, options, layers.get(layer.index, {}), affine)
        for layer, options in zip(space.layers, space.options.by_layer, strict=True)
    )


def _infer_option(layer: Layer, options: Sequence[Option], shapes: Shapes, affine: bool) -> Option:
    """Return the one option of a layer whose tensors have these names and shapes."""
    matches = [option for option in options if _list_shapes(layer, option, affine) == shapes]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(f"{option} ({layer.choices[option.choice].name})" for option in matches)
        raise CheckpointError(
            f"layer {layer.index} of the network may be any of {names}, whose tensors have the same names and shapes;"
            " use the model.pt of spos, which names the architecture"
        )
    names = ", ".join(choice.name for choice in layer.choices)
    depthwise = [shape for shape in shapes.values() if len(shape) == 4 and shape[1] == 1]
    raise CheckpointError(
        f"layer {layer.index} of the network is none of the space's choices ({names}) with"
        f" {_list_hidden_channels(layer, options)} hidden channels; it has {len(shapes)} tensors, the depthwise ones"
        f" {', '.join('x'.join(map(str, shape)) for shape in depthwise[:4]) or 'missing'}"
    )


def _list_hidden_channels(layer: Layer, options: Sequence[Option]) -> str:
    """List the numbers of hidden channels that a layer may have."""
    numbers = {layer.hidden_channels(layer.choices[option.choice], option.width) for option in options}
    return ", ".join(map(str, sorted(numbers - {0})))


def _list_shapes(layer: Layer, option: Option, affine: bool) -> Shapes:
    """Return the names and shapes of an option's tensors."""
    with torch.device("meta"):
        block = build_block(layer.choices[option.choice], layer, affine, option.width)
    return {name: tuple(tensor.shape) for name, tensor in block.state_dict().items()}
