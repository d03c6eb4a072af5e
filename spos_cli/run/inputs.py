"""What the settings of a run make: a recipe, a sampler, an evolution, an evaluator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spos_cli import seeding
from spos_cli.config.schema import Config, TrainingConfig
from spos_cli.data import datasets
from spos_cli.data.image_store import ImageStore
from spos_cli.data.loaders import BadImages, images_per_pass
from spos_cli.data.transforms import EvalTransform, TrainTransform
from spos_cli.engine import history
from spos_cli.engine.distributed import Processes
from spos_cli.engine.history import Guessing, find_guessing
from spos_cli.engine.optim import Schedule
from spos_cli.engine.progress import track, warn
from spos_cli.engine.trainer import Recipe
from spos_cli.errors import CheckpointError, ConfigError, RunError
from spos_cli.files.digests import file_digest
from spos_cli.models.counting import Costs, count
from spos_cli.models.supernet import Supernet
from spos_cli.run.command import Run
from spos_cli.run.images import Images
from spos_cli.run.weights_file import Weights, read_weights
from spos_cli.search.evaluator import Calibration, Evaluator
from spos_cli.search.evolution import Evolution
from spos_cli.space.cost import CostTable
from spos_cli.space.sampling import CostBinSampler, FairSampler, Sampler, UniformSampler, WidthWarmUp
from spos_cli.space.search_space import SearchSpace


def require_batch(space: SearchSpace, training: TrainingConfig, processes: int, section: str) -> int:
    """The images of one forward pass of one process.

    Raises:
        ConfigError: the batch cannot be shared out, or leaves too little for BatchNorm.
    """
    images = images_per_pass(training.batch_size, processes, training.accumulate)
    space.require_variance(images, f"{section}.batch_size")
    return images


def training_recipe(training: TrainingConfig, ema_decay: float | None = None) -> Recipe:
    """A config's training section as the engine takes it."""
    return Recipe(
        schedule=Schedule(
            training.lr, training.steps, training.schedule, training.warmup_steps, training.schedule_first
        ),
        batch_size=training.batch_size,
        accumulate=training.accumulate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        label_smoothing=training.label_smoothing,
        clip_grad_norm=training.clip_grad_norm,
        amp=training.amp,
        compile=training.compile,
        gradient_compression=training.gradient_compression,
        ema_decay=ema_decay,
        log_every=training.log_every,
        checkpoint_every=training.checkpoint_every,
        keep_checkpoints=training.keep_checkpoints,
        milestone_every=training.milestone_every,
    )


def guessing(folder: Path, classes: int, last_step: int | None = None) -> Guessing | None:
    """Whether the training in a folder is no better than guessing by its metrics, up to a step or to their end."""
    try:
        lines = history.read(folder / "metrics.jsonl")
    except OSError:
        return None
    return find_guessing([line for line in lines if last_step is None or line["step"] <= last_step], classes)


def warn_of_guessing(folder: Path, config: Config, section: str) -> None:
    """Says at the end of a training that it is no better than guessing, if so, and what to do."""
    if found := guessing(folder, config.space.classes):
        rate = getattr(config, section).lr
        warn(
            f"{section}: the training has {found.verdict}: {found}. Lower {section}.lr (it is {rate:g}), raise"
            f" {section}.warmup_steps or set {section}.clip_grad_norm, and start with --fresh"
        )


def read_settings(run: Run) -> dict[str, Any]:
    """What the scores of the run's search depend on, as the search wrote it down.

    Raises:
        RunError: it is not there, or cannot be read.
    """
    path = run.folder.search.settings
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = None
    kinds = {"supernet": str, "search": dict}
    if not isinstance(settings, dict) or not all(isinstance(settings.get(key), kind) for key, kind in kinds.items()):
        raise RunError(f"{path} is missing or broken, so the scores beside it mean nothing; search with --fresh")
    return settings


def only_one(pattern: Sequence[Path], what: str, hint: str) -> Path:
    """The file that there is exactly one of.

    Raises:
        RunError: there is none, or there are several and the user has to choose.
    """
    found = sorted(pattern)
    if not found:
        raise RunError(f"there is no {what} here yet; run {hint} first")
    if len(found) > 1:
        raise RunError(f"there are several: name one of {', '.join(str(path) for path in found)}")
    return found[0]


def weights_seed(config: Config, purpose: str) -> int:
    """The seed of a model's first weights."""
    return seeding.torch_seed(config.seed, f"{purpose} weights")


def make_sampler(run: Run, space: SearchSpace) -> Sampler:
    """What draws a path for each step; every process draws the same."""
    config, options = run.config, space.options
    warm_up = WidthWarmUp(len(space.widths), config.supernet.width_warmup_steps)
    if config.supernet.sampler == "uniform":
        return UniformSampler(options, config.seed, warm_up)
    if config.supernet.sampler == "fair":
        return FairSampler(options, config.seed, warm_up)
    bins = config.supernet.flops_bins
    return CostBinSampler(count(space).flops, bins.low, bins.high, bins.width, config.seed)


def read_latency(run: Run) -> CostTable:
    """The latencies that were measured for this run's space.

    Raises:
        RunError: they were not, or for another space.
    """
    path, measure = run.folder.latency_table, run.command("flops-table --latency")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        space = run.config.space.build()
        if content["space"] != space.digest:
            raise RunError(f"{path} was measured for another space; run {measure} again")
        table = CostTable("latency", int(content["fixed"]), content["table"], space.options)
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise RunError(f"there is no {path}, or it is broken; run {measure} first") from None
    return table


