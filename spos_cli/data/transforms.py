"""How an image becomes the network's input: crops on uint8 in the workers, colours and numbers on the device.

Images are `(3, H, W)` tensors whose memory is that of `(H, W, 3)`: PyTorch's antialiased resize of uint8, the mirror
and the network itself are fastest on it, and nothing is ever transposed.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from spos_cli.data.datasets import Pixels
from spos_cli.errors import ConfigError

PresetName = Literal["spos", "standard"]
Colours = tuple[float, float, float]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in 0-1
GRAY = (0.2989, 0.587, 0.114)  # of R, G and B, as torchvision has it
IN_CACHE = 2**19  # numbers that a CPU works on at a time
ASPECT = (3 / 4, 4 / 3)  # of random crops, width to height


@dataclass(frozen=True)
class Augmentation:
    """What happens to training images, in this order: crop, flip, colour jitter.

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


class Prepared(NamedTuple):
    """An image `(3, S, S) uint8`, RGB, and what is left to do with its colours (`recolour`), if anything."""

    image: Tensor
    colours: Colours | None = None


class TrainTransform:
    """Augments one image, with random numbers of its own.

    Args:
        preset: how images are resized where the crop does not do it.
        image_size: side of the result, S, pixels.
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

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Prepared:
        """`(H, W, 3) uint8` to `(3, S, S) uint8` and three numbers for its colours, which are not yet changed."""
        size, augmentation = self.image_size, self.augmentation
        if augmentation.crop == "random_resized":
            rows, columns = image.shape[:2]
            top, left, height, width = random_crop(rows, columns, augmentation.min_scale, rng)
            result = antialiased_resize(image[top : top + height, left : left + width], size, size)
        else:
            result = self.resize(image)
        right, down, mirror, order, *factors = rng.random(7).tolist()
        if augmentation.crop == "padded":
            border = augmentation.padding
            result = shift(result, *(int(draw * (2 * border + 1)) - border for draw in (right, down)))
        if augmentation.flip and mirror < 0.5:
            result = mirrored(result)
        if not augmentation.jitter:
            return Prepared(result)
        jitter = augmentation.jitter
        return Prepared(result, compose_jitter([1 - jitter + 2 * jitter * draw for draw in factors], int(order * 6)))

    def __repr__(self) -> str:
        return f"TrainTransform({self.preset!r}, {self.image_size}, {self.augmentation})"


def random_crop(height: int, width: int, min_scale: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop, distributed as those of torchvision's RandomResizedCrop.

    Its area is a uniform share of the image's from `min_scale` to 1, the logarithm of its aspect ratio uniform too. If
    none of ten fits, it is the largest in the centre whose aspect ratio is allowed.
    """
    low, high = (math.log(bound) for bound in ASPECT)
    for area, shape, down, right in rng.random((10, 4)).tolist():
        target = height * width * (min_scale + (1 - min_scale) * area)
        aspect = math.exp(low + (high - low) * shape)
        wide, tall = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            return int(down * (height - tall + 1)), int(right * (width - wide + 1)), tall, wide
    tall = min(height, round(width / ASPECT[0]))
    wide = min(width, round(height * ASPECT[1]))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def compose_jitter(factors: list[float], order: int) -> Colours:
    """Changes of brightness, contrast and saturation by three factors, in one of the six orders, as three numbers.

    Each change is linear in the pixel x, in its gray value g, and in the mean m of those over the image; so is any
    row of them, `alpha x + beta g + delta m`. Brightness scales all three. Contrast mixes with the mean of the gray
    values, which at that point is `(alpha + beta + delta) m`; saturation mixes with the gray value, which is
    `(alpha + beta) g + delta m`.

    torchvision and PIL clip to 0..255 and round down after each change; here values are clipped once, after all. Where
    nothing is clipped they are up to 4 levels, on average 1.4, below ours.
    """
    alpha, beta, delta = 1.0, 0.0, 0.0
    for change in ORDERS[order]:
        factor = factors[change]
        if change == 0:
            alpha, beta, delta = factor * alpha, factor * beta, factor * delta
        elif change == 1:
            delta = factor * delta + (1 - factor) * (alpha + beta + delta)
            alpha, beta = factor * alpha, factor * beta
        else:
            beta = factor * beta + (1 - factor) * (alpha + beta)
            alpha = factor * alpha
    return alpha, beta, delta


def shift(image: Tensor, right: int, down: int) -> Tensor:
    """Moves an image `(3, H, W)` by whole pixels; what comes in at the border is black.

    That is what torchvision's RandomCrop does with padding, in a tenth of its time, which on small images is
    most of a sample.
    """
    source = image.permute(1, 2, 0).numpy()
    height, width = source.shape[:2]
    moved = np.zeros(source.shape, np.uint8)
    moved[max(0, down) : height + down, max(0, right) : width + right] = source[
        max(0, -down) : height - down, max(0, -right) : width - right
    ]
    return to_tensor(moved)


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
            resized = antialiased_resize(image, *size_for(self.short_side, *image.shape[:2]))
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


