"""Counts and draws by dynamic programming against full enumeration of small spaces."""

from __future__ import annotations

import contextlib
import itertools
import math
from bisect import bisect_right
from collections import Counter
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chisquare

from spos_cli.errors import ConfigError, LimitError
from spos_cli.files.quoting import quote_value
from spos_cli.space import cost
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostDistribution, CostTable
from spos_cli.space.cost_kinds import FLOPS, PARAMS, format_cost, format_duration, parse_cost, parse_duration
from spos_cli.space.options import Options


@st.composite
def tables(draw: st.DrawFn) -> CostTable:
    """Up to 4 layers of up to 4 choices each, the costs multiples of some unit; equal ones are common."""
    unit = draw(st.integers(1, 9))
    row = st.lists(st.integers(0, 8).map(lambda step: step * unit), min_size=1, max_size=4)
    return CostTable(FLOPS, draw(st.integers(0, 20)), draw(st.lists(row, min_size=1, max_size=4)))


BOUND = st.none() | st.integers(-5, 320)


def enumeration(table: CostTable) -> dict[Architecture, int]:
    """Every architecture of a space and its cost, in lexicographic order."""
    paths = itertools.product(*map(range, table.options.counts))
    return {Architecture(path): table.fixed + sum(row[choice] for row, choice in zip(table.rows, path, strict=True))
            for path in paths}  # fmt: skip


def within(table: CostTable, low: int | None, high: int | None) -> list[Architecture]:
    return [
        arch
        for arch, value in enumeration(table).items()
        if (low is None or low <= value) and (high is None or value <= high)
    ]


@pytest.fixture
def table() -> CostTable:
    """256 architectures, with gaps between their costs."""
    return CostTable(FLOPS, 100, np.array([[0, 6, 9, 30], [3, 0, 12, 0], [90, 0, 3, 6], [0, 0, 6, 600]]))


@pytest.fixture
def python_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts as Python's whole numbers, as in spaces of 2**62 architectures or more."""
    monkeypatch.setattr(cost, "MAX_INT64_COUNT", 0)


@given(tables())
def test_a_table_knows_its_ends(table: CostTable) -> None:
    costs = enumeration(table)
    assert all(table.of(arch) == value for arch, value in costs.items())
    assert table.of(table.cheapest) == table.minimum == min(costs.values())
    assert table.of(table.most_expensive) == table.maximum == max(costs.values())
    assert table.mean == float(Fraction(sum(costs.values()), len(costs)))


def test_a_table_cannot_be_written_to() -> None:
    rows = np.ones((2, 2), np.int64)
    table = CostTable(FLOPS, 0, rows)
    rows[0, 0] = 7
    assert table.minimum == 2
    assert table.rows == ((1, 1), (1, 1))
    assert table.distribution() is table.distribution()


@given(tables(), BOUND, BOUND)
def test_counts_and_enumeration(table: CostTable, low: int | None, high: int | None) -> None:
    distribution, expected = table.distribution(), within(table, low, high)
    assert distribution.count(low, high) == len(expected)
    assert distribution.share(low, high) == len(expected) / len(enumeration(table))
    assert list(distribution.enumerate(low, high)) == expected


@given(tables(), st.floats(0, 1) | st.sampled_from([0, 0.1, 0.25, 0.3, 0.6, 0.7, 1]))
def test_quantiles(table: CostTable, q: float) -> None:
    costs = sorted(enumeration(table).values())
    reached = [c for c in costs if Fraction(bisect_right(costs, c), len(costs)) >= Fraction(str(q))]
    assert table.distribution().quantile(q) == reached[0]


@given(tables(), BOUND, BOUND, st.integers(0, 2**32))
def test_a_draw_is_inside_of_its_range_or_an_error(
    table: CostTable, low: int | None, high: int | None, seed: int
) -> None:
    inside, rng = within(table, low, high), np.random.default_rng(seed)
    if inside:
        assert table.distribution().draw(rng, low, high) in inside
    else:
        with pytest.raises(LimitError, match="no architecture has"):
            table.distribution().draw(rng, low, high)


@pytest.mark.parametrize("bounds", [(None, None), (None, 130), (112, 200), (700, None), (106, 106)])
def test_draws_are_uniform(table: CostTable, bounds: tuple[int | None, int | None]) -> None:
    distribution, rng = table.distribution(), np.random.default_rng(1)
    inside = within(table, *bounds)
    seen = Counter(distribution.draw(rng, *bounds) for _ in range(10_000))
    assert set(seen) <= set(inside)
    assert chisquare([seen[arch] for arch in inside]).pvalue > 1e-3


@settings(max_examples=30)
@given(tables(), BOUND, BOUND)
def test_both_ways_of_counting_agree(table: CostTable, low: int | None, high: int | None) -> None:
    fast = CostDistribution(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "MAX_INT64_COUNT", 0)
        exact = CostDistribution(table)
    assert isinstance(exact._at_most, list)
    assert not isinstance(fast._at_most, list)
    assert list(fast._at_most) == exact._at_most
    assert fast.count(low, high) == exact.count(low, high)
    if fast.count(low, high):
        draws = [d.draw(np.random.default_rng(3), low, high) for d in (fast, exact)]
        assert draws[0] == draws[1]


