"""Turn an image into the network's input: crop in a worker, colours on the device.

Workers crop, resize, flip and otherwise augment uint8 images; colour jitter and normalisation are left to the device.
Images are `(C, H, W)` tensors with the memory layout of `(H, W, C)`: PyTorch's antialiased resize of uint8, its flip
and the network itself are fastest with it, and nothing is ever transposed. C is 3 (RGB), unless the network takes grey
images or others.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from spos_cli.data.augmentation import Augmentation, change_with_seed, make_torchvision_changes
from spos_cli.data.image_files import Pixels
from spos_cli.errors import ConfigError

PresetName = Literal["spos", "standard"]
Colours = tuple[float, float, float]  # alpha, beta and delta of `compose_jitter`
GRAY_WEIGHTS = (0.2989, 0.587, 0.114)  # of R, G and B, as in torchvision
VALUES_PER_PASS = 2**19  # that a CPU works on at a time: they fit into its cache
SEED_LIMIT = 2**63  # of a seed of torchvision's changes


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel, of pixels scaled to 0-1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # RGB
IMAGENET_GREY = Normalisation((0.459,), (0.226,))  # the means of `IMAGENET` by `GRAY_WEIGHTS`


class Prepared(NamedTuple):
    """An image `(C, S, S) uint8`, RGB, and the colour changes that `recolour` has still to make, if any."""

    image: Tensor
    colours: Colours | None = None


class TrainTransform:
    """Augments one image with a random generator of its own.

    Args:
        preset: how to resize images if the crop does not do it.
        image_size: side of the result, S, in pixels.
        augmentation: the changes.
        mean: of each channel, of pixels scaled to 0-1; erased rectangles get this colour.

    Raises:
        ConfigError: the padding is as large as the image.
    """

    def __init__(
        self,
        preset: PresetName,
        image_size: int,
        augmentation: Augmentation,
        mean: tuple[float, ...] = IMAGENET.mean,
    ) -> None:
        if augmentation.crop == "padded" and augmentation.padding >= image_size:
            raise ConfigError(
                f"augmentation.padding is {augmentation.padding}, which can push an image of {image_size} pixels out"
                f" of sight; use at most {image_size - 1}"
            )
        self.preset, self.image_size, self.augmentation = preset, image_size, augmentation
        self.resize = EvalTransform(preset, image_size, stored=True)
        self.fill = tuple(round(255 * value) for value in mean)
        self.change = make_torchvision_changes(augmentation, self.fill) if augmentation.uses_torchvision else None

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Prepared:
        """Return an image `(H, W, C) uint8` as `(C, S, S) uint8`, and its colour changes, which are not made yet."""
        size, augmentation = self.image_size, self.augmentation
        if augmentation.crop == "random_resized":
            rows, columns = image.shape[:2]
            top, left, height, width = random_crop(rows, columns, augmentation.min_scale, rng, augmentation.ratio)
            result = antialiased_resize(image[top : top + height, left : left + width], size, size)
        else:
            result = self.resize(image)
        right, down, flip, order, *factors = rng.random(7).tolist()
        if augmentation.crop == "padded":
            border = augmentation.padding
            result = shift(result, *(int(draw * (2 * border + 1)) - border for draw in (right, down)))
        if augmentation.flip and flip < 0.5:
            result = mirror(result)
        if self.change is not None:
            result = change_with_seed(self.change, result, int(rng.integers(SEED_LIMIT)))
        if not augmentation.jitter:
            return Prepared(result)
        jitter = augmentation.jitter
        return Prepared(result, compose_jitter([1 - jitter + 2 * jitter * draw for draw in factors], int(order * 6)))

    def __repr__(self) -> str:
        fill = f", fill={self.fill}" if self.augmentation.erasing else ""
        return f"TrainTransform({self.preset!r}, {self.image_size}, {self.augmentation}{fill})"


def random_crop(
    height: int, width: int, min_scale: float, rng: np.random.Generator, ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> tuple[int, int, int, int]:
    """Draw top, left, height and width of a crop, distributed as in torchvision's RandomResizedCrop.

    The share of the image's area is uniform from `min_scale` to 1, and so is the logarithm of the aspect ratio. If none
    of ten draws fits into the image, return the largest crop in the centre with an allowed aspect ratio.

    Args:
        height, width: of the image, in pixels.
        min_scale: smallest share of the image's area.
        ratio: smallest and largest aspect ratio, width to height.
    """
    low, high = (math.log(bound) for bound in ratio)
    for area, shape, down, right in rng.random((10, 4)).tolist():
        target = height * width * (min_scale + (1 - min_scale) * area)
        aspect = math.exp(low + (high - low) * shape)
        wide, tall = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            return int(down * (height - tall + 1)), int(right * (width - wide + 1)), tall, wide
    tall = min(height, max(1, round(width / ratio[0])))
    wide = min(width, max(1, round(height * ratio[1])))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


# Brightness is 0, contrast 1 and saturation 2.
JITTER_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def compose_jitter(factors: list[float], order: int) -> Colours:
    """Compose changes of brightness, contrast and saturation, in one of the six orders, to three numbers.

    Each change is linear in the pixel x, its gray value g, and the mean m of the gray values of the image. So is any
    sequence of changes: `alpha x + beta g + delta m`. Brightness scales all three numbers. Contrast mixes with the mean
    of the gray values, which at that point is `(alpha + beta + delta) m`. Saturation mixes with the gray value, which
    is `(alpha + beta) g + delta m`.

    torchvision and PIL clip to 0..255 and round down after each change; here values are clipped once, at the end. Where
    nothing is clipped, theirs are up to 4 levels below ours, on average 1.4.

    Args:
        factors: of brightness, contrast and saturation; 1 changes nothing.
        order: index into `JITTER_ORDERS`.
    """
    alpha, beta, delta = 1.0, 0.0, 0.0
    for change in JITTER_ORDERS[order]:
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
    """Shift an image `(C, H, W)` by whole pixels; the pixels that enter at the border are black.

    The result equals that of torchvision's RandomCrop with padding, in a tenth of the time. On small images, RandomCrop
    would take most of the time of a sample.
    """
    source = image.permute(1, 2, 0).numpy()
    height, width = source.shape[:2]
    shifted = np.zeros(source.shape, np.uint8)
    shifted[max(0, down) : height + down, max(0, right) : width + right] = source[
        max(0, -down) : height - down, max(0, -right) : width - right
    ]
    return to_tensor(shifted)


class EvalTransform:
    """Resizes and crops the centre, for validation.

    The short side becomes 256 / 224 of the crop: with `spos` by OpenCV's bilinear resize, as in the official code;
    with `standard` by torchvision's antialiased resize. For a crop that is not a square, that is the side that is
    shorter in proportion to the crop's; the image keeps its proportions, and covers the crop.

    Args:
        preset: how to resize.
        image_size: height of the result, H, in pixels.
        stored: True if the images are stored in the size that the network takes, as in small data sets: an image of
            H x W pixels is then returned unchanged.
        width: of the result, W, in pixels; None for a square.
    """

    def __init__(self, preset: PresetName, image_size: int, *, stored: bool, width: int | None = None) -> None:
        self.preset, self.image_size, self.stored = preset, image_size, stored
        self.width = image_size if width is None else width
        self.short_side = round(min(image_size, self.width) * 256 / 224)

    def __call__(self, image: Pixels) -> Tensor:
        """Return an image `(rows, columns, C) uint8` as `(C, H, W) uint8`, RGB."""
        height, width = self.image_size, self.width
        if self.stored and image.shape[:2] == (height, width):
            return to_tensor(image)
        resized_size = self._compute_size(*image.shape[:2])
        if self.preset == "spos":
            resized = to_tensor(opencv_resize(image, *resized_size))
        else:
            resized = antialiased_resize(image, *resized_size)
        # As in torchvision's CenterCrop, half a pixel is rounded to the even number.
        top, left = (round((side - crop) / 2) for side, crop in zip(resized.shape[1:], (height, width), strict=True))
        return resized[:, top : top + height, left : left + width]

    def _compute_size(self, rows: int, columns: int) -> tuple[int, int]:
        """Return rows and columns after the resize."""
        height, width = (round(side * 256 / 224) for side in (self.image_size, self.width))
        if rows * width < columns * height:
            return height, self._scale(columns, height, rows)
        return self._scale(rows, width, columns), width

    def _scale(self, side: int, target: int, other: int) -> int:
        """Return a side after the resize of the other one to `target`; the official code rounds half up."""
        return int(target / other * side + 0.5) if self.preset == "spos" else int(target * side / other)

    def __repr__(self) -> str:
        width = "" if self.width == self.image_size else f", width={self.width}"
        return f"EvalTransform({self.preset!r}, {self.image_size}, stored={self.stored}{width})"


def antialiased_resize(image: Pixels, height: int, width: int) -> Tensor:
    """Resize `(H, W, C) uint8` to `(C, height, width)` as torchvision's bilinear resize with antialiasing."""
    # With the batch dimension added before the permutation, PyTorch takes the strides for channels_last.
    batch = _share_memory(image)[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, (height, width), mode="bilinear", antialias=True)[0]


