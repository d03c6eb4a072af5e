"""What each layer of a space may be: a choice, and a width of it where widths are searched."""

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
    """The options of each layer: first by choice, then by width.

    Attributes:
        scaled: by layer and choice, whether the choice has a width.
        widths: of all choices that have one, in thousandths, ascending; empty if none are searched.
    """

    scaled: tuple[tuple[bool, ...], ...]
    widths: tuple[int, ...] = ()

    @staticmethod
    def plain(counts: Sequence[int]) -> Options:
        """So many choices in each layer, without widths."""
        return Options(tuple((False,) * count for count in counts))

    @cached_property
    def by_layer(self) -> tuple[tuple[Option, ...], ...]:
        """All of them; cost tables have a column for each."""
        return tuple(
            tuple(
                Option(choice, width)
                for choice, scaled in enumerate(layer)
                for width in (self.widths if scaled and self.widths else (0,))
            )
            for layer in self.scaled
        )

    @cached_property
    def counts(self) -> list[int]:
        """The number of options of each layer."""
        return [len(layer) for layer in self.by_layer]

    @cached_property
    def choices(self) -> list[int]:
        """The number of choices of each layer."""
        return [len(layer) for layer in self.scaled]

    @cached_property
    def _places(self) -> list[dict[Option, int]]:
        return [{option: place for place, option in enumerate(layer)} for layer in self.by_layer]

    def places(self, arch: Architecture) -> Sequence[int]:
        """The index of each layer's option, for an architecture that the space has."""
        if not self.widths:
            return arch.choices
        return [places[option] for places, option in zip(self._places, arch.options, strict=True)]

    def architecture(self, places: Sequence[int]) -> Architecture:
        """The inverse of `places`."""
        if not self.widths:
            return Architecture(tuple(places))
        return Architecture.of(layer[place] for layer, place in zip(self.by_layer, places, strict=True))

    def joined(self, choices: Numbers, widths: Numbers) -> Architecture:
        """Choices and widths `(layers,)` as an architecture; choices that have no width take none."""
        picked = choices.tolist()
        if not self.widths:
            return Architecture(tuple(picked))
        has = [layer[choice] for layer, choice in zip(self.scaled, picked, strict=True)]
        return Architecture(tuple(picked), tuple(np.where(has, widths, 0).tolist()))

    def draw_choices(self, rng: np.random.Generator) -> Numbers:
        """A choice for each layer, uniformly: `(layers,)`."""
        first, *others = self.choices
        same = all(count == first for count in others)  # NumPy draws other numbers from a list of bounds
        return rng.integers(first, size=len(self.scaled)) if same else rng.integers(self.choices)

    def draw_widths(self, rng: np.random.Generator, widest: int | None = None) -> Numbers:
        """A width for each layer, uniformly out of all or of the widest: `(layers,)`; zeros if there are none."""
        if not self.widths:
            return np.zeros(len(self.scaled), np.int64)
        widths = self.widths if widest is None else self.widths[-widest:]
        return np.array(widths)[rng.integers(len(widths), size=len(self.scaled))]

    def draw(self, rng: np.random.Generator, widest: int | None = None) -> Architecture:
        """An architecture: choices uniformly, then widths. One without a width is as likely as one with all of them."""
        choices = self.draw_choices(rng)
        return self.joined(choices, self.draw_widths(rng, widest))
