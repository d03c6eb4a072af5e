"""The stand-alone network of one architecture, to train from scratch."""

from __future__ import annotations

from torch import Tensor, nn

from spos_cli.models.blocks import build_block
from spos_cli.models.skeleton import Skeleton
from spos_cli.space.architecture import Architecture
from spos_cli.space.search_space import SearchSpace


class Network(Skeleton):
    """The stand-alone network of one architecture. In the official code its BatchNorm is affine.

    Args:
        space: the search space; tensors have the official names and shapes.
        arch: one choice per layer, and widths where the space has some.
        affine: whether BatchNorm has a learned scale and shift.
        dropout: probability of dropping a feature before the classifier.

    Raises:
        ArchitectureError: the space does not have this architecture.
    """

    def __init__(self, space: SearchSpace, arch: Architecture, affine: bool = True, dropout: float = 0.1) -> None:
        space.validate(arch)
        self.arch = arch
        super().__init__(space, affine, dropout)

    def build_features(self, affine: bool) -> nn.Sequential:
        return nn.Sequential(
            *(
                build_block(layer.choices[option.choice], layer, affine, option.width)
                for layer, option in zip(self.space.layers, self.arch.options, strict=True)
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits `(B, classes)` of images `(B, 3, H, W)` float."""
        return self.run_blocks(images, self.features)
