"""One YAML file per experiment, as frozen typed models with one unit per field.

`load` reads a file, lays the `--set` overrides over it and returns a `Config`, or reports every mistake of
the file at once, each with its line. Types from here stop at `stages/`; everything below takes plain values.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from spos_cli.errors import ConfigError, SposError
from spos_cli.files.quoting import as_override
from spos_cli.space.architecture import WIDTH_UNIT, shown
from spos_cli.space.cost import parse_cost, parse_duration
from spos_cli.space.search_space import Choice, SearchSpace, Stage, parse_width


def _as_value_error(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """pydantic collects ValueErrors; what we raise ourselves must join them."""

    def convert(value: Any) -> Any:
        try:
            return function(value)
        except SposError as error:
            raise ValueError(str(error)) from None

    return convert


def _duration(value: Any) -> int:
    """Microseconds are written as a whole number, too, as the resolved settings have them."""
    return value if type(value) is int and 1 <= value <= 10**9 else parse_duration(value)


Cost = Annotated[int, BeforeValidator(_as_value_error(parse_cost))]
Duration = Annotated[int, BeforeValidator(_as_value_error(_duration))]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _width(value: Any) -> float:
    """A number that `space.widths` may hold."""
    return parse_width(value) / WIDTH_UNIT


def _no_switch(value: Any) -> Any:
    """YAML's `yes` and `true` would count as 1."""
    if isinstance(value, bool):
        raise ValueError(f"should be a number, not {str(value).lower()}")
    return value


def _devices(value: Any) -> int | str:
    if value in ("auto", "cpu"):
        return str(value)
    if type(value) in (int, str) and str(value).isdecimal() and 1 <= int(value) <= 10_000:
        return int(value)
    raise ValueError(f"should be auto, cpu or a number of processes, not {shown(value)}")


def _off(value: Any) -> Any:
    """YAML reads `off` as false."""
    return "off" if value is False else value


def _value_range(value: Any) -> str | tuple[int | float, ...]:
    if value in ("auto", "dtype"):
        return str(value)
    if isinstance(value, (list, tuple)) and len(value) == 2:
        low, high = (float("nan") if isinstance(bound, bool) else _finite(bound) for bound in value)
        if low < high:  # false for NaN
            return tuple(int(bound) if bound.is_integer() else bound for bound in (low, high))
    raise ValueError(f"should be auto, dtype or two numbers, [black, white], such as [0, 4095], not {shown(value)}")


def _finite(value: Any) -> float:
    """NaN for what is none, or larger than any pixel."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")
    return number if abs(number) < 1e39 else float("nan")


Number = Annotated[int, BeforeValidator(_no_switch)]
Off = BeforeValidator(_off)
Count = Annotated[Number, Field(ge=1, le=10**12)]
ValueRange = Annotated[Literal["auto", "dtype"] | tuple[int | float, int | float], BeforeValidator(_value_range)]
Devices = Annotated[int | str, BeforeValidator(_devices)]


class Section(BaseModel):
    """A part of the file: frozen, unknown keys refused, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class StemConfig(Section):
    channels: Count = Field(16, description="output channels of the first 3x3 convolution")
    stride: Literal[1, 2] = Field(2, description="its stride; 1 for small images")


class StageConfig(Section):
    blocks: Count = Field(description="choice blocks of the stage")
    channels: Count = Field(description="output channels of each of its blocks")
    stride: Literal[1, 2] = Field(2, description="stride of its first block")
    choices: tuple[str | dict[str, dict[str, int]], ...] | None = Field(
        None, description="the ops of its blocks, where they are not those of the space"
    )


