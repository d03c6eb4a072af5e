"""Measure how long commands take to begin: `--help` with its imports, others after the import.

The resumed supernet and the wide space have few images, so that reading them costs little. Each start is a new process.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from spos_cli import cli
from spos_cli.config import loading
from spos_cli.engine.interrupt import Interrupted
from spos_cli.engine.trainer import Trainer
from spos_cli.run.folder import RunFolder
from spos_cli.search.scoring import Scoring
from spos_cli.stages import export_arch, search, status, supernet_train
from tests.benchmarks import photographs
from tests.benchmarks.comparison import Comparison, compare, measure_spread
from tests.benchmarks.measure import Row, run_in_child
from tests.benchmarks.small_images import CONFIGS
from tests.runs import make_candidates

TURNS, START_TURNS = 7, 5
IMAGES, CLASSES, CANDIDATES = 64, 4, 1000
TRAINED_STEPS = 12  # The optimizer then has state for most of the blocks.
# 6 choices in each of 20 layers, with the 10 widths of the recipe: 60 options.
WIDE_CHOICES: list[Any] = [*({"shuffle": {"kernel": kernel}} for kernel in (3, 5, 7, 9, 11)), "shuffle_xception"]
STAGES = (export_arch, search, status, supernet_train)  # Commands import their stage late; here it is there before.
# Where each command begins its work. The others are measured to their end.
BEGINNINGS: dict[str, tuple[type, str]] = {"supernet-train": (Trainer, "update"), "search": (Scoring, "score")}
TARGETS = {"supernet-train": "under 1.5 s"}
TARGET = "under 1 s"


def run_python(*arguments: str) -> None:
    """Run this Python to its end."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def compare_help() -> Comparison:
    """Compare starts per second. The baseline is the cost of any program that imports PyTorch at its top."""
    return compare(
        "start: --help",
        "starts/s",
        1,
        lambda: run_python("-c", "import torch"),
        lambda: run_python("-m", "spos_cli", "--help"),
        TURNS,
        "import torch",
    )


class BegunError(Exception):
    """The command has come to its work."""


def run_command(arguments: list[str]) -> None:
    """Run a command of `spos` in this process, without its output."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        cli.app(arguments, standalone_mode=False)


def measure_start(arguments: list[str]) -> float:
    """Return the seconds until a command begins its work, or until its end; call it in a new process."""

    def begin_work(self: object, first: Any, *others: object) -> None:
        if isinstance(self, Trainer):
            next(first)  # the first batch
        raise BegunError

    if arguments[0] == "supernet-train":
        importlib.import_module("torch._dynamo")  # PyTorch's optimizers import it when they are made, in any program.
    with contextlib.ExitStack() as stack:
        if arguments[0] in BEGINNINGS:
            stack.enter_context(mock.patch.object(*BEGINNINGS[arguments[0]], begin_work))
            stack.enter_context(contextlib.suppress(BegunError))
        begin = time.perf_counter()
        run_command(arguments)
    return time.perf_counter() - begin


def train_some_steps(arguments: list[str]) -> None:
    """Train a supernet for a few steps, and stop it as SIGTERM does; call it in a new process."""
    update = Trainer.update

    def update_and_stop(self: Trainer, stream: Any) -> None:
        update(self, stream)
        if self.step + 1 == TRAINED_STEPS:
            os.kill(os.getpid(), signal.SIGTERM)

    with mock.patch.object(Trainer, "update", update_and_stop), contextlib.suppress(Interrupted):
        run_command(arguments)


def write_settings(folder: Path, recipe: str, **sections: dict[str, Any]) -> Path:
    """Write the settings of a run on the images in `folder/data`, and return their file."""
    settings = yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())
    changes = {
        "space": {"classes": CLASSES},
        "data": {"root": str(folder / "data"), "holdout_per_class": 4, "workers": 0},
        "supernet": {"batch_size": 8},
        "search": {"calibration_images": 32, "calibration_batch_size": 16},
    }
    for section, values in changes.items():
        settings[section] = {**settings.get(section, {}), **values, **sections.get(section, {})}
    path = folder / f"{recipe}.yaml"
    path.write_text(yaml.safe_dump({**settings, "devices": "cpu", "run_dir": str(folder / recipe)}))
    return path


def write_scores(settings: Path) -> None:
    """Write the journal of a search with made-up scores, to be shown and exported."""
    config = loading.load(settings)
    folder = RunFolder(config.folder).search
    folder.path.mkdir(parents=True)
    entries, _ = make_candidates(config.space.build(), CANDIDATES, IMAGES, 10)
    folder.journal.write_text("".join(entry.to_line() for entry in entries))
    folder.settings.write_text(json.dumps({"supernet": "", "search": {}}))


def prepare(folder: Path) -> dict[str, list[str]]:
    """Write images and runs; return the arguments of each command, by the title of its row."""
    for split in ("train", "val"):
        photographs.write(folder / "data" / split, IMAGES, CLASSES)
    official = write_settings(folder, "imagenet_published", data={"holdout_per_class": 0})
    wide = write_settings(folder, "imagenet_channels", space={"classes": CLASSES, "choices": WIDE_CHOICES})
    for settings in (official, wide):
        run_in_child(train_some_steps, ["supernet-train", "--config", str(settings)])
    scored = folder / "scored.yaml"
    scored.write_text(yaml.safe_dump({**yaml.safe_load(wide.read_text()), "run_dir": str(folder / "scored")}))
    write_scores(scored)
    return {
        "start: resumed official supernet, to its first step": ["supernet-train", "--config", str(official)],
        "start: search": ["search", "--config", str(wide)],
        "start: status": ["status", "--config", str(scored)],
        "start: export-arch": ["export-arch", "--config", str(scored)],
    }


def measure_starts(turns: int = START_TURNS) -> Iterator[Row]:
    """Measure the seconds of each command after the import, in turns; the first turn does not count."""
    with tempfile.TemporaryDirectory() as folder:
        commands = prepare(Path(folder))
        seconds: dict[str, list[float]] = {title: [] for title in commands}
        for _ in range(turns + 1):
            for title, arguments in commands.items():
                seconds[title].append(run_in_child(measure_start, arguments))
    for title, (command, *_) in commands.items():
        size = "20 layers, 4 choices" if command == "supernet-train" else "20 layers, 60 options"
        times = seconds[title][1:]
        target = TARGETS.get(command, TARGET)
        yield Row(title, size, statistics.median(times), "s", target=target, spread=measure_spread(times))


def lines(full: bool) -> Iterator[Comparison | Row]:
    """Measure all starts."""
    yield compare_help()
    yield from measure_starts()
