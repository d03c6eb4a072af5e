"""Draw a path in a FLOPs bin: by rejection as in the official code, and by counting as in `spos`."""

from __future__ import annotations

import itertools

from spos_cli.models.counting import count
from spos_cli.space.sampling import CostBinSampler
from spos_cli.space.search_space import OFFICIAL_SPACE
from tests.benchmarks import official
from tests.benchmarks.comparison import Comparison, compare

PATHS, TURNS = 500, 7  # The tries of the rejection vary, so a turn needs many paths.


def compare_draws() -> Comparison:
    """Compare paths per second; for `spos` the random generator of each path is included."""
    table = count(OFFICIAL_SPACE).flops
    rejection = official.RejectionSampler(table.rows, table.fixed, seed=0)
    exact, steps = CostBinSampler(table, 290_000_000, 360_000_000, 10_000_000, seed=0), itertools.count()

    def baseline() -> None:
        for _ in range(PATHS):
            rejection.draw()

    def ours() -> None:
        for _ in range(PATHS):
            exact.draw(next(steps))

    return compare("path in a FLOPs bin", "paths/s", PATHS, baseline, ours, TURNS)
