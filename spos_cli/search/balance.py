"""Balanced accuracy: the mean over the classes of the share of their images that are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spos_cli.files.reading import read_json
from spos_cli.search.racing import Outcomes


class Balance:
    """The classes of the images that candidates are scored on.

    Balanced accuracy is scikit-learn's `balanced_accuracy_score`, and torchmetrics' `MulticlassAccuracy` with
    `average="macro"`. Classes without images do not count. With C classes, an image of a class of n images has the
    weight 1 / (C * n), and balanced accuracy is the sum of the weights of the images that are right.

    Args:
        labels: of all images, `(images,)`.
    """

    def __init__(self, labels: ArrayLike) -> None:
        _, self.labels, self.counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
        self.sizes = np.unique(self.counts)  # (sizes,): the numbers of images that classes have
        self.weights = 1 / (len(self.counts) * self.sizes)  # (sizes,): of each image of such a class

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.labels)

    def accuracy(self, outcomes: Outcomes) -> float:
        """Return the balanced accuracy of a candidate, from its outcomes on all images `(images,)`."""
        return float((self._count_right(outcomes) / self.counts).mean())

    def effective_images(self, outcomes: Outcomes) -> float:
        """Return how many images would tell a share as exactly as all images here tell the balanced accuracy.

        The variance of balanced accuracy is the sum over C classes of p (1 - p) / n, divided by C^2. Half a right and
        half a wrong image are added to each class, so that a class of few images, all right, is not taken for certain.
        """
        shares = (self._count_right(outcomes) + 0.5) / (self.counts + 1)
        variance = float((shares * (1 - shares) / self.counts).sum()) / len(self.counts) ** 2
        mean = float(shares.mean())
        return mean * (1 - mean) / variance

    def _count_right(self, outcomes: Outcomes) -> NDArray[np.float64]:
        return np.bincount(self.labels, weights=outcomes, minlength=len(self.counts)).astype(np.float64)

    def masks(self) -> list[Outcomes]:
        """Return for each of `sizes` which images are of a class of this size, `(images,)`: they weigh the same."""
        sizes = self.counts[self.labels]
        return [sizes == size for size in self.sizes.tolist()]


def read_balance(outcomes: Path, images: int) -> Balance | None:
    """Read the classes of the scored images from the manifest beside a file of outcomes; None if it does not have them.

    Args:
        images: number of scored images.
    """
    labels = read_json(outcomes.with_name("scoring.u8.json")).get("labels")
    if not isinstance(labels, list) or len(labels) != images or not all(type(label) is int for label in labels):
        return None
    return Balance(labels)
