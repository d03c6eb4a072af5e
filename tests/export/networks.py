"""Small networks of every kind of space, with weights that make each part count."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from spos_cli.export.description import Description
from spos_cli.export.inference import InferenceNetwork, InputKind
from spos_cli.models.layers import AnyBatchNorm, QuantizedConvolution
from spos_cli.models.network import Network
from spos_cli.space.architecture import Architecture, parse
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import SearchSpace, Stage

SHUFFLES = tuple(map(Choice.from_spec, ({"shuffle": {"kernel": 3}}, {"shuffle": {"kernel": 5}}, "shuffle_xception")))
INVERTED = tuple(
    Choice.from_spec({"mbconv": {"kernel": 3, "expand": expand, "activation": activation}})
    for expand, activation in ((1, "relu6"), (3, "relu"), (2, "hswish"))
)
OFFICIAL_LIKE = SearchSpace((Stage(2, 16), Stage(3, 24)), SHUFFLES, 12, 5, 8, 1, 16)
MIXED = replace(OFFICIAL_LIKE, choices=(*SHUFFLES, *INVERTED, Choice("identity")))
SKIPS = replace(OFFICIAL_LIKE, choices=(Choice("skip"), INVERTED[1]))
WIDE = replace(OFFICIAL_LIKE, widths=(500, 1000, 1500))
OWN = replace(OFFICIAL_LIKE, choices=(*SHUFFLES, Choice.from_spec({"own_blocks:Plain": {"kernel": 3}})))
GATED = replace(
    OFFICIAL_LIKE,
    choices=tuple(
        map(
            Choice.from_spec,
            (
                {"shuffle": {"kernel": 5, "activation": "hswish", "se": 0.25}},
                {"shuffle_xception": {"activation": "silu", "se": 0.5}},
            ),
        )
    ),
    activation="hswish",
)
GROUPS = replace(
    OFFICIAL_LIKE,
    choices=tuple(
        Choice.from_spec({"mbconv": {"kernel": 3, "expand": expand, "groups": 2, "activation": "relu"}})
        for expand in (1, 3)
    ),
)
SE = {"kernel": 3, "expand": 2, "se": 0.25}
NEWER = replace(
    OFFICIAL_LIKE,
    choices=tuple(
        map(
            Choice.from_spec,
            (
                {"mbconv": {**SE, "activation": "hswish"}},
                {"mbconv": {**SE, "activation": "silu"}},
                {"fused_mbconv": {**SE, "activation": "silu"}},
                {"fused_mbconv": {"kernel": 3, "expand": 1}},
                {"basic": {"kernel": 3}},
                {"bottleneck": {"kernel": 5}},
                {"shuffle": {"kernel": 3, "activation": "hswish", "se": 0.25}},
            ),
        )
    ),
    activation="silu",
    head_linear=12,
    linear_bias=True,
)
QUANTIZED = replace(
    OFFICIAL_LIKE,
    choices=(*map(Choice.from_spec, ({"basic": {"kernel": 3}}, {"bottleneck": {"kernel": 3}})), Choice("identity")),
    bits=(12, 24, 44, 88),
)
OWN_CODE = """
from torch import nn

class Plain(nn.Module):
    def __init__(self, in_channels, out_channels, stride, affine, kernel):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2)
        self.norm = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, features):
        return self.norm(self.conv(features)).relu()
"""
NETWORKS: dict[str, tuple[SearchSpace, Architecture]] = {
    "shuffles": (OFFICIAL_LIKE, parse("0,2,1,0,2")),
    "mixed": (MIXED, parse("1,4,3,2,6")),
    "mixed, strided": (MIXED, parse("5,0,2,1,6")),
    "skips": (SKIPS, parse("0,1,0,0,1")),
    "widths": (WIDE, parse("0@0.5,1@1.5,2@1.0,0@1.5,2@0.5")),
    "gates": (GATED, parse("0,1,1,0,1")),
    "gates and widths": (replace(GATED, widths=(500, 1500)), parse("0@0.5,1@1.5,1@0.5,0@1.5,1@0.5")),
    "inverted residuals with gates": (NEWER, parse("0,1,1,0,6")),
    "fused": (NEWER, parse("2,3,3,2,6")),
    "ResNet": (NEWER, parse("4,5,5,4,4")),
    "groups": (GROUPS, parse("0,1,0,1,0")),
    "own block": (OWN, parse("0,3,3,1,2")),
    "bits": (QUANTIZED, parse("0:w1a2,2,1:w2a4,0:w4a4,1:w8a8")),
    "gates and output widths": (
        replace(NEWER, choices=NEWER.choices[:6], output_widths=(500, 1250)),
        parse("1x0.5,4,0x1.25,2,5"),
    ),
    "output widths and bits": (
        replace(QUANTIZED, output_widths=(500, 1000)),
        parse("0x0.5:w2a4,2,1x1.0:w1a2,0:w8a8,2"),
    ),
    "widths and bits": (replace(QUANTIZED, widths=(500, 1000)), parse("0@0.5:w2a4,2,1@1.0:w1a2,0@0.5:w8a8,2")),
}


def write_own_blocks(folder: Path) -> None:
    """Write the module of `OWN`, and let it be imported from the folder."""
    (folder / "own_blocks.py").write_text(OWN_CODE)
    sys.modules.pop("own_blocks", None)
    sys.path.insert(0, str(folder))


def make_network(space: SearchSpace, arch: Architecture, affine: bool = True) -> Network:
    """Return a network in eval mode, with BatchNorm statistics far from 0 and 1."""
    network = Network(space, arch, affine, dropout=0.3)
    generator = torch.Generator().manual_seed(0)

    def draw(like: Tensor, low: float, high: float) -> Tensor:
        return torch.empty_like(like).uniform_(low, high, generator=generator)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                bound = (6 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(draw(module.weight, -bound, bound))
                if module.bias is not None:
                    module.bias.copy_(draw(module.bias, -bound, bound))
                if isinstance(module, QuantizedConvolution):
                    for level in module.clipping_levels.values():
                        level.copy_(draw(level, 1, 3))
            elif isinstance(module, AnyBatchNorm):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.copy_(draw(module.running_mean, -0.5, 0.5))
                module.running_var.copy_(draw(module.running_var, 0.3, 3))
                if affine:
                    module.weight.copy_(draw(module.weight, 0.5, 1.5))
                    module.bias.copy_(draw(module.bias, -0.5, 0.5))
            elif isinstance(module, nn.Linear):
                module.weight.copy_(draw(module.weight, -0.5, 0.5))
                if module.bias is not None:
                    module.bias.copy_(draw(module.bias, -0.5, 0.5))
    return network.eval()


def make_pixels(space: SearchSpace, count: int) -> Tensor:
    """Return random images `(count, 3, S, S) uint8`."""
    size, generator = space.image_size, torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def describe(network: InferenceNetwork, arch: Architecture, input_kind: InputKind = "uint8") -> Description:
    """Return the description of a network with classes of awkward names."""
    return Description(
        architecture=arch,
        classes=("a, b", 'quoted "c"', "ünïcode 🦆", "d\\n", "<script>"),
        preset=network.preset,
        mean=network.normalisation.mean if network.preset == "standard" else (),
        std=network.normalisation.std if network.preset == "standard" else (),
        image_size=network.image_size,
        input=input_kind,
        quantized=False,
        source="0" * 64,
        config={"space": {}},
    )
