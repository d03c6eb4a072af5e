"""A training step of the supernet at 224 px: the published loop against `spos supernet-train`'s own trainer."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from spos_cli.data.transforms import preprocess
from spos_cli.engine.distributed import Processes
from spos_cli.engine.optim import Schedule
from spos_cli.engine.trainer import Batch, Recipe, Trainer
from spos_cli.models.counting import count
from spos_cli.models.skeleton import initialize
from spos_cli.models.supernet import Supernet
from spos_cli.space.architecture import Architecture
from spos_cli.space.sampling import CostBinSampler
from spos_cli.space.search_space import OFFICIAL_SPACE
from tests.benchmarks import measure, published
from tests.benchmarks.comparison import Comparison, compare
from tests.benchmarks.measure import Row

BATCH, BATCHES = 32, (8, 32, 128)  # images per step; `make bench` leaves the largest out
TURNS = 7
MEMORY_STEPS = 3  # from the second on there is momentum; the first one is not timed
Step = Callable[[], object]


def batch_of(size: int) -> tuple[Tensor, Tensor]:
    """Images `(size, 3, 224, 224) uint8` RGB and labels `(size,)`, the same for both sides."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 3, 224, 224), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 1000, (size,), generator=generator)


@functools.cache
def paths() -> tuple[Architecture, ...]:
    """Those that both sides take, in turn: drawn once, since drawing has a line of its own."""
    sampler = CostBinSampler(count(OFFICIAL_SPACE).flops, 290_000_000, 360_000_000, 10_000_000, seed=0)
    return tuple(sampler.draw(step) for step in range(TURNS + 1))


def supernet() -> Supernet:
    """With the published initialisation."""
    model = Supernet(OFFICIAL_SPACE)
    initialize(model, 0)
    return model


def published_step(size: int) -> Step:
    """The step as published. Its loader gives float images in BGR, so making them is not part of the step."""
    model = published.load(published.Supernet(), supernet().state_dict()).train()
    optimizer, order = published.optimizer_of(model), itertools.cycle(paths())
    images, labels = batch_of(size)
    pixels = images.flip(1).float().contiguous()
    return lambda: published.train_step(model, optimizer, pixels, labels, next(order))


def our_step(size: int) -> Step:
    """The step of our trainer, from the uint8 images that its loader gives."""
    recipe = Recipe(Schedule(1e-4, 10**6), size)
    alone = Processes(0, 1, torch.device("cpu"))
    trainer = Trainer(
        supernet(),
        recipe,
        alone,
        name="bench",
        folder=Path("bench-writes-nothing"),
        identity={},
        seed=0,
        preprocess=functools.partial(preprocess, "spos"),
        arguments=lambda step: [(paths()[step % len(paths())],)],
    )
    trainer.model.train()
    images, labels = batch_of(size)
    stream: Iterator[Batch] = itertools.repeat((images, None, labels))  # colours have a line of their own

    def step() -> None:
        trainer.update(stream)
        trainer.step += 1

    return step


def step_rate(size: int) -> Comparison:
    """Images per second of both, in turns."""
    turns = TURNS if size <= BATCH else 3
    return compare(
        f"supernet step, 224 px, batch {size}", "images/s", size, published_step(size), our_step(size), turns
    )


def step_cost(side: str, size: int) -> measure.Cost:
    """Seconds and memory of the steps of one side; to be called in a process of its own."""
    make = {"published": published_step, "spos": our_step}[side]
    paths()  # so that counting the space is not part of it
    steps: list[Step] = []

    def work() -> None:
        if not steps:
            steps.append(make(size))
        steps[0]()

    return measure.cost_of(work, MEMORY_STEPS - 1, warm_up=1)


def growth(full: bool) -> Iterator[Row]:
    """Rate and memory of both sides by batch size, each in a process of its own; the line above takes turns."""
    for size in BATCHES if full else BATCHES[:2]:
        for side in ("published", "spos"):
            cost = measure.in_child(step_cost, side, size)
            yield Row(
                f"supernet step, 224 px, {side}", f"batch {size}", size / cost.median, "images/s", cost.above_rest
            )


def lines(full: bool) -> Iterator[Comparison]:
    """The step against the published one."""
    for size in BATCHES if full else (BATCH,):
        yield step_rate(size)
