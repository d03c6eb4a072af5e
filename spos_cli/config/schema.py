"""The settings of an experiment: sections, units and rules.

Each section of the YAML file is a frozen, typed model; a field's description says what it is, and its unit.
`loading.py` reads a file into a `Config`, `identity.py` says which settings a result depends on. Only the code from
`run/` upwards works with a `Config`; everything below takes plain values.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from spos_cli.config.units import (
    Cost,
    Count,
    Devices,
    Duration,
    Fraction,
    Number,
    Off,
    ValueRange,
    Width,
    as_value_error,
)
from spos_cli.errors import ConfigError, SposError
from spos_cli.files.quoting import as_override
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import SearchSpace, Stage, parse_width

OpSpecs = tuple[str | dict[str, dict[str, int | str]], ...]  # such as (`shuffle_xception`, `{shuffle: {kernel: 5}}`)
DOWNLOADED = ("cifar10", "cifar100", "fashion_mnist")  # The values of data.source that torchvision may download.


class Section(BaseModel):
    """A section of the file: frozen, without unknown keys or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class StemConfig(Section):
    """The first 3x3 convolution."""

    channels: Count = Field(16, description="Output channels of the first 3x3 convolution.")
    stride: Literal[1, 2] = Field(2, description="Stride of the first convolution; 1 for small images.")


class StageConfig(Section):
    """A network stage: consecutive choice blocks with the same output channels."""

    blocks: Count = Field(description="Number of choice blocks.")
    channels: Count = Field(description="Output channels of each block.")
    stride: Literal[1, 2] = Field(2, description="Stride of the first block; the others have stride 1.")
    choices: OpSpecs | None = Field(None, description="Ops of these blocks. null: space.choices.")


class SpaceConfig(Section):
    """Which architectures exist."""

    image_size: Count = Field(224, description="Side of the square input, in pixels.")
    classes: Annotated[Number, Field(ge=2, le=10**12)] = Field(1000, description="Number of classes of the data set.")
    stem: StemConfig = StemConfig()
    stages: tuple[StageConfig, ...] = Field(
        (
            StageConfig(blocks=4, channels=64),
            StageConfig(blocks=4, channels=160),
            StageConfig(blocks=8, channels=320),
            StageConfig(blocks=4, channels=640),
        ),
        description="Network stages, in the order of the forward pass.",
    )
    head_channels: Count = Field(1024, description="Output channels of the last 1x1 convolution.")
    choices: OpSpecs = Field(
        (
            {"shuffle": {"kernel": 3}},
            {"shuffle": {"kernel": 5}},
            {"shuffle": {"kernel": 7}},
            "shuffle_xception",
        ),
        description="Ops of every choice block, by index.",
    )
    widths: tuple[Width, ...] = Field(
        (),
        description="Width multipliers for each block's hidden channels, ascending. Empty: no channel search.",
    )

    @model_validator(mode="after")
    def _require_possible_space(self) -> SpaceConfig:
        as_value_error(SpaceConfig.build)(self)
        return self

    def build(self) -> SearchSpace:
        """Return the search space that this section describes."""
        return SearchSpace(
            stages=tuple(
                Stage(
                    stage.blocks, stage.channels, stage.stride, None if stage.choices is None else _ops(stage.choices)
                )
                for stage in self.stages
            ),
            choices=_ops(self.choices),
            image_size=self.image_size,
            classes=self.classes,
            stem_channels=self.stem.channels,
            stem_stride=self.stem.stride,
            head_channels=self.head_channels,
            widths=tuple(map(parse_width, self.widths)),
        )

    @property
    def own_blocks(self) -> set[str]:
        """The user's own blocks, as import paths."""
        lists = [self.choices, *(stage.choices or () for stage in self.stages)]
        return {choice.op for specs in lists for choice in _ops(specs) if choice.is_own}


def _ops(specs: Iterable[str | dict[str, dict[str, int | str]]]) -> tuple[Choice, ...]:
    return tuple(map(Choice.from_spec, specs))


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


