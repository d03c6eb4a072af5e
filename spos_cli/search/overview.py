"""A running search for its dashboard: the best so far, the scores, the draws."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping, Sequence

from spos_cli.engine.progress import Curve, Row
from spos_cli.search import statistics
from spos_cli.search.evolution import Draws, Proposal
from spos_cli.search.journal import Entry, Origin
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost_kinds import format_cost

OPERATORS = {
    "mutation": "mutations",
    "crossover": "crossovers",
    "predicted": "predictions",
    "random": "random draws",
}
MAX_PAIRS = 500  # The last candidates whose predictions are compared with their scores.


class Overview:
    """A search so far: each proposed generation is noted with `begin`, and each scored candidate with `add`.

    Args:
        generations: number of planned generations after the first.

    Attributes:
        draws: of each operator, in all generations.
        best: the best candidate.
        scores: scores of candidates that were not stopped early, in the order in which they were added.
        best_so_far: the best score after each of them.
        pairs: predictions and scores of the last predicted candidates that were not stopped early.
    """

    def __init__(self, generations: int) -> None:
        self.generations, self.generation = generations, 0
        self.draws: dict[Origin, Draws] = {}
        self.best: Entry | None = None
        self.scores: list[float] = []
        self.best_so_far: list[float] = []
        self.pairs: collections.deque[tuple[float, float]] = collections.deque(maxlen=MAX_PAIRS)
        self._scores_of_generation: list[float] = []
        self._predictions: Mapping[Architecture, float] = {}

    def begin(self, generation: int, proposal: Proposal) -> None:
        """Note the draws and the predictions of a proposed generation."""
        self.generation, self._scores_of_generation = generation, []
        self._predictions = proposal.predictions
        for origin, more in proposal.draws.items():
            self.draws[origin] = self.draws.get(origin, Draws()) + more

    def add(self, entries: Iterable[Entry]) -> None:
        """Note scored candidates; those that were stopped early have no score that can be compared."""
        for entry in entries:
            if entry.partial:
                continue
            if self.best is None or entry.rank < self.best.rank:
                self.best = entry
            self.scores.append(entry.score)
            self.best_so_far.append(self.best.score)
            self._scores_of_generation.append(entry.score)
            if entry.architecture in self._predictions:
                self.pairs.append((self._predictions[entry.architecture], entry.score))

    @property
    def phase(self) -> str:
        """The generation, in words."""
        return f"generation {self.generation} of {self.generations}"

    @property
    def summary(self) -> dict[str, float]:
        """The best score so far, and the mean score of the generation, as shares; empty without scores."""
        scores = self._scores_of_generation
        if self.best is None or not scores:
            return {}
        name = "top1" if self.best.balanced is None else "balanced"
        return {f"best_{name}": self.best.score, f"mean_{name}": sum(scores) / len(scores)}

    @property
    def tau(self) -> float | None:
        """Kendall's tau of the predictions, each made before the score, with the scores; None where it is undefined."""
        if len(self.pairs) < 2:
            return None
        tau = statistics.kendall(*zip(*self.pairs, strict=True))
        return None if math.isnan(tau) else tau

    @property
    def rows(self) -> list[Row]:
        """The rows of the dashboard."""
        drawn = [
            f"{draws.accepted / draws.proposed:.0%} of {OPERATORS[origin]}"
            for origin, draws in self.draws.items()
            if draws.proposed
        ]
        accepted: list[Row] = [("accepted", drawn)] if drawn else []
        if (tau := self.tau) is not None:
            accepted.append(("predicted", [f"Kendall's tau {tau:.2f}", f"with {len(self.pairs):,} scores"]))
        if self.best is None:
            return accepted
        best = (f"{self.best.score:.2%}", f"{format_cost(self.best.flops)} FLOPs", str(self.best.architecture))
        return [
            ("best", best),
            ("so far", _curve(self.best_so_far)),
            ("scores", _curve(self.scores)),
            *accepted,
        ]


def _curve(values: Sequence[float]) -> Sequence[str | Curve]:
    """Return a curve of shares, and its range in words."""
    return Curve(list(values)), f"{min(values):.1%} to {max(values):.1%}"
