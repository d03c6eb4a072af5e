"""The section `data`: where images come from, and how they are prepared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from spos_cli.config.section import Section
from spos_cli.config.units import (
    Fraction,
    Number,
    ValueRange,
)

DOWNLOADED = ("cifar10", "cifar100", "fashion_mnist")  # The values of data.source that torchvision may download.


class AugmentationConfig(Section):
    """What happens to training images."""

    crop: Literal["random_resized", "padded", "none"] = Field("random_resized", description="Kind of crop.")
    min_scale: Annotated[float, Field(gt=0, le=1)] = Field(
        0.08, description="random_resized: smallest crop, as a share of the image's area."
    )
    padding: Annotated[Number, Field(ge=0)] = Field(4, description="padded: border before the crop, in pixels.")
    flip: bool = Field(True, description="Mirror half of the images left to right.")
    jitter: Fraction = Field(0.4, description="Strength of brightness, contrast and saturation changes.")


class DataConfig(Section):
    """Where images come from and how they are prepared."""

    source: Literal["folder", "cifar10", "cifar100", "fashion_mnist", "digits"] = Field(
        "folder", description="Class folders, a torchvision data set, or scikit-learn's digits."
    )
    root: str = Field("data", description="Folder of the data set.")
    train_folder: str = Field("train", description="Folder of the training images, below root (source: folder).")
    val_folder: str = Field("val", description="Folder of the validation images, below root (source: folder).")
    preset: Literal["spos", "standard"] = Field(
        "spos",
        description="spos: BGR from 0 to 255 and OpenCV's resize, as in the official code. standard: RGB, normalised.",
    )
    value_range: ValueRange = Field(
        "auto",
        description="Pixel values that become black and white, for images of more than 8 bits a channel, and for signed"
        " or floating-point ones: [low, high], or dtype for the whole range of their type. auto: such images are an"
        " error. Images of 8 bits are used as they are.",
    )
    augmentation: AugmentationConfig = AugmentationConfig()
    holdout_per_class: Annotated[Number, Field(ge=0, le=10**9)] = Field(
        50, description="Training images of each class to hold out for the search. 0 needs search.split: val."
    )
    store: Literal["none", "ram", "disk"] = Field(
        "none",
        description="Cache of decoded training images. disk: in the run folder. ram: in memory, for one command of one"
        " process. Cached images have a short side of at most 256/224 of image_size, and random crops come from these.",
    )
    workers: Annotated[Number, Field(ge=0, le=256)] = Field(4, description="Image loading workers per process.")
    bad_images: Annotated[Number, Field(ge=0, le=10**9)] = Field(
        20, description="Broken training images that a process may skip, naming each once, before the run ends."
    )
