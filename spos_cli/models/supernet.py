"""The weight-sharing supernet: every choice of every layer, one path at a time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from spos_cli.models.blocks import build_block
from spos_cli.models.skeleton import Skeleton
from spos_cli.space.architecture import Architecture, Option
from spos_cli.space.choices import Choice
from spos_cli.space.layer import Layer
from spos_cli.space.options import Context
from spos_cli.space.search_space import SearchSpace


class Supernet(Skeleton):
    """All architectures of a space in one set of weights (paper, section 3.2).

    `features[layer][choice]` is one op. A forward pass goes through one choice of each layer and leaves the others
    untouched: their gradients stay None and their BatchNorm statistics do not change. In the official supernet
    BatchNorm is not affine. Where a space has widths, each op is allocated at the largest one, and a path uses the
    first of its hidden channels (paper, section 3.3). Where a space has bits, each op has one set of weights for all of
    them, and a path's bits say how its weights and activations are rounded. With output widths, blocks and head are
    allocated at the largest one, and a path uses the first of their input and output channels.

    Args:
        space: the search space; tensors have the official names and shapes.
        affine: whether BatchNorm has a learned scale and shift.
        dropout: probability of dropping a feature before the classifier.
    """

    def __init__(self, space: SearchSpace, affine: bool = False, dropout: float = 0.1) -> None:
        super().__init__(space, list_widest_layers(space), affine, dropout)

    def build_features(self, layers: Sequence[Layer], affine: bool) -> nn.ModuleList:
        return nn.ModuleList(
            nn.ModuleList(self._build_block(choice, layer, affine) for choice in layer.choices) for layer in layers
        )

    def _build_block(self, choice: Choice, layer: Layer, affine: bool) -> nn.Module:
        """Build an op of a layer for all its widths and bits."""
        bits = self.space.bits if choice.is_quantizable else ()
        return build_block(choice, layer, affine, self._largest_width(choice), bits)

    def _largest_width(self, choice: Choice) -> int:
        """Return the width, in thousandths, that a choice is allocated at; 0 if it has no widths."""
        return max(self.space.widths, default=0) if choice.is_scalable else 0

    def select_blocks(self, arch: Architecture) -> list[nn.Module]:
        """Return the block of each layer that a path runs through."""
        return [choices[choice] for choices, choice in zip(self.features, arch, strict=True)]  # type: ignore[index]

    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        """Compute logits `(B, classes)` of images `(B, C, H, W)` float, through the path `arch`."""
        return self.run_blocks(images, self.select_blocks(arch), arch)


def list_widest_layers(space: SearchSpace) -> Sequence[Layer]:
    """List the layers of a space with the most channels that each may have."""
    if not space.output_widths:
        return space.layers
    widest = space.output_widths[-1]
    return [
        space.layer_in(layer, Context(output=widest if layer.index else 0), Option(0, output=widest))
        for layer in space.layers
    ]