def read_supernet(path: Path, processes: Processes, train: str) -> tuple[Weights, str]:
    """Reads a supernet's file, and its digest; `train` is the command that repairs the run folder's own one.

    Raises:
        RunError: a training writes it anew meanwhile, or not all processes see the same.
    """
    try:
        before = file_digest(path) if path.is_file() else ""
        file = read_weights(path)
    except CheckpointError as error:
        if not train:
            raise
        raise CheckpointError(f"{error}; {train} goes on from the checkpoint before it") from None
    after = file_digest(path)
    if processes.any(before != after) or not processes.agree(after):
        raise RunError(
            f"{path} is being written; search when its training has ended, or name a step-*.pt with --weights"
        )
    return file, after


def make_evolution(run: Run, costs: Costs) -> Evolution:
    """The sizes of the search, from the config; the random baseline has no parents.

    Candidates are drawn exactly under the limit that leaves least of the space.

    Raises:
        RunError: there is a limit on the latency, but no table of latencies.
    """
    search = run.config.search
    limits = [(costs.flops, search.flops_limit), (costs.params, search.params_limit)]
    if search.latency_limit is not None:
        limits.append((read_latency(run), search.latency_limit))
    given = [(table, limit) for table, limit in limits if limit is not None]
    given.sort(key=lambda pair: pair[0].distribution().share(None, pair[1]))
    table, limit = given[0] if given else (costs.flops, None)
    return Evolution(
        table=table,
        limit=limit,
        others=tuple(given[1:]),
        population=search.population,
        generations=search.generations,
        parents=search.parents if search.algorithm == "evolution" else 0,
        mutations=search.mutations,
        crossovers=search.crossovers,
        mutation_probability=search.mutation_probability,
        seed=run.config.seed,
        flops=costs.flops,
        front_on=costs.flops if search.objective == "pareto" else None,
    )


def make_evaluator(run: Run, supernet: Supernet, images: Images, processes: Processes) -> Evaluator:
    """Scores on the search split, or on the validation set if that was asked for by name."""
    search = run.config.search
    if search.split == "holdout":
        image_set, scored = images.train, images.splits[1]
    else:
        image_set, scored = images.val, datasets.interleave(images.val)
    path = run.folder.search.scoring_images
    scoring = decode(run, path, image_set, scored[: search.images], images.evaluation, None, processes)
    calibration = decode_calibration(run, run.folder.search.path, images, processes)
    return Evaluator(
        supernet,
        images.preprocess,
        calibration=Calibration(calibration.images, search.calibration_batch_size, search.calibration_momentum),
        images=scoring.images,
        labels=scoring.labels,
        batch=search.batch_size,
        device=processes.device,
        amp=search.amp,
    )


def decode_calibration(run: Run, folder: Path, images: Images, processes: Processes) -> ImageStore:
    """The training images that BatchNorm statistics are computed from, the same for every candidate."""
    path, chosen = folder / "calibration.u8", calibration_indices(run, images)
    transform, seed = images.augmented, run.config.seed
    return decode(run, path, images.to_augment, chosen, transform, seed, processes, images.bad_images)


def kept_calibration(run: Run, images: Images) -> ImageStore | None:
    """The same as the run's search has left them, if it has."""
    path, chosen = run.folder.search.calibration_images, calibration_indices(run, images)
    if not ImageStore.matches(path, images.to_augment, chosen, images.augmented, seed=run.config.seed):
        return None
    return ImageStore.open(path)


def calibration_indices(run: Run, images: Images) -> NDArray[np.int64]:
    """Which training images they are.

    Raises:
        ConfigError: there are fewer of them than one calibration batch.
    """
    config, search = run.config, run.config.search
    training, _ = images.splits
    order = seeding.generator(config.seed, "calibration").permutation(len(training))
    chosen = training[order[: search.calibration_images]]
    if len(chosen) < search.calibration_batch_size:
        raise ConfigError(
            f"search.calibration_batch_size is {search.calibration_batch_size}, but there are {len(chosen)}"
            " training images; lower it"
        )
    return chosen


def decode(
    run: Run,
    path: Path,
    images: datasets.ImageSet,
    indices: NDArray[np.int64],
    transform: EvalTransform | TrainTransform,
    seed: int | None,
    processes: Processes,
    bad_images: BadImages | None = None,
) -> ImageStore:
    """Decodes images once, for all candidates and processes; broken ones are an error, or counted and replaced."""
    if processes.is_main and not ImageStore.matches(path, images, indices, transform, seed=seed):
        with track(f"decoding {path.stem} images", len(indices), "images", quiet=run.as_json) as task:
            ImageStore.build(
                path,
                images,
                indices,
                transform,
                seed=seed,
                workers=run.config.data.workers,
                progress=task.advance,
                bad_images=bad_images,
            )
    processes.barrier()
    return ImageStore.open(path)


def limits_of(run: Run) -> dict[str, int | None]:
    """The limits on candidates: that on FLOPs, and others where they are given."""
    search = run.config.search
    others = {"params": search.params_limit, "latency": search.latency_limit}
    return {"flops": search.flops_limit, **{name: limit for name, limit in others.items() if limit is not None}}
