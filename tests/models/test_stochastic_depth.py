"""Stochastic depth against torchvision's EfficientNet, and against its expectation."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import efficientnet_b0
from torchvision.ops import StochasticDepth, stochastic_depth

from spos_cli.models.blocks import InvertedResidual
from spos_cli.models.network import Network, count_shortcuts
from spos_cli.models.skeleton import initialize
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import SearchSpace, Stage

MBCONV = Choice.from_spec({"mbconv": {"kernel": 3, "expand": 2}})
# The blocks of EfficientNet-B0: 16 in 7 network stages.
B0 = SearchSpace(
    tuple(Stage(*stage) for stage in ((1, 16, 1), (2, 24), (2, 40), (3, 80), (3, 112, 1), (4, 192), (1, 320, 1))),
    (MBCONV, Choice.from_spec("identity")),
    32,
    5,
    32,
    2,
    16,
)


def list_rates(network: nn.Module) -> list[float]:
    """List the rates of the blocks that drop their work, in order."""
    return [module.p for module in network.modules() if isinstance(module, StochasticDepth)]


def test_rates_are_those_of_torchvisions_efficientnet() -> None:
    """torchvision has a rate for each of its 16 blocks; it uses those of the 9 with a shortcut."""
    oracle = efficientnet_b0(stochastic_depth_prob=0.3)
    blocks = [block for stage in oracle.features[1:-1] for block in stage]
    expected = [block.stochastic_depth.p for block in blocks if block.use_res_connect]
    assert len(blocks) == 16
    network = Network(B0, Architecture((0,) * 16), stochastic_depth=0.3)
    assert list_rates(network) == pytest.approx(expected)
    assert count_shortcuts(network) == len(expected) == 9


def test_depth_is_that_of_the_blocks_that_are_there() -> None:
    """With `identity` in layer 2 there are 15 blocks, so all later rates are those of 15."""
    network = Network(B0, Architecture((0, 0, 1, *(0,) * 13)), stochastic_depth=0.3)
    assert list_rates(network)[-1] == pytest.approx(0.3 * 13 / 15)
    assert count_shortcuts(network) == 8


def test_nothing_is_dropped_without_it_or_outside_of_training() -> None:
    """Tensors and first weights are the same, and so is the evaluated network, to the bit."""
    plain, deep = (Network(B0, Architecture((0,) * 16), dropout=0.0, stochastic_depth=rate) for rate in (0.0, 0.5))
    assert list_rates(plain) == []
    for network in (plain, deep):
        initialize(network, 0)
    for (name, tensor), (same_name, same) in zip(plain.state_dict().items(), deep.state_dict().items(), strict=True):
        assert name == same_name
        assert torch.equal(tensor, same)
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(plain.eval()(images), deep.eval()(images))


def make_block(rate: float) -> InvertedResidual:
    block = InvertedResidual(B0.layers[2], affine=True, hidden=48, kernel=3, expand=2)
    block.stochastic_depth = StochasticDepth(rate, "row")
    block.layers.eval()  # BatchNorm then works on each image by itself.
    return block


@torch.no_grad()
def test_whole_images_are_dropped_as_torchvision_does() -> None:
    torch.manual_seed(0)
    block, features = make_block(0.4), torch.randn(200, 24, 8, 8)
    work = block.layers(features)
    torch.manual_seed(1)
    (output,) = block(features)
    torch.manual_seed(1)
    assert torch.equal(output, features + stochastic_depth(work, 0.4, "row"))
    dropped = (output == features).flatten(1).all(1)
    assert 0.3 < dropped.float().mean() < 0.5
    torch.testing.assert_close(output[~dropped], (features + work / 0.6)[~dropped])


@torch.no_grad()
def test_the_expectation_is_the_whole_block() -> None:
    torch.manual_seed(0)
    block, image = make_block(0.25), torch.randn(1, 24, 4, 4)
    images = image.expand(20_000, -1, -1, -1)
    (output,) = block(images)
    torch.testing.assert_close(output.mean(0), (image + block.layers(image))[0], rtol=0.03, atol=0.03)
