"""Measure the work of the demo on a quiet machine, and beside one busy process.

The busy process is `while True: pass` in Python, with the usual priority and on any core. It exists all the time, but
is stopped in the quiet turns. Both sides use as many threads as `spos` chooses for the demo. On a machine that is busy
anyway, the ratio looks better than it is, so look at the load average above the table.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch

from spos_cli.config import loading
from spos_cli.engine.distributed import Processes, choose_threads
from spos_cli.engine.evaluation import evaluate
from spos_cli.engine.trainer import Trainer
from spos_cli.models.network import Network
from spos_cli.models.skeleton import build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.run.command import Run
from spos_cli.run.images import Images
from spos_cli.run.search_inputs import make_evaluator
from spos_cli.run.training import make_sampler, make_training_plan
from spos_cli.search.evaluator import Evaluator
from spos_cli.search.scoring import GROUP_SIZE
from tests.benchmarks.comparison import Comparison, compare
from tests.benchmarks.small_images import CONFIGS

TURNS = 5
# Of a turn: it should take about a second, so that the system's scheduler shares the cores many times.
STEPS, GROUPS, EVALUATIONS, LOADED = 16, 2, 20, 150
PROCESSES = Processes(0, 1, torch.device("cpu"))


class Neighbour:
    """A busy process that is stopped until it is wanted."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        self.process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    def run_beside(self, work: Callable[[], object]) -> None:
        """Do some work while the process is busy."""
        self.process.send_signal(signal.SIGCONT)
        try:
            work()
        finally:
            self.process.send_signal(signal.SIGSTOP)


@dataclass(frozen=True)
class Demo:
    """The work of the demo, with random weights.

    Attributes:
        folder: of the run; only decoded images are written there.
    """

    folder: Path

    @cached_property
    def run(self) -> Run:
        """The run of the recipe."""
        return Run(loading.load(CONFIGS / "demo.yaml", [f"run_dir={self.folder}"]), as_json=True)  # It prints nothing.

    @cached_property
    def images(self) -> Images:
        """Its images."""
        return Images(self.run.config, PROCESSES)

    def make_supernet(self) -> Supernet:
        """Make the supernet."""
        return build_initialized(lambda: Supernet(self.run.config.space.build()), 0)

    @cached_property
    def trainer(self) -> Trainer:
        """The trainer of the supernet."""
        config = self.run.config
        return Trainer(
            self.make_supernet(),
            make_training_plan(config.supernet, self.images),
            PROCESSES,
            name="bench",
            folder=self.folder,
            identity={},
            seed=0,
            preprocess=self.images.preprocess,
            paths=make_sampler(self.run, config.space.build()).paths,
        )

    @cached_property
    def evaluator(self) -> Evaluator:
        """The evaluator of the search."""
        folder = self.run.folder.search
        folder.path.mkdir(parents=True)
        supernet = self.make_supernet().to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        return make_evaluator(self.run, folder, supernet, self.images, PROCESSES)

    @cached_property
    def network(self) -> Network:
        """A network of the space."""
        space = self.run.config.space.build()
        network = build_initialized(lambda: Network(space, space.options.architecture([0] * space.num_layers)), 0)
        return network.to(memory_format=torch.channels_last).eval()  # type: ignore[no-any-return, call-overload]

    def load(self) -> None:
        """Load batches of training images."""
        training, (indices, _) = self.run.config.supernet, self.images.splits
        for _ in self.images.batches(indices, training, 0, LOADED):
            pass

    def train(self) -> None:
        """Train the supernet, loading included."""
        training, (indices, _), step = self.run.config.supernet, self.images.splits, self.trainer.step
        stream = self.images.batches(indices, training, step, step + STEPS)
        self.trainer.model.train()
        for _ in range(STEPS):
            self.trainer.update(stream)
            self.trainer.step += 1

    def search(self) -> None:
        """Score groups of neighbouring candidates."""
        space = self.run.config.space.build()
        archs = itertools.product(*map(range, space.options.counts))
        for _ in range(GROUPS):
            self.evaluator.score([space.options.architecture(next(archs)) for _ in range(GROUP_SIZE)])

    def evaluate(self) -> None:
        """Evaluate a network on the validation images."""
        for _ in range(EVALUATIONS):
            batches = ((pixels, labels) for pixels, labels, _ in self.images.val_batches(256))
            evaluate(self.network, batches, self.images.preprocess, PROCESSES.device)


def compare_work(turns: int = TURNS) -> Iterator[Comparison]:
    """Compare each kind of work beside a busy process with the same on a quiet machine, in turns."""
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Neighbour()) as neighbour:
        demo = Demo(Path(folder))
        training, val = demo.run.config.supernet, len(demo.images.val)
        work: dict[str, tuple[str, int, Callable[[], object]]] = {
            "training": ("images/s", STEPS * training.batch_size, demo.train),
            "search": ("candidates/s", GROUPS * GROUP_SIZE, demo.search),
            "evaluation": ("images/s", EVALUATIONS * val, demo.evaluate),
            "loading": ("images/s", LOADED * training.batch_size, demo.load),
        }
        for name, (unit, units, call) in work.items():
            beside = partial(neighbour.run_beside, call)
            yield compare(f"demo {name} beside a busy process", unit, units, call, beside, turns, "quiet")


def lines(full: bool) -> Iterator[Comparison]:
    """Compare the demo's work with as many threads as `spos` chooses for it."""
    config, before = loading.load(CONFIGS / "demo.yaml"), torch.get_num_threads()
    torch.set_num_threads(
        choose_threads(config.threads, 1, config.supernet.batch_size * config.space.build().work_per_layer)
    )
    try:
        yield from compare_work()
    finally:
        torch.set_num_threads(before)
