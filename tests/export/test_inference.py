"""The network as it is exported, against the network that was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from spos_cli.data.transforms import Normalisation, PresetName, preprocess
from spos_cli.export.inference import Gate, InferenceNetwork, InputKind
from spos_cli.export.steps import EverySecond
from spos_cli.models.layers import AnyBatchNorm
from spos_cli.models.network import Network
from spos_cli.official.golden import IMAGES, NETWORK, SALT, WINNER, fill_weights, make_images
from spos_cli.space.search_space import OFFICIAL_SPACE
from tests.export.networks import NETWORKS, make_network, make_pixels, write_own_blocks


@pytest.fixture(autouse=True)
def own_blocks(tmp_path: Path) -> None:
    write_own_blocks(tmp_path)


@pytest.mark.parametrize("preset", ["spos", "standard"])
@pytest.mark.parametrize("input_kind", ["uint8", "float"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_computes_what_the_network_computes(
    name: str, affine: bool, input_kind: InputKind, preset: PresetName
) -> None:
    space, arch = NETWORKS[name]
    network = make_network(space, arch, affine)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    inference = InferenceNetwork(network, preset, input_kind)
    pixels = make_pixels(space, 3)
    prepared = preprocess(preset, pixels)
    expected = network(prepared)
    found = inference(pixels if input_kind == "uint8" else prepared)
    assert expected.std() > 0.01, "logits that do not depend on the image would prove nothing"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    if space.bits:  # No feature is rounded to another level.
        assert torch.equal(found, expected)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} of the network was changed"


@pytest.mark.parametrize("input_kind", ["uint8", "float"])
def test_it_normalises_with_the_mean_of_the_run(input_kind: InputKind) -> None:
    own, (space, arch) = Normalisation((0.1, 0.5, 0.9), (0.3, 0.05, 1.0)), NETWORKS["mixed"]
    network, pixels = make_network(space, arch), make_pixels(space, 3)
    prepared = preprocess("standard", pixels, normalisation=own)
    expected = network(prepared)
    found = InferenceNetwork(network, "standard", input_kind, own)(pixels if input_kind == "uint8" else prepared)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert not torch.allclose(expected, network(preprocess("standard", pixels)), rtol=0.1)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "own block" and "bits" not in name])
def test_it_has_convolutions_activations_and_a_classifier_only(name: str) -> None:
    network = InferenceNetwork(make_network(*NETWORKS[name]), "spos")
    kinds = {type(module) for module in network.modules()} - {InferenceNetwork, nn.Sequential}
    activations = {nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU}
    assert kinds - {Gate, nn.Hardsigmoid, nn.Sigmoid, nn.ChannelShuffle} <= {nn.Conv2d, nn.Linear} | activations
    assert (Gate in kinds) == ("gates" in name or name == "fused")
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_channels_are_shuffled_by_the_order_of_the_weights() -> None:
    """In the official space, no step picks single channels; where ops are mixed, slices of every second one do."""
    official, mixed = (InferenceNetwork(make_network(*NETWORKS[name]), "spos") for name in ("shuffles", "mixed"))
    has_slices = [
        any(isinstance(step, EverySecond) for layer in one.layers for step in layer.steps) for one in (official, mixed)
    ]
    assert has_slices == [False, True]


def test_blocks_of_the_users_own_keep_their_batchnorm() -> None:
    network = InferenceNetwork(make_network(*NETWORKS["own block"]), "spos")
    assert sum(isinstance(module, AnyBatchNorm) for module in network.modules()) == 2
    assert network.own_blocks == {
        "layer1": ("own_blocks:Plain", "16, 16, 1, True, kernel=3"),
        "layer2": ("own_blocks:Plain", "16, 24, 2, True, kernel=3"),
    }


def test_the_official_winner_keeps_the_logits_of_the_official_code() -> None:
    """Golden numbers of the official code, for prepared images and for the same images as RGB."""
    network = Network(OFFICIAL_SPACE, WINNER)
    fill_weights(network)
    images = make_images(IMAGES, SALT)  # BGR, whole numbers from 0 to 255
    for input_kind, inputs in (("float", images), ("uint8", images.flip(1).to(torch.uint8))):
        with torch.no_grad():
            logits = InferenceNetwork(network.eval(), "spos", input_kind)(inputs)  # type: ignore[arg-type]
        rms = NETWORK.l2 / logits.numel() ** 0.5
        torch.testing.assert_close(logits[:, :8], torch.tensor(NETWORK.first), rtol=0, atol=1e-5 * rms)
        assert float(logits.double().norm()) == pytest.approx(NETWORK.l2, rel=1e-5)
