"""Paths that use the first hidden channels, or few bits, against networks built with these widths and bits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from spos_cli.engine.precision import Amp
from spos_cli.errors import ArchitectureError, ConfigError
from spos_cli.models.counting import count, count_multiply_adds, count_parameters
from spos_cli.models.network import Network
from spos_cli.official.weights import infer_architecture
from spos_cli.space.architecture import Architecture, Option, parse
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import OFFICIAL_SPACE, SearchSpace, Stage
from tests.models.paths import check_candidates, check_paths, draw_architectures, make_network, make_supernet
from tests.once import list_shapes_once

WIDE = replace(OFFICIAL_SPACE, widths=tuple(range(200, 2001, 200)))
OFFICIAL = parse(
    "0@1.4,0@1.2,3@0.8,1@1.2,1@0.6,1@1.4,0@0.8,0@1.0,2@0.6,0@1.2,2@1.6,1@1.2,1@1.0,0@1.4,2@1.6,0@1.0,2@1.0,1@1.2,3@1.0,2@0.8"
)

SHUFFLES = tuple(map(Choice.from_spec, ({"shuffle": {"kernel": 3}}, {"shuffle": {"kernel": 5}}, "shuffle_xception")))
INVERTED = tuple({"mbconv": {"kernel": kernel, "expand": expand}} for kernel, expand in ((3, 1), (3, 3), (5, 6)))
GATED = tuple(
    map(
        Choice.from_spec,
        ({"shuffle": {"kernel": 3, "activation": "hswish", "se": 0.25}}, {"shuffle_xception": {"se": 0.5}}),
    )
)
SE = {"kernel": 3, "expand": 4, "se": 0.25}
SQUEEZED = tuple(
    Choice.from_spec({op: {**SE, "activation": activation}})
    for op, activation in (("mbconv", "hswish"), ("mbconv", "silu"), ("fused_mbconv", "relu6"))
)
RESNET = tuple(map(Choice.from_spec, ({"basic": {"kernel": 3}}, {"bottleneck": {"kernel": 3}})))
SPACES = {
    "shuffles": SearchSpace((Stage(2, 16), Stage(3, 24)), SHUFFLES, 12, 5, 8, 1, 16, (250, 700, 1000, 1600)),
    "beside identity": SearchSpace(
        (Stage(2, 16), Stage(3, 24)), (*SHUFFLES, Choice("identity")), 12, 5, 8, 1, 16, (250, 500, 1000)
    ),
    "inverted": SearchSpace(
        (Stage(2, 8), Stage(3, 12)),
        (*map(Choice.from_spec, INVERTED), Choice("identity")),
        12,
        5,
        8,
        1,
        16,
        (333, 1000),
    ),
    "shuffles with gates": SearchSpace((Stage(2, 16), Stage(3, 24)), GATED, 12, 5, 8, 1, 16, (250, 700, 1600)),
    "gates": SearchSpace(
        (Stage(2, 16), Stage(3, 24)), SQUEEZED, 12, 5, 8, 1, 16, (250, 1000), "silu", 12, linear_bias=True
    ),
    "ResNet": SearchSpace((Stage(2, 16), Stage(3, 24)), RESNET, 12, 5, 8, 1, 16, (250, 1000)),
    "ResNet with bits": SearchSpace(
        (Stage(2, 16), Stage(3, 24)), (*RESNET, Choice("identity")), 12, 5, 8, 1, 16, bits=(12, 22, 14, 44, 88)
    ),
    "ResNet with widths and bits": SearchSpace(
        (Stage(2, 16), Stage(3, 24)), RESNET, 12, 5, 8, 1, 16, (250, 1000), bits=(12, 24)
    ),
}


def test_costs_of_the_official_channel_search() -> None:
    """Its result has 328M FLOPs and 3.4M parameters (74.7 to 74.9 % top-1). At full width the costs are the ops'."""
    costs, full = count(WIDE), Architecture(OFFICIAL.choices, (1000,) * 20)
    assert (costs.flops.of(OFFICIAL), costs.params.of(OFFICIAL)) == (327_857_920, 3_432_579)
    assert (costs.flops.of(full), costs.params.of(full)) == (318_729_024, 3_345_088)
    plain = count(OFFICIAL_SPACE)
    assert plain.flops.of(Architecture(OFFICIAL.choices)) == 318_729_024
    with torch.device("meta"):
        network = Network(WIDE, OFFICIAL).eval()
        assert count_multiply_adds(network, torch.empty(1, 3, 224, 224)) == 327_857_920
    assert count_parameters(network) == 3_432_579
    assert network.features[0].branch_main[0].weight.shape[0] == 44  # 1.4 times 32, rounded down
    assert network.features[4].branch_main[0].weight.shape[0] == 48  # 0.6 times 80


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("name", SPACES)
def test_a_path_equals_the_network_of_its_widths_bit_by_bit(name: str, affine: bool) -> None:
    check_paths(SPACES[name], affine)


