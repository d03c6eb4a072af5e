"""How an image becomes the network's input: crop and augmentation on uint8, then numbers on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spos_cli.data.datasets import Pixels

PresetName = Literal["spos", "standard"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in 0-1


@dataclass(frozen=True)
class Augmentation:
    """What happens to training images, in this order: crop, colour jitter, flip.

    Attributes:
        crop: `random_resized` as published; `padded` for small images; `none`.
        min_scale: random_resized: least share of the image's area.
        padding: padded: border in pixels.
        flip: mirror half of the images left to right.
        jitter: strength of brightness, contrast and saturation changes; 0 is off.
    """

    crop: Literal["random_resized", "padded", "none"] = "random_resized"
    min_scale: float = 0.08
    padding: int = 4
    flip: bool = True
    jitter: float = 0.4


class TrainTransform:
    """Augments one image, as a function of a seed.

    Args:
        preset: how images are resized where the crop does not do it.
        image_size: side of the result, pixels.
        augmentation: what to do.
    """

    def __init__(self, preset: PresetName, image_size: int, augmentation: Augmentation) -> None:
        self.preset, self.image_size, self.augmentation = preset, image_size, augmentation
        self.resize = EvalTransform(preset, image_size)
        self.torchvision = _torchvision_steps(image_size, augmentation)

    def __call__(self, image: Pixels, seed: int) -> Tensor:
        """`(H, W, 3) uint8` to `(3, S, S) uint8`, RGB; torch's global generator is left as it was."""
        augmentation, rng = self.augmentation, np.random.default_rng(seed)
        result = to_tensor(image) if augmentation.crop == "random_resized" else self.resize(image)
        if augmentation.crop == "padded":
            top, left = rng.integers(2 * augmentation.padding + 1, size=2).tolist()
            result = padded_crop(result, augmentation.padding, top, left)
        if self.torchvision is not None:
            state = torch.get_rng_state()
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed the GPUs too
            result = self.torchvision(result)
            torch.set_rng_state(state)
        if augmentation.flip and rng.random() < 0.5:
            result = result.flip(2)
        return result

    def __repr__(self) -> str:
        return f"TrainTransform({self.preset!r}, {self.image_size}, {self.augmentation})"


def _torchvision_steps(image_size: int, augmentation: Augmentation) -> Callable[[Tensor], Tensor] | None:
    """Crop and colour jitter, where torchvision does them; it is imported only then, which takes a second."""
    if augmentation.crop != "random_resized" and not augmentation.jitter:
        return None
    from torchvision.transforms import v2

    steps = []
    if augmentation.crop == "random_resized":
        steps.append(v2.RandomResizedCrop(image_size, (augmentation.min_scale, 1.0), antialias=True))
    if augmentation.jitter:
        steps.append(v2.ColorJitter(*[augmentation.jitter] * 3))
    composed: Callable[[Tensor], Tensor] = v2.Compose(steps)
    return composed


def padded_crop(image: Tensor, padding: int, top: int, left: int) -> Tensor:
    """`(3, H, W)` with a black border of `padding` pixels, cut to its size again from `top` and `left` on.

    What torchvision's RandomCrop does, in a tenth of its time, which is most of a step on small images.
    """
    channels, height, width = image.shape
    canvas = image.new_zeros(channels, height + 2 * padding, width + 2 * padding)
    canvas[:, padding : padding + height, padding : padding + width] = image
    return canvas[:, top : top + height, left : left + width]


class EvalTransform:
    """Resize and centre crop, for validation.

    `spos` resizes the short side to 256 / 224 of the crop with OpenCV's bilinear, as published; `standard` with
    torchvision's antialiased one. An image that already has the right size is left as it is.
    """

    def __init__(self, preset: PresetName, image_size: int) -> None:
        self.preset, self.image_size = preset, image_size
        self.short_side = round(image_size * 256 / 224)

    def __call__(self, image: Pixels) -> Tensor:
        """`(H, W, 3) uint8` to `(3, S, S) uint8`, RGB."""
        height, width = image.shape[:2]
        if height == width == self.image_size:
            return to_tensor(image)
        rounding = 0.5 if self.preset == "spos" else 0.0  # of the long side: the published rule, and torchvision's
        scale = self.short_side / min(height, width)
        new_height = self.short_side if height <= width else int(scale * height + rounding)
        new_width = self.short_side if width <= height else int(scale * width + rounding)
        if self.preset == "spos":
            resized = to_tensor(opencv_resize(image, new_height, new_width))
        else:
            resized = antialiased_resize(to_tensor(image), new_height, new_width)
        # round, as torchvision's CenterCrop: half a pixel goes to the even side
        top, left = round((new_height - self.image_size) / 2), round((new_width - self.image_size) / 2)
        return resized[:, top : top + self.image_size, left : left + self.image_size]

    def __repr__(self) -> str:
        return f"EvalTransform({self.preset!r}, {self.image_size})"


def antialiased_resize(image: Tensor, height: int, width: int) -> Tensor:
    """torchvision's bilinear resize with antialiasing, of `(3, H, W) uint8`."""
    from torchvision.transforms.v2 import functional

    resized: Tensor = functional.resize(image, [height, width], antialias=True)
    return resized


def to_tensor(image: Pixels) -> Tensor:
    """`(H, W, 3)` to a contiguous `(3, H, W)`."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def opencv_resize(image: Pixels, height: int, width: int) -> Pixels:
    """OpenCV's bilinear resize of uint8, in its fixed-point arithmetic.

    The source of a pixel is at `(i + 0.5) * scale - 0.5` (float32), clamped at the borders, without
    antialiasing; coefficients have 11 bits; first along x, then along y.

    Args:
        image: `(H, W, C) uint8`.
        height, width: of the result.
    """
    left, right, x_left, x_right = _coefficients(image.shape[1], width)
    top, bottom, y_top, y_bottom = _coefficients(image.shape[0], height)
    source = image.astype(np.int32)
    rows = source[:, left] * x_left[:, None] + source[:, right] * x_right[:, None]  # (H, width, C), 11 bits more
    rows >>= 4
    above = (rows[top] * y_top[:, None, None]) >> 16
    below = (rows[bottom] * y_bottom[:, None, None]) >> 16
    return ((above + below + 2) >> 2).clip(0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=256)
def _coefficients(
    source: int, target: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Along one axis, for each target pixel: its two source pixels and their weights of 2,048."""
    scale = source / target
    position = ((np.arange(target) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int64)
    fraction = position - first.astype(np.float32)
    fraction[first < 0] = 0
    fraction[first >= source - 1] = 0
    first = first.clip(0, source - 1)
    second = (first + 1).clip(0, source - 1)
    weight = np.rint(fraction * np.float32(2048)).astype(np.int32)
    return first, second, np.rint((1 - fraction) * np.float32(2048)).astype(np.int32), weight


def preprocess(preset: PresetName, images: Tensor) -> Tensor:
    """`(B, 3, S, S) uint8` RGB to the float32 that a network sees, on the same device and in the same memory format.

    `spos`: channels to BGR, values 0-255 as they are (published); `standard`: 0-1, ImageNet's mean and deviation.
    """
    if preset == "spos":
        return images.flip(1).float()
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(STD, device=images.device).view(1, 3, 1, 1) * 255
    return (images.float() - mean) / std
