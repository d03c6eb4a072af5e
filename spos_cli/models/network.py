"""The stand-alone network of one architecture, to train from scratch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from spos_cli.models.blocks import ResidualBlock, build_option
from spos_cli.models.skeleton import Skeleton
from spos_cli.space.architecture import Architecture
from spos_cli.space.layer import Layer
from spos_cli.space.search_space import SearchSpace


class Network(Skeleton):
    """The stand-alone network of one architecture. In the official code its BatchNorm is affine.

    Args:
        space: the search space; tensors have the official names and shapes.
        arch: one choice per layer, and whatever else is searched.
        affine: whether BatchNorm has a learned scale and shift.
        dropout: probability of dropping a feature before the classifier.
        stochastic_depth: probability of dropping the work of the last block for an image, see `set_stochastic_depth`.

    Raises:
        ArchitectureError: the space does not have this architecture.
    """

    def __init__(
        self,
        space: SearchSpace,
        arch: Architecture,
        affine: bool = True,
        dropout: float = 0.1,
        stochastic_depth: float = 0.0,
    ) -> None:
        space.validate(arch)
        self.arch, self.affine = arch, affine
        super().__init__(space, space.layers_of(arch), affine, dropout)
        if stochastic_depth:
            set_stochastic_depth(list(self.features), stochastic_depth)

    def build_features(self, layers: Sequence[Layer], affine: bool) -> nn.Sequential:
        return nn.Sequential(
            *(build_option(layer, option, affine) for layer, option in zip(layers, self.arch.options, strict=True))
        )

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits `(B, classes)` of images `(B, C, H, W)` float."""
        return self.run_blocks(images, self.features)


def set_stochastic_depth(blocks: Sequence[nn.Module], rate: float) -> None:
    """Let blocks with a shortcut drop their work for random images of a batch in training (arXiv 1603.09382).

    As in torchvision's EfficientNet, the rate grows linearly from 0 in the first of n blocks to `rate` * (n - 1) / n in
    the last one, and what is kept is divided by the probability of keeping it. Blocks without a shortcut count, too;
    those without parameters, such as `identity`, do not. Masks come from PyTorch's global generator.

    Args:
        blocks: of a network, in the order of the layers.
        rate: probability of dropping, from 0 to below 1.
    """
    from torchvision.ops import StochasticDepth  # It imports slowly, and few trainings need it.

    working = [block for block in blocks if any(True for _ in block.parameters())]
    for position, block in enumerate(working):
        if isinstance(block, ResidualBlock) and block.residual:
            block.stochastic_depth = StochasticDepth(rate * position / len(working), "row")


def count_shortcuts(network: Network) -> int:
    """Count the blocks that add their input to their output. What a user's own blocks do is unknown."""
    return sum(isinstance(block, ResidualBlock) and block.residual for block in network.features)
