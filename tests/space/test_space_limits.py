"""Limits on costs: how they are written and read, what they allow, and when they exclude nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spos_cli.errors import ConfigError, LimitError
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_kinds import COST_KINDS, FLOPS, LATENCY, PARAMS
from spos_cli.space.limits import (
    Limit,
    describe_all,
    describe_limit,
    explain_idle_limit,
    format_limit,
    get_bounds,
    parse_limit,
    write_limit,
)
from spos_cli.space.options import Options


@pytest.mark.parametrize(
    ("name", "text", "limit"),
    [
        ("flops", "330M", Limit(330_000_000)),
        ("flops", 330_000_000, Limit(330_000_000)),
        ("flops", "250M-330M", Limit(330_000_000, 250_000_000)),
        ("flops", " 250M - 330M ", Limit(330_000_000, 250_000_000)),
        ("flops", "250e6-0.33G", Limit(330_000_000, 250_000_000)),
        ("flops", "2500000000e-1-330M", Limit(330_000_000, 250_000_000)),
        ("flops", "250_000_000-330M", Limit(330_000_000, 250_000_000)),
        ("params", "3M-3M", Limit(3_000_000, 3_000_000)),
        ("latency", 12_000, Limit(12_000)),
        ("latency", "900us-1.2ms", Limit(1200, 900)),
    ],
)
def test_limits_are_read(name: str, text: object, limit: Limit) -> None:
    assert parse_limit(COST_KINDS[name], text) == limit


@pytest.mark.parametrize(
    ("name", "text", "phrase"),
    [
        ("flops", "330M-250M", "'330M-250M' is reversed: the smaller end is first; write 250M-330M"),
        ("latency", "12ms-8ms", "write 8ms-12ms"),
        ("flops", "250-330M", "'250-330M' has a unit at one end only; write 250M-330M"),
        ("latency", "8-12ms", "write 8ms-12ms"),
        ("flops", "abc", "'abc' is not a size"),
        ("flops", "250M-abc", "in '250M-abc', 'abc' is not a size"),
        ("flops", "-330M", "'-330M' is not a size"),
        ("flops", "330M-", "'330M-' is not a size"),
        ("flops", "1M-2M-3M", "'1M-2M-3M' is not a size"),
        ("flops", "0-330M", "'0-330M' begins at 0; write 330M"),
        ("flops", "250M..330M", "a range is written as 250M-330M"),
        ("flops", ["250M", "330M"], "a range is written as 250M-330M"),
        ("flops", True, "is not a size"),
        ("latency", "8ms-330M", "'330M' is not a latency"),
        ("latency", "12", "a range is written as 8ms-12ms"),
    ],
)
def test_mistakes_say_what_to_write(name: str, text: object, phrase: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_limit(COST_KINDS[name], text)
    assert phrase in str(caught.value)


@given(st.sampled_from(["flops", "params", "latency"]), st.integers(1, 10**9), st.integers(0, 10**6), st.booleans())
def test_what_files_keep_is_read_exactly(name: str, low: int, width: int, is_range: bool) -> None:
    limit = Limit(min(low + width, 10**9), low if is_range else None)
    written = write_limit(COST_KINDS[name], limit)
    assert isinstance(written, str if is_range else int)
    assert parse_limit(COST_KINDS[name], written) == limit


def test_limits_are_written_as_people_do() -> None:
    limit = Limit(330_000_000, 250_000_000)
    assert write_limit(FLOPS, limit) == "250M-330M"
    assert write_limit(FLOPS, Limit(330_000_001, 250_000_000)) == "250000000-330000001"
    assert write_limit(LATENCY, Limit(12_345, 8_000)) == "8ms-12345us"
    assert (format_limit(FLOPS, limit), format_limit(LATENCY, Limit(12_000))) == ("250M to 330M", "12ms")
    assert describe_limit(FLOPS, limit) == "250M to 330M FLOPs"
    assert describe_all([(FLOPS, Limit(5)), (PARAMS, Limit(6))]) == "at most 5 FLOPs and 6 parameters"
    both = describe_all([(FLOPS, limit), (PARAMS, Limit(6))])
    assert both == "250M to 330M FLOPs and at most 6 parameters"


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_both_ends_are_allowed(low: int, high: int, cost: int) -> None:
    assert Limit(high, low).allows(cost) == (low <= cost <= high)
    assert Limit(high).allows(cost) == (cost <= high)
    assert (get_bounds(Limit(high, low)), get_bounds(Limit(high)), get_bounds(None)) == (
        (low, high),
        (None, high),
        (None, None),
    )


def test_a_limit_around_the_whole_space_is_idle() -> None:
    table = CostTable(FLOPS, 10, [[1, 2], [3, 5]])  # 14 to 17

    def is_idle(high: int, low: int | None = None) -> bool:
        return bool(explain_idle_limit(table, Limit(high, low)))

    assert [is_idle(high) for high in (1, 14, 16, 17, 18, 10**18)] == [False] * 4 + [True] * 2
    assert [is_idle(18, low) for low in (13, 14, 15)] == [True, False, False]
    assert not is_idle(17, 13)
    explained = explain_idle_limit(table, Limit(330_000_000))
    assert "330M FLOPs excludes nothing: no architecture of the space has more than 17" in explained
    assert explain_idle_limit(table, Limit(330_000_000, 1)).endswith("the architectures of the space have 14 to 17")
    large = CostTable(PARAMS, 330_000_000, [[0, 1]])
    # Rounded, both the limit and the largest cost would be 330M.
    assert "330,000,002 parameters excludes nothing" in explain_idle_limit(large, Limit(330_000_002))
    latency = CostTable(LATENCY, 0, [[11_000, 9]])
    assert "12ms of latency excludes nothing" in explain_idle_limit(latency, Limit(12_000))


def test_an_empty_range_of_rounded_costs_names_costs_near_it() -> None:
    """Widths make so many costs that they are rounded; the costs named are those of architectures."""
    options = Options(((True,) * 2,) * 6, (500, 1000))
    rows = np.random.default_rng(0).integers(1, 10**9, (6, 4)) * 2
    table = CostTable(FLOPS, 0, rows, options)
    distribution = table.distribution()
    assert not distribution.is_exact
    middle = int(table.mean) // 2 * 2 + 1  # no cost is odd
    with pytest.raises(LimitError, match=r"near it are [\d,]+ and [\d,]+, and the space") as caught:
        distribution.draw(np.random.default_rng(0), middle, middle)
    words = str(caught.value).split("near it are ")[1].split(", and the space")[0].split(" and ")
    below, above = (int(word.replace(",", "")) for word in words)
    every = sorted(table.of(arch) for arch in distribution.enumerate(None, None))
    assert below < middle < above
    assert {below, above} <= set(every)
    assert sum(below < cost < above for cost in every) < 200  # of 4,096