class TrainingConfig(Section):
    """What both trainings have in common."""

    steps: Count = Field(description="Optimizer updates.")
    batch_size: Count = Field(1024, description="Images per update, over all processes.")
    accumulate: Count = Field(
        1, description="Forward and backward passes per update in each process: less memory, same batch."
    )
    lr: Annotated[float, Field(gt=0)] = Field(0.5, description="Peak learning rate, for the whole batch.")
    schedule: Literal["linear", "cosine"] = Field("linear", description="How the learning rate falls to 0.")
    schedule_first: Literal[0, 1] = Field(
        0,
        description="Position of the first update on the schedule. 1: as in the official code, which advances the"
        " schedule before the update.",
    )
    warmup_steps: Annotated[Number, Field(ge=0)] = Field(
        0, description="Updates during which the learning rate rises linearly to lr."
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="Momentum of SGD.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        4e-5, description="L2 penalty on weights of two or more dimensions, so not on BatchNorm."
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Probability that is spread evenly over all classes."
    )
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Largest L2 norm of the gradient. null: no limit."
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="Dropout rate before the classifier.")
    amp: Annotated[Literal["off", "bf16", "fp16"], Off] = Field("off", description="Mixed precision. fp16 needs CUDA.")
    compile: Annotated[Literal["off", "blocks"], Off] = Field(
        "off",
        description="blocks: PyTorch compiles each choice block at its first use. Needs a C++ compiler; on a GPU,"
        " a C compiler.",
    )
    gradient_compression: Annotated[Literal["off", "bf16"], Off] = Field(
        "off", description="bf16: processes exchange gradients in half the bytes, with 8 bits of precision."
    )
    log_every: Count = Field(100, description="Steps between lines of metrics.jsonl.")
    checkpoint_every: Count = Field(1000, description="Steps between checkpoints.")
    keep_checkpoints: Annotated[Number, Field(ge=1)] = Field(2, description="Number of newest step-*.pt files to keep.")
    milestone_every: Count | None = Field(
        None, description="Steps between checkpoints that are never deleted. null: none."
    )

    @model_validator(mode="after")
    def _require_consistent_steps(self) -> TrainingConfig:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be below steps ({self.steps})")
        return self


class BinsConfig(Section):
    """FLOPs bins of the official sampler: it draws a bin, then a path inside it."""

    low: Cost = Field(290_000_000, description="Lower end of the first bin, in FLOPs.")
    high: Cost = Field(360_000_000, description="Upper end of the last bin, in FLOPs.")
    width: Cost = Field(10_000_000, description="Width of each bin, in FLOPs.")

    @model_validator(mode="after")
    def _require_whole_bins(self) -> BinsConfig:
        if self.low >= self.high or (self.high - self.low) % self.width:
            raise ValueError(
                f"width must divide the range from low to high, got width {self.width:,} for {self.low:,} to"
                f" {self.high:,}"
            )
        return self


class SupernetConfig(TrainingConfig):
    """Training of the supernet, one path per step (paper, section 3.2)."""

    steps: Count = Field(150_000, description="Optimizer updates.")
    affine: bool = Field(False, description="Whether BatchNorm has a learned scale and shift.")
    sampler: Literal["uniform", "flops_bins", "fair"] = Field(
        "flops_bins",
        description="How paths are drawn. uniform: over the space. flops_bins: over bins of FLOPs, as in the official"
        " code. fair: several paths per step, so that each step trains every choice of every block (FairNAS).",
    )
    flops_bins: BinsConfig = BinsConfig()
    width_warmup_steps: Annotated[Number, Field(ge=0, le=10**12)] = Field(
        0,
        description="Updates, in as many equal parts as there are widths: the first part trains the widest only, each"
        " later part adds the next narrower one (progressive shrinking, as in Once-for-All). 0: all widths at once.",
    )


