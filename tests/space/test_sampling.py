"""The samplers: uniform, inside of their bins, and a function of (seed, step)."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from spos_cli.errors import ConfigError, LimitError
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable
from spos_cli.space.sampling import CostBinSampler, FairSampler, UniformSampler, choice_counts

TABLE = CostTable("flops", 100, np.array([[0, 10, 20], [0, 10, 30], [10, 20, 40]]))  # from 110 to 190
PATHS = [Architecture(path) for path in itertools.product(range(3), repeat=3)]
STEPS = 10_000


def samplers(seed: int) -> list[UniformSampler | CostBinSampler]:
    return [UniformSampler([3, 3, 3], seed), CostBinSampler(TABLE, 110, 190, 20, seed)]


def test_uniform_paths() -> None:
    sampler = UniformSampler([3, 3, 3], seed=0)
    seen = Counter(sampler.draw(step) for step in range(STEPS))
    assert set(seen) == set(PATHS)
    assert chisquare([seen[arch] for arch in PATHS]).pvalue > 1e-3


def test_paths_of_bins() -> None:
    """Against full enumeration: a bin of four, then a path of it; the ends belong to both of their bins."""
    sampler = CostBinSampler(TABLE, 110, 190, 20, seed=0)
    assert sampler.bins == [(110, 130), (130, 150), (150, 170), (170, 190)]
    expected = dict.fromkeys(PATHS, 0.0)
    for low, high in sampler.bins:
        inside = [arch for arch in PATHS if low <= TABLE.of(arch) <= high]
        for arch in inside:
            expected[arch] += STEPS / len(sampler.bins) / len(inside)
    seen = Counter(sampler.draw(step) for step in range(STEPS))
    assert chisquare([seen[arch] for arch in PATHS], list(expected.values())).pvalue > 1e-3


def test_no_path_is_ever_outside_of_its_bin() -> None:
    sampler = CostBinSampler(TABLE, 130, 150, 10, seed=3)
    assert {TABLE.of(sampler.draw(step)) for step in range(STEPS)} == {130, 140, 150}


def test_a_path_is_a_function_of_seed_and_step() -> None:
    for one, same, other in zip(samplers(5), samplers(5), samplers(6), strict=True):
        paths = [one.draw(step) for step in range(50)]
        assert [same.draw(step) for step in reversed(range(50))] == paths[::-1]
        assert [other.draw(step) for step in range(50)] != paths


@pytest.mark.parametrize(
    ("low", "high", "width"), [(190, 110, 20), (110, 110, 20), (110, 190, 30), (110, 190, 0), (110, 190, -20)]
)
def test_impossible_bins(low: int, high: int, width: int) -> None:
    with pytest.raises(ConfigError, match="do not divide the range"):
        CostBinSampler(TABLE, low, high, width, 0)


@pytest.mark.timeout(10)
def test_empty_bins_are_named() -> None:
    with pytest.raises(LimitError, match=r"bins of FLOPs 50 to 100; the space reaches from 110 to 190"):
        CostBinSampler(TABLE, 50, 150, 50, 0)
    with pytest.raises(LimitError, match=r"bins of FLOPs 111 to 113, 113 to 115"):
        CostBinSampler(TABLE, 111, 115, 2, 0)
    with pytest.raises(LimitError, match=r"200 to 210, .*, 240 to 250, \.\.\.; the space"):
        CostBinSampler(TABLE, 150, 10**18, 10, 0)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(0, 99))
def test_fair_paths_train_every_choice_in_every_step(counts: list[int], seed: int) -> None:
    sampler = FairSampler(counts, seed)
    paths = sampler.paths(3)
    assert len(paths) == max(counts)
    for layer, count in enumerate(counts):
        trained = Counter(path[layer] for path in paths)
        assert sorted(trained) == list(range(count))
        assert max(trained.values()) - min(trained.values()) <= 1
    assert sampler.paths(3) == FairSampler(counts, seed).paths(3)


def test_fair_orders_are_uniform_and_differ_by_layer() -> None:
    sampler = FairSampler([3, 3], 0)
    seen = Counter(tuple(zip(*sampler.paths(step), strict=True)) for step in range(3600))
    assert len(seen) == 36
    assert chisquare(list(seen.values())).pvalue > 0.001


def test_how_often_choices_are_trained() -> None:
    assert choice_counts(FairSampler([2, 4], 0), 10, [2, 4]) == [[20, 20], [10, 10, 10, 10]]
    counted = choice_counts(UniformSampler([3, 1], 0), 300, [3, 1])
    assert counted[1] == [300]
    assert sum(counted[0]) == 300
    assert min(counted[0]) > 70
