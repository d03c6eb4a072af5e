"""The options of each layer: its choices, and their widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spos_cli.space.architecture import Architecture, Option

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Options:
    """The options of each layer, in the order of choices, then widths.

    Attributes:
        scalable: by layer and choice, whether the choice has widths.
        widths: the widths of all such choices, in thousandths, ascending; empty without channel search.
    """

    scalable: tuple[tuple[bool, ...], ...]
    widths: tuple[int, ...] = ()

    @staticmethod
    def without_widths(counts: Sequence[int]) -> Options:
        """Return the options of layers with so many choices, without channel search."""
        return Options(tuple((False,) * count for count in counts))

    @cached_property
    def by_layer(self) -> tuple[tuple[Option, ...], ...]:
        """All options of each layer, in the order of a cost table's columns."""
        return tuple(
            tuple(
                Option(choice, width)
                for choice, scalable in enumerate(layer)
                for width in (self.widths if scalable and self.widths else (0,))
            )
            for layer in self.scalable
        )

    @cached_property
    def counts(self) -> list[int]:
        """Number of options of each layer."""
        return [len(layer) for layer in self.by_layer]

    @cached_property
    def choice_counts(self) -> list[int]:
        """Number of choices of each layer."""
        return [len(layer) for layer in self.scalable]

    @cached_property
    def _index_of(self) -> list[dict[Option, int]]:
        return [{option: index for index, option in enumerate(layer)} for layer in self.by_layer]

    def indices(self, arch: Architecture) -> Sequence[int]:
        """Return the index of each layer's option in `by_layer`, for an architecture of this space."""
        if not self.widths:
            return arch.choices
        return [index_of[option] for index_of, option in zip(self._index_of, arch.options, strict=True)]

    def architecture(self, indices: Sequence[int]) -> Architecture:
        """Return the architecture whose options have these indices, one per layer."""
        if not self.widths:
            return Architecture(tuple(indices))
        return Architecture.from_options(layer[index] for layer, index in zip(self.by_layer, indices, strict=True))

    def combine(self, choices: Numbers, widths: Numbers) -> Architecture:
        """Return an architecture of choices `(layers,)` and widths `(layers,)`, without widths that do not apply."""
        picked = choices.tolist()
        if not self.widths:
            return Architecture(tuple(picked))
        scalable = [layer[choice] for layer, choice in zip(self.scalable, picked, strict=True)]
        return Architecture(tuple(picked), tuple(np.where(scalable, widths, 0).tolist()))

    def draw_choices(self, rng: np.random.Generator) -> Numbers:
        """Draw a choice for each layer, uniformly: `(layers,)`."""
        first, *others = self.choice_counts
        same = all(count == first for count in others)  # NumPy draws other numbers from a list of equal bounds.
        return rng.integers(first, size=len(self.scalable)) if same else rng.integers(self.choice_counts)

    def draw_widths(self, rng: np.random.Generator, widest: int | None = None) -> Numbers:
        """Draw a width for each layer, uniformly: `(layers,)`, in thousandths; zeros without channel search.

        Args:
            rng: the source of all draws.
            widest: how many widths to draw from, the widest first; None for all.
        """
        if not self.widths:
            return np.zeros(len(self.scalable), np.int64)
        widths = self.widths if widest is None else self.widths[-widest:]
        return np.array(widths)[rng.integers(len(widths), size=len(self.scalable))]

    def draw(self, rng: np.random.Generator, widest: int | None = None) -> Architecture:
        """Draw an architecture: choices uniformly, then widths.

        So a choice without widths is as likely as one that has many. For `widest` see `draw_widths`.
        """
        choices = self.draw_choices(rng)
        return self.combine(choices, self.draw_widths(rng, widest))
