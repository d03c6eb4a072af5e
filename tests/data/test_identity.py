"""What a run remembers of its images, and what it says when they have changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spos_cli.data import datasets
from spos_cli.data.array_set import ArraySet
from spos_cli.data.identity import Identity, TrainedOn, require_same
from spos_cli.data.image_set import ImageSet
from spos_cli.data.splits import holdout
from spos_cli.errors import RunError


def training(root: Path) -> ImageSet:
    return datasets.load("folder", root, "train")


def identity(root: Path, per_class: int = 2) -> Identity:
    images = training(root)
    return Identity.of(images, holdout(images, per_class)[1])


def file(root: Path, name: str) -> Path:
    """One of five images of the class rocket."""
    return next((root / "train" / "rocket").glob(f"{name}.*"))


def test_an_identity_survives_json_and_does_not_depend_on_the_folder(tmp_path: Path, image_root: Path) -> None:
    before = identity(image_root)
    assert Identity.read(json.loads(json.dumps(before.to_dict()))) == before
    assert list(before.classes) == ["astronaut", "chelsea", "coffee", "rocket"]
    shutil.copytree(image_root / "train", tmp_path / "elsewhere" / "train", copy_function=shutil.copyfile)
    now = identity(tmp_path / "elsewhere")
    assert now == before
    assert now.number == before.number
    assert now.changes(before) == []
    require_same({"training": now}, {"training": before.to_dict()}, "it was trained")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: file(root, "1").unlink(), "rocket: 5 images before, 4 now"),
        (lambda root: shutil.copy(file(root, "1"), file(root, "1").with_name("6.jpg")), "rocket: 5 images before, 6"),
        (lambda root: file(root, "1").rename(file(root, "1").with_name("7.jpg")), "rocket: 5 images, some under other"),
        (lambda root: file(root, "1").write_bytes(b"new"), "rocket: 5 images, some of which have been replaced"),
        (lambda root: (root / "train/rocket").rename(root / "train/ant"), "only before: rocket, only now: ant"),
        (lambda root: shutil.copytree(root / "train/rocket", root / "train/x"), "classes only now: x"),
        (lambda root: shutil.rmtree(root / "train/rocket"), "classes only before: rocket"),
    ],
)
def test_every_change_is_reported(image_root: Path, change: Any, said: str) -> None:
    before = identity(image_root)
    change(image_root)
    now = identity(image_root)
    (found,) = now.changes(before)
    assert said in found
    assert now.number != before.number
    with pytest.raises(RunError, match=r"^it was trained with other images \(training images: .*--fresh") as raised:
        require_same({"training": now}, {"training": before.to_dict()}, "it was trained")
    assert said in str(raised.value)


def test_the_split_is_compared_where_it_matters(image_root: Path) -> None:
    two, one = identity(image_root), identity(image_root, per_class=1)
    assert one.changes(two) == [f"{name}: other images are held out" for name in two.classes]
    assert one.changes(two, split=False) == []


def test_only_the_first_classes_are_listed(image_root: Path) -> None:
    for number in range(10):
        shutil.copytree(image_root / "train" / "rocket", image_root / "train" / f"copy{number}")
    before = identity(image_root)
    for path in image_root.glob("train/*/1.*"):
        path.unlink()
    changes = identity(image_root).changes(before)
    assert len(changes) == 6
    assert changes[-1] == "and 9 more classes"
    for number in range(10):
        shutil.rmtree(image_root / "train" / f"copy{number}")
    assert "copy4 and 5 more" in identity(image_root).changes(before)[0]


def test_images_in_memory_are_known_by_their_pixels() -> None:
    images = datasets.load("digits", "", "val")
    assert isinstance(images, ArraySet)
    before = Identity.of(images)
    pixels = images.pixels.copy()
    pixels[0] += 1
    now = Identity.of(ArraySet(images.name, images.classes, pixels, images.labels))
    assert now.changes(before) == [
        f"{images.labels[0]}: {np.count_nonzero(images.labels == images.labels[0])} images, some of which have been"
        " replaced"
    ]


@pytest.mark.parametrize("wrong", [None, 3, [], {}, {"training": 3}, {"training": {"a": 1}}, {"training": {"a": "x"}}])
def test_nonsense_on_the_disk_is_not_the_same(image_root: Path, wrong: Any) -> None:
    with pytest.raises(RunError, match="it was trained with images that it does not name; use another --run-dir"):
        require_same({"training": identity(image_root)}, wrong, "it was trained")


def test_what_a_supernet_remembers(image_root: Path) -> None:
    images = training(image_root)
    _, held_out = holdout(images, 2)
    content = TrainedOn.content({"training": Identity.of(images, held_out).to_dict()}, images, held_out)
    found = TrainedOn.read(content)
    assert found is not None
    assert found.identity == identity(image_root)
    assert TrainedOn.read({"model": {}}) is None
    for wrong in (None, 3, torch.zeros(3), torch.zeros(3, 2), torch.zeros(3, 3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="held-out images"):
            TrainedOn.read({**content, "held_out": wrong})
    for per_class in (2, 1):
        _, fewer = holdout(images, per_class)
        found.require_unseen(images, Identity.of(images, fewer), fewer, "the supernet")
    _, more = holdout(images, 3)
    with pytest.raises(RunError, match=r"4 of the 12 images .* not held out .*; restore the images, or train"):
        found.require_unseen(images, Identity.of(images, more), more, "the supernet")
