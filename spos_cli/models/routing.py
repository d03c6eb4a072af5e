"""Bring each channel to the layer that works on it, without a shuffling copy.

ShuffleNetV2 shuffles the channels before each block of stride 1: it works on the odd channels, the even ones pass by.
Which later layer works on a channel depends on the layers alone, not on their choices. So each block computes its
output channels in the order of the layers that will work on them, by reordering its weights. Its output is then split
into contiguous pieces, and a layer concatenates the pieces that are meant for it. The stored weights keep the official
order; a reordered copy of them is small beside the features.

In a space with other ops than ShuffleNetV2's, every layer gets all channels in the official order.

A position counts the parts of a network: the stem is 0, layer i is i + 1, and the head comes last.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spos_cli.models.layers import ChannelSelection
from spos_cli.space.architecture import Architecture
from spos_cli.space.search_space import SearchSpace

# For each layer (by index) that waits for input: the pieces `(B, C, H, W)` that earlier positions have made for it.
Pieces = dict[int, tuple[Tensor, ...]]


class BlockChannels(NamedTuple):
    """The channels that a block reads, writes and uses inside.

    Attributes:
        inputs: original index of each input channel, `(in_channels,)` int64; the first n; or None for all in the
            official order.
        outputs: the same for each output tensor of the block.
        hidden: how many hidden channels to use, the first ones; None for all.
        bits: of the path, as in `space.bits`; 0 for a block with one pair of bits, or of full precision.
    """

    inputs: ChannelSelection = None
    outputs: tuple[ChannelSelection, ...] = (None, None)
    hidden: int | None = None
    bits: int = 0


@dataclass(frozen=True)
class Split:
    """How to split an output `(B, C, H, W)` along C: `sizes` channels each for the layers `consumers`."""

    sizes: list[int]
    consumers: list[int]


@dataclass(frozen=True)
class Routing:
    """The way of every channel through the layers of a space.

    Attributes:
        channels: by position, the channels of each block.
        splits: by position, except for the head: how to split each output tensor.
    """

    channels: list[BlockChannels]
    splits: list[list[Split]]

    def route(self, pieces: Pieces, position: int, outputs: tuple[Tensor, ...]) -> Pieces:
        """Return the pieces that wait after a position has computed its outputs.

        Args:
            pieces: those that waited before. The pieces of layers that have already run are dropped.
            position: of the block that made `outputs`.
            outputs: `(B, C, H, W)` each, with the channels in the order of `channels[position].outputs`.
        """
        waiting = {consumer: parts for consumer, parts in pieces.items() if consumer >= position}
        for output, split in zip(outputs, self.splits[position], strict=True):
            # (B, size, H, W) each. A single consumer gets all channels, however many the path has.
            parts = (output,) if len(split.consumers) == 1 else torch.split(output, split.sizes, 1)
            for piece, consumer in zip(parts, split.consumers, strict=True):
                waiting[consumer] = (*waiting.get(consumer, ()), piece)
        return waiting


def select_channels(routing: Routing, space: SearchSpace, arch: Architecture) -> list[BlockChannels]:
    """Return, by position, the channels that a path of a supernet uses, and its bits.

    A supernet's blocks are allocated at the largest widths, and a path uses the first of their channels (paper, section
    3.3).

    Args:
        routing: of the space.
        arch: the path.
    """
    if not (arch.widths or arch.bits or arch.outputs):
        return routing.channels
    stem, *blocks, head = routing.channels
    layers = space.layers_of(arch)
    selected = []
    for channels, layer, option in zip(blocks, layers, arch.options, strict=True):
        # With output widths, hidden channels follow the channels of the block, also at the width that it has by itself.
        has_first = arch.outputs or option.width
        hidden = layer.hidden_channels(layer.choices[option.choice], option.width) if has_first else 0
        channels = channels._replace(hidden=hidden or None, bits=option.bits)
        if arch.outputs:
            channels = channels._replace(inputs=layer.in_channels, outputs=(layer.out_channels,))
        selected.append(channels)
    if arch.outputs:
        head = head._replace(inputs=layers[-1].out_channels)
    return [stem, *selected, head]


def concatenate(pieces: tuple[Tensor, ...]) -> Tensor:
    """Concatenate the pieces `(B, C_i, H, W)` of a layer's input to `(B, sum of C_i, H, W)`."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)


@functools.lru_cache(maxsize=32)
def make_routing(space: SearchSpace, device: torch.device) -> Routing:
    """Follow every channel from the block that makes it to the layer that works on it.

    Channels are numbered through all outputs of all positions, in the order in which they are made.
    """
    # By position and output tensor: the numbers of its channels.
    outputs_by_position: list[list[range]] = [[range(space.stem_channels)]]
    # (C,): the numbers of the channels between two layers, in the official order.
    numbers = np.arange(space.stem_channels)
    # By layer, then the head, (op_in_channels,) each: the numbers of the channels that it works on.
    numbers_by_layer: list[NDArray[np.int64]] = []
    total = space.stem_channels
    for layer in space.layers:
        # (C / 2,) each where half of the channels pass by, else (0,) and (C,).
        halves = layer.split and layer.stride == 1
        bypass, op_inputs = (numbers[::2], numbers[1::2]) if halves else (numbers[:0], numbers)
        outputs = []
        for count in layer.op_out_channels:
            outputs.append(range(total, total + count))
            total += count
        numbers_by_layer.append(op_inputs)
        outputs_by_position.append(outputs)
        numbers = np.concatenate((bypass, *outputs))  # (out_channels,)
    numbers_by_layer.append(numbers)

    consumer = np.empty(total, np.int64)  # (total,): the layer that works on each channel
    for index, op_inputs in enumerate(numbers_by_layer):
        consumer[op_inputs] = index

    def to_indices(order: NDArray[np.int64]) -> Tensor | None:
        """Return an order `(C,)` as a tensor on the device, or None for the official order."""
        if np.array_equal(order, np.arange(len(order))):
            return None
        with torch.inference_mode(False):  # The result is cached, and trainings use it too.
            return torch.tensor(order, device=device)

    def make_split(channels: range) -> Split:
        """Return how to split the output tensor whose channels have these numbers."""
        consumers, sizes = np.unique(consumer[channels], return_counts=True)
        return Split(sizes.tolist(), consumers.tolist())

    # Pieces are concatenated in the order in which they were made, so a layer finds its channels sorted by number.
    inputs = [None, *(to_indices(np.argsort(op_inputs)) for op_inputs in numbers_by_layer)]
    output_orders = [
        tuple(to_indices(np.argsort(consumer[channels], kind="stable")) for channels in outputs)
        for outputs in [*outputs_by_position, []]  # the head has no output to route
    ]
    channels = [BlockChannels(*pair) for pair in zip(inputs, output_orders, strict=True)]
    return Routing(channels, [[make_split(channels) for channels in outputs] for outputs in outputs_by_position])