def test_paths_of_the_official_space_at_full_size() -> None:
    """PyTorch may use other algorithms for large convolutions."""
    supernet = make_supernet(WIDE, affine=False).eval()
    images = torch.randn(1, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for arch in (
            OFFICIAL,
            Architecture((0, 1, 2, 3) * 5, (2000,) * 20),
            Architecture((3, 2, 1, 0) * 5, (200,) * 20),
        ):
            network, _ = make_network(supernet, arch, affine=False)
            assert torch.equal(network.eval()(images), supernet(images, arch))


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("name", SPACES)
def test_candidates_are_calibrated_as_in_plain_pytorch_and_independently(name: str, amp: Amp) -> None:
    check_candidates(SPACES[name], amp)


@pytest.mark.parametrize("name", SPACES)
def test_costs_and_tensors_depend_on_widths_and_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    list_shapes_once(monkeypatch)
    space = SPACES[name]
    costs = count(space)
    assert SearchSpace.from_dict(space.to_dict()) == space
    assert space.digest != replace(space, widths=(), bits=()).digest
    for arch in draw_architectures(space, 6):
        space.validate(arch)
        network = Network(space, arch)
        assert costs.params.of(arch) == count_parameters(network)
        with torch.device("meta"):
            meta = Network(space, arch).eval()
            assert costs.flops.of(arch) == count_multiply_adds(meta, torch.empty(1, 3, 12, 12))
        if space.bits:  # Tensors do not tell the bits of the weights.
            continue
        assert infer_architecture(space, network.state_dict()) == arch
        assert infer_architecture(space, Network(space, arch, affine=False).state_dict()) == arch


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("shuffles", (Option(0, 1000), Option(1)), r"layer 1 has no width; the widths are 0.25, 0.7, 1.0, 1.6, so"),
        ("shuffles", (Option(2, 2000),), r"layer 0 has width 2.0; the widths are 0.25, .* so write 2@1.6"),
        ("inverted", (Option(0), Option(3, 1000)), r"layer 1 is 3@1.0, but identity has no widths; write 3"),
        ("inverted", (Option(0, 333),), r"layer 0 is 0@0.333, but mbconv 3x3 x1 has no widths; write 0"),
    ],
)
def test_wrong_widths_are_refused(name: str, options: tuple[Option, ...], message: str) -> None:
    space = SPACES[name]
    rest = space.options.architecture([0] * 5).options[len(options) :]
    with pytest.raises(ArchitectureError, match=message):
        space.validate(Architecture.from_options((*options, *rest)))


def test_a_space_without_widths_refuses_them() -> None:
    with pytest.raises(ArchitectureError, match=r"layer 0 is 0@1.4, but the space has no widths; write 0"):
        OFFICIAL_SPACE.validate(OFFICIAL)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((1000, 500), "widths must be strictly increasing, got 1.0, 0.5"),
        ((500, 500), "widths must be strictly increasing, got 0.5, 0.5"),
        ((50, 1000), "layer 0: width 0.05 gives shuffle 3x3 0 of 8 hidden channels"),
        ((1000, 1100), "layer 0: width 1.1 gives shuffle 3x3 8 of 8 hidden channels, as many as width 1.0"),
        (tuple(range(500, 565)), "the number of widths is 65; it must be at most 64"),
    ],
)
def test_impossible_widths_are_refused(widths: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SPACES["shuffles"], widths=widths)
