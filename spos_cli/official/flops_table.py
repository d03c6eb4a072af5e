"""The official FLOPs table, `op_flops_dict.pkl`: make it, read it, compare it.

It maps an op such as `shufflenet_3x3_stride_2` to its entries, and an entry's key `(in, out, hidden channels, height,
width, stride)` to multiply-adds. Height and width are those of the block's input, in pixels. `conv1` and
`rest_operation` (the last convolution and the classifier) have no hidden channels in their keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spos_cli.errors import CheckpointError, ConfigError
from spos_cli.files import pickles
from spos_cli.files.quoting import quote_value
from spos_cli.space.block_costs import list_stem_parts
from spos_cli.space.choices import OPS, SHUFFLE_OPS, Choice
from spos_cli.space.cost import CostTable
from spos_cli.space.search_space import SearchSpace

Table = dict[str, dict[tuple[int, ...], float]]

PICKLE_PROTOCOL = 2  # The newest protocol that Python 2 reads, which may run the official code.


def make_table(space: SearchSpace, flops: CostTable) -> Table:
    """Make the table of a space from its counted FLOPs.

    Raises:
        ConfigError: the space has an op or a dimension that the official code does not have.
    """
    if space.image_sizes:
        raise ConfigError("the official FLOPs table is for one image size, but this space has image_sizes")
    (stem,) = list_stem_parts(space, space.layers[0])
    conv1 = stem.multiply_adds
    size, last = space.image_size, space.layers[-1]
    table: Table = {
        "conv1": {(space.in_channels, space.stem_channels, size, size, space.stem_stride): conv1},
        "rest_operation": {(last.out_channels, space.classes, last.out_size, last.out_size, 1): flops.fixed - conv1},
    }
    for layer, options, row in zip(space.layers, space.options.by_layer, flops.rows, strict=True):
        for option, cost in zip(options, row, strict=True):
            choice, size = layer.choices[option.choice], layer.in_size
            hidden = layer.hidden_channels(choice, option.width)
            key = (layer.in_channels, layer.out_channels, hidden, size, size, layer.stride)
            table.setdefault(f"{_name_op(choice)}_stride_{layer.stride}", {})[key] = cost
    return table


def _name_op(choice: Choice) -> str:
    """Return the official name of an op.

    Raises:
        ConfigError: it has no official name.
    """
    if choice.op not in SHUFFLE_OPS or dict(choice.parameters).keys() & set(OPS[choice.op].optional):
        raise ConfigError(f"the official FLOPs table has no {choice.name}; its ops are {' and '.join(SHUFFLE_OPS)}")
    if choice.op == "shuffle_xception":
        return "xception_3x3"
    kernel = dict(choice.parameters)["kernel"]
    return f"shufflenet_{kernel}x{kernel}"


def read_table(path: Path) -> Table:
    """Read the table in a pickled file.

    Raises:
        CheckpointError: the file holds something other than a FLOPs table of plain values.
    """
    table = pickles.read(path)
    if not isinstance(table, dict) or not table or not all(isinstance(entries, dict) for entries in table.values()):
        raise CheckpointError(f"{path} is not a FLOPs table: expected ops with their entries, not {quote_value(table)}")
    for op, entries in table.items():
        for key, flops in entries.items():
            is_key = isinstance(key, tuple) and all(type(part) is int for part in key)
            is_cost = type(flops) in (int, float) and flops >= 0  # false for NaN
            if not isinstance(op, str) or not is_key or not is_cost:
                raise CheckpointError(
                    f"{path} is not a FLOPs table: {quote_value(op)} has {quote_value(key)}: {quote_value(flops)}"
                )
    return table


@dataclass(frozen=True)
class Comparison:
    """The differences of two tables, as plain values for files.

    Attributes:
        compared: number of entries in the measured table.
        differences: `op`, `key`, `theirs` (None where it is missing) and `measured`, of entries that are not equal.
        others: `op`, `key` and `flops` of entries that the space does not need: other widths or sizes.
    """

    compared: int
    differences: list[dict[str, Any]]
    others: list[dict[str, Any]]


def compare_tables(theirs: Table, measured: Table) -> Comparison:
    """Compare every entry of the measured table with theirs."""
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
