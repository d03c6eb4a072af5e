"""Measure what is fast on this device: training steps, candidates, input; and check latencies."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spos_cli.config.data import DataConfig
from spos_cli.data.cache import ResizedSet, keep_in_memory
from spos_cli.data.folder_set import FolderSet
from spos_cli.data.image_set import ImageSet
from spos_cli.data.loaders import BadImages, training_batches
from spos_cli.data.transforms import Augmentation, TrainTransform, preprocess
from spos_cli.data.workers import PREFETCH
from spos_cli.engine import accelerator
from spos_cli.engine.compilation import Compile
from spos_cli.engine.distributed import count_usable_cores
from spos_cli.engine.optim import Schedule
from spos_cli.engine.precision import Amp, prepare_images
from spos_cli.engine.training_plan import TrainingPlan
from spos_cli.models import latency
from spos_cli.models.counting import count
from spos_cli.models.supernet import Supernet
from spos_cli.official import golden
from spos_cli.search import statistics
from spos_cli.search.tree import Tree
from spos_cli.space.architecture import Architecture
from spos_cli.space.search_space import OFFICIAL_SPACE, SearchSpace
from tests.benchmarks import official, photographs
from tests.benchmarks.candidates import CALIBRATED, SCORED, draw_candidates, score_all
from tests.benchmarks.measure import run_in_child
from tests.gpu.checks import Check, Place, Rate, Setting, limit_time, need_accelerator, time_in_turns
from tests.gpu.numbers import SMALL, make_trainer, need_bf16, need_compiler, trace_only

BATCHES = (64, 128, 256)  # images of a step; on a CPU a 32nd of these
COMPILED_BATCH = 128
TURNS = 7
Call = Callable[[], object]


# Training steps


@dataclass(frozen=True)
class Way:
    """One way to train a supernet for a step; the default values are those of `spos`.

    Attributes:
        setting: the only setting in which it differs from the default, or None.
    """

    name: str
    setting: Setting | None = None
    amp: Amp = "off"
    compile: Compile = "off"
    channels_last: bool = True
    benchmark: bool = False
    tf32: bool = True

    def is_possible(self, place: Place) -> bool:
        """Return whether the device has the precision, and TF32 where the way switches it off."""
        has_amp = self.amp == "off" or (place.is_real if self.amp == "fp16" else need_bf16(place) is None)
        return has_amp and (self.tf32 or accelerator.has_tf32(place.device))


DEFAULT = Way("default")
BF16 = Way("bf16", Setting("amp", "bf16", "off"), amp="bf16")
WAYS = (
    DEFAULT,
    Way("NCHW memory", Setting("memory", "NCHW", "channels_last"), channels_last=False),
    Way("without TF32", Setting("TF32", "off", "on"), tf32=False),
    BF16,
    Way("fp16", Setting("amp", "fp16", "off"), amp="fp16"),
    Way("bf16, NCHW memory", amp="bf16", channels_last=False),
)
BENCHMARKED = (
    Way("cudnn.benchmark", Setting("cudnn.benchmark", "on", "off"), benchmark=True),
    Way("bf16, cudnn.benchmark", amp="bf16", benchmark=True),
)
COMPILED = (
    DEFAULT,
    Way("compile", Setting("compile", "blocks", "off"), compile="blocks"),
    BF16,
    Way("bf16, compile", amp="bf16", compile="blocks"),
)


def choose_space(place: Place) -> SearchSpace:
    """Return the space for measurements of speed."""
    return place.pick(OFFICIAL_SPACE, SMALL)


def choose_path(place: Place) -> Architecture:
    """Return one path for all steps, so that PyTorch compiles only its blocks."""
    return place.pick(golden.WINNER, Architecture((0, 1)))


def make_images(place: Place, batch: int, side: int) -> tuple[Tensor, Tensor]:
    """Make images `(batch, 3, side, side) uint8` and labels on the device, so that copying is not part of a step."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, choose_space(place).classes, (batch,), generator=generator)
    return images.contiguous(memory_format=torch.channels_last).to(place.device), labels.to(place.device)


def make_official_step(place: Place, batch: int) -> Call:
    """Make the step of the official code: NCHW memory, its channel shuffle, float32, from float images."""
    model = official.Supernet().to(place.device).train()
    optimizer = official.make_optimizer(model)
    images, labels = make_images(place, batch, official.IMAGE_SIZE)
    pixels = images.flip(1).float().contiguous()
    return lambda: official.train_step(model, optimizer, pixels, labels, golden.WINNER)


