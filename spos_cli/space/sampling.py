"""Which path a training step takes: a function of (seed, step), so that every process draws the same."""

from __future__ import annotations

from typing import Protocol

from spos_cli import seeding
from spos_cli.errors import ConfigError, LimitError
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable, format_cost


class Sampler(Protocol):
    """Draws one path per step."""

    def draw(self, step: int) -> Architecture:
        """The path of a step; the same on every call."""


class UniformSampler:
    """Every architecture of the space is equally likely (paper, section 3.2)."""

    def __init__(self, num_layers: int, num_choices: int, seed: int) -> None:
        self.num_layers, self.num_choices, self.seed = num_layers, num_choices, seed

    def draw(self, step: int) -> Architecture:
        """The path of a step."""
        rng = seeding.generator(self.seed, "path", step)
        return Architecture(tuple(rng.integers(self.num_choices, size=self.num_layers).tolist()))


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
        ConfigError: the width does not divide the range.
        LimitError: a bin is empty; the message says which and what is reachable.
    """

    def __init__(self, table: CostTable, low: int, high: int, width: int, seed: int) -> None:
        if high <= low or (high - low) % width:
            raise ConfigError(
                f"bins of {format_cost(width)} do not divide the range from {format_cost(low)} to {format_cost(high)}"
            )
        self.distribution, self.seed = table.distribution(), seed
        self.bins = [(begin, begin + width) for begin in range(low, high, width)]
        empty = [bounds for bounds in self.bins if not self.distribution.count(*bounds)]
        if empty:
            shown = ", ".join(f"{format_cost(begin)} to {format_cost(end)}" for begin, end in empty[:5])
            raise LimitError(
                f"no architecture is in the {table.name} bins {shown}{' ...' if len(empty) > 5 else ''}; the space reaches"
                f" from {format_cost(table.minimum)} to {format_cost(table.maximum)}"
            )

    def draw(self, step: int) -> Architecture:
        """The path of a step."""
        rng = seeding.generator(self.seed, "path", step)
        return self.distribution.draw(rng, *self.bins[int(rng.integers(len(self.bins)))])
