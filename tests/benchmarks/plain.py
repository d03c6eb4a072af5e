"""The baseline of MobileNet-like spaces: a supernet and its training step in plain PyTorch.

It is written as one would without `spos`, and imports nothing from there: eager `nn.Conv2d` and `nn.BatchNorm2d`, in
channels_last memory. Where hidden channels are searched, weights are sliced, as in once-for-all and mmrazor. Tensors
have the names of `spos`, so that both sides can have the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of each layer: its choice, and how many hidden channels to use; None for all.
Path = Sequence[tuple[int, int | None]]


@dataclass(frozen=True)
class Block:
    """One choice of one layer.

    Attributes:
        op: `mbconv`, `skip` or `identity`.
        hidden: the most channels between its convolutions.
        kernel, expand, activation: of `mbconv`; with `expand` 1, it has no first convolution.
    """

    op: str
    inputs: int
    outputs: int
    stride: int
    hidden: int = 0
    kernel: int = 3
    expand: int = 1
    activation: str = "relu6"


@dataclass(frozen=True)
class Space:
    """A space of such blocks, by layer and choice."""

    stem: int
    stem_stride: int
    layers: Sequence[Sequence[Block]]
    head: int
    classes: int
    dropout: float


def make_activation(name: str) -> nn.Module:
    """Make ReLU or ReLU6."""
    return {"relu": nn.ReLU, "relu6": nn.ReLU6}[name](inplace=True)


def make_norm(channels: int) -> nn.BatchNorm2d:
    """Make the BatchNorm of a supernet, without learned scale and shift."""
    return nn.BatchNorm2d(channels, affine=False)


class InvertedResidual(nn.Module):
    """1x1, depthwise, 1x1; the input is added where both have the same shape."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        hidden, kernel = block.hidden, block.kernel
        expansion = [
            nn.Conv2d(block.inputs, hidden, 1, bias=False),
            make_norm(hidden),
            make_activation(block.activation),
        ]
        self.layers = nn.Sequential(
            *(expansion if block.expand > 1 else []),
            nn.Conv2d(hidden, hidden, kernel, block.stride, kernel // 2, groups=hidden, bias=False),
            make_norm(hidden),
            make_activation(block.activation),
            nn.Conv2d(hidden, block.outputs, 1, bias=False),
            make_norm(block.outputs),
        )
        self.residual = block.stride == 1 and block.inputs == block.outputs

    def forward(self, features: Tensor, hidden: int | None = None) -> Tensor:
        output: Tensor = self.layers(features) if hidden is None else self.run_sliced(features, hidden)
        return features + output if self.residual else output

    def run_sliced(self, features: Tensor, hidden: int) -> Tensor:
        """Run the first hidden channels only: `(B, inputs, H, W)` to `(B, outputs, H / stride, W / stride)`."""
        *_, last, _ = self.layers
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                outputs = len(layer.weight) if layer is last else hidden
                is_depthwise = layer.groups > 1
                weight = layer.weight[:outputs] if is_depthwise else layer.weight[:outputs, : features.shape[1]]
                groups = hidden if is_depthwise else 1
                features = F.conv2d(features, weight, None, layer.stride, layer.padding, groups=groups)
            elif isinstance(layer, nn.BatchNorm2d):
                channels = features.shape[1]
                statistics = [tensor[:channels] for tensor in (layer.running_mean, layer.running_var)]  # type: ignore[index]
                features = F.batch_norm(features, *statistics, training=self.training)
            else:
                features = layer(features)
        return features


class Skip(nn.Module):
    """Nothing, or where the shape changes a 1x1 convolution with BatchNorm."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.layers = None
        if block.op == "skip" and (block.stride > 1 or block.inputs != block.outputs):
            self.layers = nn.Sequential(
                nn.Conv2d(block.inputs, block.outputs, 1, block.stride, bias=False), make_norm(block.outputs)
            )

    def forward(self, features: Tensor, hidden: int | None = None) -> Tensor:
        return features if self.layers is None else self.layers(features)


class Supernet(nn.Module):
    """All choices of all layers, one path at a time."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(
            nn.Conv2d(3, space.stem, 3, space.stem_stride, 1, bias=False), make_norm(space.stem), nn.ReLU(inplace=True)
        )
        self.features = nn.ModuleList(
            nn.ModuleList(InvertedResidual(block) if block.op == "mbconv" else Skip(block) for block in blocks)
            for blocks in space.layers
        )
        last = space.layers[-1][0].outputs
        self.conv_last = nn.Sequential(
            nn.Conv2d(last, space.head, 1, bias=False), make_norm(space.head), nn.ReLU(inplace=True)
        )
        self.dropout = nn.Dropout(space.dropout)
        self.classifier = nn.Sequential(nn.Linear(space.head, space.classes, bias=False))

    def forward(self, images: Tensor, path: Path) -> Tensor:
        """Compute logits `(B, classes)` of images `(B, 3, H, W)` float."""
        features = self.first_conv(images)
        for choices, (choice, hidden) in zip(self.features, path, strict=True):
            features = choices[choice](features, hidden)  # type: ignore[index]
        logits: Tensor = self.classifier(self.dropout(self.conv_last(features).mean((2, 3))))
        return logits


def train_step(
    model: Supernet,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    paths: Sequence[Path],
    label_smoothing: float,
) -> tuple[float, float]:
    """Do one step, and return its loss and top-1. Of several paths, the first one teaches the others."""
    first: Tensor | None = None
    for path in paths:
        logits = model(images, path)
        if first is None:
            loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
            first = logits.detach()
        else:
            teacher = F.log_softmax(first, 1)
            loss = F.kl_div(F.log_softmax(logits, 1), teacher, reduction="batchmean", log_target=True)
        loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item(), float((logits.argmax(1) == labels).float().mean())


@torch.no_grad()
def score(model: Supernet, path: Path, calibration: Sequence[Tensor], images: Sequence[Tensor]) -> list[Tensor]:
    """Score one path: average its BatchNorm statistics over some batches, then return its logits for others."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain average
    model.train()
    for batch in calibration:
        model(batch, path)
    model.eval()
    return [model(batch, path) for batch in images]
