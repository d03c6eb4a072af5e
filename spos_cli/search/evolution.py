"""The search as a pure function: what to score next, given what was scored (paper, algorithm 1).

Nothing here knows how a score comes about; `search` takes `evaluate`, which scores a whole generation. Every
generation draws from a generator of its own, so replaying the scores of a killed search leads to the same
candidates again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spos_cli import seeding
from spos_cli.errors import LimitError
from spos_cli.search.journal import Origin
from spos_cli.search.statistics import crowding, fronts
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable

TRIES = 2000  # of a random candidate under several limits
ENUMERATED = 100_000  # architectures that are gone through one by one when tries have failed
TRIES_PER_CHILD = 10  # the published code gives up on mutation and crossover after as many


@dataclass(frozen=True)
class Candidate:
    """An architecture to be scored, and where it comes from."""

    architecture: Architecture
    generation: int
    origin: Origin


@dataclass
class Draws:
    """What became of all that one operator has drawn: `accepted` is what remains of `proposed`.

    Attributes:
        duplicate: drawn, or scored, before.
        over_limit: over a limit, however often they were drawn.
    """

    proposed: int = 0
    accepted: int = 0
    duplicate: int = 0
    over_limit: int = 0

    def __add__(self, other: Draws) -> Draws:
        return Draws(
            self.proposed + other.proposed,
            self.accepted + other.accepted,
            self.duplicate + other.duplicate,
            self.over_limit + other.over_limit,
        )


class Proposal(NamedTuple):
    """The candidates of one generation, and what was drawn to find them."""

    candidates: list[Candidate]
    draws: dict[Origin, Draws]


@dataclass(frozen=True)
class Evolution:
    """The sizes of a search; generation 0 is random, `generations` more are made of the best so far.

    A search may also begin with given architectures. With `parents` 0 every generation is random: the baseline at the
    same budget.

    Attributes:
        table: what the limit is on; candidates are drawn exactly under it.
        limit: largest cost of a candidate, or None.
        population: candidates per generation.
        parents: best candidates so far that children are made of.
        mutations, crossovers: children per generation; random candidates fill the rest.
        mutation_probability: of each layer, to be drawn anew.
        flops: by which the cheaper of two that score alike comes first; None: `table`.
        others: more limits, under which candidates are drawn by rejection: best the ones that leave more.
        front_on: the cost of which the search is for the whole front, cost against score; None: for the best score.
    """

    table: CostTable
    limit: int | None
    population: int
    generations: int
    parents: int
    mutations: int
    crossovers: int
    mutation_probability: float
    seed: int
    flops: CostTable | None = None
    others: tuple[tuple[CostTable, int], ...] = ()
    front_on: CostTable | None = None

    def search(
        self,
        evaluate: Callable[[Sequence[Candidate]], Sequence[float]],
        known: Mapping[Architecture, float] | None = None,
        begin: Sequence[Architecture] = (),
        watch: Callable[[int, dict[Origin, Draws]], None] = lambda generation, draws: None,
    ) -> Iterator[list[tuple[Candidate, float]]]:
        """Yields each generation with its scores; a higher score is better.

        No architecture comes twice. The search ends early when it has seen all that the limit allows.

        Args:
            evaluate: scores a generation; below 0 are those that lost a race, which are never on a front.
            known: scores that `evaluate` would give, to go on from: the best are the parents of the first generation.
            begin: architectures without a score, under the limits, the most promising first. Generation 0 begins with
                them. Those that find no place there count as seen, and come when nothing new is left.
            watch: is told of each generation, before it is scored, how its operators fared.
        """
        scores = dict(known or {})
        best = self.best_of(scores, scores)
        for generation in range(self.generations + 1):
            waiting = [arch for arch in begin if arch not in scores]
            candidates, draws = self.propose(generation, best, scores, waiting)
            if not candidates:
                return
            watch(generation, draws)
            results = list(zip(candidates, evaluate(candidates), strict=True))
            scores.update({candidate.architecture: score for candidate, score in results})
            # Only these can be the best now; to sort all anew would make a long search's time grow with its square.
            best = self.best_of([*best, *(candidate.architecture for candidate in candidates)], scores)
            yield results

    def best_of(
        self, archs: Iterable[Architecture], scores: Mapping[Architecture, float], number: int | None = None
    ) -> list[Architecture]:
        """The next parents, or so many others, in the order of `Entry.rank`: by score, FLOPs and architecture.

        In a search for a front those of NSGA-II (Deb et al. 2002): by front, then the less crowded.
        """
        number, flops = self.parents if number is None else number, self.flops or self.table
        ranked = sorted(archs, key=lambda arch: (-scores[arch], flops.of(arch), arch))
        if self.front_on is not None:
            return self.spread_of([arch for arch in ranked if scores[arch] >= 0], scores, self.front_on, number)
        return ranked[:number]

    def spread_of(
        self, archs: Sequence[Architecture], scores: Mapping[Architecture, float], table: CostTable, number: int
    ) -> list[Architecture]:
        """The first `number` by front, then by crowding distance, then the cheaper."""
        costs, values = (np.array([of(arch) for arch in archs], np.float64) for of in (table.of, scores.__getitem__))
        best: list[Architecture] = []
        for members in fronts(costs, values):
            if len(best) >= number:
                break
            order = np.argsort(-crowding(costs[members], values[members]), kind="stable")
            best += [archs[members[index]] for index in order]
        return best[:number]

    def allows(self, arch: Architecture) -> bool:
        """Whether an architecture is under all limits."""
        under = self.limit is None or self.table.of(arch) <= self.limit
        return under and all(table.of(arch) <= limit for table, limit in self.others)

    def require_candidates(self) -> None:
        """Raises LimitError if the limits allow no architecture, as far as can be seen; the message says why."""
        if self.probe() is not None:
            return
        rng, fresh = seeding.generator(self.seed, "probe"), _Fresh(self, set())
        drawn = [fresh.any(rng) for _ in range(TRIES)]
        reasons = []
        for table, limit in self.others:
            costs = [table.of(arch) for arch in drawn]
            under = sum(cost <= limit for cost in costs)
            reasons.append(
                f"{under:,} have at most {table.format(limit)} {table.label} (they have from"
                f" {table.format(min(costs))} to {table.format(max(costs))}, the space from"
                f" {table.format(table.minimum)})"
            )
        first = "" if self.limit is None else f" with at most {self.table.format(self.limit)} {self.table.label}"
        raise LimitError(
            f"no architecture was found under all limits: of {len(drawn):,} drawn{first}, {'; '.join(reasons)}; raise"
            " a limit"
        )

    def probe(self) -> Architecture | None:
        """One architecture under all limits, the same on every call; None if none is found.

        Raises:
            LimitError: the first limit alone allows none.
        """
        rng, fresh = seeding.generator(self.seed, "probe"), _Fresh(self, set())
        fresh.any(rng)
        return fresh.draw(rng)

    def propose(
        self,
        generation: int,
        best: Sequence[Architecture],
        seen: Iterable[Architecture],
        waiting: Sequence[Architecture] = (),
    ) -> Proposal:
        """The candidates of one generation: in the first one those that wait; children of the best; random ones."""
        rng = seeding.generator(self.seed, "evolution", generation)
        fresh = _Fresh(self, {*seen, *waiting})
        again = [Candidate(arch, generation, "rescored") for arch in waiting]
        candidates = again[: self.population] if generation == 0 else []
        draws: dict[Origin, Draws] = {}

        def add(origin: Origin, number: int, draw: Callable[[], Architecture]) -> None:
            draws[origin] = fresh.draws = Draws()
            number = min(number, self.population - len(candidates))
            for _ in range(number * TRIES_PER_CHILD):
                if number == 0:
                    return
                child = draw()
                if fresh.take(child):
                    candidates.append(Candidate(child, generation, origin))
                    number -= 1

        if best:
            add("mutation", self.mutations, lambda: self.mutate(_pick(best, rng), rng))
            add("crossover", self.crossovers, lambda: self.cross(_pick(best, rng), _pick(best, rng), rng))
        draws["random"] = fresh.draws = Draws()
        while len(candidates) < self.population and (arch := fresh.draw(rng)) is not None:
            candidates.append(Candidate(arch, generation, "random"))
        if generation > 0:
            candidates += again[: self.population - len(candidates)]
        # What was found once under narrow limits may not be found again.
        if generation == 0 and not candidates and (arch := self.probe()) is not None and fresh.take(arch):
            candidates.append(Candidate(arch, generation, "random"))
        return Proposal(candidates, draws)

    def mutate(self, parent: Architecture, rng: np.random.Generator) -> Architecture:
        """Draws the choice of each layer anew with `mutation_probability`, and its width."""
        options = self.table.options
        anew = rng.random(len(parent)) < self.mutation_probability
        choices = np.where(anew, options.draw_choices(rng), parent.choices)
        if not options.widths:
            return Architecture(tuple(choices.tolist()))
        # A choice without a width has none to hand on.
        anew = (rng.random(len(parent)) < self.mutation_probability) | (_widths(parent) == 0)
        return options.combine(choices, np.where(anew, options.draw_widths(rng), _widths(parent)))

    def cross(self, one: Architecture, other: Architecture, rng: np.random.Generator) -> Architecture:
        """Takes each layer from either parent."""
        from_one = rng.random(len(one)) < 0.5
        choices = np.where(from_one, one.choices, other.choices)
        return self.table.options.combine(choices, np.where(from_one, _widths(one), _widths(other)))


def _widths(arch: Architecture) -> NDArray[np.int64]:
    """By layer, zeros where there are none: `(layers,)`."""
    return np.array(arch.widths or (0,) * len(arch))


def _pick(best: Sequence[Architecture], rng: np.random.Generator) -> Architecture:
    return best[int(rng.integers(len(best)))]


class _Fresh:
    """The architectures under all limits that have not been seen."""

    def __init__(self, evolution: Evolution, seen: set[Architecture]) -> None:
        self.table, self.limit, self.others = evolution.table, evolution.limit, evolution.others
        self.allows, self.seen = evolution.allows, seen
        self.draws = Draws()  # of whoever draws now
        self.distribution = evolution.table.distribution()
        self.count = self.distribution.count(None, self.limit)  # without the other limits
        self.left: list[Architecture] | None = None  # of a space most of which is seen, once it was listed

    def take(self, arch: Architecture) -> bool:
        """Marks an architecture as seen, and counts it; False if it was seen, or if it is over a limit."""
        self.draws.proposed += 1
        if arch in self.seen:
            self.draws.duplicate += 1
            return False
        if not self.allows(arch):
            self.draws.over_limit += 1
            return False
        self.draws.accepted += 1
        self.seen.add(arch)
        return True

    def draw(self, rng: np.random.Generator) -> Architecture | None:
        """One of them, uniformly; None when there is none left, or none is found among very many."""
        if len(self.seen) * 2 <= self.count:  # at most two tries on average, but for other limits
            for _ in range(TRIES) if self.others or not self.distribution.is_exact else itertools.count():
                if self.take(arch := self.any(rng)):
                    return arch
            if self.count > ENUMERATED:
                return None
            self.left = None
        if self.left is None:
            self.left = [arch for arch in self.all() if arch not in self.seen and self.allows(arch)]
        if not self.left:
            return None
        arch = self.left.pop(int(rng.integers(len(self.left))))
        self.take(arch)
        return arch

    def any(self, rng: np.random.Generator) -> Architecture:
        """An architecture at or under the first limit."""
        return self.distribution.draw(rng, None, self.limit)

    def all(self) -> Iterator[Architecture]:
        """All of them, in lexicographic order."""
        return self.distribution.enumerate(None, self.limit)
