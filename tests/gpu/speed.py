"""What is fast on this device: training steps, candidates, input, and how latencies are measured."""

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

from spos_cli.config.schema import DataConfig
from spos_cli.data.cache import ResizedSet, keep_in_memory
from spos_cli.data.datasets import FolderSet, ImageSet
from spos_cli.data.loaders import BadImages, training_batches
from spos_cli.data.transforms import Augmentation, TrainTransform, preprocess
from spos_cli.data.workers import PREFETCH
from spos_cli.engine import accelerator
from spos_cli.engine.distributed import usable_cores
from spos_cli.engine.optim import Schedule
from spos_cli.engine.precision import Amp, prepared
from spos_cli.engine.trainer import Compile, Recipe
from spos_cli.models import latency
from spos_cli.models.counting import count
from spos_cli.models.supernet import Supernet
from spos_cli.official import golden
from spos_cli.search import statistics
from spos_cli.search.tree import Tree
from spos_cli.space.architecture import Architecture
from spos_cli.space.search_space import PUBLISHED, SearchSpace
from tests.benchmarks import photographs, published
from tests.benchmarks.candidates import CALIBRATED, SCORED, candidates, exhaust
from tests.benchmarks.measure import in_child
from tests.gpu.checks import Check, Place, Rate, Setting, an_accelerator, in_turns, limited
from tests.gpu.numbers import SMALL, bf16, compiler, traced_only, trainer

BATCHES = (64, 128, 256)  # images of a step; a 32nd of it on a CPU
COMPILED_BATCH = 128
TURNS = 7
Call = Callable[[], object]


# Training steps


@dataclass(frozen=True)
class Way:
    """One way to make a step of the supernet; without arguments that of `spos` if nothing is set.

    Attributes:
        setting: the only one in which it differs, or None.
    """

    name: str
    setting: Setting | None = None
    amp: Amp = "off"
    compile: Compile = "off"
    channels_last: bool = True
    benchmark: bool = False
    tf32: bool = True

    def is_possible(self, place: Place) -> bool:
        """Whether the device has the precision, and what is to be switched off."""
        has_amp = self.amp == "off" or (place.is_real if self.amp == "fp16" else bf16(place) is None)
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


def space_of(place: Place) -> SearchSpace:
    """The space that speed is measured in."""
    return place.pick(PUBLISHED, SMALL)


def path_of(place: Place) -> Architecture:
    """One path for all steps, so that PyTorch has only its blocks to compile."""
    return place.pick(golden.WINNER, Architecture((0, 1)))


