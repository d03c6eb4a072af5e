"""Branches taken apart for candidates: statistics outside of the supernet, then folded into the convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from spos_cli.models.blocks import AnyBatchNorm, Branch, Channels, ChoiceBlock, Unit
from spos_cli.models.routing import Order


@dataclass(frozen=True)
class Part:
    """A unit of a branch, with its tensors in the order of the features' channels.

    Attributes:
        weight: of the convolution, in the type that is computed with.
        affine: BatchNorm's scale and shift, `(C,)` float32 each, or None.
    """

    weight: Tensor
    affine: tuple[Tensor, Tensor] | None
    unit: Unit


Plan = list[Part]


def plan(branch: Branch, inputs: Channels, outputs: Channels, middle: int | None, dtype: torch.dtype) -> Plan:
    """Takes a branch apart, for these channels; the weights are copied only where that is needed."""
    return [
        Part(unit.convolution.taken(unit.inputs, unit.outputs).to(dtype), unit.norm.scale_and_shift(unit.outputs), unit)
        for unit in branch.units(inputs, outputs, middle)
    ]


class Calibration:
    """BatchNorm statistics of a branch, of its own: float32, from 0 and 1 as PyTorch begins them."""

    def __init__(self, parts: Plan) -> None:
        self.parts = parts
        self.means = [part.weight.new_zeros(len(part.weight), dtype=torch.float32) for part in parts]
        self.variances = [torch.ones_like(mean) for mean in self.means]

    def __call__(self, features: Tensor, momentum: float) -> Tensor:
        """Runs a batch `(B, C, H, W)` as in training, and counts its statistics with this weight."""
        for part, mean, variance in zip(self.parts, self.means, self.variances, strict=True):
            features = part.unit.convolution.convolved(features, part.weight)
            scale, shift = part.affine or (None, None)
            features = F.batch_norm(features, mean, variance, scale, shift, True, momentum, part.unit.norm.eps)
            if part.unit.activation:
                features = part.unit.activation(features)
        return features

    def folded(self) -> Folded:
        """The branch with these statistics in its weights."""
        weights, biases = [], []
        for part, mean, variance in zip(self.parts, self.means, self.variances, strict=True):
            scale = (variance + part.unit.norm.eps).rsqrt()
            bias = -mean * scale
            if part.affine is not None:
                scale, bias = scale * part.affine[0], bias * part.affine[0] + part.affine[1]
            weights.append((part.weight.float() * scale.view(-1, 1, 1, 1)).to(part.weight.dtype))
            biases.append(bias.to(part.weight.dtype))
        return Folded(self.parts, weights, biases)


class WholeCalibration:
    """BatchNorm statistics of a block that is no branch, of its own; nothing is folded."""

    def __init__(self, block: ChoiceBlock, order: Order, dtype: torch.dtype) -> None:
        self.block, self.order, self.dtype = block, order, dtype
        self.norms = [module for module in block.modules() if isinstance(module, AnyBatchNorm)]
        with torch.no_grad():
            self.buffers = {name: buffer.clone() for name, buffer in block.named_buffers()}
            for name, buffer in self.buffers.items():
                if name.endswith("running_mean"):
                    buffer.zero_()
                elif name.endswith("running_var"):
                    buffer.fill_(1)

    def _run(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, self.dtype, enabled=self.dtype != torch.float32):
            (made,) = functional_call(self.block, self.buffers, (features, self.order))
        result: Tensor = made.to(self.dtype)
        return result

    def __call__(self, features: Tensor, momentum: float) -> Tensor:
        """Runs a batch as in training, and counts its statistics with this weight."""
        usual = [norm.momentum for norm in self.norms]
        for norm in self.norms:
            norm.train()
            norm.momentum = momentum
        try:
            return self._run(features)
        finally:
            for norm, before in zip(self.norms, usual, strict=True):
                norm.eval()
                norm.momentum = before

    def folded(self) -> Callable[[Tensor], Tensor]:
        """The block for inference."""
        return self._run


class Folded:
    """A branch for inference: BatchNorm is in the convolutions."""

    def __init__(self, parts: Plan, weights: list[Tensor], biases: list[Tensor]) -> None:
        self.parts, self.weights, self.biases = parts, weights, biases

    def __call__(self, features: Tensor) -> Tensor:
        """`(B, C, H, W)` to the branch's output."""
        for part, weight, bias in zip(self.parts, self.weights, self.biases, strict=True):
            features = part.unit.convolution.convolved(features, weight, bias)
            if part.unit.activation:
                features = part.unit.activation(features)
        return features
