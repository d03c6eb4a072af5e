"""Held-out images stay held out: properties of `holdout` and `interleave` for any names and classes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spos_cli.data import datasets
from spos_cli.data.array_set import ArraySet
from spos_cli.data.image_files import Pixels
from spos_cli.data.image_set import ImageSet
from spos_cli.data.splits import holdout, interleave
from spos_cli.errors import DataError

Files = dict[str, list[str]]  # names of each class


class Named(ImageSet):
    """Class folders of which only the names exist."""

    def __init__(self, files: Files) -> None:
        self.name, self.classes = "made up", tuple(files)
        self.paths = [f"{name}/{file}" for name, group in files.items() for file in group]
        self.labels = np.repeat(np.arange(len(files)), [len(group) for group in files.values()]).astype(np.int64)

    def image(self, index: int) -> Pixels:
        raise AssertionError("no image must be read")

    def path(self, index: int) -> str:
        return self.paths[index]

    @property
    def contents(self) -> NDArray[np.int64]:
        raise AssertionError("no size must be asked for")

    def all(self, indices: NDArray[np.int64]) -> list[str]:
        return [self.paths[index] for index in indices.tolist()]


# Names as file systems have them: any character, and bytes that are not text.
CHARACTER = st.characters(exclude_characters="/\0", exclude_categories=("Cs",)) | st.sampled_from("\udc80\udcff")
FILE = st.text(CHARACTER, min_size=1, max_size=8)
GROUP = st.lists(FILE, min_size=6, max_size=25, unique=True)
FILES = st.dictionaries(FILE, GROUP, min_size=1, max_size=5)


def held_out(files: Files, per_class: int = 5) -> list[str]:
    """Return the held-out paths in the order in which candidates are scored on them."""
    images = Named(files)
    training, held = holdout(images, per_class)
    assert np.array_equal(np.sort(np.concatenate((training, held))), np.arange(len(images)))
    assert np.array_equal(training, np.sort(training))
    return images.all(held)


@given(FILES, st.integers(0, 5))
def test_each_class_has_exactly_as_many_and_in_turn(files: Files, per_class: int) -> None:
    found = held_out(files, per_class)
    for begin in range(0, len(found), len(files)):
        assert [path.partition("/")[0] for path in found[begin : begin + len(files)]] == list(files)
    assert len(found) == len(set(found)) == per_class * len(files)


@given(FILES, st.data())
def test_the_order_of_files_and_other_classes_do_not_matter(files: Files, data: st.DataObject) -> None:
    found = held_out(files)
    assert held_out({name: data.draw(st.permutations(group)) for name, group in files.items()}) == found
    order = data.draw(st.permutations(list(files)))[: data.draw(st.integers(1, len(files)))]
    fewer = held_out({name: files[name] for name in order})
    for name in order:
        assert [p for p in fewer if p.startswith(f"{name}/")] == [p for p in found if p.startswith(f"{name}/")]


@settings(max_examples=300)
@given(GROUP, st.lists(FILE, max_size=6, unique=True), st.integers(1, 5))
def test_k_files_more_or_less_change_at_most_k_held_out_images(group: list[str], more: list[str], count: int) -> None:
    """Those that stay held out keep their order, and fewer per class are the first of more."""
    more = [name for name in more if name not in group]
    before, after = held_out({"c": group}, count), held_out({"c": group + more}, count)
    kept = [path for path in before if path in after]
    assert len(before) == len(after) == count
    assert len(kept) >= count - len(more)
    assert {path for path in after if path not in before} <= {f"c/{name}" for name in more}
    assert kept == [path for path in after if path in before]
    assert held_out({"c": group}, count - 1) == before[:-1]


def test_no_image_is_more_likely_than_another() -> None:
    """Of numbered files, as ImageNet has them, each hundredth of the numbers has its share: a chi-square test."""
    files = {f"n{label:08}": [f"n{label:08}_{number}.JPEG" for number in range(200)] for label in range(300)}
    numbers = Counter(int(path.rpartition("_")[2][:-5]) // 10 for path in held_out(files, 20))
    deviation = sum((numbers[part] - 300) ** 2 / 300 for part in range(20))
    assert deviation * 0.9 < 43.8  # 19 degrees of freedom, risk 0.001; 0.9 times the variance without replacement


@given(st.dictionaries(FILE, st.lists(FILE, min_size=1, max_size=9, unique=True), min_size=1, max_size=5))
def test_interleave_takes_the_classes_in_turn(files: Files) -> None:
    images = Named(files)
    order = interleave(images)
    assert sorted(order.tolist()) == list(range(len(images)))
    rounds = [[label for label, group in enumerate(files.values()) if rank < len(group)] for rank in range(9)]
    assert images.labels[order].tolist() == [label for part in rounds for label in part]
    shuffled = Named({name: group[::-1] for name, group in files.items()})
    assert shuffled.all(interleave(shuffled)) == images.all(order)


def test_images_in_memory_have_names_that_stay() -> None:
    images = datasets.load("digits", "", "train")
    _, held = holdout(images, 10)
    assert np.bincount(images.labels[held]).tolist() == [10] * 10
    assert np.array_equal(holdout(datasets.load("digits", "", "train"), 10)[1], held)
    # No version may score on other images than the one before, so this order must never change.
    assert images.names[:2].tolist() == [-3908089226561114785, 7774248501436640185]
    assert held[:5].tolist() == [1280, 1272, 1096, 114, 1024]


def test_a_class_with_nothing_left_is_named() -> None:
    files = {"a": list("wxyz"), "b": list("yz"), "c": list("xyz")}
    with pytest.raises(DataError, match=r"per_class is 3, but 2 of 3 classes .*\(b has 2\); set .*_class: 1 or less"):
        holdout(Named(files), 3)
    holdout(Named(files), 1)
    with pytest.raises(DataError, match=r"but 1 of 3 classes has .*\(c has 1\); .*search\.split: val"):
        holdout(Named({**files, "c": ["x"]}), 1)
    with pytest.raises(DataError, match="no training images"):
        holdout(ArraySet("none", ("a",), np.zeros((0, 2, 2), np.uint8), np.zeros(0)), 3)
