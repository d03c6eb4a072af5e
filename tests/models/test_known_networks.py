"""Known networks as architectures of spaces: costs, parameters and logits equal those of torchvision's models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from spos_cli.models.counting import count, count_parameters
from spos_cli.models.network import Network
from spos_cli.space.architecture import Architecture, parse
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import SearchSpace, Stage


def make_stage(blocks: int, channels: int, stride: int, op: str, **parameters: Any) -> Stage:
    """Return a network stage whose blocks have one choice."""
    return Stage(blocks, channels, stride, (Choice.from_spec({op: parameters}),))


def make_space(stages: list[Stage], stem: int, head: int, activation: str, **more: Any) -> SearchSpace:
    """Return a space at 224 pixels with biases in the linear layers, as in torchvision."""
    return SearchSpace(tuple(stages), (Choice("skip"),), 224, 1000, stem, 2, head, (), activation, 0, True, **more)


def make_mobilenet_v2() -> SearchSpace:
    rows = [(1, 16, 1, 1), (2, 24, 2, 6), (3, 32, 2, 6), (4, 64, 2, 6), (3, 96, 1, 6), (3, 160, 2, 6), (1, 320, 1, 6)]
    stages = [make_stage(n, c, s, "mbconv", kernel=3, expand=e) for n, c, s, e in rows]
    return make_space(stages, 32, 1280, "relu6")


def make_mobilenet_v3_large() -> tuple[SearchSpace, Architecture]:
    """Two blocks have 2.5 and 2.3 times the channels, which are widths of 0.5 and 0.46 of an expansion of 5."""
    rows = [
        *((1, 16, 1, 3, 1, "relu", 0), (1, 24, 2, 3, 4, "relu", 0), (1, 24, 1, 3, 3, "relu", 0)),
        *((1, 40, 2, 5, 3, "relu", 0.25), (2, 40, 1, 5, 3, "relu", 0.25), (1, 80, 2, 3, 6, "hswish", 0)),
        *((3, 80, 1, 3, 5, "hswish", 0), (1, 112, 1, 3, 6, "hswish", 0.25), (1, 112, 1, 3, 6, "hswish", 0.25)),
        *((1, 160, 2, 5, 6, "hswish", 0.25), (2, 160, 1, 5, 6, "hswish", 0.25)),
    ]
    stages = [
        make_stage(n, c, s, "mbconv", kernel=k, expand=e, activation=a, **({"se": se} if se else {}))
        for n, c, s, k, e, a, se in rows
    ]
    plain = make_space(stages, 16, 960, "hswish")
    space = SearchSpace(
        *(plain.stages, plain.choices, 224, 1000, 16, 2, 960, (460, 500, 1000)),
        activation="hswish",
        head_linear=1280,
        linear_bias=True,
    )
    narrow = {7: "0@0.5", 8: "0@0.46", 9: "0@0.46", 0: "0"}
    return space, parse(",".join(narrow.get(layer, "0@1.0") for layer in range(15)))


def make_efficientnet_b0() -> SearchSpace:
    rows = [
        *((1, 16, 1, 3, 1), (2, 24, 2, 3, 6), (2, 40, 2, 5, 6), (3, 80, 2, 3, 6)),
        *((3, 112, 1, 5, 6), (4, 192, 2, 5, 6), (1, 320, 1, 3, 6)),
    ]
    stages = [make_stage(n, c, s, "mbconv", kernel=k, expand=e, activation="silu", se=0.25) for n, c, s, k, e in rows]
    return make_space(stages, 32, 1280, "silu")


def make_efficientnet_v2_s() -> SearchSpace:
    fused = [(2, 24, 1, 1), (4, 48, 2, 4), (4, 64, 2, 4)]
    rows = [(6, 128, 2, 4), (9, 160, 1, 6), (15, 256, 2, 6)]
    stages = [make_stage(n, c, s, "fused_mbconv", kernel=3, expand=e, activation="silu") for n, c, s, e in fused]
    stages += [make_stage(n, c, s, "mbconv", kernel=3, expand=e, activation="silu", se=0.25) for n, c, s, e in rows]
    return replace(make_space(stages, 24, 1280, "silu"), image_size=384)


Space = SearchSpace | tuple[SearchSpace, Architecture]
# The space, torchvision's model, published FLOPs and parameters in millions, and how far the rounding goes.
KNOWN: dict[str, tuple[Callable[[], Space], Callable[[], nn.Module], tuple[float, float], float]] = {
    "MobileNetV2": (make_mobilenet_v2, models.mobilenet_v2, (300, 3.4), 0.04),
    "MobileNetV3-Large": (make_mobilenet_v3_large, models.mobilenet_v3_large, (219, 5.4), 0.02),
    "EfficientNet-B0": (make_efficientnet_b0, models.efficientnet_b0, (390, 5.3), 0.02),
    "EfficientNetV2-S": (make_efficientnet_v2_s, models.efficientnet_v2_s, (8400, 21.5), 0.02),
}


def make_known(name: str) -> tuple[SearchSpace, Architecture]:
    made = KNOWN[name][0]()
    if isinstance(made, tuple):
        return made
    return made, Architecture((0,) * made.num_layers)


def count_by_hooks(model: nn.Module, image: Tensor) -> int:
    """Count the multiply-adds of convolutions and linear layers from the shapes that go through them."""
    total = 0

    def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Linear)
        total += output.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    model(image)
    return total


@pytest.mark.parametrize("name", KNOWN)
def test_costs_equal_those_of_torchvision_and_of_the_paper(name: str) -> None:
    (space, arch), (_, make_oracle, published, rounding) = make_known(name), KNOWN[name]
    with torch.device("meta"):
        oracle = make_oracle().eval()
        flops, params = (
            count_by_hooks(oracle, torch.empty(1, 3, space.image_size, space.image_size)),
            count_parameters(oracle),
        )
    costs = count(space)
    assert (costs.flops.of(arch), costs.params.of(arch)) == (flops, params)
    assert (flops / 1e6, params / 1e6) == pytest.approx(published, rel=rounding)


def test_flops_of_mobilenet_v2_at_each_image_size() -> None:
    """Millions of multiply-adds that its authors report with their weights (slim/nets/mobilenet of TensorFlow)."""
    reported = {96: 56, 128: 99, 160: 154, 192: 221, 224: 300}
    space = replace(make_mobilenet_v2(), image_sizes=tuple(reported))
    flops = count(space).flops
    for size, millions in reported.items():
        assert flops.of(parse(f"{size}px," + ",".join("0" * space.num_layers))) / 1e6 == pytest.approx(millions, abs=1)


@pytest.mark.parametrize("name", KNOWN)
def test_logits_equal_those_of_torchvision(name: str) -> None:
    """With the same weights and statistics, tensor by tensor in their order."""
    (space, arch), torch_model = make_known(name), KNOWN[name][1]
    torch.manual_seed(0)
    oracle, ours = torch_model().eval(), Network(space, arch).eval()
    images = torch.randn(8, 3, 64, 64)
    with torch.no_grad():
        for module in oracle.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = 1e-5, 1.0  # In some of the models, `eps` is 0.001.
                nn.init.uniform_(module.bias, -0.2, 0.2)
            elif getattr(module, "bias", None) is not None:
                nn.init.uniform_(module.bias, -0.2, 0.2)  # type: ignore[arg-type]
        oracle.train()(images)  # Now the statistics are those of these images, so that no layer fades out.
        oracle.eval()
    theirs = oracle.state_dict()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.values(), strict=True)))
    with torch.no_grad():
        expected, logits = oracle(images), ours(images)
    assert expected.std(0).mean() > 0.01, "logits that do not depend on the image would prove nothing"
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
