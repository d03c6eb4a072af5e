"""Kinds of costs: own costs are numbers with decimals and a unit, and files keep them exactly."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spos_cli.errors import ConfigError
from spos_cli.space.cost_kinds import COST_KINDS, MAX_OWN_COST, get_kind, make_own_kind
from spos_cli.space.limits import Limit, describe_limit, parse_limit, write_limit, write_option

ENERGY = make_own_kind("energy", "mJ")


@pytest.mark.parametrize(
    ("value", "cost"),
    [(12.5, 12_500_000), ("12.5", 12_500_000), (3, 3_000_000), ("1e-6", 1), ("1_000", 10**9), (1e9, MAX_OWN_COST)],
)
def test_own_costs_are_read(value: object, cost: int) -> None:
    assert ENERGY.parse(value) == cost


@pytest.mark.parametrize(
    "value", ["12.5mJ", "330M", 0, -1, "", "1e-7", 1e10, True, None, [3], "nan", float("inf"), "1e999"]
)
def test_what_is_not_a_number_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="is not a cost; write a number above 0 without its unit"):
        ENERGY.parse(value)


@given(st.integers(1, MAX_OWN_COST), st.integers(0, 10**12))
def test_files_keep_an_own_cost_exactly(low: int, width: int) -> None:
    """As a number in JSON, as a text, and as both ends of a range."""
    assert ENERGY.from_number(json.loads(json.dumps(ENERGY.to_number(low)))) == low
    assert ENERGY.parse(ENERGY.write(low)) == low
    for limit in (Limit(low), Limit(min(low + width, MAX_OWN_COST), low)):
        assert parse_limit(ENERGY, write_limit(ENERGY, limit)) == limit
        option = write_option(ENERGY, limit)
        assert parse_limit(ENERGY, option.removeprefix("--limit energy=")) == limit


@pytest.mark.parametrize("number", [-1, True, "3", None, float("nan"), 1.1e9])
def test_a_number_of_a_file_must_be_a_cost(number: object) -> None:
    with pytest.raises(ValueError, match="out of range"):
        ENERGY.from_number(number)


def test_an_own_cost_is_shown_in_its_unit() -> None:
    assert [ENERGY.format(cost) for cost in (12_500_000, 12_345_678, 123_456_000_000, 0)] == [
        "12.5 mJ",
        "12.35 mJ",
        "123500 mJ",
        "0 mJ",
    ]
    assert ENERGY.format_exactly(1_234_567_891) == "1,234.567891 mJ"
    assert (ENERGY.title, ENERGY.format_cell(12_500_000), ENERGY.format_cell(None)) == ("energy (mJ)", "12.5", "–")
    assert describe_limit(ENERGY, Limit(8_000_000, 3_000_000)) == "3 mJ to 8 mJ of energy"
    assert get_kind("peak_memory").describe(1_500_000) == "1.5 of peak memory"


def test_options_and_settings_of_limits() -> None:
    limits = {"flops": Limit(330_000_000), "latency": Limit(12_345), "energy": Limit(8_000_000, 3_250_000)}
    kinds = {**COST_KINDS, "energy": ENERGY}
    assert [write_option(kinds[name], limit) for name, limit in limits.items()] == [
        "--flops-limit 330000000",
        "--latency-limit 12345us",
        "--limit energy=3.25-8",
    ]
    assert [kinds[name].setting for name in limits] == [
        "search.flops_limit",
        "search.latency_limit",
        "search.limits.energy",
    ]
