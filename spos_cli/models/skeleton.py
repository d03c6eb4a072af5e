"""What supernet and network share: stem, head, forward pass, initial weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from spos_cli.models.activations import make_activation
from spos_cli.models.layers import (
    AnyBatchNorm,
    BatchNorm,
    Branch,
    Convolution,
    make_convolution,
)
from spos_cli.models.routing import concatenate, make_routing, select_channels
from spos_cli.space.architecture import Architecture
from spos_cli.space.layer import Layer
from spos_cli.space.search_space import SearchSpace

BATCHNORM_BIAS = 0.0001  # as in the official code; only where BatchNorm is affine


class Skeleton(nn.Module):
    """Stem and head of the official network; a subclass adds `features`, the choice blocks.

    Args:
        space: channels, classes and strides.
        layers: with the channels that the blocks are allocated at.
        affine: whether BatchNorm has a learned scale and shift.
        dropout: probability of dropping a feature before the classifier.
    """

    features: nn.ModuleList | nn.Sequential

    def __init__(self, space: SearchSpace, layers: Sequence[Layer], affine: bool, dropout: float) -> None:
        super().__init__()
        self.space = space
        self.first_conv = Branch(
            Convolution(space.in_channels, space.stem_channels, 3, space.stem_stride, 1, bias=False),
            BatchNorm(space.stem_channels, affine=affine),
            make_activation(space.activation),
        )
        self.features = self.build_features(layers, affine)
        self.conv_last = Branch(
            *make_convolution(layers[-1].out_channels, space.head_channels, affine, activation=space.activation)
        )
        self.head_linear = None
        if space.head_linear:
            linear = make_linear(space.head_channels, space.head_linear, bias=space.linear_bias)
            self.head_linear = nn.Sequential(linear, make_activation(space.activation))
        self.dropout = nn.Dropout(dropout)
        features = space.head_linear or space.head_channels
        self.classifier = nn.Sequential(make_linear(features, space.classes, bias=space.linear_bias))

    def build_features(self, layers: Sequence[Layer], affine: bool) -> nn.ModuleList | nn.Sequential:
        """Build the choice blocks, in the order of the layers."""
        raise NotImplementedError

    def run_blocks(self, images: Tensor, blocks: Iterable[nn.Module], path: Architecture | None = None) -> Tensor:
        """Compute logits `(B, classes)` of images `(B, C, H, W)` float, through one block a layer.

        Args:
            path: selects the channels and the bits of a supernet's blocks; None for blocks that have no others.
        """
        routing = make_routing(self.space, images.device)
        stem, *layers, head = routing.channels if path is None else select_channels(routing, self.space, path)
        features = self.first_conv(images, None, stem.outputs[0])  # (B, stem_channels, H / stride, W / stride)
        pieces = routing.route({}, 0, (features,))  # by layer: (B, size, H, W) each
        for layer, (block, channels) in enumerate(zip(blocks, layers, strict=True)):
            # From (B, op_in_channels, H, W) to (B, C, H / stride, W / stride) each, with C of `Layer.op_out_channels`.
            outputs = block(concatenate(pieces[layer]), channels)
            pieces = routing.route(pieces, layer + 1, outputs)
        features = self.conv_last(concatenate(pieces[len(layers)]), head.inputs)  # (B, head_channels, H, W)
        return self.classify(features)

    def classify(self, features: Tensor) -> Tensor:
        """Compute logits `(B, classes)` of the last convolution's features `(B, head_channels, H, W)`."""
        features = features.mean((2, 3))  # (B, head_channels)
        if self.head_linear is not None:
            features = self.head_linear(features)  # (B, head_linear)
        logits: Tensor = self.classifier(self.dropout(features))
        return logits


def make_linear(in_features: int, out_features: int, *, bias: bool) -> nn.Linear:
    """Make a linear layer whose bias, if it has one, is 0."""
    linear = nn.Linear(in_features, out_features, bias=bias)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


SkeletonT = TypeVar("SkeletonT", bound="Skeleton")


def build_initialized(build: Callable[[], SkeletonT], seed: int) -> SkeletonT:
    """Build a model whose every weight depends on `seed` alone, also in a user's own blocks."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = build()
    initialize(model, seed)
    return model


def initialize(model: Skeleton, seed: int) -> None:
    """Fill every weight as the official code does, from `seed` alone.

    Weights of convolutions are normal with mean 0 and standard deviation `1 / weight.shape[1]`; it is 0.01 for the
    first convolution and the classifier (official `network.py`, `_initialize_weights`).
    """
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            std = 0.01 if name.startswith("first_conv") else 1.0 / module.weight.shape[1]
            nn.init.normal_(module.weight, 0.0, std, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01, generator=generator)
        elif isinstance(module, AnyBatchNorm):
            module.reset_running_stats()
            if module.affine:
                nn.init.ones_(module.weight)
                nn.init.constant_(module.bias, BATCHNORM_BIAS)
