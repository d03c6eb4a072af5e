"""When a candidate may stop: it is behind, on the images so far, by more than chance explains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Outcomes = NDArray[np.bool_]  # by image: whether it was classified right


@dataclass(frozen=True)
class Race:
    """A candidate against the last of the parents, on the same images.

    Attributes:
        rival: outcomes of the last parent, of all images that are scored.
        risk: largest probability, at each look, of stopping a candidate that is as good as the rival.
    """

    rival: Outcomes
    risk: float

    def is_lost(self, outcomes: Outcomes) -> bool:
        """Whether the upper confidence bound on the difference is below 0, from the outcomes so far.

        The bound is one-sided and normal, on the mean paired difference over all images, of which those so far are
        a sample without replacement.
        """
        images, total = len(outcomes), len(self.rival)
        difference = outcomes.astype(np.int8) - self.rival[:images]
        left = 1 - images / total
        error = math.sqrt(float(difference.var(ddof=1)) / images * left) if images > 1 else math.inf
        return bool(difference.mean() + NormalDist().inv_cdf(1 - self.risk) * error < 0)
