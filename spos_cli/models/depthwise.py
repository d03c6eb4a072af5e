"""Depthwise convolutions on a CPU whose weight gradient takes a fourth of the time, in PyTorch's own operators.

PyTorch's library for x86 CPUs (oneDNN) has a fast weight gradient for depthwise kernels of up to three columns; for
wider ones it needs ten times as long for each weight, which is the largest single cost of a training step in float32. A
wide kernel's gradient is that of its strips of three columns, each on the image moved by their place.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight

STRIP = 3  # columns for which oneDNN is fast
IS_X86 = platform.machine() in ("x86_64", "AMD64")


def pays(features: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether a depthwise convolution is of the kind that strips make faster."""
    kernel = weight.shape[3]
    wide = stride == 1 and STRIP < kernel <= 2 * features.shape[3]  # so that each strip sees something
    exact = features.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return IS_X86 and wide and exact and features.device.type == "cpu" and torch.is_grad_enabled()


class Depthwise(torch.autograd.Function):
    """`conv2d` of `(B, C, H, W)` with a weight `(C, 1, k, k)`, k odd; stride 1, padded to keep the size."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(features, weight)
        return F.conv2d(features, weight, None, 1, weight.shape[3] // 2, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        features, weight = ctx.saved_tensors
        of_features = of_weight = None
        if ctx.needs_input_grad[0]:
            padding = weight.shape[3] // 2
            of_features = conv2d_input(features.shape, weight, gradient, 1, padding, 1, len(weight))  # type: ignore[no-untyped-call]
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(features, gradient, weight.shape[3])
        return of_features, of_weight


def weight_gradient(features: Tensor, gradient: Tensor, kernel: int) -> Tensor:
    """`(C, 1, kernel, kernel)`, from the input and the output's gradient, both `(B, C, H, W)`."""
    channels, padding = features.shape[1], kernel // 2
    strips = []
    for left in range(0, kernel, STRIP):
        columns = min(STRIP, kernel - left)
        # What the strip sees: from `left - padding` on, wide enough for all places of the output.
        seen = F.pad(features, (padding - left, left - padding + columns - 1))
        size = (channels, 1, kernel, columns)
        strips.append(conv2d_weight(seen, size, gradient, 1, (padding, 0), 1, channels))  # type: ignore[no-untyped-call]
    return torch.cat(strips, 3)
