"""Which path a training step takes: a path in a FLOPs bin, by rejection as published and by counting."""

from __future__ import annotations

import itertools

from spos_cli.models.counting import count
from spos_cli.space.sampling import CostBinSampler
from spos_cli.space.search_space import OFFICIAL_SPACE
from tests.benchmarks import published
from tests.benchmarks.comparison import Comparison, compare

NUMBER, TURNS = 500, 7  # paths of a turn; the tries of the rejection vary, so a turn needs many


def path_draw() -> Comparison:
    """Paths a second, with the generator of each of ours."""
    table = count(OFFICIAL_SPACE).flops
    rejection = published.RejectionSampler(table.rows, table.fixed, seed=0)
    exact, steps = CostBinSampler(table, 290_000_000, 360_000_000, 10_000_000, seed=0), itertools.count()

    def baseline() -> None:
        for _ in range(NUMBER):
            rejection.draw()

    def ours() -> None:
        for _ in range(NUMBER):
            exact.draw(next(steps))

    return compare("path in a FLOPs bin", "paths/s", NUMBER, baseline, ours, TURNS)
