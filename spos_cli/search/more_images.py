"""How many candidates would still be tied with the winner on more search images?"""

from __future__ import annotations

from typing import Any

import numpy as np

from spos_cli.search import statistics
from spos_cli.search.results import SIGNIFICANCE_LEVEL, Results

SIGNIFICANT_STANDARD_ERRORS = 1.96  # A smaller difference is not significant at 5 %.
IMAGE_FACTORS = (1, 2, 4, 8, 16)  # The number of search images is multiplied by each.
MAX_COMPARED = 100  # Best candidates beside the winner.


def estimate_ties(results: Results, images: int) -> tuple[list[dict[str, Any]], str]:
    """Estimate how many candidates would be tied on more images, if they disagreed with the winner as often as now.

    For each of the best candidates, the images that only it or only the winner has right are multiplied, and the
    paired test is repeated. Two candidates that disagree on a share d of n images are distinguishable if they differ
    by more than `SIGNIFICANT_STANDARD_ERRORS` times sqrt(d / n).

    Args:
        images: number of images that were scored.

    Returns:
        For each factor the number of images, the smallest distinguishable difference (`tie_width`, a share), and how
        many candidates would be tied, including the winner; empty if the outcomes of the winner, or of all others, are
        lost. And a text that says which outcomes are lost; empty if none are.
    """
    best = [entry for entry in results.ranking[: MAX_COMPARED + 1] if not entry.partial and entry.images == images]
    winner, *others = results.count_disagreements(best)
    kept = [pair for pair in others if pair[0] >= 0]
    problem = ""
    if winner[0] < 0:
        problem = "the best, so what more images would do is unknown"
    elif len(kept) < len(others):
        problem = f"{len(others) - len(kept)} of the best, so what more images would do is estimated from the others"
    problem = f"{results.outcomes} does not have the outcomes of {problem}" if problem else ""
    if not kept:
        return [], problem
    disagreement = np.median([pair.sum() / images for pair in kept])
    rows = [
        {
            "images": images * factor,
            "tie_width": float(SIGNIFICANT_STANDARD_ERRORS * np.sqrt(disagreement / (images * factor))),
            "tied": 1
            + sum(
                statistics.mcnemar(int(one) * factor, int(other) * factor) > SIGNIFICANCE_LEVEL for one, other in kept
            ),
        }
        for factor in IMAGE_FACTORS
    ]
    return rows, problem
