"""The official weights: the forms of their files, and their architecture.

The official training saves `{"state_dict": ...}` of a model in DataParallel, so that names begin with `module.`. Its
evaluation uses the bare mapping. Trainings with other tools save the same tensors under `model` or `state_dict_ema`, or
with the prefix of `torch.compile`. All forms are understood. Names and shapes of the tensors are the same as ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from spos_cli.errors import CheckpointError
from spos_cli.files.quoting import plural, quote_value
from spos_cli.models.blocks import build_option
from spos_cli.space.architecture import Architecture, Option
from spos_cli.space.choices import IDENTITY, SKIP
from spos_cli.space.layer import Layer
from spos_cli.space.options import Context
from spos_cli.space.search_space import SearchSpace

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

PREFIX = "module."
# Where a file may have its tensors, the most accurate ones first: a moving average, as spos reads that of a supernet.
STATE_PARTS = ("state_dict_ema", "model_ema", "state_dict", "model")
COMPILED = "_orig_mod."  # in the names of a compiled model, or of a compiled part of one
AVERAGE_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel, beside the model
BATCHNORM_MEAN, BATCHNORM_COUNTER = ".running_mean", ".num_batches_tracked"
STEM = "first_conv.0.weight"
STEM_SCALE = "first_conv.1.weight"  # exists only where BatchNorm is affine
MAX_NAMED = 4  # tensors in a message
SUPERNET_TENSOR = re.compile(r"features\.\d+\.\d+\.")  # layer and choice; a network's names have no choice
LAYER_TENSOR = re.compile(r"features\.(\d{1,6})\.(.+)")


def find_state(content: Mapping[str, Any]) -> State | None:
    """Return the tensors in an official checkpoint's content by their official names; None if it is not one.

    BatchNorm's counters of batches are filled in: files from before PyTorch 0.4.1 lack them, and other programs leave
    them out. Only a training whose statistics are plain averages reads them, and it begins with a count of its own.
    """
    state = _pick_state(content)
    if state is None or explain_names(state):
        return None
    counters = [name.removesuffix(BATCHNORM_MEAN) for name in state if name.endswith(BATCHNORM_MEAN)]
    for name in counters:
        state.setdefault(name + BATCHNORM_COUNTER, torch.tensor(0))
    return state


def _pick_state(content: Mapping[Any, Any]) -> State | None:
    """Return the mapping with the tensors, named without prefixes; None if not all names are texts."""
    state = next((content[part] for part in STATE_PARTS if isinstance(content.get(part), Mapping)), content)
    if not all(isinstance(name, str) for name in state):
        return None
    state = {name.replace(COMPILED, ""): tensor for name, tensor in state.items() if name != AVERAGE_COUNTER}
    prefix = next((name.removesuffix(STEM) for name in state if name.endswith(f".{STEM}")), "")
    if all(name.startswith(prefix) for name in state):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def explain_names(state: Mapping[str, Any]) -> str:
    """Return why a mapping does not have the tensors of an official model; `""` if it does."""
    if STEM not in state:
        names = ", ".join(map(quote_value, list(state)[:MAX_NAMED])) or "none"
        return f"it has no {STEM}; the names in it are {names}" + ", ..." * (len(state) > MAX_NAMED)
    odd = next((name for name, tensor in state.items() if not isinstance(tensor, Tensor)), None)
    return "" if odd is None else f"{quote_value(odd)} is not a tensor, but a {type(state[odd]).__name__}"


def explain_content(content: Mapping[Any, Any]) -> str:
    """Return why `find_state` does not find the tensors of an official model."""
    state = _pick_state(content)
    return "not all names in it are texts" if state is None else explain_names(state)


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
        CheckpointError: the network is not in the space, or several options of a layer fit its tensors.
    """
    if space.image_sizes:
        raise CheckpointError(
            "the tensors of a network do not tell its image size, which this space searches; use the model.pt of spos,"
            " which names the architecture"
        )
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
    affine, inferred, context = is_affine(state), list[Option](), Context()
    for layer, options in zip(space.layers, space.options.by_layer, strict=True):
        variants = [(space.layer_in(layer, context, option), option) for option in options]
        candidates = [Candidate(*variant, _list_shapes(*variant, affine)) for variant in variants]
        inferred.append(_infer_option(layer, candidates, layers.get(layer.index, {})))
        context = Context(output=inferred[-1].output or context.output)
    return Architecture.from_options(inferred)


class Candidate(NamedTuple):
    """What a layer of a network may be.

    Attributes:
        layer: with the channels that it has with the option, after the layers before it.
        option: of the layer.
        shapes: of the option's tensors.
    """

    layer: Layer
    option: Option
    shapes: Shapes


def _infer_option(layer: Layer, candidates: Sequence[Candidate], shapes: Shapes) -> Option:
    """Return the one option of a layer whose tensors have these names and shapes."""
    matches = [candidate.option for candidate in candidates if candidate.shapes == shapes]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(f"{option} ({layer.choices[option.choice].name})" for option in matches)
        raise CheckpointError(
            f"layer {layer.index} of the network may be any of {names}, whose tensors have the same names and shapes;"
            " use the model.pt of spos, which names the architecture"
        )
    names = ", ".join(choice.name for choice in layer.choices)
    if problems := _compare_with_closest(layer, candidates, shapes):
        raise CheckpointError(
            f"layer {layer.index} of the network is none of the space's choices ({names}); it is closest to {problems}"
        )
    depthwise = [shape for shape in shapes.values() if len(shape) == 4 and shape[1] == 1]
    raise CheckpointError(
        f"layer {layer.index} of the network is none of the space's choices ({names}) with"
        f" {_list_hidden_channels(candidates)} hidden channels; it has {len(shapes)} tensors, the depthwise ones"
        f" {', '.join('x'.join(map(str, shape)) for shape in depthwise[:4]) or 'missing'}"
    )


def _compare_with_closest(layer: Layer, candidates: Sequence[Candidate], shapes: Shapes) -> str:
    """Return the choice that most of a layer's tensors fit, and what does not; `""` if it is only another kernel."""
    _, closest, expected = min(candidates, key=lambda candidate: len(candidate.shapes.items() ^ shapes.items()))
    problems = [f"{name} is missing" for name in expected if name not in shapes]
    problems += [f"{name} is not in it" for name in shapes if name not in expected]
    other = [name for name, shape in expected.items() if shapes.get(name, shape) != shape]
    if not problems and all(expected[name][:2] == shapes[name][:2] for name in other):
        return ""
    problems += [f"{name} is {_describe(shapes[name])}, not {_describe(expected[name])}" for name in other]
    if len(problems) > len(shapes) // 2:
        return ""
    more = f"; and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
    return f"{layer.choices[closest.choice].name}, but {'; '.join(problems[:MAX_NAMED])}{more}"


def _describe(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def _list_hidden_channels(candidates: Sequence[Candidate]) -> str:
    """List the numbers of hidden channels that a layer may have."""
    numbers = {layer.hidden_channels(layer.choices[option.choice], option.width) for layer, option, _ in candidates}
    return ", ".join(map(str, sorted(numbers - {0})))


def _list_shapes(layer: Layer, option: Option, affine: bool) -> Shapes:
    """Return the names and shapes of an option's tensors."""
    with torch.device("meta"):
        block = build_option(layer, option, affine)
    return {name: tuple(tensor.shape) for name, tensor in block.state_dict().items()}
