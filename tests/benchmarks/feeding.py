"""Simulate how many loader workers feed one of eight fast GPUs, such as H100.

The step is fake: it sleeps. One worker delivers its share of a batch for each step, so `n workers` is one of n, and the
others are assumed to be as fast on cores of their own. What this cannot show: how the main process puts batches
together and sends them to the GPU, and how cores share memory and the disk.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spos_cli.data.cache import ResizedSet, keep_in_memory
from spos_cli.data.folder_set import FolderSet
from spos_cli.data.image_set import ImageSet
from spos_cli.data.loaders import BadImages, training_batches
from spos_cli.data.transforms import Augmentation, TrainTransform
from spos_cli.files.quoting import plural
from tests.benchmarks import photographs
from tests.benchmarks.comparison import measure_spread
from tests.benchmarks.measure import Row

GPUS, BATCH = 8, 1024  # the batch of the ImageNet recipes, over all GPUs
STEP_SECONDS = 0.06
STEPS, TURNS, FILES = 25, 3, 64
WORKERS = {"JPEG": (2, 4, 8), "the cache": (1, 2, 4)}
TARGET = 0.99


def measure_busy_share(images: ImageSet, workers: int, steps: int = STEPS) -> float:
    """Return the share of the time that the GPU would be busy, 0 to 1, with one of so many workers."""
    size = BATCH // GPUS // workers
    batches = training_batches(
        images,
        np.resize(np.arange(len(images)), size * (steps + 1)),
        TrainTransform("spos", 224, Augmentation()),
        seed=0,
        batch_size=size,
        first_step=0,
        last_step=steps + 1,
        workers=1,
    )
    next(batches)  # Now the worker has started.
    begin = time.perf_counter()
    for _ in range(steps):
        assert len(next(batches)[-1]) == size
        time.sleep(STEP_SECONDS)
    return steps * STEP_SECONDS / (time.perf_counter() - begin)


def simulate(images: ImageSet, source: str, workers: int, steps: int = STEPS, turns: int = TURNS) -> Row:
    """Measure the busy share in some turns, in percent."""
    shares = [100 * measure_busy_share(images, workers, steps) for _ in range(turns)]
    return Row(
        f"simulated: one of {GPUS} GPUs is busy, step of {STEP_SECONDS * 1000:.0f} ms, from {source}",
        f"{plural(workers, 'worker')} a GPU",
        statistics.median(shares),
        "%",
        target=f"{TARGET:.0%}",
        spread=measure_spread(shares),
    )


def lines(full: bool) -> Iterator[Row]:
    """Simulate input from JPEG files of 500 x 375 pixels, and from the cache of decoded images."""
    with tempfile.TemporaryDirectory() as folder:
        photographs.write(Path(folder), FILES)
        files = FolderSet(Path(folder))
        cached = keep_in_memory(ResizedSet(files, 256), np.arange(FILES), BadImages(0, print))
        for source, images in (("JPEG", files), ("the cache", cached)):
            for workers in WORKERS[source]:
                yield simulate(images, source, workers)