class SpaceConfig(Section):
    """Which architectures exist."""

    image_size: Count = Field(224, description="side of the square input, pixels")
    classes: Annotated[Number, Field(ge=2, le=10**12)] = Field(1000, description="classes of the data set")
    stem: StemConfig = StemConfig()
    stages: tuple[StageConfig, ...] = Field(
        (
            StageConfig(blocks=4, channels=64),
            StageConfig(blocks=4, channels=160),
            StageConfig(blocks=8, channels=320),
            StageConfig(blocks=4, channels=640),
        ),
        description="stages of choice blocks, in order",
    )
    head_channels: Count = Field(1024, description="channels of the last 1x1 convolution")
    choices: tuple[str | dict[str, dict[str, int]], ...] = Field(
        (
            {"shuffle": {"kernel": 3}},
            {"shuffle": {"kernel": 5}},
            {"shuffle": {"kernel": 7}},
            "shuffle_xception",
        ),
        description="the ops of every choice block, by index",
    )
    widths: tuple[Annotated[float, BeforeValidator(_as_value_error(_width))], ...] = Field(
        (),
        description="what the middle channels of a block may be multiplied with, ascending; none: all are as they are",
    )

    @model_validator(mode="after")
    def _possible(self) -> SpaceConfig:
        _as_value_error(SpaceConfig.build)(self)
        return self

    def build(self) -> SearchSpace:
        """The search space that this section describes."""
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


def _ops(specs: Iterable[str | dict[str, dict[str, int]]]) -> tuple[Choice, ...]:
    return tuple(map(Choice.from_spec, specs))


class AugmentationConfig(Section):
    """What happens to training images."""

    crop: Literal["random_resized", "padded", "none"] = Field("random_resized", description="kind of crop")
    min_scale: Annotated[float, Field(gt=0, le=1)] = Field(
        0.08, description="random_resized: least share of the image's area"
    )
    padding: Annotated[Number, Field(ge=0)] = Field(4, description="padded: border before the crop, pixels")
    flip: bool = Field(True, description="mirror half of the images left to right")
    jitter: Fraction = Field(0.4, description="strength of brightness, contrast and saturation changes")


class DataConfig(Section):
    """Where images come from and how they are prepared."""

    source: Literal["folder", "cifar10", "cifar100", "fashion_mnist", "digits"] = Field(
        "folder", description="class folders, a torchvision data set, or scikit-learn's digits"
    )
    root: str = Field("data", description="folder of the data set")
    train_folder: str = Field("train", description="folder source: training images, below root")
    val_folder: str = Field("val", description="folder source: validation images, below root")
    preset: Literal["spos", "standard"] = Field(
        "spos", description="spos: BGR 0-255 and OpenCV's resize, as published; standard: RGB, normalised"
    )
    value_range: ValueRange = Field(
        "auto",
        description="values that become black and white in images of more than 8 bits a channel, or of signed or"
        " floating-point values: [low, high], or dtype: the least and the largest of their type; auto: such images are"
        " an error. Images of 8 bits are taken as they are",
    )
    augmentation: AugmentationConfig = AugmentationConfig()
    holdout_per_class: Annotated[Number, Field(ge=0, le=10**9)] = Field(
        50, description="training images of each class that are held out for the search; 0 needs search.split: val"
    )
    store: Literal["none", "ram", "disk"] = Field(
        "none",
        description="decode training images once, to a short side of at most 256/224 of image_size, so that random"
        " crops are of a smaller image: disk keeps them in the run folder, ram for one command of one process",
    )
    workers: Annotated[Number, Field(ge=0, le=256)] = Field(4, description="loader processes per process")
    bad_images: Annotated[Number, Field(ge=0, le=10**9)] = Field(
        20, description="broken training images that a process passes over, each named once, before the run ends"
    )


class TrainingConfig(Section):
    """What both trainings have in common."""

    steps: Count = Field(description="optimizer updates")
    batch_size: Count = Field(1024, description="images per update, over all processes")
    accumulate: Count = Field(1, description="passes per update and process; less memory, same batch")
    lr: Annotated[float, Field(gt=0)] = Field(0.5, description="peak learning rate, for the whole batch")
    schedule: Literal["linear", "cosine"] = Field("linear", description="how the learning rate falls to 0")
    schedule_first: Literal[0, 1] = Field(
        0, description="position of the first update on the schedule; the published code steps it before: 1"
    )
    warmup_steps: Annotated[Number, Field(ge=0)] = Field(0, description="updates of linear rise to lr")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="momentum of SGD")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        4e-5, description="L2 penalty on weights of two or more dimensions, so not on BatchNorm"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="probability spread evenly")
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = Field(None, description="largest L2 norm of the gradient")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="before the classifier")
    amp: Annotated[Literal["off", "bf16", "fp16"], Off] = Field("off", description="mixed precision; fp16 needs CUDA")
    compile: Annotated[Literal["off", "blocks"], Off] = Field(
        "off",
        description="blocks: PyTorch compiles each choice block once, when it is first used; needs a C++ compiler,"
        " or on a GPU a C one",
    )
    gradient_compression: Annotated[Literal["off", "bf16"], Off] = Field(
        "off", description="bf16: several processes send half of the bytes, with 8 bits of precision"
    )
    log_every: Count = Field(100, description="steps between lines of metrics.jsonl")
    checkpoint_every: Count = Field(1000, description="steps between checkpoints")
    keep_checkpoints: Annotated[Number, Field(ge=1)] = Field(2, description="newest step-*.pt files kept")
    milestone_every: Count | None = Field(None, description="steps between checkpoints that are kept for good")

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be below steps ({self.steps})")
        return self


