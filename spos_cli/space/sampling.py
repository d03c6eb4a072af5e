"""Which paths a training step takes: a function of (seed, step), so that every process draws the same."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spos_cli import seeding
from spos_cli.errors import ConfigError, LimitError
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable, format_cost
from spos_cli.space.options import Options

MAX_NAMED = 5  # empty bins in an error


class Sampler(Protocol):
    """Draws the paths of a step."""

    def paths(self, step: int) -> list[Architecture]:
        """Those of a step (0, 1, ...), whose gradients are added up; the same on every call, in every process."""


@dataclass(frozen=True)
class WidthWarmUp:
    """Wide paths first: narrower widths join one by one.

    A supernet whose widths all begin at once hardly converges: narrow paths disturb the channels that all share. So
    the widest alone is drawn at first, as in the progressive shrinking of Once-for-All (Cai et al., arXiv 1908.09791,
    section 3.3), which opens elastic widths from wide to narrow.

    Attributes:
        widths: how many there are.
        steps: as many equal parts as there are widths, in each of which one more is drawn; 0 for all from the first on.
    """

    widths: int = 0
    steps: int = 0

    def widest(self, step: int) -> int | None:
        """How many of the widest are drawn in a step; None for all."""
        return None if step >= self.steps else 1 + step * self.widths // (self.steps + 1)


class UniformSampler:
    """Every choice of every layer is equally likely, then every width (paper, section 3.2).

    Args:
        options: of each layer.
        seed: of all draws.
        warm_up: of the widths.
    """

    def __init__(self, options: Options, seed: int, warm_up: WidthWarmUp = WidthWarmUp()) -> None:
        self.options, self.seed, self.warm_up = options, seed, warm_up

    def draw(self, step: int) -> Architecture:
        """The path of a step."""
        return self.options.draw(seeding.generator(self.seed, "path", step), self.warm_up.widest(step))

    def paths(self, step: int) -> list[Architecture]:
        """The path of a step."""
        return [self.draw(step)]


class FairSampler:
    """Strict fairness: each step trains every choice of every layer (Chu et al., FairNAS, arXiv 1907.01845).

    The paths of a step are as many as the layer with most choices has; each layer's choices are in an order of their
    own. A layer with fewer choices begins anew when all have been taken, so some of them come once more. Widths are
    drawn for each path and layer, uniformly.

    Args:
        options: of each layer.
        seed: of all draws.
        warm_up: of the widths.
    """

    def __init__(self, options: Options, seed: int, warm_up: WidthWarmUp = WidthWarmUp()) -> None:
        self.options, self.seed, self.warm_up = options, seed, warm_up

    def paths(self, step: int) -> list[Architecture]:
        """The paths of a step."""
        counts = self.options.choices
        rng, most, widest = seeding.generator(self.seed, "path", step), max(counts), self.warm_up.widest(step)
        columns = [
            np.concatenate([rng.permutation(count) for _ in range(-(-most // count))])[:most] for count in counts
        ]
        return [self.options.joined(row, self.options.draw_widths(rng, widest)) for row in np.stack(columns, 1)]


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
            if self._has(begin, begin + width):
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

        self.table, self.low, self.high, self.width = table, low, high, width

    def idle(self) -> str:
        """Says that more of a bin is beyond the space than within it; empty if that is so of none.

        A grid of bins seldom ends where the space does, so a bin may reach beyond it, but not for the most part.
        """
        below, above = self.table.minimum - self.low, self.high - self.table.maximum
        if 2 * max(below, above) <= self.width:
            return ""
        least, most = (format_cost(cost) for cost in (self.table.minimum, self.table.maximum))
        return (
            f"the bins of {self.table.label} from {format_cost(self.low)} to {format_cost(self.high)} are for the most"
            f" part of one of them beyond the space, which reaches from {least} to {most}"
        )

    def _has(self, low: int, high: int) -> bool:
        """Whether a bin has an architecture that will be found; only exact counts tell without a draw."""
        counted = self.distribution.count(low, high) > 0
        if not counted or self.distribution.is_exact:
            return counted
        with contextlib.suppress(LimitError):
            self.distribution.draw(seeding.generator(self.seed, "bin", low), low, high)
            return True
        return False

    def draw(self, step: int) -> Architecture:
        """The path of a step."""
        rng = seeding.generator(self.seed, "path", step)
        return self.distribution.draw(rng, *self.bins[int(rng.integers(len(self.bins)))])

    def paths(self, step: int) -> list[Architecture]:
        """The path of a step."""
        return [self.draw(step)]


@dataclass(frozen=True)
class Trained:
    """How often a training takes what; by layer.

    Attributes:
        choices: each choice.
        widths: each width, of a choice that has one.
    """

    choices: list[list[int]]
    widths: list[list[int]]


def count_trained(sampler: Sampler, steps: int, options: Options) -> Trained:
    """How often each choice and each width is trained in the first `steps` steps."""
    trained = Trained([[0] * count for count in options.choices], [[0] * len(options.widths) for _ in options.choices])
    places = {width: place for place, width in enumerate(options.widths)}
    for step in range(steps):
        for arch in sampler.paths(step):
            for row, choice in zip(trained.choices, arch, strict=True):
                row[choice] += 1
            for row, width in zip(trained.widths, arch.widths, strict=bool(arch.widths)):
                if width:
                    row[places[width]] += 1
    return trained
