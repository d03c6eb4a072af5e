"""Prepare blocks and networks for ONNX Runtime, to measure their latencies."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from spos_cli.export.inference import InferenceNetwork, fold_branch
from spos_cli.export.onnx_file import INPUT, make_model, open_session
from spos_cli.export.quantization import quantize_model
from spos_cli.models.layers import Branch, ChannelSelection
from spos_cli.models.network import Network


class FoldedBranch(nn.Sequential):
    """A branch whose BatchNorm is folded into its convolutions; it works on all channels."""

    def forward(
        self,
        features: Tensor,
        inputs: ChannelSelection = None,
        outputs: ChannelSelection = None,
        hidden: int | None = None,
        bits: int = 0,
    ) -> Tensor:
        """Map features as `Branch.forward` does, without a selection of channels and with full precision."""
        assert (inputs, outputs, hidden) == (None, None, None), "channels were selected when it was folded"
        assert not bits, "quantized convolutions are not folded"
        for module in self:
            features = module(features)
        return features


def fold(module: nn.Module) -> nn.Module:
    """Return a network or a block as it is deployed: without BatchNorm, in eval mode.

    Args:
        module: of the space, on the CPU; it is not changed. A user's own block stays as it is.
    """
    module = copy.deepcopy(module).eval()
    if isinstance(module, Network):
        return InferenceNetwork(module, "standard", "float")
    for name, child in list(module.named_children()):
        if isinstance(child, Branch):
            setattr(module, name, FoldedBranch(*fold_branch(child)))
    return module


def make_call(
    module: nn.Module, device: torch.device, shape: tuple[int, ...], *, int8: bool = False
) -> Callable[[], object]:
    """Return a forward pass of a block or a network by ONNX Runtime, on random features of shape `(B, C, H, W)`.

    Args:
        int8: with weights and activations of 8 bits. A block then converts its input and output, too, which it does not
            do within a network; the fit of the sums to whole networks makes up for it on average.

    Raises:
        ConfigError: a package is missing, or a user's own block cannot be exported or quantized.
    """
    assert device.type == "cpu"
    features = torch.randn(shape)
    model = make_model(fold(module), features, any_batch=False)
    if int8:
        model = quantize_model(model, [features])
    session = open_session(model, "a block of the space")
    inputs = {INPUT: features.numpy()}
    return lambda: session.run(None, inputs)
