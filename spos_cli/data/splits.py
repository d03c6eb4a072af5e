"""Divide images into training and validation, and hold training images out for the search."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spos_cli.data.image_set import ImageSet, count_classes, list_first
from spos_cli.errors import DataError


def holdout(
    images: ImageSet, per_class: int | None, share: float | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide training images into those to train on and held-out ones, which candidates are scored on.

    In each class, the images whose names have the smallest hashes are held out. So an image stays on its side when
    others are added or removed, whatever the seed and wherever the folder is. Adding or removing k files of a class
    changes at most k of its held-out images, and a smaller `per_class` or `share` holds out a subset.

    Args:
        images: only their `names` and `labels` matter.
        per_class, share: see `count_held_out`.

    Returns:
        Indices to train on, ascending; and held-out indices with the classes in turn, so that their first n are as
        balanced as the classes allow, for any n.

    Raises:
        DataError: a class would have no image left to train on.
    """
    if not len(images):
        raise DataError("there are no training images")
    counts = np.bincount(images.labels)
    numbers = count_held_out(counts, per_class, share)
    too_small = np.flatnonzero((counts > 0) & (counts <= numbers)).tolist()
    if too_small and share is not None:
        raise DataError(
            f"{count_classes(too_small)} {'has' if len(too_small) == 1 else 'have'} one training image only, so none"
            f" can be held out ({list_first([images.classes[label] for label in too_small])}); add images, or remove"
            " these classes"
        )
    if too_small:
        smallest = min(too_small, key=lambda label: int(counts[label]))
        count = int(counts[smallest])
        raise DataError(
            f"data.holdout_per_class is {per_class}, but {len(too_small)} of {np.count_nonzero(counts)} classes"
            f" {'has' if len(too_small) == 1 else 'have'} no more training images than that"
            f" ({images.classes[smallest]} has {count}); "
            + (
                f"set data.holdout_per_class: {count - 1} or less"
                if count > 1
                else "add images to it, or hold none out (data.holdout_per_class: 0 and search.split: val)"
            )
        )
    order = interleave(images)
    held_out = order[rank_in_class(images.labels[order]) < numbers[images.labels[order]]]
    return np.setdiff1d(np.arange(len(images)), held_out), held_out


def count_held_out(counts: NDArray[np.int64], per_class: int | None, share: float | None = None) -> NDArray[np.int64]:
    """Return how many images of each class are held out, `(classes,)`.

    Args:
        counts: training images of each class, `(classes,)`.
        per_class: images to hold out in each class that has any (50 for ImageNet in the paper).
        share: share of the images of each class to hold out instead, rounded: at least one, and one less than there
            are at most. A class of one image has no such number; it gets 1.
    """
    if share is None:
        return np.where(counts > 0, per_class or 0, 0)
    numbers = np.floor(counts * share + 0.5).astype(np.int64)
    return np.where(counts > 0, np.clip(numbers, 1, np.maximum(1, counts - 1)), 0)


def divide(images: ImageSet, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide images that are in no split into training and validation images, as `mark_validation` says.

    Args:
        images: only their `names` and `labels` matter.
        share: of each class, for validation.

    Returns:
        Indices of the training images and of the validation images, ascending.

    Raises:
        DataError: a class has one image only.
    """
    single = [images.classes[label] for label in np.flatnonzero(np.bincount(images.labels) == 1)]
    if single:
        raise DataError(
            f"{images.name}: {count_classes(single)} {'has' if len(single) == 1 else 'have'} one image only, so none is"
            f" left for validation ({list_first(single)}); add images, or remove these classes"
        )
    is_validation = mark_validation(images.names, images.labels, share)
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)


def mark_validation(names: NDArray[np.int64], labels: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Tell which images are for validation, `(n,)`: in each class, those whose names have the smallest hashes.

    So the seed makes no difference. If k images come or go, at most k others of their class change sides.

    Args:
        names: hashes of the names, `(n,)`.
        labels: `(n,)`.
        share: of each class, rounded: at least one image, but never the only one.
    """
    counts = np.bincount(labels)
    numbers = np.minimum(count_held_out(counts, None, share), counts - 1)
    order = np.lexsort((names, labels))
    is_validation = np.empty(len(labels), bool)
    is_validation[order] = rank_in_class(labels[order]) < numbers[labels[order]]
    return is_validation


def interleave(images: ImageSet) -> NDArray[np.int64]:
    """Return all indices with the classes in turn, so that the first n are as balanced as the classes allow.

    Within a class, images are in the order of the hashes of their names.
    """
    by_class = np.lexsort((images.names, images.labels))
    labels = images.labels[by_class]
    order: NDArray[np.int64] = by_class[np.lexsort((labels, rank_in_class(labels)))]
    return order


def rank_in_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position of each image among those of its class `(n,)`, from 0, in the order of the labels given."""
    counts, by_class = np.bincount(labels), np.argsort(labels, kind="stable")
    ranks = np.empty(len(labels), np.int64)
    ranks[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks


def spread_classes(indices: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return indices in an order in which each class is spread evenly, so that the first n are like all of them.

    Indices with the classes in turn, which end with images of the large classes, would not be. Classes whose sizes
    differ by one image at most stay in turn.

    Args:
        indices: with the classes in turn, `(n,)`.
        labels: of these, `(n,)`.
    """
    counts = np.bincount(labels)
    sizes = counts[counts > 0]
    if not len(sizes) or sizes.max() - sizes.min() <= 1:
        return indices
    place = (rank_in_class(labels) + 0.5) / counts[labels]
    return indices[np.lexsort((labels, place))]
