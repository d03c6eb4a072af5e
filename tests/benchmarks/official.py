"""The official procedure (megvii-model/SinglePathOneShot), the baseline of every comparison.

It is written from its description in plain PyTorch and imports nothing from `spos_cli`, so that no change there can
change it: contiguous NCHW memory, the official channel shuffle and loops, images decoded again for every candidate.
Tensors have the official names and shapes, so that both sides can have the same weights.
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
LOW, HIGH, WIDTH = 290, 360, 10  # FLOPs bins, in millions
MAX_TRIES = 500  # Afterwards any path is accepted.
CALIBRATION_BATCHES, CALIBRATION_BATCH = 200, 128  # batches of a candidate, and images of a batch
SCORING_BATCHES, SCORING_BATCH = 40, 200

Arch = Iterable[int]  # one choice a layer
Batch = tuple[Tensor, Tensor]  # images `(B, 3, 224, 224)` float BGR 0-255, labels `(B,)`


# The supernet


def make_conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, depthwise: bool = False
) -> list[nn.Module]:
    """Make a convolution and a BatchNorm without affine, and a ReLU if it is not depthwise."""
    groups = inputs if depthwise else 1
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, affine=False),
    ]
    return layers if depthwise else [*layers, nn.ReLU(inplace=True)]


def shuffle(features: Tensor) -> tuple[Tensor, Tensor]:
    """Split `(B, C, H, W)` into its even and odd channels, `(B, C / 2, H, W)` each: reshape, permute, reshape.

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
        beside = inputs if stride == 2 else inputs // 2  # channels beside the main branch
        hidden, last = outputs // 2, outputs - beside
        kernel = 3 if choice == XCEPTION else KERNELS[choice]
        if choice == XCEPTION:
            main = [
                *make_conv_norm(beside, beside, 3, stride, depthwise=True),
                *make_conv_norm(beside, hidden, 1),
                *make_conv_norm(hidden, hidden, 3, depthwise=True),
                *make_conv_norm(hidden, hidden, 1),
                *make_conv_norm(hidden, hidden, 3, depthwise=True),
                *make_conv_norm(hidden, last, 1),
            ]
        else:
            main = [
                *make_conv_norm(beside, hidden, 1),
                *make_conv_norm(hidden, hidden, kernel, stride, depthwise=True),
                *make_conv_norm(hidden, last, 1),
            ]
        self.branch_main = nn.Sequential(*main)
        if stride == 2:
            projection = [
                *make_conv_norm(beside, beside, kernel, 2, depthwise=True),
                *make_conv_norm(beside, beside, 1),
            ]
            self.branch_proj = nn.Sequential(*projection)

    def forward(self, features: Tensor) -> Tensor:
        if self.stride == 2:
            return torch.cat((self.branch_proj(features), self.branch_main(features)), 1)
        passed, worked = shuffle(features)
        return torch.cat((passed, self.branch_main(worked)), 1)


