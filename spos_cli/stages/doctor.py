"""`spos doctor`: whether a setup can be trusted, before days of training go into it."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text
from torch import nn

from spos_cli import seeding
from spos_cli.config.schema import TrainingConfig
from spos_cli.data import inspection, levels
from spos_cli.data.cache import ResizedSet, free_memory, keep_in_memory
from spos_cli.data.datasets import FolderSet, ImageSet, require_classes
from spos_cli.data.image_files import UNREADABLE
from spos_cli.data.loaders import BadImages, training_batches
from spos_cli.data.workers import shared_memory_free, shared_memory_needed
from spos_cli.engine import accelerator, distributed
from spos_cli.engine.distributed import Processes
from spos_cli.engine.progress import console, track
from spos_cli.engine.trainer import Trainer, require_compiler
from spos_cli.errors import DataError, LimitError, RunError, SposError
from spos_cli.models.counting import Costs, count
from spos_cli.models.network import Network
from spos_cli.models.supernet import Supernet
from spos_cli.official import golden
from spos_cli.run.command import Run
from spos_cli.run.images import Images, more_shared_memory
from spos_cli.run.inputs import make_sampler, read_latency, require_batch, training_recipe
from spos_cli.run.output import in_bytes, screen
from spos_cli.space.cost import format_cost
from spos_cli.space.sampling import CostBinSampler, Sampler, UniformSampler
from spos_cli.space.search_space import PUBLISHED, SearchSpace

Status = Literal["ok", "warn", "fail"]
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}

GOOD_WIDTH = 8  # channels that the vector units of CPUs and the tensor cores of GPUs take at a time
FEW_ARCHITECTURES = 0.01  # share of the space under the limit
FEW_IMAGES_OF_BATCHNORM = 16  # in one batch
FEW_CALIBRATION_BATCHES = 5
IMBALANCE = 10  # images of the largest class to those of the smallest
DECODED_SAMPLE = 200  # images of each split, without --full
COMPARED_SAMPLE = {"train": 50_000, "val": 2_000}  # files looked up by size, without --full
MANY_IN_BOTH = 0.001  # share of the validation images: more than that moves an accuracy
RECORD = 300  # bytes of a tensor's name, shape and place in a file, about
NAMED = 5  # examples in a line

SECONDS = 2.0  # of measuring a rate, after warming up
CPU_BATCH = 32  # images per step when measuring on a CPU, at most
LOADER_BATCH = 32  # images per batch when measuring the loader, at most
STORED = 256  # images of a store that the loader is measured on
HEADROOM = 1.2  # of the loader over the device


@dataclass(frozen=True)
class Finding:
    """One line of the result: what was looked at, how it is, what was seen, and what to do if it is not ok."""

    check: str
    status: Status
    seen: str
    advice: str = ""


Findings = list[Finding]


class Setup:
    """What is looked at: an experiment on this machine.

    Attributes:
        full: read all images, not a sample.
        count: processes that the trainings start on this machine.
        threads: CPU threads of each.
        device: what the first of them computes on.
        images: of the experiment; opened when they are first asked for.
        too_broken: whether images were found, unreadable or of another range of values, that end a stage.
    """

    def __init__(self, run: Run, full: bool = False) -> None:
        self.run, self.config, self.full = run, run.config, full
        self.count = distributed.wanted(self.config.devices)
        work = self.space.work * self.batch_per_process(self.config.supernet)
        self.threads = distributed.thread_count(self.config.threads, self.count, work)
        self.device = distributed.device_of(self.config.devices, 1, 0)
        self.images = Images(self.config, Processes(0, 1, self.device))
        self.too_broken = False

    @cached_property
    def space(self) -> SearchSpace:
        """The search space of the settings."""
        return self.config.space.build()

    @cached_property
    def costs(self) -> Costs:
        """What its architectures cost."""
        return count(self.space)

    @cached_property
    def unreadable(self) -> DataError | None:
        """Why the images cannot be opened at all, if so."""
        try:
            _ = self.images.train, self.images.val
        except DataError as error:
            return error
        return None

    @property
    def loadable(self) -> bool:
        """Whether nothing is known to keep the loader from working; other checks say what does."""
        if self.unreadable is not None or self.too_broken:
            return False
        try:
            _ = self.images.splits, self.images.augmented
        except SposError:
            return False
        return True

    def batch_per_process(self, training: TrainingConfig) -> int:
        """Images of one pass of one process; rounded down if the batch cannot be shared out."""
        return max(1, training.batch_size // (self.count * training.accumulate))


def run(run: Run, full: bool) -> None:
    """Shows a table of findings. Nothing is written.

    Args:
        full: read all images, not a sample.

    Raises:
        SposError: a check failed; the table says which.
    """
    setup = Setup(run, full)
    torch.set_num_threads(setup.threads)  # as each process of a training has them
    groups = [check(setup) for check in CHECKS]
    findings = [finding for group in groups for finding in group]
    run.result([asdict(finding) for finding in findings])
    if not run.as_json:
        show(run, groups)
    failed = Counter(finding.status for finding in findings)["fail"]
    if failed:
        raise SposError(f"{failed} {'check' if failed == 1 else 'checks'} failed; see above")
    run.next("supernet-train")


def show(run: Run, groups: Sequence[Findings]) -> None:
    """The table, a rule between groups, and a line that sums it up."""
    table = Table()
    table.add_column("check", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("seen, and what to do", overflow="fold")
    for group in groups:
        for finding in group:
            style = STYLES[finding.status]
            told = Text(finding.seen)
            if finding.advice:
                told.append(f"\n→ {finding.advice}", style)
            table.add_row(Text(finding.check), Text(finding.status, style), told)
        table.add_section()
    screen().print(table)
    statuses = Counter[str](finding.status for group in groups for finding in group)
    run.say(", ".join(f"{statuses[status]} {status}" for status in STYLES), "bold")


def attempt(check: str, look: Callable[[], Finding], advice: str = "") -> Finding:
    """What a look finds; a mistake of the user that it meets is a finding too, with what the error advises and more."""
    try:
        return look()
    except SposError as error:
        seen, _, advised = str(error).partition("; ")
        return Finding(check, "fail", seen, "; ".join(filter(None, (advised, advice))))


def judged(check: str, seen: str, advice: Sequence[str]) -> Finding:
    """A warning if there is anything to advise."""
    return Finding(check, "warn" if advice else "ok", seen, "; ".join(advice))


# Processes


def check_processes(setup: Setup) -> Findings:
    """The processes that will run on this machine, their batches, mixed precision, and compiled blocks."""
    return [
        attempt("processes", lambda: processes(setup)),
        attempt("supernet batch", lambda: batch("supernet batch", setup, setup.config.supernet)),
        attempt("retrain batch", lambda: batch("retrain batch", setup, setup.config.retrain)),
        shared_memory(setup),
        mixed_precision(setup),
        *compiler(setup),
    ]


def processes(setup: Setup) -> Finding:
    """How many, on which devices, with how many threads and loader workers."""
    count, config, cores = setup.count, setup.config, distributed.usable_cores()
    accelerator.require_usable(config.devices)
    devices = [distributed.device_of(config.devices, count, rank) for rank in range(count)]
    gpus, on_gpus = accelerator.count(), setup.device.type != "cpu"
    names = ", ".join(map(str, devices)) if on_gpus else "cpu"
    backend = "" if count == 1 else f", messages by {accelerator.messenger(setup.device).replace('nccl', 'NCCL')}"
    seen = (
        f"{plural(count, 'process', 'processes')} on {names}: {plural(setup.threads, 'thread')} and"
        f" {plural(config.data.workers, 'loader worker')} each{backend}; {plural(cores, 'core')},"
        f" {plural(gpus, 'GPU')}"
    )
    advice = []
    if count * setup.threads > cores:
        advice.append(
            f"{count} x {setup.threads} threads wait for each other on {plural(cores, 'core')}: lower --devices or"
            f" threads, to {cores} in all"
        )
    if gpus > (count if on_gpus else 0) and accelerator.is_usable():
        advice.append("not all GPUs are used: --devices auto takes them all")
    if not (gpus and accelerator.is_usable()) and shutil.which("nvidia-smi"):
        advice.append("this machine has an NVIDIA driver, but this PyTorch cannot use it: install a CUDA build for it")
    return judged("processes", seen, advice)


def batch(check: str, setup: Setup, training: TrainingConfig) -> Finding:
    """How a global batch is shared out."""
    each = require_batch(setup.space, training, setup.count, check.split()[0])
    passes = f" x {training.accumulate} passes" if training.accumulate > 1 else ""
    seen = f"{training.batch_size:,} images a step = {plural(setup.count, 'process', 'processes')}{passes} x {each:,}"
    return Finding(check, "ok", seen)


def shared_memory(setup: Setup) -> Finding:
    """Whether batches find room on their way from loader workers; Docker gives 64 MB to a container."""
    name, config = "shared memory", setup.config
    size = max(map(setup.batch_per_process, (config.supernet, config.retrain)))
    needed = setup.count * shared_memory_needed(config.data.workers, size, config.space.image_size)
    free = shared_memory_free()
    if not needed or free is None:
        return Finding(name, "ok", "not used: there are no loader workers" if not needed else "this system needs none")
    seen = f"batches on their way from the loader workers take up to {in_bytes(needed)}; {in_bytes(free)} are free"
    if needed <= free:
        return Finding(name, "ok", seen)
    return Finding(name, "warn", seen + ": what finds no room goes through slower pipes", more_shared_memory(needed))


def mixed_precision(setup: Setup) -> Finding:
    """Whether the device can do what the stages ask for."""
    name, device = "mixed precision", setup.device
    stages = {stage: getattr(setup.config, stage).amp for stage in ("supernet", "search", "retrain")}
    used = {stage: amp for stage, amp in stages.items() if amp != "off"}
    seen = ", ".join(f"{stage} {amp}" for stage, amp in used.items()) or "off in all stages"
    half = [f"{stage}.amp" for stage, amp in used.items() if amp == "fp16"]
    if half and device.type == "cpu":
        return Finding(name, "fail", f"{seen}; fp16 needs a GPU", f"set {' and '.join(half)} to bf16 or off")
    if "bf16" in used.values() and not accelerator.has_fast(device, "bf16"):
        return Finding(name, "warn", f"{seen}; {device} only emulates bf16", "use off, which is faster there")
    return Finding(name, "ok", seen)


def compiler(setup: Setup) -> Findings:
    """What blocks are compiled with, where a stage asks for it."""
    stages = [stage for stage in ("supernet", "retrain") if getattr(setup.config, stage).compile == "blocks"]
    seen = f"{' and '.join(stages)} blocks"

    def look() -> Finding:
        return Finding("compiler", "ok", f"{seen}, by {require_compiler(setup.device)}")

    return [attempt("compiler", look)] if stages else []


# Costs


def check_costs(setup: Setup) -> Findings:
    """The published space's costs, and what the settings ask of this one."""
    return [
        attempt("published costs", published_costs),
        attempt("search space", lambda: under_limit(setup), "change the space"),
        attempt("shape of the space", lambda: shape_of_space(setup), "change the space"),
        attempt(
            "path sampler", lambda: path_sampler(setup), "change supernet.flops_bins, or use supernet.sampler=uniform"
        ),
    ]