class BinsConfig(Section):
    """FLOPs bins of the published sampler: one is drawn, then a path inside it."""

    low: Cost = Field(290_000_000, description="lower end of the first bin, FLOPs")
    high: Cost = Field(360_000_000, description="upper end of the last bin, FLOPs")
    width: Cost = Field(10_000_000, description="width of a bin, FLOPs")

    @model_validator(mode="after")
    def _consistent(self) -> BinsConfig:
        if self.low >= self.high or (self.high - self.low) % self.width:
            raise ValueError(f"bins of {self.width:,} do not divide the range from {self.low:,} to {self.high:,}")
        return self


class SupernetConfig(TrainingConfig):
    """Training of the supernet, one path per step (paper, section 3.2)."""

    steps: Count = Field(150_000, description="optimizer updates")
    affine: bool = Field(False, description="whether BatchNorm has a learned scale and shift")
    sampler: Literal["uniform", "flops_bins", "fair"] = Field(
        "flops_bins",
        description="paths uniform over the space, or over bins of FLOPs as published; fair: several paths a step, so"
        " that each step trains every choice of every block (FairNAS)",
    )
    flops_bins: BinsConfig = BinsConfig()
    width_warmup_steps: Annotated[Number, Field(ge=0, le=10**12)] = Field(
        0,
        description="updates in as many equal parts as space.widths: the widest alone in the first, then one more in"
        " each (Once-for-All's progressive shrinking)",
    )


class SearchConfig(Section):
    """Evolution under a FLOPs limit (paper, algorithm 1)."""

    algorithm: Literal["evolution", "random"] = Field("evolution", description="random: the baseline")
    objective: Literal["accuracy", "pareto"] = Field(
        "accuracy", description="the best top-1 under the limits; pareto: the whole front of FLOPs and top-1 (NSGA-II)"
    )
    flops_limit: Cost | None = Field(330_000_000, description="largest FLOPs of a candidate")
    params_limit: Cost | None = Field(None, description="largest number of parameters of a candidate")
    latency_limit: Duration | None = Field(
        None, description="largest latency of a candidate, by the table that flops-table --latency has measured"
    )
    population: Count = Field(50, description="candidates per generation")
    generations: Annotated[Number, Field(ge=0, le=10**6)] = Field(
        20, description="generations after the first, random one"
    )
    parents: Count = Field(10, description="best candidates so far that children are made of")
    mutations: Annotated[Number, Field(ge=0)] = Field(25, description="children by mutation per generation")
    crossovers: Annotated[Number, Field(ge=0)] = Field(25, description="children by crossover per generation")
    mutation_probability: Fraction = Field(0.1, description="of each layer")
    split: Literal["holdout", "val"] = Field(
        "holdout", description="images to score on; val, as published, spends the validation set"
    )
    images: Count | None = Field(None, description="images to score on, class-balanced; null: the whole split")
    batch_size: Count = Field(200, description="images per scoring batch")
    calibration_images: Count = Field(
        2_560, description="training images for BatchNorm statistics; 20 batches are as close as the published 200"
    )
    calibration_batch_size: Count = Field(128, description="images per calibration batch")
    calibration_momentum: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="of the running statistics; null: the plain average over all batches; published: 0.1"
    )
    amp: Annotated[Literal["off", "bf16"], Off] = Field(
        "off", description="precision of the convolutions; bf16 where it is faster"
    )
    racing: Annotated[float, Field(gt=0, lt=0.5)] | None = Field(
        None,
        description="stops scoring a candidate that is behind the last parent; the largest probability, over the whole"
        " race, of stopping one that is as good on all images; null: all are scored to the end",
    )

    @model_validator(mode="after")
    def _consistent(self) -> SearchConfig:
        if self.mutations + self.crossovers > self.population:
            raise ValueError(
                f"mutations + crossovers ({self.mutations} + {self.crossovers}) must not exceed population"
                f" ({self.population})"
            )
        if self.calibration_images < self.calibration_batch_size:
            raise ValueError(
                f"calibration_images ({self.calibration_images}) must be at least one calibration batch"
                f" ({self.calibration_batch_size})"
            )
        if self.objective == "pareto" and self.racing is not None:
            raise ValueError(
                "racing stops what is behind in top-1, also where it is cheaper, so it is not for objective: pareto;"
                " leave one of them away"
            )
        return self


