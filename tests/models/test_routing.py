"""Routed channels, against the channel shuffle as ShuffleNetV2 defines it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spos_cli.errors import ConfigError
from spos_cli.models.network import Network
from spos_cli.models.supernet import Supernet
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import SearchSpace, Stage

CHOICES = (Choice("shuffle", (("kernel", 3),)), Choice("shuffle", (("kernel", 5),)), Choice("shuffle_xception"))

STAGES = st.lists(
    st.builds(Stage, st.integers(1, 5), st.sampled_from([6, 10, 16, 24, 26]), st.sampled_from([1, 2])),
    min_size=1,
    max_size=3,
)


def run_plainly(net: Supernet, images: Tensor, arch: Architecture) -> Tensor:
    """Compute logits `(B, classes)` layer by layer, with all channels in the official order."""
    features = net.first_conv(images)
    for layer, block in zip(net.space.layers, net.select_blocks(arch), strict=True):
        if layer.stride == 2:
            features = torch.cat(block(features), 1)
        else:
            features = torch.cat((features[:, ::2], *block(features[:, 1::2])), 1)
    logits: Tensor = net.classifier(net.conv_last(features).mean((2, 3)))
    return logits


@given(stages=STAGES, stem=st.sampled_from([4, 6, 8]), affine=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_routed_features_equal_shuffled_ones(stages: list[Stage], stem: int, affine: bool, seed: int) -> None:
    """Logits, gradients and BatchNorm statistics, in float64, for spaces of all shapes."""
    try:
        space = SearchSpace(tuple(stages), CHOICES, 9, 5, stem, 1, 12)
    except ConfigError:
        return
    torch.manual_seed(seed)
    arch = Architecture(tuple(torch.randint(0, 3, (space.num_layers,)).tolist()))
    images = torch.randn(3, 3, 9, 9, dtype=torch.float64)
    routed = Supernet(space, affine, dropout=0.0).double()
    for parameter in routed.parameters():
        torch.nn.init.normal_(parameter)
    plain = Supernet(space, affine, dropout=0.0).double()
    plain.load_state_dict(routed.state_dict())
    ours, theirs = routed(images, arch), run_plainly(plain, images, arch)
    torch.testing.assert_close(ours, theirs)
    for logits in (ours, theirs):
        logits.logsumexp(1).sum().backward()
    for (name, one), other in zip(routed.named_parameters(), plain.parameters(), strict=True):
        if other.grad is None:
            assert one.grad is None, name
        else:
            torch.testing.assert_close(one.grad, other.grad, msg=name)
    state = routed.state_dict()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(state[name], tensor, msg=name)
    torch.testing.assert_close(routed.eval()(images, arch), run_plainly(plain.eval(), images, arch))


def test_a_routing_cached_in_inference_mode_serves_training() -> None:
    space = SearchSpace((Stage(2, 14),), CHOICES, 8, 5, 8, 1, 12)
    net, images = Supernet(space), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        net(images, Architecture((0, 0)))
    net(images, Architecture((0, 0))).sum().backward()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_network_computes_the_same_as_its_path_in_a_supernet(stride: int) -> None:
    space = SearchSpace((Stage(3, 16, stride), Stage(2, 24)), CHOICES, 8, 5, 8, 1, 12)
    arch = Architecture((0, 2, 1, 2, 0))
    supernet, network = Supernet(space).eval(), Network(space, arch, affine=False).eval()
    for ours, theirs in zip(network.features, supernet.select_blocks(arch), strict=True):
        ours.load_state_dict(theirs.state_dict())
    for name in ("first_conv", "conv_last", "classifier"):
        getattr(network, name).load_state_dict(getattr(supernet, name).state_dict())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(network(images), supernet(images, arch))
