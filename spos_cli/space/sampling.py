"""Which paths a training step takes: a function of (seed, step), so that every process draws the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spos_cli import seeding
from spos_cli.errors import ConfigError, LimitError
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable, format_cost

MAX_NAMED = 5  # empty bins in an error


class Sampler(Protocol):
    """Draws the paths of a step."""

    def paths(self, step: int) -> list[Architecture]:
        """Those of a step (0, 1, ...), whose gradients are added up; the same on every call, in every process."""


def draw_choices(counts: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
    """A choice for each layer, uniformly."""
    first, *others = counts
    same = all(count == first for count in others)  # NumPy draws other numbers from a list of bounds
    return rng.integers(first, size=len(counts)) if same else rng.integers(counts)


class UniformSampler:
    """Every architecture of the space is equally likely (paper, section 3.2).

    Args:
        counts: the number of choices of each layer.
        seed: of all draws.
    """

    def __init__(self, counts: Sequence[int], seed: int) -> None:
        self.counts, self.seed = counts, seed

    def draw(self, step: int) -> Architecture:
        """The path of a step."""
        return Architecture(tuple(draw_choices(self.counts, seeding.generator(self.seed, "path", step)).tolist()))

    def paths(self, step: int) -> list[Architecture]:
        """The path of a step."""
        return [self.draw(step)]


class FairSampler:
    """Strict fairness: each step trains every choice of every layer (Chu et al., FairNAS, arXiv 1907.01845).

    The paths of a step are as many as the layer with most choices has; each layer's choices are in an order of their
    own. A layer with fewer choices begins anew when all have been taken, so some of them come once more.

    Args:
        counts: the number of choices of each layer.
        seed: of all draws.
    """

    def __init__(self, counts: Sequence[int], seed: int) -> None:
        self.counts, self.seed = counts, seed

    def paths(self, step: int) -> list[Architecture]:
        """The paths of a step."""
        rng, most = seeding.generator(self.seed, "path", step), max(self.counts)
        columns = [
            np.concatenate([rng.permutation(count) for _ in range(-(-most // count))])[:most] for count in self.counts
        ]
        return [Architecture(tuple(row)) for row in np.stack(columns, 1).tolist()]


class CostBinSampler:
    """A cost bin is drawn, then a path inside it, each uniformly (published `train.py`).

    The published code draws paths until one falls into the bin, and takes any after 500 tries; this one
    counts, so that no path is ever outside of its bin.

    Args:
        table: the cost.
        low, high: lower end of the first bin and upper end of the last.
        width: of each bin; both of its ends belong to it.
        seed: of all draws.

    Raises:
        ConfigError: the range goes down, or the width does not divide it.
        LimitError: a bin is empty; the message says which and what is reachable.
    """

    def __init__(self, table: CostTable, low: int, high: int, width: int, seed: int) -> None:
        if high <= low or width <= 0 or (high - low) % width:
            raise ConfigError(
                f"bins of {format_cost(width)} do not divide the range from {format_cost(low)} to {format_cost(high)}"
            )
        self.distribution, self.seed = table.distribution(), seed
        self.bins: list[tuple[int, int]] = []
        empty: list[str] = []
        for begin in range(low, high, width):
            if self.distribution.count(begin, begin + width):
                self.bins.append((begin, begin + width))
            else:
                empty.append(f"{format_cost(begin)} to {format_cost(begin + width)}")
            if len(empty) > MAX_NAMED:  # a range typed in wrongly may have billions of bins
                empty[-1] = "..."
                break
        if empty:
            raise LimitError(
                f"no architecture is in the bins of {table.label} {', '.join(empty)}; the space reaches from"
                f" {format_cost(table.minimum)} to {format_cost(table.maximum)}"
            )

    def draw(self, step: int) -> Architecture:
        """The path of a step."""
        rng = seeding.generator(self.seed, "path", step)
        return self.distribution.draw(rng, *self.bins[int(rng.integers(len(self.bins)))])

    def paths(self, step: int) -> list[Architecture]:
        """The path of a step."""
        return [self.draw(step)]


def choice_counts(sampler: Sampler, steps: int, counts: Sequence[int]) -> list[list[int]]:
    """By layer, how often each choice is trained in the first `steps` steps."""
    trained = [[0] * count for count in counts]
    for step in range(steps):
        for arch in sampler.paths(step):
            for row, choice in zip(trained, arch, strict=True):
                row[choice] += 1
    return trained
