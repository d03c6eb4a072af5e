"""Rank fidelity: does the supernet rank architectures as stand-alone trainings do?"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Sequence
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

MAX_DRAWS = 1000  # Draws of an architecture in one part of the range of FLOPs, under all limits.


def choose_architectures(
    candidates: Sequence[Entry], number: int, evolution: Evolution, flops: CostTable, flops_limit: int | None
) -> list[Architecture]:
    """Choose up to `number` architectures for stand-alone trainings: the winner, and others whatever their scores.

    The others are one random architecture from each equal part of the range of FLOPs. A part in which none is found
    under all limits is left out.

    Args:
        candidates: of the search, at least one.
    """
    winner, parts = ranking(candidates)[0].architecture, number - 1
    reach = min(flops.maximum, flops.maximum if flops_limit is None else flops_limit) - flops.minimum
    archs = [winner]
    for part in range(parts):
        low, high = (flops.minimum + reach * end // parts for end in (part, part + 1))
        rng = seeding.generator(evolution.seed, "audit", part)
        with contextlib.suppress(LimitError):
            drawn = (flops.distribution().draw(rng, low, high) for _ in range(MAX_DRAWS))
            archs += itertools.islice((a for a in drawn if evolution.allows(a) and a not in archs), 1)
    return archs


def compare_rankings(entries: Sequence[Entry], stand_alone: Sequence[float]) -> dict[str, Any]:
    """Return the winner, the other architectures, and the rank correlations of the others, as plain types.

    The winner was selected for its score, so it is high in both rankings more often than an architecture that was not.
    With it, a correlation of 0.33 between twelve architectures looks like 0.41.

    Args:
        entries: the winner first, then architectures that were chosen whatever their scores.
        stand_alone: top-1 of each after a stand-alone training.
    """
    rows = [
        {"architecture": entry.architecture.to_list(), "flops": entry.flops, "one_shot": entry.top1, "alone": top1}
        for entry, top1 in zip(entries, stand_alone, strict=True)
    ]
    one_shot, flops = [entry.top1 for entry in entries[1:]], [entry.flops for entry in entries[1:]]
    return {
        "winner": rows[0],
        "architectures": rows[1:],
        "kendall": correlate("kendall", one_shot, stand_alone[1:]),
        "spearman": correlate("spearman", one_shot, stand_alone[1:]),
        "kendall_of_flops": correlate("kendall", flops, stand_alone[1:]),
    }


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