def test_more_architectures_than_a_machine_number_holds() -> None:
    table = CostTable(FLOPS, 5, np.tile(np.arange(4) * 7, (50, 1)))
    distribution = table.distribution()
    assert distribution.count(None, None) == 4**50
    assert distribution.count(None, 5) == distribution.count(table.maximum, None) == 1
    assert distribution.count(None, 12) == 51
    assert distribution.share(None, 5 + 75 * 7) > 0.5 > distribution.share(None, 5 + 74 * 7)
    arch = distribution.draw(np.random.default_rng(0), 5 + 7, 5 + 7)
    assert sorted(arch) == [0] * 49 + [1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=70), min_size=1, max_size=30), st.sampled_from([0, 2**62])
)
def test_counts_are_those_of_python_numbers(rows: list[list[int]], most: int) -> None:
    """Also where a layer lifts the number of architectures from below 2**62 to far above it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "MAX_INT64_COUNT", most)
        distribution = CostDistribution(CostTable("flops", 0, rows))
    ways, expected = [1], [[1]]
    for (steps,) in reversed(distribution._steps):
        assert all(list(step.counts) == expected[-1] for step in steps)
        longer = [0] * (len(ways) + max(step.units for step in steps))
        for step in steps:
            for index, number in enumerate(ways):
                longer[step.units + index] += number
        ways = longer
        expected.append(list(itertools.accumulate(ways)))
    assert list(distribution._at_most) == expected[-1]
    assert type(distribution._at_most[-1]) is int


@pytest.mark.usefixtures("python_counts")
def test_draws_are_uniform_in_python_numbers(table: CostTable) -> None:
    test_draws_are_uniform(table, (None, 130))


def test_all_choices_may_cost_the_same() -> None:
    distribution = CostTable(PARAMS, 7, np.full((3, 4), 5)).distribution()
    assert (distribution.unit, distribution.num_units) == (1, 1)
    assert distribution.count(22, 22) == distribution.count(None, None) == 64
    assert distribution.count(23, None) == distribution.count(None, 21) == 0
    assert distribution.quantile(0.5) == 22
    assert len({distribution.draw(np.random.default_rng(i), 22, 22) for i in range(500)}) == 64


def test_an_empty_range_says_what_there_is() -> None:
    table = CostTable(FLOPS, 270_000_000, np.array([[0, 50_000_000, 120_000_000]]))
    distribution, rng = table.distribution(), np.random.default_rng(0)
    for bounds, message in [
        ((None, 200_000_000), "no architecture has at most 200M FLOPs; the space reaches from 270M to 390M"),
        ((400_000_000, None), "no architecture has at least 400M FLOPs; the space reaches from 270M to 390M"),
        ((None, 269_999_999), "at most 269,999,999 FLOPs; the space reaches from 270,000,000 to 390,000,000"),
        ((390_000_001, None), "at least 390,000,001 FLOPs; the space reaches from 270,000,000 to 390,000,000"),
        ((100, 2_000), "no architecture has 100 to 2K FLOPs; the space reaches from 270M to 390M"),
        ((330_000_000, 300_000_000), "no architecture has 330M to 300M FLOPs; the space reaches from 270M to 390M"),
        ((320_000_001, 389_999_999), "the nearest have 320,000,000 and 390,000,000, and the space reaches"),
    ]:
        with pytest.raises(LimitError, match=message):
            distribution.draw(rng, *bounds)


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs that are rounded, as where they share too small a unit."""
    for name, cells in (("MAX_CELLS", 0), ("COARSE_CELLS", 40)):
        monkeypatch.setattr(cost, name, cells)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("bounds", [(None, None), (None, 130), (112, 200), (700, None), (106, 106)])
def test_draws_are_uniform_where_costs_are_rounded(table: CostTable, bounds: tuple[int | None, int | None]) -> None:
    assert not table.distribution().is_exact
    test_draws_are_uniform(table, bounds)


@pytest.mark.usefixtures("coarse")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables(), BOUND, BOUND, st.sampled_from([0, 0.1, 0.5, 1]))
def test_rounded_costs_leave_nothing_out(table: CostTable, low: int | None, high: int | None, q: float) -> None:
    distribution, inside = CostDistribution(table), within(table, low, high)
    assert list(distribution.enumerate(low, high)) == inside
    assert distribution.count(low, high) >= len(inside)
    assert distribution.count(None, None) == len(enumeration(table))
    exact = sorted(enumeration(table).values())[max(0, math.ceil(q * len(enumeration(table))) - 1)]
    assert exact - len(table.rows) * distribution.unit < distribution.quantile(q) <= exact
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "MAX_DRAWS", 200)
        if inside and len(inside) * 10 > distribution.count(low, high):
            assert distribution.draw(rng, low, high) in inside
        elif not inside:
            with pytest.raises(LimitError, match="no architecture"):
                distribution.draw(rng, low, high)


