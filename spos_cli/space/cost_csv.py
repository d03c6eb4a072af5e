"""Costs known from elsewhere, as CSV: a template to fill in, and its reader.

A row has the cost of one option of one layer, such as its latency, and the row `fixed` has that of what every network
has: stem, head and the overhead of a call. The other columns describe the op, so that it can be built and measured on
any device.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from spos_cli.errors import ConfigError, RunError
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.quoting import quote_value
from spos_cli.space.architecture import WIDTH_UNIT, Option, format_width
from spos_cli.space.bits import format_bits
from spos_cli.space.cost import CostTable, choose_latency_step
from spos_cli.space.cost_kinds import LATENCY, MAX_DURATION, MAX_OWN_COST, NUMBER, CostKind
from spos_cli.space.layer import Layer
from spos_cli.space.search_space import SearchSpace

KEY_COLUMNS = ("layer", "choice", "width", "bits")
OPTIONAL_COLUMNS = ("width", "bits")  # Only spaces with widths, and those with bits, need them.
OP_COLUMNS = ("op", "in_channels", "out_channels", "hidden_channels", "size", "stride")
FIXED = ("fixed", "", "", "")  # The key of the row for what every network has.
DEVICE = re.compile(r"#\s*device\s*:(.*)", re.IGNORECASE)
WIDTH = re.compile(r"\d{1,6}(\.\d{0,6})?", re.ASCII)
WHOLE = re.compile(r"(\d{1,9})(\.0*)?", re.ASCII)  # Spreadsheets and scripts may write 2 as 2.0.
MIN_OWN_COST = 1000  # of the most expensive architecture, in steps: with fewer, rounding would change the costs
MAX_BYTES = 64 * 2**20
MAX_DEVICE_LETTERS = 80
LATENCY_COMMENTS = """\
# device:
# Write the milliseconds of one call of each op, 0 for an op that does nothing. The row "fixed" is for what every
# network has: stem, head and the overhead of a call. The channels and the size are those of the op's input and output.
"""
COMMENTS = """\
# Write the {} of each op, 0 for an op that costs nothing. The row "fixed" is for what every network has, such as stem
# and head. The channels and the size are those of the op's input and output.
"""

Key = tuple[str, str, str, str]  # The cells of `KEY_COLUMNS`, as the template writes them.


class ImportedCosts(NamedTuple):
    """A table of costs, and the name of the device where they were measured, which may be empty."""

    table: CostTable
    device: str


class _Row(NamedTuple):
    """A row of the file: where it is, for messages, and its cells by column."""

    where: str
    cells: Mapping[str, str]


def name_cost_column(kind: CostKind) -> str:
    """Return the name of the column that has the costs."""
    return "milliseconds" if kind is LATENCY else "cost"


def make_template(space: SearchSpace, kind: CostKind) -> str:
    """Return a CSV file with a row for each option of each layer, without costs.

    Raises:
        ConfigError: the cost of an option depends on the layers before it.
    """
    text = io.StringIO()
    text.write(LATENCY_COMMENTS if kind is LATENCY else COMMENTS.format(kind.title))
    writer = csv.writer(text, lineterminator="\n")
    keys = KEY_COLUMNS if space.bits else KEY_COLUMNS[:-1]
    writer.writerow([*keys, *OP_COLUMNS, name_cost_column(kind)])
    for key, op in _describe_rows(space).items():
        writer.writerow([*key[: len(keys)], *op.values(), ""])
    return text.getvalue()


def read_costs(path: Path, space: SearchSpace, kind: CostKind, template: str) -> ImportedCosts:
    """Read a filled template. Columns may be in any order, and those that describe the op may be missing.

    Latencies are rounded to whole microseconds; those of slow networks to the resolution of a measured table. Other
    costs are rounded to millionths of their unit.

    Args:
        path: the file.
        space: the space that it must be of.
        kind: of the costs.
        template: the command that writes a template, for messages.

    Raises:
        ConfigError: the cost of an option depends on the layers before it.
        RunError: the file cannot be read, or a row is wrong, missing or there twice. The message names the first one.
    """
    text, expected = _read_text(path, template), _describe_rows(space)
    devices: list[str] = []
    costs: dict[Key, int] = {}
    optional = [name for name, values in zip(OPTIONAL_COLUMNS, (space.widths, space.bits), strict=True) if values]
    needed = [*KEY_COLUMNS[:2], *optional, name_cost_column(kind)]
    for row in _read_rows(path, text, devices, template, needed):
        key = _read_key(row, space)
        name = _name_row(key)
        if key in costs:
            raise RunError(f"{row.where}: {name} is there twice; write one row for each")
        for column, value in expected[key].items():
            cell = _as_whole(row.cells.get(column, ""))
            if cell and cell != value:
                raise RunError(
                    f"{row.where}: {column} of {name} is {quote_value(cell)}, but it is {value or 'empty'} in this"
                    f" space; {template} writes the rows of this space"
                )
        costs[key] = _read_cost(f"{row.where}: {name}", row.cells, kind)
    missing = [key for key in expected if key not in costs]
    if missing:
        more = f", nor for {len(missing) - 1:,} others" if len(missing) > 1 else ""
        raise RunError(f"{path} has no row for {_name_row(missing[0])}{more}; {template} writes all rows")
    table = _make_table(space, kind, costs)
    if kind is not LATENCY:
        require_sensible_unit(table, str(path))
    elif table.minimum < 1:
        raise RunError(
            f"{path}: the fastest architecture would take 0 microseconds; milliseconds must be in milliseconds"
        )
    return ImportedCosts(table, devices[0] if devices else "")


def _require_one_context(space: SearchSpace) -> None:
    """Raise ConfigError if the cost of an option depends on the layers before it."""
    for name, values in (("output_widths", space.output_widths), ("image_sizes", space.image_sizes)):
        if values:
            raise ConfigError(
                f"a CSV file of costs has one number for each option, but with space.{name} the cost of an option"
                " depends on the layers before it; measure latencies with spos flops-table --latency, or remove"
                f" space.{name}"
            )


def require_sensible_unit(table: CostTable, where: str) -> None:
    """Raise RunError if costs are so small that rounding would change them, or too large.

    Args:
        where: the beginning of the message.
    """
    if MIN_OWN_COST <= table.maximum <= MAX_OWN_COST:
        return
    kind = table.kind
    raise RunError(
        f"{where}: the most expensive architecture has {kind.format(table.maximum)} {kind.label}; that must be"
        f" {kind.write(MIN_OWN_COST)} to {kind.write(MAX_OWN_COST)}, so choose another unit"
    )


def _describe_rows(space: SearchSpace) -> dict[Key, dict[str, str]]:
    """Return the key of each row, in the order of the template, and the cells that describe its op."""
    _require_one_context(space)
    whole = ("stem and head", str(space.in_channels), space.classes, "", space.image_size, "")
    rows = {FIXED: dict(zip(OP_COLUMNS, map(str, whole), strict=True))}
    for layer, options in zip(space.layers, space.options.by_layer, strict=True):
        for option in options:
            choice = layer.choices[option.choice]
            cells = (
                str(choice),
                layer.op_in_channels,
                sum(layer.op_out_channels),
                layer.hidden_channels(choice, option.width) or "",
                layer.in_size,
                layer.stride,
            )
            rows[_make_key(layer, option)] = dict(zip(OP_COLUMNS, map(str, cells), strict=True))
    return rows


def _make_key(layer: Layer, option: Option) -> Key:
    width = format_width(option.width) if option.width else ""
    return str(layer.index), str(option.choice), width, format_bits(option.bits) if option.bits else ""


def name_option(layer: Layer, option: Option) -> str:
    """Return an option of a layer in words: `layer 3, choice 1, width 0.8`."""
    return _name_row(_make_key(layer, option))


def _name_row(key: Key) -> str:
    """Return a row in words: `layer 3, choice 1, width 0.8`."""
    if key == FIXED:
        return f"the row {FIXED[0]}"
    return ", ".join(f"{column} {cell}" for column, cell in zip(KEY_COLUMNS, key, strict=True) if cell)


def _read_text(path: Path, template: str) -> str:
    with os_errors_as(RunError, f"cannot read {path}"), path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise RunError(f"{path} is larger than {MAX_BYTES >> 20} MiB, so it is not a filled template of {template}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RunError(f"{path}:{line} is not text in UTF-8; save the file as CSV in UTF-8") from None


def _read_rows(path: Path, text: str, devices: list[str], template: str, needed: Sequence[str]) -> Iterator[_Row]:
    """Yield the rows below the header, and add the device that a comment names to `devices`.

    Args:
        needed: the columns that must be there; the last one has the costs.
    """
    columns: list[str] | None = None
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        where = f"{path}:{number}"
        cells = _split_line(where, line.rstrip("\n"), template)
        if cells and cells[0].startswith("#"):
            _read_comment(where, ",".join(cells), devices)
        elif not any(cells):
            continue
        elif columns is None:
            columns = _read_header(where, cells, template, needed)
        elif len(cells) != len(columns):
            raise RunError(f"{where} has {len(cells)} cells, but the header has {len(columns)} columns")
        else:
            yield _Row(where, dict(zip(columns, cells, strict=True)))
    if columns is None:
        raise RunError(f"{path} has no header; {template} writes one, and all rows")


def _split_line(where: str, line: str, template: str) -> list[str]:
    """Return the cells of a line; a comment is one cell, whatever quotes it has."""
    if line.lstrip().startswith("#"):
        return [line.strip()]
    try:
        return [cell.strip() for cells in csv.reader([line], strict=True) for cell in cells]
    except csv.Error as error:
        raise RunError(f"{where} is not CSV ({error}); {template} writes a file to fill in") from None


def _read_comment(where: str, comment: str, devices: list[str]) -> None:
    """Add the device that a comment names; spreadsheets end a comment with commas."""
    match = DEVICE.fullmatch(comment.rstrip(", \t"))
    device = match[1].strip() if match else ""
    if not device:
        return
    if devices:
        raise RunError(f"{where} names a device, but {quote_value(devices[0])} is named above; write one")
    if not device.isprintable() or len(device) > MAX_DEVICE_LETTERS:
        raise RunError(
            f"{where}: the device is {quote_value(device)}; it must be at most {MAX_DEVICE_LETTERS} printable letters"
        )
    devices.append(device)


def _read_header(where: str, cells: Sequence[str], template: str, needed: Sequence[str]) -> list[str]:
    """Return the names of the columns."""
    columns, given = [cell.lower() for cell in cells], quote_value(", ".join(cells))
    known = [*KEY_COLUMNS, *OP_COLUMNS, needed[-1]]
    missing = [column for column in needed if column not in columns]
    if missing:
        raise RunError(
            f"{where} has the columns {given}, without {missing[0]}; the header must name {', '.join(needed)},"
            f" separated by commas, as {template} writes it"
        )
    for column in columns:
        if column not in known:
            raise RunError(f"{where} has a column {quote_value(column)}; the columns are {', '.join(known)}")
        if columns.count(column) > 1:
            raise RunError(f"{where} has the column {column} twice; write it once")
    return columns


def _read_key(row: _Row, space: SearchSpace) -> Key:
    """Return the key of a row; raise RunError if the space has no such option."""
    layer_cell, choice_cell = (_as_whole(row.cells[column]) for column in KEY_COLUMNS[:2])
    width_cell, bits_cell = (row.cells.get(column, "") for column in OPTIONAL_COLUMNS)
    if layer_cell.lower() == FIXED[0]:
        if given := choice_cell or width_cell or bits_cell:
            raise RunError(
                f"{row.where}: the row {FIXED[0]} must have no choice, no width and no bits, got {quote_value(given)}"
            )
        return FIXED
    layers = {str(layer.index): layer for layer in space.layers}
    if layer_cell not in layers:
        raise RunError(
            f"{row.where}: layer is {quote_value(row.cells['layer'])}; it must be {FIXED[0]}, or a layer from 0 to"
            f" {space.num_layers - 1}"
        )
    layer = layers[layer_cell]
    if choice_cell not in map(str, range(len(layer.choices))):
        names = ", ".join(f"{index} = {choice}" for index, choice in enumerate(layer.choices))
        raise RunError(
            f"{row.where}: choice of layer {layer.index} is {quote_value(row.cells['choice'])}; it must be one of"
            f" {names}"
        )
    options = [option for option in space.options.by_layer[layer.index] if option.choice == int(choice_cell)]
    place = f"layer {layer.index}, choice {choice_cell}"
    widths = {format_width(option.width): option.width for option in options if option.width}
    if (width := _read_width(width_cell)) not in (widths.values() or (0,)):
        raise _refuse_cell(row, f"width of {place}", width_cell, widths, "widths")
    bits = {format_bits(option.bits): option.bits for option in options if option.bits}
    if bits_cell.lower() not in (bits or ("",)):
        raise _refuse_cell(row, f"bits of {place}", bits_cell, bits, "bits")
    return _make_key(layer, Option(int(choice_cell), width, bits.get(bits_cell.lower(), 0)))


def _refuse_cell(row: _Row, name: str, cell: str, allowed: Collection[str], plural: str) -> RunError:
    """Return the error for a cell that is none of those that its option may have."""
    needed = f"one of {', '.join(allowed)}" if allowed else f"empty: this op has no {plural}"
    return RunError(f"{row.where}: {name} is {quote_value(cell)}; it must be {needed}")


def _read_width(cell: str) -> int:
    """Return a width in thousandths, 0 for an empty cell, -1 for what is not a width."""
    if not cell:
        return 0
    width = Decimal(cell) * WIDTH_UNIT if WIDTH.fullmatch(cell) else Decimal(-1)
    return int(width) if width and width == int(width) else -1


def _as_whole(cell: str) -> str:
    """Return `2.0` or `02` as `2`, and any other cell as it is."""
    match = WHOLE.fullmatch(cell)
    return str(int(match[1])) if match else cell


def _read_cost(where: str, cells: Mapping[str, str], kind: CostKind) -> int:
    """Return a cost in the units of its table, such as microseconds."""
    column, maximum = name_cost_column(kind), (MAX_DURATION if kind is LATENCY else MAX_OWN_COST) // kind.scale
    cell = cells[column]
    number = Decimal(cell) if NUMBER.fullmatch(cell) else None
    if number is None or number > maximum:
        given = f"is {quote_value(cell)}" if cell else "is empty"
        raise RunError(f"{where}: {column} {given}; it must be a number from 0 to {maximum:,}")
    return round(number * kind.scale)


def _make_table(space: SearchSpace, kind: CostKind, costs: Mapping[Key, int]) -> CostTable:
    """Return the table of costs; latencies have the resolution of measured ones."""
    rows = [
        [costs[_make_key(layer, option)] for option in options]
        for layer, options in zip(space.layers, space.options.by_layer, strict=True)
    ]
    table = CostTable(kind, costs[FIXED], rows, space.options)
    if kind is not LATENCY:
        return table
    step = choose_latency_step(table.mean)
    rounded = [[max(step, round(time / step) * step) if time else 0 for time in row] for row in rows]
    return CostTable(kind, costs[FIXED], rounded, space.options)
