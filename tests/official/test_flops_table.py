"""The official FLOPs table, against its known numbers for every choice block (`op_flops_dict.pkl`)."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spos_cli.errors import CheckpointError
from spos_cli.models.counting import count
from spos_cli.official import flops_table
from spos_cli.space.search_space import OFFICIAL_SPACE, SearchSpace, Stage

OPS = ("shufflenet_3x3", "shufflenet_5x5", "shufflenet_7x7", "xception_3x3")
BLOCKS = {  # (in, out, hidden channels, height, width, stride): FLOPs of each op in OPS
    (16, 64, 32, 112, 112, 2): (13396992, 15805440, 19418112, 13146112),
    (64, 64, 32, 56, 56, 1): (7325696, 8931328, 11339776, 12343296),
    (64, 160, 80, 56, 56, 2): (26304768, 28111104, 30820608, 20296192),
    (160, 160, 80, 28, 28, 1): (10599680, 11603200, 13108480, 16746240),
    (160, 320, 160, 28, 28, 2): (30670080, 31673600, 33178880, 21199360),
    (320, 320, 160, 14, 14, 1): (10317440, 10819200, 11571840, 15899520),
    (320, 640, 320, 14, 14, 2): (30387840, 30889600, 31642240, 20634880),
    (640, 640, 320, 7, 7, 1): (10176320, 10427200, 10803520, 15476160),
}
CONV1 = 3 * 16 * 3 * 3 * 112 * 112
REST = 640 * 1024 * 7 * 7 + 1024 * 1000


def make_official_table() -> dict[str, Any]:
    """Return the official table of this space, with one entry of another width, as channel search has them."""
    table: dict[str, Any] = {"conv1": {(3, 16, 224, 224, 2): CONV1}, "rest_operation": {(640, 1000, 7, 7, 1): REST}}
    for key, values in BLOCKS.items():
        for op, flops in zip(OPS, values, strict=True):
            table.setdefault(f"{op}_stride_{key[-1]}", {})[key] = flops
    table["shufflenet_3x3_stride_1"][64, 64, 12, 56, 56, 1] = 2747136
    return table


def test_our_table_equals_the_official_one() -> None:
    result = flops_table.compare_tables(
        make_official_table(), flops_table.make_table(OFFICIAL_SPACE, count(OFFICIAL_SPACE).flops)
    )
    assert (result.compared, result.differences) == (34, [])
    assert result.others == [{"op": "shufflenet_3x3_stride_1", "key": [64, 64, 12, 56, 56, 1], "flops": 2747136}]


def test_other_widths_are_compared_where_the_space_has_them() -> None:
    """A width of 0.4 of 32 hidden channels, rounded down, is the official entry of 12."""
    space = replace(OFFICIAL_SPACE, widths=(400, 1000))
    measured = flops_table.make_table(space, count(space).flops)
    assert measured["shufflenet_3x3_stride_1"][64, 64, 12, 56, 56, 1] == 2747136
    result = flops_table.compare_tables(make_official_table(), measured)
    assert (result.compared, len(result.differences), result.others) == (66, 31, [])
    assert {difference["theirs"] for difference in result.differences} == {
        None
    }  # entries that this table does not have


def test_every_difference_is_found() -> None:
    measured = flops_table.make_table(OFFICIAL_SPACE, count(OFFICIAL_SPACE).flops)
    for op, entries in make_official_table().items():
        for key in entries:
            if key == (64, 64, 12, 56, 56, 1):
                continue
            for change, theirs in (("more", entries[key] + 1), ("gone", None)):
                table = make_official_table()
                if theirs is None:
                    del table[op][key]
                else:
                    table[op][key] = theirs
                expected = [{"op": op, "key": list(key), "theirs": theirs, "measured": measured[op][key]}]
                assert flops_table.compare_tables(table, measured).differences == expected, change


def test_a_round_trip_through_a_file(tmp_path: Path) -> None:
    table = flops_table.make_table(OFFICIAL_SPACE, count(OFFICIAL_SPACE).flops)
    path = tmp_path / "op_flops_dict.pkl"
    path.write_bytes(pickle.dumps(table, flops_table.PICKLE_PROTOCOL))
    assert flops_table.read_table(path) == table


def test_a_space_of_another_shape_has_a_table_too() -> None:
    space = SearchSpace((Stage(1, 16, 1), Stage(2, 32)), OFFICIAL_SPACE.choices, 8, 10, 8, 1, 32)
    costs = count(space).flops
    table = flops_table.make_table(space, costs)
    assert table["conv1"] == {(3, 8, 8, 8, 1): 3 * 8 * 9 * 64}
    assert table["rest_operation"] == {(32, 10, 4, 4, 1): 32 * 32 * 16 + 32 * 10}
    for index, op in enumerate(OPS):
        assert table[f"{op}_stride_1"][8, 16, 8, 8, 8, 1] == costs.rows[0][index]
        assert table[f"{op}_stride_2"][16, 32, 16, 8, 8, 2] == costs.rows[1][index]
        assert table[f"{op}_stride_1"][32, 32, 16, 4, 4, 1] == costs.rows[2][index]


@pytest.mark.parametrize(
    "value",
    [7, (2, 1, 0), {}, {"conv1": 3}, {"conv1": {3: 4}}, {"conv1": {(3, "a"): 4}}, {"conv1": {(3, 4): "many"}},
     {"conv1": {(3, 4): -1}}, {"conv1": {(3, 4): float("nan")}}, {1: {(3, 4): 5}}, {"conv1": {(3, 4): True}}],
    ids=str,
)  # fmt: skip
def test_other_contents_are_refused(tmp_path: Path, value: object) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(CheckpointError, match="is not a FLOPs table"):
        flops_table.read_table(path)
