"""Measure a supernet step at 224 px: the official loop against the trainer of `spos`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from spos_cli.data.memory import keep_freed_memory
from spos_cli.data.transforms import preprocess
from spos_cli.engine.distributed import Processes
from spos_cli.engine.optim import Schedule
from spos_cli.engine.trainer import Batch, Trainer
from spos_cli.engine.training_plan import TrainingPlan
from spos_cli.models.counting import count
from spos_cli.models.skeleton import initialize
from spos_cli.models.supernet import Supernet
from spos_cli.space.architecture import Architecture
from spos_cli.space.sampling import CostBinSampler
from spos_cli.space.search_space import OFFICIAL_SPACE
from tests.benchmarks import measure, official
from tests.benchmarks.comparison import OFFICIAL, Comparison
from tests.benchmarks.measure import ROUNDS, Row, Side, compare_in_children

BATCH, BATCHES = 32, (8, 32, 128)  # images per step; only `make bench-full` has the largest
PATHS = 4
MEMORY_STEPS = 3  # The first step is not timed; from the second on there is momentum.
Step = Callable[[], object]
SideName = Literal["official", "spos"]


def make_batch(size: int) -> tuple[Tensor, Tensor]:
    """Make images `(size, 3, 224, 224) uint8` RGB and labels `(size,)`, the same for both sides."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 3, 224, 224), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 1000, (size,), generator=generator)


@functools.cache
def draw_paths() -> tuple[Architecture, ...]:
    """Draw the paths of both sides once, since drawing is measured in a line of its own."""
    sampler = CostBinSampler(count(OFFICIAL_SPACE).flops, 290_000_000, 360_000_000, 10_000_000, seed=0)
    return tuple(sampler.draw(step) for step in range(PATHS))


def make_supernet() -> Supernet:
    """Make a supernet with the official initial weights."""
    model = Supernet(OFFICIAL_SPACE)
    initialize(model, 0)
    return model


def make_official_step(size: int) -> Step:
    """Make the official step. Its loader gives float images in BGR, so the conversion is not part of the step."""
    model = official.load_weights(official.Supernet(), make_supernet().state_dict()).train()
    optimizer, order = official.make_optimizer(model), itertools.cycle(draw_paths())
    images, labels = make_batch(size)
    pixels = images.flip(1).float().contiguous()
    return lambda: official.train_step(model, optimizer, pixels, labels, next(order))


def make_our_step(size: int) -> Step:
    """Make the step of the trainer of `spos`, from the uint8 images of its loader."""
    recipe = TrainingPlan(Schedule(1e-4, 10**6), size)
    trainer = Trainer(
        make_supernet(),
        recipe,
        Processes(0, 1, torch.device("cpu")),
        name="bench",
        folder=Path("bench-writes-nothing"),
        identity={},
        seed=0,
        preprocess=functools.partial(preprocess, "spos"),
        paths=lambda step: [draw_paths()[step % len(draw_paths())]],
    )
    trainer.model.train()
    images, labels = make_batch(size)
    stream: Iterator[Batch] = itertools.repeat((images, None, labels))  # Colour changes are measured with the input.

    def step() -> None:
        trainer.update(stream)
        trainer.step += 1

    return step


MAKE: dict[SideName, Callable[[int], Step]] = {"official": make_official_step, "spos": make_our_step}


def make_turn(side: SideName, size: int) -> Step:
    """Return what trains each path once on one side."""
    step = MAKE[side](size)

    def turn() -> None:
        for _ in draw_paths():
            step()

    return turn


def compare_steps(size: int) -> Comparison:
    """Compare images per second of both sides."""
    sides = Side(make_turn, ("official", size), False), Side(make_turn, ("spos", size), True)
    rounds = ROUNDS if size <= BATCH else (3,)
    what = f"supernet step, 224 px, batch {size}"
    return compare_in_children(what, "images/s", PATHS * size, *sides, rounds, OFFICIAL)


def measure_step(side: SideName, size: int) -> measure.Cost:
    """Measure seconds and memory of the steps of one side; call it in a new process."""
    make = MAKE[side]
    if side == "spos":
        keep_freed_memory()
    draw_paths()  # Draw now, so that counting the costs of the space is not measured.
    steps: list[Step] = []

    def work() -> None:
        if not steps:
            steps.append(make(size))
        steps[0]()

    return measure.measure_cost(work, MEMORY_STEPS - 1, warm_up=1)


def growth(full: bool) -> Iterator[Row]:
    """Measure rate and memory of both sides by batch size, each in a process of its own and not in turns."""
    for size in BATCHES if full else BATCHES[:2]:
        for side in MAKE:
            cost = measure.run_in_child(measure_step, side, size)
            yield Row(
                f"supernet step, 224 px, {side}",
                f"batch {size}",
                size / cost.median,
                "images/s",
                cost.above_rest,
                spread=cost.spread,
            )


def lines(full: bool) -> Iterator[Comparison]:
    """Compare our step with the official one."""
    for size in BATCHES if full else (BATCH,):
        yield compare_steps(size)
