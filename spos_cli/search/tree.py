"""Candidates as a tree of blocks: what they have in common is computed once.

Two candidates with the same first k options have the same features after k layers. In calibration, each layer is
normalised by the statistics of its batch, which are the same for both. So both have the same folded weights in scoring.
Each batch runs once through each node of the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from spos_cli.models.blocks import ChoiceBlock, TwoBranchBlock
from spos_cli.models.folding import BlockStatistics, BranchStatistics, ExactBranchStatistics, Plan, make_plan
from spos_cli.models.layers import Branch, ChannelSelection
from spos_cli.models.routing import BlockChannels, Pieces, concatenate, make_routing, select_channels
from spos_cli.models.supernet import Supernet
from spos_cli.space.architecture import Architecture, Option


class Node:
    """The stem (depth 0), a block (its layer + 1) or the head, of the candidates that share it.

    Attributes:
        candidates: the indices of these candidates in their group.
        children: the next nodes, by option.
        calibrations: the BatchNorm statistics of each branch.
        folded: the branches with these statistics folded into the weights, after calibration.
    """

    def __init__(self, depth: int, calibrations: Sequence[BranchStatistics | BlockStatistics]) -> None:
        self.depth = depth
        self.candidates: set[int] = set()
        self.children: dict[Option, Node] = {}
        self.calibrations = calibrations
        self.folded: list[Callable[[Tensor], Tensor]] = []

    def fold(self) -> None:
        """End the calibration of this node and of all nodes below it."""
        self.folded = [calibration.fold() for calibration in self.calibrations]
        for child in self.children.values():
            child.fold()


RunNode = Callable[[Node, Tensor], tuple[Tensor, ...]]  # `(B, in, H, W)` to `(B, C, H', W')` for each branch


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
            branches = self._branches(depth, choice, channels)
            if isinstance(branches, ChoiceBlock):
                return Node(depth, [BlockStatistics(branches, channels, dtype)])
            key = depth, choice, channels
            if key not in plans:
                plans[key] = [
                    make_plan(branch, channels.inputs, outputs, channels.hidden, dtype) for branch, outputs in branches
                ]
            return Node(depth, [make_statistics(parts) for parts in plans[key]])

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

    def _branches(
        self, depth: int, choice: int, channels: BlockChannels
    ) -> list[tuple[Branch, ChannelSelection]] | ChoiceBlock:
        """Return the branches of a node, each with its output channels; or a block without branches."""
        layers = self.supernet.space.num_layers
        if depth == 0:
            return [(self.supernet.first_conv, channels.outputs[0])]
        if depth > layers:
            return [(self.supernet.conv_last, None)]
        block = self.supernet.features[depth - 1][choice]  # type: ignore[index]
        assert isinstance(block, ChoiceBlock)
        return block.list_branches(channels) if isinstance(block, TwoBranchBlock) and block.split else block

    def calibrate(self, images: Tensor, momentum: float) -> None:
        """Add a batch `(B, C, H, W)` float to the statistics of all candidates, with this weight."""
        for _ in self._run_all(images, lambda node, features: tuple(c(features, momentum) for c in node.calibrations)):
            pass

    def fold(self) -> None:
        """End the calibration: fold the statistics into the weights."""
        self.root.fold()

    def logits(self, images: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the index of each candidate and its logits `(B, classes)` float32, for images `(B, C, H, W)` float."""
        for node, features in self._run_all(images, lambda node, features: tuple(f(features) for f in node.folded)):
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
            # From (B, in, H, W) to (B, C, H', W') for each branch.
            outputs = run_node(node, concatenate(pieces[node.depth - 1]))
            if not node.children:
                yield node, outputs[0]
                return
            pieces = self.routing.route(pieces, node.depth, outputs)
            del outputs
            *others, node = node.children.values()
            for child in others:
                yield from self._run_below(child, pieces, run_node)
