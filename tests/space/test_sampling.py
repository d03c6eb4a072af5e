"""The samplers: uniform, inside of their bins, and a function of (seed, step)."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from spos_cli.errors import ConfigError, LimitError
from spos_cli.space import cost
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_kinds import FLOPS
from spos_cli.space.options import Options
from spos_cli.space.sampling import (
    CostBinSampler,
    SandwichSampler,
    UniformSampler,
    WidthWarmUp,
    count_draws,
)

TABLE = CostTable(FLOPS, 100, np.array([[0, 10, 20], [0, 10, 30], [10, 20, 40]]))  # from 110 to 190
PATHS = [Architecture(path) for path in itertools.product(range(3), repeat=3)]
STEPS = 10_000


def samplers(seed: int) -> list[UniformSampler | CostBinSampler]:
    return [UniformSampler(Options.without_widths([3, 3, 3]), seed), CostBinSampler(TABLE, 110, 190, 20, seed)]


def test_uniform_paths() -> None:
    sampler = UniformSampler(Options.without_widths([3, 3, 3]), seed=0)
    seen = Counter(sampler.draw(step) for step in range(STEPS))
    assert set(seen) == set(PATHS)
    assert chisquare([seen[arch] for arch in PATHS]).pvalue > 1e-3


def test_paths_of_bins() -> None:
    """Against full enumeration: a bin of four, then a path of it; the ends belong to both of their bins."""
    sampler = CostBinSampler(TABLE, 110, 190, 20, seed=0)
    assert sampler.bins == [(110, 130), (130, 150), (150, 170), (170, 190)]
    expected = dict.fromkeys(PATHS, 0.0)
    for low, high in sampler.bins:
        inside = [arch for arch in PATHS if low <= TABLE.of(arch) <= high]
        for arch in inside:
            expected[arch] += STEPS / len(sampler.bins) / len(inside)
    seen = Counter(sampler.draw(step) for step in range(STEPS))
    assert chisquare([seen[arch] for arch in PATHS], list(expected.values())).pvalue > 1e-3


def test_no_path_is_ever_outside_of_its_bin() -> None:
    sampler = CostBinSampler(TABLE, 130, 150, 10, seed=3)
    assert {TABLE.of(sampler.draw(step)) for step in range(STEPS)} == {130, 140, 150}


def test_a_path_is_a_function_of_seed_and_step() -> None:
    for one, same, other in zip(samplers(5), samplers(5), samplers(6), strict=True):
        paths = [one.draw(step) for step in range(50)]
        assert [same.draw(step) for step in reversed(range(50))] == paths[::-1]
        assert [other.draw(step) for step in range(50)] != paths


@pytest.mark.parametrize(
    ("low", "high", "width"), [(190, 110, 20), (110, 110, 20), (110, 190, 30), (110, 190, 0), (110, 190, -20)]
)
def test_impossible_bins(low: int, high: int, width: int) -> None:
    with pytest.raises(ConfigError, match="do not divide the range"):
        CostBinSampler(TABLE, low, high, width, 0)


@pytest.mark.timeout(10)
def test_empty_bins_are_named() -> None:
    with pytest.raises(LimitError, match=r"bins of FLOPs 50 to 100; the space reaches from 110 to 190"):
        CostBinSampler(TABLE, 50, 150, 50, 0)
    with pytest.raises(LimitError, match=r"bins of FLOPs 111 to 113, 113 to 115"):
        CostBinSampler(TABLE, 111, 115, 2, 0)
    with pytest.raises(LimitError, match=r"200 to 210, .*, 240 to 250, \.\.\.; the space"):
        CostBinSampler(TABLE, 150, 10**18, 10, 0)


def test_empty_bins_are_named_where_costs_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded counts may see something in a bin that has nothing."""
    for name, cells in (("MAX_CELLS", 0), ("COARSE_CELLS", 12), ("MAX_DRAWS", 200)):
        monkeypatch.setattr(cost, name, cells)
    table = CostTable(FLOPS, 100, TABLE.rows)
    assert table.distribution().count(111, 113)
    with pytest.raises(LimitError, match=r"bins of FLOPs 111 to 113, 113 to 115"):
        CostBinSampler(table, 111, 115, 2, 0)
    assert {table.of(CostBinSampler(table, 130, 150, 10, 3).draw(step)) for step in range(500)} == {130, 140, 150}


def test_how_often_choices_are_trained() -> None:
    options = Options.without_widths([3, 1])
    counted = count_draws(UniformSampler(options, 0), 300, options)
    assert counted.choices[1] == [300]
    assert sum(counted.choices[0]) == 300
    assert min(counted.choices[0]) > 70
    assert counted.widths == [[], []]


