"""All settings of an experiment, the sections `search` and `audit` among them, and rules across sections.

Each section of the YAML file is a frozen, typed model; a field's description says what it is, and its unit.
`loading.py` reads a file into a `Config`, `identity.py` says which settings a result depends on. Only the code from
`run/` upwards works with a `Config`; everything below takes plain values.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, model_validator

from spos_cli.config.costs import CostConfig, suggest_cost
from spos_cli.config.data import COLOUR_CHANGES, DataConfig, fill_from_data
from spos_cli.config.section import Section
from spos_cli.config.space import SpaceConfig
from spos_cli.config.training import RetrainConfig, SupernetConfig
from spos_cli.config.units import (
    BitopsLimit,
    CostReference,
    Count,
    Devices,
    FlopsLimit,
    Fraction,
    LatencyLimit,
    Number,
    Off,
    OwnLimits,
    ParamsLimit,
    PathText,
)
from spos_cli.errors import ConfigError, SposError
from spos_cli.files.quoting import as_override, plural
from spos_cli.space.cost_kinds import COST_KINDS, CostKind
from spos_cli.space.limits import Limit
from spos_cli.space.search_space import COLOUR, GREY


class SearchConfig(Section):
    """Evolution under a FLOPs limit (paper, algorithm 1)."""

    algorithm: Literal["evolution", "random"] = Field("evolution", description="random: the baseline.")
    objective: Literal["accuracy", "pareto"] = Field(
        "accuracy",
        description="accuracy: the best top-1 within the limits. pareto: the whole front of a cost against top-1"
        " (NSGA-II).",
    )
    pareto_cost: CostReference = Field(
        "flops",
        description="Cost of the front, with objective: pareto. bitops: with space.bits. latency: by the table that"
        " flops-table --latency has measured, or --import-latency has imported.",
    )
    flops_limit: FlopsLimit | None = Field(
        Limit(330_000_000),
        description="Largest FLOPs of a candidate, or the fewest and the most, both included. null: no limit.",
    )
    params_limit: ParamsLimit | None = Field(
        None, description="Largest number of parameters of a candidate, or a range. null: no limit."
    )
    bitops_limit: BitopsLimit | None = Field(
        None,
        description="Largest BitOPs of a candidate, or a range, in a space with bits: the multiply-adds of each block,"
        " times the bits of its weights and of its activations. null: no limit.",
    )
    latency_limit: LatencyLimit | None = Field(
        None,
        description="Largest latency of a candidate, or a range, by the table that flops-table --latency has measured,"
        " or --import-latency has imported. null: no limit.",
    )
    limits: OwnLimits = Field(
        {},
        description="Largest own costs of a candidate, or ranges, by their names in costs: {energy: 12.5, memory:"
        " 3-8}.",
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
        " them. On most of the public tables that were tried, 300 candidates with it are about as good as 1,000"
        " without, if scores are as noisy as those of a supernet. off: as in the paper.",
    )
    fitness: Literal["top1", "balanced"] = Field(
        "top1",
        description="What is maximised. top1: the share of images that are right. balanced: balanced accuracy, the mean"
        " over the classes of the share of their images that are right, so that each class counts the same; it differs"
        " from top-1 only if the classes have different numbers of images to score on. balanced needs racing: null.",
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

    @property
    def cost_limits(self) -> dict[str, Limit]:
        """The limits that are set, by the name of their cost."""
        limits = {name: getattr(self, f"{name}_limit") for name in COST_KINDS}
        return {**{name: limit for name, limit in limits.items() if limit is not None}, **self.limits}

    @property
    def needed_costs(self) -> set[str]:
        """The names of the costs that a search needs for its limits and its front."""
        return {*self.cost_limits, self.pareto_cost}

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
        if self.objective != "pareto" and self.pareto_cost != "flops":
            raise ValueError(
                f"pareto_cost: {self.pareto_cost} is for the front, which objective: {self.objective} does not look"
                " for; set objective: pareto, or pareto_cost: flops"
            )
        if self.fitness == "balanced" and self.racing is not None:
            raise ValueError(
                "racing stops candidates by a test of top-1, so it does not work with fitness: balanced, where images"
                " of small classes count more; set racing: null, or fitness: top1"
            )
        if self.objective == "pareto" and self.racing is not None:
            raise ValueError(
                "racing stops candidates with a low top-1 even if they are cheap, so it does not work with objective:"
                " pareto; set racing: null, or objective: accuracy"
            )
        return self


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
    equal_flops: Annotated[Number, Field(ge=0, le=1000)] = Field(
        8,
        description="More architectures to train stand-alone: random ones within 3 % of the winner's FLOPs, which is"
        " what a search has to tell apart. The winner is compared with them. 0: none.",
    )
    winner_seeds: Annotated[Number, Field(ge=1, le=100)] = Field(
        3, description="Stand-alone trainings of the winner, each with a seed of its own."
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
    run_dir: Annotated[PathText | None, AfterValidator(_require_folder_name)] = Field(
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
    costs: tuple[CostConfig, ...] = Field(
        (), description="Costs of your own, such as energy, for limits, fronts and reports beside FLOPs."
    )
    space: SpaceConfig = SpaceConfig()
    data: DataConfig = DataConfig()
    supernet: SupernetConfig = SupernetConfig()
    search: SearchConfig = SearchConfig()
    retrain: RetrainConfig = RetrainConfig()
    audit: AuditConfig = AuditConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_retrain_augmentation(cls, values: Any) -> Any:
        """Fill what `retrain.augmentation` leaves out from `data.augmentation`."""
        sections = [values.get(name) if isinstance(values, Mapping) else None for name in ("data", "retrain")]
        data, retrain = (section.get("augmentation") if isinstance(section, Mapping) else None for section in sections)
        if not isinstance(data, Mapping) or not isinstance(retrain, Mapping):
            return values
        return {**values, "retrain": {**values["retrain"], "augmentation": fill_from_data(retrain, data)}}

    @model_validator(mode="after")
    def _require_consistent_sections(self) -> Config:
        if self.space.channels_of is not None:
            return self  # `config.channels` makes settings with another space of these, which are then checked.
        self._require_known_costs()
        if self.search.split == "holdout" and self.data.holdout_per_class == 0:
            raise ValueError(
                "search.split is holdout, but data.holdout_per_class is 0; hold some images out, or set search.split:"
                " val"
            )
        try:
            self.space.build().require_variance(self.search.calibration_batch_size, "search.calibration_batch_size")
        except SposError as error:
            raise ValueError(str(error)) from None
        self._require_values_of_channels()
        if self.supernet.width_warmup_steps:
            self._require_width_warmup()
        self._require_consistent_bits()
        if self.retrain.stochastic_depth:
            self._require_shortcuts()
        for section, training in (("supernet", self.supernet), ("retrain", self.retrain)):
            weights = training.class_weights
            if isinstance(weights, tuple) and len(weights) != self.space.classes:
                raise ValueError(
                    f"{section}.class_weights has {plural(len(weights), 'weight')}, but space.classes is"
                    f" {self.space.classes}"
                )
        return self

    def _require_known_costs(self) -> None:
        """Raise ValueError if two own costs have one name, or if the search names a cost that does not exist."""
        names = [cost.name for cost in self.costs]
        for dimension in ("output_widths", "image_sizes"):
            if names and getattr(self.space, dimension):
                raise ValueError(
                    f"costs: {names[0]}: a table has one number for each option, but with space.{dimension} the cost of"
                    " an option depends on the layers before it; remove one of them"
                )
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"costs: {name} is there twice; give each cost a name of its own")
        for name in self.search.limits:
            if name not in self.cost_kinds:
                raise ValueError(f"search.limits: {suggest_cost(name, self.cost_kinds)}")
        if self.search.pareto_cost not in self.cost_kinds:
            raise ValueError(f"search.pareto_cost: {suggest_cost(self.search.pareto_cost, self.cost_kinds)}")

    def _require_values_of_channels(self) -> None:
        """Raise ValueError if settings do not go together with `space.stem.in_channels`."""
        channels, data, teacher = self.space.stem.in_channels, self.data, self.retrain.teacher
        if channels != COLOUR and "spos" in (data.preset, teacher and teacher.preset):
            name = "data.preset" if data.preset == "spos" else "retrain.teacher.preset"
            raise ValueError(
                f"{name}: spos is the official preparation of three channels, but space.stem.in_channels is"
                f" {channels}; set {name}: standard"
            )
        for name, values in (("mean", data.mean), ("std", data.std)):
            if values is None and channels not in (GREY, COLOUR):
                raise ValueError(
                    f"data.{name} has no default for space.stem.in_channels: {channels}; set data.mean and data.std to"
                    f" {channels} numbers each, of pixels scaled from 0 to 1 (spos doctor measures them; until then,"
                    " 0.5 will do)"
                )
            if values is not None and len(values) != channels:
                raise ValueError(
                    f"data.{name} has {plural(len(values), 'value')}, but space.stem.in_channels is {channels}; give"
                    " one value for each channel"
                )
        if channels not in (GREY, COLOUR) and (data.may_download or data.source == "digits"):
            raise ValueError(
                f"data.source: {data.source} has grey or colour images, but space.stem.in_channels is {channels}; set"
                " space.stem.in_channels: 1 or 3"
            )
        for section, augmentation in (("data", data.augmentation), ("retrain", self.retrain.augmentation)):
            if augmentation is not None and (refused := augmentation.list_refused(channels)):
                raise ValueError(
                    f"{section}.augmentation.{' and '.join(refused)} {'changes' if len(refused) == 1 else 'change'}"
                    f" colours, but space.stem.in_channels is {channels}; set"
                    f" {', '.join(f'{section}.augmentation.{name}: {COLOUR_CHANGES[name]}' for name in refused)}"
                )

    def _require_consistent_bits(self) -> None:
        """Raise ValueError if settings need `space.bits` and there are none, or do not go together with them."""
        if "bitops" in self.search.needed_costs and not self.space.bits:
            name = "bitops_limit" if self.search.bitops_limit is not None else "pareto_cost: bitops"
            raise ValueError(f"search.{name} needs a space with bits, but space.bits is empty")
        for section, training in (("supernet", self.supernet), ("retrain", self.retrain)):
            if self.space.bits and training.amp == "fp16":
                raise ValueError(
                    f"{section}.amp: fp16 cannot hold the sums of quantized convolutions (space.bits); set"
                    f" {section}.amp: bf16 or off"
                )

    def _require_shortcuts(self) -> None:
        """Raise ValueError if no architecture of the space has a block for `retrain.stochastic_depth`."""
        layers = self.space.build().layers
        if not any(layer.has_shortcut(choice) for layer in layers for choice in layer.choices):
            raise ValueError(
                "retrain.stochastic_depth needs blocks with a shortcut, such as mbconv with stride 1 and as many output"
                " as input channels, but the space has none; set retrain.stochastic_depth: 0"
            )

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
        if supernet.sampler in ("flops_bins", "sandwich"):
            raise ValueError(
                "supernet.width_warmup_steps starts with the widest paths, which bins of FLOPs may exclude, and a"
                " sandwich has the narrowest in each step; use supernet.sampler: uniform"
            )

    def at_size(self, side: int) -> Config:
        """Return the settings of stand-alone networks whose architectures have this image size: it is the only one.

        Args:
            side: in pixels; 0, as of an architecture without a size, changes nothing.
        """
        if not side:
            return self
        space = self.space.model_copy(update={"image_size": side, "image_sizes": (side,)})
        return self.model_copy(update={"space": space})

    @property
    def cost_kinds(self) -> dict[str, CostKind]:
        """How each cost is called and written, by name: the built-in ones, then the user's own."""
        return {**COST_KINDS, **{cost.name: cost.kind for cost in self.costs}}

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.run_dir) if self.run_dir else Path("runs") / self.name

    def dump(self) -> dict[str, Any]:
        """Return all settings in plain types, as in the YAML file."""
        return self.model_dump(mode="json")

    def to_yaml(self, *, ascii_only: bool = False) -> str:
        """Return the resolved settings as YAML: what `--print-config` prints and `config.yaml` keeps.

        Args:
            ascii_only: write other letters as escapes, which YAML reads as these letters.
        """
        return yaml.safe_dump(self.dump(), sort_keys=False, allow_unicode=not ascii_only, width=100)

    @property
    def own_blocks(self) -> set[str]:
        """The user's own blocks that the space names, as import paths."""
        return self.space.own_blocks

    def require_known_source(self, known: str, origin: str) -> None:
        """Refuse to import a data set only because a weights file names it: it may come from anybody.

        Args:
            known: the source that the user's own settings name.
            origin: where these settings come from, for the message.

        Raises:
            ConfigError: the settings name another data set to import.
        """
        if self.data.source_kind == "own" and self.data.source != known:
            raise ConfigError(
                f"{origin} name a data set to import: {self.data.source}; if it is yours, also give the --config that"
                " names it"
            )

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
        """Refuse to download a data set only because a weights file says so: out of the working folder, or from a hub.

        Args:
            origin: where these settings come from, for the message.

        Raises:
            ConfigError: `data.root` is outside of the working folder, and the data set may be downloaded to it; or it
                names a data set of a hub.
        """
        if self.data.is_on_hub:
            raise ConfigError(
                f"{origin} ask for images of {self.data.root}, which would be downloaded; if that is right, give --set"
                f" {shlex.quote(as_override('data.root', self.data.root))}"
            )
        root, here = Path(self.data.root).resolve(), Path.cwd().resolve()
        if self.data.may_download and not root.is_relative_to(here):
            raise ConfigError(
                f"{origin} ask for images in {self.data.root}, where they might be downloaded to; if that is right,"
                f" give --set {shlex.quote(as_override('data.root', self.data.root))}"
            )
