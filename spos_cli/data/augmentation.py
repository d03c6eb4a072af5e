"""Which changes training images get, and those that torchvision makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed, in the order of the attributes.

    Attributes:
        crop: `random_resized` as in the official code; `padded` for small images; `none`.
        min_scale: for random_resized: smallest share of the image's area.
        ratio: for random_resized: smallest and largest aspect ratio, width to height.
        padding: for padded: border in pixels.
        flip: mirror half of the images left to right.
        vertical_flip: mirror half of the images top to bottom.
        rand_augment: operations of an image and their magnitude from 0 to 30, or None.
        trivial_augment: one random operation of random strength.
        grayscale: probability of no colours.
        erasing: probability of a rectangle of one colour.
        jitter: strength of brightness, contrast and saturation changes, which are made on the device; 0 is off.
    """

    crop: Literal["random_resized", "padded", "none"] = "random_resized"
    min_scale: float = 0.08
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    padding: int = 4
    flip: bool = True
    vertical_flip: bool = False
    rand_augment: tuple[int, int] | None = None
    trivial_augment: bool = False
    grayscale: float = 0.0
    erasing: float = 0.0
    jitter: float = 0.4

    @property
    def uses_torchvision(self) -> bool:
        """Whether there are changes that `make_torchvision_changes` makes."""
        return bool(self.vertical_flip or self.rand_augment or self.trivial_augment or self.grayscale or self.erasing)

    def describe(self) -> str:
        """Return all changes in words, such as `crop padded, random flip, colour jitter 0.4, erasing 0.1`."""
        parts = [f"crop {self.crop}", "random flip" if self.flip else "no flip"]
        parts += ["vertical flip"] if self.vertical_flip else []
        parts += ["RandAugment {} x magnitude {}".format(*self.rand_augment)] if self.rand_augment else []
        parts += ["TrivialAugment"] if self.trivial_augment else []
        shares = {"grayscale": self.grayscale, "erasing": self.erasing}
        parts += [f"{name} {share:g}" for name, share in shares.items() if share]
        return ", ".join([*parts, f"colour jitter {self.jitter:g}"])


def make_torchvision_changes(augmentation: Augmentation, fill: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Make torchvision's transforms that change `(C, S, S) uint8`, RGB, in the order of its reference training.

    They draw from PyTorch's global generator: call them through `change_with_seed`.

    Args:
        augmentation: the changes.
        fill: colour of erased rectangles, from 0 to 255.
    """
    from torchvision.transforms import v2  # It takes long to import, and many trainings do not use it.

    bilinear = v2.InterpolationMode.BILINEAR
    changes: list[Callable[[Tensor], Tensor]] = []
    if augmentation.vertical_flip:
        changes.append(v2.RandomVerticalFlip(0.5))
    if augmentation.rand_augment:
        ops, magnitude = augmentation.rand_augment
        changes.append(v2.RandAugment(ops, magnitude, interpolation=bilinear))
    if augmentation.trivial_augment:
        changes.append(v2.TrivialAugmentWide(interpolation=bilinear))
    if augmentation.grayscale:
        changes.append(v2.RandomGrayscale(augmentation.grayscale))
    if augmentation.erasing:
        changes.append(v2.RandomErasing(augmentation.erasing, value=fill))
    composed: Callable[[Tensor], Tensor] = v2.Compose(changes)
    return composed


def change_with_seed(changes: Callable[[Tensor], Tensor], image: Tensor, seed: int) -> Tensor:
    """Change an image `(C, S, S)` by the draws of one seed; leave the global generators as they are."""
    with torch.random.fork_rng(devices=[]):
        # `torch.manual_seed` would seed the generators of GPUs as well, and dropout masks come from these.
        torch.default_generator.manual_seed(seed)
        return changes(image)
