"""Candidates as a tree of blocks: what they have in common is computed once.

Two candidates with the same first k options have the same features after k layers. In calibration, each layer is
normalised by the statistics of its batch, which are the same for both. So both have the same folded weights in scoring.
Each batch runs once through each node of the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from spos_cli.models.blocks import ChoiceBlock
from spos_cli.models.folding import BlockStatistics, BranchStatistics, ExactBranchStatistics, Plan, make_plan
from spos_cli.models.layers import Branch, ChannelSelection
from spos_cli.models.routing import BlockChannels, Pieces, concatenate, make_routing, select_channels
from spos_cli.models.supernet import Supernet
from spos_cli.space.architecture import Architecture, Option


def keep_outputs(features: Tensor, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the outputs of the stem, of the head or of a whole block: nothing must be joined."""
    return tuple(outputs)


class Node:
    """The stem (depth 0), a block (its layer + 1) or the head, of the candidates that share it.

    Attributes:
        candidates: the indices of these candidates in their group.
        children: the next nodes, by option.
        calibrations: the BatchNorm statistics of each branch, or of the whole block.
        join: maps the input and the outputs of the branches to the outputs of the node, as `ChoiceBlock.join`.
        folded: the branches, or the whole block, for inference; after calibration.
    """

    def __init__(
        self,
        depth: int,
        calibrations: Sequence[BranchStatistics | BlockStatistics],
        join: Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, ...]] = keep_outputs,
    ) -> None:
        self.depth = depth
        self.candidates: set[int] = set()
        self.children: dict[Option, Node] = {}
        self.calibrations, self.join = calibrations, join
        self.folded: list[Callable[[Tensor], Tensor]] = []

    def calibrate(self, features: Tensor, momentum: float) -> tuple[Tensor, ...]:
        """Run a batch `(B, in, H, W)` as in training; its statistics enter with weight `momentum`."""
        return self.join(features, [calibration(features, momentum) for calibration in self.calibrations])

    def run(self, features: Tensor) -> tuple[Tensor, ...]:
        """Run a batch `(B, in, H, W)` through the folded node."""
        return self.join(features, [branch(features) for branch in self.folded])

    def fold(self) -> None:
        """End the calibration of this node and of all nodes below it."""
        self.folded = [calibration.fold() for calibration in self.calibrations]
        for child in self.children.values():
            child.fold()


RunNode = Callable[[Node, Tensor], tuple[Tensor, ...]]  # `(B, in, H, W)` to `(B, C, H', W')` for each output


class Tree:
    """The tree of a group of candidates.

    Args:
        supernet: on its device; its own BatchNorm statistics are neither used nor changed.
        candidates: architectures of its space.
        dtype: in which convolutions are computed.
    """

    def __init__(self, supernet: Supernet, candidates: Sequence[Architecture], dtype: torch.dtype) -> None:
        self.supernet, self.dtype = supernet, dtype
        self.routing = make_routing(supernet.space, supernet.classifier[0].weight.device)
        make_statistics = ExactBranchStatistics if supernet.space.bits else BranchStatistics
        plans: dict[tuple[int, int, BlockChannels], list[Plan]] = {}  # by depth, choice and channels

        def make_node(depth: int, choice: int, channels: BlockChannels) -> Node:
            block = self._select_block(depth, choice)
            if block is not None and (supernet.space.bits or not block.has_branches):
                return Node(depth, [BlockStatistics(block, channels, dtype)])
            key = depth, choice, channels
            if key not in plans:
                plans[key] = [
                    make_plan(branch, channels.inputs, outputs, channels.hidden, dtype)
                    for branch, outputs in self._list_branches(depth, block, channels)
                ]
            calibrations = [make_statistics(parts) for parts in plans[key]]
            return Node(depth, calibrations, keep_outputs if block is None else block.join)

        self.root = make_node(0, 0, self.routing.channels[0])
        for number, arch in enumerate(candidates):
            node = self.root
            node.candidates.add(number)
            # The head has no choices, but each candidate has its own statistics there.
            _, *path = select_channels(self.routing, supernet.space, arch)
            for depth, (option, channels) in enumerate(zip([*arch.options, Option(0)], path, strict=True), 1):
                if option not in node.children:
                    node.children[option] = make_node(depth, option.choice, channels)
                node = node.children[option]
                node.candidates.add(number)

    def _select_block(self, depth: int, choice: int) -> ChoiceBlock | None:
        """Return the block of a node; None for the stem and the head."""
        if not 0 < depth <= self.supernet.space.num_layers:
            return None
        block = self.supernet.features[depth - 1][choice]  # type: ignore[index]
        assert isinstance(block, ChoiceBlock)
        return block

    def _list_branches(
        self, depth: int, block: ChoiceBlock | None, channels: BlockChannels
    ) -> list[tuple[Branch, ChannelSelection]]:
        """List the branches of a node, each with its output channels."""
        if block is not None:
            return block.list_branches(channels)
        return [(self.supernet.first_conv, channels.outputs[0]) if depth == 0 else (self.supernet.conv_last, None)]

    def calibrate(self, images: Tensor, momentum: float) -> None:
        """Add a batch `(B, C, H, W)` float to the statistics of all candidates, with this weight."""
        for _ in self._run_all(images, lambda node, features: node.calibrate(features, momentum)):
            pass

    def fold(self) -> None:
        """End the calibration: fold the statistics into the weights."""
        self.root.fold()

    def logits(self, images: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the index of each candidate and its logits `(B, classes)` float32, for images `(B, C, H, W)` float."""
        for node, features in self._run_all(images, Node.run):
            (number,) = node.candidates
            yield number, self.supernet.classify(features.float())

    def drop(self, number: int) -> None:
        """Remove a candidate, so that it is no longer computed."""
        node = self.root
        while True:
            node.candidates.discard(number)
            next_nodes = [item for item in node.children.items() if number in item[1].candidates]
            if not next_nodes:
                return
            ((option, child),) = next_nodes
            if child.candidates == {number}:
                del node.children[option]
                return
            node = child

    def _run_all(self, images: Tensor, run_node: RunNode) -> Iterator[tuple[Node, Tensor]]:
        """Run a batch `(B, C, H, W)` through all nodes; yield each head with its features `(B, C, H, W)`."""
        if self.root.candidates:
            # The stem has depth 0, so its input, the images (B, C, H, W), waits at index -1.
            yield from self._run_below(self.root, {-1: (images.to(self.dtype),)}, run_node)

    def _run_below(self, node: Node, pieces: Pieces, run_node: RunNode) -> Iterator[tuple[Node, Tensor]]:
        """Run a batch through a node and all nodes below it, depth first; yield each head with its features.

        Only features that other nodes below this one still need are kept.
        """
        while True:
            # From (B, in, H, W) to (B, C, H', W') for each output.
            outputs = run_node(node, concatenate(pieces[node.depth - 1]))
            if not node.children:
                yield node, outputs[0]
                return
            pieces = self.routing.route(pieces, node.depth, outputs)
            del outputs
            *others, node = node.children.values()
            for child in others:
                yield from self._run_below(child, pieces, run_node)
