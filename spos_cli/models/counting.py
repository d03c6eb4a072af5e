"""Count FLOPs and parameters: by shapes, and of a user's own blocks as PyTorch counts them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from spos_cli.errors import ConfigError
from spos_cli.models.blocks import build_option
from spos_cli.models.layers import BatchNorm
from spos_cli.models.network import Network
from spos_cli.space.architecture import Architecture, Option
from spos_cli.space.bits import split_bits
from spos_cli.space.block_costs import Part, list_head_parts, list_parts, list_stem_parts
from spos_cli.space.choices import Choice
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_kinds import BITOPS, FLOPS, PARAMS
from spos_cli.space.layer import Layer
from spos_cli.space.options import Options
from spos_cli.space.search_space import SearchSpace

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Costs:
    """The costs of the architectures of one space.

    Attributes:
        tables: by the name of the cost, in the order in which costs are shown; FLOPs and parameters are always there.
    """

    tables: Mapping[str, CostTable]

    @property
    def flops(self) -> CostTable:
        """Multiply-adds of convolutions and linear layers for one image (paper, section 4)."""
        return self.tables["flops"]

    @property
    def params(self) -> CostTable:
        """Parameters of the stand-alone network, with affine BatchNorm."""
        return self.tables["params"]

    @property
    def main(self) -> CostTable:
        """The cost that ranks candidates of equal scores: BitOPs in a space with bits, else FLOPs."""
        return self.tables.get("bitops", self.flops)

    @property
    def others(self) -> dict[str, CostTable]:
        """All tables but those of FLOPs and parameters."""
        return {name: table for name, table in self.tables.items() if name not in ("flops", "params")}

    def with_tables(self, tables: Iterable[CostTable]) -> Costs:
        """Return these costs with more tables, such as one of latencies."""
        return Costs({**self.tables, **{table.name: table for table in tables}})


def count(space: SearchSpace) -> Costs:
    """Count the costs of a space: by the shapes of its parts, and a user's own blocks as PyTorch counts them.

    In a space with bits, BitOPs are among them.

    Raises:
        ConfigError: a user's own block cannot be built, fails, or has a wrong output.
    """
    blocks, options = _count_blocks(space), space.options
    flops, params = ([[pair[index] for pair in row] for row in blocks] for index in (0, 1))
    others = [make_bitops_table(flops, options)] if space.bits else []
    fixed_flops, fixed_params = (_add_stem_and_head(space, rows, index) for index, rows in enumerate((flops, params)))
    tables = [CostTable(FLOPS, fixed_flops, flops, options), CostTable(PARAMS, fixed_params, params, options), *others]
    return Costs({table.name: table for table in tables})


def _count_blocks(space: SearchSpace) -> list[list[tuple[int, int]]]:
    """Return the multiply-adds and parameters of all blocks, by layer and by column of a cost table."""
    counted: dict[tuple[Choice, int, int, tuple[int, ...]], tuple[int, int]] = {}
    rows: list[list[tuple[int, int]]] = []
    for layer, contexts, options in zip(space.layers, space.options.contexts, space.options.by_layer, strict=True):
        rows.append([])
        for context, option in itertools.product(contexts, options):
            choice, variant = layer.choices[option.choice], space.layer_in(layer, context, option)
            key = choice, option.width, option.bits, variant.signature
            if key not in counted:
                is_own = choice.is_own
                counted[key] = count_built_block(variant, option) if is_own else _add_up(list_parts(variant, option))
            rows[-1].append(counted[key])
    return rows


def _add_stem_and_head(space: SearchSpace, rows: Sequence[list[int]], index: int) -> int:
    """Return what stem and head cost at least, and add to the layers' costs what they cost more.

    Stem and head have more multiply-adds for larger images. The head has more input channels after a wider stage.

    Args:
        rows: costs of the blocks, by layer and by column of a cost table.
        index: 0 for multiply-adds, 1 for parameters.
    """
    first, last = space.layers[0], space.layers[-1]
    options, contexts = space.options, space.options.contexts
    stems = [
        _add_up(list_stem_parts(space, space.layer_in(first, context, option)))[index]
        for context, option in itertools.product(contexts[0], options.by_layer[0])
    ]
    heads = [
        _add_up(list_head_parts(space, space.layer_in(last, context, option)))[index]
        for context, option in itertools.product(contexts[-1], options.by_layer[-1])
    ]
    for row, costs in ((rows[0], stems), (rows[-1], heads)):
        row[:] = [block + cost - min(costs) for block, cost in zip(row, costs, strict=True)]
    return min(stems) + min(heads)


def _add_up(parts: Sequence[Part]) -> tuple[int, int]:
    """Return the multiply-adds and the parameters of some parts together."""
    return sum(part.multiply_adds for part in parts), sum(part.params for part in parts)


def count_built_block(layer: Layer, option: Option) -> tuple[int, int]:
    """Build a block on the meta device, and return the multiply-adds that PyTorch counts, and its parameters.

    Raises:
        ConfigError: a user's own block cannot be built, fails, or has a wrong output.
    """
    choice = layer.choices[option.choice]
    with torch.device("meta"):
        block = build_option(layer, option, affine=True).eval()
        if not choice.is_own:  # A user's block is run as it is, so that its mistakes show.
            skip_batchnorm(block)
        features = torch.empty(1, layer.op_in_channels, layer.in_size, layer.in_size)
        return count_multiply_adds(check_outputs(choice, layer, block), features), count_parameters(block)


def make_bitops_table(flops: Sequence[Sequence[int]], options: Options) -> CostTable:
    """Return the BitOPs of a space with bits: the multiply-adds of each block, times both of its bits.

    All convolutions of a block count, with the projection of its shortcut. Stem and head have no bits and do not count.
    At 224 pixels, the blocks of ResNet-18 have 1,695,547,392 multiply-adds, which makes 6.78 billion BitOPs with 2 bits
    for both weights and activations. In the paper's table this is 6.32G, because its G is 2**30; ours is 10**9.

    Args:
        flops: multiply-adds of the blocks, by layer and by column of a cost table.
        options: of the space.
    """
    rows = [
        [cost * math.prod(split_bits(option.bits)) for cost, option in zip(row, itertools.cycle(layer), strict=False)]
        for row, layer in zip(flops, options.by_layer, strict=True)
    ]
    return CostTable(BITOPS, 0, rows, options)


def skip_batchnorm(module: ModuleT) -> ModuleT:
    """Make the BatchNorm layers of a module return their input, and return the module.

    They have no multiply-adds that count, and keep the shape, but PyTorch takes half of the time for them: on the meta
    device it decomposes them in Python.
    """
    for norm in module.modules():
        if type(norm) in (BatchNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            norm.forward = lambda features, channels=None: features
    return module


def check_outputs(choice: Choice, layer: Layer, block: nn.Module) -> Callable[[Tensor], object]:
    """Return a block's forward pass that checks its outputs: a user's own block may compute anything.

    It takes features `(1, op_in_channels, in_size, in_size)` and returns the shapes of the outputs. It raises
    ConfigError if the block fails, has other outputs than the layer needs, or changes its input in place.
    """

    def forward(features: Tensor) -> object:
        version = features._version  # PyTorch counts the changes in place here.
        try:
            shapes = [tuple(tensor.shape[1:]) for tensor in block(features)]
        except ConfigError:
            raise
        except Exception as error:
            if not choice.is_own:
                raise
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"choices: {choice.op} fails in layer {layer.index}: {reason}") from error
        expected = [(channels, layer.out_size, layer.out_size) for channels in layer.op_out_channels]
        if shapes != expected:
            raise ConfigError(f"choices: {choice} makes {shapes} in layer {layer.index} instead of {expected}")
        if features._version != version:
            raise ConfigError(f"choices: {choice} changes its input in place, but other choices need that input too")
        return shapes

    return forward


def count_multiply_adds(forward: Callable[[Tensor], object], images: Tensor) -> int:
    """Count the multiply-adds of one forward pass; PyTorch's counter counts each as two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward(images)
    return int(counter.get_total_flops()) // 2


def count_flops_at(space: SearchSpace, arch: Architecture, height: int, width: int) -> int:
    """Count the multiply-adds of a network for one image of any size, in pixels.

    Raises:
        ConfigError: a user's own block fails at this size.
    """
    with torch.device("meta"):
        network = Network(space, arch).eval()
        if not any(choice.is_own for layer in space.layers for choice in layer.choices):
            skip_batchnorm(network)
        try:
            return count_multiply_adds(network, torch.empty(1, space.in_channels, height, width))
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"the network fails on images of {height} x {width} pixels: {reason}") from error


def count_parameters(module: nn.Module) -> int:
    """Count the values of all parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
