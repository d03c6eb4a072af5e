"""The published network in its plainest form: functions of its tensors, NCHW, one line for each layer.

Written from the description of the published code, with nothing of `spos_cli`; its logits are compared with the
golden numbers before it serves as an oracle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

STAGES = (4, 4, 8, 4)


def convolution(state: Mapping[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    groups = x.shape[1] // weight.shape[1]  # depthwise where a kernel has one input channel
    return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=groups)


def batchnorm(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, variance, state.get(f"{name}.weight"), state.get(f"{name}.bias"))


def sequence(state: Mapping[str, Tensor], name: str, x: Tensor, plan: str, stride: int) -> Tensor:
    """Runs a branch: `p` 1x1 convolution, BatchNorm and ReLU; `d` depthwise convolution and BatchNorm.

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
    plan = "dpdpdp" if choice == 3 else "pdp"
    if stride == 2:
        projected = sequence(state, f"{name}.branch_proj", x, "dp", 2)
        return torch.cat((projected, sequence(state, f"{name}.branch_main", x, plan, 2)), 1)
    batch, channels, height, width = x.shape
    pairs = x.reshape(batch * channels // 2, 2, height * width).permute(1, 0, 2)
    passed, worked = pairs.reshape(2, batch, channels // 2, height, width)
    return torch.cat((passed, sequence(state, f"{name}.branch_main", worked, plan, 1)), 1)


def logits(state: Mapping[str, Tensor], arch: Sequence[int], images: Tensor) -> Tensor:
    """`images (B, 3, 224, 224)` to `(B, classes)`, in eval mode."""
    x = F.relu(batchnorm(state, "first_conv.1", convolution(state, "first_conv.0", images, 2)))
    strides = [2 if place == 0 else 1 for blocks in STAGES for place in range(blocks)]
    for layer, (choice, stride) in enumerate(zip(arch, strides, strict=True)):
        x = block(state, f"features.{layer}", x, choice, stride)
    x = F.relu(batchnorm(state, "conv_last.1", convolution(state, "conv_last.0", x)))
    return F.linear(F.avg_pool2d(x, 7).flatten(1), state["classifier.0.weight"])
