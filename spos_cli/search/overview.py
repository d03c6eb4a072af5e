"""What the dashboard of a running search shows: scores, the best, accepted draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from spos_cli.engine.progress import Curve, Row
from spos_cli.search.evolution import Draws
from spos_cli.search.journal import Entry, Origin
from spos_cli.space.cost import format_cost

OPERATOR_PLURALS = {"mutation": "mutations", "crossover": "crossovers", "random": "random draws"}


class Overview:
    """The numbers of a running search.

    Args:
        generations: planned generations after the first one.

    Attributes:
        generation: the current one, from 0.
        draws: what happened to the draws of each operator so far.
        best: the best candidate so far.
        scores: top-1 of all candidates that were not stopped early, in the order of `add`.
        best_so_far: the best top-1 after each of them.
    """

    def __init__(self, generations: int) -> None:
        self.generations, self.generation = generations, 0
        self.draws: dict[Origin, Draws] = {}
        self.best: Entry | None = None
        self.scores: list[float] = []
        self.best_so_far: list[float] = []
        self._generation_scores: list[float] = []

    def begin(self, generation: int, draws: Mapping[Origin, Draws]) -> None:
        """Begin a generation, with what happened to the draws that proposed its candidates."""
        self.generation, self._generation_scores = generation, []
        for origin, counts in draws.items():
            self.draws[origin] = self.draws.get(origin, Draws()) + counts

    def add(self, entries: Iterable[Entry]) -> None:
        """Add scored candidates; those that were stopped early have no comparable score and do not count."""
        for entry in entries:
            if entry.partial:
                continue
            if self.best is None or entry.rank < self.best.rank:
                self.best = entry
            self.scores.append(entry.top1)
            self.best_so_far.append(self.best.top1)
            self._generation_scores.append(entry.top1)

    @property
    def phase(self) -> str:
        """How far the search is, in words."""
        return f"generation {self.generation} of {self.generations}"

    @property
    def summary(self) -> dict[str, float]:
        """The best top-1 so far and the mean top-1 of the current generation, as shares; empty without scores."""
        scores = self._generation_scores
        if self.best is None or not scores:
            return {}
        return {"best_top1": self.best.top1, "mean_top1": sum(scores) / len(scores)}

    @property
    def rows(self) -> list[Row]:
        """The rows of the dashboard."""
        shares = [
            f"{draws.accepted / draws.proposed:.0%} of {OPERATOR_PLURALS[origin]}"
            for origin, draws in self.draws.items()
            if draws.proposed
        ]
        accepted: list[Row] = [("accepted", shares)] if shares else []
        if self.best is None:
            return accepted
        best = (f"{self.best.top1:.2%}", f"{format_cost(self.best.flops)} FLOPs", str(self.best.architecture))
        return [
            ("best", best),
            ("so far", _describe_curve(self.best_so_far)),
            ("scores", _describe_curve(self.scores)),
            *accepted,
        ]


def _describe_curve(values: Sequence[float]) -> Sequence[str | Curve]:
    """Return a curve of shares, and its range in words."""
    return Curve(list(values)), f"{min(values):.1%} to {max(values):.1%}"
