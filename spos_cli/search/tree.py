"""Candidates as a tree: what they have in common is computed once.

Two candidates with the same first k choices have the same features up to there, in calibration (each layer is
normalised by its batch's own statistics) and in scoring (the statistics up to there are the same then). So a
group of candidates is a tree of blocks, and each batch runs through each of its nodes once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from spos_cli.models.blocks import Branch, ChoiceBlock, TwoBranchBlock
from spos_cli.models.folding import Calibration, Plan, WholeCalibration, plan
from spos_cli.models.routing import Order, Pieces, joined, routing
from spos_cli.models.supernet import Supernet
from spos_cli.space.architecture import Architecture, Option


class Node:
    """The stem (place 0), a block (its layer + 1) or the head of the candidates that share it.

    Attributes:
        candidates: their numbers.
        children: what follows for them, by choice and width.
        branches: with statistics of its own, and folded after calibration.
    """

    def __init__(self, place: int, calibrations: Sequence[Calibration | WholeCalibration]) -> None:
        self.place = place
        self.candidates: set[int] = set()
        self.children: dict[Option, Node] = {}
        self.calibrations = calibrations
        self.folded: list[Callable[[Tensor], Tensor]] = []

    def fold(self) -> None:
        """Takes the statistics for final, here and below."""
        self.folded = [calibration.folded() for calibration in self.calibrations]
        for child in self.children.values():
            child.fold()


Run = Callable[[Node, Tensor], tuple[Tensor, ...]]


class Tree:
    """A group of candidates.

    Args:
        supernet: on its device; its own statistics are neither used nor changed.
        candidates: architectures of its space.
        dtype: that convolutions are computed in.
    """

    def __init__(self, supernet: Supernet, candidates: Sequence[Architecture], dtype: torch.dtype) -> None:
        self.supernet, self.dtype = supernet, dtype
        self.ways = routing(supernet.space, supernet.classifier[0].weight.device)
        plans: dict[tuple[int, Option], list[Plan]] = {}

        def node(place: int, option: Option, middle: int | None = None) -> Node:
            branches = self._branches(place, option.choice)
            if isinstance(branches, ChoiceBlock):
                return Node(place, [WholeCalibration(branches, Order(middle=middle), dtype)])
            if (place, option) not in plans:
                inputs = self.ways.orders[place].inputs
                plans[place, option] = [plan(branch, inputs, outputs, middle, dtype) for branch, outputs in branches]
            return Node(place, [Calibration(parts) for parts in plans[place, option]])

        self.root = node(0, Option(0))
        for number, arch in enumerate(candidates):
            at = self.root
            at.candidates.add(number)
            # The head has no choices, but statistics of its own for each candidate.
            path = zip([*arch.options, Option(0)], [*supernet.space.hidden_channels(arch), None], strict=True)
            for place, (option, middle) in enumerate(path, 1):
                if option not in at.children:
                    at.children[option] = node(place, option, middle)
                at = at.children[option]
                at.candidates.add(number)

    def _branches(self, place: int, choice: int) -> list[tuple[Branch, Tensor | None]] | ChoiceBlock:
        """What a node runs, and the order in which each branch makes its channels; or a block that has no branches."""
        order, layers = self.ways.orders[place], self.supernet.space.num_layers
        if place == 0:
            return [(self.supernet.first_conv, order.outputs[0])]
        if place > layers:
            return [(self.supernet.conv_last, None)]
        block = self.supernet.features[place - 1][choice]  # type: ignore[index]
        assert isinstance(block, ChoiceBlock)
        return block.branches(order) if isinstance(block, TwoBranchBlock) and block.split else block

    def calibrate(self, images: Tensor, momentum: float) -> None:
        """Counts a batch `(B, 3, H, W)` float in the statistics of all candidates, with this weight."""
        for _ in self._through(images, lambda node, features: tuple(c(features, momentum) for c in node.calibrations)):
            pass

    def fold(self) -> None:
        """Ends the calibration."""
        self.root.fold()

    def logits(self, images: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Number and logits `(B, classes)` float32 of each candidate in turn, of images `(B, 3, H, W)` float."""
        for node, features in self._through(images, lambda node, features: tuple(f(features) for f in node.folded)):
            (number,) = node.candidates
            yield number, self.supernet.classify(features.float())

    def drop(self, number: int) -> None:
        """Leaves a candidate out from now on."""
        at = self.root
        while True:
            at.candidates.discard(number)
            below = next(((option, child) for option, child in at.children.items() if number in child.candidates), None)
            if below is None:
                return
            option, child = below
            if child.candidates == {number}:
                del at.children[option]
                return
            at = child

    def _through(self, images: Tensor, run: Run) -> Iterator[tuple[Node, Tensor]]:
        if self.root.candidates:
            yield from self._below(self.root, {-1: (images.to(self.dtype),)}, run)

    def _below(self, node: Node, pieces: Pieces, run: Run) -> Iterator[tuple[Node, Tensor]]:
        """Runs a batch through a node and all below it, depth first; yields the heads with their features.

        No more is kept than what other nodes below this one still need.
        """
        while True:
            made = run(node, joined(pieces[node.place - 1]))
            if not node.children:
                yield node, made[0]
                return
            pieces = self.ways.give(pieces, node.place, made)
            del made
            *others, node = node.children.values()
            for child in others:
                yield from self._below(child, pieces, run)