def published_costs() -> Finding:
    """Whether FLOPs and parameters are counted as they were published."""
    costs = count(PUBLISHED)
    counted = {
        "FLOPs of the published architecture": (costs.flops.of(golden.WINNER), golden.WINNER_FLOPS),
        "its parameters": (costs.params.of(golden.WINNER), golden.WINNER_PARAMS),
        "least FLOPs of its space": (costs.flops.minimum, golden.LEAST_FLOPS),
        "most FLOPs of its space": (costs.flops.maximum, golden.MOST_FLOPS),
    }
    wrong = [f"{what} {ours:,} instead of {theirs:,}" for what, (ours, theirs) in counted.items() if ours != theirs]
    if wrong:
        advice = f"no cost or limit can be trusted with PyTorch {torch.__version__}: install another version"
        return Finding("published costs", "fail", ", ".join(wrong), advice)
    seen = f"the published architecture has {golden.WINNER_FLOPS:,} FLOPs and {golden.WINNER_PARAMS:,} parameters"
    return Finding("published costs", "ok", f"{seen}, as it should")


def under_limit(setup: Setup) -> Finding:
    """How much of the space the search may look at."""
    flops, search = setup.costs.flops, setup.config.search
    seen = f"{setup.space.size:,} architectures of {format_cost(flops.minimum)} to {format_cost(flops.maximum)} FLOPs"
    limits = [(flops, search.flops_limit), (setup.costs.params, search.params_limit)]
    if search.latency_limit is not None:
        with contextlib.suppress(RunError):  # it may be measured later, and the search says so
            limits.append((read_latency(setup.run), search.latency_limit))
    given = [(table, limit) for table, limit in limits if limit is not None]
    if not given:
        return Finding("search space", "ok", f"{seen}, no limit")
    fail, advice = [], []
    for table, limit in given:
        name, share = f"search.{table.name}_limit", table.distribution().share(None, limit)
        seen += f"; {percent(share)} at or under {name} {table.written(limit)}"
        if share == 0:
            fail.append(f"raise {name} to {table.written(table.minimum)} or more")
        elif idle := table.idle(limit):
            advice.append(f"{idle}: lower {name}, or set it to null")
        elif share < FEW_ARCHITECTURES:
            advice.append(f"little is left to choose from: raise {name}")
    return Finding("search space", "fail", seen, "; ".join(fail)) if fail else judged("search space", seen, advice)


