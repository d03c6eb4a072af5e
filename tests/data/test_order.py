"""The order of training images: which images an epoch has, and that each draw has a key of its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spos_cli import seeding
from spos_cli.data.order import BalancedOrder, UniformOrder, make_order

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=8)


def make_balanced(sizes: list[int], seed: int = 3) -> tuple[BalancedOrder, np.ndarray]:
    """Return an order of classes of these sizes, whose images come in no order, and the class of each index."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    indices = np.arange(len(labels)) * 2 + 1  # The others are held out.
    by_index = np.full(2 * len(labels) + 1, -1)
    by_index[indices] = labels
    return BalancedOrder(indices, labels, seed), by_index


def test_a_uniform_epoch_has_each_image_once() -> None:
    indices = np.array([3, 5, 9, 2])
    order = make_order("uniform", indices, np.zeros(4, np.int64), 1)
    assert isinstance(order, UniformOrder)
    for epoch in range(3):
        expected = seeding.generator(1, "order", epoch).permutation(indices)
        assert order.draw(epoch).tolist() == [[epoch, index] for index in expected.tolist()]


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 5))
def test_each_class_is_drawn_equally_often_in_each_epoch(sizes: list[int], epoch: int) -> None:
    order, labels = make_balanced(sizes)
    draws = -(-sum(sizes) // len(sizes))
    assert len(order) == draws * len(sizes)
    keys = order.draw(epoch)
    assert keys.shape == (len(order), 2)
    assert np.bincount(labels[keys[:, 1]], minlength=len(sizes)).tolist() == [draws] * len(sizes)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(1, 6))
def test_images_of_a_class_are_drawn_equally_often_and_never_with_the_same_key(sizes: list[int], epochs: int) -> None:
    """Up to one draw; the first part of a key counts the draws of its image."""
    order, labels = make_balanced(sizes)
    keys = [tuple(key) for epoch in range(epochs) for key in order.draw(epoch).tolist()]
    assert len(set(keys)) == len(keys)
    numbers: dict[int, list[int]] = {index: [] for index in np.flatnonzero(labels >= 0).tolist()}
    for number, index in keys:
        numbers[index].append(number)
    for own in numbers.values():
        assert sorted(own) == list(range(len(own)))
    for label in range(len(sizes)):
        counts = [len(own) for index, own in numbers.items() if labels[index] == label]
        assert max(counts) - min(counts) <= 1


def test_an_epoch_depends_on_seed_and_number_only() -> None:
    first, _ = make_balanced([5, 1, 17])
    second, _ = make_balanced([5, 1, 17])
    later = second.draw(4)
    assert np.array_equal(first.draw(0), second.draw(0))
    assert np.array_equal(first.draw(4), later)
    assert not np.array_equal(first.draw(4), first.draw(5))
    assert not np.array_equal(first.draw(4), make_balanced([5, 1, 17], seed=4)[0].draw(4))


def test_equal_classes_have_each_image_once_per_epoch() -> None:
    order, labels = make_balanced([6, 6, 6])
    for epoch in range(3):
        assert sorted(order.draw(epoch)[:, 1].tolist()) == np.flatnonzero(labels >= 0).tolist()


def test_classes_without_images_are_left_out() -> None:
    order = BalancedOrder(np.array([4, 5, 6]), np.array([0, 7, 7]), 0)
    assert len(order) == 4
    assert sorted(order.draw(0)[:, 1].tolist()) in ([4, 4, 5, 6],)


def test_the_classes_of_an_epoch_are_mixed() -> None:
    """Not one class after another: by the number of changes, which has a mean of half of the draws."""
    order, labels = make_balanced([400, 100])
    drawn = labels[order.draw(0)[:, 1]]
    changes = int((drawn[1:] != drawn[:-1]).sum())
    assert changes == pytest.approx(len(order) / 2, abs=4 * np.sqrt(len(order)) / 2)
