"""When a candidate may stop: it is behind, on the images so far, by more than chance explains.

All candidates are scored on one set of images, which is all that counts: a candidate is as good as its rival if it gets
as many of these images right. Images come in random order, so the first ones are a sample of the set without
replacement. Images that both get right or wrong say nothing; of the others, among equals, half are the rival's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spos_cli.search.statistics import hypergeometric_tail

Outcomes = NDArray[np.bool_]  # by image: whether it was classified right
CHECKS = 9  # at most; a tenth of the images apart
MARGIN = 3  # standard errors that an estimate of how many images differ is raised by


def checks(images: int) -> list[float]:
    """After how many images a race is checked, at the earliest; nothing would be saved after the last."""
    return [images * check / (CHECKS + 1) for check in range(1, CHECKS + 1)]


@dataclass(frozen=True)
class Race:
    """A candidate against the last of the parents, on the same images.

    Attributes:
        rival: outcomes of the last parent, of all images that are scored.
        risk: largest probability, over the whole race, of stopping a candidate that is as good as the rival.
    """

    rival: Outcomes
    risk: float

    def is_lost(self, outcomes: Outcomes) -> bool:
        """Whether a candidate stops at an interim check, from its outcomes so far.

        Each check is an exact one-sided sign test at the level `risk / CHECKS`. These levels add up to `risk`, which
        bounds the probability that any check stops an equal, however much the checks depend on each other
        (Bonferroni). Equal levels (as Pocock 1977, group sequential tests) rather than levels that grow (O'Brien and
        Fleming 1979), since it is early stops that save images.

        How many images of the set differ is estimated, `MARGIN` standard errors too high: more of them make the test
        more cautious, up to that of an endless set (a fair coin), to which it is close where few have differed.
        """
        images, total = len(outcomes), len(self.rival)
        rival = self.rival[:images]
        behind, ahead = int((rival & ~outcomes).sum()), int((outcomes & ~rival).sum())
        if behind <= ahead:
            return False
        differ = behind + ahead
        error = math.sqrt(differ * (total - images) * total) / images
        most = min(differ + total - images, math.ceil(differ * total / images + MARGIN * error))
        return hypergeometric_tail(most + most % 2, differ, behind) < self.risk / CHECKS