class RetrainConfig(TrainingConfig):
    """Training of the found architecture from scratch."""

    steps: Count = Field(300_000, description="optimizer updates")
    affine: bool = Field(True, description="whether BatchNorm has a learned scale and shift")
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="decay per step of the moving average of the weights; null: none"
    )
    evaluate_every: Count = Field(5000, description="steps between evaluations on the validation set")
    batchnorm_pass_steps: Annotated[Number, Field(ge=0)] | None = Field(
        None, description="batches of the last BatchNorm pass; null: one epoch, as published; 0: none"
    )


class AuditConfig(Section):
    """How far the search can be trusted: other searches, and architectures that are trained alone."""

    seeds: Annotated[Number, Field(ge=1, le=100)] = Field(
        1, description="random searches of as many candidates, and evolutions, the run's own among them"
    )
    architectures: Annotated[Number, Field(ge=3, le=1000)] = Field(
        12,
        description="that are trained alone: the winner, and others from all over the range of FLOPs; with 8 others or"
        " more, their ranking is compared",
    )
    steps: Count | None = Field(None, description="updates of each of these trainings; null: a tenth of retrain.steps")


def _folder_name(value: str | None) -> str | None:
    if value is not None and not (value.strip() and value.isprintable()):
        raise ValueError("should be the name of a folder, without line breaks and the like")
    return value


# Fields that came after the first runs had been written down, and what those runs had: they are left out of what is
# compared where they say the same.
LATER: dict[tuple[str, str], Any] = {
    **{(section, name): "off" for section in ("supernet", "retrain") for name in ("compile", "gradient_compression")},
    **{("search", name): None for name in ("racing", "params_limit", "latency_limit")},
    ("search", "objective"): "accuracy",
    ("data", "store"): "none",
    ("space", "widths"): [],
    ("supernet", "width_warmup_steps"): 0,
}

# Where a run is, and on what it runs: fields that no result depends on.
HELPERS = ("workers", "bad_images")  # of `data`
PLACE_AND_MACHINE = ("name", "run_dir", "devices", "threads", "timeout_minutes", "max_restarts")


