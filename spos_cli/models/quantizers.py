"""Quantize weights (DoReFa-Net) and activations (PACT) with 1 to 8 bits.

Both return whole numbers and the step between two levels: a quantized value is a number times the step. A convolution
computes with the whole numbers, and its result is multiplied by both steps. Up to 4 bits, all sums are then exact in
float32, so they do not depend on the order of the additions, nor on the kernel that a device takes.

The gradient goes straight through the rounding. torchao 0.18 does not serve here: its modules for training with few
bits (`torchao.quantization.qat`) are linear layers and embeddings, and its quantization of convolutions (`pt2e`)
observes the ranges of activations. Neither has PACT or DoReFa.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

# As in the PACT of Intel's Distiller, where the clipping levels have the weight decay of the weights, too.
FIRST_CLIPPING_LEVEL = 8.0


class Quantized(NamedTuple):
    """Values on equal steps.

    Attributes:
        numbers: whole numbers, as floats, in the shape of the values.
        step: `()` or `(1, 1, 1, 1)`; it has no gradient.
    """

    numbers: Tensor
    step: Tensor


class _StraightThrough(torch.autograd.Function):
    """Numbers that have the gradient of the values that they were rounded from."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, numbers: Tensor) -> Tensor:
        return numbers.view_as(numbers)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def pass_gradient(values: Tensor, numbers: Tensor) -> Tensor:
    """Return the numbers, with a gradient that goes to the values as it is (straight-through estimator)."""
    result: Tensor = _StraightThrough.apply(values, numbers.detach())
    return result


def quantize_features(features: Tensor, clipping_level: Tensor, bits: int) -> Quantized:
    """Clip features to 0 to a learned level, and round them to `2**bits` levels (PACT, arXiv 1805.06085).

    The gradient of the clipping level is the sum of the gradients of all features that reach it; that of a feature is
    passed on where the feature is below it (equation 3 there).

    Args:
        features: `(B, C, H, W)`, not negative.
        clipping_level: `(1, 1, 1, 1)`, above 0.
        bits: from 1 on.
    """
    step = clipping_level.detach() / (2**bits - 1)
    clipped = torch.where(features < clipping_level, features, clipping_level)
    values = clipped / step  # (B, C, H, W), from 0 to 2**bits - 1
    return Quantized(pass_gradient(values, values.round()), step)


def quantize_weight(weight: Tensor, bits: int) -> Quantized:
    """Round weights to `2**bits` levels around 0 (DoReFa-Net, arXiv 1606.06160, section 2.3).

    With 1 bit, a weight is its sign times the mean magnitude of all. With more, the hyperbolic tangents of the weights,
    divided by the largest magnitude of all, are rounded to levels from -1 to 1; the gradient also goes through these
    two functions.

    Args:
        weight: of a convolution, `(out, in / groups, k, k)`.
        bits: from 1 on.
    """
    smallest = torch.finfo(weight.dtype).tiny  # No division by 0, where all weights are 0.
    if bits == 1:
        step = weight.detach().abs().mean().clamp_min(smallest)
        return Quantized(pass_gradient(weight / step, (weight >= 0).to(weight.dtype) * 2 - 1), step)
    tangents = weight.tanh()
    normalized = tangents / tangents.abs().max().clamp_min(smallest)  # from -1 to 1
    intervals = 2**bits - 1
    step = torch.full_like(normalized[0, 0, 0, 0].detach(), 1 / intervals)
    numbers = 2 * ((normalized / 2 + 0.5) * intervals).round() - intervals
    return Quantized(pass_gradient(normalized * intervals, numbers), step)