def antialiased_resize(image: Pixels, height: int, width: int) -> Tensor:
    """torchvision's bilinear resize with antialiasing: `(H, W, 3) uint8` to `(3, height, width)`."""
    # In this order the batch of one has the strides that PyTorch knows as channels_last; so it has in `mirrored`.
    batch = _as_it_lies(image)[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, (height, width), mode="bilinear", antialias=True)[0]


def mirrored(image: Tensor) -> Tensor:
    """`(3, H, W)` with left and right exchanged."""
    return image.permute(1, 2, 0)[None].permute(0, 3, 1, 2).flip(3)[0]


def size_for(short_side: int, height: int, width: int) -> tuple[int, int]:
    """Height and width when the short side becomes `short_side`; torchvision rounds the long one down."""
    if height < width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def to_tensor(image: Pixels) -> Tensor:
    """`(H, W, 3)` as `(3, H, W)`, in the same memory if that may be written."""
    return _as_it_lies(image).permute(2, 0, 1)


def _as_it_lies(image: Pixels) -> Tensor:
    whole = np.ascontiguousarray(image)
    return torch.from_numpy(whole if whole.flags.writeable else whole.copy())


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


def preprocess(preset: PresetName, images: Tensor, colours: Tensor | None = None) -> Tensor:
    """`(B, 3, S, S) uint8` RGB to the float32 that a network sees, on the same device, in channels_last memory.

    `spos`: channels to BGR, values 0-255 as they are (published); `standard`: 0-1, ImageNet's mean and deviation.

    Args:
        preset: which of the two.
        images: on the device.
        colours: `(B, 3)` float32 on the device, of training images whose colours are still to change.
    """
    bgr = preset == "spos"
    if colours is not None:
        values = recolour(images, colours, bgr=bgr)
    elif bgr:
        values = images.flip(1).float()
    else:
        values = images.float()
    if bgr:
        return values
    mean, std = (_constant(channels, images.device) * 255 for channels in (MEAN, STD))
    return values.sub_(mean).div_(std)


def recolour(images: Tensor, colours: Tensor, *, bgr: bool = False) -> Tensor:
    """Brightness, contrast and saturation of each image changed as `compose_jitter` says, in 0-255 and not rounded.

    A matrix product: of each pixel with a 3x3 matrix, plus a number of the whole image. Four pixels at a time, with
    the matrix four times on the diagonal, are faster than one.

    Args:
        images: `(B, 3, H, W) uint8` RGB, in channels_last memory or copied to it.
        colours: `(B, 3)` float32: alpha, beta and delta.
        bgr: reverse the channels as well, which costs nothing here.

    Returns:
        `(B, 3, H, W)` float32 in channels_last memory.
    """
    batch, _, height, width = images.shape
    group = math.gcd(height * width, 4)
    pixels = images.permute(0, 2, 3, 1).contiguous().view(batch, -1, 3 * group)
    gray = _constant(GRAY, images.device).view(3, 1)
    alpha, beta, delta = colours.view(batch, 3, 1, 1).unbind(1)
    mix = alpha * torch.eye(3, device=images.device) + beta * gray  # (B, 3 of x, 3 of the result)
    weights = images.new_zeros((batch, group, 3, group, 3), dtype=torch.float32)
    weights.diagonal(dim1=1, dim2=3).copy_((mix.flip(2) if bgr else mix)[..., None])
    weights = weights.view(batch, 3 * group, 3 * group)
    result = torch.empty(pixels.shape, device=images.device)
    share = gray.view(3).repeat(width) / (height * width)  # of the mean gray value, by column and channel
    at_once = max(1, IN_CACHE // (3 * height * width)) if images.device.type == "cpu" else batch
    for begin in range(0, batch, at_once):
        part = slice(begin, begin + at_once)
        values = pixels[part].float()
        mean = (values.view(-1, height, 3 * width).sum(1) * share).sum(1).view(-1, 1, 1)
        # With `out`, mixed precision leaves the product alone.
        torch.baddbmm(delta[part] * mean, values, weights[part], out=result[part]).clamp_(0, 255)
    return result.view(batch, height, width, 3).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=16)
def _constant(channels: tuple[float, ...], device: torch.device) -> Tensor:
    """`(3, 1, 1)`, kept on the device: a copy to a GPU would wait for it each time."""
    with torch.inference_mode(False):
        return torch.tensor(channels, device=device).view(3, 1, 1)
