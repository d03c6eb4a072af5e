"""The options of each layer: its choices, their widths and their bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spos_cli.space.architecture import Architecture, Option

Numbers = NDArray[np.int64]
Flags = tuple[tuple[bool, ...], ...]  # by layer and choice


@dataclass(frozen=True)
class Options:
    """The options of each layer, in the order of choices, then widths, then bits.

    Attributes:
        scalable: by layer and choice, whether the choice has widths.
        widths: the widths of all such choices, in thousandths, ascending; empty without channel search.
        quantizable: by layer and choice, whether the choice has bits; may be empty if there are none.
        bits: the bits of all such choices, as in `space.bits`; empty without a search of bits.
    """

    scalable: Flags
    widths: tuple[int, ...] = ()
    quantizable: Flags = ()
    bits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert not self.bits or len(self.quantizable) == len(self.scalable), "bits, but no layer is known to have some"

    @staticmethod
    def without_widths(counts: Sequence[int]) -> Options:
        """Return the options of layers with so many choices, without channel search."""
        return Options(tuple((False,) * count for count in counts))

    @property
    def has_choices_only(self) -> bool:
        """Whether no choice has widths or bits, so that an option is its choice."""
        return not self.widths and not self.bits

    @cached_property
    def by_layer(self) -> tuple[tuple[Option, ...], ...]:
        """All options of each layer, in the order of a cost table's columns."""
        return tuple(
            tuple(
                Option(choice, width, bits)
                for choice in range(count)
                for width in self._list_values(self.widths, self.scalable, layer, choice)
                for bits in self._list_values(self.bits, self.quantizable, layer, choice)
            )
            for layer, count in enumerate(self.choice_counts)
        )

    @staticmethod
    def _list_values(values: tuple[int, ...], flags: Flags, layer: int, choice: int) -> tuple[int, ...]:
        """Return the widths or the bits that a choice may have: 0 alone if it has none."""
        return values if values and flags[layer][choice] else (0,)

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
        if self.has_choices_only:
            return arch.choices
        return [index_of[option] for index_of, option in zip(self._index_of, arch.options, strict=True)]

    def architecture(self, indices: Sequence[int]) -> Architecture:
        """Return the architecture whose options have these indices, one per layer."""
        if self.has_choices_only:
            return Architecture(tuple(indices))
        return Architecture.from_options(layer[index] for layer, index in zip(self.by_layer, indices, strict=True))

    def combine(self, choices: Numbers, widths: Numbers, bits: Numbers) -> Architecture:
        """Return an architecture of choices, widths and bits `(layers,)` each, without those that do not apply."""
        picked = choices.tolist()
        return Architecture(
            tuple(picked),
            self._keep_applicable(self.widths, self.scalable, picked, widths),
            self._keep_applicable(self.bits, self.quantizable, picked, bits),
        )

    @staticmethod
    def _keep_applicable(
        allowed: tuple[int, ...], flags: Flags, choices: Sequence[int], values: Numbers
    ) -> tuple[int, ...]:
        """Return the values, 0 for choices that have none; nothing if the space has none."""
        if not allowed:
            return ()
        applies = [layer[choice] for layer, choice in zip(flags, choices, strict=True)]
        return tuple(np.where(applies, values, 0).tolist())

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
        return self._draw(rng, self.widths if widest is None else self.widths[-widest:])

    def draw_bits(self, rng: np.random.Generator) -> Numbers:
        """Draw bits for each layer, uniformly: `(layers,)`; zeros without a search of bits."""
        return self._draw(rng, self.bits)

    def _draw(self, rng: np.random.Generator, values: tuple[int, ...]) -> Numbers:
        if not values:
            return np.zeros(len(self.scalable), np.int64)
        return np.array(values)[rng.integers(len(values), size=len(self.scalable))]

    def draw(self, rng: np.random.Generator, widest: int | None = None) -> Architecture:
        """Draw an architecture: choices uniformly, then widths, then bits.

        So a choice without widths is as likely as one that has many. For `widest` see `draw_widths`.
        """
        choices = self.draw_choices(rng)
        widths = self.draw_widths(rng, widest)
        return self.combine(choices, widths, self.draw_bits(rng))
