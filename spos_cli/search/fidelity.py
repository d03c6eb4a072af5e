"""Rank fidelity: does the supernet rank architectures as stand-alone trainings do?"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import numpy as np

from spos_cli import seeding
from spos_cli.errors import LimitError
from spos_cli.search import statistics
from spos_cli.search.evolution import Evolution
from spos_cli.search.journal import Entry
from spos_cli.search.results import ranking
from spos_cli.search.statistics import Numbers
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable
from spos_cli.space.limits import Limit

EQUAL_SHARE = 0.03  # FLOPs are about equal if they differ by at most this share.
NetworkKey = Callable[[Architecture], Hashable]
MAX_DRAWS = 1000  # Draws of an architecture in one part of the range of FLOPs, under all limits.


def choose_architectures(
    candidates: Sequence[Entry],
    number: int,
    evolution: Evolution,
    flops: CostTable,
    flops_limit: Limit | None,
    network_key: NetworkKey,
) -> list[Architecture]:
    """Choose up to `number` architectures for stand-alone trainings: the winner, and others whatever their scores.

    The others are one random architecture from each equal part of the range of FLOPs that the limit allows. A part in
    which none is found within all limits is left out.

    Args:
        candidates: of the search, at least one.
        network_key: equal for architectures that are the same network; each network is chosen once.
    """
    winner, parts = ranking(candidates)[0].architecture, number - 1
    lowest, highest = flops.minimum, flops.maximum
    if flops_limit is not None:
        lowest, highest = max(lowest, flops_limit.low or 0), min(highest, flops_limit.high)
    archs = [winner]
    for part in range(parts):
        low, high = (lowest + (highest - lowest) * end // parts for end in (part, part + 1))
        rng = seeding.generator(evolution.seed, "audit", part)
        with contextlib.suppress(LimitError):
            drawn = (flops.distribution().draw(rng, low, high) for _ in range(MAX_DRAWS))
            keys = {network_key(arch) for arch in archs}
            archs += itertools.islice((a for a in drawn if evolution.allows(a) and network_key(a) not in keys), 1)
    return archs


def choose_equal_flops(
    winner: Entry, number: int, evolution: Evolution, flops: CostTable, network_key: NetworkKey
) -> list[Architecture]:
    """Choose up to `number` random architectures under all limits whose FLOPs are about those of the winner.

    A larger number begins with the same architectures.

    Args:
        network_key: equal for architectures that are the same network; each network is chosen once, and the winner not.
    """
    if not number:
        return []
    rng = seeding.generator(evolution.seed, "audit of equal FLOPs")
    low, high = math.ceil((1 - EQUAL_SHARE) * winner.flops), math.floor((1 + EQUAL_SHARE) * winner.flops)
    distribution = flops.distribution()
    drawn = (distribution.draw(rng, low, high) for _ in range(MAX_DRAWS))
    archs = {network_key(winner.architecture): winner.architecture}
    with contextlib.suppress(LimitError):
        for arch in filter(evolution.allows, drawn):
            archs.setdefault(network_key(arch), arch)
            if len(archs) == 1 + number:
                break
    return list(archs.values())[1:]


def compare_with_equals(
    winner: Sequence[float], entries: Sequence[Entry], stand_alone: Sequence[float]
) -> dict[str, Any]:
    """Return architectures of about the winner's FLOPs, their rank correlations, and how much better the winner is.

    Args:
        winner: top-1 of each stand-alone training of the winner.
        entries: random architectures of about the winner's FLOPs.
        stand_alone: top-1 of each of them.
    """
    return {**_compare(entries, stand_alone), "difference": measure_difference(winner, stand_alone)}


def measure_difference(winner: Sequence[float], others: Sequence[float]) -> dict[str, float | None]:
    """Return how much better the mean of one sample is, and the interval, with None for what is not known."""
    numbers = zip(("value", "low", "high"), statistics.compare_means(winner, others), strict=True)
    return {name: number if math.isfinite(number) else None for name, number in numbers}


def describe_difference(difference: dict[str, float | None]) -> str:
    """Say what `measure_difference` has found, in points."""
    value, low, high = (difference[name] for name in ("value", "low", "high"))
    if value is None:
        return "difference of the means: none"
    text = f"difference of the means: {100 * value:+.2f} points, 95 % interval "
    if low is None or high is None:
        return f"{text}none"
    verdict = "the winner is better" if low > 0 else "that the winner is better has not been shown"
    return f"{text}{100 * low:+.2f} to {100 * high:+.2f} points; {verdict}"


def compare_rankings(entries: Sequence[Entry], stand_alone: Sequence[float]) -> dict[str, Any]:
    """Return the winner, the other architectures, and the rank correlations of the others, as plain types.

    The winner was selected for its score, so it is high in both rankings more often than an architecture that was not.
    With it, a correlation of 0.33 between twelve architectures looks like 0.41.

    Args:
        entries: the winner first, then architectures that were chosen whatever their scores.
        stand_alone: top-1 of each after a stand-alone training.
    """
    (winner,) = _list_trained(entries[:1], stand_alone[:1])
    return {"winner": winner, **_compare(entries[1:], stand_alone[1:])}


def _compare(entries: Sequence[Entry], stand_alone: Sequence[float]) -> dict[str, Any]:
    """Return architectures with both accuracies, and rank correlations with the stand-alone ranking."""
    one_shot, flops = [entry.top1 for entry in entries], [entry.flops for entry in entries]
    return {
        "architectures": _list_trained(entries, stand_alone),
        "kendall": correlate("kendall", one_shot, stand_alone),
        "spearman": correlate("spearman", one_shot, stand_alone),
        "kendall_of_flops": correlate("kendall", flops, stand_alone),
    }


def _list_trained(entries: Sequence[Entry], stand_alone: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"architecture": entry.architecture.to_list(), "flops": entry.flops, "one_shot": entry.top1, "alone": top1}
        for entry, top1 in zip(entries, stand_alone, strict=True)
    ]


def correlate(name: Literal["kendall", "spearman"], one: Numbers, other: Numbers) -> dict[str, float | None]:
    """Return a rank correlation and its bootstrap interval; None for too few pairs, or if all values are equal."""
    if len(one) < statistics.MIN_PAIRS:
        return dict.fromkeys(("value", "low", "high"))
    rng = np.random.default_rng(0)
    if name == "kendall":
        value, (low, high) = statistics.kendall(one, other), statistics.bootstrap_kendall(one, other, rng)
    else:
        value, (low, high) = statistics.spearman(one, other), statistics.bootstrap(statistics.spearman, one, other, rng)
    values = {"value": value, "low": low, "high": high}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
