"""Intervals by simulation, tests and correlations against SciPy, fronts by brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from spos_cli.search.statistics import (
    bootstrap,
    bootstrap_kendall,
    compare_means,
    crowding,
    front,
    fronts,
    hypervolume,
    interval,
    kendall,
    mcnemar,
    spearman,
    student_quantile,
)

POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=24)


@pytest.mark.parametrize(("share", "images"), [(0.05, 400), (0.5, 200), (0.93, 300), (0.836, 2000), (0.6, 8000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_an_interval_covers_the_true_share_as_often_as_it_says(share: float, images: int, level: float) -> None:
    right = np.random.default_rng(0).binomial(images, share, 4000)
    ends = [interval(int(number), images, level) for number in right]
    covered = np.mean([low <= share <= high for low, high in ends])
    assert covered == pytest.approx(level, abs=0.02)


def test_an_interval_is_that_of_scipy_and_stays_between_0_and_1() -> None:
    for right, images in itertools.product((0, 1, 7, 49, 50), (50, 51, 8000)):
        theirs = scipy.stats.binomtest(right, images).proportion_ci(0.95, method="wilson")
        assert interval(right, images) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert interval(0, 9)[0] == 0
    assert interval(9, 9)[1] == 1


def test_the_paired_test_is_the_exact_one() -> None:
    grid = (0, 1, 2, 3, 5, 10, 17, 40, 99, 100, 333, 1000)
    for one, other in itertools.product(grid, grid):
        theirs = scipy.stats.binomtest(one, one + other).pvalue if one + other else 1.0
        assert mcnemar(one, other) == pytest.approx(theirs, rel=1e-8), (one, other)


def test_the_paired_test_takes_tens_of_thousands_of_images() -> None:
    assert mcnemar(20_000, 20_400) == pytest.approx(scipy.stats.binomtest(20_000, 40_400).pvalue, rel=1e-7)
    assert 0 <= mcnemar(0, 50_000) < 1e-300


def test_equals_are_distinguished_no_more_often_than_the_level_allows() -> None:
    """Two share most of their luck: their intervals overlap by far, yet the paired test finds the difference."""
    rng, images = np.random.default_rng(0), 1000
    told, gaps = 0, 0

    def apart(one: np.ndarray, other: np.ndarray) -> bool:
        return mcnemar(int((one & ~other).sum()), int((other & ~one).sum())) <= 0.05

    for _ in range(400):
        luck, own = rng.random(images), rng.random((2, images))
        one, other = (np.where(rng.random(images) < 0.9, luck, mine) for mine in own)
        told += apart(one < 0.6, other < 0.6)
        gaps += apart(one < 0.65, other < 0.6)
    assert told / 400 < 0.07
    assert gaps / 400 > 0.7


@pytest.mark.parametrize("values", [3, 1000])  # with many ties, and with hardly any
@pytest.mark.parametrize("count", [2, 12, 200, 1500])
def test_correlations_are_those_of_scipy(values: int, count: int) -> None:
    rng = np.random.default_rng(count)
    x = rng.integers(values, size=count)
    y = x + rng.integers(values, size=count)
    x[:2], y[:2] = (0, 1), (0, 1)  # not all equal
    assert kendall(x, y) == pytest.approx(scipy.stats.kendalltau(x, y).statistic, abs=1e-12)
    assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)


def test_what_does_not_vary_has_no_correlation() -> None:
    assert math.isnan(kendall([1, 1, 1], [1, 2, 3]))
    assert math.isnan(spearman([1, 2, 3], [0.1, 0.1, 0.1]))
    with pytest.raises(ValueError, match="equal length"):
        kendall([1, 2], [1, 2, 3])


def test_a_bootstrap_covers_the_true_correlation() -> None:
    """Of a normal distribution, whose tau is known: 2 / pi * asin(rho)."""
    rng, true = np.random.default_rng(0), 2 / math.pi * math.asin(0.6)
    covered = 0
    for _ in range(100):
        x, y = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 40).T
        low, high = bootstrap(kendall, x, y, rng, draws=200)
        covered += low <= true <= high
    assert 88 <= covered <= 99


def test_a_bootstrap_survives_draws_that_have_no_value() -> None:
    rng = np.random.default_rng(0)
    low, high = bootstrap(kendall, [1, 2, 3], [1, 2, 3], rng)  # 1 in 9 draws is of one pair only
    assert (low, high) == (1, 1)
    assert all(math.isnan(end) for end in bootstrap(spearman, [1, 1], [1, 2], rng))


def dominates(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


def columns(points: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [cost for cost, _ in points], [score for _, score in points]


@given(POINTS)
def test_a_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    found = front(*columns(points))
    expected = {n for n, point in enumerate(points) if not any(dominates(other, point) for other in points)}
    assert set(found) == expected
    assert len(found) == len(expected)
    assert [points[n][0] for n in found] == sorted(points[n][0] for n in found)


@given(POINTS)
def test_fronts_are_taken_off_one_by_one(points: list[tuple[int, int]]) -> None:
    left = set(range(len(points)))
    for found in fronts(*columns(points)):
        expected = {n for n in left if not any(dominates(points[m], points[n]) for m in left)}
        assert set(found) == expected
        assert len(found) == len(expected) > 0
        left -= expected
    assert not left


@given(POINTS, st.integers(0, 10), st.integers(0, 9))
def test_a_hypervolume_counts_what_is_dominated(points: list[tuple[int, int]], limit: int, floor: int) -> None:
    cells = sum(
        any(point[0] <= cost and point[1] > score for point in points)
        for cost in range(limit)
        for score in range(floor, 10)
    )
    assert hypervolume(*columns(points), limit, floor) == pytest.approx(cells)


@given(POINTS.filter(lambda points: len(points) > 0))
@settings(max_examples=50)
def test_crowding_is_the_gap_between_neighbours(points: list[tuple[int, int]]) -> None:
    """Of a front without equals, whose order by cost is that by score."""
    members = sorted(set(points))
    members = [point for point in members if not any(dominates(other, point) for other in members)]
    distances = crowding(*columns(members))
    if len(members) < 3:
        assert np.isinf(distances).all()
        return
    widths = [members[-1][n] - members[0][n] for n in (0, 1)]
    for n in range(1, len(members) - 1):
        gaps = [(members[n + 1][axis] - members[n - 1][axis]) / widths[axis] for axis in (0, 1)]
        assert distances[n] == pytest.approx(sum(gaps))
    assert np.isinf(distances[[0, -1]]).all()


def test_crowding_of_equals_and_of_nothing() -> None:
    assert crowding([], []).shape == (0,)
    assert np.isinf(crowding([1, 1, 1], [2, 2, 2])[[0, 2]]).all()


@pytest.mark.parametrize(("number", "values"), [(3, 10), (12, 5), (60, 200)])
def test_the_bootstrap_of_taus_at_once_is_the_one_by_one(number: int, values: int) -> None:
    rng = np.random.default_rng(number)
    x, y = rng.integers(values, size=(2, number))
    one_by_one, at_once = (
        bootstrap(kendall, x, y, np.random.default_rng(0), draws=300),
        bootstrap_kendall(x, y, np.random.default_rng(0), draws=300),
    )
    assert at_once == pytest.approx(one_by_one)
    assert all(math.isnan(end) for end in bootstrap_kendall([1, 1], [1, 2], rng))


@pytest.mark.parametrize("freedom", [1, 2, 2.7, 9, 200])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.975, 0.999])
def test_quantiles_of_student_are_those_of_scipy(share: float, freedom: float) -> None:
    assert student_quantile(share, freedom) == pytest.approx(scipy.stats.t.ppf(share, freedom), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(("one", "other"), [(2, 2), (3, 8), (40, 5)])
def test_the_difference_of_means_is_that_of_welch(one: int, other: int) -> None:
    rng = np.random.default_rng(one)
    samples = rng.normal(1, 2, one).tolist(), rng.normal(0, 1, other).tolist()
    expected = scipy.stats.ttest_ind(*samples, equal_var=False).confidence_interval()
    value, low, high = compare_means(*samples)
    assert value == pytest.approx(np.mean(samples[0]) - np.mean(samples[1]))
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-5)
    assert math.isnan(compare_means(samples[0][:1], samples[1])[1])
    assert math.isnan(compare_means([1.0, 1.0], [0.0, 0.0])[1])
