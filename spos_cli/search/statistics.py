"""What scores are worth: intervals, paired tests, rank correlations and fronts; NumPy only, nothing is scored here.

Scores are shares of the same images for all candidates, so two of them are compared image by image. Fronts are of a
cost, the less the better, and a score, the more the better.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = Sequence[float] | NDArray[np.float64] | NDArray[np.int64]
MIN_PAIRS = 8  # of a rank correlation; Kendall's tau of 8 random pairs has a standard deviation of 0.29
PAIRS = 1_000_000  # that are compared at once: what a correlation needs of memory


def interval(right: int, images: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share (Wilson 1927), which holds its level for shares near 0 and 1, too.

    Args:
        right: images of `images` that were classified right; at least one image.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, scale = right / images, 1 + z * z / images
    middle = share + z * z / (2 * images)
    half = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    low = 0.0 if right == 0 else max(0.0, (middle - half) / scale)
    return low, 1.0 if right == images else min(1.0, (middle + half) / scale)


def mcnemar(only_one: int, only_other: int) -> float:
    """p-value of the exact two-sided McNemar test: whether the one is right as often as the other.

    Images that both get right or wrong say nothing; of the others each is the one's with probability 1/2.

    Args:
        only_one, only_other: images that only the one, or only the other, gets right.
    """
    count, less = only_one + only_other, min(only_one, only_other)
    if only_one == only_other:
        return 1.0
    log_choose = math.lgamma(count + 1) - math.lgamma(less + 1) - math.lgamma(count - less + 1)
    # Binomial probabilities from `less` down to 0, by the ratio of each to the one before it.
    below = np.arange(less, 0, -1)
    tail = 1 + float(np.cumprod(below / (count - below + 1)).sum())
    return min(1.0, 2 * tail * math.exp(log_choose - count * math.log(2)))


def hypergeometric_tail(size: int, drawn: int, least: int) -> float:
    """Probability of at least so many of one kind in a draw without replacement; exact.

    Args:
        size: of the population, of which one half is of that kind; an even number.
        drawn: of the population.
        least: of that kind, more than half of those drawn.
    """
    half = size // 2
    if least > min(half, drawn):
        return 0.0

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    first = log_choose(half, least) + log_choose(half, drawn - least) - log_choose(size, drawn)
    # Probabilities of `least` and of more, by the ratio of each to the one before it.
    more = np.arange(least, min(half, drawn))
    ratios = (half - more) * (drawn - more) / ((more + 1) * (half - drawn + more + 1))
    return min(1.0, (1 + float(np.cumprod(ratios).sum())) * math.exp(first))


def kendall(x: Numbers, y: Numbers) -> float:
    """Kendall's tau-b of pairs `(n,)`, `(n,)`, which allows for ties; NaN if all of x or all of y are equal."""
    one, other = _pairs(x, y)
    rows = max(1, PAIRS // max(1, len(one)))
    both = ones = others = 0
    for start in range(0, len(one), rows):
        signs = np.sign(one[start : start + rows, None] - one)
        other_signs = np.sign(other[start : start + rows, None] - other)
        both += int((signs * other_signs).sum())
        ones += int(np.count_nonzero(signs))
        others += int(np.count_nonzero(other_signs))
    return both / math.sqrt(ones * others) if ones and others else math.nan


def spearman(x: Numbers, y: Numbers) -> float:
    """Spearman's rho of pairs `(n,)`, `(n,)`, equals with their average rank; NaN if all of x or of y are equal."""
    one, other = (_ranks(values) for values in _pairs(x, y))
    one, other = one - one.mean(), other - other.mean()
    scale = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / scale if scale else math.nan


def bootstrap(
    statistic: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
    x: Numbers,
    y: Numbers,
    rng: np.random.Generator,
    draws: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic of pairs, from pairs drawn again with replacement.

    Draws without a value (all of them equal, say) do not count; NaN if there is none with a value.
    """
    one, other = _pairs(x, y)
    chosen = rng.integers(len(one), size=(draws, len(one)))
    values = np.array([statistic(one[draw], other[draw]) for draw in chosen], np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def front(costs: Numbers, scores: Numbers) -> list[int]:
    """Indices of those that no other one dominates, by cost.

    One dominates another if it costs at most as much, scores at least as much, and differs in one of the two.
    """
    cost, score = _pairs(costs, scores)
    order = np.lexsort((-score, cost))
    found: list[int] = []
    for index in order.tolist():
        last = found[-1] if found else None
        if last is None or score[index] > score[last] or (cost[index], score[index]) == (cost[last], score[last]):
            found.append(index)
    return found


def hypervolume(costs: Numbers, scores: Numbers, cost_limit: float, score_floor: float = 0.0) -> float:
    """The area between what is dominated and the corner (`cost_limit`, `score_floor`), in cost times score."""
    area, reached = 0.0, score_floor
    for index in front(costs, scores):
        if costs[index] < cost_limit and scores[index] > reached:
            area += float((cost_limit - costs[index]) * (scores[index] - reached))
            reached = float(scores[index])
    return area


def fronts(costs: Numbers, scores: Numbers) -> list[list[int]]:
    """Non-dominated sorting: the front, that of what is left without it, and so on; indices by cost.

    In O(n log n), by the sweep that two objectives allow: by cost, each goes to the first front whose best so far does
    not dominate it.
    """
    cost, score = _pairs(costs, scores)
    found: list[list[int]] = []
    best: list[tuple[float, float]] = []  # of each front: the highest score so far, negated, and its cost; ascending
    for index in np.lexsort((-score, cost)).tolist():
        key = (-float(score[index]), float(cost[index]))
        number = bisect_left(best, key)
        if number == len(found):
            found.append([])
            best.append(key)
        found[number].append(index)
        best[number] = key
    return found


def crowding(costs: Numbers, scores: Numbers) -> NDArray[np.float64]:
    """Crowding distances `(n,)` of the members of one front (NSGA-II: Deb et al. 2002, section III-B).

    Of each the extent of the gap between its neighbours, as shares of the whole; infinite at the ends.
    """
    pair = _pairs(costs, scores)
    distances = np.zeros(len(pair[0]))
    for values in pair:
        order = np.argsort(values, kind="stable")
        extent = float(values[order[-1]] - values[order[0]]) if len(order) else 0.0
        if extent:
            distances[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / extent
        distances[order[[0, -1]] if len(order) else []] = np.inf
    return distances


def _pairs(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    one, other = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if one.ndim != 1 or one.shape != other.shape:
        raise ValueError(f"expected two rows of equal length, not {one.shape} and {other.shape}")
    return one, other


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0; equal values have the average of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts + 1) / 2)[place.reshape(-1)], np.float64)
