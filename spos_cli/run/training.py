"""What the settings of a training make: its plan, its sampler, its first weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spos_cli import seeding
from spos_cli.config.schema import Config
from spos_cli.config.training import TrainingConfig
from spos_cli.data.loaders import images_per_pass
from spos_cli.engine import history
from spos_cli.engine.history import Guessing, find_guessing
from spos_cli.engine.losses import LossKind, weigh_classes
from spos_cli.engine.mixing import Mixing
from spos_cli.engine.optim import Schedule
from spos_cli.engine.progress import warn
from spos_cli.engine.training_plan import TrainingPlan
from spos_cli.errors import ConfigError, LimitError
from spos_cli.models.counting import count
from spos_cli.run.command import Run
from spos_cli.run.folder import TrainingFolder
from spos_cli.run.images import Images
from spos_cli.space.sampling import CostBinSampler, Sampler, SandwichSampler, UniformSampler, WidthWarmUp
from spos_cli.space.search_space import SearchSpace


def require_batch(space: SearchSpace, training: TrainingConfig, processes: int, section: str) -> int:
    """Return the images of one forward pass of one process.

    Args:
        section: of the config, `supernet` or `retrain`, for the message.

    Raises:
        ConfigError: the batch cannot be divided among the processes, or leaves too few images for BatchNorm or mixing.
    """
    images = images_per_pass(training.batch_size, processes, training.accumulate)
    divisors = [f"{section}.accumulate"] * (training.accumulate > 1) + ["--devices"] * (processes > 1)
    space.require_variance(images, f"{section}.batch_size", divisors)
    mixing = [name for name in ("mixup", "cutmix") if getattr(training, name) is not None]
    if images == 1 and mixing:
        raise ConfigError(
            f"{section}.{mixing[0]} mixes the images of a pass, but {section}.batch_size leaves one; raise"
            f" {section}.batch_size, or set {section}.{mixing[0]}: null"
        )
    return images


def make_mixing(config: Config, training: TrainingConfig) -> Mixing | None:
    """Return what mixes the images of a training; None if nothing does."""
    if training.mixup is None and training.cutmix is None:
        return None
    return Mixing(training.mixup, training.cutmix, config.space.classes, config.seed)


def make_training_plan(training: TrainingConfig, images: Images | None = None) -> TrainingPlan:
    """Return a training section of the config in the form that the engine takes.

    Args:
        images: of the run, which weights of classes depend on; None for a training that leaves these out.

    Raises:
        DataError: a class has no images, so it cannot be weighted.
    """
    weights = None
    if training.class_weights is not None and images is not None:
        indices, _ = images.splits
        labels = images.train.labels[indices]
        if training.sampling == "balanced":  # Each class is drawn equally often, whatever its size.
            labels = np.unique(labels)
        weights = weigh_classes(labels, images.train.classes, training.class_weights)
    return TrainingPlan(
        schedule=Schedule(
            training.lr,
            training.steps,
            training.schedule,
            training.warmup_steps,
            training.schedule_first,
            training.min_lr,
            training.step_every,
            training.step_factor,
        ),
        batch_size=training.batch_size,
        accumulate=training.accumulate,
        optimizer=training.optimizer,
        momentum=training.momentum,
        betas=training.betas,
        alpha=training.alpha,
        eps=training.eps,
        weight_decay=training.weight_decay,
        loss=training.loss,
        label_smoothing=training.label_smoothing,
        class_weights=weights,
        clip_grad_norm=training.clip_grad_norm,
        amp=training.amp,
        compile=training.compile,
        gradient_compression=training.gradient_compression,
        ema_decay=training.ema_decay,
        log_every=training.log_every,
        checkpoint_every=training.checkpoint_every,
        keep_checkpoints=training.keep_checkpoints,
        milestone_every=training.milestone_every,
    )


def make_sampler(run: Run, space: SearchSpace) -> Sampler:
    """Return what draws the paths of each step; every process draws the same.

    Raises:
        LimitError: a bin of `supernet.flops_bins` has no architecture.
    """
    config, options = run.config, space.options
    warm_up = WidthWarmUp(len(space.widths), config.supernet.width_warmup_steps)
    if config.supernet.sampler == "uniform":
        return UniformSampler(options, config.seed, warm_up)
    if config.supernet.sampler == "sandwich":
        return SandwichSampler(count(space).main, config.seed)
    bins = config.supernet.flops_bins
    try:
        return CostBinSampler(count(space).flops, bins.low, bins.high, bins.width, config.seed)
    except LimitError as error:
        raise LimitError(f"{error}; set supernet.flops_bins within that, or supernet.sampler: uniform") from None


def make_weights_seed(config: Config, model: str) -> int:
    """Return the seed of the first weights of a model: `supernet` or `network`."""
    return seeding.torch_seed(config.seed, f"{model} weights")


def read_guessing(folder: Path, classes: int, loss: LossKind | None, last_step: int | None = None) -> Guessing | None:
    """Return the metrics that show a training no better than guessing; None if there are none.

    Args:
        folder: of the training, in a run or elsewhere.
        loss: of the training; None if it does not compare with labels only.
        last_step: the last step whose metrics count. None: all do.
    """
    try:
        lines = history.read(TrainingFolder(folder, root=folder.parent).metrics)
    except OSError:
        return None
    return find_guessing([line for line in lines if last_step is None or line["step"] <= last_step], classes, loss)


def warn_of_guessing(folder: TrainingFolder, config: Config, section: str) -> None:
    """Warn at the end of a training that is no better than guessing, and say what to change."""
    training: TrainingConfig = getattr(config, section)
    if guessing := read_guessing(folder.path, config.space.classes, training.loss_of_labels):
        warn(
            f"{section}: the training has {guessing.verdict}: {guessing}. Lower {section}.lr (it is {training.lr:g}),"
            f" raise {section}.warmup_steps or set {section}.clip_grad_norm, and start with --fresh"
        )
