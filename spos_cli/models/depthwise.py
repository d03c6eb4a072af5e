"""Speed up the weight gradient of wide depthwise convolutions on a CPU.

PyTorch's library for x86 CPUs (oneDNN) has a fast weight gradient for depthwise kernels of up to three columns that are
not higher than the image. For other kernels it needs up to thirty times as long for each weight, which is the largest
single cost of a training step in float32. A wide kernel can be cut into strips of three columns: the gradient of each
strip is that of a narrow convolution on the shifted image. With stride 2, even and odd rows and columns of the
image are convolved separately, each with every second row and column of the kernel. These are PyTorch's own operators.
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


def is_faster_in_strips(features: Tensor, weight: Tensor) -> bool:
    """Return whether strips make the depthwise convolution of `(B, C, H, W)` with `(C, 1, k, k)` faster."""
    kernel = weight.shape[3]
    # With a kernel of more than twice the side of the image, a strip may see nothing but padding.
    is_wide = STRIP_COLUMNS < kernel <= 2 * min(features.shape[2:])
    is_float32 = features.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return IS_X86 and is_wide and is_float32 and features.device.type == "cpu" and torch.is_grad_enabled()


class StripDepthwise(torch.autograd.Function):
    """`conv2d` of `(B, C, H, W)` with a weight `(C, 1, k, k)`, k odd, stride 1 or 2, padded by `k // 2`."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.stride = stride
        return F.conv2d(features, weight, None, stride, weight.shape[3] // 2, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        features_gradient = weight_gradient = None  # (B, C, H, W) and (C, 1, k, k)
        if ctx.needs_input_grad[0]:
            padding = weight.shape[3] // 2
            features_gradient = conv2d_input(features.shape, weight, gradient, ctx.stride, padding, 1, len(weight))  # type: ignore[no-untyped-call]
        if ctx.needs_input_grad[1]:
            weight_gradient = compute_weight_gradient(features, gradient, weight.shape[3], ctx.stride)
        return features_gradient, weight_gradient, None


def compute_weight_gradient(features: Tensor, gradient: Tensor, kernel: int, stride: int) -> Tensor:
    """Compute the weight's gradient `(C, 1, kernel, kernel)`, strip by strip.

    Args:
        features: input `(B, C, H, W)`.
        gradient: of the output, `(B, C, H / stride, W / stride)`, rounded up.
        kernel: side of the kernel in pixels (odd).
        stride: of the convolution.
    """
    weight_gradient = features.new_empty(features.shape[1], 1, kernel, kernel)
    # PyTorch 2.6 cannot compile `itertools.product`.
    for row, column in [(row, column) for row in range(stride) for column in range(stride)]:
        # These rows and columns of the kernel see pixels at the same distance from a multiple of the stride.
        part = weight_gradient[:, :, row::stride, column::stride]
        top, left = row - kernel // 2, column - kernel // 2  # Where they begin, from the output's first pixel.
        pixels = features[:, :, top % stride :: stride, left % stride :: stride]
        compute_narrow_gradients(pixels, gradient, top // stride, left // stride, part)
    return weight_gradient


def compute_narrow_gradients(pixels: Tensor, gradient: Tensor, top: int, left: int, part: Tensor) -> None:
    """Compute the weight's gradient of a convolution with stride 1, in strips of up to three columns.

    Args:
        pixels: input `(B, C, H, W)`.
        gradient: of the output, `(B, C, rows, columns)`.
        top, left: the pixel that the kernel's first row and column see at the output's first pixel; below 0 in the
            padding.
        part: where the gradient `(C, 1, h, w)` is written to.
    """
    (height, width), (rows, columns) = pixels.shape[2:], gradient.shape[2:]
    channels, _, kernel_rows, kernel_columns = part.shape
    bottom = rows + kernel_rows - 1 + top - height  # Rows of padding below the image.
    # oneDNN can pad rows itself, equally above and below, but is slow then if the kernel is higher than the image.
    padding = -top if top == -bottom and kernel_rows <= height else 0
    vertical = (0, 0) if padding else (-top, bottom)
    count = -(-kernel_columns // STRIP_COLUMNS)
    for strip in part.tensor_split(count, dim=3):
        strip_columns = strip.shape[3]
        # The strip sees the image from column `left` on: (B, C, rows + h - 1, columns + strip_columns - 1).
        shifted = F.pad(pixels, (-left, columns + strip_columns - 1 + left - width, *vertical))
        size = (channels, 1, kernel_rows, strip_columns)
        strip.copy_(conv2d_weight(shifted, size, gradient, 1, (padding, 0), 1, channels))  # type: ignore[no-untyped-call]
        left += strip_columns