class Config(Section):
    """A whole experiment."""

    name: Annotated[str, Field(pattern=r"^[\w][\w.-]{0,99}$")] = Field("imagenet", description="of the run")
    run_dir: Annotated[str | None, AfterValidator(_folder_name)] = Field(
        None, description="folder of the run; null: runs/<name>"
    )
    seed: Annotated[Number, Field(ge=0, lt=2**63)] = Field(0, description="of every random draw")
    devices: Devices = Field("auto", description="auto: all GPUs, else the CPU; or a number of processes")
    threads: Annotated[Count, Field(le=4096)] | None = Field(
        None,
        description="CPU threads per process; null: an even share of the cores, or fewer for a small network",
    )
    timeout_minutes: Annotated[float, Field(gt=0, le=10**6)] = Field(
        60, description="how long a process waits for another before it gives up; the first may be decoding images"
    )
    max_restarts: Annotated[Number, Field(ge=0, le=10**6)] = Field(
        3, description="how often processes of --devices N start again after one was killed or broke down"
    )
    space: SpaceConfig = SpaceConfig()
    data: DataConfig = DataConfig()
    supernet: SupernetConfig = SupernetConfig()
    search: SearchConfig = SearchConfig()
    retrain: RetrainConfig = RetrainConfig()
    audit: AuditConfig = AuditConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.search.split == "holdout" and not self.data.holdout_per_class:
            raise ValueError("search.split is holdout, but data.holdout_per_class is 0; hold some out, or use val")
        try:
            self.space.build().require_variance(self.search.calibration_batch_size, "search.calibration_batch_size")
        except SposError as error:
            raise ValueError(str(error)) from None
        if self.supernet.width_warmup_steps:
            if not self.space.widths:
                raise ValueError("supernet.width_warmup_steps is for a space with widths; space.widths has none")
            if self.supernet.width_warmup_steps >= self.supernet.steps:
                raise ValueError(
                    f"supernet.width_warmup_steps ({self.supernet.width_warmup_steps}) must be below supernet.steps"
                    f" ({self.supernet.steps}), or the narrowest is hardly trained"
                )
            if self.supernet.sampler == "flops_bins":
                raise ValueError(
                    "supernet.width_warmup_steps begins with wide paths, which bins of FLOPs do not; use"
                    " supernet.sampler: uniform or fair"
                )
        return self

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.run_dir) if self.run_dir else Path("runs") / self.name

    def dump(self) -> dict[str, Any]:
        """Plain types, as in the YAML file."""
        return self.model_dump(mode="json")

    def portable(self) -> dict[str, Any]:
        """The fields that a result depends on: without where, on what and with how many helpers it ran."""
        values = self.model_dump(
            mode="json",
            exclude={
                **dict.fromkeys((*PLACE_AND_MACHINE, "audit"), True),
                "data": set(HELPERS),
            },
        )
        for stage in values["space"]["stages"]:
            if stage["choices"] is None:  # came later, too
                del stage["choices"]
        for (section, name), usual in LATER.items():
            if values[section][name] == usual:
                del values[section][name]
        if values["data"].get("store") == "ram":
            values["data"]["store"] = "disk"  # the same images
        return values

    def shared(self) -> dict[str, Any]:
        """The fields that all processes of a command need to have alike, on whichever machines they are."""
        values = self.portable()
        del values["data"]["root"]
        return {**values, "audit": self.audit.model_dump(mode="json")}

    def with_images_of(self, other: Config) -> Config:
        """These settings on the images and the machine of another's: how images are prepared stays as it is."""
        names = ["source", "root", "train_folder", "val_folder", *HELPERS]
        if self.data.value_range == "auto":  # the network was trained on 8 bits; how others become these is up to them
            names.append("value_range")
        data = self.data.model_copy(update={name: getattr(other.data, name) for name in names})
        machine = {name: getattr(other, name) for name in PLACE_AND_MACHINE}
        return self.model_copy(update={"data": data, **machine})

    @property
    def own_blocks(self) -> set[str]:
        """The blocks of the user's that the space names by import path."""
        lists = [self.space.choices, *(stage.choices or () for stage in self.space.stages)]
        return {choice.op for specs in lists for choice in _ops(specs) if choice.is_own}

    def require_known_blocks(self, known: set[str], origin: str) -> None:
        """Refuses blocks that would be imported because a file says so.

        Raises:
            ConfigError: the settings came from `origin`, which may be anybody's, and the user's own do not name them.
        """
        if unknown := sorted(self.own_blocks - known):
            raise ConfigError(
                f"{origin} name blocks to import: {', '.join(unknown)}; if they are yours, give the --config that names"
                " them, too"
            )

    def require_root_here(self, origin: str) -> None:
        """Refuses a `data.root` outside of the working folder, to which a data set might be downloaded.

        Raises:
            ConfigError: the settings came from `origin`, which may be anybody's, and the user has not named a folder.
        """
        root, here = Path(self.data.root).resolve(), Path.cwd().resolve()
        if self.data.source in ("cifar10", "cifar100", "fashion_mnist") and not root.is_relative_to(here):
            raise ConfigError(
                f"{origin} ask for images in {self.data.root}, where they might be downloaded to; if that is right, say"
                f" --set {shlex.quote(as_override('data.root', self.data.root))}"
            )

    def to_yaml(self) -> str:
        """The resolved settings, as `--print-config` shows them and `config.yaml` keeps them."""
        return yaml.safe_dump(self.dump(), sort_keys=False, allow_unicode=True, width=100)
