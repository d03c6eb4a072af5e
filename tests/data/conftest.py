"""Photographs, and what a data set on disk looks like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from torch import Tensor

Pixels = NDArray[np.uint8]
# The oracle's resize of uint8: before 0.22 torchvision goes through float32 on some CPUs, and rounds once more.
LEVELS_OFF = 1 if tuple(map(int, torchvision.__version__.split(".")[:2])) < (0, 22) else 0


def as_torchvision(ours: Tensor, oracle: Tensor) -> bool:
    """Tell whether an image `(3, H, W) uint8` is torchvision's."""
    return ours.shape == oracle.shape and int((ours.int() - oracle.int()).abs().max()) <= LEVELS_OFF


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On small images threads cost more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def photographs() -> dict[str, Pixels]:
    """RGB, of 300 to 512 rows and 451 to 640 columns."""
    return {name: np.ascontiguousarray(getattr(data, name)()) for name in ("astronaut", "coffee", "chelsea", "rocket")}


@pytest.fixture
def image_root(tmp_path: Path, photographs: dict[str, Pixels]) -> Path:
    """`train` and `val` with a folder of 5 JPEGs for each of 4 classes, 60 to 64 rows by 80 columns."""
    for split in ("train", "val"):
        for name, photograph in photographs.items():
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(5):
                crop = photograph[20 * number :][: 60 + number, 30 * number :][:, :80]
                Image.fromarray(crop).save(folder / f"{number}.{'JPEG' if number % 2 else 'jpg'}", quality=90)
    return tmp_path