def shape_of_space(setup: Setup) -> Finding:
    """What makes a space a poor one, though it can be searched."""
    space, flops = setup.space, setup.costs.flops
    problems = []
    last = space.layers[-space.stages[-1].blocks]
    if last.in_size == 1:
        first = next(layer for layer in space.layers if layer.in_size == 1)
        problems.append(f"images are 1x1 pixels from layer {first.index} on, before the last stage")
    alike = [index for index, row in enumerate(flops.rows) if len(row) > 1 and len(set(row)) == 1]
    if alike:
        problems.append(f"all choices of layers {_listed(alike)} cost the same FLOPs, so no limit chooses among them")
    channels = {layer.out_channels // 2 if layer.split else layer.out_channels for layer in space.layers}
    channels |= {
        layer.middle(choice, width)
        for layer in space.layers
        for choice in layer.choices
        if choice.is_scaled
        for width in space.widths
    }
    odd = sorted(number for number in {*channels, space.head_channels} if number % GOOD_WIDTH)
    if odd:
        problems.append(f"convolutions of {_listed(odd)} channels are slow: multiples of {GOOD_WIDTH} are not")
    if problems:
        return Finding("shape of the space", "warn", "; ".join(problems), "change its stages, choices or widths")
    return Finding("shape of the space", "ok", f"the last stage works on {last.in_size}x{last.in_size} pixels")


def _listed(numbers: Sequence[int]) -> str:
    """A few of many."""
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")


def path_sampler(setup: Setup) -> Finding:
    """Whether the sampler can draw, and draws what the search will look at."""
    supernet, limit = setup.config.supernet, setup.config.search.flops_limit
    sampler = make_sampler(setup.run, setup.space)
    sampler.paths(0)
    if supernet.sampler != "flops_bins":
        kind = "uniform over the space" if supernet.sampler == "uniform" else "every choice in every step"
        return Finding("path sampler", "ok", kind)
    bins = supernet.flops_bins
    share = setup.costs.flops.distribution().share(bins.low, bins.high)
    seen = (
        f"uniform over {plural((bins.high - bins.low) // bins.width, 'bin')} of FLOPs, {format_cost(bins.low)} to"
        f" {format_cost(bins.high)}: {percent(share)} of the space"
    )
    if limit is not None and limit < bins.low:
        advice = "no path at or under search.flops_limit is trained: lower supernet.flops_bins.low, or raise the limit"
        return Finding("path sampler", "warn", seen, advice)
    idle = sampler.idle() if isinstance(sampler, CostBinSampler) else ""
    return judged("path sampler", seen, [f"{idle}: change supernet.flops_bins"] if idle else [])


# Self-test


def check_devices(setup: Setup) -> Findings:
    """The published model's logits on the CPU and on every GPU."""
    gpus = map(accelerator.device, range(accelerator.count()))
    with console.status("self-test"):
        return [self_test(device) for device in (accelerator.CPU, *gpus)]


def self_test(device: torch.device) -> Finding:
    """Whether a device computes what it should."""
    name, version = f"self-test on {device}", f"PyTorch {torch.__version__}"
    advice = f"nothing that is computed there can be trusted: check the driver, or install {version} anew"
    try:
        errors = golden.self_test(device)
    except RuntimeError as error:  # a driver that does not fit, a GPU that this build does not know, memory in use
        return Finding(name, "fail", f"{version}: {first_line(error)}", advice)
    worst, tolerance = float(np.max(list(errors.values()))), golden.tolerance(device)
    seen = f"{version}: logits of the published model are off by {worst:.0e} of their RMS (allowed: {tolerance:.0e})"
    if not worst <= tolerance:  # NaN included
        return Finding(name, "fail", seen, advice)
    return Finding(name, "ok", seen)


# BatchNorm


def check_batchnorm(setup: Setup) -> Findings:
    """How BatchNorm works in each stage."""
    return [supernet_batchnorm(setup), search_batchnorm(setup), retrain_batchnorm(setup)]


def supernet_batchnorm(setup: Setup) -> Finding:
    """Published: without scale and shift."""
    training = setup.config.supernet
    advice = ["set supernet.affine=false, as published"] if training.affine else []
    advice += small_batch(setup, "supernet", training)
    return judged("BatchNorm: supernet", batchnorm_seen(setup, training), advice)


def search_batchnorm(setup: Setup) -> Finding:
    """Published: statistics recomputed for each candidate, from training images."""
    search = setup.config.search
    size, images = search.calibration_batch_size, search.calibration_images
    available = len(setup.images.splits[0]) if setup.loadable else images
    batches = min(images, available) // size
    momentum = search.calibration_momentum
    estimator = "the plain average" if momentum is None else f"an average with momentum {momentum:g}"
    seen = f"recomputed for each candidate: {estimator} of {batches:,} batches of {size:,} training images"
    advice = []
    if batches < FEW_CALIBRATION_BATCHES <= available // size:
        advice.append(f"raise search.calibration_images to {FEW_CALIBRATION_BATCHES * size:,} or more")
    elif batches < FEW_CALIBRATION_BATCHES:
        least = max(2, available // FEW_CALIBRATION_BATCHES)  # one image may be too few for any variance
        advice.append(f"lower search.calibration_batch_size to {least:,}: there are {available:,} training images")
    if size < FEW_IMAGES_OF_BATCHNORM:
        advice.append(f"raise search.calibration_batch_size to {FEW_IMAGES_OF_BATCHNORM} or more")
    return judged("BatchNorm: search", seen, advice)


def retrain_batchnorm(setup: Setup) -> Finding:
    """Published: with scale and shift, and a last pass over the training images."""
    training = setup.config.retrain
    steps = training.batchnorm_pass_steps
    last = "one epoch" if steps is None else plural(steps, "batch", "batches") if steps else "none"
    advice = []
    if not training.affine:
        # https://github.com/microsoft/nni/issues/2883
        advice.append("set retrain.affine=true, as published; NNI's example trains without, and ends below the paper")
    advice += small_batch(setup, "retrain", training)
    return judged("BatchNorm: retrain", f"{batchnorm_seen(setup, training)}; last pass: {last}", advice)


def batchnorm_seen(setup: Setup, training: Any) -> str:
    """Scale and shift, and how many images make the statistics."""
    affine = "learned scale and shift" if training.affine else "no scale and shift"
    return f"{affine}; statistics of {setup.batch_per_process(training):,} images a batch"


def small_batch(setup: Setup, section: str, training: TrainingConfig) -> list[str]:
    """BatchNorm is per process and pass: what to do if that leaves it few images."""
    if setup.batch_per_process(training) >= FEW_IMAGES_OF_BATCHNORM:
        return []
    return [f"too few for good statistics: raise {section}.batch_size, or use fewer processes or passes (accumulate)"]


# Images


def check_data(setup: Setup) -> Findings:
    """Augmentation, classes, images that are broken, passed over or in both sets, and the split of the search."""
    prepared = attempt("augmentation", lambda: augmentation(setup))
    if setup.unreadable is not None:
        seen, _, advice = str(setup.unreadable).partition("; ")
        rest = Finding("all else of images", "warn", "not checked, since they cannot be opened", "mend that first")
        return [prepared, Finding("images", "fail", seen, advice), rest]
    train, val = setup.images.train, setup.images.val
    return [
        prepared,
        class_sizes("training images", train),
        class_sizes("validation images", val),
        attempt("classes", lambda: classes(train, val, setup.space.classes)),
        attempt("search split", lambda: search_split(setup)),
        passed_over("other files", setup),
        images_in_both(setup),
        broken_images(setup),
        values(setup),
    ]


def augmentation(setup: Setup) -> Finding:
    """What happens to training images."""
    chosen = setup.images.augmented.augmentation
    flip = "flipped or not" if chosen.flip else "not flipped"
    seen = f"preset {setup.config.data.preset}, crop {chosen.crop}, {flip}, colour jitter {chosen.jitter:g}"
    return Finding("augmentation", "ok", seen)


def class_sizes(check: str, images: ImageSet) -> Finding:
    """How many images each class has."""
    sizes = np.bincount(images.labels, minlength=len(images.classes))
    least, most = int(sizes.argmin()), int(sizes.argmax())
    seen = f"{len(images):,} of {plural(len(images.classes), 'class', 'classes')}"
    if sizes[least] == sizes[most]:
        return Finding(check, "ok", f"{seen}, {sizes[least]:,} each")
    seen += f", {sizes[least]:,} (class {images.classes[least]}) to {sizes[most]:,} (class {images.classes[most]}) each"
    if sizes[most] > IMBALANCE * sizes[least]:
        return Finding(check, "warn", seen, "top-1 will be that of the large classes: check the folders of the small")
    return Finding(check, "ok", seen)


def classes(train: ImageSet, val: ImageSet, expected: int) -> Finding:
    """Whether both sets and the space have the same classes, and more than one."""
    require_classes(train, val)
    alone = {
        "training": sorted(set(train.classes) - set(val.classes)),
        "validation": sorted(set(val.classes) - set(train.classes)),
    }
    if train.classes != val.classes:
        seen = "; ".join(
            f"{len(names)} only in {images}: {examples(names)}" for images, names in alone.items() if names
        )
        return Finding("classes", "fail", seen, f"give the folders of {train.name} and {val.name} the same names")
    if len(train.classes) != expected:
        found = f"{plural(len(train.classes), 'class', 'classes')} ({examples(train.classes)})"
        advice = f"set space.classes={len(train.classes)}"
        advice += ", or remove the folders that are no classes" if isinstance(train, FolderSet) else ""
        return Finding("classes", "fail", f"{found}, but space.classes is {expected}", advice)
    return Finding("classes", "ok", f"the same {expected:,} in training and validation, as space.classes says")


def search_split(setup: Setup) -> Finding:
    """What candidates are scored on, and what is left to train on."""
    search, per_class = setup.config.search, setup.config.data.holdout_per_class
    training, held_out = setup.images.splits
    seen = f"{len(held_out):,} training images are held out ({per_class} of each class), {len(training):,} are left"
    if len(training) < search.calibration_batch_size:
        lower = f"lower search.calibration_batch_size from {search.calibration_batch_size} to at most {len(training)}"
        return Finding("search split", "fail", f"{seen}: fewer than one calibration batch", lower)
    advice = []
    smallest = int(np.bincount(setup.images.train.labels).min())
    if per_class > smallest / 2:
        advice.append(f"that is most of a class of {smallest}: lower data.holdout_per_class")
    if search.split == "val":
        seen = f"candidates are scored on the validation set; {seen}"
        advice.append("the accuracy on the validation set will be too high: use search.split=holdout, or say so")
    return judged("search split", seen, advice)


def passed_over(check: str, setup: Setup) -> Finding:
    """Files that are in the folders, but that no stage sees."""
    folders = [images for images in (setup.images.train, setup.images.val) if isinstance(images, FolderSet)]
    if not folders:
        return Finding(check, "ok", "no folders, all images are in memory")
    files = [file for folder in folders for file in inspection.passed_over(folder)]
    if files:
        advice = "they are not used: save images as .jpg or .png below a class folder, remove the rest"
        return Finding(
            check, "warn", f"{len(files):,} that are no images of a class: {examples(files, setup.full)}", advice
        )
    return Finding(check, "ok", "none, every file is an image of a class")


def images_in_both(setup: Setup) -> Finding:
    """Validation images that are trained on."""
    train, val = setup.images.train, setup.images.val
    everything = setup.full or not isinstance(train, FolderSet)
    chosen = {
        split: np.arange(len(images)) if everything else sample(setup, split, images, COMPARED_SAMPLE[split])
        for split, images in (("train", train), ("val", val))
    }
    total = sum(map(len, chosen.values()))
    with track("comparing images", total, "images", quiet=setup.run.as_json) as task:
        pairs = inspection.in_both(train, val, chosen["train"], chosen["val"], readers(), task.advance)
    compared = f"in {of_all(len(chosen['val']), len(val))} validation and {of_all(len(chosen['train']), len(train))}"
    compared += " training images" if total == len(train) + len(val) else " training images; --full compares all"
    if not pairs:
        return Finding("images in both", "ok", f"none {compared}")
    names = [f"{inspection.place(val, second)} = {inspection.place(train, first)}" for first, second in pairs]
    status: Status = "fail" if len(pairs) > MANY_IN_BOTH * len(chosen["val"]) else "warn"
    advice = "the accuracy will be too high: remove them from the training images"
    return Finding("images in both", status, f"{len(pairs):,} {compared}: {examples(names, setup.full)}", advice)


def broken_images(setup: Setup) -> Finding:
    """Files that cannot be decoded: a training passes over a few, all else ends when it meets one."""
    sets = {"train": setup.images.train, "val": setup.images.val}
    if not any(isinstance(images, FolderSet) for images in sets.values()):
        return Finding("unreadable images", "ok", "none, all images are in memory")
    chosen = {
        split: np.arange(len(images)) if setup.full else sample(setup, split, images, DECODED_SAMPLE)
        for split, images in sets.items()
    }
    total, everything = sum(map(len, chosen.values())), sum(map(len, sets.values()))
    problems: dict[str, dict[int, str]] = {}
    with track("reading images", total, "images", quiet=setup.run.as_json) as task:
        for split, images in sets.items():
            problems[split] = inspection.broken(images, chosen[split], readers(), task.advance)
    read = f"in {of_all(total, everything)}" + ("" if total == everything else "; --full reads all")
    found = [problem.removeprefix(UNREADABLE) for split in problems.values() for problem in split.values()]
    if not found:
        return Finding("unreadable images", "ok", f"none {read}")
    seen = f"{len(found):,} {read}: {examples(found, setup.full)}"
    allowed = setup.config.data.bad_images
    expected = len(problems["train"]) * len(sets["train"]) / len(chosen["train"])  # in all training images
    setup.too_broken = bool(problems["val"]) or held_out(setup, problems["train"]) or expected > allowed
    if setup.too_broken:
        advice = "remove or replace them: a stage ends when it meets them"
        return Finding("unreadable images", "fail", seen, advice)
    advice = f"remove or replace them; a training passes over as many as data.bad_images, {allowed:,}, allows"
    return Finding("unreadable images", "warn", seen, advice)


def values(setup: Setup) -> Finding:
    """Whether the values of the images are 8 bits a channel, or `data.value_range` says how they become so."""
    check, value_range = "range of values", setup.config.data.value_range
    sets = {"train": setup.images.train, "val": setup.images.val}
    if not any(isinstance(images, FolderSet) for images in sets.values()):
        return Finding(check, "ok", "8 bits a channel, all images are in memory")
    chosen = {
        split: np.arange(len(images)) if setup.full else sample(setup, split, images, DECODED_SAMPLE)
        for split, images in sets.items()
    }
    total, everything = sum(map(len, chosen.values())), sum(map(len, sets.values()))
    with track("measuring values", total, "images", quiet=setup.run.as_json) as task:
        found = [
            one
            for split, images in sets.items()
            for one in inspection.levels_of(images, chosen[split], readers(), task.advance)
        ]
    read = f"in {of_all(total, everything)}" + ("" if total == everything else "; --full reads all")
    if not found:
        return Finding(check, "ok", f"8 bits a channel {read}")
    seen = f"{len(found):,} {read}: {levels.describe(found)}, such as {found[0].path}"
    refused = [one for one in found if not levels.fits(one.depth, value_range)]
    if refused:
        setup.too_broken = True  # the loader would not work either
        alike = [one for one in refused if one.depth == refused[0].depth]
        return Finding(check, "fail", seen, levels.advise(alike))
    return judged(check, seen, levels.list_doubts(found, value_range))


def held_out(setup: Setup, indices: Iterable[int]) -> bool:
    """Whether some of these training images are held out for the search, which scores on all of them."""
    try:
        return bool(np.isin(list(indices), setup.images.splits[1]).any())
    except DataError:
        return False  # they cannot be divided, which another check says


def sample(setup: Setup, split: str, images: ImageSet, most: int) -> NDArray[np.int64]:
    """The indices of some images, by seed; of all if they are few."""
    rng = seeding.generator(setup.config.seed, f"doctor {split}")
    return np.sort(rng.permutation(len(images))[:most])


def readers() -> int:
    """Processes that read images."""
    cores = distributed.usable_cores()
    return cores if cores > 1 else 0


# Disk


def check_disk(setup: Setup) -> Findings:
    """Whether what a run leaves has room in its folder."""
    folder = setup.run.folder.root.absolute()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir():
        return [Finding("disk", "fail", f"{existing} is a file", "move it, or choose another --run-dir")]
    if not os.access(existing, os.W_OK | os.X_OK):
        return [Finding("disk", "fail", f"{existing} cannot be written", "choose another --run-dir")]
    rooms = [attempt("disk", lambda: room(setup, folder, existing))]
    if setup.config.data.store == "ram":
        rooms.append(attempt("memory", lambda: memory(setup)))
    return rooms


def memory(setup: Setup) -> Finding:
    """Whether `data.store: ram` can hold the training images."""
    if setup.count > 1:
        advice = "use data.store=disk, which they share"
        return Finding("memory", "fail", f"each of {setup.count} processes would hold the images", advice)
    if setup.unreadable is not None or not isinstance(setup.images.to_augment, ResizedSet):
        return Finding("memory", "ok", "the images are in memory as they are")
    needed, free = setup.images.to_augment.bytes_for(np.arange(len(setup.images.train))), free_memory()
    if free is None:
        return Finding("memory", "warn", f"{in_bytes(needed)} for images", "make sure that there is so much")
    seen = f"{in_bytes(needed)} for images; {in_bytes(free)} are free"
    return Finding("memory", "ok", seen) if needed <= free else Finding("memory", "fail", seen, "use data.store=disk")


def room(setup: Setup, folder: Path, existing: Path) -> Finding:
    """How much a run leaves, and how much is free."""
    parts = disk_needs(setup)
    needed, free = sum(parts.values()), shutil.disk_usage(existing).free
    listed = ", ".join(f"{name} {in_bytes(size)}" for name, size in parts.items())
    seen = f"{in_bytes(needed)} for {folder} ({listed}); {in_bytes(free)} are free"
    advice = "free some, choose another --run-dir, or lower keep_checkpoints and search.calibration_images"
    if free < needed:
        return Finding("disk", "fail", seen, advice)
    return Finding("disk", "warn" if free < 2 * needed else "ok", seen, advice if free < 2 * needed else "")


def disk_needs(setup: Setup) -> dict[str, int]:
    """Bytes that each stage leaves at most, one retrained architecture included."""
    config, search = setup.config, setup.config.search
    with torch.device("meta"):
        supernet = Supernet(setup.space, config.supernet.affine)
        network = Network(setup.space, setup.costs.params.dearest, config.retrain.affine)
    scored = setup.space.classes * config.data.holdout_per_class
    calibration = search.calibration_images
    if setup.unreadable is None:
        calibration = min(calibration, len(setup.images.train))
        scored = len(setup.images.val) if search.split == "val" else scored
    scored = min(scored, search.images or scored)
    images, stored = setup.images, {}
    if config.data.store == "disk" and setup.unreadable is None and isinstance(images.to_augment, ResizedSet):
        stored = {"stored images": images.to_augment.bytes_for(np.arange(len(images.train)))}
    # One more than are kept, since the oldest is removed when the newest is complete.
    return {
        **stored,
        "supernet": checkpoint_bytes(supernet) * (config.supernet.keep_checkpoints + 1),
        "search": (scored + calibration) * 3 * config.space.image_size**2,
        "retraining": checkpoint_bytes(network, config.retrain.ema_decay is not None)
        * (config.retrain.keep_checkpoints + 1)
        + state_bytes(network),
    }


def checkpoint_bytes(model: nn.Module, ema: bool = False) -> int:
    """Of the weights, their momentum and their moving average."""
    momentum = sum(map(tensor_bytes, model.parameters()))
    return state_bytes(model) * (2 if ema else 1) + momentum


def state_bytes(model: nn.Module) -> int:
    """Of weights and statistics."""
    return sum(map(tensor_bytes, model.state_dict().values()))


def tensor_bytes(tensor: torch.Tensor) -> int:
    """Of a tensor in a file."""
    return tensor.numel() * tensor.element_size() + RECORD


# Speed


def check_speed(setup: Setup) -> Findings:
    """Whether the loader keeps up with the device, and how long the supernet takes."""
    with console.status("measuring speed"):
        return [attempt("speed", lambda: speed(setup))]


def speed(setup: Setup) -> Finding:
    """Images a second of the training steps and of the loader, each alone, for all processes of this machine."""
    training, workers = setup.config.supernet, setup.config.data.workers
    images, cores = training.steps * training.batch_size, distributed.usable_cores()
    size = setup.batch_per_process(training)
    size = min(size, CPU_BATCH) if setup.device.type == "cpu" else size
    setup.space.require_variance(size, "supernet.batch_size")
    try:
        step = step_rate(setup, size)
    except torch.OutOfMemoryError:
        advice = "raise supernet.accumulate, or use more GPUs: the batch of a step stays as it is"
        return Finding("speed", "fail", f"a batch of {size:,} images does not fit into {setup.device}", advice)
    except RuntimeError as error:  # a device that cannot be used, or breaks down
        advice = "check the driver, and whether this PyTorch is built for the device"
        return Finding("speed", "fail", first_line(error), advice)
    # Processes on a CPU are faster together only as far as there are cores.
    step *= min(setup.count, max(1, cores // setup.threads)) if setup.device.type == "cpu" else setup.count
    seen = f"training: {rate(step)}, measured in batches of {size:,}"
    if not setup.loadable:
        seen += f"; loader: not measured; {estimate(images / step)}"
        return Finding("speed", "warn", seen, "mend the images first")
    load = loader_rate(setup, min(setup.batch_per_process(training), LOADER_BATCH))
    load *= 1 if workers else min(setup.count, cores)
    # Without workers, a process loads a batch and trains on it in turn.
    together = min(load, step) if workers else 1 / (1 / load + 1 / step)
    seen += f"; loader: {rate(load)} by {plural(workers * setup.count, 'worker')}; {estimate(images / together)}"
    if load >= HEADROOM * step:
        return Finding("speed", "ok", seen)
    share = max(1, cores // setup.count)
    smaller = "store the images smaller" + " (data.store=disk)" * (setup.config.data.store == "none")
    mend = f"set data.workers={share}" if workers < share else f"{smaller}, or use a faster disk or CPU"
    return Finding("speed", "warn", seen, f"the loader holds the training up: {mend}")


def step_rate(setup: Setup, size: int) -> float:
    """Images a second of one process in supernet steps: forward, backward, update."""
    config, device = setup.config, setup.device
    # One pass is measured, and not the compiler.
    recipe = replace(training_recipe(config.supernet), batch_size=size, accumulate=1, compile="off")
    if recipe.amp == "fp16" and device.type == "cpu":
        recipe = replace(recipe, amp="off")  # another check says so
    sampler = speed_sampler(setup)
    trainer = Trainer(
        Supernet(setup.space, config.supernet.affine, config.supernet.dropout),
        recipe,
        Processes(0, 1, device),
        name="doctor",
        folder=setup.run.folder.root,  # nothing is written before a first checkpoint
        identity={},
        seed=config.seed,
        preprocess=setup.images.preprocess,
        arguments=lambda step: [(path,) for path in sampler.paths(step)],
    )
    trainer.model.train()
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 3, *[setup.space.image_size] * 2), dtype=torch.uint8, generator=rng)
    labels = torch.randint(0, setup.space.classes, (size,), generator=rng)
    jitter = config.data.augmentation.jitter
    colours = torch.tensor([[1.0, 0.0, 0.0]]).repeat(size, 1) if jitter else None
    if accelerator.pins_memory(device):  # as the loader hands them over
        images, labels = images.pin_memory(), labels.pin_memory()
        colours = None if colours is None else colours.pin_memory()
    stream = itertools.repeat((images, colours, labels))

    def step() -> int:
        trainer.update(stream)
        trainer.step += 1
        accelerator.synchronize(device)
        return size

    return measured(step, warm_up=1 if device.type == "cpu" else 5)


def speed_sampler(setup: Setup) -> Sampler:
    """The training's, or the uniform one where that cannot be made, which another check says."""
    try:
        return make_sampler(setup.run, setup.space)
    except LimitError:
        return UniformSampler(setup.space.options, setup.config.seed)


def loader_rate(setup: Setup, size: int) -> float:
    """Images a second of all loader workers on this machine; or of one process, if it loads itself."""
    config, images = setup.config, setup.images
    workers = config.data.workers * setup.count
    training, _ = images.splits
    bad_images = BadImages(config.data.bad_images, lambda problem: None)  # another check says it
    source = images.to_augment
    if isinstance(source, ResizedSet):  # a few in memory stand for all that will be stored
        training = training[:: math.ceil(len(training) / STORED)]
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

    def one_of_each_worker() -> int:
        return sum(len(next(batches)[0]) for _ in range(max(1, workers)))

    return measured(one_of_each_worker, warm_up=1)


def measured(work: Callable[[], int], warm_up: int) -> float:
    """Units a second of work that says how many units it has done, over `SECONDS` or at least two turns."""
    for _ in range(warm_up):
        work()
    begin, done = time.monotonic(), 0
    for turn in itertools.count(1):
        done += work()
        seconds = time.monotonic() - begin
        if seconds >= SECONDS and turn >= 2:
            break
    return done / seconds


CHECKS: tuple[Callable[[Setup], Findings], ...] = (
    check_processes,
    check_costs,
    check_devices,
    check_batchnorm,
    check_data,
    check_disk,
    check_speed,
)


# How numbers are written


def plural(number: int, one: str, many: str = "") -> str:
    """`1 process`, `2 processes`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """`53%`, `0.12%`: two digits, so that a small share does not look like none; `100%` is all."""
    return f"{share * 100:.2g}%" if share < 0.99 else f"{math.floor(share * 1000) / 10:g}%"


def of_all(number: int, total: int) -> str:
    """`all 359`, or `200 of 50,000`."""
    return f"all {total:,}" if number == total else f"{number:,} of {total:,}"


def first_line(error: RuntimeError) -> str:
    """Of what PyTorch says, which may be a page."""
    return str(error).partition("\n")[0] or type(error).__name__


def examples(names: Sequence[str], full: bool = False) -> str:
    """The first few, and how many more there are; or all of them, one a line."""
    if full and len(names) > NAMED:
        return "".join(f"\n{name}" for name in names)
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def rate(images: float) -> str:
    """`37 images/s`."""
    return f"{images:,.0f} images/s" if images >= 10 else f"{images:.1f} images/s"


def estimate(seconds: float) -> str:
    """How long the supernet takes, in the unit that fits."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"the supernet takes about {seconds / length:.0f} {unit}"
    return f"the supernet takes about {math.ceil(seconds):.0f} seconds"