def images_for(place: Place, batch: int, side: int) -> tuple[Tensor, Tensor]:
    """Images `(batch, 3, side, side) uint8` and labels, on the device: copying them is not part of a step."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, space_of(place).classes, (batch,), generator=generator)
    return images.contiguous(memory_format=torch.channels_last).to(place.device), labels.to(place.device)


def official_step(place: Place, batch: int) -> Call:
    """The step of the official code: NCHW memory, its channel shuffle, float32; float images are ready."""
    model = published.Supernet().to(place.device).train()
    optimizer = published.optimizer_of(model)
    images, labels = images_for(place, batch, published.IMAGE_SIZE)
    pixels = images.flip(1).float().contiguous()
    return lambda: published.train_step(model, optimizer, pixels, labels, golden.WINNER)


def our_step(place: Place, way: Way, batch: int) -> Call:
    """The step of the trainer of `spos`, from uint8 images."""
    memory = torch.channels_last if way.channels_last else torch.contiguous_format

    def prepare(images: Tensor, colours: Tensor | None) -> Tensor:
        return preprocess("spos", images, colours).contiguous(memory_format=memory)

    space, path = space_of(place), path_of(place)
    recipe = Recipe(Schedule(1e-4, 10**6), batch, amp=way.amp, compile=way.compile)
    training = trainer(place.device, Supernet(space), recipe, lambda step: path, prepare)
    training.model.to(memory_format=memory)
    images, labels = images_for(place, batch, space.image_size)
    batches = itertools.repeat((images, None, labels))

    def step() -> None:
        with accelerator.convolutions(tf32=way.tf32, benchmark=way.benchmark):
            training.update(batches)
        training.step += 1

    return step


def several_times(step: Call, number: int) -> None:
    """Steps that do not wait for each other."""
    for _ in range(number):
        step()


def measured(place: Place, batch: int, ways: Sequence[Way], official: bool = False) -> tuple[list[Rate], list[str]]:
    """Images per second and memory of each way, in turns; and which were left out, and why."""
    batch = place.pick(batch, batch // 32)
    builders = {way.name: partial(our_step, place, way, batch) for way in ways if way.is_possible(place)}
    if official:
        builders = {"official": partial(official_step, place, batch), **builders}
    made: dict[str, Call] = {}
    memory: dict[str, int | None] = {}
    left_out = []
    for name, build in builders.items():
        if place.used() > 0.6:
            left_out.append(f"batch {batch}, {name}: no time")
            continue
        try:
            step = build()
            several_times(step, 2)  # momentum, compiled blocks, chosen algorithms
            made[name], memory[name] = step, accelerator.memory_of(place.device, step)
        except torch.OutOfMemoryError:
            left_out.append(f"batch {batch}, {name}: does not fit")
        if name not in made:  # now that the error holds nothing any more
            accelerator.release_memory(place.device)
    slowest = max((accelerator.seconds_of(place.device, step) for step in made.values()), default=1.0)
    number = place.pick(max(1, round(0.25 / slowest)), 1)
    calls = {name: partial(several_times, step, number) for name, step in made.items()}
    seconds = in_turns(place, calls, place.pick(TURNS, 1), 0.8)
    what, settings = f"supernet step, {space_of(place).image_size} px, batch {batch}", {w.name: w.setting for w in ways}
    rates = [
        Rate(what, name, batch * number / taken, "images/s", settings.get(name), memory[name])
        for name, taken in seconds.items()
    ]
    return rates, left_out


def steps(place: Place, batch: int) -> str:
    """The official step and ours, with one setting changed at a time and some together."""
    rates, left_out = measured(place, batch, WAYS, official=True)
    place.rates += rates
    return "; ".join([best_of(rates), *left_out])


def benchmarked_steps(place: Place) -> str:
    """The same with cudnn.benchmark, against the rates that were measured before.

    In a process of its own: PyTorch keeps the algorithm of a shape, and takes the one that was kept without a
    measurement, too.
    """
    rates, left_out = in_child(benchmark_in_child, place.device, place.folder, 0.9 * place.left())
    place.rates += rates
    return "; ".join([*(f"{rate.what}, {rate.way}: {rate.value:,.4g} images/s" for rate in rates), *left_out])


def benchmark_in_child(device: torch.device, folder: Path, seconds: float) -> tuple[list[Rate], list[str]]:
    """Rates, and what was left out, of all batch sizes."""
    place = Place(device, folder)
    accelerator.select(device)
    with limited(place, seconds):
        found = [measured(place, batch, BENCHMARKED) for batch in BATCHES]
    return [rate for rates, _ in found for rate in rates], [text for _, left_out in found for text in left_out]


def compiled_steps(place: Place) -> str:
    """The same with compiled blocks, and without; a group of rates of its own."""
    with contextlib.nullcontext() if place.is_real else traced_only():
        rates, left_out = measured(place, COMPILED_BATCH, COMPILED)
    place.rates += [replace(rate, what=f"{rate.what}, for compile") for rate in rates]
    return "; ".join([best_of(rates), *left_out])


def best_of(rates: list[Rate]) -> str:
    """The default and the fastest way, and the official code, in a line."""
    if not rates:
        return "nothing measured"
    by_way = {rate.way: rate for rate in rates}
    fastest = max(rates, key=lambda rate: rate.value)
    told = [by_way[name] for name in ("official", "default") if name in by_way]
    said = ", ".join(f"{rate.way} {rate.value:,.4g}" for rate in [*told, fastest])
    return f"{said} {fastest.unit}"


# Candidates


def candidate(place: Place) -> str:
    """Candidates an hour: calibrated and scored on images that are on the device, by the official procedure and ours.

    From one batch of each kind, for the numbers of images that both take by default.
    """
    space, calibrated, scored = space_of(place), *place.pick((128, 200), (4, 4))
    group = candidates()[0] if place.is_real else [Architecture((0, 0)), Architecture((0, 1))]
    batches = {size: images_for(place, size, space.image_size) for size in (calibrated, scored)}
    supernet = Supernet(space).to(place.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    model = published.Supernet().to(place.device)
    loaded = {}
    for size in (calibrated, scored):
        images, labels = images_for(place, size, published.IMAGE_SIZE)
        loaded[size] = images.flip(1).float().contiguous(), labels

    def ours(name: str, dtype: torch.dtype) -> dict[str, Call]:
        tree = Tree(supernet, group, dtype)
        images, others = (preprocess("spos", batches[size][0]) for size in (calibrated, scored))
        tree.calibrate(images, 1.0)
        tree.fold()
        return {
            f"{name} building": lambda: Tree(supernet, group, dtype).fold(),
            f"{name} calibration": lambda: tree.calibrate(images, 1.0),
            f"{name} scoring": lambda: exhaust(tree, others),
        }

    path, number = golden.WINNER, place.pick(8, 1)
    calls: dict[str, Call] = {
        # The procedure begins with all BatchNorm layers set back, which is once in 200 batches: it is taken out.
        "official begin": lambda: published.calibration_pass(model, path, [loaded[calibrated]], 1),
        "official calibration": lambda: published.calibration_pass(
            model, path, [loaded[calibrated]] * (1 + number), 1 + number
        ),
        "official scoring": lambda: published.scoring_pass(model, path, [loaded[scored]] * number, number),
    }
    ways = {"default": torch.float32} | ({"bf16": torch.bfloat16} if bf16(place) is None else {})
    with torch.inference_mode():
        for name, dtype in ways.items():
            calls |= ours(name, dtype)
        for call in calls.values():
            call()
        memory = {name: accelerator.memory_of(place.device, calls[f"{name} calibration"]) for name in ways}
        seconds = in_turns(place, calls, place.pick(TURNS, 1), 0.8)
    one = max(0.0, seconds["official calibration"] - seconds["official begin"]) / number / calibrated
    other = seconds["official scoring"] / number / scored  # seconds of an image, as `one`
    theirs = published.seconds_per_candidate(published.CALIBRATION_BATCH * one, published.SCORING_BATCH * other)
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
    return best_of(rates)


# Input


def input_rate(place: Place, images: ImageSet, workers: int, batch: int) -> float:
    """Training images a second, from the files or the cache to what the network sees on the device."""
    ahead = PREFETCH * workers + 1  # batches that are made before anybody asks for them
    number = place.pick(4 * ahead + 20, 2)
    stream = training_batches(
        images,
        np.resize(np.arange(len(images)), 10**5),
        TrainTransform("spos", published.IMAGE_SIZE, Augmentation()),
        seed=0,
        batch_size=batch,
        first_step=0,
        last_step=ahead + number,
        workers=workers,
        pin_memory=accelerator.pins_memory(place.device),
    )
    done, begin = 0, 0.0
    for index, (pixels, colours, _) in enumerate(stream):
        prepared(lambda made, drawn: preprocess("spos", made, drawn), pixels, colours, place.device)
        if index + 1 == ahead:
            accelerator.synchronize(place.device)
            begin = time.perf_counter()
        elif index >= ahead:
            done += 1
    accelerator.synchronize(place.device)
    return done * batch / (time.perf_counter() - begin)


def loader(place: Place) -> str:
    """Images a second from JPEG files and from the cache of decoded ones, against what a step takes."""
    usual, batch = DataConfig().workers, place.pick(32, 4)
    steps = [rate for rate in place.rates if rate.what.startswith("supernet step") and rate.way != "official"]
    eaten = {"default": [rate.value for rate in steps if rate.way == "default"], "fastest": [r.value for r in steps]}
    paths, _ = photographs.write(place.folder / "photographs", place.pick(64, 8))
    files = FolderSet(place.folder / "photographs")
    cached = keep_in_memory(ResizedSet(files, 256), np.arange(len(paths)), BadImages(0, print))
    said = []
    for source, images in (("JPEG files", files), ("the cache", cached)):
        rates = {workers: input_rate(place, images, workers, batch) for workers in sorted({1, usual, usable_cores()})}
        for workers, rate in rates.items():
            way = "default" if workers == usual else f"data.workers {workers}"
            setting = None if way == "default" else Setting("data.workers", str(workers), str(usual))
            place.rates.append(Rate(f"training input from {source}", way, rate, "images/s", setting))
        needed = [f"{math.ceil(max(e) / rates[1])} workers feed the {name} step" for name, e in eaten.items() if e]
        of_each = ", ".join(f"{rate:,.0f} with {workers}" for workers, rate in rates.items())
        said.append(", ".join([f"{source}: images/s {of_each}", *needed]))
    return "; ".join(said)


# Latencies


def by_the_clock(device: torch.device, call: Call) -> float:
    """Seconds of a call, waiting for the device included."""
    begin = time.perf_counter()
    call()
    accelerator.synchronize(device)
    return time.perf_counter() - begin


def latencies(timed: Callable[[torch.device, Call], float], place: Place) -> str:
    """How far a table of latencies agrees with whole networks, if calls are timed like this."""
    space, rng = space_of(place), np.random.default_rng(0)
    distribution = count(space).flops.distribution()
    checked = [distribution.draw(rng, None, None) for _ in range(place.pick(12, 4))]
    found = latency.measure(space, place.device, 1, checked, seconds_of=partial(timed, place.device))
    spearman = statistics.spearman(*zip(*(pair[1:] for pair in found.whole), strict=True))
    whole = sorted(measured for _, measured, _ in found.whole)
    return f"whole networks {whole[0]} to {whole[-1]} us, table off by {found.error:.1%}, Spearman {spearman:.2f}"


def checks() -> Iterator[Check]:
    """In the order in which later ones use what earlier ones have found.

    An image takes a step 2 GFLOP (forward and backward, a multiply-add as two), so even 5 % of an H100's 400 TFLOP/s in
    TF32 are 10,000 images/s: a turn is a fraction of a second, and building, compiling and choosing take the time.
    """
    for batch in BATCHES:
        yield Check(f"step-{batch}", f"images/s of the supernet step, batch {batch}", 30, partial(steps, batch=batch))
    yield Check("step-benchmark", "the same with cudnn.benchmark, all batches", 90, benchmarked_steps)
    what = f"the same with compile: blocks, batch {COMPILED_BATCH}"
    yield Check("step-compile", what, 80, compiled_steps, compiler)
    yield Check("candidate", "a candidate's calibration and scoring", 20, candidate)
    yield Check("loader", "training input from JPEG files and from the cache", 20, loader)
    yield Check("latency-clock", "latencies by the clock against whole networks", 10, partial(latencies, by_the_clock))
    by_events = partial(latencies, accelerator.seconds_of)
    yield Check("latency-events", "latencies by the device's events", 10, by_events, an_accelerator)
