"""Statistics of scores: intervals, paired tests, rank correlations and fronts.

NumPy only. Scores are shares of the same images for all candidates, so two candidates are compared image by image.
Fronts are over a cost, lower is better, and a score, higher is better.
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
MIN_EFFECTIVE_IMAGES = 25  # Of a weighted test: (sum of w^2)^2 / sum of w^4 over the images that differ.
MAX_SUMS = 4096  # Different sums of weights that an exact test keeps apart.
PAIRS_AT_ONCE = 1_000_000  # Pairs that Kendall's tau compares at once, which limits its memory.


def interval(right: float, images: float, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share (Wilson 1927), which is reliable near 0 and 1, too.

    Args:
        right: images that were classified right.
        images: number of images, above 0. Neither need be a whole number: images of unequal weights tell as much as
            some number of equal ones.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, scale = right / images, 1 + z * z / images
    middle = share + z * z / (2 * images)
    half = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    low = 0.0 if right == 0 else max(0.0, (middle - half) / scale)
    return low, 1.0 if right == images else min(1.0, (middle + half) / scale)


def mcnemar(only_one: int, only_other: int) -> float:
    """Return the p-value of the exact two-sided McNemar test: is one candidate right as often as the other?

    Images that both get right or both get wrong say nothing. Of the others, either has each with probability 1/2.

    Args:
        only_one, only_other: number of images that only one of the two gets right.
    """
    count, less = only_one + only_other, min(only_one, only_other)
    if only_one == only_other:
        return 1.0
    log_choose = math.lgamma(count + 1) - math.lgamma(less + 1) - math.lgamma(count - less + 1)
    # Binomial probabilities from `less` down to 0, by the ratio of each to the one before it.
    below = np.arange(less, 0, -1)
    tail = 1 + float(np.cumprod(below / (count - below + 1)).sum())
    return min(1.0, 2 * tail * math.exp(log_choose - count * math.log(2)))


def sign_flip(weights: ArrayLike, only_one: ArrayLike, only_other: ArrayLike) -> float:
    """Return the p-value of the two-sided sign-flip test: is the weighted difference of two candidates chance?

    Images that both get right or both get wrong say nothing. Under the hypothesis, either candidate has each of the
    others with probability 1/2, so the sign of each image's weight is random, and the p-value is the probability that
    the sum of the weights is as far from 0 as it is. If all images have the same weight, this is `mcnemar`. If the
    candidates are equal over all classes, but not in each class, the sum varies less than here, so that the test is
    too cautious rather than too bold.

    The distribution is exact for few images. From `MIN_EFFECTIVE_IMAGES` on it is normal: the first term that is
    neglected, of the kurtosis, changes p-values near 5 % by less than 0.1 %.

    Args:
        weights: of an image of each group, `(groups,)`.
        only_one, only_other: number of images of each group that only one of the two gets right, `(groups,)`.
    """
    weight, one, other = (np.asarray(values, np.float64) for values in (weights, only_one, only_other))
    counts, distance = one + other, abs(float(weight @ (one - other)))
    groups = np.flatnonzero(counts)
    if len(np.unique(weight[groups])) <= 1:
        return mcnemar(int(one.sum()), int(other.sum()))
    variance, fourth = float(weight**2 @ counts), float(weight**4 @ counts)
    if variance**2 / fourth >= MIN_EFFECTIVE_IMAGES:
        return 2 * NormalDist().cdf(-distance / math.sqrt(variance))
    sums: NDArray[np.float64] = np.zeros(1)
    masses: NDArray[np.float64] = np.ones(1)
    rounding = 0.0
    for group in groups.tolist():
        steps, shares = _flip_signs(int(counts[group]))
        sums = np.add.outer(sums, weight[group] * steps).ravel()
        masses = np.multiply.outer(masses, shares).ravel()
        if len(sums) > MAX_SUMS:  # Sums that are nearly equal become one.
            width = (float(sums.max()) - float(sums.min())) / MAX_SUMS
            numbers, index = np.unique(np.rint(sums / width), return_inverse=True)
            sums, masses = numbers * width, np.bincount(index.reshape(-1), masses).astype(np.float64)
            rounding += width / 2
    tolerance = rounding + 1e-9 * float(weight @ counts)
    return min(1.0, float(masses[np.abs(sums) >= distance - tolerance].sum()))


def _flip_signs(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums that `count` random signs have, and their probabilities, but for those below 1e-13."""
    positive = np.arange(count + 1)
    positive = positive[np.abs(2 * positive - count) <= max(8 * math.sqrt(count), 8)]
    logs = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in positive.tolist()]
    return np.asarray(2.0 * positive - count), np.asarray(np.exp(np.array(logs) - count * math.log(2)))


