"""Training input at 224 px on one core, against the published procedure: from files to what the network sees.

python -m tests.benchmarks.inputs
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data as photographs
from torch import Tensor
from torchvision import transforms as classic

from spos_cli.data.datasets import FolderSet, ImageSet
from spos_cli.data.loaders import BadImages, training_batches
from spos_cli.data.resized import ResizedSet, keep_in_memory
from spos_cli.data.transforms import Augmentation, TrainTransform, preprocess
from tests.benchmarks.comparison import Comparison, compare

BATCH, BATCHES, TURNS = 16, 12, 7


def published_batches(paths: list[Path]) -> Iterator[Tensor]:
    """PIL's decoder, torchvision's transforms on PIL images, numbers in BGR; batches as torch collates them."""
    augment = classic.Compose(
        [classic.RandomResizedCrop(224), classic.ColorJitter(0.4, 0.4, 0.4), classic.RandomHorizontalFlip()]
    )
    for begin in range(0, BATCH * BATCHES, BATCH):
        batch = []
        for number in range(begin, begin + BATCH):
            with Image.open(paths[number % len(paths)]) as image:
                pixels = np.asarray(augment(image.convert("RGB")))[:, :, ::-1]
            batch.append(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float())
        yield torch.stack(batch)


def our_batches(images: ImageSet) -> Iterator[Tensor]:
    """What a training with preset `spos` does with no loader workers."""
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


@contextlib.contextmanager
def photos() -> Iterator[FolderSet]:
    """Four JPEG files of 500 x 375 pixels and 46 to 75 kB; those of ImageNet have 110 kB on average."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "photo").mkdir()
        for name in ("astronaut", "chelsea", "coffee", "rocket"):
            photo = Image.fromarray(getattr(photographs, name)()).convert("RGB").resize((500, 375))
            photo.save(Path(folder) / "photo" / f"{name}.jpg", quality=95)
        yield FolderSet(Path(folder))


def on_one_core(what: str, files: FolderSet, images: ImageSet) -> Comparison:
    """One thread, as in a loader worker."""
    paths = [files.folder / path for path in files.paths]

    def all_of(batches: Callable[[], Iterator[Tensor]]) -> Callable[[], None]:
        def work() -> None:
            for images in batches():
                del images  # before the next are made, as at the end of a training step

        return work

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return compare(
            what,
            "images/s",
            BATCH * BATCHES,
            all_of(lambda: published_batches(paths)),
            all_of(lambda: our_batches(images)),
            TURNS,
        )
    finally:
        torch.set_num_threads(threads)


def from_jpeg() -> Comparison:
    """Decode, crop, flip, colour jitter and numbers in BGR."""
    with photos() as files:
        return on_one_core("training input from JPEG, 224 px, 1 thread", files, files)


def from_store() -> Comparison:
    """The same from images that were decoded and resized before (`data.store`)."""
    with photos() as files:
        images = ResizedSet(files, 256)
        store = keep_in_memory(images, np.arange(len(files)), BadImages(0, print))
        return on_one_core("training input from a store, 224 px, 1 thread", files, store)


if __name__ == "__main__":
    for result in (from_jpeg(), from_store()):
        sides = (f"{statistics.median(side):.0f}" for side in (result.baseline, result.ours))
        print(f"{result.what}: published {next(sides)}, ours {next(sides)} {result.unit}: {result.ratio:.2f}x")
