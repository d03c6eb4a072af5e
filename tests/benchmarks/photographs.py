"""Write JPEG files for benchmarks: photographs of scikit-image at the usual size of ImageNet's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

SIZE = (500, 375)  # width and height in pixels, near the mean of ImageNet's photographs
NAMES = ("astronaut", "chelsea", "coffee", "rocket")


def write(folder: Path, number: int, classes: int = 4) -> tuple[list[Path], list[int]]:
    """Write `number` JPEGs (quality 95) to `folder/<class>/`, each another crop; return their paths and labels."""
    paths, labels = [], []
    rng = np.random.default_rng(0)
    for index in range(number):
        photograph = Image.fromarray(getattr(data, NAMES[index % len(NAMES)])())
        left, top = (float(rng.uniform(0, 0.2 * side)) for side in photograph.size)
        box = (left, top, left + 0.8 * photograph.width, top + 0.8 * photograph.height)
        label = index % classes
        path = folder / f"{label:03}" / f"{index:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph.resize(SIZE, Image.Resampling.BICUBIC, box).save(path, quality=95)
        paths.append(path)
        labels.append(label)
    return paths, labels
