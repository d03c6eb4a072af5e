"""A running search for its dashboard: the best so far, the scores, the draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from spos_cli.engine.progress import Curve, Row
from spos_cli.search.evolution import Draws
from spos_cli.search.journal import Entry, Origin
from spos_cli.space.cost import format_cost

OPERATORS = {"mutation": "mutations", "crossover": "crossovers", "random": "random draws"}


class Overview:
    """A search so far: each proposed generation is noted with `begin`, and each scored candidate with `add`.

    Args:
        generations: number of planned generations after the first.

    Attributes:
        draws: of each operator, in all generations.
        best: the best candidate.
        scores: top-1 of candidates that were not stopped early, in the order in which they were added.
        best_so_far: the best top-1 after each of them.
    """

    def __init__(self, generations: int) -> None:
        self.generations, self.generation = generations, 0
        self.draws: dict[Origin, Draws] = {}
        self.best: Entry | None = None
        self.scores: list[float] = []
        self.best_so_far: list[float] = []
        self._scores_of_generation: list[float] = []

    def begin(self, generation: int, draws: Mapping[Origin, Draws]) -> None:
        """Note the draws of a proposed generation."""
        self.generation, self._scores_of_generation = generation, []
        for origin, more in draws.items():
            self.draws[origin] = self.draws.get(origin, Draws()) + more

    def add(self, entries: Iterable[Entry]) -> None:
        """Note scored candidates; those that were stopped early have no top-1 that can be compared."""
        for entry in entries:
            if entry.partial:
                continue
            if self.best is None or entry.rank < self.best.rank:
                self.best = entry
            self.scores.append(entry.top1)
            self.best_so_far.append(self.best.top1)
            self._scores_of_generation.append(entry.top1)

    @property
    def phase(self) -> str:
        """The generation, in words."""
        return f"generation {self.generation} of {self.generations}"

    @property
    def summary(self) -> dict[str, float]:
        """The best top-1 so far, and the mean top-1 of the generation, as shares; empty without scores."""
        scores = self._scores_of_generation
        if self.best is None or not scores:
            return {}
        return {"best_top1": self.best.top1, "mean_top1": sum(scores) / len(scores)}

    @property
    def rows(self) -> list[Row]:
        """The rows of the dashboard."""
        drawn = [
            f"{draws.accepted / draws.proposed:.0%} of {OPERATORS[origin]}"
            for origin, draws in self.draws.items()
            if draws.proposed
        ]
        accepted: list[Row] = [("accepted", drawn)] if drawn else []
        if self.best is None:
            return accepted
        best = (f"{self.best.top1:.2%}", f"{format_cost(self.best.flops)} FLOPs", str(self.best.architecture))
        return [
            ("best", best),
            ("so far", _curve(self.best_so_far)),
            ("scores", _curve(self.scores)),
            *accepted,
        ]


def _curve(values: Sequence[float]) -> Sequence[str | Curve]:
    """Return a curve of shares, and its range in words."""
    return Curve(list(values)), f"{min(values):.1%} to {max(values):.1%}"
