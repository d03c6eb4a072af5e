"""The section `data`: where images come from, and how they are prepared."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from spos_cli.config.section import Section
from spos_cli.config.units import (
    ChannelDeviations,
    ChannelMeans,
    Count,
    Fraction,
    Number,
    PathText,
    ValueRange,
)
from spos_cli.files.quoting import quote_value
from spos_cli.space.choices import OWN_CODE
from spos_cli.space.search_space import COLOUR, GREY

SOURCES = ("folder", "csv", "tar", "huggingface", "cifar10", "cifar100", "fashion_mnist", "digits")
TORCHVISION = "torchvision:"  # The name of a data set of torchvision follows.
HUB = "hf://"  # The name of a data set on the Hugging Face Hub follows, in data.root.
DOWNLOADED = ("cifar10", "cifar100", "fashion_mnist")  # Sources that torchvision may download, beside `TORCHVISION`.
MAX_SOURCE = 200  # characters

# The kinds of sources that a setting is for. With others it must keep its default.
SETTINGS_OF_SOURCES = {
    "train_list": ("csv",),
    "val_list": ("csv",),
    "train_shards": ("tar",),
    "val_shards": ("tar",),
    "val_share": ("folder",),
    "train_split": ("torchvision", "huggingface"),
    "val_split": ("torchvision", "huggingface"),
    "image_column": ("csv", "huggingface"),
    "label_column": ("csv", "huggingface"),
}
ASPECT_RATIOS = (3 / 4, 4 / 3)  # of the official code's crops, as in torchvision, width to height

# What each value of `augmentation.policy` sets. Crops and mirroring depend on the images, so `light` and `strong` leave
# them as they are.
POLICIES: dict[str, dict[str, Any]] = {
    # The official code: RandomResizedCrop, ColorJitter(0.4, 0.4, 0.4) and RandomHorizontalFlip, in train.py.
    "paper": {
        "crop": "random_resized",
        "min_scale": 0.08,
        "ratio": ASPECT_RATIOS,
        "flip": True,
        "vertical_flip": False,
        "jitter": 0.4,
        "grayscale": 0.0,
        "rand_augment": None,
        "trivial_augment": False,
        "erasing": 0.0,
    },
    "light": {"jitter": 0.0, "grayscale": 0.0, "rand_augment": None, "trivial_augment": False, "erasing": 0.0},
    # torchvision's references/classification for its newer weights: --auto-augment ta_wide --random-erase 0.1.
    "strong": {"jitter": 0.0, "grayscale": 0.0, "rand_augment": None, "trivial_augment": True, "erasing": 0.1},
}

# The changes of an augmentation that need colours, and what turns them off.
COLOUR_CHANGES = {"jitter": "0", "grayscale": "0", "rand_augment": "null", "trivial_augment": "false"}


def _require_ratio(value: tuple[float, float]) -> tuple[float, float]:
    low, high = value
    if not 0 < low <= high:
        raise ValueError(f"should be [low, high], both above 0 and low at most high, not [{low:g}, {high:g}]")
    return value


def _read_source(value: Any) -> str:
    """Read `data.source`: a name, a data set of torchvision, or the import path of the user's own."""
    if isinstance(value, str) and len(value) <= MAX_SOURCE:
        if value in SOURCES or OWN_CODE.fullmatch(value):
            return value
        similar = difflib.get_close_matches(value, SOURCES, n=1)
    else:
        similar = []
    names = ", ".join(map(repr, SOURCES))
    hint = f"; did you mean {similar[0]!r}?" if similar else ""
    raise ValueError(
        f"should be {names}, '{TORCHVISION}NAME' or your own 'package.module:name', not {quote_value(value)}{hint}"
    )


Source = Annotated[str, BeforeValidator(_read_source)]
AspectRatios = Annotated[tuple[float, float], AfterValidator(_require_ratio)]


Text = Annotated[str, Field(min_length=1, max_length=1000)]


class RandAugmentConfig(Section):
    """How much RandAugment changes an image."""

    ops: Annotated[Count, Field(le=14)] = Field(2, description="Number of random operations on each image.")
    magnitude: Annotated[Number, Field(ge=0, le=30)] = Field(
        9, description="Strength of these operations, from 0 to 30."
    )