def test_the_sandwich_has_the_largest_path_the_smallest_one_and_random_ones() -> None:
    """Against full enumeration, without and with widths, and with bits."""
    wide = CostTable(FLOPS, 7, [[9, 3, 2, 8, 1], [5, 6, 4, 2]], Options(((True, True, False), (True, True)), (5, 10)))
    rows = [[9, 3, 12, 2, 8, 1, 4], [5, 6, 4]]
    quantized = CostTable(FLOPS, 7, rows, replace(QUANTIZED, bits=(12, 24, 44)))
    for table in (TABLE, wide, quantized):
        by_cost = sorted(table.distribution().enumerate(None, None), key=table.of)
        assert table.of(by_cost[0]) < table.of(by_cost[1])
        assert table.of(by_cost[-1]) > table.of(by_cost[-2])
        steps = [SandwichSampler(table, 5).paths(step) for step in range(2000)]
        assert {len(paths) for paths in steps} == {4}
        assert all(paths[:2] == [by_cost[-1], by_cost[0]] for paths in steps)
        third, fourth = ([paths[number][0] for paths in steps] for number in (2, 3))
        num_choices = table.options.choice_counts[0]
        for choices in (third, fourth):
            assert chisquare(np.bincount(choices, minlength=num_choices)).pvalue > 1e-3
        assert chi2_contingency(np.histogram2d(third, fourth, bins=num_choices)[0]).pvalue > 1e-3
        assert SandwichSampler(table, 5).paths(7) == steps[7] != SandwichSampler(table, 6).paths(7)


WIDE = Options(((True, True, False), (True, True)), (500, 1000, 1500, 2000))


def test_choices_are_uniform_whatever_their_widths() -> None:
    """A choice without widths comes as often as one that has four, and each of those is uniform."""
    seen = Counter(UniformSampler(WIDE, seed=0).draw(step) for step in range(STEPS))
    assert {option for arch in seen for option in arch.options[:1]} == set(WIDE.by_layer[0])
    expected = {
        Architecture.from_options((one, other)): STEPS * (1 / 3 if one.choice == 2 else 1 / 12) / 8
        for one, other in itertools.product(*WIDE.by_layer)
    }
    assert chisquare([seen[arch] for arch in expected], list(expected.values())).pvalue > 1e-3


QUANTIZED = Options(((False,) * 3, (False,)), (), ((True, True, False), (True,)), (12, 24, 44, 34))


def test_choices_are_uniform_whatever_their_bits_and_so_are_the_bits() -> None:
    """Drawn without widths, and with as many as in `WIDE`, which do not depend on the bits."""
    seen = Counter(UniformSampler(QUANTIZED, seed=0).draw(step) for step in range(STEPS))
    expected = {
        Architecture.from_options((one, other)): STEPS * (1 / 3 if one.choice == 2 else 1 / 12) / 4
        for one, other in itertools.product(*QUANTIZED.by_layer)
    }
    assert chisquare([seen[arch] for arch in expected], list(expected.values())).pvalue > 1e-3
    both = replace(WIDE, quantizable=WIDE.scalable, bits=(12, 24))
    paths = [UniformSampler(both, 3).draw(step) for step in range(2000)]
    assert [Architecture(path.choices, path.widths) for path in paths] == [
        UniformSampler(WIDE, 3).draw(step) for step in range(2000)
    ]
    pairs = Counter(path.options[1] for path in paths)
    assert set(pairs) == set(both.by_layer[1])
    assert chisquare([pairs[option] for option in both.by_layer[1]]).pvalue > 1e-3


def test_how_often_bits_are_trained() -> None:
    counted = count_draws(UniformSampler(QUANTIZED, 0), 600, QUANTIZED)
    assert counted.widths == [[], []]
    assert sum(counted.bits[0]) == sum(counted.choices[0][:2])
    assert sum(counted.bits[1]) == sum(counted.choices[1]) == 600
    last = Counter(UniformSampler(QUANTIZED, 0).draw(step).bits[1] for step in range(600))
    assert counted.bits[1] == [last[bits] for bits in QUANTIZED.bits]


def test_wide_paths_come_first() -> None:
    warm, cold = UniformSampler(WIDE, 3, WidthWarmUp(4, 80)), UniformSampler(WIDE, 3)
    drawn = [{width for path in warm.paths(step) for width in path.widths} - {0} for step in range(81)]
    for quarter in range(4):
        inside = set().union(*drawn[20 * quarter + 1 : 20 * quarter + 20])
        assert inside == set(WIDE.widths[3 - quarter :])
    assert warm.paths(80) == cold.paths(80)


def test_how_often_widths_are_trained() -> None:
    counted = count_draws(UniformSampler(WIDE, 0, WidthWarmUp(4, 200)), 600, WIDE)
    narrow_to_wide = counted.widths[1]
    assert sum(narrow_to_wide) == sum(counted.choices[1]) == 600
    shares = np.zeros(4)
    for step in range(600):
        widest = WidthWarmUp(4, 200).count_widest(step) or 4
        shares[4 - widest :] += 1 / widest
    assert chisquare(narrow_to_wide, shares).pvalue > 1e-3
    assert sum(counted.widths[0]) == sum(counted.choices[0][:2])


@pytest.mark.parametrize(
    ("low", "high", "width", "message"),
    [(100, 130, 10, ""), (95, 135, 10, ""), (100, 330, 230, "from 100 to 330"), (1, 131, 130, "from 1 to 131")],
)
def test_bins_of_which_more_than_half_is_outside_of_the_space(low: int, high: int, width: int, message: str) -> None:
    """A grid seldom ends where the space does; a number that was typed for another space is far from it."""
    table = CostTable(FLOPS, 100, [[0, 10], [0, 20]])
    explained = CostBinSampler(table, low, high, width, 0).explain_unreachable_bins()
    assert message in explained
    assert bool(explained) is bool(message)
