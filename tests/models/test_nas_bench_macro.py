"""The space of NAS-Bench-Macro, against the costs in its public table (Su et al., arXiv 2103.11922)."""

from __future__ import annotations

import itertools

import pytest

from spos_cli.config import loading
from spos_cli.models.counting import Costs, count
from spos_cli.space.architecture import Architecture

# FLOPs and parameters in the table. All 6,561 were compared once; these reach from the smallest to the largest, and
# mix the ops.
TABLE = {
    "00000000": (7_713_280, 387_882),
    "21000000": (24_588_800, 437_034),
    "02012100": (47_327_744, 890_666),
    "11111111": (53_246_464, 1_588_874),
    "11111221": (65_012_224, 2_181_386),
    "22222222": (105_660_928, 2_932_586),
}
CLASSIFIER_BIAS = 10  # parameters that the table counts and the network does not have


@pytest.fixture(scope="module")
def costs() -> Costs:
    return count(loading.load(loading.list_recipes()["cifar10_nas_bench_macro"]).space.build())


@pytest.mark.parametrize("choices", TABLE)
def test_costs_equal_those_of_the_table(costs: Costs, choices: str) -> None:
    arch = Architecture(tuple(map(int, choices)))
    assert (costs.flops.of(arch), costs.params.of(arch) + CLASSIFIER_BIAS) == TABLE[choices]


def test_the_table_has_the_smallest_and_the_largest(costs: Costs) -> None:
    assert (costs.flops.minimum, costs.flops.maximum) == (7_713_280, 105_660_928)


def test_many_architectures_are_the_same_network() -> None:
    space = loading.load(loading.list_recipes()["cifar10_nas_bench_macro"]).space.build()
    keys = {space.network_key(Architecture(choices)) for choices in itertools.product(range(3), repeat=8)}
    # The first block of a stage is never the identity; of the two other ones, 7 of 9 pairs differ, of one other, all 3.
    assert len(keys) == (3 * 3) * (3 * 7) * (3 * 7) == 3969