def make_our_step(place: Place, way: Way, batch: int) -> Call:
    """Make the step of the trainer of `spos`, from uint8 images."""
    memory = torch.channels_last if way.channels_last else torch.contiguous_format

    def prepare(images: Tensor, colours: Tensor | None) -> Tensor:
        return preprocess("spos", images, colours).contiguous(memory_format=memory)

    space, path = choose_space(place), choose_path(place)
    recipe = TrainingPlan(Schedule(1e-4, 10**6), batch, amp=way.amp, compile=way.compile)
    training = make_trainer(place.device, Supernet(space), recipe, lambda step: path, prepare)
    training.model.to(memory_format=memory)
    images, labels = make_images(place, batch, space.image_size)
    batches = itertools.repeat((images, None, labels))

    def step() -> None:
        with accelerator.set_convolutions(tf32=way.tf32, benchmark=way.benchmark):
            training.update(batches)
        training.step += 1

    return step


def repeat(step: Call, number: int) -> None:
    """Make a number of steps that do not wait for each other."""
    for _ in range(number):
        step()


def measure_steps(
    place: Place, batch: int, ways: Sequence[Way], with_official: bool = False
) -> tuple[list[Rate], list[str]]:
    """Measure images per second and memory of each way, in turns; also return why some ways were skipped."""
    batch = place.pick(batch, batch // 32)
    builders = {way.name: partial(make_our_step, place, way, batch) for way in ways if way.is_possible(place)}
    if with_official:
        builders = {"official": partial(make_official_step, place, batch), **builders}
    calls: dict[str, Call] = {}
    memory: dict[str, int | None] = {}
    skipped = []
    for name, build in builders.items():
        if place.get_used_share() > 0.6:
            skipped.append(f"batch {batch}, {name}: no time")
            continue
        try:
            step = build()
            repeat(step, 2)  # Now there is momentum, blocks are compiled, and algorithms are chosen.
            calls[name], memory[name] = step, accelerator.measure_memory(place.device, step)
        except torch.OutOfMemoryError:
            skipped.append(f"batch {batch}, {name}: does not fit")
        if name not in calls:  # Only now, since the error has kept tensors alive.
            accelerator.release_memory(place.device)
    slowest = max((accelerator.time_call(place.device, step) for step in calls.values()), default=1.0)
    number = place.pick(max(1, round(0.25 / slowest)), 1)
    calls = {name: partial(repeat, step, number) for name, step in calls.items()}
    seconds = time_in_turns(place, calls, place.pick(TURNS, 1), 0.8)
    what, settings = (
        f"supernet step, {choose_space(place).image_size} px, batch {batch}",
        {w.name: w.setting for w in ways},
    )
    rates = [
        Rate(what, name, batch * number / duration, "images/s", settings.get(name), memory[name])
        for name, duration in seconds.items()
    ]
    return rates, skipped


def compare_steps(place: Place, batch: int) -> str:
    """Compare the official step with ours, changing one setting at a time and some together."""
    rates, skipped = measure_steps(place, batch, WAYS, with_official=True)
    place.rates += rates
    return "; ".join([summarize(rates), *skipped])


def compare_benchmarked_steps(place: Place) -> str:
    """Measure steps with cudnn.benchmark, against the rates that were measured before.

    This runs in a new process: PyTorch remembers the algorithm of a shape, also one that it took without a
    measurement.
    """
    rates, skipped = run_in_child(benchmark_in_child, place.device, place.folder, 0.9 * place.get_seconds_left())
    place.rates += rates
    return "; ".join([*(f"{rate.what}, {rate.way}: {rate.value:,.4g} images/s" for rate in rates), *skipped])


def benchmark_in_child(device: torch.device, folder: Path, seconds: float) -> tuple[list[Rate], list[str]]:
    """Measure all batch sizes; return the rates, and why some ways were skipped."""
    place = Place(device, folder)
    accelerator.select(device)
    with limit_time(place, seconds):
        found = [measure_steps(place, batch, BENCHMARKED) for batch in BATCHES]
    return [rate for rates, _ in found for rate in rates], [text for _, skipped in found for text in skipped]


def compare_compiled_steps(place: Place) -> str:
    """Compare steps with and without compiled blocks, as a group of rates of its own."""
    with contextlib.nullcontext() if place.is_real else trace_only():
        rates, skipped = measure_steps(place, COMPILED_BATCH, COMPILED)
    place.rates += [replace(rate, what=f"{rate.what}, for compile") for rate in rates]
    return "; ".join([summarize(rates), *skipped])


def summarize(rates: list[Rate]) -> str:
    """Summarize the official code, the default and the fastest way in a line."""
    if not rates:
        return "nothing measured"
    by_way = {rate.way: rate for rate in rates}
    fastest = max(rates, key=lambda rate: rate.value)
    known = [by_way[name] for name in ("official", "default") if name in by_way]
    said = ", ".join(f"{rate.way} {rate.value:,.4g}" for rate in [*known, fastest])
    return f"{said} {fastest.unit}"


# Candidates


def compare_candidates(place: Place) -> str:
    """Compare candidates per hour of the official procedure and ours, with all images on the device.

    The rates follow from one batch of each kind, for the default numbers of images.
    """
    space, calibrated, scored = choose_space(place), *place.pick((128, 200), (4, 4))
    group = draw_candidates()[0] if place.is_real else [Architecture((0, 0)), Architecture((0, 1))]
    batches = {size: make_images(place, size, space.image_size) for size in (calibrated, scored)}
    supernet = Supernet(space).to(place.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    model = official.Supernet().to(place.device)
    loaded = {}
    for size in (calibrated, scored):
        images, labels = make_images(place, size, official.IMAGE_SIZE)
        loaded[size] = images.flip(1).float().contiguous(), labels

    def make_calls(name: str, dtype: torch.dtype) -> dict[str, Call]:
        tree = Tree(supernet, group, dtype)
        images, others = (preprocess("spos", batches[size][0]) for size in (calibrated, scored))
        tree.calibrate(images, 1.0)
        tree.fold()
        return {
            f"{name} building": lambda: Tree(supernet, group, dtype).fold(),
            f"{name} calibration": lambda: tree.calibrate(images, 1.0),
            f"{name} scoring": lambda: score_all(tree, others),
        }

    path, number = golden.WINNER, place.pick(8, 1)
    calls: dict[str, Call] = {
        # The official procedure first resets all BatchNorm layers, once in 200 batches. That time is subtracted.
        "official begin": lambda: official.calibrate(model, path, [loaded[calibrated]], 1),
        "official calibration": lambda: official.calibrate(
            model, path, [loaded[calibrated]] * (1 + number), 1 + number
        ),
        "official scoring": lambda: official.score(model, path, [loaded[scored]] * number, number),
    }
    ways = {"default": torch.float32} | ({"bf16": torch.bfloat16} if need_bf16(place) is None else {})
    with torch.inference_mode():
        for name, dtype in ways.items():
            calls |= make_calls(name, dtype)
        for call in calls.values():
            call()
        memory = {name: accelerator.measure_memory(place.device, calls[f"{name} calibration"]) for name in ways}
        seconds = time_in_turns(place, calls, place.pick(TURNS, 1), 0.8)
    one = max(0.0, seconds["official calibration"] - seconds["official begin"]) / number / calibrated
    other = seconds["official scoring"] / number / scored  # seconds of an image, as `one`
    theirs = official.extrapolate_seconds(official.CALIBRATION_BATCH * one, official.SCORING_BATCH * other)
    what, unit = "a candidate, calibrated and scored", "candidates an hour"
    rates = [Rate(what, "official", 3600 / theirs, unit)]
    for name in ways:
        batches_of = (
            CALIBRATED / calibrated * seconds[f"{name} calibration"],
            SCORED / scored * seconds[f"{name} scoring"],
        )
        one = (seconds[f"{name} building"] + sum(batches_of)) / len(group)
        setting = None if name == "default" else Setting("search.amp", name, "off")
        rates.append(Rate(what, name, 3600 / one, unit, setting, memory[name]))
    place.rates += rates
    return summarize(rates)


# Input


def measure_input(place: Place, images: ImageSet, workers: int, batch: int) -> float:
    """Measure training images per second, from files or the cache to the network's input on the device."""
    ahead = PREFETCH * workers + 1  # batches that the loader prepares in advance
    number = place.pick(4 * ahead + 20, 2)
    stream = training_batches(
        images,
        np.resize(np.arange(len(images)), 10**5),
        TrainTransform("spos", official.IMAGE_SIZE, Augmentation()),
        seed=0,
        batch_size=batch,
        first_step=0,
        last_step=ahead + number,
        workers=workers,
        pin_memory=accelerator.pins_memory(place.device),
    )
    done, begin = 0, 0.0
    for index, (pixels, colours, _) in enumerate(stream):
        prepare_images(lambda made, drawn: preprocess("spos", made, drawn), pixels, colours, place.device)
        if index + 1 == ahead:
            accelerator.synchronize(place.device)
            begin = time.perf_counter()
        elif index >= ahead:
            done += 1
    accelerator.synchronize(place.device)
    return done * batch / (time.perf_counter() - begin)


def compare_inputs(place: Place) -> str:
    """Compare images per second from JPEG files and from the cache of decoded images with the needs of a step."""
    usual, batch = DataConfig().workers, place.pick(32, 4)
    steps = [rate for rate in place.rates if rate.what.startswith("supernet step") and rate.way != "official"]
    needs = {"default": [rate.value for rate in steps if rate.way == "default"], "fastest": [r.value for r in steps]}
    paths, _ = photographs.write(place.folder / "photographs", place.pick(64, 8))
    files = FolderSet(place.folder / "photographs")
    cached = keep_in_memory(ResizedSet(files, 256), np.arange(len(paths)), BadImages(0, print))
    findings = []
    for source, images in (("JPEG files", files), ("the cache", cached)):
        rates = {
            workers: measure_input(place, images, workers, batch)
            for workers in sorted({1, usual, count_usable_cores()})
        }
        for workers, rate in rates.items():
            way = "default" if workers == usual else f"data.workers {workers}"
            setting = None if way == "default" else Setting("data.workers", str(workers), str(usual))
            place.rates.append(Rate(f"training input from {source}", way, rate, "images/s", setting))
        needed = [f"{math.ceil(max(e) / rates[1])} workers feed the {name} step" for name, e in needs.items() if e]
        by_workers = ", ".join(f"{rate:,.0f} with {workers}" for workers, rate in rates.items())
        findings.append(", ".join([f"{source}: images/s {by_workers}", *needed]))
    return "; ".join(findings)


# Latencies


def time_by_clock(device: torch.device, call: Call) -> float:
    """Return the seconds of a call, including the wait for the device."""
    begin = time.perf_counter()
    call()
    accelerator.synchronize(device)
    return time.perf_counter() - begin


def check_latencies(time_call: Callable[[torch.device, Call], float], place: Place) -> str:
    """Compare a table of latencies with whole networks, for one way to time calls."""
    space, rng = choose_space(place), np.random.default_rng(0)
    distribution = count(space).flops.distribution()
    networks = [distribution.draw(rng, None, None) for _ in range(place.pick(12, 4))]
    found = latency.measure(space, place.device, 1, networks, time_call=partial(time_call, place.device))
    spearman = statistics.spearman(*zip(*(pair[1:] for pair in found.whole), strict=True))
    whole = sorted(measured for _, measured, _ in found.whole)
    return f"whole networks {whole[0]} to {whole[-1]} us, table off by {found.error:.1%}, Spearman {spearman:.2f}"


def list_checks() -> Iterator[Check]:
    """List the checks. Later ones use the rates of earlier ones.

    A step takes 2 GFLOP an image (forward and backward, a multiply-add as two), so even 5 % of an H100's 400 TFLOP/s in
    TF32 are 10,000 images/s: a turn is a fraction of a second, and building, compiling and choosing take the time.
    """
    for batch in BATCHES:
        yield Check(
            f"step-{batch}", f"images/s of the supernet step, batch {batch}", 30, partial(compare_steps, batch=batch)
        )
    yield Check("step-benchmark", "the same with cudnn.benchmark, all batches", 90, compare_benchmarked_steps)
    what = f"the same with compile: blocks, batch {COMPILED_BATCH}"
    yield Check("step-compile", what, 80, compare_compiled_steps, need_compiler)
    yield Check("candidate", "a candidate's calibration and scoring", 20, compare_candidates)
    yield Check("loader", "training input from JPEG files and from the cache", 20, compare_inputs)
    yield Check(
        "latency-clock", "latencies by the clock against whole networks", 10, partial(check_latencies, time_by_clock)
    )
    by_events = partial(check_latencies, accelerator.time_call)
    yield Check("latency-events", "latencies by the device's events", 10, by_events, need_accelerator)
