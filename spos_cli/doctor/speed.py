"""Measure training and loader speed, and estimate how long the supernet takes."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from spos_cli.data.cache import ResizedSet, keep_in_memory
from spos_cli.data.loaders import BadImages, training_batches
from spos_cli.doctor.finding import Finding, Findings, attempt
from spos_cli.doctor.setup import Setup
from spos_cli.doctor.wording import estimate, first_line, rate
from spos_cli.engine import accelerator, distributed
from spos_cli.engine.distributed import Processes
from spos_cli.engine.progress import console
from spos_cli.engine.trainer import Trainer
from spos_cli.errors import LimitError
from spos_cli.files.quoting import plural
from spos_cli.models.supernet import Supernet
from spos_cli.run.training import make_mixing, make_sampler, make_training_plan
from spos_cli.space.sampling import Sampler, UniformSampler

MEASURED_SECONDS = 2.0  # how long a rate is measured after warming up
MAX_CPU_BATCH = 32  # images per step when a CPU is measured
MAX_LOADER_BATCH = 32  # images per batch when the loader is measured
CACHED_IMAGES = 256  # about how many cached images stand for the whole cache
LOADER_HEADROOM = 1.2  # how many times faster than the training the loader should be


def check(setup: Setup) -> Findings:
    """Check that the loader keeps up with the training."""
    with console.status("measuring speed"):
        return [attempt("speed", lambda: check_speed(setup))]


def check_speed(setup: Setup) -> Finding:
    """Compare images per second of training and loader, measured one at a time, for all processes together.

    Raises:
        ConfigError: a batch leaves too little for BatchNorm.
        DataError: too many training images are unreadable.
    """
    training = setup.config.supernet
    size = setup.batch_per_process(training)
    size = min(size, MAX_CPU_BATCH) if setup.device.type == "cpu" else size
    setup.space.require_variance(size, "supernet.batch_size")
    try:
        step = measure_training(setup, size)
    except torch.OutOfMemoryError:
        seen = f"a batch of {size:,} images does not fit into the memory of {setup.device}"
        advice = "raise supernet.accumulate or use more GPUs; the images per step stay the same"
        return Finding("speed", "fail", seen, advice)
    except RuntimeError as error:  # The device cannot be used, or breaks down.
        advice = f"check the driver, and that PyTorch {torch.__version__} is built for {setup.device}"
        return Finding("speed", "fail", first_line(error), advice)
    # More processes make a CPU faster only as far as there are cores.
    cores = distributed.count_usable_cores()
    on_cpu = setup.device.type == "cpu"
    step *= min(setup.processes, max(1, cores // setup.threads)) if on_cpu else setup.processes
    return compare_loader(setup, step, f"training: {rate(step)} (measured with batches of {size:,})")


def compare_loader(setup: Setup, step: float, seen: str) -> Finding:
    """Measure the loader and compare it with the training.

    Args:
        step: images per second of the training, all processes together.
        seen: what the finding says about it.
    """
    training, workers, cores = setup.config.supernet, setup.config.data.workers, distributed.count_usable_cores()
    images = training.steps * training.batch_size
    if not setup.can_load:
        seen += f"; loader: not measured; {estimate(images / step)}"
        return Finding("speed", "warn", seen, "fix the failed image checks first")
    load = measure_loader(setup, min(setup.batch_per_process(training), MAX_LOADER_BATCH))
    load *= 1 if workers else min(setup.processes, cores)
    # Without workers, a process loads a batch and then trains on it.
    together = min(load, step) if workers else 1 / (1 / load + 1 / step)
    seen += f"; loader: {rate(load)} with {plural(workers * setup.processes, 'worker')}; {estimate(images / together)}"
    if load >= LOADER_HEADROOM * step:
        return Finding("speed", "ok", seen)
    useful_workers = max(1, cores // setup.processes)
    if workers < useful_workers:
        faster = f"set data.workers={useful_workers}"
    else:
        cache = " (data.store=disk caches small ones)" if setup.config.data.store == "none" else ""
        faster = f"use smaller images{cache}, or a faster disk or CPU"
    return Finding("speed", "warn", seen, f"the loader slows the training down: {faster}")


def measure_training(setup: Setup, size: int) -> float:
    """Return images per second of one process in supernet steps: forward, backward, update.

    Args:
        size: images per step.
    """
    config, device = setup.config, setup.device
    # Compiling is left out: it takes longer than the measurement. So are further passes: they are all alike.
    plan = replace(make_training_plan(config.supernet), batch_size=size, accumulate=1, compile="off")
    if plan.amp == "fp16" and device.type == "cpu":
        plan = replace(plan, amp="off")  # The check of mixed precision reports it.
    sampler = make_working_sampler(setup)
    trainer = Trainer(
        Supernet(setup.space, config.supernet.affine, config.supernet.dropout),
        plan,
        Processes(0, 1, device),
        name="doctor",
        folder=setup.run.folder.root,  # The trainer writes nothing before its first checkpoint.
        identity={},
        seed=config.seed,
        preprocess=setup.images.preprocess,
        mixing=make_mixing(config, config.supernet),
        paths=sampler.paths,
    )
    trainer.model.train()
    stream = itertools.repeat(make_batch(setup, size))

    def train_step() -> int:
        trainer.update(stream)
        trainer.step += 1
        accelerator.synchronize(device)
        return size

    return measure_rate(train_step, warm_up=1 if device.type == "cpu" else 5)


def make_batch(setup: Setup, size: int) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Make a batch of noise, in the memory that the loader would use.

    Returns:
        Images `(size, C, S, S)` uint8, colours `(size, 3)` or None, labels `(size,)`.
    """
    rng = torch.Generator().manual_seed(0)
    shape = size, setup.space.in_channels, setup.space.image_size, setup.space.image_size
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)
    labels = torch.randint(0, setup.space.classes, (size,), generator=rng)
    colours = torch.tensor([[1.0, 0.0, 0.0]]).repeat(size, 1) if setup.config.data.augmentation.jitter else None
    if accelerator.pins_memory(setup.device):
        images, labels = images.pin_memory(), labels.pin_memory()
        colours = None if colours is None else colours.pin_memory()
    return images, colours, labels


