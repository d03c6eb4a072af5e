"""Weights to begin a training with: a path as the search sees it, classes, affine BatchNorm, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from spos_cli.config import loading
from spos_cli.config.identity import portable_settings
from spos_cli.config.schema import Config
from spos_cli.engine.calibration import calibrate
from spos_cli.errors import CheckpointError
from spos_cli.models.network import Network
from spos_cli.models.skeleton import build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.run.inherited_weights import Inherited
from spos_cli.run.weights_file import Weights
from spos_cli.search.evaluator import CalibrationSet, calibrate_paths
from spos_cli.space.architecture import Architecture, parse
from tests.conftest import TINY

CLASSES = tuple("abcdefghij")
IMAGES = torch.randint(0, 256, (48, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SPACES: dict[str, tuple[dict[str, Any], str]] = {
    "shuffle": ({}, "0,3,2,1"),
    "widths": ({"widths": [0.5, 1.0, 1.5]}, "0@0.5,3@1.5,2@1.0,1@0.5"),
    "mbconv": (
        {"choices": [{"mbconv": {"kernel": 3, "expand": 2}}, {"mbconv": {"kernel": 5, "expand": 3}}, "skip"]},
        "2,0,1,2",
    ),
    "bits": (
        {"choices": [{"basic": {"kernel": 3}}, "identity"], "bits": ["w1a2", "w2a4", "w4a4"]},
        "0:w2a4,1,0:w1a2,1",
    ),
    "output widths": (
        {
            "choices": [
                {"mbconv": {"kernel": 3, "expand": 2, "se": 0.25, "activation": "silu"}},
                {"mbconv": {"kernel": 3, "expand": 2, "se": 0.25}},
                {"fused_mbconv": {"kernel": 3, "expand": 1}},
                "skip",
            ],
            "output_widths": [0.5, 1.0, 1.5],
            "widths": [0.5, 1.0],
        },
        "0@0.5x0.5,1@1.0,3x1.5,2",
    ),
    "output widths and bits": (
        {
            "choices": [{"basic": {"kernel": 3}}, {"bottleneck": {"kernel": 3}}, "identity"],
            "output_widths": [0.5, 1.0],
            "bits": ["w1a2", "w3a3"],
        },
        "0x0.5:w1a2,2,1x1.0:w3a3,1:w1a2",
    ),
    "widths and bits": (
        {"choices": [{"bottleneck": {"kernel": 3}}], "widths": [0.5, 1.0], "bits": ["w1a2", "w3a3"]},
        "0@0.5:w1a2,0@1.0:w1a2,0@0.5:w3a3,0@0.5:w1a2",
    ),
}


def make_config(space: dict[str, Any] | None = None, **settings: Any) -> Config:
    values = yaml.safe_load(TINY)
    values["space"] |= space or {}
    return loading.validate(values | settings, [], origin="a test")


def make_supernet(config: Config, affine: bool = False) -> Supernet:
    supernet = build_initialized(lambda: Supernet(config.space.build(), affine, dropout=0.0), 1)
    if affine:
        generator = torch.Generator().manual_seed(2)
        for module in supernet.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
                torch.nn.init.uniform_(module.bias, -0.5, 0.5, generator=generator)
    return supernet


def inherit(model: Supernet | Network, config: Config, **more: Any) -> Inherited:
    """What `--init` reads of a file that holds this model."""
    kind = "supernet" if isinstance(model, Supernet) else "network"
    return Inherited(Weights(Path("file"), kind, model.state_dict(), portable_settings(config), **more), "digest")


def prepare(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 255


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("name", SPACES)
def test_a_network_with_the_weights_of_a_path_is_that_path(name: str, affine: bool) -> None:
    """As the search scores it; the network's own BatchNorm is always affine."""
    changes, text = SPACES[name]
    config, arch = make_config(changes), parse(text)
    supernet = make_supernet(config, affine)
    network = Network(supernet.space, arch, affine=True, dropout=0.0)
    assert not inherit(supernet, config).fill(network, config, CLASSES)
    calibrate(network.eval(), map(prepare, torch.split(IMAGES, 16)))
    calibration = CalibrationSet(IMAGES, 16)
    tree = calibrate_paths(supernet.eval(), [arch], prepare, calibration, torch.device("cpu"))
    assert tree is not None
    with torch.inference_mode():
        ((_, expected),) = tree.logits(prepare(IMAGES))
        found = network(prepare(IMAGES))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_other_classes_have_a_new_classifier() -> None:
    config = make_config()
    network = build_initialized(lambda: Network(config.space.build(), parse("0,1,2,3")), 5)
    inherited = inherit(network, config, architecture=network.arch, classes=CLASSES)
    other = build_initialized(lambda: Network(config.space.build(), network.arch), 6)
    assert not inherited.fill(other, config, CLASSES)
    assert torch.equal(other.classifier[0].weight, network.classifier[0].weight)
    for classes, changes in ((tuple("klmnopqrst"), {}), (CLASSES[:4], {"classes": 4})):
        fewer = make_config(changes)
        other = build_initialized(lambda: Network(fewer.space.build(), network.arch), 6)  # noqa: B023
        random = other.classifier[0].weight.clone()
        assert inherited.fill(other, fewer, classes)
        assert torch.equal(other.classifier[0].weight, random)
        assert torch.equal(other.first_conv[0].weight, network.first_conv[0].weight)


def test_a_supernet_goes_on_at_another_image_size() -> None:
    config, larger = make_config(), make_config({"image_size": 16, "classes": 3})
    supernet, other = make_supernet(config), make_supernet(larger)
    torch.nn.init.zeros_(other.first_conv[0].weight)
    assert inherit(supernet, config).fill(other, larger, CLASSES[:3])
    for name, tensor in other.state_dict().items():
        if not name.startswith("classifier"):
            assert torch.equal(tensor, supernet.state_dict()[name])


def test_what_does_not_fit() -> None:
    config = make_config()
    supernet, arch = make_supernet(config), parse("0,1,2,3")
    network = Network(supernet.space, arch)
    of_network = inherit(network, config, architecture=arch)
    cases: list[tuple[Inherited, Supernet | Network, Config, str]] = [
        (of_network, supernet, config, "is a network, which is one path; name a supernet"),
        (of_network, Network(supernet.space, parse("1,1,1,1")), config, "is of the architecture 0,1,2,3, not 1,1,1,1"),
        (inherit(supernet, make_config({"head_channels": 64})), network, config, "only space.classes and"),
        (of_network, network, make_config(data={**yaml.safe_load(TINY)["data"], "preset": "spos"}), "data.preset"),
        (of_network, network, make_config(data={**yaml.safe_load(TINY)["data"], "std": [0.5] * 3}), "data.std to null"),
        (of_network, Network(supernet.space, arch, affine=False), config, "set retrain.affine: true"),
    ]
    for inherited, model, settings, said in cases:
        with pytest.raises(CheckpointError) as error:
            inherited.fill(model, settings, CLASSES)
        assert said in str(error.value)


def test_tensors_that_are_missing_or_of_another_shape_are_named() -> None:
    config = make_config()
    network = Network(config.space.build(), Architecture((0, 1, 2, 3)))
    state = dict(network.state_dict())
    del state["conv_last.0.weight"]
    state["first_conv.0.weight"] = torch.zeros(4, 3, 3, 3)
    state["ghost"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        Inherited(Weights(Path("file"), "network", state), "digest").fill(network, config, CLASSES)
    for said in (
        "conv_last.0.weight is missing",
        "ghost is not in the model",
        "first_conv.0.weight is 4x3x3x3, not 8x3x3x3",
    ):
        assert said in str(error.value)
