"""Costs are measured, never typed in: each block is built on the meta device and counted by PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from spos_cli.errors import ConfigError
from spos_cli.models.blocks import build_block
from spos_cli.models.network import Network
from spos_cli.space.choices import Choice
from spos_cli.space.cost import CostTable
from spos_cli.space.search_space import Layer, SearchSpace


@dataclass(frozen=True)
class Costs:
    """What the architectures of one space cost.

    Attributes:
        flops: multiply-adds of convolutions and linear layers for one image (paper, section 4).
        params: parameters of the stand-alone network, with affine BatchNorm.
    """

    flops: CostTable
    params: CostTable


def count(space: SearchSpace) -> Costs:
    """Measures the cost tables of a space: each distinct choice block once, then the fixed rest."""
    measured: dict[tuple[Choice, int, tuple[int, ...]], tuple[int, int]] = {}
    rows: list[list[tuple[int, int]]] = []
    with torch.device("meta"):
        for layer, options in zip(space.layers, space.options.by_layer, strict=True):
            rows.append([])
            for option in options:
                choice = layer.choices[option.choice]
                key = choice, option.width, layer.signature
                if key not in measured:
                    block = build_block(choice, layer, affine=True, width=option.width).eval()
                    features = torch.empty(1, layer.op_in_channels, layer.in_size, layer.in_size)
                    measured[key] = multiply_adds(checked(choice, layer, block), features), parameters(block)
                rows[-1].append(measured[key])

        network = Network(space, space.options.architecture([0] * space.num_layers)).eval()
        image = torch.empty(1, 3, space.image_size, space.image_size)
        totals = multiply_adds(network, image), parameters(network)
    tables = []
    for place, (name, total) in enumerate(zip(("flops", "params"), totals, strict=True)):
        costs = [[pair[place] for pair in row] for row in rows]
        tables.append(CostTable(name, total - sum(row[0] for row in costs), costs, space.options))
    return Costs(*tables)


def checked(choice: Choice, layer: Layer, block: nn.Module) -> Callable[[Tensor], object]:
    """A block's forward pass that looks at what it makes: a user's own may make anything."""

    def forward(features: Tensor) -> object:
        before = features._version
        try:
            made = [tuple(tensor.shape[1:]) for tensor in block(features)]
        except ConfigError:
            raise
        except Exception as error:
            if not choice.is_own:
                raise
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"choices: {choice.op} fails in layer {layer.index}: {reason}") from error
        expected = [(channels, layer.out_size, layer.out_size) for channels in layer.op_out_channels]
        if made != expected:
            raise ConfigError(f"choices: {choice} makes {made} in layer {layer.index} instead of {expected}")
        if features._version != before:
            raise ConfigError(f"choices: {choice} changes its input in place, which other choices are to see as it was")
        return made

    return forward


def multiply_adds(forward: Callable[[Tensor], object], images: Tensor) -> int:
    """Multiply-adds of one forward pass; PyTorch's counter counts a multiply-add as two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward(images)
    return int(counter.get_total_flops()) // 2


def parameters(module: nn.Module) -> int:
    """The number of trained values."""
    return sum(parameter.numel() for parameter in module.parameters())
