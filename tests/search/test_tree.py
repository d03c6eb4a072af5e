"""What a tree of candidates computes once, and what it folds into weights."""

from __future__ import annotations

import itertools

import pytest
import torch

from spos_cli.models.folding import BlockStatistics
from spos_cli.models.supernet import Supernet
from spos_cli.search.tree import Node, Tree
from spos_cli.space.architecture import Architecture
from spos_cli.space.search_space import SearchSpace
from tests.models.test_blocks import SPACES
from tests.models.test_widths import SPACES as SPACES_WITH_OPTIONS


def make_tree(space: SearchSpace) -> Tree:
    """Make the tree of all architectures without widths and bits, calibrated on one batch."""
    counts = [len(layer.choices) for layer in space.layers]
    archs = [Architecture(path) for path in itertools.product(*map(range, counts))]
    tree = Tree(Supernet(space, dropout=0.0).eval(), archs, torch.float32)
    with torch.inference_mode():
        tree.calibrate(torch.randn(8, 3, 8, 8), 1.0)
        tree.fold()
    return tree


def list_nodes(node: Node) -> list[Node]:
    """List a node and all nodes below it."""
    return [node, *(below for child in node.children.values() for below in list_nodes(child))]


@pytest.mark.parametrize("name", ["inverted", "macro", "shuffles with gates", "groups", "ResNet"])
def test_scoring_normalises_no_features_where_blocks_have_branches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """BatchNorm is part of the convolutions, also beside a shortcut; the results are tested with the blocks."""
    tree = make_tree(SPACES[name])

    def refuse(*args: object) -> None:
        raise AssertionError("BatchNorm was called")

    monkeypatch.setattr(torch.nn.functional, "batch_norm", refuse)
    with torch.inference_mode():
        assert len(list(tree.logits(torch.randn(2, 3, 8, 8)))) == SPACES[name].size
        with pytest.raises(AssertionError, match="BatchNorm was called"):
            tree.calibrate(torch.randn(2, 3, 8, 8), 0.5)


def test_blocks_without_branches_and_quantized_ones_are_run_as_a_whole() -> None:
    """Beside another op, ShuffleNetV2's blocks split their input themselves."""
    space = SPACES["mixed"]
    whole = {
        (node.depth, option.choice)
        for parent in list_nodes(make_tree(space).root)
        for option, node in parent.children.items()
        if any(isinstance(part, BlockStatistics) for part in node.calibrations)
    }
    ops = {(i, j): choice.op for i, layer in enumerate(space.layers, 1) for j, choice in enumerate(layer.choices)}
    assert whole == {key for key, op in ops.items() if op.startswith("shuffle")}
    space = SPACES_WITH_OPTIONS["ResNet with bits"]
    archs = [space.options.architecture([index] * space.num_layers) for index in (0, 1)]
    nodes = list_nodes(Tree(Supernet(space), archs, torch.float32).root)
    whole_nodes = [node for node in nodes if any(isinstance(part, BlockStatistics) for part in node.calibrations)]
    assert len(whole_nodes) == 2 * space.num_layers