class Supernet(nn.Module):
    """The official supernet: 20 layers of 4 choices for images of 224 px, with PyTorch's initial weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(*make_conv_norm(3, 16, 3, 2))
        self.features = nn.ModuleList()
        inputs = 16
        for blocks, outputs in STAGES:
            for index in range(blocks):
                stride = 2 if index == 0 else 1
                self.features.append(nn.ModuleList(Block(choice, inputs, outputs, stride) for choice in range(CHOICES)))
                inputs = outputs
        self.conv_last = nn.Sequential(*make_conv_norm(inputs, 1024, 1))
        self.globalpool = nn.AvgPool2d(IMAGE_SIZE // 32)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Sequential(nn.Linear(1024, CLASSES, bias=False))

    def forward(self, images: Tensor, path: Arch) -> Tensor:
        """Compute logits `(B, 1000)` of images `(B, 3, 224, 224)`, through one choice of each layer."""
        features = self.first_conv(images)
        for choices, choice in zip(self.features, path, strict=True):
            features = choices[choice](features)  # type: ignore[index]
        pooled = self.globalpool(self.conv_last(features)).reshape(-1, 1024)
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits


# The training of the supernet


def make_optimizer(model: nn.Module) -> torch.optim.SGD:
    """Make SGD as PyTorch does by default, which on a CPU updates one parameter after another.

    Weight decay applies to weights only, and there is nothing else: BatchNorm has no affine parameters. The learning
    rate is one from the end of a training, so that many steps on one batch stay finite.
    """
    return torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=4e-5)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, path: Arch
) -> tuple[float, float, float]:
    """Train one path for a step; return the loss, and the top-1 and top-5 accuracy in percent.

    After the backward pass the official loop removes gradients that are all zero, so that weight decay and momentum
    do not change the parameters of other paths.
    """
    logits = model(images, path)
    loss = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        if parameter.grad is not None and parameter.grad.sum() == 0:
            parameter.grad = None
    optimizer.step()
    top1, top5 = measure_accuracy(logits.detach(), labels)
    return loss.item(), top1.item(), top5.item()


def measure_accuracy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the top-1 and top-5 accuracy of `logits (B, 1000)` in percent, each a tensor of one value."""
    order = logits.topk(5, 1, largest=True, sorted=True).indices.t()
    correct = order.eq(labels.reshape(1, -1).expand_as(order))
    top1, top5 = (correct[:k].reshape(-1).float().sum(0) * (100 / len(labels)) for k in (1, 5))
    return top1, top5


# Paths by rejection

CostKey = tuple[int, int, int, int, int, int]  # input, output and hidden channels, height, width, stride


def draw_path(rng: np.random.RandomState) -> tuple[int, ...]:
    """Draw one choice after another, as the official code does."""
    return tuple(rng.randint(CHOICES) for _ in range(LAYERS))


class RejectionSampler:
    """Draws paths until one is in a FLOPs bin; after 500 tries it accepts any.

    Costs are in a table of tables as in the official file: for each op and stride, one entry for each shape. The cost
    of a path needs one look-up for each layer.

    Args:
        costs: `(20, 4)`, multiply-adds of each choice of each layer.
        fixed: multiply-adds of the stem and the head.
    """

    def __init__(self, costs: Sequence[Sequence[int]], fixed: int, seed: int) -> None:
        self.fixed, self.rng = fixed, np.random.RandomState(seed)  # the generator of the official code
        self.bins = [(low * 1e6, (low + WIDTH) * 1e6) for low in range(LOW, HIGH, WIDTH)]
        self.costs: dict[str, dict[CostKey, int]] = {}
        rows = iter(costs)
        for inputs, outputs, size, stride in list_layers():
            for choice, cost in enumerate(next(rows)):
                self.costs.setdefault(name_op(choice, stride), {})[
                    inputs, outputs, outputs // 2, size, size, stride
                ] = int(cost)

    def count(self, path: Arch) -> int:
        """Count the multiply-adds of one path."""
        total = self.fixed
        for (inputs, outputs, size, stride), choice in zip(list_layers(), path, strict=True):
            total += self.costs[name_op(choice, stride)][inputs, outputs, outputs // 2, size, size, stride]
        return total

    def draw(self) -> tuple[int, ...]:
        """Draw a bin and a path, which is nearly always in the bin."""
        low, high = self.bins[self.rng.randint(len(self.bins))]
        for _ in range(MAX_TRIES):
            path = draw_path(self.rng)
            if low <= self.count(path) <= high:
                return path
        return draw_path(self.rng)


def name_op(choice: int, stride: int) -> str:
    """Return the official table's name of a choice."""
    op = "xception_3x3" if choice == XCEPTION else f"shufflenet_{KERNELS[choice]}x{KERNELS[choice]}"
    return f"{op}_stride_{stride}"


def list_layers() -> Iterator[tuple[int, int, int, int]]:
    """List input and output channels, side of the input in pixels and stride of each layer."""
    inputs, size = 16, IMAGE_SIZE // 2
    for blocks, outputs in STAGES:
        for index in range(blocks):
            stride = 2 if index == 0 else 1
            yield inputs, outputs, size, stride
            inputs, size = outputs, size // stride


# The input


def to_bgr(image: Image.Image) -> Tensor:
    """Convert a PIL image to `(3, H, W)` float32, BGR, 0 to 255."""
    pixels = np.asarray(image)[:, :, ::-1].transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(pixels, np.float32))


