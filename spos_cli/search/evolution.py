"""Evolution as a pure function: scores in, candidates out (paper, algorithm 1).

Nothing here knows how candidates are scored: `search` calls `evaluate` with a whole generation. Every generation has a
random generator of its own, so replaying the scores of a killed search leads to the same candidates again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from spos_cli import seeding
from spos_cli.errors import LimitError
from spos_cli.search.journal import Origin
from spos_cli.search.predictor import Predictor
from spos_cli.search.statistics import crowding, fronts
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable
from spos_cli.space.limits import Limit, describe_limit, get_bounds
from spos_cli.space.options import Numbers

MAX_TRIES = 2000  # Draws of a random candidate under several limits.
MAX_ENUMERATED = 100_000  # Architectures that are listed one by one when draws have failed.
TRIES_PER_CHILD = 10  # As in the official code, for mutation and crossover.
PREDICTED_GENERATIONS = 5  # Of the evolution on predicted fitness.
PREDICTED_DRAWS = 10  # Its draws in a generation, for each candidate of a real one.
PREDICTED_PARENTS = 2  # Its parents, for each parent of the real evolution.
RANDOM_SHARE = 0.2  # Share of a predicted generation that stays random, so that the predictor knows the whole space.


@dataclass(frozen=True)
class Candidate:
    """An architecture to score, and where it comes from."""

    architecture: Architecture
    generation: int
    origin: Origin


@dataclass
class Draws:
    """What became of the draws of one operator.

    Attributes:
        proposed: all draws; each is counted in one of the others.
        accepted: draws that became candidates.
        duplicate: draws of an architecture that was a candidate before.
        over_limit: other draws of an architecture outside of a limit.
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
    """The candidates of one generation, and how they were found.

    Attributes:
        candidates: to score.
        draws: of each operator.
        predictions: predicted fitness of each candidate; empty without a predictor.
    """

    candidates: list[Candidate]
    draws: dict[Origin, Draws]
    predictions: Mapping[Architecture, float] = MappingProxyType({})


