"""Paths with the first output channels of each network stage, against networks built with so many channels."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from spos_cli.errors import CheckpointError
from spos_cli.models.counting import count, count_multiply_adds, count_parameters
from spos_cli.models.network import Network
from spos_cli.models.skeleton import build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.official.weights import infer_architecture
from spos_cli.space.architecture import Architecture, parse
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
)
RESNET = ({"basic": {"kernel": 3}}, {"bottleneck": {"kernel": 3}}, "identity")
OUTPUT_WIDTHS = ((500, 750, 1000), (400, 1000, 1200), (700, 1500))


@cache
def make_space(seed: int) -> SearchSpace:
    """Return a random space with output widths; every third one has bits, and every second one widths."""
    rng = random.Random(seed)
    if seed % 3 == 0:
        ops = [Choice.from_spec(op) for op in RESNET]
    else:
        ops = [Choice.from_spec(op) for op in (OPS[seed % len(OPS)], *rng.sample(OPS, 2))]
        ops = [*dict.fromkeys(ops), Choice("identity" if seed % 2 else "skip")]
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


def make_plain(outputs: tuple[int, ...]) -> SearchSpace:
    """Return a space whose network stages change the shape, with these output widths."""
    ops = tuple(map(Choice.from_spec, (OPS[1], OPS[3], OPS[8], "skip", "identity")))
    return SearchSpace((Stage(2, 16), Stage(3, 24)), ops, 12, 5, 8, 1, 16, output_widths=outputs)


SEEDS = range(10)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_path_equals_the_network_of_its_channels_bit_by_bit(seed: int) -> None:
    check_paths(make_space(seed), affine=seed % 4 < 2, number=4)


@pytest.mark.parametrize("seed", SEEDS)
def test_candidates_are_calibrated_as_in_plain_pytorch_and_independently(seed: int) -> None:
    check_candidates(make_space(seed), "off" if seed % 5 else "bf16")


@pytest.mark.parametrize("seed", SEEDS)
def test_costs_are_those_of_the_network_whose_tensors_tell_its_output_widths(seed: int) -> None:
    space = make_space(seed)
    costs, rng = count(space), np.random.default_rng(seed)
    for arch in (space.options.draw(rng) for _ in range(6)):
        network = Network(space, arch)
        assert costs.params.of(arch) == count_parameters(network)
        with torch.device("meta"):
            meta = Network(space, arch).eval()
            assert costs.flops.of(arch) == count_multiply_adds(meta, torch.empty(1, 3, 12, 12))
        if not space.bits:  # Tensors do not tell the bits of the weights.
            assert infer_architecture(space, network.state_dict()) == arch


def test_output_widths_of_one_are_a_space_without_output_widths() -> None:
    """They have the same tensors, where each network stage changes the shape, and the same logits."""
    plain, searched = make_plain(()), make_plain((500, 1000))
    for choices in ((0, 1, 1, 3, 4), (2, 3, 0, 2, 1), (3, 4, 3, 4, 2)):
        arch = Architecture(choices)
        same = Architecture(choices, outputs=(1000, 0, 1000, 0, 0))
        assert str(same) == "{}x1.0,{},{}x1.0,{},{}".format(*choices)
        one, other = (build_initialized(lambda: Network(*pair), 3).eval() for pair in ((plain, arch), (searched, same)))  # noqa: B023
        ours, theirs = one.state_dict(), other.state_dict()
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        images = torch.randn(2, 3, 12, 12)
        assert torch.equal(one(images), other(images))
    ours, theirs = (
        {name: tensor.shape for name, tensor in Supernet(space).state_dict().items()} for space in (plain, searched)
    )
    assert ours == theirs


def test_a_supernet_is_allocated_at_the_largest_output_width() -> None:
    supernet = Supernet(make_plain((500, 1250)))
    shapes = [tuple(supernet.features[layer][3].layers[0].weight.shape[:2]) for layer in (0, 2)]
    assert shapes == [(20, 8), (30, 20)]
    assert supernet.first_conv[0].weight.shape[0] == 8
    assert supernet.conv_last[0].weight.shape[:2] == (16, 30)
    assert Network(supernet.space, parse("3x0.5,4,3x0.5,4,4")).conv_last[0].weight.shape[:2] == (16, 12)


def test_tensors_do_not_tell_an_image_size() -> None:
    space = replace(make_plain((500, 1000)), image_sizes=(8, 12))
    network = Network(space, space.options.draw(np.random.default_rng(0)))
    with pytest.raises(CheckpointError, match=r"do not tell its image size.* use the model.pt"):
        infer_architecture(space, network.state_dict())
