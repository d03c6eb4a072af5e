"""The training transform of one decoded image, as it runs in a loader's worker."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage import data as photographs

from spos_cli.data.transforms import Augmentation, TrainTransform
from tests.benchmarks import published
from tests.benchmarks.comparison import Comparison, compare

NUMBER, TURNS = 50, 7


def training_image() -> Comparison:
    """Random resized crop, colour jitter and flip of a decoded 500x375 photograph, to numbers in BGR; one thread."""
    library: Any = photographs
    photo = np.asarray(Image.fromarray(library.coffee()).resize((500, 375)))
    oracle, transform = published.train_transform(), TrainTransform("spos", 224, Augmentation())

    def baseline() -> None:
        for _ in range(NUMBER):
            oracle(Image.fromarray(photo))

    def ours() -> None:
        batch = torch.stack([transform(photo, seed) for seed in range(NUMBER)])
        batch.flip(1).float()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loader worker
    try:
        return compare("training transform, 224 px, 1 thread", "images/s", NUMBER, baseline, ours, TURNS)
    finally:
        torch.set_num_threads(threads)
