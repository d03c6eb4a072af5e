"""Tables of own costs that the user's code returns: what is read, and one clear line for each mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spos_cli.config import loading
from spos_cli.errors import ConfigError, RunError
from spos_cli.run.command import Run
from spos_cli.run.own_costs import digest_tables, read_own_tables
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable
from tests.conftest import TINY

ROWS = [[0.5, 1, 2.25, 0]] * 4
CALLED: list[Any] = []


def table_of(space: Any) -> Any:
    """Return what a test has put into `CALLED`, as a user's function would."""
    CALLED.append(space)
    if isinstance(CALLED[0], Exception):
        raise CALLED[0]
    return CALLED[0]


def read(folder: Path, returned: Any, name: str = "table_of", widths: str = "") -> CostTable:
    """Return the table of a cost whose function returns this."""
    CALLED[:] = [returned]
    text = TINY.replace("  head_channels: 32\n", f"  head_channels: 32\n{widths}")
    (folder / "spos.yaml").write_text(f"{text}costs: [{{name: energy, table: '{__name__}:{name}', unit: mJ}}]\n")
    config = loading.load(folder / "spos.yaml")
    assert [returned] == CALLED  # Settings alone import nothing.
    (table,) = read_own_tables(Run(config, fresh=False), config.space.build())
    assert CALLED[1:] == [config.space.build()]
    return table


@pytest.mark.parametrize(
    "rows", [ROWS, tuple(map(tuple, ROWS)), np.array(ROWS), np.array(ROWS, np.float32), [np.array(row) for row in ROWS]]
)
def test_a_function_returns_numbers(tmp_path: Path, rows: Any) -> None:
    table = read(tmp_path, {"fixed": 3, "table": rows})
    assert (table.kind.unit, table.fixed) == ("mJ", 3_000_000)
    assert table.rows == ((500_000, 1_000_000, 2_250_000, 0),) * 4
    assert table.of(Architecture((0, 1, 2, 3))) == 6_750_000
    changed = read(tmp_path, {"fixed": 3, "table": [*ROWS[:3], [0.5, 1, 2.25, 0.000001]]})
    assert digest_tables([table]).keys() == digest_tables([changed]).keys() == {"energy"}
    assert digest_tables([table]) == digest_tables([read(tmp_path, {"fixed": np.int64(3), "table": ROWS})])
    assert digest_tables([table]) != digest_tables([changed])


def put(value: Any) -> list[list[Any]]:
    return [ROWS[0], [0.5, 1, value, 0], *ROWS[2:]]


@pytest.mark.parametrize(
    ("returned", "phrase"),
    [
        (None, "returns what is of type NoneType; it must return a mapping with fixed, a number, and table"),
        (ROWS, "is of type list; it must return"),
        ({"fixed": 3, "rows": ROWS}, "is of type dict with fixed, rows; it must return"),
        ({"fixed": "3", "table": ROWS}, "fixed is '3'; it must be a number from 0 to 1,000,000,000"),
        ({"fixed": 3, "table": 5}, "table is of type int; it must be a list of 4 layers"),
        ({"fixed": 3, "table": ROWS[:3]}, "table has 3 values; the space has 4 layers"),
        ({"fixed": 3, "table": [*ROWS[:3], ROWS[0][:3]]}, "layer 3 has 3 values; the space has 4 options"),
        ({"fixed": 3, "table": [*ROWS[:3], "0123"]}, "layer 3 is of type str; it must be a list of 4 options"),
        ({"fixed": 3, "table": put(float("nan"))}, "layer 1, choice 2 is nan; it must be a number from 0 to"),
        ({"fixed": 3, "table": put(float("inf"))}, "layer 1, choice 2 is inf"),
        ({"fixed": 3, "table": put(-0.5)}, "layer 1, choice 2 is -0.5"),
        ({"fixed": 3, "table": put(True)}, "layer 1, choice 2 is True"),
        ({"fixed": 3, "table": put(2e9)}, "layer 1, choice 2 is 2000000000.0"),
        ({"fixed": 3, "table": put(10**400)}, "layer 1, choice 2 is "),
        ({"fixed": 3, "table": put(None)}, "layer 1, choice 2 is None"),
        ({"fixed": 0, "table": [[1e-5] * 4] * 4}, "has 4e-05 mJ of energy; that must be 0.001 to 1000000000"),
        ({"fixed": 9e8, "table": [[9e8] * 4] * 4}, "so choose another unit"),
        (ValueError("no\nmeter"), f"cannot compute energy with {__name__}:table_of: no meter"),
    ],
)
def test_mistakes_name_the_layer_and_the_choice(tmp_path: Path, returned: Any, phrase: str) -> None:
    with pytest.raises((ConfigError, RunError)) as caught:
        read(tmp_path, returned)
    message = str(caught.value)
    assert phrase in message
    assert f"{__name__}:table_of" in message
    assert "\n" not in message


def test_a_function_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"cannot compute energy with {__name__}:nothing: "):
        read(tmp_path, None, "nothing")


def test_widths_are_named(tmp_path: Path) -> None:
    rows = [[1] * 8, [1] * 5 + [-1] + [1] * 2, [1] * 8, [1] * 8]
    with pytest.raises(ConfigError, match=r"layer 1, choice 2, width 1\.0 is -1"):
        read(tmp_path, {"fixed": 3, "table": rows}, widths="  widths: [0.5, 1.0]\n")