def mirror(image: Tensor) -> Tensor:
    """Exchange left and right of an image `(C, H, W)`."""
    # The batch of one is for the same strides as in `antialiased_resize`.
    return image.permute(1, 2, 0)[None].permute(0, 3, 1, 2).flip(3)[0]


def compute_size(short_side: int, height: int, width: int) -> tuple[int, int]:
    """Return height and width when the short side becomes `short_side`; torchvision rounds the long side down."""
    if height < width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def to_tensor(image: Pixels) -> Tensor:
    """Return `(H, W, C)` as `(C, H, W)`, in the same memory if it is writable."""
    return _share_memory(image).permute(2, 0, 1)


def _share_memory(image: Pixels) -> Tensor:
    """Return an array as a tensor, contiguous and in the same memory if possible."""
    contiguous = np.ascontiguousarray(image)
    return torch.from_numpy(contiguous if contiguous.flags.writeable else contiguous.copy())


def opencv_resize(image: Pixels, height: int, width: int) -> Pixels:
    """Resize uint8 as OpenCV's bilinear resize, in its fixed-point arithmetic.

    Pixel `i` is interpolated at `(i + 0.5) * scale - 0.5` (float32) in the source, clamped at the borders, without
    antialiasing; first along x, then along y. Weights have 11 bits.

    Args:
        image: `(H, W, C) uint8`.
        height, width: of the result, in pixels.

    Returns:
        `(height, width, C) uint8`.
    """
    top, bottom, top_weight, bottom_weight = _interpolate(image.shape[0], height)
    left, right, left_weight, right_weight = _interpolate(image.shape[1], width, image.shape[2])
    used, rows = np.unique((top, bottom), return_inverse=True)
    above, below = rows.reshape(2, height)
    source = image[used].reshape(len(used), -1)  # (rows, W * C): NumPy gathers numbers faster than pixels.
    sums = np.multiply(source.take(left, 1), left_weight, dtype=np.int32)  # 11 fractional bits
    sums += np.multiply(source.take(right, 1), right_weight, dtype=np.int32)
    sums >>= 4
    result = _scale_rows(sums[above], top_weight)
    result += _scale_rows(sums[below], bottom_weight)
    result += 2
    result >>= 2
    return result.astype(np.uint8).reshape(height, width, -1)


