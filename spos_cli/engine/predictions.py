"""Keep what a network predicts for each image: a class and its probability."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spos_cli.engine.distributed import Processes
from spos_cli.engine.metrics import find_top_classes


class Predictions:
    """The predicted class of each image, and its probability: eight bytes per image.

    Args:
        images: how many images there are; each process fills in its own.
    """

    def __init__(self, images: int) -> None:
        self.classes = torch.zeros(images, dtype=torch.int32)
        self.confidences = torch.zeros(images)

    def add(self, indices: Tensor, logits: Tensor) -> None:
        """Keep the predictions of one batch: `indices (B,)` of the images, `logits (B, classes)`."""
        predicted = find_top_classes(logits.float())[:, :1]  # (B, 1)
        probabilities = logits.float().softmax(1).gather(1, predicted)
        self.classes[indices] = predicted[:, 0].int().cpu()
        self.confidences[indices] = probabilities[:, 0].cpu()

    def collect(self, processes: Processes) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the classes `(N,)` and their probabilities `(N,)` of all processes, which fill in different images."""
        classes, confidences = (
            processes.sum(values.to(processes.device)).cpu().numpy() for values in (self.classes, self.confidences)
        )
        return classes.astype(np.int64), confidences
