"""What there is to say of a search while it runs: the best so far, how scores rise, what became of the draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from spos_cli.engine.progress import Curve, Row
from spos_cli.search.evolution import Draws
from spos_cli.search.journal import Entry, Origin
from spos_cli.space.cost import format_cost

PLURALS = {"mutation": "mutations", "crossover": "crossovers", "random": "random draws"}  # of operators


class Overview:
    """A search so far: told of each generation when it is proposed, and of each candidate when its score is known.

    Args:
        generations: that are planned after the first.
    """

    def __init__(self, generations: int) -> None:
        self.generations, self.generation = generations, 0
        self.draws: dict[Origin, Draws] = {}
        self.best: Entry | None = None
        self.scores: list[float] = []  # top-1 of complete candidates, in the order in which they are told of
        self.best_so_far: list[float] = []  # after each of these
        self._of_generation: list[float] = []

    def begin(self, generation: int, draws: Mapping[Origin, Draws]) -> None:
        """A generation has been proposed."""
        self.generation, self._of_generation = generation, []
        for origin, more in draws.items():
            self.draws[origin] = self.draws.get(origin, Draws()) + more

    def add(self, entries: Iterable[Entry]) -> None:
        """Candidates have their scores; those that have lost a race have none that can be compared."""
        for entry in entries:
            if entry.partial:
                continue
            if self.best is None or entry.rank < self.best.rank:
                self.best = entry
            self.scores.append(entry.top1)
            self.best_so_far.append(self.best.top1)
            self._of_generation.append(entry.top1)

    @property
    def phase(self) -> str:
        """How far it is."""
        return f"generation {self.generation} of {self.generations}"

    @property
    def summary(self) -> dict[str, float]:
        """Of the generation: the best so far and the mean of its complete scores, top-1 as shares."""
        scores = self._of_generation
        if self.best is None or not scores:
            return {}
        return {"best_top1": self.best.top1, "mean_top1": sum(scores) / len(scores)}

    @property
    def rows(self) -> list[Row]:
        """Of the dashboard."""
        drawn = [
            f"{draws.accepted / draws.proposed:.0%} of {PLURALS[origin]}"
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
    """A curve of shares, and between which of them it lies."""
    return Curve(list(values)), f"{min(values):.1%} to {max(values):.1%}"