@dataclass(frozen=True)
class Evolution:
    """The sizes of a search: generation 0 is random, `generations` more are made from the best candidates so far.

    A search can also begin with given architectures. Without parents, every generation is random: the baseline with the
    same budget.

    Attributes:
        table: the cost that is limited. Candidates are drawn exactly within this limit.
        limit: the costs that a candidate may have; None for any.
        population: candidates per generation.
        generations: number of generations after the first.
        parents: number of best candidates so far from which children are made.
        mutations, crossovers: children per generation; random candidates fill the rest.
        mutation_probability: probability of each layer to be drawn again.
        main: the cost that ranks candidates of the same fitness, the cheapest first; FLOPs, or BitOPs in a space with
            bits (`Costs.main`). None takes `table`.
        others: more limits, within which candidates are drawn by rejection, so they should exclude less.
        front_on: a cost; the search is for the whole front, this cost against fitness. None: it is for the best
            fitness.
        predictor: ridge predicts fitness from all scores so far. Then most candidates of a generation are the best that
            an evolution on predicted fitness finds, and the others are random.
    """

    table: CostTable
    limit: Limit | None
    population: int
    generations: int
    parents: int
    mutations: int
    crossovers: int
    mutation_probability: float
    seed: int
    main: CostTable | None = None
    others: tuple[tuple[CostTable, Limit], ...] = ()
    front_on: CostTable | None = None
    predictor: Literal["off", "ridge"] = "off"

    def search(
        self,
        evaluate: Callable[[Sequence[Candidate]], Sequence[float]],
        known: Mapping[Architecture, float] | None = None,
        first: Sequence[Architecture] = (),
        watch: Callable[[int, Proposal], None] = lambda generation, proposal: None,
    ) -> Iterator[list[tuple[Candidate, float]]]:
        """Yield each generation with the fitness of its candidates; higher is better.

        No architecture comes twice. The search ends early when it has seen all that the limits allow.

        Args:
            evaluate: returns the fitness of a generation's candidates. Below 0 are candidates that were stopped early,
                which are never on a front.
            known: fitness of architectures that count as seen; the best are the parents of the first generation.
            first: architectures without a fitness, under the limits, the most promising first. Generation 0 begins with
                them. Those that do not fit into it count as seen, and come when nothing new is left.
            watch: receives each generation's number and proposal before the generation is scored.
        """
        fitness = dict(known or {})
        best = self.select_best(fitness, fitness)
        for generation in range(self.generations + 1):
            waiting = [arch for arch in first if arch not in fitness]
            proposal = self.propose(generation, best, fitness, waiting)
            candidates = proposal.candidates
            if not candidates:
                return
            watch(generation, proposal)
            scored = list(zip(candidates, evaluate(candidates), strict=True))
            fitness.update({candidate.architecture: value for candidate, value in scored})
            # No others can be the best now. Sorting all of them would make the time of a long search quadratic.
            best = self.select_best([*best, *(candidate.architecture for candidate in candidates)], fitness)
            yield scored

    def select_best(
        self, archs: Iterable[Architecture], fitness: Mapping[Architecture, float], number: int | None = None
    ) -> list[Architecture]:
        """Return the best `number` architectures, by default the next parents, in the order of `Entry.rank`.

        In a search for a front, the order is that of NSGA-II (Deb et al. 2002): by front, then the less crowded.
        """
        number, main = self.parents if number is None else number, self.main or self.table
        ranked = sorted(archs, key=lambda arch: (-fitness[arch], main.of(arch), arch))
        if self.front_on is not None:
            return self.select_spread([arch for arch in ranked if fitness[arch] >= 0], fitness, self.front_on, number)
        return ranked[:number]

    def select_spread(
        self, archs: Sequence[Architecture], fitness: Mapping[Architecture, float], table: CostTable, number: int
    ) -> list[Architecture]:
        """Return the first `number` by front, then by crowding distance, then in the given order."""
        costs, values = (np.array([of(arch) for arch in archs], np.float64) for of in (table.of, fitness.__getitem__))
        best: list[Architecture] = []
        for members in fronts(costs, values):
            if len(best) >= number:
                break
            order = np.argsort(-crowding(costs[members], values[members]), kind="stable")
            best += [archs[members[index]] for index in order]
        return best[:number]

    def allows(self, arch: Architecture) -> bool:
        """Return whether an architecture is within all limits."""
        within = self.limit is None or self.limit.allows(self.table.of(arch))
        return within and all(limit.allows(table.of(arch)) for table, limit in self.others)

    def require_candidates(self) -> None:
        """Raise LimitError if no architecture is found within the limits; the message says why."""
        if self.find_any() is not None:
            return
        rng, unseen = seeding.generator(self.seed, "probe"), _Unseen(self, set())
        drawn = [unseen.draw_within_first_limit(rng) for _ in range(MAX_TRIES)]
        reasons = []
        for table, limit in self.others:
            costs = [table.of(arch) for arch in drawn]
            write = table.kind.format
            up_to = f" to {write(table.maximum)}" if limit.is_range else ""
            reasons.append(
                f"{sum(map(limit.allows, costs)):,} have {describe_limit(table.kind, limit)} (they have from"
                f" {write(min(costs))} to {write(max(costs))}, the space from {write(table.minimum)}{up_to})"
            )
        first = "" if self.limit is None else f" with {describe_limit(self.table.kind, self.limit)}"
        limits = [self.limit, *(limit for _, limit in self.others)]
        advice = "widen" if any(limit is not None and limit.is_range for limit in limits) else "raise"
        raise LimitError(
            f"no architecture was found under all limits: of {len(drawn):,} drawn{first}, {'; '.join(reasons)};"
            f" {advice} a limit"
        )

    def find_any(self) -> Architecture | None:
        """Return one architecture within all limits, the same on every call; None if none is found.

        Raises:
            LimitError: the first limit alone allows none.
        """
        rng, unseen = seeding.generator(self.seed, "probe"), _Unseen(self, set())
        unseen.draw_within_first_limit(rng)
        return unseen.draw(rng)

    def propose(
        self,
        generation: int,
        best: Sequence[Architecture],
        fitness: Mapping[Architecture, float],
        waiting: Sequence[Architecture] = (),
    ) -> Proposal:
        """Return the candidates of one generation.

        Args:
            best: parents.
            fitness: of all architectures with a score, which are not candidates again.
            waiting: architectures that the first generation begins with, and that later ones take when nothing new is
                left.
        """
        rng = seeding.generator(self.seed, "evolution", generation)
        unseen = _Unseen(self, {*fitness, *waiting})
        rescored = [Candidate(arch, generation, "rescored") for arch in waiting]
        candidates = rescored[: self.population] if generation == 0 else []
        draws: dict[Origin, Draws] = {}
        predictor = None

        def add(origin: Origin, number: int, draw: Callable[[], Architecture]) -> None:
            draws[origin] = unseen.draws = Draws()
            number = min(number, self.population - len(candidates))
            for _ in range(number * TRIES_PER_CHILD):
                if number == 0:
                    return
                child = draw()
                if unseen.accept(child):
                    candidates.append(Candidate(child, generation, origin))
                    number -= 1

        if best and self.predictor == "ridge":
            predictor = Predictor(self.table.options, list(fitness), list(fitness.values()))
            number = min(round(self.population * (1 - RANDOM_SHARE)), self.population - len(candidates))
            predicted = self.search_predicted(predictor, unseen.seen, number, rng)
            draws["predicted"] = unseen.draws = Draws()
            candidates += [Candidate(arch, generation, "predicted") for arch in predicted if unseen.accept(arch)]
        elif best:
            add("mutation", self.mutations, lambda: self.mutate(_pick(best, rng), rng))
            add("crossover", self.crossovers, lambda: self.cross(_pick(best, rng), _pick(best, rng), rng))
        draws["random"] = unseen.draws = Draws()
        while len(candidates) < self.population and (arch := unseen.draw(rng)) is not None:
            candidates.append(Candidate(arch, generation, "random"))
        if generation > 0:
            candidates += rescored[: self.population - len(candidates)]
        # Under narrow limits, `find_any` may have found the only architecture that is ever drawn.
        if generation == 0 and not candidates and (arch := self.find_any()) is not None and unseen.accept(arch):
            candidates.append(Candidate(arch, generation, "random"))
        archs = [candidate.architecture for candidate in candidates]
        predictions = predictor.predict(archs) if predictor else []
        return Proposal(candidates, draws, dict(zip(archs, predictions, strict=False)))

    def search_predicted(
        self, predictor: Predictor, seen: Iterable[Architecture], number: int, rng: np.random.Generator
    ) -> list[Architecture]:
        """Return up to `number` new architectures with the best predicted fitness, the best first.

        They are found by an evolution on predicted fitness under the same limits, which begins with the best of `seen`.
        Each of its generations draws `PREDICTED_DRAWS` architectures for each candidate of a real one.
        """
        known = list(seen)
        fitness = dict(zip(known, predictor.predict(known), strict=True))
        best, new = known, list[Architecture]()
        for _ in range(PREDICTED_GENERATIONS):
            best = self.select_best(best, fitness, PREDICTED_PARENTS * self.parents)
            drawn = [self._draw_any(best, rng) for _ in range(PREDICTED_DRAWS * self.population)]
            allowed = [arch for arch in dict.fromkeys(drawn) if arch not in fitness and self.allows(arch)]
            fitness.update(zip(allowed, predictor.predict(allowed), strict=True))
            best, new = best + allowed, new + allowed
        return self.select_best(new, fitness, number)

    def _draw_any(self, best: Sequence[Architecture], rng: np.random.Generator) -> Architecture:
        """Draw by mutation, by crossover or at random, a third each; seen or not, within the first limit or not."""
        operator = int(rng.integers(3))
        if operator == 0 or not best:
            return self.table.distribution().draw(rng, *get_bounds(self.limit))
        parent = _pick(best, rng)
        return self.mutate(parent, rng) if operator == 1 else self.cross(parent, _pick(best, rng), rng)

    def mutate(self, parent: Architecture, rng: np.random.Generator) -> Architecture:
        """Draw the choice of each layer, and what else is searched, again with `mutation_probability` each."""
        options = self.table.options
        redrawn = rng.random(len(parent)) < self.mutation_probability  # (layers,)
        choices = np.where(redrawn, options.draw_choices(rng), parent.choices)
        others = [
            self._redraw(np.array(values), allowed, rng)
            for values, allowed in zip(parent.columns[1:], options.other_values, strict=True)
        ]
        return options.combine(choices, *others)

    def _redraw(self, values: Numbers, allowed: tuple[int, ...], rng: np.random.Generator) -> Numbers:
        """Draw the width of each layer, or its bits, again with `mutation_probability`.

        Those that are 0 are always drawn: a choice without them cannot pass them on. Nothing is drawn where the space
        has none.
        """
        if not allowed:
            return values
        redrawn = (rng.random(len(values)) < self.mutation_probability) | (values == 0)
        return np.where(redrawn, self.table.options.draw_values(allowed, rng), values)

    def cross(self, one: Architecture, other: Architecture, rng: np.random.Generator) -> Architecture:
        """Take the option of each layer from one of two parents."""
        from_one = rng.random(len(one)) < 0.5
        return self.table.options.combine(*np.where(from_one, one.columns, other.columns))


