"""Photographs, and what a data set on disk looks like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data

Pixels = NDArray[np.uint8]


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