def hypergeometric_tail(size: int, drawn: int, least: int) -> float:
    """Return the exact probability of at least `least` of one kind in a draw without replacement.

    Args:
        size: of the population, an even number; half of it is of that kind.
        drawn: number of draws.
        least: more than half of the draws.
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
    """Return Kendall's tau-b of x `(n,)` and y `(n,)`, which allows for ties; NaN if all of x or all of y are equal."""
    one, other = _pairs(x, y)
    rows = max(1, PAIRS_AT_ONCE // max(1, len(one)))
    both = ones = others = 0
    for start in range(0, len(one), rows):
        signs = np.sign(one[start : start + rows, None] - one)
        other_signs = np.sign(other[start : start + rows, None] - other)
        both += int((signs * other_signs).sum())
        ones += int(np.count_nonzero(signs))
        others += int(np.count_nonzero(other_signs))
    return both / math.sqrt(ones * others) if ones and others else math.nan


def spearman(x: Numbers, y: Numbers) -> float:
    """Return Spearman's rho of x `(n,)` and y `(n,)` with average ranks for ties; NaN if all of x or of y are equal."""
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
    """Return the bootstrap percentile interval of a statistic of pairs.

    Draws for which the statistic is not finite (all values are equal, say) do not count; NaN if there are no others.
    """
    one, other = _pairs(x, y)
    chosen = rng.integers(len(one), size=(draws, len(one)))
    values = np.array([statistic(one[draw], other[draw]) for draw in chosen], np.float64)
    return _percentiles(values[np.isfinite(values)], level)


def bootstrap_kendall(
    x: Numbers, y: Numbers, rng: np.random.Generator, draws: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Return what `bootstrap(kendall, ...)` returns, in a hundredth of the time for thousands of pairs.

    A draw gives each pair a weight: how often it was drawn. Tau is a quadratic form of these weights, so that all draws
    together are a matrix product.
    """
    one, other = _pairs(x, y)
    number = len(one)
    chosen = rng.integers(number, size=(draws, number))
    weights = np.stack([np.bincount(draw, minlength=number) for draw in chosen]).astype(np.float32)  # (draws, n)
    both = np.zeros(draws)
    rows = max(1, PAIRS_AT_ONCE // max(1, number))
    for start in range(0, number, rows):
        chunk = slice(start, start + rows)
        signs = np.sign(one[chunk, None] - one) * np.sign(other[chunk, None] - other)  # (rows, n)
        # Sums of whole numbers below 2 ** 24 are exact in float32.
        both += ((weights @ signs.astype(np.float32).T) * weights[:, chunk]).sum(axis=1, dtype=np.float64)
    differing = [number**2 - _count_ties(values, weights) for values in (one, other)]  # ordered pairs, by draw
    scale = np.sqrt(differing[0] * differing[1])
    return _percentiles(both[scale > 0] / scale[scale > 0], level)


def _count_ties(values: NDArray[np.float64], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return how many ordered pairs of a draw have equal values `(draws,)`; each value is equal to itself."""
    distinct, group = np.unique(values, return_inverse=True)
    group = group.reshape(-1)
    sizes = np.stack([np.bincount(group, weights=row, minlength=len(distinct)) for row in weights])
    return np.asarray((sizes**2).sum(axis=1), np.float64)


def _percentiles(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Return both ends of the middle part of some values; NaN if there are none."""
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def compare_means(one: Sequence[float], other: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Return the difference of two means and its interval (Welch 1947), which allows for unequal variances.

    Both ends are NaN if one of the samples has fewer than two values, or if neither varies.
    """
    difference = float(np.mean(one) - np.mean(other)) if len(one) and len(other) else math.nan
    if min(len(one), len(other)) < 2:
        return difference, math.nan, math.nan
    parts = [float(np.var(sample, ddof=1)) / len(sample) for sample in (one, other)]
    if not sum(parts):
        return difference, math.nan, math.nan
    freedom = sum(parts) ** 2 / sum(part**2 / (len(s) - 1) for part, s in zip(parts, (one, other), strict=True))
    half = student_quantile((1 + level) / 2, freedom) * math.sqrt(sum(parts))
    return difference, difference - half, difference + half


def student_quantile(share: float, freedom: float) -> float:
    """Return a quantile of Student's t distribution, by numerical integration.

    With t = sqrt(freedom) tan(angle), the density is a power of the cosine of the angle.

    Args:
        share: from 0.5 to below 1.
        freedom: degrees of freedom, at least 1.
    """
    angles = np.linspace(0, math.pi / 2, 200_001)
    heights = np.cos(angles) ** (freedom - 1)
    areas = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
    angle = float(np.interp(2 * share - 1, areas / areas[-1], angles))
    return math.sqrt(freedom) * math.tan(angle)


def front(costs: Numbers, scores: Numbers) -> list[int]:
    """Return the indices of the non-dominated candidates, by cost.

    One candidate dominates another if it costs at most as much, scores at least as much, and is not equal in both.
    """
    cost, score = _pairs(costs, scores)
    order = np.lexsort((-score, cost))
    chosen: list[int] = []
    for index in order.tolist():
        last = chosen[-1] if chosen else None
        if last is None or score[index] > score[last] or (cost[index], score[index]) == (cost[last], score[last]):
            chosen.append(index)
    return chosen


def hypervolume(costs: Numbers, scores: Numbers, cost_limit: float, score_floor: float = 0.0) -> float:
    """Return the area that the front dominates, up to `cost_limit` and above `score_floor`, in cost times score."""
    area, reached = 0.0, score_floor
    for index in front(costs, scores):
        if costs[index] < cost_limit and scores[index] > reached:
            area += float((cost_limit - costs[index]) * (scores[index] - reached))
            reached = float(scores[index])
    return area


def fronts(costs: Numbers, scores: Numbers) -> list[list[int]]:
    """Sort by dominance: the front, then the front of the rest, and so on; each as indices by cost.

    It takes O(n log n), by a sweep that two objectives allow: in the order of cost, each candidate goes to the first
    front whose best candidate so far does not dominate it.
    """
    cost, score = _pairs(costs, scores)
    members: list[list[int]] = []
    best: list[tuple[float, float]] = []  # For each front: its highest score so far, negated, and the cost; ascending.
    for index in np.lexsort((-score, cost)).tolist():
        key = (-float(score[index]), float(cost[index]))
        number = bisect_left(best, key)
        if number == len(members):
            members.append([])
            best.append(key)
        members[number].append(index)
        best[number] = key
    return members


def crowding(costs: Numbers, scores: Numbers) -> NDArray[np.float64]:
    """Return the crowding distance `(n,)` of each member of one front (NSGA-II: Deb et al. 2002, section III-B).

    It is the distance between the neighbours of a member, as a share of the whole range, summed over cost and score;
    infinite at both ends.
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
    """Return both as arrays `(n,)`; raise ValueError if their lengths differ."""
    one, other = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if one.ndim != 1 or one.shape != other.shape:
        raise ValueError(f"expected two rows of equal length, got {one.shape} and {other.shape}")
    return one, other


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks from 0; equal values get their average rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts + 1) / 2)[group.reshape(-1)], np.float64)
