"""Modules of quantized blocks in an exported network, and their bits for people.

The logits are those of the network bit by bit. Nothing is folded: with BatchNorm in them, weights would have more than
the few values that their bits allow, and the last bits of a feature may decide to which level it is rounded. Weights
are the whole numbers of `models.quantizers`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spos_cli.models.layers import BatchNorm, Convolution, QuantizedConvolution, Unit
from spos_cli.models.network import Network
from spos_cli.models.quantizers import quantize_weight
from spos_cli.space.bits import split_bits


def describe_bits(network: Network) -> list[dict[str, Any]]:
    """Return for each layer its op, its bits, and the clipping level of each convolution's input, in plain types.

    Layers without bits have null in place of them.
    """
    layers = []
    for layer, option, block in zip(network.space.layers, network.arch.options, network.features, strict=True):
        weights, activations = split_bits(option.bits) if option.bits else (None, None)
        levels = {
            name: convolution.clipping_levels[convolution.name_level(option.bits)].item()
            for name, convolution in block.named_modules()
            if isinstance(convolution, QuantizedConvolution)
        }
        op = layer.choices[option.choice].name
        bits = {"weight_bits": weights, "activation_bits": activations, "clipping_levels": levels or None}
        layers.append({"layer": layer.index, "op": op, **bits})
    return layers


class RoundedFeatures(nn.Module):
    """Clip features that are not negative, and round them to whole numbers, as `models.quantizers` does.

    Args:
        clipping_level: `(1, 1, 1, 1)`.
        bits: of the result.
    """

    clipping_level: Tensor
    step: Tensor

    def __init__(self, clipping_level: Tensor, bits: int) -> None:
        super().__init__()
        self.register_buffer("clipping_level", clipping_level.detach().clone())
        self.register_buffer("step", clipping_level.detach() / (2**bits - 1))

    def forward(self, features: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to whole numbers in the same shape."""
        return torch.round(torch.minimum(features, self.clipping_level) / self.step)


class Scale(nn.Module):
    """Multiply features by a number.

    Args:
        scale: `(1, 1, 1, 1)`.
    """

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same shape."""
        return features * self.scale


@torch.no_grad()
def list_modules(unit: Unit) -> list[nn.Module]:
    """Return what a convolution and its BatchNorm do in eval mode, as modules of their own: nothing is folded."""
    convolution, modules = unit.convolution, list[nn.Module]()
    weight, scale = convolution.select_weight(unit.inputs, unit.outputs), None
    if isinstance(convolution, QuantizedConvolution):
        (bits,) = convolution.bits
        weight_bits, feature_bits = split_bits(bits)
        rounded = RoundedFeatures(convolution.clipping_levels[convolution.name_level(bits)], feature_bits)
        quantized = quantize_weight(weight, weight_bits)
        weight, scale = quantized.numbers, Scale(rounded.step * quantized.step)
        modules.append(rounded)
    modules.append(copy_convolution(convolution, weight))
    return [*modules, *([] if scale is None else [scale]), copy_batchnorm(unit.norm)]


def copy_convolution(convolution: Convolution, weight: Tensor) -> nn.Conv2d:
    """Return a convolution without bias that has this weight `(out, in / groups, k, k)`."""
    out_channels, in_per_group, kernel, _ = weight.shape
    stride, padding, groups = convolution.stride[0], kernel // 2, convolution.groups
    result = nn.Conv2d(in_per_group * groups, out_channels, kernel, stride, padding, groups=groups, bias=False)
    result.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)
    return result


def copy_batchnorm(norm: BatchNorm) -> nn.BatchNorm2d:
    """Return a layer of PyTorch's own with the same statistics, scale and shift."""
    result = nn.BatchNorm2d(norm.num_features, norm.eps, affine=norm.affine)
    result.load_state_dict(norm.state_dict())
    return result.requires_grad_(False)
