"""Spaces with bits: what a pair of bits trains beside others is what it trains alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from spos_cli.engine.optim import make_optimizer
from spos_cli.models.counting import count, count_multiply_adds
from spos_cli.models.layers import QuantizedConvolution
from spos_cli.models.network import Network
from spos_cli.models.quantizers import FIRST_CLIPPING_LEVEL
from spos_cli.models.skeleton import Skeleton, build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.space.architecture import Architecture, parse
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import SearchSpace, Stage

RESNET = tuple(map(Choice.from_spec, ({"basic": {"kernel": 3}}, {"bottleneck": {"kernel": 3}}, "identity")))
SPACE = SearchSpace((Stage(2, 16), Stage(2, 24)), RESNET, 16, 5, 8, 1, 16, (500, 1000), bits=(12, 24, 34, 44))
STEPS = 6


def draw_path(step: int, bits: int) -> Architecture:
    """Return a random path that has these bits wherever it has some."""
    path = SPACE.options.draw(np.random.default_rng(step))
    return Architecture(path.choices, path.widths, tuple(bits if pair else 0 for pair in path.bits))


def train(model: Skeleton, bits: int) -> list[Tensor]:
    """Train a few steps, a supernet on random paths of a pair of bits; return the logits of each step."""
    generator, logits = torch.Generator().manual_seed(1), []
    optimizer = make_optimizer(model, momentum=0.9, weight_decay=0.01)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for step in range(STEPS):
        images = 3 * torch.randn(8, 3, 16, 16, generator=generator)
        logits.append(model(images) if isinstance(model, Network) else model(images, draw_path(step, bits)))
        nn.functional.cross_entropy(logits[-1], torch.arange(8) % 5).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return [values.detach() for values in logits]


@pytest.mark.parametrize("bits", SPACE.bits)
def test_paths_of_a_pair_of_bits_are_those_of_a_space_with_that_pair_alone(bits: int) -> None:
    """The same logits and, after some steps, the same bytes of weights. Other clipping levels are not touched."""
    many, single = (
        build_initialized(lambda: Supernet(space, dropout=0.0), 3)  # noqa: B023
        for space in (SPACE, replace(SPACE, bits=(bits,)))
    )
    for one, other in zip(train(many, bits), train(single, bits), strict=True):
        assert torch.equal(one, other)
    tensors, level = many.state_dict(), QuantizedConvolution.name_level(bits)
    for name, tensor in single.state_dict().items():
        assert torch.equal(tensors.pop(name), tensor), name
    assert {name.rpartition(".")[2] for name in tensors} == {"a2", "a4"} - {level}
    assert all(tensor.item() == FIRST_CLIPPING_LEVEL for tensor in tensors.values())
    trained = [value.item() for name, value in single.named_parameters() if "clipping_levels" in name]
    assert sum(value < FIRST_CLIPPING_LEVEL for value in trained) > len(trained) / 2  # by their weight decay, too


def test_a_network_has_the_clipping_levels_of_its_bits_only() -> None:
    arch = parse("0@0.5:w1a2,2,0@1.0:w3a4,1@1.0:w3a4")
    network = build_initialized(lambda: Network(SPACE, arch, dropout=0.0), 4)
    changed_shape = ("layers.0", "layers.3", "shortcut.0")
    keeps_shape = ("layers.0", "layers.3", "layers.6")
    convolutions = {"0": ("a2", changed_shape), "2": ("a4", changed_shape), "3": ("a4", keeps_shape)}
    assert [name for name in network.state_dict() if "clipping_levels" in name] == [
        f"features.{layer}.{convolution}.clipping_levels.{level}"
        for layer, (level, names) in convolutions.items()
        for convolution in names
    ]
    alone = replace(SPACE, bits=(34,))
    same = parse("0@0.5:w3a4,2,0@1.0:w3a4,1@1.0:w3a4")
    one, other = (build_initialized(lambda: Network(space, same, dropout=0.0), 4) for space in (SPACE, alone))  # noqa: B023
    for logits, theirs in zip(train(one, 34), train(other, 34), strict=True):
        assert torch.equal(logits, theirs)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


RESNET_STAGES = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
BLOCKS_OF_RESNET_18, BLOCKS_OF_RESNET_34 = 1_695_547_392, 3_545_235_456  # multiply-adds at 224 pixels


def make_resnet(name: str, bits: tuple[int, ...]) -> SearchSpace:
    """Return the blocks of a ResNet: at 112 pixels, the stem hands them 56, as ResNet's own does at 224."""
    stages = [Stage(blocks, 64 * 2**i, 1 if i == 0 else 2) for i, blocks in enumerate(RESNET_STAGES[name])]
    return SearchSpace(tuple(stages), RESNET[:1], 112, 1000, 64, 2, 512, bits=bits)


@pytest.mark.parametrize(
    ("name", "multiply_adds"), [("resnet18", BLOCKS_OF_RESNET_18), ("resnet34", BLOCKS_OF_RESNET_34)]
)
def test_bitops_are_the_multiply_adds_of_the_blocks_times_both_bits(name: str, multiply_adds: int) -> None:
    """The multiply-adds are those of torchvision's network without its stem and its classifier."""
    with torch.device("meta"):
        theirs = getattr(models, name)().eval()
        stem, head = theirs.conv1, theirs.fc
        total = count_multiply_adds(theirs, torch.empty(1, 3, 224, 224))
        total -= count_multiply_adds(stem, torch.empty(1, 3, 224, 224)) + head.weight.numel()
    assert total == multiply_adds
    space = make_resnet(name, (22, 33, 44, 12))
    table = count(space).tables["bitops"]
    for bits, product in ((22, 4), (33, 9), (44, 16), (12, 2)):
        arch = Architecture((0,) * space.num_layers, (), (bits,) * space.num_layers)
        assert table.of(arch) == product * multiply_adds
    assert (table.fixed, table.minimum, table.maximum) == (0, 2 * multiply_adds, 16 * multiply_adds)
    mixed = parse(",".join(["0:w2a2"] * (space.num_layers - 1) + ["0:w4a4"]))
    last = 2 * 115_605_504  # two 3x3 convolutions of 512 channels on 7 x 7 pixels
    assert table.of(mixed) == 4 * (multiply_adds - last) + 16 * last


@pytest.mark.parametrize(
    ("name", "reported"), [("resnet18", (6.32, 14.21, 25.27)), ("resnet34", (13.21, 29.72, 52.83))]
)
def test_bitops_are_those_of_the_papers_uniform_rows(name: str, reported: tuple[float, ...]) -> None:
    """The paper's tables of mixed precision have 2, 3 and 4 bits everywhere, in units of 2**30."""
    space = make_resnet(name, (22, 33, 44))
    table = count(space).tables["bitops"]
    uniform = [Architecture((0,) * space.num_layers, (), (bits,) * space.num_layers) for bits in (22, 33, 44)]
    assert tuple(round(table.of(arch) / 2**30, 2) for arch in uniform) == reported


def test_blocks_without_bits_have_no_bitops() -> None:
    costs = count(SPACE)
    assert costs.main is costs.tables["bitops"]
    arch = parse("0@0.5:w1a2,2,0@1.0:w3a4,2")
    rows = [costs.flops.rows[layer][index] for layer, index in enumerate(SPACE.options.indices(arch))]
    assert costs.tables["bitops"].of(arch) == 2 * rows[0] + 12 * rows[2] > 0 == rows[1]
    plain = count(replace(SPACE, bits=()))
    assert list(plain.tables) == ["flops", "params"]
    assert plain.main is plain.flops
