"""Count what a network gets wrong: by class, by pair of classes, by confidence.

Everything is computed from one prediction per image, so it is the same for any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 15  # as Guo et al. use (2017, arXiv 1706.04599)

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class ClassCounts:
    """How often one class occurs, and how often it is predicted.

    Attributes:
        support: images of this class.
        predicted: images that the network takes for this class.
        correct: images of this class that the network takes for it.
    """

    name: str
    support: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float | None:
        """Share of the predictions of this class that are correct; None if it is never predicted."""
        return self.correct / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """Share of the images of this class that are classified correctly; None without images."""
        return self.correct / self.support if self.support else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None if the class has neither images nor predictions."""
        return 2 * self.correct / (self.support + self.predicted) if self.occurs else None

    @property
    def occurs(self) -> bool:
        """Whether the class has images or is predicted."""
        return self.support + self.predicted > 0


class Confusion(NamedTuple):
    """How many images of the class with index `label` are taken for the class with index `predicted`."""

    label: int
    predicted: int
    images: int


@dataclass(frozen=True)
class ConfidenceBin:
    """The images whose confidence, the probability of the predicted class, is in one interval.

    Attributes:
        confidence: the mean; None without images.
    """

    images: int
    correct: int
    confidence: float | None

    @property
    def accuracy(self) -> float | None:
        """Share of the images that are classified correctly; None without images."""
        return self.correct / self.images if self.images else None


@dataclass(frozen=True)
class Mistakes:
    """What a network gets wrong. Averages over classes leave out the classes for which a number is not defined.

    Attributes:
        classes: in the order of labels.
        confusions: every pair of classes that is confused, the most frequent first.
        bins: equally wide, from confidence 0 to 1. Images without a finite confidence are in no bin.
    """

    classes: Sequence[ClassCounts]
    confusions: Sequence[Confusion]
    bins: Sequence[ConfidenceBin]

    @cached_property
    def images(self) -> int:
        """How many images were classified."""
        return sum(one.support for one in self.classes)

    @property
    def accuracy(self) -> float:
        """Share of all images that are classified correctly."""
        return sum(one.correct for one in self.classes) / self.images

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have images."""
        return _mean(one.recall for one in self.classes) or 0.0

    @property
    def macro_precision(self) -> float:
        """The mean precision of the classes that are predicted."""
        return _mean(one.precision for one in self.classes) or 0.0

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that have images or are predicted."""
        return _mean(one.f1 for one in self.classes) or 0.0

    @property
    def calibration_error(self) -> float | None:
        """The expected calibration error: the mean distance of accuracy and confidence in a bin, weighted by images.

        None if a confidence is not finite.
        """
        if sum(one.images for one in self.bins) < self.images:
            return None
        distances = (
            one.images * abs(one.accuracy - one.confidence)
            for one in self.bins
            if one.accuracy is not None and one.confidence is not None
        )
        return sum(distances) / self.images

    @property
    def without_images(self) -> int:
        """How many classes have no images, and so no recall."""
        return sum(not one.support for one in self.classes)

    @property
    def without_predictions(self) -> int:
        """How many classes are never predicted, and so have no precision."""
        return sum(not one.predicted for one in self.classes)

    @cached_property
    def worst_classes(self) -> list[int]:
        """The indices of the classes that have images or are predicted, lowest recall first, those without last."""

        def rank(label: int) -> tuple[bool, float, int, int]:
            one = self.classes[label]
            return one.recall is None, one.recall or 0.0, -one.support, label

        return sorted((label for label, one in enumerate(self.classes) if one.occurs), key=rank)

    def share_of(self, confusion: Confusion) -> float:
        """Return the share of the true class that is confused."""
        return confusion.images / self.classes[confusion.label].support


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the defined values; None if there is none."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def count_mistakes(
    names: Sequence[str], labels: Integers, predictions: Integers, confidences: NDArray[np.floating]
) -> Mistakes:
    """Count what a network gets wrong.

    Args:
        names: of all classes that can be predicted.
        labels: `(N,)`: the true class of each image.
        predictions: `(N,)`: the predicted class of each image.
        confidences: `(N,)`: the probability of the predicted class.
    """
    right = labels == predictions
    support, predicted, correct = (
        np.bincount(indices, minlength=len(names)).tolist() for indices in (labels, predictions, labels[right])
    )
    columns = zip(names, support, predicted, correct, strict=True)
    return Mistakes(
        classes=[ClassCounts(*column) for column in columns],
        confusions=_count_confusions(labels[~right], predictions[~right], len(names)),
        bins=_count_bins(confidences.astype(np.float64), right),
    )


def _count_confusions(labels: Integers, predictions: Integers, classes: int) -> list[Confusion]:
    """Count pairs of classes, the most frequent first. There may be too many classes for a matrix."""
    pairs, counts = np.unique(labels * classes + predictions, return_counts=True)
    order = np.argsort(-counts, kind="stable")  # Equally frequent pairs stay in the order of labels.
    columns = np.stack((pairs // classes, pairs % classes, counts), 1)  # (pairs, 3)
    return [Confusion(*row) for row in columns[order].tolist()]


def _count_bins(confidences: NDArray[np.float64], right: NDArray[np.bool_]) -> list[ConfidenceBin]:
    """Divide the images into bins by confidence. Bin m of M is `((m - 1) / M, m / M]`."""
    finite = np.isfinite(confidences)
    confidences, right = confidences[finite], right[finite]
    edges = np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS
    numbers = np.searchsorted(edges, confidences, side="left")  # A confidence on an edge belongs to the lower bin.
    images = np.bincount(numbers, minlength=CALIBRATION_BINS).tolist()
    correct = np.bincount(numbers[right], minlength=CALIBRATION_BINS).tolist()
    sums = np.bincount(numbers, confidences, CALIBRATION_BINS).tolist()
    return [
        ConfidenceBin(count, of_them, total / count if count else None)
        for count, of_them, total in zip(images, correct, sums, strict=True)
    ]


def find_most_confident(
    labels: Integers, predictions: Integers, confidences: NDArray[np.floating], number: int
) -> list[int]:
    """Return the indices of the mistakes with the highest confidence, at most `number`, the highest first."""
    wrong = np.flatnonzero((labels != predictions) & np.isfinite(confidences))
    order = np.argsort(-confidences[wrong], kind="stable")[:number]
    indices: list[int] = wrong[order].tolist()
    return indices