class SearchConfig(Section):
    """Evolution under a FLOPs limit (paper, algorithm 1)."""

    algorithm: Literal["evolution", "random"] = Field("evolution", description="random: the baseline.")
    objective: Literal["accuracy", "pareto"] = Field(
        "accuracy",
        description="accuracy: the best top-1 within the limits. pareto: the whole front of FLOPs against top-1"
        " (NSGA-II).",
    )
    flops_limit: Cost | None = Field(330_000_000, description="Largest FLOPs of a candidate. null: no limit.")
    params_limit: Cost | None = Field(None, description="Largest number of parameters of a candidate. null: no limit.")
    latency_limit: Duration | None = Field(
        None,
        description="Largest latency of a candidate, by the table that flops-table --latency measured. null: no limit.",
    )
    population: Count = Field(50, description="Candidates per generation.")
    generations: Annotated[Number, Field(ge=0, le=10**6)] = Field(
        20, description="Generations after the first one, which is random."
    )
    parents: Count = Field(10, description="Number of best candidates so far that children are made from.")
    mutations: Annotated[Number, Field(ge=0)] = Field(25, description="Children by mutation per generation.")
    crossovers: Annotated[Number, Field(ge=0)] = Field(25, description="Children by crossover per generation.")
    mutation_probability: Fraction = Field(0.1, description="Probability that a mutation redraws a layer.")
    predictor: Annotated[Literal["off", "ridge"], Off] = Field(
        "off",
        description="ridge: a ridge regression on all scores so far proposes most candidates, and the supernet scores"
        " them. On public tables, 300 candidates with it are as good as 1,000 without, if scores are as noisy as a"
        " supernet's. off: as in the paper.",
    )
    split: Literal["holdout", "val"] = Field(
        "holdout",
        description="Images to score on. val is as in the official code; the final accuracy is then measured on"
        " images that the search has seen.",
    )
    images: Count | None = Field(
        None, description="Number of images to score on, balanced over the classes. null: the whole split."
    )
    batch_size: Count = Field(200, description="Images per scoring batch.")
    calibration_images: Count = Field(
        2_560,
        description="Training images for BatchNorm statistics. Measured: 20 batches come as close as the official 200.",
    )
    calibration_batch_size: Count = Field(128, description="Images per calibration batch.")
    calibration_momentum: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="Momentum of the running statistics; 0.1 in the official code. null: the average over all batches.",
    )
    amp: Annotated[Literal["off", "bf16"], Off] = Field(
        "off", description="Precision of the convolutions; bf16 where it is faster."
    )
    racing: Annotated[float, Field(gt=0, lt=0.5)] | None = Field(
        None,
        description="Stop scoring candidates that fall behind the last parent. The number is the largest probability,"
        " over a whole race, of stopping one that is as good on all images. null: score each on all images.",
    )

    @model_validator(mode="after")
    def _require_consistent_numbers(self) -> SearchConfig:
        if self.mutations + self.crossovers > self.population:
            raise ValueError(
                f"mutations + crossovers ({self.mutations} + {self.crossovers}) must not exceed population"
                f" ({self.population})"
            )
        if self.predictor != "off" and self.algorithm == "random":
            raise ValueError(
                f"predictor: {self.predictor} does not work with algorithm: random, where all candidates are random;"
                " set predictor: off, or algorithm: evolution"
            )
        if self.calibration_images < self.calibration_batch_size:
            raise ValueError(
                f"calibration_images ({self.calibration_images}) must be at least calibration_batch_size"
                f" ({self.calibration_batch_size})"
            )
        if self.objective == "pareto" and self.racing is not None:
            raise ValueError(
                "racing stops candidates with a low top-1 even if they are cheap, so it does not work with objective:"
                " pareto; set racing: null, or objective: accuracy"
            )
        return self


class RetrainConfig(TrainingConfig):
    """Training of the found architecture from scratch."""

    steps: Count = Field(300_000, description="Optimizer updates.")
    affine: bool = Field(True, description="Whether BatchNorm has a learned scale and shift.")
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Decay per step of the moving average of the weights. null: no average."
    )
    evaluate_every: Count = Field(5000, description="Steps between evaluations on the validation set.")
    batchnorm_pass_steps: Annotated[Number, Field(ge=0)] | None = Field(
        None, description="Batches of the final BatchNorm pass. null: one epoch, as in the official code. 0: no pass."
    )


class AuditConfig(Section):
    """How far to trust the search: more searches, and stand-alone trainings."""

    seeds: Annotated[Number, Field(ge=1, le=100)] = Field(
        1,
        description="Number of evolutions, including the run's own, and number of random searches with as many"
        " candidates.",
    )
    architectures: Annotated[Number, Field(ge=3, le=1000)] = Field(
        12,
        description="Architectures to train stand-alone: the winner, and others over the whole range of FLOPs. With 8"
        " others or more, their ranking is compared with the search's.",
    )
    steps: Count | None = Field(
        None, description="Optimizer updates of each of these trainings. null: a tenth of retrain.steps."
    )


def _require_folder_name(value: str | None) -> str | None:
    if value is not None and not (value.strip() and value.isprintable()):
        raise ValueError("should be the name of a folder, without line breaks or other control characters")
    return value


