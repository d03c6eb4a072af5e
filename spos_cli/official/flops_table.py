"""The published table of FLOPs, `op_flops_dict.pkl`: in, out, and compared.

It maps `conv1`, `rest_operation` (the last convolution and the classifier) and ops such as
`shufflenet_3x3_stride_2` to entries: `(in, out, middle channels, height, width, stride)`, of a block's input, to
multiply-adds. `conv1` and `rest_operation` have no middle channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spos_cli.errors import CheckpointError, ConfigError
from spos_cli.files import pickles
from spos_cli.files.quoting import quote_value
from spos_cli.models.counting import multiply_adds
from spos_cli.models.network import Network
from spos_cli.space.choices import SHUFFLE_OPS, Choice
from spos_cli.space.cost import CostTable
from spos_cli.space.search_space import SearchSpace

Table = dict[str, dict[tuple[int, ...], float]]

PICKLE_PROTOCOL = 2  # the newest that Python 2 reads, as the published code may


def of(space: SearchSpace, flops: CostTable) -> Table:
    """The table of a space, from its measured FLOPs.

    Raises:
        ConfigError: the space has ops that the published code does not have.
    """
    with torch.device("meta"):
        stem = Network(space, space.options.architecture([0] * space.num_layers)).first_conv.eval()
        conv1 = multiply_adds(stem, torch.empty(1, 3, space.image_size, space.image_size))
    size, last = space.image_size, space.layers[-1]
    table: Table = {
        "conv1": {(3, space.stem_channels, size, size, space.stem_stride): conv1},
        "rest_operation": {(last.out_channels, space.classes, last.out_size, last.out_size, 1): flops.fixed - conv1},
    }
    for layer, options, row in zip(space.layers, space.options.by_layer, flops.rows, strict=True):
        for option, cost in zip(options, row, strict=True):
            choice, size = layer.choices[option.choice], layer.in_size
            middle = layer.hidden_channels(choice, option.width)
            key = (layer.in_channels, layer.out_channels, middle, size, size, layer.stride)
            table.setdefault(f"{_name(choice)}_stride_{layer.stride}", {})[key] = cost
    return table


def _name(choice: Choice) -> str:
    """The published name of an op.

    Raises:
        ConfigError: it has none.
    """
    if choice.op not in SHUFFLE_OPS:
        raise ConfigError(f"the published table of FLOPs has no {choice.name}; its ops are {' and '.join(SHUFFLE_OPS)}")
    if choice.op == "shuffle_xception":
        return "xception_3x3"
    kernel = dict(choice.parameters)["kernel"]
    return f"shufflenet_{kernel}x{kernel}"


def read(path: Path) -> Table:
    """The table in a pickled file.

    Raises:
        CheckpointError: it is no table of FLOPs, or holds more than plain values.
    """
    table = pickles.read(path)
    if not isinstance(table, dict) or not table or not all(isinstance(entries, dict) for entries in table.values()):
        raise CheckpointError(
            f"{path} holds no table of FLOPs: expected ops with their entries, not {quote_value(table)}"
        )
    for op, entries in table.items():
        for key, flops in entries.items():
            numbers = isinstance(key, tuple) and all(type(part) is int for part in key)
            if not isinstance(op, str) or not numbers or type(flops) not in (int, float) or not flops >= 0:
                raise CheckpointError(
                    f"{path} holds no table of FLOPs: {quote_value(op)} has {quote_value(key)}: {quote_value(flops)}"
                )
    return table


@dataclass(frozen=True)
class Comparison:
    """Two tables beside each other, as plain values for files.

    Attributes:
        compared: entries of the measured table.
        differences: `op`, `key`, `theirs` (None where it is missing) and `measured` of those that are not equal.
        others: `op`, `key` and `flops` of entries that the space does not need: other widths or sizes.
    """

    compared: int
    differences: list[dict[str, Any]]
    others: list[dict[str, Any]]


def compare(theirs: Table, measured: Table) -> Comparison:
    """Compares every entry of the measured table with theirs."""
    ours = [(op, key, flops) for op, entries in measured.items() for key, flops in entries.items()]
    differences = [
        {"op": op, "key": list(key), "theirs": theirs.get(op, {}).get(key), "measured": flops}
        for op, key, flops in ours
        if theirs.get(op, {}).get(key) != flops
    ]
    others = [
        {"op": op, "key": list(key), "flops": flops}
        for op, entries in theirs.items()
        for key, flops in entries.items()
        if key not in measured.get(op, {})
    ]
    return Comparison(len(ours), differences, others)
