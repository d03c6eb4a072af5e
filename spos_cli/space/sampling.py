"""Which paths a training step trains: a function of (seed, step).

So every process draws the same paths, and a resumed training continues with the right ones.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Protocol

from spos_cli import seeding
from spos_cli.errors import ConfigError, LimitError
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_kinds import format_cost
from spos_cli.space.options import Options

MAX_NAMED_BINS = 5  # empty bins that a message names
NUM_RANDOM_PATHS = 2  # in a step of the sandwich rule, as in BigNAS


class Sampler(Protocol):
    """Draws the paths of a step."""

    def paths(self, step: int) -> list[Architecture]:
        """Return the paths of a step (0, 1, ...); the same for every call and process, and as many in each step.

        Of several paths, the first one learns from the labels, and the others from its predictions.
        The gradients of the paths are summed, not averaged (BigNAS, section 3.1). So to first order in the learning
        rate, a step of n paths is n steps of one path each.
        """


@dataclass(frozen=True)
class WidthWarmUp:
    """Trains wide paths first, then adds the narrower widths one by one.

    A supernet that trains all widths from the start hardly converges, because narrow paths disturb the channels that
    all paths share. So this follows the progressive shrinking of Once-for-All (Cai et al., arXiv 1908.09791, section
    3.3), which goes from wide to narrow.

    Attributes:
        widths: number of widths.
        steps: length of the warm-up, in as many equal parts as there are widths; each part adds one width. 0: all
            widths from the start.
    """

    widths: int = 0
    steps: int = 0

    def count_widest(self, step: int) -> int | None:
        """Return how many of the widest widths are drawn in a step; None for all."""
        return None if step >= self.steps else 1 + step * self.widths // (self.steps + 1)


class UniformSampler:
    """Draws each choice of a layer with equal probability, then each of its widths and bits (paper, section 3.2).

    Args:
        options: of each layer.
        seed: of all draws.
        warm_up: of the widths.
    """

    def __init__(self, options: Options, seed: int, warm_up: WidthWarmUp = WidthWarmUp()) -> None:
        self.options, self.seed, self.warm_up = options, seed, warm_up

    def draw(self, step: int) -> Architecture:
        """Return the path of a step."""
        return self.options.draw(seeding.generator(self.seed, "path", step), self.warm_up.count_widest(step))

    def paths(self, step: int) -> list[Architecture]:
        """Return the path of a step, as a list of one."""
        return [self.draw(step)]


class SandwichSampler:
    """Draws the most expensive path, the cheapest one, and two random ones (the sandwich rule; BigNAS, section 3.1).

    BigNAS searches slices of one network, so its largest path trains all weights. Here each choice has weights of its
    own: those of the largest and of the smallest path are trained in each step, and the others less often.

    Args:
        table: the cost.
        seed: of all draws.
    """

    def __init__(self, table: CostTable, seed: int) -> None:
        self.table, self.seed = table, seed

    def paths(self, step: int) -> list[Architecture]:
        """Return the paths of a step, the largest first."""
        rng = seeding.generator(self.seed, "path", step)
        drawn = [self.table.options.draw(rng) for _ in range(NUM_RANDOM_PATHS)]
        return [self.table.most_expensive, self.table.cheapest, *drawn]


class CostBinSampler:
    """Draws a cost bin, then a path inside it, each uniformly (official `train.py`).

    The official code draws paths until one is inside the bin, and accepts any path after 500 tries. This sampler draws
    by counting, so that a path is always inside its bin.

    Args:
        table: the cost.
        low, high: lower end of the first bin and upper end of the last one.
        width: of each bin; both of its ends belong to it.
        seed: of all draws.

    Raises:
        ConfigError: the range does not ascend, or the width does not divide it.
        LimitError: a bin is empty; the message names the empty bins and the reachable costs.
    """

    def __init__(self, table: CostTable, low: int, high: int, width: int, seed: int) -> None:
        if high <= low or width <= 0 or (high - low) % width:
            raise ConfigError(
                f"bins of {format_cost(width)} do not divide the range from {format_cost(low)} to {format_cost(high)}"
            )
        self.table, self.low, self.high, self.width = table, low, high, width
        self.distribution, self.seed = table.distribution(), seed
        self.bins: list[tuple[int, int]] = []
        empty: list[str] = []
        for start in range(low, high, width):
            if self._is_reachable(start, start + width):
                self.bins.append((start, start + width))
            else:
                empty.append(f"{format_cost(start)} to {format_cost(start + width)}")
            if len(empty) > MAX_NAMED_BINS:  # A mistyped range may have billions of bins.
                empty[-1] = "..."
                break
        if empty:
            raise LimitError(
                f"no architecture is in the bins of {table.kind.label} {', '.join(empty)}; the space reaches from"
                f" {format_cost(table.minimum)} to {format_cost(table.maximum)}"
            )

    def explain_unreachable_bins(self) -> str:
        """Return a message if more than half of a bin is outside of the space's costs; otherwise `""`.

        The ends of the bins seldom meet the ends of the space, so a smaller part of a bin may be outside.
        """
        below, above = self.table.minimum - self.low, self.high - self.table.maximum
        if 2 * max(below, above) <= self.width:
            return ""
        minimum, maximum = (format_cost(cost) for cost in (self.table.minimum, self.table.maximum))
        return (
            f"the bins of {self.table.kind.label} reach from {format_cost(self.low)} to {format_cost(self.high)}, the"
            f" space from {minimum} to {maximum}, so more than half of a bin is outside of the space"
        )

    def _is_reachable(self, low: int, high: int) -> bool:
        """Return whether draws find an architecture in a bin; with rounded costs, only a draw can tell."""
        counted = self.distribution.count(low, high) > 0
        if not counted or self.distribution.is_exact:
            return counted
        with contextlib.suppress(LimitError):
            self.distribution.draw(seeding.generator(self.seed, "bin", low), low, high)
            return True
        return False

    def draw(self, step: int) -> Architecture:
        """Return the path of a step."""
        rng = seeding.generator(self.seed, "path", step)
        return self.distribution.draw(rng, *self.bins[int(rng.integers(len(self.bins)))])

    def paths(self, step: int) -> list[Architecture]:
        """Return the path of a step, as a list of one."""
        return [self.draw(step)]


@dataclass(frozen=True)
class DrawCounts:
    """How often a training draws each choice, and each value of what else is searched.

    Attributes:
        choices: by layer and choice.
        widths: by layer and width; draws of choices without widths do not count.
        bits: by layer and pair of bits, likewise.
        outputs: by layer and output width; zeros for layers that begin no network stage.
        sizes: by layer and image size; zeros for all layers but the first.
    """

    choices: list[list[int]]
    widths: list[list[int]]
    bits: list[list[int]]
    outputs: list[list[int]]
    sizes: list[list[int]]


def count_draws(sampler: Sampler, steps: int, options: Options) -> DrawCounts:
    """Count what is drawn in the first `steps` steps."""
    choices = [[0] * count for count in options.choice_counts]
    others = [[[0] * len(values) for _ in options.choice_counts] for values in options.other_values]
    for step in range(steps):
        for arch in sampler.paths(step):
            for row, choice in zip(choices, arch, strict=True):
                row[choice] += 1
            for rows, values, drawn in zip(others, options.other_values, arch.columns[1:], strict=True):
                for row, value in zip(rows, drawn, strict=True) if values else ():
                    if value:
                        row[values.index(value)] += 1
    return DrawCounts(choices, *others)
