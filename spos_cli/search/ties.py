"""Which candidates cannot be told from the winner, from the outcomes that a search has kept; nothing is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from spos_cli.search.journal import Bitmaps, Entry
from spos_cli.search.results import is_own
from spos_cli.search.statistics import mcnemar
from spos_cli.space.architecture import Architecture

RISK = 0.05  # of telling two apart that are equally good


@dataclass(frozen=True)
class Ties:
    """What the paired test says of each candidate against the winner.

    It is one test for each, and the winner was picked for its outcomes on these very images: what really is as good
    as the winner is rather more than what is tied here.

    Attributes:
        p_values: of each that was compared, how likely a difference like theirs is between equals; the winner's is 1.
        unknown: why no tie is claimed, or not of all, for people; empty if there is nothing to say.
    """

    p_values: Mapping[Architecture, float] = field(default_factory=dict)
    unknown: str = ""

    @cached_property
    def tied(self) -> frozenset[Architecture]:
        """Those that the test cannot tell from the winner, and the winner."""
        return frozenset(arch for arch, value in self.p_values.items() if value > RISK)

    @property
    def count(self) -> int | None:
        """How many are tied, the winner among them; None if there is no telling."""
        return len(self.tied) or None

    def has(self, arch: Architecture) -> bool | None:
        """Whether a candidate is tied; None if there is no telling."""
        return arch in self.tied if arch in self.p_values else None


def find(candidates: Sequence[Entry], rows: Mapping[Architecture, int], bits: Path) -> Ties:
    """Compares each candidate with the best of them, image by image.

    Candidates of another search, and those that have not been scored to the end, are in no tie.

    Args:
        candidates: at least one.
        rows: where in `bits` the outcomes of each are.
        bits: the search's `outcomes.bits`.
    """
    winner = min(candidates, key=lambda entry: entry.rank)
    if winner.partial:
        return Ties(unknown="no candidate was scored to the end, so none is compared with the best")
    if not is_own(winner):
        return Ties(
            unknown="the best was scored by another search, whose outcomes by image are not here: no ties known"
        )
    ours = [entry for entry in candidates if not entry.partial and is_own(entry)]
    right, both = Bitmaps(bits, winner.images).overlaps(
        rows[winner.architecture], [rows[entry.architecture] for entry in ours]
    )
    # A row that was lost, and filled with zeros since, does not have as many as the journal says.
    kept = right == np.array([entry.right for entry in ours])
    if not kept[ours.index(winner)]:
        return Ties(unknown=f"{bits} is missing, or does not have the outcomes of the best: no ties known")
    only_winner, only_other = winner.right - both[kept], right[kept] - both[kept]
    pairs, which = np.unique(np.stack([only_winner, only_other], 1), axis=0, return_inverse=True)
    values = np.array([mcnemar(*pair) for pair in pairs.tolist()])[which.reshape(-1)]
    archs = [entry.architecture for entry, known in zip(ours, kept, strict=True) if known]
    lost = len(ours) - len(archs)
    return Ties(
        dict(zip(archs, values.tolist(), strict=True)),
        f"{bits} does not have the outcomes of {lost:,} candidates: these are in no tie" if lost else "",
    )
