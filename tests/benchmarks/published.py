"""The published procedure (megvii-model/SinglePathOneShot), as the baseline of every comparison.

Written from its description in plain PyTorch, with nothing of `spos_cli`, so that no change there can move it:
contiguous NCHW memory, the published channel shuffle and the habits of the published loops, images decoded again for
every candidate. Tensor names and shapes are the published ones, so both sides can have the same weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

STAGES = ((4, 64), (4, 160), (8, 320), (4, 640))  # blocks and output channels; the first block has stride 2
KERNELS = (3, 5, 7)  # of choices 0, 1, 2; choice 3 is the Xception block
XCEPTION = len(KERNELS)
CHOICES, LAYERS = XCEPTION + 1, sum(blocks for blocks, _ in STAGES)
IMAGE_SIZE, CLASSES = 224, 1000
LOW, HIGH, WIDTH, TRIES = 290, 360, 10, 500  # FLOPs bins in millions; tries before any path is taken
CALIBRATION_BATCHES, CALIBRATION_BATCH = 200, 128  # of one candidate
SCORING_BATCHES, SCORING_BATCH = 40, 200

Arch = Iterable[int]  # one choice a layer
Batch = tuple[Tensor, Tensor]  # images `(B, 3, 224, 224)` float BGR 0-255, labels `(B,)`


# The supernet


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, *, depthwise: bool = False) -> list[nn.Module]:
    """A convolution and a BatchNorm without affine; ReLU follows where it is not depthwise."""
    groups = inputs if depthwise else 1
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, affine=False),
    ]
    return layers if depthwise else [*layers, nn.ReLU(inplace=True)]


def shuffle(features: Tensor) -> tuple[Tensor, Tensor]:
    """`(B, C, H, W)` to its even and its odd channels, `(B, C / 2, H, W)` each: reshape, permute, reshape.

    In contiguous memory all three are views, in channels_last memory the first one copies. Either way the
    convolution that follows has to gather every second channel.
    """
    batch, channels, height, width = features.shape
    pairs = features.reshape(batch * channels // 2, 2, height * width).permute(1, 0, 2)
    halves = pairs.reshape(2, batch, channels // 2, height, width)
    return halves[0], halves[1]


class Block(nn.Module):
    """One choice of one layer: `(B, inputs, H, W)` to `(B, outputs, H / stride, W / stride)`."""

    def __init__(self, choice: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        kept = inputs if stride == 2 else inputs // 2  # channels of the branch beside the main one
        middle, last = outputs // 2, outputs - kept
        kernel = 3 if choice == XCEPTION else KERNELS[choice]
        if choice == XCEPTION:
            main = [
                *conv_norm(kept, kept, 3, stride, depthwise=True),
                *conv_norm(kept, middle, 1),
                *conv_norm(middle, middle, 3, depthwise=True),
                *conv_norm(middle, middle, 1),
                *conv_norm(middle, middle, 3, depthwise=True),
                *conv_norm(middle, last, 1),
            ]
        else:
            main = [
                *conv_norm(kept, middle, 1),
                *conv_norm(middle, middle, kernel, stride, depthwise=True),
                *conv_norm(middle, last, 1),
            ]
        self.branch_main = nn.Sequential(*main)
        if stride == 2:
            projection = [*conv_norm(kept, kept, kernel, 2, depthwise=True), *conv_norm(kept, kept, 1)]
            self.branch_proj = nn.Sequential(*projection)

    def forward(self, features: Tensor) -> Tensor:
        if self.stride == 2:
            return torch.cat((self.branch_proj(features), self.branch_main(features)), 1)
        passed, worked = shuffle(features)
        return torch.cat((passed, self.branch_main(worked)), 1)


class Supernet(nn.Module):
    """The published supernet: 20 layers of 4 choices for images of 224 px; weights as PyTorch fills them."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(*conv_norm(3, 16, 3, 2))
        self.features = nn.ModuleList()
        inputs = 16
        for blocks, outputs in STAGES:
            for place in range(blocks):
                stride = 2 if place == 0 else 1
                self.features.append(nn.ModuleList(Block(choice, inputs, outputs, stride) for choice in range(CHOICES)))
                inputs = outputs
        self.conv_last = nn.Sequential(*conv_norm(inputs, 1024, 1))
        self.globalpool = nn.AvgPool2d(IMAGE_SIZE // 32)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Sequential(nn.Linear(1024, CLASSES, bias=False))

    def forward(self, images: Tensor, path: Arch) -> Tensor:
        """`images (B, 3, 224, 224)` to logits `(B, 1000)`, through one choice of each layer."""
        features = self.first_conv(images)
        for choices, choice in zip(self.features, path, strict=True):
            features = choices[choice](features)  # type: ignore[index]
        pooled = self.globalpool(self.conv_last(features)).reshape(-1, 1024)
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits


# The training of the supernet


def optimizer_of(model: nn.Module) -> torch.optim.SGD:
    """SGD as PyTorch makes it by default, which on a CPU updates one parameter after another.

    Weight decay is on weights only; here there is nothing else, since BatchNorm has no affine parameters. The
    learning rate is that of the end of a training, so that many steps on one batch stay finite.
    """
    return torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=4e-5)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, path: Arch
) -> tuple[float, float, float]:
    """Forward, backward and update of one path; the loss, and the top-1 and top-5 accuracy in percent.

    After the backward pass the published loop looks for gradients that are zero altogether, so that weight decay
    and momentum leave the parameters of other paths alone.
    """
    logits = model(images, path)
    loss = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        if parameter.grad is not None and parameter.grad.sum() == 0:
            parameter.grad = None
    optimizer.step()
    top1, top5 = accuracy(logits.detach(), labels)
    return loss.item(), top1.item(), top5.item()


