"""Which candidates of a search count, who won, what is tied, what is on the front.

Only scores on the same images can be compared: other images change a score by more than the best candidates differ, and
the luckiest of many would be taken for the best. So an imported score, which was found on other images, never counts.
It only says what to score first (`choose_to_rescore`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spos_cli.search import statistics
from spos_cli.search.balance import read_balance
from spos_cli.search.evolution import Evolution
from spos_cli.search.journal import Entry
from spos_cli.search.outcomes import OutcomesFile
from spos_cli.search.racing import Outcomes
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_kinds import get_kind
from spos_cli.space.limits import Limit

SIGNIFICANCE_LEVEL = 0.05  # of each paired test against the winner


def is_counted(entry: Entry) -> bool:
    """Return whether a score was found on the images of this search, so that it can be compared with other scores."""
    return entry.origin != "imported"


def is_new(entry: Entry) -> bool:
    """Return whether this search has scored the candidate itself: it counts, and is not from an earlier search."""
    return is_counted(entry) and not entry.earlier


def with_costs(entries: Iterable[Entry], tables: Mapping[str, CostTable]) -> list[Entry]:
    """Return candidates with their costs by tables, besides FLOPs and parameters; they have no other costs."""
    return [replace(one, costs={name: table.of(one.architecture) for name, table in tables.items()}) for one in entries]


def ranking(entries: Iterable[Entry]) -> list[Entry]:
    """Sort candidates, the best first and those that were stopped early last."""
    return sorted(entries, key=lambda entry: entry.rank)


def pareto(entries: Iterable[Entry], cost: str = "flops") -> list[Entry]:
    """Return the front over a cost and the score, the cheapest first, without candidates that were stopped early."""
    complete = [entry for entry in entries if not entry.partial]
    costs, scores = [float(entry.get_cost(cost)) for entry in complete], [entry.score for entry in complete]
    return [complete[index] for index in statistics.front(costs, scores)]


def choose_to_rescore(lines: Iterable[Entry], evolution: Evolution) -> list[Architecture]:
    """Return the imported architectures that the limits allow, the most promising first.

    Their scores were found on other images, so this order is their only use.
    """
    imported = [entry for entry in ranking(lines) if not is_counted(entry)]
    fitness = {entry.architecture: entry.fitness for entry in imported if evolution.allows(entry.architecture)}
    best = evolution.select_best(fitness, fitness, len(fitness))
    return list(dict.fromkeys([*best, *fitness]))  # A search for the front omits candidates that were stopped early.


@dataclass(frozen=True)
class Comparison:
    """Paired tests of candidates against the winner, on the same images.

    There is one test per candidate. The winner was selected on these images, so the set of truly equivalent candidates
    is likely larger.

    Attributes:
        p_values: by architecture; the winner's is 1. A candidate without a p-value was not compared.
        problem: why not all could be compared, in words; empty if all were.
    """

    p_values: Mapping[Architecture, float] = field(default_factory=dict)
    problem: str = ""

    @cached_property
    def tied(self) -> frozenset[Architecture]:
        """The candidates that the test cannot distinguish from the winner, and the winner."""
        return frozenset(arch for arch, value in self.p_values.items() if value > SIGNIFICANCE_LEVEL)

    @property
    def count(self) -> int | None:
        """How many candidates are tied, including the winner; None if nothing could be compared."""
        return len(self.tied) or None

    def is_tied(self, arch: Architecture) -> bool | None:
        """Return whether a candidate is tied with the winner, or None if it was not compared."""
        return arch in self.tied if arch in self.p_values else None


@dataclass(frozen=True)
class Results:
    """Candidates whose scores are compared with each other.

    Attributes:
        candidates: in the order of the journal.
        rows: the line of each candidate in the journal, from 0, which is also its row in `outcomes`.
        outcomes: the `outcomes.bits` beside the journal; only needed for `comparison`, as is the manifest of the scored
            images beside it with balanced accuracy.
    """

    candidates: Sequence[Entry]
    rows: Mapping[Architecture, int] = field(default_factory=dict)
    outcomes: Path = Path()

    @staticmethod
    def of(lines: Sequence[Entry], outcomes: Path = Path()) -> Results:
        """Return the results of a journal: its lines that count. No architecture counts twice."""
        rows = {entry.architecture: row for row, entry in enumerate(lines) if is_counted(entry)}
        return Results([entry for entry in lines if is_counted(entry)], rows, outcomes)

    @staticmethod
    def to_export(lines: Sequence[Entry], outcomes: Path = Path()) -> Results:
        """Return the lines that count; if none does, all lines, which are imported then.

        So scores on different images are never compared.
        """
        counted = Results.of(lines, outcomes)
        return counted if counted.candidates else replace(counted, candidates=lines)

    def within(self, limits: Mapping[str, Limit]) -> Results:
        """Return the candidates within all limits, which are by the name of their cost."""

        def is_within(entry: Entry) -> bool:
            return all(limit.allows(entry.get_cost(name)) for name, limit in limits.items())

        return replace(self, candidates=list(filter(is_within, self.candidates)))

    @cached_property
    def new(self) -> list[Entry]:
        """The candidates that this search has scored itself."""
        return [entry for entry in self.candidates if is_new(entry)]

    @cached_property
    def known(self) -> dict[Architecture, float]:
        """The fitness of what an earlier search has scored on the same images, before the first generation."""
        return {entry.architecture: entry.fitness for entry in self.candidates if entry.earlier}

    @cached_property
    def complete(self) -> list[Entry]:
        """The candidates that were not stopped early."""
        return [entry for entry in self.candidates if not entry.partial]

    @cached_property
    def ranking(self) -> list[Entry]:
        """The candidates, the best first and those that were stopped early last."""
        return ranking(self.candidates)

    @property
    def winner(self) -> Entry | None:
        """The best candidate; one that was stopped early only if all were. None if there is no candidate."""
        return min(self.candidates, key=lambda entry: entry.rank, default=None)

    def front(self, cost: str = "flops") -> list[Entry]:
        """Return the front over a cost and the score, the cheapest first."""
        return pareto(self.candidates, cost)

    @property
    def best_so_far(self) -> list[float]:
        """The largest fitness so far, after each candidate that this search has scored; below 0 before the first.

        Candidates that are `known` count from the beginning.
        """
        best, values = max(self.known.values(), default=-1.0), []
        for entry in self.new:
            best = max(best, entry.fitness)
            values.append(best)
        return values

    @cached_property
    def comparison(self) -> Comparison:
        """The paired tests of all candidates that were not stopped early against the winner."""
        winner = self.winner
        if winner is None or winner.partial:
            return Comparison(problem="no candidate was scored to the end, so none is compared with the best")
        if not is_counted(winner):
            return Comparison(
                problem="the best was scored by another search, whose outcomes are not here, so ties are unknown"
            )
        weights, pairs = np.ones(1), self.count_disagreements(self.complete)[:, None]  # (candidates, 1, 2)
        if winner.balanced is not None:
            balance = read_balance(self.outcomes, winner.images)
            if balance is None:
                manifest = self.outcomes.with_name("scoring.u8.json")
                return Comparison(problem=f"{manifest}, which names the classes, is missing, so ties are unknown")
            is_lost = pairs < 0  # (candidates, 1, 2)
            by_size = [self.count_disagreements(self.complete, mask) for mask in balance.masks()]
            weights, pairs = balance.weights, np.where(is_lost, -1, np.stack(by_size, 1))  # (candidates, sizes, 2)
        if pairs[self.complete.index(winner), 0, 0] < 0:
            return Comparison(
                problem=f"{self.outcomes} is missing, or does not have the outcomes of the best, so ties are unknown"
            )
        kept = pairs[:, 0, 0] >= 0
        archs = [self.complete[index].architecture for index in np.flatnonzero(kept).tolist()]
        # Many candidates have the same counts, and each test takes a while.
        distinct, index_of = np.unique(pairs[kept], axis=0, return_inverse=True)
        p_values = np.array([statistics.sign_flip(weights, *counts.T) for counts in distinct])[index_of.reshape(-1)]
        missing = len(pairs) - len(archs)
        problem = f"{self.outcomes} does not have the outcomes of {missing:,} candidates, so these were not compared"
        return Comparison(dict(zip(archs, p_values.tolist(), strict=True)), problem if missing else "")

    def count_disagreements(self, others: Sequence[Entry], among: Outcomes | None = None) -> NDArray[np.int64]:
        """Count the images that only the winner has right, and those that only another candidate has right.

        Args:
            others: complete candidates that count.
            among: which images to count, `(images,)`; whether outcomes are lost is not checked then. None: all.

        Returns:
            Pairs `(n, 2)`; a pair is -1, -1 if the outcomes of the winner or of the other are lost.
        """
        winner = self.winner
        assert winner is not None
        rows = [self.rows[entry.architecture] for entry in [winner, *others]]
        right, both = OutcomesFile(self.outcomes, winner.images).count_overlaps(rows[0], rows, among)
        pairs = np.stack([right[0] - both, right - both], 1)
        if among is None:
            # A row that was lost, and filled with zeros since, has fewer right than the journal says.
            kept = right == np.array([entry.right for entry in [winner, *others]])
            pairs[~kept | ~kept[0]] = -1
        return pairs[1:]

    def to_dict(self, entry: Entry) -> dict[str, Any]:
        """Return a candidate for files, with the interval of its score, and whether it is tied with the winner."""
        tied = self.comparison.is_tied(entry.architecture)
        return {**entry.to_dict(), "interval": round_interval(entry), "tied": tied}

    def front_to_dict(self, cost: str, corner: int) -> dict[str, Any]:
        """Return the front for files, with its hypervolume: the area below it, cost times top-1.

        Args:
            cost: of the front.
            corner: the cost up to which the area is counted.
        """
        front = self.front(cost)
        to_number = get_kind(cost).to_number
        costs, scores = [float(to_number(entry.get_cost(cost))) for entry in front], [entry.score for entry in front]
        area = statistics.hypervolume(costs, scores, to_number(corner))
        return {
            "front": [self.to_dict(entry) for entry in front],
            "hypervolume": area,
            "reference": {cost: to_number(corner), "top1": 0.0},
        }


def round_interval(entry: Entry) -> list[float]:
    """Return the interval of a score for files."""
    return [round(end, 6) for end in entry.interval]


def format_interval(interval: tuple[float, float]) -> str:
    """Return an interval of shares for people, such as `70.1 to 72.3 %`."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"