def _pick(best: Sequence[Architecture], rng: np.random.Generator) -> Architecture:
    return best[int(rng.integers(len(best)))]


class _Unseen:
    """The architectures within all limits that have not been seen.

    Attributes:
        draws: of the operator that draws now.
        count: number of architectures within the first limit, whatever the others exclude.
    """

    def __init__(self, evolution: Evolution, seen: set[Architecture]) -> None:
        self.bounds, self.others = get_bounds(evolution.limit), evolution.others
        self.allows, self.seen = evolution.allows, seen
        self.draws = Draws()
        self.distribution = evolution.table.distribution()
        self.count = self.distribution.count(*self.bounds)
        self._remaining: list[Architecture] | None = None  # Listed once most of the space is seen.

    def accept(self, arch: Architecture) -> bool:
        """Count a draw and mark it as seen; return False if it was seen before or is outside of a limit."""
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
        """Draw one uniformly; return None when none is left, or none is found among very many."""
        # While at most half are seen, two tries are enough on average, unless other limits exclude many.
        if len(self.seen) * 2 <= self.count:
            for _ in range(MAX_TRIES) if self.others or not self.distribution.is_exact else itertools.count():
                if self.accept(arch := self.draw_within_first_limit(rng)):
                    return arch
            if self.count > MAX_ENUMERATED:
                return None
            self._remaining = None
        if self._remaining is None:
            every = self.distribution.enumerate(*self.bounds)  # in lexicographic order
            self._remaining = [arch for arch in every if arch not in self.seen and self.allows(arch)]
        if not self._remaining:
            return None
        arch = self._remaining.pop(int(rng.integers(len(self._remaining))))
        self.accept(arch)
        return arch

    def draw_within_first_limit(self, rng: np.random.Generator) -> Architecture:
        """Draw any architecture within the first limit, seen or not."""
        return self.distribution.draw(rng, *self.bounds)