def _scale_rows(sums: NDArray[np.int32], weight: NDArray[np.int32]) -> NDArray[np.int32]:
    """Multiply each row with its weight, in place: allocating memory would cost more than the arithmetic."""
    sums *= weight[:, None]
    sums >>= 16
    return sums


@functools.lru_cache(maxsize=256)
def _interpolate(
    source: int, target: int, channels: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Return, for each target value along one axis, the indices of its two source values and their weights of 2,048."""
    position = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int64)
    fraction = position - first.astype(np.float32)
    pixels = np.clip((first, first + 1), 0, source - 1)
    weights = np.rint(np.stack((1 - fraction, fraction)) * np.float32(2048)).astype(np.int32)
    first, second = (pixels[..., None] * channels + np.arange(channels)).reshape(2, -1)
    first_weight, second_weight = weights.repeat(channels, 1)
    return first, second, first_weight, second_weight


def preprocess(
    preset: PresetName, images: Tensor, colours: Tensor | None = None, normalisation: Normalisation = IMAGENET
) -> Tensor:
    """Return images as the network takes them: `(B, C, S, S)` float32 on the same device, in channels_last memory.

    `spos`: BGR, values 0-255, as in the official code. `standard`: RGB, normalised.

    Args:
        preset: `spos` or `standard`.
        images: `(B, C, S, S) uint8` RGB on the device.
        colours: `(B, 3)` float32 on the device: colour changes of training images.
        normalisation: for `standard`.
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
    mean, std = (_constant(channels, images.device) * 255 for channels in normalisation)
    return values.sub_(mean).div_(std)


def recolour(images: Tensor, colours: Tensor, *, bgr: bool = False) -> Tensor:
    """Change brightness, contrast and saturation of each image as `compose_jitter` says.

    Each pixel is multiplied with a C x C matrix, and a number of the whole image is added. Four pixels at a time, with
    the matrix four times on the diagonal, are faster than one. A grey image has no saturation to change.

    Args:
        images: `(B, C, H, W) uint8`, RGB or grey, in channels_last memory or copied to it.
        colours: `(B, 3)` float32: alpha, beta and delta.
        bgr: also reverse the channels, which costs nothing here.

    Returns:
        `(B, C, H, W)` float32 in channels_last memory, 0-255, not rounded.
    """
    batch, channels, height, width = images.shape
    group = math.gcd(height * width, 4)
    pixels = images.permute(0, 2, 3, 1).contiguous().view(batch, -1, channels * group)  # (B, H * W / group, C * group)
    alpha, beta, delta = colours.view(batch, 3, 1, 1).unbind(1)
    own, gray = _make_mixes(channels, group, bgr, images.device)
    weights = alpha * own + beta * gray  # (B, C * group values of x, C * group of the result)
    result = torch.empty(pixels.shape, device=images.device)
    # (C * W,): the share of each value of a row in the mean gray value.
    shares = _constant(_get_gray_weights(channels), images.device).view(channels).repeat(width) / (height * width)
    images_per_pass = max(1, VALUES_PER_PASS // (channels * height * width)) if images.device.type == "cpu" else batch
    for begin in range(0, batch, images_per_pass):
        part = slice(begin, begin + images_per_pass)
        values = pixels[part].float()
        mean = (values.view(-1, height, channels * width).sum(1) * shares).sum(1).view(-1, 1, 1)
        # With `out`, mixed precision does not apply to the product.
        torch.baddbmm(delta[part] * mean, values, weights[part], out=result[part]).clamp_(0, 255)
    return result.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _get_gray_weights(channels: int) -> tuple[float, ...]:
    """Return the weight of each channel in the gray value."""
    return GRAY_WEIGHTS if channels == len(GRAY_WEIGHTS) else (1.0,)


@functools.lru_cache(maxsize=16)
def _make_mixes(channels: int, group: int, bgr: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return matrices `(C * group, C * group)` that map a group of pixels to itself, and to its gray values.

    Like `_constant`, they are kept on the device. With `bgr`, the results have the channels reversed.
    """
    with torch.inference_mode(False):
        own = torch.eye(channels)
        gray = torch.tensor(_get_gray_weights(channels)).view(channels, 1).expand(channels, channels)
        matrices = (own.flip(1) if bgr else own, gray)
        own, gray = (torch.kron(torch.eye(group), matrix).to(device) for matrix in matrices)
        return own, gray


@functools.lru_cache(maxsize=16)
def _constant(channels: tuple[float, ...], device: torch.device) -> Tensor:
    """Return constants `(C, 1, 1)` on the device. They are kept there, since each copy to a GPU would wait for it."""
    with torch.inference_mode(False):
        return torch.tensor(channels, device=device).view(-1, 1, 1)
