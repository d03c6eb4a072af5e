"""The official space: its FLOPs, counted exactly, against the numbers of the official code."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from spos_cli.models.counting import Costs, count
from spos_cli.space.architecture import Architecture
from spos_cli.space.sampling import CostBinSampler
from spos_cli.space.search_space import OFFICIAL_SPACE


@pytest.fixture(scope="module")
def costs() -> Costs:
    return count(OFFICIAL_SPACE)


def test_the_costs_of_official_architectures(costs: Costs) -> None:
    for entry in json.loads(Path(__file__).with_name("flops_params.json").read_text()):
        arch = Architecture(tuple(entry["architecture"]))
        assert (costs.flops.of(arch), costs.params.of(arch)) == (entry["flops"], entry["params"])


@pytest.mark.parametrize("channels", [1, 5])
def test_the_first_convolution_counts_with_its_channels(costs: Costs, channels: int) -> None:
    others, arch = count(dataclasses.replace(OFFICIAL_SPACE, in_channels=channels)), Architecture((0,) * 20)
    weights = (channels - 3) * 3 * 3 * 16
    assert others.params.of(arch) - costs.params.of(arch) == weights
    assert others.flops.of(arch) - costs.flops.of(arch) == weights * 112 * 112


def test_the_whole_space(costs: Costs) -> None:
    flops, distribution = costs.flops, costs.flops.distribution()
    assert (flops.minimum, flops.maximum) == (270_359_360, 398_609_216)
    assert flops.mean == pytest.approx(327.2e6, rel=2e-4)
    assert (distribution.unit, distribution.num_units) == (6_272, 20_449)
    assert distribution.count(None, None) == OFFICIAL_SPACE.size
    assert distribution.share(None, 330_000_000) == pytest.approx(0.589, abs=5e-4)
    assert distribution.quantile(0.589) <= 330_000_000 < distribution.quantile(0.59)


def test_the_official_bins(costs: Costs) -> None:
    sampler = CostBinSampler(costs.flops, 290_000_000, 360_000_000, 10_000_000, seed=0)
    assert len(sampler.bins) == 7
    drawn = [costs.flops.of(sampler.draw(step)) for step in range(10_000)]
    assert 290_000_000 <= min(drawn) <= max(drawn) <= 360_000_000
    shares = np.histogram(drawn, 7, (290_000_000, 360_000_000))[0] / len(drawn)
    assert shares == pytest.approx([1 / 7] * 7, abs=0.02)


def test_draws_keep_to_the_lowest_bin(costs: Costs) -> None:
    """The official loop escapes this bin now and then."""
    distribution, rng = costs.flops.distribution(), np.random.default_rng(0)
    drawn = [distribution.draw(rng, 290_000_000, 300_000_000) for _ in range(10_000)]
    assert all(290_000_000 <= costs.flops.of(arch) <= 300_000_000 for arch in drawn)


def test_parameters_can_be_counted_too(costs: Costs) -> None:
    assert costs.params.distribution().count(None, None) == OFFICIAL_SPACE.size