def accuracy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Top-1 and top-5 accuracy of `logits (B, 1000)` in percent, each a tensor of one value."""
    order = logits.topk(5, 1, largest=True, sorted=True).indices.t()
    correct = order.eq(labels.reshape(1, -1).expand_as(order))
    top1, top5 = (correct[:k].reshape(-1).float().sum(0) * (100 / len(labels)) for k in (1, 5))
    return top1, top5


# Paths by rejection

CostKey = tuple[int, int, int, int, int, int]  # input, output and middle channels, height, width, stride


def random_path(rng: np.random.RandomState) -> tuple[int, ...]:
    """One number after another, as the published code draws them."""
    return tuple(rng.randint(CHOICES) for _ in range(LAYERS))


class RejectionSampler:
    """Draws paths until one falls into a FLOPs bin; after 500 tries it takes any.

    The costs lie in a table of tables, as in the published file: for each op and stride one entry for each
    shape. A path's cost is a walk over its layers with one look-up each.

    Args:
        costs: `(20, 4)`, multiply-adds of each choice of each layer.
        fixed: of the stem and the head.
    """

    def __init__(self, costs: Sequence[Sequence[int]], fixed: int, seed: int) -> None:
        self.fixed, self.rng = fixed, np.random.RandomState(seed)  # as the published code draws
        self.bins = [(low * 1e6, (low + WIDTH) * 1e6) for low in range(LOW, HIGH, WIDTH)]
        self.costs: dict[str, dict[CostKey, int]] = {}
        rows = iter(costs)
        for inputs, outputs, size, stride in layers():
            for choice, cost in enumerate(next(rows)):
                self.costs.setdefault(op_name(choice, stride), {})[
                    inputs, outputs, outputs // 2, size, size, stride
                ] = int(cost)

    def cost(self, path: Arch) -> int:
        """Multiply-adds of one path."""
        total = self.fixed
        for (inputs, outputs, size, stride), choice in zip(layers(), path, strict=True):
            total += self.costs[op_name(choice, stride)][inputs, outputs, outputs // 2, size, size, stride]
        return total

    def draw(self) -> tuple[int, ...]:
        """A path: nearly always of the bin that was drawn."""
        low, high = self.bins[self.rng.randint(len(self.bins))]
        for _ in range(TRIES):
            path = random_path(self.rng)
            if low <= self.cost(path) <= high:
                return path
        return random_path(self.rng)


def op_name(choice: int, stride: int) -> str:
    """The published table's name of a choice."""
    op = "xception_3x3" if choice == XCEPTION else f"shufflenet_{KERNELS[choice]}x{KERNELS[choice]}"
    return f"{op}_stride_{stride}"


def layers() -> Iterator[tuple[int, int, int, int]]:
    """Input and output channels, side of the input in pixels and stride of each layer."""
    inputs, size = 16, IMAGE_SIZE // 2
    for blocks, outputs in STAGES:
        for place in range(blocks):
            stride = 2 if place == 0 else 1
            yield inputs, outputs, size, stride
            inputs, size = outputs, size // stride


