"""Which lines of a journal count: the scores that were found on the images of its search.

Scores on other images are off by more than the best candidates differ, and the luckiest of many would be taken for the
best. So imported scores only say where to begin; parents, rivals, winners, ties and fronts come from `own` lines alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spos_cli.search.evolution import Evolution
from spos_cli.search.journal import Entry, ranking
from spos_cli.space.architecture import Architecture


def is_own(entry: Entry) -> bool:
    """Whether a score was found on the images of this search, so that it can be compared with its others."""
    return entry.origin != "imported"


def is_new(entry: Entry) -> bool:
    """Whether this search has scored it itself; what another search found on the same images is own, but not new."""
    return is_own(entry) and not entry.earlier


def own(entries: Iterable[Entry]) -> list[Entry]:
    """The lines that count, in their order; no architecture comes twice."""
    return [entry for entry in entries if is_own(entry)]


def new(entries: Iterable[Entry]) -> list[Entry]:
    """The lines that this search has scored itself, in their order."""
    return [entry for entry in entries if is_new(entry)]


def exportable(entries: Sequence[Entry]) -> list[Entry]:
    """The lines that count or, where all are imported, these: then none is compared with the score of another kind."""
    return own(entries) or list(entries)


def rows(entries: Iterable[Entry]) -> dict[Architecture, int]:
    """The line of each architecture that counts, from 0; that is also its row of `outcomes.bits`."""
    return {entry.architecture: row for row, entry in enumerate(entries) if is_own(entry)}


def known(entries: Iterable[Entry]) -> dict[Architecture, float]:
    """The fitness of what another search has scored on the same images: it counts before the first generation."""
    return {entry.architecture: entry.fitness for entry in entries if is_own(entry) and entry.earlier}


def to_rescore(entries: Iterable[Entry], evolution: Evolution) -> list[Architecture]:
    """The imported architectures that the limits allow, the most promising first.

    Their scores were found on other images, so this is the only use of them.
    """
    imported = {entry.architecture: entry for entry in ranking(entries) if not is_own(entry)}
    fitness = {arch: entry.fitness for arch, entry in imported.items() if evolution.allows(arch)}
    best = evolution.best_of(fitness, fitness, len(fitness))
    return list(dict.fromkeys([*best, *fitness]))  # candidates that were stopped early are on no front


def best_so_far(entries: Sequence[Entry]) -> list[float]:
    """The largest top-1 so far, after each candidate that this search has scored itself; below 0 before the first.

    What another search has scored on the same images counts from the beginning.
    """
    best, values = max(known(entries).values(), default=-1.0), []
    for entry in new(entries):
        best = max(best, entry.fitness)
        values.append(best)
    return values
