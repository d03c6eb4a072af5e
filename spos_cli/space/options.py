"""The options of each layer, and the contexts that its cost depends on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spos_cli.space.architecture import Architecture, Option

Numbers = NDArray[np.int64]
Flags = tuple[tuple[bool, ...], ...]  # by layer and choice


class Context(NamedTuple):
    """What comes before a layer, as far as the layer's cost depends on it.

    Attributes:
        size: side of the images, in pixels; 0 in a space with one image size.
        output: of the network stage that the layer's input comes from, in thousandths; 0 without output widths.
    """

    size: int = 0
    output: int = 0


@dataclass(frozen=True)
class Options:
    """The options of each layer, in the order of choices, then widths, bits, output widths and image sizes.

    Attributes:
        scalable: by layer and choice, whether the choice has widths.
        widths: the widths of all such choices, in thousandths, ascending; empty without channel search.
        quantizable: by layer and choice, whether the choice has bits; may be empty if there are none.
        bits: the bits of all such choices, as in `space.bits`; empty without a search of bits.
        starts: by layer, whether a network stage begins with it; may be empty if there are no output widths.
        outputs: the output widths of all network stages, in thousandths, ascending; empty if they are not searched.
        sizes: sides of the images, in pixels, ascending; empty if they are not searched.
    """

    scalable: Flags
    widths: tuple[int, ...] = ()
    quantizable: Flags = ()
    bits: tuple[int, ...] = ()
    starts: tuple[bool, ...] = ()
    outputs: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert not self.bits or len(self.quantizable) == len(self.scalable), "bits, but no layer is known to have some"
        assert not self.outputs or (len(self.starts) == len(self.scalable) and self.starts[0]), "no stage begins"

    @staticmethod
    def without_widths(counts: Sequence[int]) -> Options:
        """Return the options of layers with so many choices, without channel search."""
        return Options(tuple((False,) * count for count in counts))

    @property
    def has_choices_only(self) -> bool:
        """Whether an option is its choice, because nothing else is searched."""
        return not any(self.other_values)

    @property
    def other_values(self) -> tuple[tuple[int, ...], ...]:
        """All widths, bits, output widths and image sizes; empty where they are not searched."""
        return self.widths, self.bits, self.outputs, self.sizes

    @cached_property
    def _dimensions(self) -> list[tuple[tuple[int, ...], Flags]]:
        """What an option has besides its choice: the values of each field, and by layer and choice, who has them."""
        starts = tuple((start,) * count for start, count in zip(self.starts, self.choice_counts, strict=False))
        first = tuple((layer == 0,) * count for layer, count in enumerate(self.choice_counts))
        return list(zip(self.other_values, (self.scalable, self.quantizable, starts, first), strict=True))

    @cached_property
    def by_layer(self) -> tuple[tuple[Option, ...], ...]:
        """All options of each layer, in the order of a cost table's columns."""
        return tuple(
            tuple(
                Option(choice, *values)
                for choice in range(count)
                for values in itertools.product(*self._list_values(layer, choice))
            )
            for layer, count in enumerate(self.choice_counts)
        )

    def _list_values(self, layer: int, choice: int) -> list[tuple[int, ...]]:
        """Return the widths, bits, output widths and image sizes that a choice may have: 0 alone if it has none."""
        return [values if values and flags[layer][choice] else (0,) for values, flags in self._dimensions]

    @cached_property
    def counts(self) -> list[int]:
        """Number of options of each layer."""
        return [len(layer) for layer in self.by_layer]

    @cached_property
    def choice_counts(self) -> list[int]:
        """Number of choices of each layer."""
        return [len(layer) for layer in self.scalable]

    @cached_property
    def contexts(self) -> tuple[tuple[Context, ...], ...]:
        """By layer, what may come before it: one context if neither output widths nor image sizes are searched."""
        return ((Context(),), *(self._later_contexts,) * (len(self.scalable) - 1))

    @cached_property
    def _later_contexts(self) -> tuple[Context, ...]:
        """The contexts of all layers but the first."""
        return tuple(itertools.starmap(Context, itertools.product(self.sizes or (0,), self.outputs or (0,))))

    @cached_property
    def next_contexts(self) -> tuple[tuple[int, ...], ...]:
        """The index of the context after each layer, by layer and column of a cost table.

        A column stands for a context and an option of the layer: `context * options + option`.
        """
        index_of = {context: index for index, context in enumerate(self._later_contexts)}
        return tuple(
            tuple(
                index_of[Context(option.size or context.size, option.output or context.output)]
                for context in contexts
                for option in options
            )
            for contexts, options in zip(self.contexts, self.by_layer, strict=True)
        )

    @cached_property
    def _index_of(self) -> list[dict[Option, int]]:
        return [{option: index for index, option in enumerate(layer)} for layer in self.by_layer]

    def indices(self, arch: Architecture) -> Sequence[int]:
        """Return the index of each layer's option in `by_layer`, for an architecture of this space."""
        if self.has_choices_only:
            return arch.choices
        return [index_of[option] for index_of, option in zip(self._index_of, arch.options, strict=True)]

    def columns(self, arch: Architecture) -> Sequence[int]:
        """Return the column of each layer in a cost table, which depends on the layer's option and context."""
        indices = self.indices(arch)
        if not self.outputs and not self.sizes:
            return indices
        columns, context = [], 0
        for index, count, following in zip(indices, self.counts, self.next_contexts, strict=True):
            columns.append(context * count + index)
            context = following[columns[-1]]
        return columns

    def architecture(self, indices: Sequence[int]) -> Architecture:
        """Return the architecture whose options have these indices, one per layer."""
        if self.has_choices_only:
            return Architecture(tuple(indices))
        return Architecture.from_options(layer[index] for layer, index in zip(self.by_layer, indices, strict=True))

    def combine(self, choices: Numbers, *others: Numbers) -> Architecture:
        """Return an architecture of choices, widths, bits, output widths and image sizes `(layers,)` each.

        Those that do not apply are left out.
        """
        picked = choices.tolist()
        values = (
            self._keep_applicable(allowed, flags, picked, drawn)
            for (allowed, flags), drawn in zip(self._dimensions, others, strict=True)
        )
        return Architecture(tuple(picked), *values)

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

    def draw_others(self, rng: np.random.Generator, widest: int | None = None) -> list[Numbers]:
        """Draw widths, bits, output widths and image sizes for each layer, uniformly: `(layers,)` each, zeros for none.

        Args:
            rng: the source of all draws.
            widest: how many widths to draw from, the widest first; None for all.
        """
        widths = self.widths if widest is None else self.widths[-widest:]
        return [self.draw_values(values, rng) for values in (widths, *self.other_values[1:])]

    def draw_values(self, values: tuple[int, ...], rng: np.random.Generator) -> Numbers:
        """Draw one of some values for each layer, uniformly: `(layers,)`; zeros if there are none."""
        if not values:
            return np.zeros(len(self.scalable), np.int64)
        return np.array(values)[rng.integers(len(values), size=len(self.scalable))]

    def draw(self, rng: np.random.Generator, widest: int | None = None) -> Architecture:
        """Draw an architecture: choices uniformly, then what else is searched.

        So a choice without widths is as likely as one that has many. For `widest` see `draw_others`.
        """
        return self.combine(self.draw_choices(rng), *self.draw_others(rng, widest))