def opencv_resize(image: Image.Image) -> Image.Image:
    """Resize the short side to 256 px with OpenCV's bilinear resize, or PIL's if OpenCV is not installed."""
    width, height = image.size
    size = (256, int(256 / width * height + 0.5)) if width < height else (int(256 / height * width + 0.5), 256)
    try:
        import cv2
    except ImportError:
        return image.resize(size, Image.Resampling.BILINEAR)
    return Image.fromarray(cv2.resize(np.asarray(image), size, interpolation=cv2.INTER_LINEAR))


def make_train_transform() -> transforms.Compose:
    """Make random resized crop, colour jitter and flip of a PIL image."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(IMAGE_SIZE),
            transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            transforms.RandomHorizontalFlip(0.5),
            to_bgr,
        ]
    )


def make_validation_transform() -> transforms.Compose:
    """Make resize and centre crop of a PIL image."""
    return transforms.Compose([opencv_resize, transforms.CenterCrop(IMAGE_SIZE), to_bgr])


class Files(Dataset[tuple[Tensor, int]]):
    """Image files with labels, decoded by PIL at each access."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], transform: transforms.Compose) -> None:
        self.paths, self.labels, self.transform = paths, labels, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with self.paths[index].open("rb") as file:
            image = Image.open(file).convert("RGB")
        return self.transform(image), self.labels[index]


def load_batches(
    paths: Sequence[Path], labels: Sequence[int], *, train: bool, batch: int, workers: int = 0
) -> Iterator[Batch]:
    """Yield endless batches of decoded images, in random order and with replacement, since files may be few.

    Args:
        paths, labels: of JPEG files.
        train: use the training transform, else the validation one.
        batch: images per batch.
        workers: loader processes; 0 decodes in this process, in turns with the model.
    """
    files = Files(paths, labels, make_train_transform() if train else make_validation_transform())
    endless = RandomSampler(files, replacement=True, num_samples=10**9)
    loader: DataLoader[Any] = DataLoader(files, batch, sampler=endless, num_workers=workers)
    return ((images, targets) for images, targets in loader)


# The scoring of a candidate


@torch.no_grad()
def calibrate(model: nn.Module, path: Arch, loaded: Iterable[Batch], number: int = CALIBRATION_BATCHES) -> None:
    """Reset every BatchNorm of the supernet, then average with momentum 0.1 over `number` training batches.

    The whole model is in training mode, dropout included, as in the official code. The whole procedure has 200 batches
    of 128; its time is proportional to their number, so that timing a few is enough.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.zeros_like(module.running_mean)  # type: ignore[arg-type]
            module.running_var = torch.ones_like(module.running_var)  # type: ignore[arg-type]
    model.train()
    for images, _ in itertools.islice(loaded, number):
        model(images, path)


@torch.no_grad()
def score(model: nn.Module, path: Arch, loaded: Iterable[Batch], number: int = SCORING_BATCHES) -> tuple[float, float]:
    """Return top-1 and top-5 in percent over `number` validation batches; the whole procedure has 40 of 200 images."""
    model.eval()
    images_seen, top1_sum, top5_sum = 0, 0.0, 0.0
    for images, labels in itertools.islice(loaded, number):
        top1, top5 = measure_accuracy(model(images, path), labels)
        images_seen += len(labels)
        top1_sum += top1.item() * len(labels)
        top5_sum += top5.item() * len(labels)
    return top1_sum / images_seen, top5_sum / images_seen


def extrapolate_seconds(seconds_per_calibration_batch: float, seconds_per_scoring_batch: float) -> float:
    """Extrapolate the whole procedure, 200 batches of 128 and 40 of 200 images, from the seconds of one batch each."""
    return CALIBRATION_BATCHES * seconds_per_calibration_batch + SCORING_BATCHES * seconds_per_scoring_batch


def load_weights(model: Supernet, state: Mapping[str, Tensor]) -> Supernet:
    """Load tensors into a model, each in contiguous memory, and return the model."""
    model.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, strict=True)
    return model
