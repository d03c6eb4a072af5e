"""Compare training input at 224 px on one core, from files to the network's input."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spos_cli.data.cache import ResizedSet, keep_in_memory
from spos_cli.data.folder_set import FolderSet
from spos_cli.data.image_set import ImageSet
from spos_cli.data.loaders import BadImages, training_batches
from spos_cli.data.transforms import Augmentation, TrainTransform, preprocess
from tests.benchmarks import official, photographs
from tests.benchmarks.comparison import OFFICIAL, Comparison
from tests.benchmarks.measure import ROUNDS, Side, compare_in_children

FILES, BATCH, BATCHES = 16, 16, 12
Source = Literal["JPEG", "the cache"]


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


Work = Callable[[], None]


def make_official_input(folder: Path) -> Work:
    """Return what makes the batches of a turn as the official code does, from the JPEG files of a folder."""
    paths = sorted(folder.glob("*/*.jpg"))
    loaded = official.load_batches(paths, [int(path.parent.name) for path in paths], train=True, batch=BATCH)
    return lambda: consume(itertools.islice(loaded, BATCHES))


def make_our_input(folder: Path, source: Source) -> Work:
    """Return what makes the batches of a turn as `spos` does, from JPEG files or from their cache."""
    files = FolderSet(folder)
    images: ImageSet = files
    if source == "the cache":
        images = keep_in_memory(ResizedSet(files, 256), np.arange(FILES), BadImages(0, print))
    return lambda: consume(load_our_batches(images))


def compare_inputs(folder: Path, source: Source) -> Comparison:
    """Compare the images per second of both sides."""
    sides = Side(make_official_input, (folder,), False), Side(make_our_input, (folder, source), True)
    what = f"training input from {source}, 1 thread"
    return compare_in_children(what, "images/s", BATCH * BATCHES, *sides, ROUNDS, OFFICIAL)


def lines(full: bool) -> Iterator[Comparison]:
    """Compare input from JPEG files of 500 x 375 pixels, and from the cache of decoded images (`data.store`)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loader worker
    try:
        with tempfile.TemporaryDirectory() as folder:
            photographs.write(Path(folder), FILES)
            yield compare_inputs(Path(folder), "JPEG")
            yield compare_inputs(Path(folder), "the cache")
    finally:
        torch.set_num_threads(threads)
