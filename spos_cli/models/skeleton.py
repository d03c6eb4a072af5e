"""What supernet and network share around their choice blocks: the stem, the head and the initialisation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from spos_cli.models.blocks import AnyBatchNorm, BatchNorm, Branch, Convolution, pointwise
from spos_cli.models.routing import joined, routing
from spos_cli.space.search_space import SearchSpace

BATCHNORM_BIAS = 0.0001  # as published; only where BatchNorm is affine


class Skeleton(nn.Module):
    """Stem and head of the published network; a child adds `features`, the choice blocks.

    Args:
        space: channels, classes and strides.
        affine: whether BatchNorm has a learned scale and shift.
        dropout: probability of dropping a feature before the classifier.
    """

    features: nn.ModuleList | nn.Sequential

    def __init__(self, space: SearchSpace, affine: bool, dropout: float) -> None:
        super().__init__()
        self.space = space
        self.first_conv = Branch(
            Convolution(3, space.stem_channels, 3, space.stem_stride, 1, bias=False),
            BatchNorm(space.stem_channels, affine=affine),
            nn.ReLU(inplace=True),
        )
        self.features = self.build_features(affine)
        self.conv_last = Branch(*pointwise(space.stages[-1].channels, space.head_channels, affine))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Sequential(nn.Linear(space.head_channels, space.classes, bias=False))

    def build_features(self, affine: bool) -> nn.ModuleList | nn.Sequential:
        """The choice blocks, in the order of the layers."""
        raise NotImplementedError

    def through(self, images: Tensor, blocks: Iterable[nn.Module], middles: Sequence[int | None] = ()) -> Tensor:
        """`images (B, 3, H, W)` float to logits `(B, classes)`, through one block a layer.

        Args:
            middles: by layer, how many channels of the block's middle are used; None, or nothing, for all.
        """
        ways = routing(self.space, images.device)
        stem, *layers, head = ways.orders
        pieces = ways.give({}, 0, (self.first_conv(images, None, stem.outputs[0]),))
        for layer, (block, order, middle) in enumerate(
            zip(blocks, layers, middles or [None] * len(layers), strict=True)
        ):
            order = order if middle is None else order._replace(middle=middle)
            pieces = ways.give(pieces, layer + 1, block(joined(pieces[layer]), order))
        return self.classify(self.conv_last(joined(pieces[len(layers)]), head.inputs))

    def classify(self, features: Tensor) -> Tensor:
        """`(B, head_channels, H, W)` of the last convolution to logits `(B, classes)`."""
        logits: Tensor = self.classifier(self.dropout(features.mean((2, 3))))
        return logits


SkeletonT = TypeVar("SkeletonT", bound="Skeleton")


def initialized(build: Callable[[], SkeletonT], seed: int) -> SkeletonT:
    """A model whose every weight is from `seed` alone, those of a user's own blocks too."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = build()
    initialize(model, seed)
    return model


def initialize(model: Skeleton, seed: int) -> None:
    """Fills every weight as the published code does, from `seed` alone.

    Convolutions are normal with mean 0 and standard deviation `1 / weight.shape[1]`, the first one and the
    classifier 0.01 (published `network.py`, `_initialize_weights`).
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
