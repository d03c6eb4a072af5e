"""Spaces with output widths and image sizes: costs by context, against all architectures one by one."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from spos_cli import seeding
from spos_cli.errors import ArchitectureError, ConfigError, LimitError
from spos_cli.models.counting import count
from spos_cli.search.evolution import Evolution
from spos_cli.space import cost
from spos_cli.space.architecture import Architecture, parse
from spos_cli.space.block_costs import Part, list_head_parts, list_parts, list_stem_parts
from spos_cli.space.choices import Choice
from spos_cli.space.cost import CostDistribution, CostTable
from spos_cli.space.cost_kinds import FLOPS
from spos_cli.space.limits import Limit
from spos_cli.space.options import Options
from spos_cli.space.sampling import UniformSampler, count_draws
from spos_cli.space.search_space import SearchSpace, Stage

MBCONV = Choice("mbconv", (("expand", 3), ("kernel", 3)))
CHOICES = (MBCONV, Choice("skip"), Choice("identity"))
SPACE = SearchSpace(
    stages=(Stage(1, 16, 1), Stage(2, 24, 2)),
    choices=CHOICES,
    image_size=32,
    classes=10,
    stem_channels=16,
    stem_stride=1,
    head_channels=32,
    widths=(500, 1000),
    output_widths=(500, 1000, 1500),
    image_sizes=(16, 25, 32),
)


def enumerate_space(options: Options) -> list[Architecture]:
    return [Architecture.from_options(layers) for layers in itertools.product(*options.by_layer)]


def count_one_by_one(space: SearchSpace, arch: Architecture) -> tuple[int, int, int]:
    """Return the FLOPs, parameters and BitOPs of one architecture, from the layers that it has."""
    layers = space.layers_of(arch)
    blocks = [list_parts(layer, option) for layer, option in zip(layers, arch.options, strict=True)]
    parts: list[Part] = [
        *list_stem_parts(space, layers[0]),
        *itertools.chain(*blocks),
        *list_head_parts(space, layers[-1]),
    ]
    bitops = sum(
        sum(part.multiply_adds for part in block) * (option.bits // 10) * (option.bits % 10)
        for block, option in zip(blocks, arch.options, strict=True)
    )
    return sum(part.multiply_adds for part in parts), sum(part.params for part in parts), bitops


@pytest.mark.parametrize(
    "space",
    [
        SPACE,
        replace(SPACE, widths=(), image_sizes=()),
        replace(SPACE, widths=(), output_widths=()),
        replace(SPACE, stages=(Stage(1, 24, 2),), head_linear=20),
        replace(SPACE, choices=(Choice("basic", (("kernel", 3),)),), widths=(), bits=(12, 24), image_sizes=(16, 32)),
    ],
)
def test_costs_are_those_of_each_network(space: SearchSpace) -> None:
    costs, archs = count(space), enumerate_space(space.options)
    for arch in archs[:: max(1, len(archs) // 500)]:
        expected = count_one_by_one(space, arch)
        assert (costs.flops.of(arch), costs.params.of(arch)) == expected[:2]
        assert not space.bits or costs.tables["bitops"].of(arch) == expected[2]
    for index, table in enumerate((costs.flops, costs.params)):
        values = [count_one_by_one(space, arch)[index] for arch in archs]
        assert (table.minimum, table.maximum) == (min(values), max(values))
        assert table.of(table.cheapest) == table.minimum
        assert table.of(table.most_expensive) == table.maximum
        assert table.mean == pytest.approx(np.mean(values))


@st.composite
def tables(draw: st.DrawFn) -> CostTable:
    """Up to 3 layers, with random numbers of choices, widths, output widths and image sizes, and random costs."""
    layers = draw(st.integers(1, 3))
    counts = draw(st.lists(st.integers(1, 2), min_size=layers, max_size=layers))
    options = Options(
        scalable=tuple(tuple(draw(st.booleans()) for _ in range(count)) for count in counts),
        widths=draw(st.sampled_from([(), (500, 1000)])),
        starts=(True, *draw(st.lists(st.booleans(), min_size=layers - 1, max_size=layers - 1))),
        outputs=draw(st.sampled_from([(), (1000,), (500, 1000), (250, 500, 1000)])),
        sizes=draw(st.sampled_from([(), (16,), (16, 32)])),
    )
    unit = draw(st.integers(1, 9))
    costs = st.integers(0, 8).map(lambda step: step * unit)
    rows = [
        draw(st.lists(costs, min_size=len(following), max_size=len(following))) for following in options.next_contexts
    ]
    return CostTable(FLOPS, draw(st.integers(0, 20)), rows, options)


def add_up(table: CostTable, arch: Architecture) -> int:
    """Return a cost without `Options.columns`: the context is what the last layer with a value has set."""
    total, size, output = table.fixed, 0, 0
    for layer, option in enumerate(arch.options):
        context = table.options.contexts[layer].index((size, output))
        options = table.options.by_layer[layer]
        total += table.rows[layer][context * len(options) + options.index(option)]
        size, output = option.size or size, option.output or output
    return total


BOUND = st.none() | st.integers(-5, 250)


@settings(max_examples=60, deadline=None)
@given(tables(), BOUND, BOUND, st.floats(0, 1), st.integers(0, 2**32))
def test_counts_and_draws(table: CostTable, low: int | None, high: int | None, q: float, seed: int) -> None:
    costs = {arch: add_up(table, arch) for arch in enumerate_space(table.options)}
    assert all(table.of(arch) == value for arch, value in costs.items())
    assert (table.minimum, table.maximum) == (min(costs.values()), max(costs.values()))
    assert table.of(table.cheapest) == table.minimum
    assert table.of(table.most_expensive) == table.maximum
    inside = [a for a, value in costs.items() if (low is None or low <= value) and (high is None or value <= high)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "MAX_INT64_COUNT", 0)
        exact = CostDistribution(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "MAX_CELLS", 0)
        patch.setattr(cost, "MAX_CELLS_WITH_WIDTHS", 0)
        patch.setattr(cost, "COARSE_CELLS", 40)
        rounded = CostDistribution(table)
    for distribution in (table.distribution(), exact):
        assert distribution.is_exact
        assert distribution.count(low, high) == len(inside)
        assert list(distribution.enumerate(low, high)) == inside
        ordered = sorted(costs.values())
        needed = max(1, math.ceil(Fraction(str(q)) * len(ordered)))
        assert distribution.quantile(q) == ordered[needed - 1]
    assert list(rounded.enumerate(low, high)) == inside
    assert rounded.count(low, high) >= len(inside)
    for distribution in (table.distribution(), exact, rounded):
        rng = np.random.default_rng(seed)
        if inside:
            assert distribution.draw(rng, low, high) in inside
        else:
            with pytest.raises(LimitError, match="no architecture"):
                distribution.draw(rng, low, high)


def test_draws_are_uniform() -> None:
    space = replace(SPACE, stages=(Stage(1, 16, 1), Stage(1, 24, 2)), widths=())
    table = count(space).flops
    limit = table.distribution().quantile(0.6)
    inside = [arch for arch in enumerate_space(space.options) if table.of(arch) <= limit]
    rng = np.random.default_rng(1)
    seen = Counter(table.distribution().draw(rng, None, limit) for _ in range(10_000))
    assert set(seen) <= set(inside)
    assert chisquare([seen[arch] for arch in inside]).pvalue > 1e-3


def test_an_architecture_changes_the_layers_after_it() -> None:
    arch = parse("25px,0@1.0x0.5,1x1.5,2")
    SPACE.validate(arch)
    layers = SPACE.layers_of(arch)
    shapes = [(layer.in_channels, layer.out_channels, layer.in_size, layer.out_size) for layer in layers]
    assert shapes == [(16, 8, 25, 25), (8, 36, 25, 13), (36, 36, 13, 13)]
    # In the first block of a stage, no op adds its input: its channels are searched.
    assert [layer.keeps_shape for layer in layers] == [False, False, True]
    assert [len(layer.choices) for layer in SPACE.layers] == [2, 2, 3]
    assert SPACE.hidden_channels(arch) == [48, None, None]
    assert SearchSpace.from_dict(SPACE.to_dict()) == SPACE
    assert SPACE.network_key(arch) == SPACE.network_key(parse("25px,0@1.0x0.5,1x1.5,1"))
    assert SPACE.network_key(arch) != SPACE.network_key(parse("32px,0@1.0x0.5,1x1.5,1"))


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("0@0.5x0.5,1x0.5,2", "has no image size; begin with 16px or 25px or 32px"),
        ("24px,0@0.5x0.5,1x0.5,2", "image size 24px; begin with 16px"),
        ("16px,0@0.5,1x0.5,2", "layer 0 has no output width; the output widths are 0.5, 1.0, 1.5"),
        ("16px,0@0.5x0.7,1x0.5,2", "layer 0 has output width 0.7; the output widths are"),
        ("16px,0@0.5x0.5,1x0.5,2x0.5", "only the first layer of a network stage"),
        ("16px,0x0.5,1x0.5,2", "layer 0 has no width; the widths are 0.5, 1.0"),
    ],
)
def test_a_wrong_output_width_or_image_size_is_explained(arch: str, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        SPACE.validate(parse(arch))
    with pytest.raises(ArchitectureError, match=r"the space has (no|one)"):
        replace(SPACE, output_widths=(), image_sizes=(), widths=()).validate(parse("16px,0x0.5,1,2"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_widths": (10, 1000)}, "output width 0.01 gives stage 0 0 of 16 channels, but it needs at least 1"),
        (
            {"output_widths": (1000, 3_000_000)},
            "stage 1 channels at output width 3000.0 is 72000; it must be from 1 to",
        ),
        ({"output_widths": (500, 510)}, "output width 0.51 gives stage 0 8 of 16 channels, as many as 0.5"),
        ({"output_widths": (1000, 500)}, "output_widths must be strictly increasing"),
        ({"image_sizes": (16, 24)}, "end with image_size \\(32\\), got 16, 24"),
        ({"image_sizes": (24, 16, 32)}, "strictly increasing"),
        ({"choices": (Choice("shuffle", (("kernel", 3),)),)}, "shuffle 3x3 is not one of them"),
        ({"choices": (Choice("mbconv", (("expand", 3), ("groups", 2), ("kernel", 3))),), "widths": ()}, "has groups"),
    ],
)
def test_an_impossible_space_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SPACE, **change)  # type: ignore[arg-type]


def test_mutation_crossover_and_draws_stay_in_the_space() -> None:
    table = count(SPACE).flops
    limit = Limit(table.distribution().quantile(0.3))
    evolution = Evolution(table, limit, 12, 6, 4, 4, 4, 0.3, seed=5, predictor="off")
    for predictor in ("off", "ridge"):
        evolution = replace(evolution, predictor=predictor)  # type: ignore[arg-type]
        seen: list[Architecture] = []
        for scored in evolution.search(lambda candidates: [table.of(c.architecture) / 1e6 for c in candidates]):
            seen += [candidate.architecture for candidate, _ in scored]
        assert len(set(seen)) == len(seen) == 12 * 7
        for arch in seen:
            SPACE.validate(arch)
            assert table.of(arch) <= limit.high
        assert len({arch.image_size for arch in seen}) > 1
    parents = [SPACE.options.draw(seeding.generator(1, "t", i)) for i in range(2)]
    child = evolution.cross(*parents, np.random.default_rng(0))
    for fields in zip(*(one.columns for one in (child, *parents)), strict=True):
        assert all(mine in theirs for mine, *theirs in zip(*fields, strict=True))


def test_a_training_draws_all_values_equally_often() -> None:
    counts = count_draws(UniformSampler(SPACE.options, 3), 3000, SPACE.options)
    assert [sum(row) for row in counts.outputs] == [3000, 3000, 0]
    assert [sum(row) for row in counts.sizes] == [3000, 0, 0]
    for row in (counts.outputs[0], counts.outputs[1], counts.sizes[0]):
        assert chisquare(row).pvalue > 1e-3