def test_costs_without_a_common_unit_are_rounded_before_they_fill_the_memory() -> None:
    """As the widths of the official space, whose FLOPs are multiples of 49 over a range of 785 millions."""
    distribution = CostTable(PARAMS, 0, [[0, 1, 10**15 + 7]] * 45).distribution()
    assert not distribution.is_exact
    assert len(distribution._at_most) * 45 < 2**21
    limit = 20 * 10**15 + 10**14
    costs = [distribution.table.of(distribution.draw(np.random.default_rng(i), None, limit)) for i in range(200)]
    assert 19 * 10**15 < max(costs) <= limit
    assert distribution.share(None, limit) == pytest.approx(binom.cdf(20, 45, 1 / 3), rel=1e-4)


def test_options_are_the_columns_of_a_table() -> None:
    options = Options(((True, False), (True,)), (500, 1500))
    table = CostTable(FLOPS, 10, [[1, 2, 4], [8, 16]], options)
    costs = {str(arch): table.of(arch) for arch in table.distribution().enumerate(None, None)}
    assert costs == {"0@0.5,0@0.5": 19, "0@0.5,0@1.5": 27, "0@1.5,0@0.5": 20, "0@1.5,0@1.5": 28, "1,0@0.5": 22,
                     "1,0@1.5": 30}  # fmt: skip
    assert (str(table.cheapest), str(table.most_expensive)) == ("0@0.5,0@0.5", "1,0@1.5")
    assert str(table.distribution().draw(np.random.default_rng(0), 30, 30)) == "1,0@1.5"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("330M", 330_000_000), ("0.33G", 330_000_000), ("330e6", 330_000_000), ("330000000", 330_000_000),
        (330_000_000, 330_000_000), (330e6, 330_000_000), ("1.5k", 1_500), (" 330 M ", 330_000_000),
        ("330_000_000", 330_000_000), ("330 000 K", 330_000_000), ("3.3E+8", 330_000_000), (".5T", 500_000_000_000),
        ("322.918720m", 322_918_720), ("1e18", 10**18), (1e17, 10**17), ("1.", 1), ("1000e-3", 1),
        ("900719925474099301", 900_719_925_474_099_301),
    ],
)  # fmt: skip
def test_sizes_as_people_write_them(text: str | int | float, expected: int) -> None:
    assert parse_cost(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "M", "-3M", "0", 0, -1, 0.5, "0.0001K", "nan", "inf", "snan", float("nan"), float("inf"), "1e19", 10**19,
     10**5_000, "1e999999999", "1e-999999999M", "9" * 10**6, "3MM", "3X", "0x10", "1,000", "٣M", "1e3e3", "290M 360M",
     "330." + "0" * 28 + "1M", True, None, [330], {}],
    ids=quote_value,
)  # fmt: skip
def test_what_is_not_a_size(text: str | int | float) -> None:
    with pytest.raises(ConfigError, match="is not a size") as caught:
        parse_cost(text)
    assert len(str(caught.value)) < 200


@given(st.text() | st.text(st.sampled_from("0123456789.eE+-_ kKmMgGtT"), max_size=12) | st.floats() | st.integers())
def test_any_value_is_a_size_or_a_config_error(text: str | int | float) -> None:
    with contextlib.suppress(ConfigError):
        assert 0 < parse_cost(text) <= 10**18


@given(st.integers(1, 10**18))
def test_a_size_reads_back_to_four_digits(value: int) -> None:
    written = format_cost(value)
    assert abs(Decimal(parse_cost(written)) / value - 1) <= Decimal("0.0005")
    assert parse_cost(value) == parse_cost(str(value)) == value


def test_sizes_are_written_shortly() -> None:
    written = {322_918_720: "322.9M", 3_558_464: "3.558M", 330_000_000: "330M", 999_999_999: "1G", 512: "512",
               999: "999", 1_000: "1K", 99_999: "100K", 0: "0", 10_000_000: "10M"}  # fmt: skip
    assert {value: format_cost(value) for value in written} == written


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [("12ms", 12_000), ("900us", 900), ("1.5 s", 1_500_000), ("0.0015ms", 2), ("1000s", 10**9)],
)
def test_durations(text: str, microseconds: int) -> None:
    assert parse_duration(text) == microseconds


@pytest.mark.parametrize("text", ["12", "ms", "0ms", "-1ms", "1e9s", "1001s", "12 m", "", "NaNs", True, None])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ConfigError, match="is not a latency"):
        parse_duration(text)  # type: ignore[arg-type]


@given(st.integers(1, 10**9))
def test_durations_come_back(microseconds: int) -> None:
    assert parse_duration(format_duration(microseconds)) == pytest.approx(microseconds, rel=5e-4, abs=0.5)
