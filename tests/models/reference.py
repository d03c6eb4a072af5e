"""The official network as plain functions of its tensors, in NCHW, one line for each layer: an oracle.

It is written from the description of the official code and imports nothing from `spos_cli`. Its logits are compared
with the golden numbers before other tests use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

STAGES = (4, 4, 8, 4)  # blocks of each network stage


def convolution(state: Mapping[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    """Convolve `(B, in, H, W)` with the weight of that name."""
    weight = state[f"{name}.weight"]
    groups = x.shape[1] // weight.shape[1]  # depthwise where a kernel has one input channel
    return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=groups)


def batchnorm(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Normalise `(B, C, H, W)` with running statistics."""
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, variance, state.get(f"{name}.weight"), state.get(f"{name}.bias"))


def sequence(state: Mapping[str, Tensor], name: str, x: Tensor, plan: str, stride: int) -> Tensor:
    """Run a branch: `p` is a 1x1 convolution, BatchNorm and ReLU; `d` a depthwise convolution and BatchNorm.

    The first depthwise convolution has the block's stride.
    """
    index = 0
    for part in plan:
        x = convolution(state, f"{name}.{index}", x, stride if part == "d" else 1)
        x = batchnorm(state, f"{name}.{index + 1}", x)
        index += 2
        if part == "d":
            stride = 1
        else:
            x, index = F.relu(x), index + 1
    return x


def block(state: Mapping[str, Tensor], name: str, x: Tensor, choice: int, stride: int) -> Tensor:
    """Run a block on `(B, in, H, W)`, with the official channel shuffle before it."""
    plan = "dpdpdp" if choice == 3 else "pdp"
    if stride == 2:
        projected = sequence(state, f"{name}.branch_proj", x, "dp", 2)
        return torch.cat((projected, sequence(state, f"{name}.branch_main", x, plan, 2)), 1)
    batch, channels, height, width = x.shape
    pairs = x.reshape(batch * channels // 2, 2, height * width).permute(1, 0, 2)
    # The even and the odd channels, (B, C / 2, H, W) each.
    passed, worked = pairs.reshape(2, batch, channels // 2, height, width)
    return torch.cat((passed, sequence(state, f"{name}.branch_main", worked, plan, 1)), 1)


def logits(state: Mapping[str, Tensor], arch: Sequence[int], images: Tensor) -> Tensor:
    """Compute logits `(B, classes)` of images `(B, 3, 224, 224)`, in eval mode."""
    x = F.relu(batchnorm(state, "first_conv.1", convolution(state, "first_conv.0", images, 2)))
    strides = [2 if index == 0 else 1 for blocks in STAGES for index in range(blocks)]
    for layer, (choice, stride) in enumerate(zip(arch, strides, strict=True)):
        x = block(state, f"features.{layer}", x, choice, stride)
    x = F.relu(batchnorm(state, "conv_last.1", convolution(state, "conv_last.0", x)))
    return F.linear(F.avg_pool2d(x, 7).flatten(1), state["classifier.0.weight"])
