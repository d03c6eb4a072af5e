"""The noise of `make bench`: what the machine is, how busy it was, and which rows have no result."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.benchmarks.__main__ import format_result, show, to_dict
from tests.benchmarks.comparison import MAX_SPREAD, TOO_NOISY, Comparison, measure_spread
from tests.benchmarks.machine import Load, describe_machine, describe_noise, find_processor
from tests.benchmarks.measure import Row

QUIET, NOISY = [10.0, 10.1, 9.9, 10.0, 10.2], [10.0, 3.0, 10.1, 17.0, 4.0]


def test_spread() -> None:
    assert measure_spread([1, 2, 3, 4, 5]) == pytest.approx(2 / 3)
    assert measure_spread([7]) == 0
    assert measure_spread([5, 5, 5, 1000]) == pytest.approx(248.75 / 5)  # One far value of four is not hidden.
    assert measure_spread(QUIET) < MAX_SPREAD < measure_spread(NOISY)


@pytest.mark.parametrize(("baseline", "ours"), [(QUIET, NOISY), (NOISY, QUIET), (NOISY, NOISY)])
def test_a_noisy_side_has_no_ratio(baseline: list[float], ours: list[float]) -> None:
    comparison = Comparison("work", "images/s", baseline, ours, "plain loop")
    assert comparison.verdict == TOO_NOISY
    assert format_result(comparison) == "work, against plain loop: too noisy"


def test_a_quiet_comparison_has_one() -> None:
    comparison = Comparison("work", "images/s", QUIET, [2 * value for value in QUIET])
    assert comparison.verdict == "2.00x"
    assert format_result(comparison) == "work, against official procedure: 2.00x"


def test_a_row_at_the_bound() -> None:
    assert Row("start", "small", 0.5, "s", spread=MAX_SPREAD).verdict == "0.5 s"
    assert Row("start", "small", 0.5, "s", spread=MAX_SPREAD + 0.01).verdict == TOO_NOISY


def test_the_tables_have_the_machine_and_no_noisy_ratio() -> None:
    machine, text = describe_machine(), io.StringIO()
    quiet = Comparison("a quiet row", "images/s", QUIET, QUIET)
    noisy = Comparison("a noisy row", "images/s", QUIET, NOISY)
    row = Row("a noisy start", "small", 0.123, "s", spread=1.0)
    show([quiet, noisy, row], machine, "load average 0.1", Console(width=200, file=text))
    head, *lines = text.getvalue().splitlines()
    for part in (machine.processor, f"{machine.cores} core", machine.instructions, machine.torch, "thread"):
        assert part in head
    assert "load average" in lines[0]
    (line,) = (line for line in lines if "a quiet row" in line)
    assert "1.00x" in line
    for title in ("a noisy row", "a noisy start"):
        (line,) = (line for line in lines if title in line)
        assert TOO_NOISY in line
        assert "1.00x" not in line
        assert "0.123" not in line
    content = to_dict([quiet, noisy, row], machine, "load average 0.1")
    assert content["machine"]["torch"] == machine.torch
    assert [comparison["baseline"] for comparison in content["comparisons"]] == [QUIET, QUIET]
    assert content["comparisons"][1]["spread"] > MAX_SPREAD


def test_stolen_time(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  10 0 10 70 0 0 0 10 5 0\ncpu0 1 1\n")
    before = Load.read(stat)
    assert (before.stolen, before.total) == (10, 100)  # Guests are part of the users' time.
    stat.write_text("cpu  20 0 10 135 0 0 0 35 5 0\n")
    after = Load.read(stat)
    assert after.share_stolen_since(before) == pytest.approx(0.25)
    assert "25.0%" in describe_noise(before, after)
    assert Load.read(tmp_path / "missing").share_stolen_since(before) <= 0


def test_processor(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: A Fast One @ 2 GHz\n\nprocessor\t: 1\nmodel name\t: Another\n")
    assert find_processor(cpuinfo) == "A Fast One @ 2 GHz"
    assert find_processor(tmp_path / "missing")
