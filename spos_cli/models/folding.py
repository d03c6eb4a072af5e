"""Give candidates their own BatchNorm statistics, and fold them into weights.

The supernet itself is never changed: weights are shared or copied, and each candidate has statistics of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from spos_cli.models.blocks import ChoiceBlock
from spos_cli.models.layers import AnyBatchNorm, Branch, ChannelSelection, GateWeights, Unit
from spos_cli.models.routing import BlockChannels


@dataclass(frozen=True)
class Part:
    """A unit of a branch, with its tensors for the selected channels.

    Attributes:
        weight: of the convolution, `(out, in / groups, k, k)`, in the type to compute in.
        affine: scale and shift of BatchNorm, `(out,)` float32 each, or None.
        gate: of the unit's gate, in the type to compute in; None without one.
        unit: the layers of the supernet.
    """

    weight: Tensor
    affine: tuple[Tensor, Tensor] | None
    gate: GateWeights | None
    unit: Unit

    def activate(self, features: Tensor) -> Tensor:
        """Apply what follows BatchNorm to its output `(B, out, H, W)`."""
        if self.unit.activation:
            features = self.unit.activation(features)
        if self.unit.shuffle is not None:
            features = self.unit.shuffle(features)
        if self.unit.gate is not None and self.gate is not None:
            features = self.unit.gate.scale(features, self.gate)
        return features


Plan = list[Part]


def make_plan(
    branch: Branch, inputs: ChannelSelection, outputs: ChannelSelection, hidden: int | None, dtype: torch.dtype
) -> Plan:
    """Select the tensors of a branch for these channels; weights are copied only where necessary.

    Args:
        inputs, outputs: channels of the branch's input and output.
        hidden: how many hidden channels to use, the first ones; None for all.
        dtype: type to compute in.
    """
    return [
        Part(
            unit.convolution.select_weight(unit.inputs, unit.outputs).to(dtype),
            unit.norm.select_scale_and_shift(unit.outputs),
            None if unit.gate is None else unit.gate.select_weights(unit.outputs, unit.squeezed).to(dtype),
            unit,
        )
        for unit in branch.list_units(inputs, outputs, hidden)
    ]


class BranchStatistics:
    """A candidate's BatchNorm statistics of one branch.

    Attributes:
        means, variances: `(out,)` float32 for each part; they start at 0 and 1, as in PyTorch.
    """

    def __init__(self, parts: Plan) -> None:
        self.parts = parts
        self.means = [part.weight.new_zeros(len(part.weight), dtype=torch.float32) for part in parts]
        self.variances = [torch.ones_like(mean) for mean in self.means]

    def __call__(self, features: Tensor, momentum: float) -> Tensor:
        """Run a batch `(B, in, H, W)` as in training; its statistics enter with weight `momentum`."""
        for part, mean, variance in zip(self.parts, self.means, self.variances, strict=True):
            features = part.unit.convolution.convolve(features, part.weight)  # (B, out, H, W)
            scale, shift = part.affine or (None, None)
            features = F.batch_norm(features, mean, variance, scale, shift, True, momentum, part.unit.norm.eps)
            features = part.activate(features)
        return features

    def fold(self) -> Callable[[Tensor], Tensor]:
        """Return the branch for inference, with these statistics folded into its weights."""
        weights, biases = [], []
        for part, mean, variance in zip(self.parts, self.means, self.variances, strict=True):
            scale = (variance + part.unit.norm.eps).rsqrt()  # (out,)
            bias = -mean * scale  # (out,)
            if part.affine is not None:
                scale, bias = scale * part.affine[0], bias * part.affine[0] + part.affine[1]
            weights.append((part.weight.float() * scale.view(-1, 1, 1, 1)).to(part.weight.dtype))
            biases.append(bias.to(part.weight.dtype))
        return FoldedBranch(self.parts, weights, biases)


class ExactBranchStatistics(BranchStatistics):
    """A candidate's statistics of a branch in a network with quantized blocks; nothing is folded.

    The last bits of a feature may decide between two levels of a block behind it. So inference is that of the network
    itself, step by step.
    """

    def fold(self) -> Callable[[Tensor], Tensor]:
        """Return the branch for inference."""
        return self.normalize

    def normalize(self, features: Tensor) -> Tensor:
        """Run a batch `(B, in, H, W)` with these statistics."""
        for part, mean, variance in zip(self.parts, self.means, self.variances, strict=True):
            features = part.unit.convolution.convolve(features, part.weight)  # (B, out, H, W)
            scale, shift = part.affine or (None, None)
            features = F.batch_norm(features, mean, variance, scale, shift, False, 0.0, part.unit.norm.eps)
            features = part.activate(features)
        return features


class BlockStatistics:
    """A candidate's BatchNorm statistics of a block that is quantized or has no branches; nothing is folded.

    Attributes:
        buffers: copies of all buffers of the block, by name.
    """

    def __init__(self, block: ChoiceBlock, channels: BlockChannels, dtype: torch.dtype) -> None:
        self.block, self.channels, self.dtype = block, channels, dtype
        self.norms = [module for module in block.modules() if isinstance(module, AnyBatchNorm)]
        with torch.no_grad():
            self.buffers = {name: buffer.clone() for name, buffer in block.named_buffers()}
            for name, buffer in self.buffers.items():
                if name.endswith("running_mean"):
                    buffer.zero_()
                elif name.endswith("running_var"):
                    buffer.fill_(1)

    def _run(self, features: Tensor) -> Tensor:
        """Run the block on `(B, in, H, W)` with the candidate's buffers in place of its own."""
        with torch.autocast(features.device.type, self.dtype, enabled=self.dtype != torch.float32):
            (output,) = functional_call(self.block, self.buffers, (features, self.channels))
        result: Tensor = output.to(self.dtype)
        return result

    def __call__(self, features: Tensor, momentum: float) -> Tensor:
        """Run a batch `(B, in, H, W)` as in training; its statistics enter with weight `momentum`."""
        momenta = [norm.momentum for norm in self.norms]
        for norm in self.norms:
            norm.train()
            norm.momentum = momentum
        try:
            return self._run(features)
        finally:
            for norm, usual_momentum in zip(self.norms, momenta, strict=True):
                norm.eval()
                norm.momentum = usual_momentum

    def fold(self) -> Callable[[Tensor], Tensor]:
        """Return the block for inference."""
        return self._run


class FoldedBranch:
    """A branch for inference, whose BatchNorm layers are part of its convolutions."""

    def __init__(self, parts: Plan, weights: list[Tensor], biases: list[Tensor]) -> None:
        self.parts, self.weights, self.biases = parts, weights, biases

    def __call__(self, features: Tensor) -> Tensor:
        """Run a batch `(B, in, H, W)`."""
        for part, weight, bias in zip(self.parts, self.weights, self.biases, strict=True):
            features = part.activate(part.unit.convolution.convolve(features, weight, bias))  # (B, out, H, W)
        return features
