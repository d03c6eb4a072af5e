"""Measure a supernet step at 28 and 32 px in MobileNet-like spaces: a plain PyTorch loop against the trainer of `spos`.

Both sides have the same weights, images, paths and threads: as many threads as `spos` would choose for the recipe. The
images of the plain loop are floats already; `spos` begins with the uint8 images of its loader. Each side has processes
of its own: those of `spos` keep freed memory, as in a training, and the others have the defaults of glibc.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from spos_cli.config import loading
from spos_cli.config.schema import Config
from spos_cli.data.transforms import preprocess
from spos_cli.engine.distributed import Processes, choose_threads
from spos_cli.engine.trainer import Batch, Trainer
from spos_cli.files.quoting import plural
from spos_cli.models.skeleton import build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.run.command import Run
from spos_cli.run.training import make_sampler, make_training_plan
from spos_cli.space.architecture import Architecture
from spos_cli.space.search_space import SearchSpace
from tests.benchmarks import plain
from tests.benchmarks.comparison import Comparison
from tests.benchmarks.measure import ROUNDS, Side, compare_in_children

CONFIGS = Path(__file__).parents[2] / "configs"
# Steps of a turn, by recipe. Each turn trains the same paths, so that turns differ by noise only.
STEPS = {"fashion_mnist_channels": 16, "cifar10_nas_bench_macro": 2, "cifar10_mobilenet": 2}
PRESET = "standard"
Steps = Callable[[], object]


def load_recipe(name: str) -> Config:
    """Load a recipe; its training neither logs nor saves here."""
    return loading.load(CONFIGS / f"{name}.yaml")


def describe_plain_space(space: SearchSpace, dropout: float) -> plain.Space:
    """Describe a space of `spos` for the plain supernet."""
    widest = max(space.widths, default=0)
    layers = []
    for layer in space.layers:
        blocks = []
        for choice in layer.choices:
            hidden = layer.hidden_channels(choice, widest if choice.is_scalable else 0)
            parameters = dict(choice.parameters)
            assert choice.op in ("mbconv", "skip", "identity"), f"{choice} has no plain block"
            assert not parameters.keys() - {"kernel", "expand", "activation"}, f"{choice} has no plain block"
            shape = (layer.in_channels, layer.out_channels, layer.stride)
            blocks.append(plain.Block(choice.op, *shape, hidden, **parameters))  # type: ignore[arg-type]
        layers.append(blocks)
    return plain.Space(space.stem_channels, space.stem_stride, layers, space.head_channels, space.classes, dropout)


def make_supernets(config: Config) -> tuple[plain.Supernet, Supernet]:
    """Make both supernets, with the same weights."""
    space, training = config.space.build(), config.supernet
    ours = build_initialized(lambda: Supernet(space, training.affine, training.dropout), 0)
    baseline = plain.Supernet(describe_plain_space(space, training.dropout))
    baseline.load_state_dict(ours.state_dict())
    return baseline.to(memory_format=torch.channels_last), ours  # type: ignore[call-overload]


def make_batch(config: Config) -> tuple[Tensor, Tensor]:
    """Make images `(B, 3, S, S) uint8` RGB in channels_last memory, and labels `(B,)`."""
    size, generator = config.space.image_size, torch.Generator().manual_seed(0)
    shape = (config.supernet.batch_size, 3, size, size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, config.space.classes, shape[:1], generator=generator)
    return images.contiguous(memory_format=torch.channels_last), labels


def to_plain_path(space: SearchSpace, arch: Architecture) -> plain.Path:
    """Write an architecture as the plain supernet takes it."""
    return list(zip(arch.choices, space.hidden_channels(arch), strict=True))


def make_plain_steps(config: Config, model: plain.Supernet, paths: list[list[Architecture]]) -> Steps:
    """Return what trains one step after another on the plain side; each has its own paths."""
    training, space = config.supernet, config.space.build()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=training.lr / 1000, momentum=training.momentum, weight_decay=training.weight_decay
    )
    images, labels = make_batch(config)
    pixels = preprocess(PRESET, images)
    plain_paths = [[to_plain_path(space, arch) for arch in step] for step in paths]
    model.train()

    def train() -> None:
        for step in plain_paths:
            plain.train_step(model, optimizer, pixels, labels, step, training.label_smoothing)

    return train


def make_our_steps(config: Config, model: Supernet, paths: list[list[Architecture]]) -> Steps:
    """Return what trains the same steps with the trainer of `spos`."""
    training = config.supernet.model_copy(update={"lr": config.supernet.lr / 1000})  # Random labels teach nothing.
    trainer = Trainer(
        model,
        make_training_plan(training),
        Processes(0, 1, torch.device("cpu")),
        name="bench",
        folder=Path("bench-writes-nothing"),
        identity={},
        seed=0,
        preprocess=functools.partial(preprocess, PRESET),
        paths=lambda step: paths[step % len(paths)],
    )
    trainer.model.train()
    images, labels = make_batch(config)
    stream: Iterator[Batch] = itertools.repeat((images, None, labels))

    def train() -> None:
        for _ in paths:
            trainer.update(stream)
            trainer.step += 1

    return train


def draw_paths(config: Config, steps: int) -> list[list[Architecture]]:
    """Draw the paths of a turn's steps."""
    sampler = make_sampler(Run(config), config.space.build())
    return [list(sampler.paths(step)) for step in range(steps)]


def make_side(side: Literal["plain", "spos"], name: str, steps: int) -> Steps:
    """Return what trains a turn's steps of a recipe on one side."""
    config = load_recipe(name)
    paths = draw_paths(config, steps)
    baseline, ours = make_supernets(config)
    return make_plain_steps(config, baseline, paths) if side == "plain" else make_our_steps(config, ours, paths)


def compare_steps(name: str, steps: int, rounds: Sequence[int] = ROUNDS) -> Comparison:
    """Compare the images per second of both sides.

    Args:
        name: of a recipe.
        steps: of each turn.
        rounds: the number of turns of each.
    """
    config = load_recipe(name)
    space, batch = config.space.build(), config.supernet.batch_size
    before = torch.get_num_threads()
    threads = choose_threads(config.threads, 1, batch * space.work_per_layer)
    torch.set_num_threads(threads)
    what = f"step of {name}, {space.image_size} px, batch {batch}, {plural(threads, 'thread')}"
    sides = Side(make_side, ("plain", name, steps), False), Side(make_side, ("spos", name, steps), True)
    try:
        return compare_in_children(what, "images/s", steps * batch, *sides, rounds, "plain PyTorch loop")
    finally:
        torch.set_num_threads(before)


def lines(full: bool) -> Iterator[Comparison]:
    """Compare the steps of three recipes."""
    for name, steps in STEPS.items():
        yield compare_steps(name, steps)
