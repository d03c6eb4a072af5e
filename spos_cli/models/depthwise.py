"""Speed up the weight gradient of wide depthwise convolutions on a CPU.

PyTorch's library for x86 CPUs (oneDNN) has a fast weight gradient for depthwise kernels of up to three columns. For a
wider kernel it needs ten times as long for each weight, which is the largest single cost of a training step in float32.
Here it takes a fourth of the time: a wide kernel can be cut into strips of three columns. The gradient of each strip is
that of a narrow convolution on the shifted image. All of this uses PyTorch's own operators.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight

STRIP_COLUMNS = 3  # oneDNN is fast for kernels of up to three columns.
IS_X86 = platform.machine() in ("x86_64", "AMD64")


def is_faster_in_strips(features: Tensor, weight: Tensor, stride: int) -> bool:
    """Return whether strips make the depthwise convolution of `(B, C, H, W)` with `(C, 1, k, k)` faster."""
    kernel = weight.shape[3]
    # With a kernel of more than twice the width of the image, a strip may see nothing but padding.
    is_wide = stride == 1 and STRIP_COLUMNS < kernel <= 2 * features.shape[3]
    is_float32 = features.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return IS_X86 and is_wide and is_float32 and features.device.type == "cpu" and torch.is_grad_enabled()


class StripDepthwise(torch.autograd.Function):
    """`conv2d` of `(B, C, H, W)` with a weight `(C, 1, k, k)`, k odd, stride 1, padded to keep the size."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(features, weight)
        return F.conv2d(features, weight, None, 1, weight.shape[3] // 2, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        features, weight = ctx.saved_tensors
        features_gradient = weight_gradient = None  # (B, C, H, W) and (C, 1, k, k)
        if ctx.needs_input_grad[0]:
            padding = weight.shape[3] // 2
            features_gradient = conv2d_input(features.shape, weight, gradient, 1, padding, 1, len(weight))  # type: ignore[no-untyped-call]
        if ctx.needs_input_grad[1]:
            weight_gradient = compute_weight_gradient(features, gradient, weight.shape[3])
        return features_gradient, weight_gradient


def compute_weight_gradient(features: Tensor, gradient: Tensor, kernel: int) -> Tensor:
    """Compute the weight's gradient `(C, 1, kernel, kernel)`, strip by strip.

    Args:
        features: input `(B, C, H, W)`.
        gradient: of the output, `(B, C, H, W)`.
        kernel: side of the kernel in pixels (odd).
    """
    channels, padding = features.shape[1], kernel // 2
    strips = []
    for left in range(0, kernel, STRIP_COLUMNS):
        columns = min(STRIP_COLUMNS, kernel - left)
        # The strip sees the image from column `left - padding` on, for every column of the output:
        # (B, C, H, W + columns - 1).
        shifted = F.pad(features, (padding - left, left - padding + columns - 1))
        size = (channels, 1, kernel, columns)
        strips.append(conv2d_weight(shifted, size, gradient, 1, (padding, 0), 1, channels))  # type: ignore[no-untyped-call]
    return torch.cat(strips, 3)