def make_working_sampler(setup: Setup) -> Sampler:
    """Make the training's sampler, or a uniform one if it cannot draw; the check of the sampler reports that."""
    try:
        return make_sampler(setup.run, setup.space)
    except LimitError:
        return UniformSampler(setup.space.options, setup.config.seed)


def measure_loader(setup: Setup, size: int) -> float:
    """Return images per second of all loader workers on this machine; without workers, of one process.

    Args:
        size: images per batch.
    """
    config, images = setup.config, setup.images
    workers = config.data.workers * setup.processes
    training, _ = images.splits
    # The check of unreadable images reports them.
    bad_images = BadImages(config.data.bad_images, lambda problem: None)
    source = images.to_augment
    if isinstance(source, ResizedSet):
        training = training[:: math.ceil(len(training) / CACHED_IMAGES)]
        source = keep_in_memory(source, training, bad_images)
    batches = training_batches(
        source,
        training,
        images.augmented,
        seed=config.seed,
        batch_size=size,
        first_step=0,
        last_step=10**9,
        workers=workers,
        bad_images=bad_images,
    )

    def load_batch_per_worker() -> int:
        return sum(len(next(batches)[0]) for _ in range(max(1, workers)))

    return measure_rate(load_batch_per_worker, warm_up=1)


def measure_rate(work: Callable[[], int], warm_up: int) -> float:
    """Return units per second of some work, over `MEASURED_SECONDS` and at least two calls.

    Args:
        work: does a part of the work, and returns how many units that were.
        warm_up: number of calls before measuring.
    """
    for _ in range(warm_up):
        work()
    begin, units = time.monotonic(), 0
    for call in itertools.count(1):
        units += work()
        seconds = time.monotonic() - begin
        if seconds >= MEASURED_SECONDS and call >= 2:
            break
    return units / seconds
