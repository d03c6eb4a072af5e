"""How an image becomes the network's input: crop and augmentation on uint8, then numbers on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from spos_cli.data.datasets import Pixels
from spos_cli.errors import ConfigError

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

    Raises:
        ConfigError: the padding is as large as the image.
    """

    def __init__(self, preset: PresetName, image_size: int, augmentation: Augmentation) -> None:
        if augmentation.crop == "padded" and augmentation.padding >= image_size:
            raise ConfigError(
                f"data.augmentation.padding is {augmentation.padding}, which can push an image of {image_size} pixels"
                f" out of sight; use at most {image_size - 1}"
            )
        self.preset, self.image_size, self.augmentation = preset, image_size, augmentation
        self.resize = EvalTransform(preset, image_size, stored=True)
        self.torchvision = _torchvision_steps(image_size, augmentation)

    def __call__(self, image: Pixels, seed: int) -> Tensor:
        """`(H, W, 3) uint8` to `(3, S, S) uint8`, RGB; torch's global generator is left as it was."""
        augmentation = self.augmentation
        right, down, mirror = np.random.default_rng(seed).random(3).tolist()
        result = to_tensor(image) if augmentation.crop == "random_resized" else self.resize(image)
        if augmentation.crop == "padded":
            border = augmentation.padding
            result = shift(result, *(int(draw * (2 * border + 1)) - border for draw in (right, down)))
        if self.torchvision is not None:
            state = torch.get_rng_state()
            try:
                torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed the GPUs too
                result = self.torchvision(result)
            finally:
                torch.set_rng_state(state)
        return result.flip(2) if augmentation.flip and mirror < 0.5 else result

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


def shift(image: Tensor, right: int, down: int) -> Tensor:
    """Moves an image by whole pixels; what comes in at the border is black.

    That is what torchvision's RandomCrop does with padding, in a tenth of its time, which on small images is
    most of a sample.
    """
    return F.pad(image, (right, -right, down, -down))


class EvalTransform:
    """Resize and centre crop, for validation.

    The short side becomes 256 / 224 of the crop: with `spos` by OpenCV's bilinear resize, as published; with
    `standard` by torchvision's antialiased one.

    Args:
        preset: how to resize.
        image_size: side of the result, S, pixels.
        stored: the images are stored at the size that the network takes, as small data sets are: one that is
            S x S already is passed through unchanged.
    """

    def __init__(self, preset: PresetName, image_size: int, *, stored: bool) -> None:
        self.preset, self.image_size, self.stored = preset, image_size, stored
        self.short_side = round(image_size * 256 / 224)

    def __call__(self, image: Pixels) -> Tensor:
        """`(H, W, 3) uint8` to `(3, S, S) uint8`, RGB."""
        size = self.image_size
        if self.stored and image.shape[:2] == (size, size):
            return to_tensor(image)
        if self.preset == "spos":
            resized = to_tensor(opencv_resize(image, *self._published_size(*image.shape[:2])))
        else:
            resized = antialiased_resize(to_tensor(image), self.short_side)
        # round, as torchvision's CenterCrop does: half a pixel goes to the even side
        top, left = (round((side - size) / 2) for side in resized.shape[1:])
        return resized[:, top : top + size, left : left + size]

    def _published_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize; the published code rounds the long side half up."""
        short = self.short_side
        if height < width:
            return short, int(short / height * width + 0.5)
        return int(short / width * height + 0.5), short

    def __repr__(self) -> str:
        return f"EvalTransform({self.preset!r}, {self.image_size}, stored={self.stored})"


def antialiased_resize(image: Tensor, short_side: int) -> Tensor:
    """torchvision's bilinear resize with antialiasing, of `(3, H, W) uint8`."""
    from torchvision.transforms.v2 import functional

    resized: Tensor = functional.resize(image, [short_side], antialias=True)
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
        height, width: of the result, pixels.
    """
    top, bottom, top_weight, bottom_weight = _coefficients(image.shape[0], height)
    left, right, left_weight, right_weight = _coefficients(image.shape[1], width, image.shape[2])
    used, rows = np.unique((top, bottom), return_inverse=True)
    above, below = rows.reshape(2, height)
    source = image[used].reshape(len(used), -1)  # flat rows: NumPy takes numbers faster than pixels
    sums = np.multiply(source.take(left, 1), left_weight, dtype=np.int32)  # 11 fractional bits
    sums += np.multiply(source.take(right, 1), right_weight, dtype=np.int32)
    sums >>= 4
    result = _scaled(sums[above], top_weight)
    result += _scaled(sums[below], bottom_weight)
    result += 2
    result >>= 2
    return result.astype(np.uint8).reshape(height, width, -1)


def _scaled(sums: NDArray[np.int32], weight: NDArray[np.int32]) -> NDArray[np.int32]:
    """In place: memory that the system has to hand out and take back again costs more than the arithmetic."""
    sums *= weight[:, None]
    sums >>= 16
    return sums


@functools.lru_cache(maxsize=256)
def _coefficients(
    source: int, target: int, channels: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Along one axis, for each target value: the places of its two source values and their weights of 2,048."""
    position = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int64)
    fraction = position - first.astype(np.float32)
    pixels = np.clip((first, first + 1), 0, source - 1)
    weights = np.rint(np.stack((1 - fraction, fraction)) * np.float32(2048)).astype(np.int32)
    first, second = (pixels[..., None] * channels + np.arange(channels)).reshape(2, -1)
    first_weight, second_weight = weights.repeat(channels, 1)
    return first, second, first_weight, second_weight


def preprocess(preset: PresetName, images: Tensor) -> Tensor:
    """`(B, 3, S, S) uint8` RGB to the float32 that a network sees, on the same device, in the same memory format.

    `spos`: channels to BGR, values 0-255 as they are (published); `standard`: 0-1, ImageNet's mean and deviation.
    """
    if preset == "spos":
        return images.flip(1).float()
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(STD, device=images.device).view(1, 3, 1, 1) * 255
    return (images.float() - mean) / std
