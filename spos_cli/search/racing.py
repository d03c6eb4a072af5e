"""When to stop scoring a candidate: it is behind by more than chance explains.

All candidates are scored on one set of images, and a candidate is as good as its rival if it gets as many of these
images right. The images come in random order, so the first ones are a sample of the set without replacement. Images
that both get right or both get wrong say nothing. Of the other images, equally good candidates share half and half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spos_cli.search.statistics import hypergeometric_tail

Outcomes = NDArray[np.bool_]  # For each image: whether its label had the largest logit.
MAX_CHECKS = 9  # Interim checks per race, a tenth of the images apart.
EXTRA_STANDARD_ERRORS = 3  # They are added to the estimate of how many images of the set differ.


def list_interim_checks(images: int) -> list[float]:
    """Return after how many images each interim check is due. There is none after all images: it would save nothing."""
    return [images * check / (MAX_CHECKS + 1) for check in range(1, MAX_CHECKS + 1)]


@dataclass(frozen=True)
class Race:
    """A race of candidates against the last of the parents, on the same images.

    Attributes:
        rival: outcomes of the last parent `(images,)`, of all images that are scored.
        risk: largest probability, over the whole race, of stopping a candidate that is as good as the rival.
    """

    rival: Outcomes
    risk: float

    def is_lost(self, outcomes: Outcomes) -> bool:
        """Return whether a candidate stops at an interim check, from its outcomes so far `(n,)`.

        Each check is an exact one-sided sign test at the level `risk / MAX_CHECKS`. These levels add up to `risk`. So
        `risk` bounds the probability that any check stops an equally good candidate, however much the checks depend on
        each other (Bonferroni). The levels are equal (as Pocock 1977, group sequential tests) rather than increasing
        (O'Brien and Fleming 1979), since early stops save most images.

        How many images of the whole set differ is not known yet. The estimate is `EXTRA_STANDARD_ERRORS` too high,
        because more differing images make the test more cautious. With very many, it is the test of a fair coin.
        """
        seen, total = len(outcomes), len(self.rival)
        rival = self.rival[:seen]
        behind, ahead = int((rival & ~outcomes).sum()), int((outcomes & ~rival).sum())
        if behind <= ahead:
            return False
        differ = behind + ahead
        error = math.sqrt(differ * (total - seen) * total) / seen
        differ_in_all = min(differ + total - seen, math.ceil(differ * total / seen + EXTRA_STANDARD_ERRORS * error))
        even = differ_in_all + differ_in_all % 2
        return hypergeometric_tail(even, differ, behind) < self.risk / MAX_CHECKS
