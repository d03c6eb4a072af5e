"""Where the channels go, so that the channel shuffle copies nothing.

ShuffleNetV2 shuffles the channels before each block of stride 1: the even ones pass by, the odd ones are worked on.
Which later layer works on a channel depends on the layers alone, not on their choices. So each block makes its
channels in the order of the layers that will work on them, which is a matter of the order of its weights. Its output
is then cut into contiguous pieces, and a layer joins the pieces that are meant for it. Weights keep the published
order; what is taken in another order is a copy of them, which is small beside the features.

In a space with other ops than ShuffleNetV2's, every layer is handed all channels in their published order.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spos_cli.space.search_space import SearchSpace

Pieces = dict[int, tuple[Tensor, ...]]  # features `(B, C, H, W)` on their way to a layer, by its index


class Order(NamedTuple):
    """Published places of channels, in the order in which a block finds and makes them; None is the published order.

    Attributes:
        inputs: `(in_channels,)` int64 of the block's input.
        outputs: the same for each tensor that it makes.
        middle: how many channels between its convolutions are used; None for all.
    """

    inputs: Tensor | None = None
    outputs: tuple[Tensor | None, ...] = (None, None)
    middle: int | None = None


@dataclass(frozen=True)
class Cut:
    """How an output is cut: `sizes` channels each for the layers `consumers`."""

    sizes: list[int]
    consumers: list[int]


@dataclass(frozen=True)
class Routing:
    """The ways of all channels of a space.

    Attributes:
        orders: by layer; that of the stem stands first and that of the head last.
        cuts: by layer, of each tensor that it makes; the stem's stand first.
    """

    orders: list[Order]
    cuts: list[list[Cut]]

    def give(self, pieces: Pieces, place: int, made: tuple[Tensor, ...]) -> Pieces:
        """The pieces that wait once the stem (place 0) or a layer (its index + 1) has made its outputs."""
        after = {consumer: waiting for consumer, waiting in pieces.items() if consumer >= place}
        for features, cut in zip(made, self.cuts[place], strict=True):
            for piece, consumer in zip(torch.split(features, cut.sizes, 1), cut.consumers, strict=True):
                after[consumer] = (*after.get(consumer, ()), piece)
        return after


def joined(pieces: tuple[Tensor, ...]) -> Tensor:
    """The input of a layer."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)


@functools.lru_cache(maxsize=32)
def routing(space: SearchSpace, device: torch.device) -> Routing:
    """Follows every channel from where it is made to where it is worked on."""
    made: list[list[range]] = [[range(space.stem_channels)]]  # numbers of the channels that each layer makes
    flowing = np.arange(space.stem_channels)  # in the published order
    worked_on: list[np.ndarray] = []
    total = space.stem_channels
    for layer in space.layers:
        passing, worked = (flowing[::2], flowing[1::2]) if layer.split and layer.stride == 1 else (flowing[:0], flowing)
        outputs = []
        for channels in layer.op_out_channels:
            outputs.append(range(total, total + channels))
            total += channels
        worked_on.append(worked)
        made.append(outputs)
        flowing = np.concatenate((passing, *outputs))
    worked_on.append(flowing)

    consumer = np.empty(total, np.int64)
    for index, worked in enumerate(worked_on):
        consumer[worked] = index

    def order(places: np.ndarray) -> Tensor | None:
        if np.array_equal(places, np.arange(len(places))):
            return None
        with torch.inference_mode(False):  # kept for trainings too
            return torch.tensor(places, device=device)

    def cut(channels: range) -> Cut:
        consumers, sizes = np.unique(consumer[channels], return_counts=True)
        return Cut(sizes.tolist(), consumers.tolist())

    # Pieces are joined as they come, so a layer finds its channels in the order of their numbers.
    found = [None, *(order(np.argsort(worked)) for worked in worked_on)]
    left = [
        tuple(order(np.argsort(consumer[channels], kind="stable")) for channels in outputs) for outputs in [*made, []]
    ]
    orders = [Order(inputs, outputs) for inputs, outputs in zip(found, left, strict=True)]
    return Routing(orders, [[cut(channels) for channels in outputs] for outputs in made])
