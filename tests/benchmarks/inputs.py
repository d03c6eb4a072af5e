"""Compare training input at 224 px on one core, from files to the network's input."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spos_cli.data.cache import ResizedSet, keep_in_memory
from spos_cli.data.folder_set import FolderSet
from spos_cli.data.image_set import ImageSet
from spos_cli.data.loaders import BadImages, training_batches
from spos_cli.data.transforms import Augmentation, TrainTransform, preprocess
from tests.benchmarks import official, photographs
from tests.benchmarks.comparison import Comparison, compare

FILES, BATCH, BATCHES, TURNS = 16, 16, 12, 7


def load_our_batches(images: ImageSet) -> Iterator[Tensor]:
    """Yield the input `(B, 3, 224, 224)` of a training with preset `spos` and no loader workers."""
    stream = training_batches(
        images,
        np.resize(np.arange(len(images)), BATCH * BATCHES),  # one epoch, as long as the work
        TrainTransform("spos", 224, Augmentation()),
        seed=0,
        batch_size=BATCH,
        first_step=0,
        last_step=BATCHES,
    )
    for pixels, colours, _ in stream:
        yield preprocess("spos", pixels, colours)


def consume(batches: Iterable[object]) -> None:
    """Take all batches, and free each before the next one is made, as a training step does."""
    for batch in batches:
        del batch


def lines(full: bool) -> Iterator[Comparison]:
    """Compare input from JPEG files of 500 x 375 pixels, and from the cache of decoded images (`data.store`)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loader worker
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths, labels = photographs.write(Path(folder), FILES)
            loaded = official.load_batches(paths, labels, train=True, batch=BATCH)
            files = FolderSet(Path(folder))
            cached = keep_in_memory(ResizedSet(files, 256), np.arange(FILES), BadImages(0, print))

            def line(what: str, images: ImageSet) -> Comparison:
                baseline: Callable[[], None] = lambda: consume(itertools.islice(loaded, BATCHES))  # noqa: E731
                ours: Callable[[], None] = lambda: consume(load_our_batches(images))  # noqa: E731
                return compare(
                    f"training input from {what}, 1 thread", "images/s", BATCH * BATCHES, baseline, ours, TURNS
                )

            yield line("JPEG", files)
            yield line("the cache", cached)
    finally:
        torch.set_num_threads(threads)