# The input


def to_bgr(image: Image.Image) -> Tensor:
    """A PIL image to `(3, H, W)` float32, BGR, 0-255."""
    pixels = np.asarray(image)[:, :, ::-1].transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(pixels, np.float32))


def opencv_resize(image: Image.Image) -> Image.Image:
    """The short side becomes 256 px, by OpenCV's bilinear resize; by PIL's where OpenCV is not installed."""
    width, height = image.size
    size = (256, int(256 / width * height + 0.5)) if width < height else (int(256 / height * width + 0.5), 256)
    try:
        import cv2
    except ImportError:
        return image.resize(size, Image.Resampling.BILINEAR)
    return Image.fromarray(cv2.resize(np.asarray(image), size, interpolation=cv2.INTER_LINEAR))


def train_transform() -> transforms.Compose:
    """Random resized crop, colour jitter and flip of a PIL image."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(IMAGE_SIZE),
            transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            transforms.RandomHorizontalFlip(0.5),
            to_bgr,
        ]
    )


def validation_transform() -> transforms.Compose:
    """Resize and centre crop of a PIL image."""
    return transforms.Compose([opencv_resize, transforms.CenterCrop(IMAGE_SIZE), to_bgr])


class Files(Dataset[tuple[Tensor, int]]):
    """Image files with labels; each is decoded by PIL whenever it is asked for."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], transform: transforms.Compose) -> None:
        self.paths, self.labels, self.transform = paths, labels, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with self.paths[index].open("rb") as file:
            image = Image.open(file).convert("RGB")
        return self.transform(image), self.labels[index]


def batches(
    paths: Sequence[Path], labels: Sequence[int], *, train: bool, batch: int, workers: int = 0
) -> Iterator[Batch]:
    """Endless batches of decoded images, in a random order and with replacement (files may be fewer than a batch).

    Args:
        paths, labels: of JPEG files.
        train: with the training transform, else the validation one.
        batch: images per batch.
        workers: loader processes; 0 decodes here, in turns with the model.
    """
    files = Files(paths, labels, train_transform() if train else validation_transform())
    endless = RandomSampler(files, replacement=True, num_samples=10**9)
    loader: DataLoader[Any] = DataLoader(files, batch, sampler=endless, num_workers=workers)
    return ((images, targets) for images, targets in loader)


# The scoring of a candidate


@torch.no_grad()
def calibration_pass(model: nn.Module, path: Arch, loaded: Iterable[Batch], number: int = CALIBRATION_BATCHES) -> None:
    """Resets every BatchNorm of the supernet, then averages with momentum 0.1 over `number` training batches.

    The whole model is in train mode, dropout included, as published. 200 batches of 128 are the whole procedure;
    its time grows with their number, so a few can be timed.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.zeros_like(module.running_mean)  # type: ignore[arg-type]
            module.running_var = torch.ones_like(module.running_var)  # type: ignore[arg-type]
    model.train()
    for images, _ in itertools.islice(loaded, number):
        model(images, path)


@torch.no_grad()
def scoring_pass(
    model: nn.Module, path: Arch, loaded: Iterable[Batch], number: int = SCORING_BATCHES
) -> tuple[float, float]:
    """Top-1 and top-5 accuracy in percent over `number` validation batches; 40 of 200 are the whole procedure."""
    model.eval()
    images_seen, top1_sum, top5_sum = 0, 0.0, 0.0
    for images, labels in itertools.islice(loaded, number):
        top1, top5 = accuracy(model(images, path), labels)
        images_seen += len(labels)
        top1_sum += top1.item() * len(labels)
        top5_sum += top5.item() * len(labels)
    return top1_sum / images_seen, top5_sum / images_seen


def seconds_per_candidate(seconds_per_calibration_batch: float, seconds_per_scoring_batch: float) -> float:
    """Extrapolates the whole procedure, 200 batches of 128 and 40 of 200, from the time of one batch of each."""
    return CALIBRATION_BATCHES * seconds_per_calibration_batch + SCORING_BATCHES * seconds_per_scoring_batch


def load(model: Supernet, state: Mapping[str, Tensor]) -> Supernet:
    """The model with these tensors, each in contiguous memory."""
    model.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, strict=True)
    return model
