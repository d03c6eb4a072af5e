"""Blocks and networks as ONNX Runtime gets them, to measure their latencies."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spos_cli.export import onnx_latency
from spos_cli.export.onnx_file import open_session
from spos_cli.export.onnx_latency import fold, make_call
from spos_cli.models.blocks import ChoiceBlock, OwnBlock, build_block
from spos_cli.models.layers import AnyBatchNorm
from spos_cli.models.network import Network
from spos_cli.space.architecture import parse
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import SearchSpace, Stage
from tests.optional_packages import require_exporter

OWN_CODE = """
from torch import nn

class Pooled(nn.Sequential):
    def __init__(self, in_channels, out_channels, stride, affine):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels, affine=affine), nn.AvgPool2d(stride)
        )
"""
SPECS = (
    {"shuffle": {"kernel": 3}},
    "shuffle_xception",
    {"mbconv": {"kernel": 3, "expand": 1}},
    {"mbconv": {"kernel": 5, "expand": 2, "activation": "hswish"}},
    {"own_pooled:Pooled": {}},
    "identity",
)
SHUFFLES = SearchSpace((Stage(2, 16), Stage(2, 24)), tuple(map(Choice.from_spec, SPECS[:2])), 12, 5, 8, 1, 16)
MIXED = replace(SHUFFLES, choices=tuple(map(Choice.from_spec, SPECS)))
SKIPS = replace(SHUFFLES, choices=(Choice("skip"), Choice.from_spec(SPECS[2])))
WIDE = replace(SHUFFLES, widths=(500, 1500))
SE = {"kernel": 3, "expand": 2, "se": 0.25}
NEWER_SPECS = (
    {"mbconv": {**SE, "activation": "hswish"}},
    {"fused_mbconv": {**SE, "activation": "silu"}},
    {"basic": {"kernel": 3}},
    {"bottleneck": {"kernel": 5}},
    {"shuffle": {"kernel": 3, "activation": "hswish", "se": 0.25}},
)
NEWER = replace(
    SHUFFLES,
    choices=tuple(map(Choice.from_spec, NEWER_SPECS)),
    widths=(500, 1500),
    activation="silu",
    head_linear=8,
    linear_bias=True,
)
SPACES = {"newer": NEWER, "shuffles": SHUFFLES, "mixed": MIXED, "skips": SKIPS, "wide": WIDE}
# PyTorch takes half a second to write a block as ONNX, and this space has few of them.
QUICK = "skips"
COMPILED = [pytest.param(name, marks=[] if name == QUICK else pytest.mark.slow) for name in SPACES]


@pytest.fixture(autouse=True)
def _own_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_pooled.py").write_text(OWN_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_pooled", raising=False)


def fill_statistics(module: nn.Module) -> nn.Module:
    """Give each BatchNorm layer statistics, scales and shifts that matter."""
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, AnyBatchNorm):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.uniform_(-0.5, 0.5, generator=generator)
            norm.running_var.uniform_(0.3, 3, generator=generator)
            with torch.no_grad():
                norm.weight.uniform_(0.5, 1.5, generator=generator)
                norm.bias.uniform_(-0.5, 0.5, generator=generator)
    return module.eval()


def list_blocks(space: SearchSpace) -> list[tuple[ChoiceBlock, tuple[int, ...]]]:
    """Return a block for each option of the first two layers, which has stride 2 and 1, and the shape of its input."""
    blocks = []
    for layer, options in list(zip(space.layers, space.options.by_layer, strict=True))[:2]:
        for option in options:
            block = build_block(layer.choices[option.choice], layer, affine=True, width=option.width)
            fill_statistics(block)
            blocks.append((block, (2, layer.op_in_channels, layer.in_size, layer.in_size)))
    assert len(blocks) >= 4
    return blocks


def as_tensors(outputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


@pytest.mark.parametrize("name", SPACES)
def test_folding_keeps_what_a_block_computes(name: str) -> None:
    for block, shape in list_blocks(SPACES[name]):
        features = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
        with torch.inference_mode():
            folded = fold(block)
            expected = block(features.clone())
            for ours, theirs in zip(as_tensors(folded(features.clone())), as_tensors(expected), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        norms = [module for module in folded.modules() if isinstance(module, AnyBatchNorm)]
        assert bool(norms) == isinstance(block, OwnBlock)
        assert before.keys() == block.state_dict().keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in block.state_dict().items())


@pytest.mark.parametrize("name", COMPILED)
def test_onnx_runtime_computes_the_same(name: str) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    require_exporter()
    space = SPACES[name]
    network = fill_statistics(Network(space, parse(",".join("1@0.5" if space.widths else "1" for _ in space.layers))))
    modules = [*list_blocks(space), (network, (2, 3, space.image_size, space.image_size))]
    for module, shape in modules:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(2)
            call = make_call(module, torch.device("cpu"), shape)
            torch.manual_seed(2)
            expected = as_tensors(module(torch.randn(shape)))
        outputs = call()
        assert isinstance(outputs, list)
        assert len(outputs) == len(expected)
        for ours, theirs in zip(outputs, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", COMPILED)
def test_blocks_and_networks_of_8_bits_are_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option of a layer, and a network; the models have weights of 8 bits wherever there is a convolution."""
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    require_exporter()
    models: list[Any] = []

    def remember(model: Any, what: str) -> Any:
        models.append(model)
        return open_session(model, what)

    monkeypatch.setattr(onnx_latency, "open_session", remember)
    space = SPACES[name]
    network = fill_statistics(Network(space, parse(",".join("1@0.5" if space.widths else "1" for _ in space.layers))))
    modules = [*list_blocks(space), (network, (2, 3, space.image_size, space.image_size))]
    for module, shape in modules:
        assert make_call(module, torch.device("cpu"), shape, int8=True)()
    for model, (module, _) in zip(models, modules, strict=True):
        has_convolution = any(isinstance(part, nn.Conv2d) for part in module.modules())
        kinds = {node.op_type for node in model.graph.node}
        assert ("QuantizeLinear" in kinds) == has_convolution
        int8 = [tensor for tensor in model.graph.initializer if tensor.data_type == 3 and len(tensor.dims) == 4]
        assert bool(int8) == has_convolution