class AugmentationConfig(Section):
    """What happens to training images."""

    policy: Literal["paper", "light", "strong"] | None = Field(
        None,
        description="Values for the settings below that are not set. paper: as in the official code. light: crop and"
        " mirroring only. strong: TrivialAugment and erasing 0.1, no jitter, as in torchvision's reference training;"
        " RandAugment instead if rand_augment is set. light and strong keep the kind of crop and mirroring.",
    )
    crop: Literal["random_resized", "padded", "none"] = Field("random_resized", description="Kind of crop.")
    min_scale: Annotated[float, Field(gt=0, le=1)] = Field(
        0.08, description="random_resized: smallest crop, as a share of the image's area."
    )
    ratio: AspectRatios = Field(
        ASPECT_RATIOS, description="random_resized: range of the crop's aspect ratio, width to height."
    )
    padding: Annotated[Number, Field(ge=0)] = Field(4, description="padded: border before the crop, in pixels.")
    flip: bool = Field(True, description="Mirror half of the images left to right.")
    vertical_flip: bool = Field(
        False,
        description="Mirror half of the images top to bottom.",
    )
    jitter: Fraction = Field(0.4, description="Strength of brightness, contrast and saturation changes.")
    grayscale: Fraction = Field(
        0.0, description="Probability that an image loses its colours; 0.2 in SimCLR (arXiv 2002.05709)."
    )
    rand_augment: RandAugmentConfig | None = Field(
        None, description="torchvision's RandAugment (arXiv 1909.13719), with bilinear interpolation. null: off."
    )
    trivial_augment: bool = Field(
        False,
        description="torchvision's TrivialAugmentWide: one random operation of random strength on each image"
        " (arXiv 2103.10158), with bilinear interpolation. Not together with rand_augment.",
    )
    erasing: Fraction = Field(
        0.0,
        description="Probability that 2 to 33 % of an image's area become a rectangle of the mean colour, data.mean"
        " (random erasing, arXiv 1708.04896), before the colour jitter.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_policy(cls, values: Any) -> Any:
        return fill_from_policy(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _require_one_policy(self) -> AugmentationConfig:
        if self.rand_augment is not None and self.trivial_augment:
            raise ValueError(
                "rand_augment and trivial_augment are two ways to draw operations, so only one of them can be set; set"
                " rand_augment: null, or trivial_augment: false"
            )
        return self

    def list_refused(self, channels: int) -> list[str]:
        """List the changes that cannot be made of images of so many channels.

        Grey images have brightness and contrast, and torchvision's operations take them and RGB, but no others.
        """
        refused = {GREY: ("grayscale",), COLOUR: ()}.get(channels, tuple(COLOUR_CHANGES))
        return [name for name in refused if getattr(self, name)]


def fill_from_policy(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an `AugmentationConfig` as they are in a file, and those that their policy adds."""
    policy = values.get("policy")
    filled = dict(POLICIES.get(policy, {})) if isinstance(policy, str) else {}
    if filled.get("trivial_augment") and values.get("rand_augment") is not None:
        del filled["trivial_augment"]
    return {**filled, **values}


def fill_from_data(values: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `retrain.augmentation`; those that neither it nor its policy sets are `data.augmentation`'s.

    Args:
        values: of `retrain.augmentation`, as in a file.
        data: of `data.augmentation`, as in a file.
    """
    try:
        AugmentationConfig.model_validate(data)
    except ValidationError:  # It is reported once, as a mistake in `data.augmentation`.
        return dict(values)
    ours = fill_from_policy(values)
    theirs = {name: value for name, value in fill_from_policy(data).items() if name != "policy"}
    for name, other in (("rand_augment", "trivial_augment"), ("trivial_augment", "rand_augment")):
        if ours.get(name):
            theirs.pop(other, None)
    return {**theirs, **ours}


class DataConfig(Section):
    """Where images come from and how they are prepared."""

    source: Source = Field(
        "folder",
        description="folder: class folders. csv: lists of files and labels. tar: tar files or shards of WebDataset."
        " huggingface: a data set of the package datasets. torchvision:NAME, also as cifar10, cifar100 and"
        " fashion_mnist. package.module:name: your own data set. digits: those of scikit-learn.",
    )
    root: PathText = Field(
        "data", description="Folder of the data set; hf://NAME for one of the Hugging Face Hub (source: huggingface)."
    )
    train_folder: PathText = Field("train", description="Folder of the training images, below root (source: folder).")
    val_folder: PathText = Field("val", description="Folder of the validation images, below root (source: folder).")
    val_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Share of each class in train_folder that is for validation, such as 0.2, instead of val_folder:"
        " the images whose names have the smallest hashes; at least one, and at least one is left (source: folder)."
        " null: val_folder has them.",
    )
    train_list: PathText = Field(
        "train.csv", description="List of the training images, below root: CSV, TSV or Parquet (source: csv)."
    )
    val_list: PathText = Field("val.csv", description="List of the validation images, below root (source: csv).")
    train_shards: PathText = Field(
        "train*.tar",
        description="Tar files of the training images, below root: a name with * or {000..146} (source: tar).",
    )
    val_shards: PathText = Field(
        "val*.tar", description="Tar files of the validation images, below root (source: tar)."
    )
    train_split: Text | None = Field(
        None,
        description="Name of the split to train on (source: torchvision:NAME or huggingface). null: the usual one.",
    )
    val_split: Text | None = Field(
        None, description="Name of the split to validate on (source: torchvision:NAME or huggingface)."
    )
    image_column: Text | None = Field(
        None,
        description="Column of the paths (source: csv; null: path), or of the images (source: huggingface; null: the"
        " only one).",
    )
    label_column: Text | None = Field(
        None,
        description="Column of the class names (source: csv; null: label), or of the labels (source: huggingface; null:"
        " the only one).",
    )
    preset: Literal["spos", "standard"] = Field(
        "spos",
        description="spos: BGR from 0 to 255 and OpenCV's resize, as in the official code. standard: RGB, normalised.",
    )
    mean: ChannelMeans = Field(
        None,
        description="preset standard: mean of each channel, of pixels scaled from 0 to 1. null: ImageNet's."
        " spos doctor measures it.",
    )
    std: ChannelDeviations = Field(
        None, description="preset standard: standard deviation of each channel, likewise. null: ImageNet's."
    )
    value_range: ValueRange = Field(
        "auto",
        description="Pixel values that become black and white, for images of more than 8 bits a channel, and for signed"
        " or floating-point ones: [low, high], or dtype for the whole range of their type. auto: such images are an"
        " error. Images of 8 bits are used as they are.",
    )
    exif: Literal["apply", "ignore"] = Field(
        "apply",
        description="apply: turn an image upright as its EXIF says. ignore: leave it as it is stored, as the official"
        " code and torchvision's ImageFolder do. Pillow turns TIFF files itself, with either.",
    )
    augmentation: AugmentationConfig = AugmentationConfig()
    holdout_per_class: Annotated[Number, Field(ge=0, le=10**9)] | None = Field(
        50,
        description="Training images of each class to hold out for the search. 0 needs search.split: val. null, with"
        " holdout_share.",
    )
    holdout_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Share of the training images of each class to hold out instead, rounded, such as 0.1; at least one"
        " image is held out, and at least one is left. For classes of different sizes. null: holdout_per_class says how"
        " many.",
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

    @model_validator(mode="after")
    def _require_normalisation_of_preset(self) -> DataConfig:
        set_names = [name for name in ("mean", "std") if getattr(self, name) is not None]
        if self.preset == "spos" and set_names:
            raise ValueError(
                f"{' and '.join(set_names)} {'is' if len(set_names) == 1 else 'are'} for preset standard, since preset"
                " spos does not normalise pixels; set preset: standard, or mean: null and std: null"
            )
        return self

    @property
    def source_kind(self) -> str:
        """The source without the name of a data set: `torchvision`, `own` for an import path, else the source."""
        if self.source.startswith(TORCHVISION):
            return "torchvision"
        return "own" if ":" in self.source else self.source

    @property
    def may_download(self) -> bool:
        """Whether the images may have to be downloaded to `root`."""
        return self.source in DOWNLOADED or self.source_kind == "torchvision"

    @property
    def is_on_hub(self) -> bool:
        """Whether `root` names a data set of the Hugging Face Hub."""
        return self.source == "huggingface" and self.root.startswith(HUB)

    @model_validator(mode="after")
    def _require_settings_of_source(self) -> DataConfig:
        for name, kinds in SETTINGS_OF_SOURCES.items():
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value != default and self.source_kind not in kinds:
                allowed = " or ".join("torchvision:NAME" if kind == "torchvision" else kind for kind in kinds)
                raise ValueError(
                    f"{name} is for source: {allowed}, but source is {self.source}; set {name}: {default or 'null'}, or"
                    " another source"
                )
        return self

    @model_validator(mode="after")
    def _require_one_validation(self) -> DataConfig:
        default = type(self).model_fields["val_folder"].default
        if self.val_share is not None and self.val_folder != default:
            raise ValueError(
                f"val_share ({self.val_share:g}) and val_folder ({quote_value(self.val_folder)}) both say where the"
                f" validation images are, so only one of them can be set; set val_share: null, or val_folder: {default}"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _replace_default_holdout(cls, values: Any) -> Any:
        """Leave the default of `holdout_per_class` out where `holdout_share` is set."""
        if isinstance(values, Mapping) and values.get("holdout_share") is not None:
            return {"holdout_per_class": None, **values}
        return values

    @model_validator(mode="after")
    def _require_one_holdout(self) -> DataConfig:
        if self.holdout_per_class is not None and self.holdout_share is not None:
            raise ValueError(
                f"holdout_per_class ({self.holdout_per_class}) and holdout_share ({self.holdout_share:g}) both say how"
                " many images are held out, so only one of them can be set; set holdout_per_class: null, or"
                " holdout_share: null"
            )
        if self.holdout_per_class is None and self.holdout_share is None:
            raise ValueError(
                "holdout_per_class and holdout_share are both null, so it is not known how many images are held out;"
                " set one of them (holdout_per_class: 0 holds none out)"
            )
        return self
