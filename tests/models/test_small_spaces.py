"""The smallest spaces, by brute force: each is refused in one line, or everything that a run does with it works.

Code for many channels, pixels, classes and architectures is most likely to fail with a single one.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spos_cli.config import loading
from spos_cli.config.schema import Config
from spos_cli.errors import ConfigError
from spos_cli.models.counting import count, count_parameters
from spos_cli.models.network import Network
from spos_cli.models.skeleton import build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.official import flops_table
from spos_cli.search.evaluator import CalibrationSet, Evaluator
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import SHUFFLE_OPS
from spos_cli.space.search_space import SearchSpace
from tests.models import reference

SHUFFLE, WIDE = {"shuffle": {"kernel": 3}}, {"shuffle": {"kernel": 7}}
INVERTED, EXPANDED = {"mbconv": {"kernel": 5, "expand": 1}}, {"mbconv": {"kernel": 3, "expand": 2}}
GATED, BOTTLENECK = {"shuffle": {"kernel": 3, "se": 0.25}}, {"bottleneck": {"kernel": 5}}
SE = {"kernel": 3, "expand": 2, "se": 0.01}
OPS: list[tuple[str | dict[str, Any], ...]] = [
    ("shuffle_xception",),
    (INVERTED, EXPANDED, "identity"),
    (WIDE, "shuffle_xception", EXPANDED, "identity"),
    (GATED, {"shuffle_xception": {"se": 0.25, "activation": "silu"}}),
    ({"mbconv": {**SE, "activation": "silu"}}, {"fused_mbconv": SE}, {"basic": {"kernel": 3}}, BOTTLENECK),
]
WIDTHS: list[list[float]] = [[], [1.0], [0.5, 1.5]]
SIZES = [(1, 1, 2), (4, 2, 1), (7, 1, 2)]  # side of the image, strides of stem and stage


def list_small_spaces() -> list[dict[str, Any]]:
    """List settings of spaces with few channels and one network stage of one or two blocks."""
    return [
        {
            "image_size": size,
            "classes": 2 + stem % 2,
            "stem": {"channels": stem, "stride": stem_stride},
            "stages": [{"blocks": 1 + stem % 2, "channels": channels, "stride": stride}],
            "head_channels": 1,
            "choices": list(ops),
            "widths": widths,
        }
        for ops, widths, stem, channels, (size, stem_stride, stride) in itertools.product(
            OPS, WIDTHS, (1, 2), (1, 3, 4, 6), SIZES
        )
    ]


def compute_logits(network: Network, arch: Architecture, images: Tensor) -> Tensor:
    """Compute logits `(B, classes)` of a network of ShuffleNetV2's blocks, with the functions of `reference`."""
    state, space = network.state_dict(), network.space
    x = reference.convolution(state, "first_conv.0", images, space.stem_stride)
    x = F.relu(reference.batchnorm(state, "first_conv.1", x))
    for layer, choice in zip(space.layers, arch, strict=True):
        op = 3 if layer.choices[choice].op == "shuffle_xception" else 0  # The kernel follows from the tensors.
        x = reference.block(state, f"features.{layer.index}", x, op, layer.stride)
    x = F.relu(reference.batchnorm(state, "conv_last.1", reference.convolution(state, "conv_last.0", x)))
    return F.linear(x.mean((2, 3)), state["classifier.0.weight"])


def step(model: Supernet | Network, images: Tensor, labels: Tensor, *arch: Architecture) -> None:
    """Make a forward and a backward pass in training mode."""
    model.train().zero_grad()
    F.cross_entropy(model(images, *arch), labels).backward()


def exercise(space: SearchSpace) -> None:
    """Count costs, train the supernet and networks, and score architectures that cover all options of a space."""
    costs = count(space)
    is_official = all(choice.op in SHUFFLE_OPS and "se" not in dict(choice.parameters) for choice in space.choices)
    counts = space.options.counts
    archs = [space.options.architecture([min(index, n - 1) for n in counts]) for index in range(max(counts))]
    images = torch.randn(4, 3, space.image_size, space.image_size, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4) % space.classes
    supernet = build_initialized(lambda: Supernet(space, dropout=0.0), 0)
    for arch in archs:
        step(supernet, images, labels, arch)
        network = build_initialized(lambda arch=arch: Network(space, arch, dropout=0.0), 0)  # type: ignore[misc]
        step(network, images, labels)
        assert all(parameter.grad is not None for parameter in network.parameters())
        assert costs.params.of(arch) == count_parameters(network)
        if is_official:
            network.eval()
            torch.testing.assert_close(network(images), compute_logits(network, arch, images))
    if is_official:
        assert flops_table.make_table(space, costs.flops)["conv1"]
    pixels = torch.randint(0, 256, (6, 3, space.image_size, space.image_size), dtype=torch.uint8)
    evaluator = Evaluator(
        supernet,
        lambda images: images.float() / 255,
        calibration=CalibrationSet(pixels, 3),
        images=pixels,
        labels=torch.arange(6) % space.classes,
        batch=4,
        device=torch.device("cpu"),
    )
    scores = evaluator.score(archs)
    assert scores is not None
    assert {score.images for score in scores} == {6}


@pytest.mark.slow
def test_small_spaces_work_or_are_refused() -> None:
    seen: Counter[str] = Counter()
    refusals: list[str] = []
    for settings in list_small_spaces():
        try:
            space = loading.validate({"space": settings}).space.build()
        except ConfigError as error:
            refusals.append(str(error))
            continue
        try:
            exercise(space)
        except Exception as error:
            raise AssertionError(f"{settings} was not refused, and fails") from error
        seen["works"] += 1
        seen["one channel"] += any(
            layer.op_in_channels == 1 and choice.op == "shuffle_xception"
            for layer in space.layers
            for choice in layer.choices
        )
    assert all(message.startswith("settings: space") and "\n" not in message for message in refusals)
    assert min(seen["works"], len(refusals)) > 60
    assert seen["one channel"] > 10


def make_one_pixel_config(**sections: dict[str, int]) -> Config:
    """Make a config with a space whose last layers see one pixel."""
    space = {"image_size": 4, "stages": [{"blocks": 1, "channels": 32}], "choices": [SHUFFLE]}
    return loading.validate({"space": space, **sections})


def test_batches_without_a_variance_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"raise search\.calibration_batch_size, or space\.image_size"):
        make_one_pixel_config(search={"calibration_batch_size": 1})
    space = make_one_pixel_config(search={"calibration_batch_size": 2}).space.build()
    space.require_variance(2, "x")
    with pytest.raises(ConfigError, match="raise x, or"):
        space.require_variance(1, "x")
    loading.validate({"search": {"calibration_batch_size": 1}})  # With more pixels, one image is enough.