class Config(Section):
    """A whole experiment."""

    name: Annotated[str, Field(pattern=r"^[\w][\w.-]{0,99}$")] = Field("imagenet", description="Name of the run.")
    run_dir: Annotated[str | None, AfterValidator(_require_folder_name)] = Field(
        None, description="Run folder. null: runs/<name>."
    )
    seed: Annotated[Number, Field(ge=0, lt=2**63)] = Field(0, description="Seed of every random draw.")
    devices: Devices = Field(
        "auto", description="auto: all GPUs, or the CPU if there are none. A number: that many processes."
    )
    threads: Annotated[Count, Field(le=4096)] | None = Field(
        None, description="CPU threads per process. null: an even share of the cores, or fewer for a small network."
    )
    timeout_minutes: Annotated[float, Field(gt=0, le=10**6)] = Field(
        60,
        description="Minutes that a process waits for another before it gives up. The first process may need them to"
        " decode images.",
    )
    max_restarts: Annotated[Number, Field(ge=0, le=10**6)] = Field(
        3, description="With --devices N: restart at most this many times after a worker dies."
    )
    space: SpaceConfig = SpaceConfig()
    data: DataConfig = DataConfig()
    supernet: SupernetConfig = SupernetConfig()
    search: SearchConfig = SearchConfig()
    retrain: RetrainConfig = RetrainConfig()
    audit: AuditConfig = AuditConfig()

    @model_validator(mode="after")
    def _require_consistent_sections(self) -> Config:
        if self.search.split == "holdout" and not self.data.holdout_per_class:
            raise ValueError(
                "search.split is holdout, but data.holdout_per_class is 0; hold some images out, or set search.split:"
                " val"
            )
        try:
            self.space.build().require_variance(self.search.calibration_batch_size, "search.calibration_batch_size")
        except SposError as error:
            raise ValueError(str(error)) from None
        if self.supernet.width_warmup_steps:
            self._require_width_warmup()
        return self

    def _require_width_warmup(self) -> None:
        """Raise ValueError if the other settings do not allow `supernet.width_warmup_steps`."""
        supernet = self.supernet
        if not self.space.widths:
            raise ValueError("supernet.width_warmup_steps needs a space with widths, but space.widths is empty")
        if supernet.width_warmup_steps >= supernet.steps:
            raise ValueError(
                f"supernet.width_warmup_steps ({supernet.width_warmup_steps}) must be below supernet.steps"
                f" ({supernet.steps}), or the narrowest width is hardly trained"
            )
        if supernet.sampler == "flops_bins":
            raise ValueError(
                "supernet.width_warmup_steps starts with the widest paths, which bins of FLOPs may exclude; use"
                " supernet.sampler: uniform or fair"
            )

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.run_dir) if self.run_dir else Path("runs") / self.name

    def dump(self) -> dict[str, Any]:
        """Return all settings in plain types, as in the YAML file."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Return the resolved settings as YAML: what `--print-config` prints and `config.yaml` keeps."""
        return yaml.safe_dump(self.dump(), sort_keys=False, allow_unicode=True, width=100)

    @property
    def own_blocks(self) -> set[str]:
        """The user's own blocks that the space names, as import paths."""
        return self.space.own_blocks

    def require_known_blocks(self, known: set[str], origin: str) -> None:
        """Refuse to import blocks only because a weights file names them: it may come from anybody.

        Args:
            known: blocks that the user's own settings name.
            origin: where these settings come from, for the message.

        Raises:
            ConfigError: the settings name other blocks.
        """
        if unknown := sorted(self.own_blocks - known):
            raise ConfigError(
                f"{origin} name blocks to import: {', '.join(unknown)}; if they are yours, also give the --config that"
                " names them"
            )

    def require_root_here(self, origin: str) -> None:
        """Refuse to download a data set out of the working folder only because a weights file says so.

        Args:
            origin: where these settings come from, for the message.

        Raises:
            ConfigError: `data.root` is outside of the working folder, and the data set may be downloaded to it.
        """
        root, here = Path(self.data.root).resolve(), Path.cwd().resolve()
        if self.data.source in DOWNLOADED and not root.is_relative_to(here):
            raise ConfigError(
                f"{origin} ask for images in {self.data.root}, where they might be downloaded to; if that is right,"
                f" give --set {shlex.quote(as_override('data.root', self.data.root))}"
            )
