"""Latencies in CSV: a filled template is the table, and every mistake is one line that names its row."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spos_cli.errors import ConfigError, RunError
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.cost_csv import KEY_COLUMNS, MAX_BYTES, OP_COLUMNS, ImportedCosts, make_template, read_costs
from spos_cli.space.cost_kinds import LATENCY, make_own_kind
from spos_cli.space.search_space import OFFICIAL_SPACE, SearchSpace, Stage
from tests.report.searches import SPACE as WIDE_SPACE

SMALL_SPACE = SearchSpace(
    stages=(Stage(1, 8, 2), Stage(1, 8, 1)),
    choices=(Choice("mbconv", (("expand", 1), ("kernel", 3))), Choice("mbconv", (("expand", 2), ("kernel", 5)))),
    image_size=8,
    classes=2,
    stem_channels=4,
    stem_stride=1,
    head_channels=8,
)
BY_HAND = """\
# device: Pixel 8, big core
choice,layer,milliseconds

,fixed,1.25
0,0,0.5
1,0,2
0,1,.004
1,1,1e-1
"""
BASIC = Choice("basic", (("kernel", 3),))
QUANTIZED_SPACE = replace(SMALL_SPACE, choices=(BASIC, Choice("identity")), widths=(500, 1000), bits=(12, 24))
SPACES = [SMALL_SPACE, WIDE_SPACE, QUANTIZED_SPACE, OFFICIAL_SPACE]
COLUMNS = [*KEY_COLUMNS[:-1], *OP_COLUMNS, "milliseconds"]  # of a space without bits
HINT = "spos flops-table --latency-template FILE"
Rows = list[list[str]]


def read(folder: Path, content: str | bytes, space: SearchSpace) -> ImportedCosts:
    path = folder / "phone.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_costs(path, space, LATENCY, HINT)


def fail(folder: Path, content: str | bytes, space: SearchSpace) -> str:
    """Return the message of a file that cannot be read: one line with the name of the file."""
    with pytest.raises(RunError) as failed:
        read(folder, content, space)
    message = str(failed.value)
    assert "\n" not in message
    assert "phone.csv" in message
    return message


def fill(space: SearchSpace, rng: np.random.Generator, largest: int = 3000) -> tuple[Rows, list[int]]:
    """Return the rows of a filled template, the header first, and their microseconds."""
    rows = list(csv.reader(line for line in make_template(space, LATENCY).splitlines() if not line.startswith("#")))
    times = rng.integers(0, largest, len(rows) - 1).tolist()
    times[0] += 1
    for row, time in zip(rows[1:], times, strict=True):
        row[-1] = f"{time / 1000:.3f}"
    return rows, times


def write(rows: Sequence[Sequence[str]], line_end: str = "\n") -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator=line_end).writerows(rows)
    return text.getvalue()


def test_sums_by_hand(tmp_path: Path) -> None:
    table, device = read(tmp_path, BY_HAND, SMALL_SPACE)
    assert device == "Pixel 8, big core"
    sums = {path: table.of(Architecture(path)) for path in itertools.product(range(2), repeat=2)}
    assert sums == {(0, 0): 1754, (0, 1): 1850, (1, 0): 3254, (1, 1): 3350}
    assert (table.name, table.fixed, table.minimum, table.maximum) == ("latency", 1250, 1754, 3350)


@pytest.mark.parametrize("space", SPACES, ids=["small", "widths", "bits", "official"])
@pytest.mark.parametrize("seed", range(5))
def test_a_filled_template_is_the_table(tmp_path: Path, space: SearchSpace, seed: int) -> None:
    """Whatever the order of its rows and columns, and whichever columns that describe the ops are left out."""
    rng = np.random.default_rng(seed)
    rows, times = fill(space, rng)
    assert len(rows) == 2 + sum(space.options.counts)
    header, *body = rows
    assert ("bits" in header) == bool(space.bits)
    needed = ("layer", "choice", "width", "bits", "milliseconds")
    kept = [column for column in header if column in needed or rng.random() < 0.5]
    columns = [header.index(column) for column in rng.permutation(kept)]
    shuffled = [header, *(body[index] for index in rng.permutation(len(body)))]
    text = write([[row[column] for column in columns] for row in shuffled], ["\n", "\r\n", "\r"][seed % 3])
    table, device = read(tmp_path, ("\ufeff" if seed % 2 else "") + text, space)
    iterator = iter(times[1:])
    assert table.fixed == times[0]
    assert table.rows == tuple(tuple(next(iterator) for _ in options) for options in space.options.by_layer)
    assert table.options == space.options
    assert device == ""


@pytest.mark.parametrize("space", SPACES, ids=["small", "widths", "bits", "official"])
def test_own_costs_keep_their_decimals(tmp_path: Path, space: SearchSpace) -> None:
    """They are not rounded to a resolution, as latencies are, and the column is called cost."""
    kind, path = make_own_kind("energy", "mJ"), tmp_path / "energy.csv"
    text = make_template(space, kind)
    assert "# Write the energy (mJ) of each op" in text
    assert "device" not in text
    rows = list(csv.reader(line for line in text.splitlines() if not line.startswith("#")))
    costs = np.random.default_rng(0).integers(0, 10**10, len(rows) - 1).tolist()
    for row, cost in zip(rows[1:], costs, strict=True):
        row[-1] = f"{cost / 10**6:.6f}"
    path.write_text(write(rows))
    table = read_costs(path, space, kind, HINT).table
    assert rows[0][-1] == "cost"
    assert [table.fixed, *itertools.chain(*table.rows)] == costs
    for cell, phrase in (("-1", "cost is '-1'"), ("2e9", "it must be a number from 0 to 1,000,000,000")):
        path.write_text(write([*rows[:-1], [*rows[-1][:-1], cell]]))
        with pytest.raises(RunError, match=re.escape(phrase)):
            read_costs(path, space, kind, HINT)
    path.write_text(write([rows[0], *([*row[:-1], "0.000001"] for row in rows[1:])]))
    with pytest.raises(RunError, match="so choose another unit"):
        read_costs(path, space, kind, HINT)
    path.write_text(write(rows).replace(",cost", ",milliseconds"))
    with pytest.raises(RunError, match="without cost; the header must name"):
        read_costs(path, space, kind, HINT)


def test_bits_are_a_column_of_spaces_with_bits(tmp_path: Path) -> None:
    rows, _ = fill(QUANTIZED_SPACE, np.random.default_rng(0))
    assert rows[0][:4] == ["layer", "choice", "width", "bits"]
    assert [row[:4] for row in rows[1:6]] == [
        ["fixed", "", "", ""],
        *(["0", "0", width, bits] for width in ("0.5", "1.0") for bits in ("w1a2", "w2a4")),
    ]
    assert rows[-1][:4] == ["1", "1", "", ""]
    for line, cell, phrase in (
        (2, "w4a4", "phone.csv:3: bits of layer 0, choice 0 is 'w4a4'; it must be one of w1a2, w2a4"),
        (2, "", "bits of layer 0, choice 0 is ''; it must be one of w1a2, w2a4"),
        (-1, "w1a2", "bits of layer 1, choice 1 is 'w1a2'; it must be empty: this op has no bits"),
        (1, "w1a2", "the row fixed must have no choice, no width and no bits, got 'w1a2'"),
    ):
        spoilt = [list(row) for row in rows]
        spoilt[line][3] = cell
        assert phrase in fail(tmp_path, write(spoilt), QUANTIZED_SPACE)
    without = [[*row[:3], *row[4:]] for row in rows]
    assert "the header must name layer, choice, width, bits, milliseconds" in fail(
        tmp_path, write(without), QUANTIZED_SPACE
    )
    missing = fail(tmp_path, write([*rows[:3], *rows[4:]]), QUANTIZED_SPACE)
    assert "has no row for layer 0, choice 0, width 0.5, bits w2a4;" in missing


def test_the_template_is_not_filled_in(tmp_path: Path) -> None:
    message = fail(tmp_path, make_template(SMALL_SPACE, LATENCY), SMALL_SPACE)
    assert "the row fixed: milliseconds is empty; it must be a number from 0 to 1,000,000" in message


def test_the_template_describes_each_op() -> None:
    """The numbers of channels are those of the op: with a split, half of the channels pass by."""
    rows = list(csv.DictReader(line for line in make_template(OFFICIAL_SPACE, LATENCY).splitlines() if line[0] != "#"))
    of_op = [tuple(row[name] for name in COLUMNS[:-1]) for row in rows]
    assert of_op[0] == ("fixed", "", "", "stem and head", "3", "1000", "", "224", "")
    assert of_op[1] == ("0", "0", "", "shuffle kernel=3", "16", "64", "32", "112", "2")
    assert of_op[8] == ("1", "3", "", "shuffle_xception", "32", "32", "32", "56", "1")
    widths = [row.split(",")[2] for row in make_template(WIDE_SPACE, LATENCY).splitlines() if row.startswith("1,0,")]
    assert widths == ["0.5", "1.0", "1.25"]
    assert {"# device:"} == {line for line in make_template(WIDE_SPACE, LATENCY).splitlines() if "device" in line}


@pytest.mark.parametrize(("name", "values"), [("output_widths", (500, 1000)), ("image_sizes", (6, 8))])
def test_a_space_whose_costs_depend_on_the_layers_before_has_no_csv(
    tmp_path: Path, name: str, values: tuple[int, ...]
) -> None:
    space, path = replace(SMALL_SPACE, **{name: values}), tmp_path / "phone.csv"  # type: ignore[arg-type]
    path.write_text(BY_HAND)
    message = rf"with space\.{name} the cost of an option depends on .* spos flops-table --latency"
    with pytest.raises(ConfigError, match=message):
        make_template(space, LATENCY)
    with pytest.raises(ConfigError, match=message):
        read_costs(path, space, LATENCY, HINT)


def test_what_spreadsheets_and_scripts_write(tmp_path: Path) -> None:
    """Comments are quoted or padded with commas, rows are left empty, and whole numbers have a decimal point."""
    rows, _ = fill(WIDE_SPACE, np.random.default_rng(0))
    expected = read(tmp_path, write(rows), WIDE_SPACE).table.rows
    for row in rows[2:]:
        row[:2] = [f"{row[0]}.0", f"{row[1]}.00"]
        row[2] = row[2].removesuffix(".0")
        row[4:9] = [f"{cell}.0" if cell else "" for cell in row[4:9]]
    rows[0] = [f" {column.upper()} " for column in rows[0]]
    empty = [[""] * len(COLUMNS)] * 2
    for comment in ('"# Device: Pixel 8, ""big"" core",,,', '# device : Pixel 8, "big" core,,,,', "# a,b\n#\n"):
        text = comment + "\n" + write([*rows[:5], *empty, *rows[5:], *empty])
        table, device = read(tmp_path, text, WIDE_SPACE)
        assert table.rows == expected
        assert device == ("" if comment.startswith("# a") else 'Pixel 8, "big" core')


def test_slow_networks_have_the_resolution_of_measured_ones(tmp_path: Path) -> None:
    """A mean of 2 s has steps of 100 us: more would make exact counting slow, and would be noise."""
    text = BY_HAND.replace("1,0,2\n", "1,0,3000.04\n").replace("0,0,0.5\n", "0,0,1003.01\n").replace(",1.25", ",1.007")
    table, _ = read(tmp_path, text, SMALL_SPACE)
    assert table.fixed == 1007
    assert table.rows == ((1_003_000, 3_000_000), (100, 100))
    text = text.replace(",.004", ",0")
    assert read(tmp_path, text, SMALL_SPACE).table.rows[1] == (0, 100)


def set_cell(rows: Rows, rng: np.random.Generator, column: str, values: Sequence[str]) -> list[str]:
    """Replace a cell of the column by one of the values, and return what a message must say."""
    index = COLUMNS.index(column)
    lines = [line for line in range(1, len(rows)) if rows[line][index] not in values]
    line, value = int(rng.choice(lines)), str(rng.choice(list(values)))
    rows[line][index] = value
    return [f"phone.csv:{line + 1}", column, repr(value) if value else "empty"]


def spoil_time(rows: Rows, rng: np.random.Generator) -> list[str]:
    bad = ["abc", "-1", "nan", "inf", "1000000.001", "1_0", "1,5", "12ms", "0x1", "1e9", "1.2.3", "", "9" * 99 + "!"]
    said = set_cell(rows, rng, "milliseconds", bad)
    return [*said[:2], "0 to 1,000,000"] if "9999" in said[2] else [*said, "0 to 1,000,000"]


def spoil_layer(rows: Rows, rng: np.random.Generator) -> list[str]:
    return [*set_cell(rows, rng, "layer", ["99", "-1", "x", "1.5", "fixd"]), "fixed, or a layer from 0 to"]


def spoil_choice(rows: Rows, rng: np.random.Generator) -> list[str]:
    line, value = int(rng.integers(2, len(rows))), str(rng.choice(["", "64", "-1", "mbconv", "0.5", "1e0"]))
    rows[line][1] = value
    return [f"phone.csv:{line + 1}", f"choice of layer {rows[line][0]} is {value!r}", "must be one of 0 = "]


def spoil_fixed(rows: Rows, rng: np.random.Generator) -> list[str]:
    rows[1][1] = "0"
    return ["phone.csv:2", "fixed must have no choice", "'0'"]


def spoil_width(rows: Rows, rng: np.random.Generator) -> list[str]:
    line, value = int(rng.integers(2, len(rows))), str(rng.choice(["0.7", "-1", "x", "0", "1.0005"]))
    rows[line][2] = value
    return [f"phone.csv:{line + 1}", f"choice {rows[line][1]} is {value!r}", "must be"]


def spoil_op(rows: Rows, rng: np.random.Generator) -> list[str]:
    return [*set_cell(rows, rng, str(rng.choice(COLUMNS[3:-1])), ["7777", "other"]), HINT]


def repeat_row(rows: Rows, rng: np.random.Generator) -> list[str]:
    line, at = (int(rng.integers(1, len(rows))) for _ in range(2))
    rows.insert(at, list(rows[line]))
    return ["there twice", "fixed" if rows[at][0] == "fixed" else f"layer {rows[at][0]}, choice {rows[at][1]}"]


def remove_row(rows: Rows, rng: np.random.Generator) -> list[str]:
    row = rows.pop(int(rng.integers(1, len(rows))))
    return ["has no row for", "fixed" if row[0] == "fixed" else f"layer {row[0]}, choice {row[1]}", HINT]


def cut_off(rows: Rows, rng: np.random.Generator) -> list[str]:
    del rows[int(rng.integers(1, len(rows) - 2)) :]
    return ["has no row for", "others", HINT]


def spoil_header(rows: Rows, rng: np.random.Generator) -> list[str]:
    index, value = int(rng.integers(len(COLUMNS))), str(rng.choice(["", "seconds", "layer,choice"]))
    rows[0][index] = value
    return ["phone.csv:1", "column"]


def repeat_column(rows: Rows, rng: np.random.Generator) -> list[str]:
    for row in rows:
        row.append(row[0])
    return ["phone.csv:1", "column layer twice"]


def lengthen_row(rows: Rows, rng: np.random.Generator) -> list[str]:
    line = int(rng.integers(1, len(rows)))
    rows[line].append("1")
    return [f"phone.csv:{line + 1}", "11 cells", "10 columns"]


def shorten_row(rows: Rows, rng: np.random.Generator) -> list[str]:
    line = int(rng.integers(1, len(rows)))
    rows[line].pop(int(rng.integers(len(COLUMNS))))
    return [f"phone.csv:{line + 1}", "9 cells", "10 columns"]


SPOIL: list[Callable[[Rows, np.random.Generator], list[str]]] = [
    *(spoil_time, spoil_layer, spoil_choice, spoil_fixed, spoil_width, spoil_op, repeat_row, remove_row, cut_off),
    *(spoil_header, repeat_column, lengthen_row, shorten_row),
]


@pytest.mark.parametrize("spoil", SPOIL)
def test_a_mistake_is_named(tmp_path: Path, spoil: Callable[[Rows, np.random.Generator], list[str]]) -> None:
    rng = np.random.default_rng(0)
    for space in (SMALL_SPACE, WIDE_SPACE):
        for _ in range(40):
            rows, _ = fill(space, rng)
            phrases = spoil(rows, rng)
            message = fail(tmp_path, write(rows), space)
            assert [phrase for phrase in phrases if phrase not in message] == []


def test_files_that_are_not_such_a_csv(tmp_path: Path) -> None:
    latin = BY_HAND.replace("Pixel", "Pixél").encode("latin-1")
    cases: list[tuple[str | bytes, str]] = [
        ("", "has no header"),
        ("# device: Pixel 8\n\n", "has no header"),
        (latin, "phone.csv:1 is not text in UTF-8"),
        (BY_HAND.encode("utf-16"), "phone.csv:1 is not text in UTF-8"),
        (BY_HAND.encode() + b"\xff", "phone.csv:9 is not text in UTF-8"),
        (BY_HAND.encode("utf-16-le"), "phone.csv:2 has the columns"),
        (BY_HAND.replace(",", ";"), "separated by commas"),
        (BY_HAND.partition("\n")[2].replace(",", "\t"), "separated by commas"),
        ('{"layer": 0}\n', "phone.csv:1"),
        (b"PK\x03\x04\0\0\0", "phone.csv:1"),
        (BY_HAND.replace("0,0,0.5", '0,0,"0.5'), "phone.csv:5 is not CSV"),
        (BY_HAND.replace("0,0,0.5", f"0,0,{'1' * 200_000}"), "phone.csv:5 is not CSV"),
        (BY_HAND + "# device: Pixel 9\n", "phone.csv:9 names a device, but 'Pixel 8, big core' is named above"),
        (BY_HAND.replace("Pixel", "P\x1bxel"), "at most 80 printable letters"),
        (BY_HAND.replace("Pixel", "P" * 80), "at most 80 printable letters"),
        (re.sub(r",[\d.e-]+\n", ",0.0004\n", BY_HAND), "must be in milliseconds"),
    ]
    for content, phrase in cases:
        assert phrase in fail(tmp_path, content, SMALL_SPACE), content[:60]
    with pytest.raises(RunError, match=r"cannot read .*: No such file"):
        read_costs(tmp_path / "missing.csv", SMALL_SPACE, LATENCY, HINT)
    with pytest.raises(RunError, match=r"cannot read .*: Is a directory"):
        read_costs(tmp_path, SMALL_SPACE, LATENCY, HINT)


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "phone.csv"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(RunError, match="larger than 64 MiB"):
        read_costs(path, SMALL_SPACE, LATENCY, HINT)


def test_a_table_of_another_space_is_refused(tmp_path: Path) -> None:
    rows, _ = fill(WIDE_SPACE, np.random.default_rng(0))
    assert HINT in fail(tmp_path, write(rows), OFFICIAL_SPACE)
    rows[1][5] = "11"
    assert "out_channels of the row fixed is '11', but it is 10" in fail(tmp_path, write(rows), WIDE_SPACE)


def test_any_byte_may_be_wrong(tmp_path: Path) -> None:
    """The file is then read or refused, by a message of one line."""
    rng, content = np.random.default_rng(0), BY_HAND.encode()
    messages = []
    for _ in range(600):
        changed = bytearray(content)
        changed[int(rng.integers(len(changed)))] = int(rng.integers(256))
        try:
            assert read(tmp_path, bytes(changed), SMALL_SPACE).table.minimum >= 1
        except RunError as error:
            messages.append(str(error))
    assert 100 < len(messages) < 600
    assert [one for one in messages if "phone.csv" not in one or "\n" in one] == []
