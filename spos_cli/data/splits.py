"""Divide training images into those to train on and held-out ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spos_cli.data.image_set import ImageSet
from spos_cli.errors import DataError


def holdout(images: ImageSet, per_class: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide training images into those to train on and held-out ones, which candidates are scored on.

    In each class, the images whose names have the smallest hashes are held out. So an image stays on its side when
    others are added or removed, whatever the seed and wherever the folder is. Adding or removing k files of a class
    changes at most k of its held-out images, and a smaller `per_class` holds out a subset.

    Args:
        images: only their `names` and `labels` matter.
        per_class: images to hold out in each class (50 for ImageNet in the paper).

    Returns:
        Indices to train on, ascending; and held-out indices with the classes in turn, so that their first n are
        balanced for any n.

    Raises:
        DataError: a class would have no image left to train on.
    """
    if not len(images):
        raise DataError("there are no training images")
    counts = np.bincount(images.labels)
    too_small = [label for label, count in enumerate(counts.tolist()) if 0 < count <= per_class]
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
    held_out = interleave(images)[: per_class * np.count_nonzero(counts)]
    return np.setdiff1d(np.arange(len(images)), held_out), held_out


def interleave(images: ImageSet) -> NDArray[np.int64]:
    """Return all indices with the classes in turn, so that the first n are as balanced as the classes allow.

    Within a class, images are in the order of the hashes of their names.
    """
    by_class = np.lexsort((images.names, images.labels))
    counts = np.bincount(images.labels)
    rank_in_class = np.arange(len(images)) - np.repeat(np.cumsum(counts) - counts, counts)
    order: NDArray[np.int64] = by_class[np.lexsort((images.labels[by_class], rank_in_class))]
    return order
