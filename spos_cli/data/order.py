"""The order of training images: every image once per epoch, or every class equally often."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from spos_cli import seeding

Indices = NDArray[np.int64]
# How often its image was drawn before, and its index in the image set: (draws, 2). So each key occurs once in a whole
# training, and the augmentation, which depends on the key, is another one each time.
Keys = NDArray[np.int64]
Sampling = Literal["uniform", "balanced"]


class Order(Protocol):
    """An endless sequence of epochs. Each is a function of the seed and its number."""

    def __len__(self) -> int:
        """Return the draws of an epoch."""
        ...

    def draw(self, epoch: int) -> Keys:
        """Draw the keys of an epoch, in their order."""
        ...


class UniformOrder:
    """Every image once per epoch, in a new order each time."""

    def __init__(self, indices: Indices, seed: int) -> None:
        self.indices, self.seed = indices, seed

    def __len__(self) -> int:
        return len(self.indices)

    def draw(self, epoch: int) -> Keys:
        indices = seeding.generator(self.seed, "order", epoch).permutation(self.indices)
        return np.stack((np.full_like(indices, epoch), indices), 1)


class BalancedOrder:
    """Every class equally often per epoch.

    With N images of C classes, an epoch has C * ceil(N / C) draws: ceil(N / C) of each class. The images of a class
    follow each other as an endless sequence of permutations, which continues from epoch to epoch. So at any time, two
    images of a class were drawn equally often, or one of them once more.

    Args:
        indices: the images to train on.
        labels: their classes. Classes without images are left out.
        seed: of the order.
    """

    def __init__(self, indices: Indices, labels: NDArray[np.int64], seed: int) -> None:
        self.classes = [(label, indices[labels == label]) for label in np.unique(labels).tolist()]
        self.seed, self.draws_per_class = seed, -(-len(indices) // max(1, len(self.classes)))

    def __len__(self) -> int:
        return self.draws_per_class * len(self.classes)

    def draw(self, epoch: int) -> Keys:
        begin = epoch * self.draws_per_class
        keys = [self._draw_class(*pair, begin, begin + self.draws_per_class) for pair in self.classes]
        return seeding.generator(self.seed, "balanced order", epoch).permutation(np.concatenate(keys))

    def _draw_class(self, label: int, members: Indices, begin: int, end: int) -> Keys:
        """Return the keys of a class from one position of its endless sequence to before another."""
        size = len(members)
        rounds = np.arange(begin // size, -(-end // size))
        orders = [
            seeding.generator(self.seed, "order of a class", label, number).permutation(members)
            for number in rounds.tolist()
        ]
        keys = np.stack((np.repeat(rounds, size), np.concatenate(orders)), 1)
        first = int(rounds[0]) * size
        return keys[begin - first : end - first]


def make_order(sampling: Sampling, indices: Indices, labels: NDArray[np.int64], seed: int) -> Order:
    """Make the order of a training.

    Args:
        indices: the images to train on, `(N,)`.
        labels: their classes, `(N,)`.
    """
    return BalancedOrder(indices, labels, seed) if sampling == "balanced" else UniformOrder(indices, seed)
