"""Paths with the first output channels of each network stage, against networks built with so many channels."""

from __future__ import annotations

import random
from functools import cache

import pytest

from spos_cli.space.choices import Choice
from spos_cli.space.search_space import SearchSpace, Stage
from tests.models.paths import check_candidates, check_paths

OPS = (
    {"mbconv": {"kernel": 3, "expand": 1}},
    {"mbconv": {"kernel": 5, "expand": 3}},
    {"mbconv": {"kernel": 3, "expand": 4, "se": 0.25, "activation": "hswish"}},
    {"mbconv": {"kernel": 3, "expand": 4, "se": 0.25, "activation": "silu"}},
    {"mbconv": {"kernel": 3, "expand": 1, "se": 0.5, "activation": "silu"}},
    {"fused_mbconv": {"kernel": 3, "expand": 1}},
    {"fused_mbconv": {"kernel": 3, "expand": 2, "se": 0.3, "activation": "silu"}},
    {"fused_mbconv": {"kernel": 3, "expand": 1, "se": 0.5}},
    {"basic": {"kernel": 3}},
    {"bottleneck": {"kernel": 3}},
    "skip",
)
RESNET = ({"basic": {"kernel": 3}}, {"bottleneck": {"kernel": 3}}, "identity")
OUTPUT_WIDTHS = ((500, 750, 1000), (400, 1000, 1200), (1000,), (700, 1500))


@cache
def make_space(seed: int) -> SearchSpace:
    """Return a random space with output widths; every third one has bits, and every second one widths."""
    rng = random.Random(seed)
    if seed % 3 == 0:
        ops = [Choice.from_spec(op) for op in RESNET]
    else:
        ops = [Choice.from_spec(op) for op in rng.sample(OPS, 3)] + [Choice("identity")] * rng.randint(0, 1)
        if seed % 2 and not any(op.is_scalable for op in ops):
            ops[0] = Choice.from_spec(OPS[1])
    return SearchSpace(
        # The first network stage may keep the channels of the stem, and each the channels of the one before it.
        stages=tuple(Stage(rng.randint(1, 2), rng.choice((24, 28, 33)), rng.randint(1, 2)) for _ in range(3)),
        choices=tuple(ops),
        image_size=12,
        classes=5,
        stem_channels=24,
        stem_stride=1,
        head_channels=16,
        widths=(500, 1000) if seed % 2 else (),
        bits=(12, 24, 44) if seed % 3 == 0 else (),
        output_widths=rng.choice(OUTPUT_WIDTHS),
        activation="relu",
    )


SEEDS = range(10)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_path_equals_the_network_of_its_channels_bit_by_bit(seed: int) -> None:
    check_paths(make_space(seed), affine=seed % 4 < 2, number=4)


@pytest.mark.parametrize("seed", SEEDS)
def test_candidates_are_calibrated_as_in_plain_pytorch_and_independently(seed: int) -> None:
    check_candidates(make_space(seed), "off" if seed % 5 else "bf16")
