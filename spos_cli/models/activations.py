"""Apply activations in place, without the copies that PyTorch makes of their inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hswish": nn.Hardswish,
    "silu": nn.SiLU,
}


def make_activation(name: str) -> nn.Module:
    """Make an activation of `space.choices.ACTIVATIONS`, in place."""
    return MODULES[name](inplace=True)


class InPlaceReLU6(torch.autograd.Function):
    """ReLU6 in place, which keeps its result for the backward pass.

    PyTorch's own copies its input first, and keeps the copy: a third of all feature maps of MobileNetV2's blocks. The
    result tells the same, since the gradient is 0 where it is 0 or 6.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        F.relu6(features, inplace=True)
        ctx.mark_dirty(features)
        ctx.save_for_backward(features)
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        features_gradient: Tensor = torch.ops.aten.hardtanh_backward(gradient, result, 0, 6)
        return features_gradient


def needs_gradient(features: Tensor) -> bool:
    """Return whether a backward pass follows."""
    return torch.is_grad_enabled() and features.requires_grad


def apply_relu6(features: Tensor) -> Tensor:
    """Apply ReLU6 in place."""
    if needs_gradient(features) and not torch.compiler.is_compiling():  # Compiled code has no need of it.
        result: Tensor = InPlaceReLU6.apply(features)
        return result
    return F.relu6(features, inplace=True)


def apply_hswish(features: Tensor) -> Tensor:
    """Apply h-swish, in place unless its gradient needs the features as they were."""
    return F.hardswish(features, inplace=not needs_gradient(features))


def apply_silu(features: Tensor) -> Tensor:
    """Apply SiLU, in place unless its gradient needs the features as they were."""
    return F.silu(features, inplace=not needs_gradient(features))


# What applies a module of `make_activation` to features. The features are then not used otherwise.
FUNCTIONS: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.ReLU: torch.relu_,
    nn.ReLU6: apply_relu6,
    nn.Hardswish: apply_hswish,
    nn.SiLU: apply_silu,
}
