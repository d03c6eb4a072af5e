"""A user's own data set: what it may return, its labels, names and contents, and each mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from spos_cli.data import datasets, inspection
from spos_cli.data.class_checks import check_classes
from spos_cli.data.identity import Identity, TrainedOn
from spos_cli.data.image_files import Decoding
from spos_cli.data.image_set import ImageSet
from spos_cli.data.mapped_set import to_pixels
from spos_cli.data.splits import holdout
from spos_cli.doctor.data import check_classes as check_classes_by_doctor
from spos_cli.errors import ConfigError, DataError, RunError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 7, 3), np.uint8)


class Photos:
    """Four images; tests replace its attributes and items by those of `changes`."""

    changes: ClassVar[dict[str, Any]] = {}
    items: ClassVar[dict[int, Any]] = {}

    def __init__(self, split: str) -> None:
        self.split = split
        for name, value in self.changes.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        item = self.items.get(index, (PIXELS[index], index % 2))
        if isinstance(item, Exception):
            raise item
        return item


class Endless:
    def __init__(self, split: str) -> None:
        pass

    def __getitem__(self, index: int) -> Any:
        return PIXELS[0], 0


class Empty(Endless):
    def __len__(self) -> int:
        return 0


NUMBER = 3


def without_split() -> list[Any]:
    return []


def load(monkeypatch: pytest.MonkeyPatch, items: dict[int, Any] | None = None, **changes: Any) -> ImageSet:
    monkeypatch.setattr(Photos, "changes", changes)
    monkeypatch.setattr(Photos, "items", items or {})
    return datasets.load(f"{__name__}:Photos", "D", "train")


def test_classes_in_another_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A label would stand for another class in validation."""
    one, other = (load(monkeypatch, classes=classes) for classes in (["cat", "dog"], ["dog", "cat"]))
    with pytest.raises(DataError, match="the same in another order: cat, dog in training, dog, cat in validation; "):
        check_classes(one, other, 2)
    finding = check_classes_by_doctor(one, other, 2)
    assert finding.status == "fail"
    assert "in another order" in finding.seen
    assert finding.advice.startswith("give both sets one order")


def test_the_split_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    load(monkeypatch)
    for split in ("train", "val"):
        images = datasets.load(f"{__name__}:Photos", "", split)
        assert images.data.split == split  # type: ignore[attr-defined]


def test_labels_from_a_pass_over_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    images = load(monkeypatch)
    assert images.classes == ("0", "1")
    assert images.labels.tolist() == [0, 1, 0, 1]
    assert [images.path(index) for index in (0, 3)] == ["train/0", "train/3"]
    other = load(monkeypatch, {2: (PIXELS[2] ^ 1, 0)})
    assert np.flatnonzero(images.contents != other.contents).tolist() == [2]
    assert np.array_equal(images.names, other.names)


def test_labels_from_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first image is opened, and it may be broken."""
    broken = {index: ValueError("opened") for index in range(4)}
    for targets in ([0, 2, 1, 2], torch.tensor([0, 2, 1, 2]), np.array([0, 2, 1, 2], np.uint8)):
        images = load(monkeypatch, broken, targets=targets, classes=["a", "b", "c"])
        assert images.classes == ("a", "b", "c")
        assert images.labels.tolist() == [0, 2, 1, 2]
    with pytest.raises(DataError, match=r"cannot read the image .*Photos\('train'\)\[3\]: opened"):
        images.image(3)
    assert inspection.find_unreadable(images, np.arange(4)).keys() == {0, 1, 2, 3}


def test_paths_name_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "D" / "train").mkdir(parents=True)
    (tmp_path / "D" / "train" / "x.png").write_bytes(b"12345")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "y.png").write_bytes(b"123")
    paths = [tmp_path / "D" / "train" / "x.png", "other/y.png", "train/z.png", "/elsewhere/x.png"]
    images = load(monkeypatch, targets=[0, 1, 0, 1], paths=paths)
    assert [images.path(index) for index in range(4)] == ["x.png", "other/y.png", "z.png", "/elsewhere/x.png"]
    assert images.contents.tolist() == [5, 3, -1, -1]
    assert images.locate(1).endswith("Photos('train')[1] (other/y.png)")
    for same in ("D/train/x.png", "train/x.png", Path("D", "train", "x.png")):
        images = load(monkeypatch, targets=[0, 1, 0, 1], paths=[same, *paths[1:]])
        assert (images.path(0), images.contents[0]) == ("x.png", 5)


def test_an_added_image_may_move_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without paths, nobody knows then which images a supernet was not trained on."""
    for paths in (None, list("abcd")):
        before = load(monkeypatch, targets=[0, 1, 0, 1], paths=paths)
        _, held_out = holdout(before, 1)
        identity = Identity.of(before, held_out)
        supernet = TrainedOn.read(TrainedOn.content({"training": identity.to_dict()}, before, held_out))
        assert supernet is not None
        supernet.require_unseen(before, identity, held_out, "last.pt")
        now = load(monkeypatch, targets=[0, 1, 0, 0], paths=paths)
        scored = supernet.held_out_of(now, 1)
        if paths:
            supernet.require_unseen(now, Identity.of(now, scored), scored, "last.pt")
            continue
        with pytest.raises(RunError, match=r"0: 2 images before, 3 now; .*known by position only.*restore the images"):
            supernet.require_unseen(now, Identity.of(now, scored), scored, "last.pt")


@pytest.mark.parametrize(
    "image",
    [
        PIXELS[0],
        torch.from_numpy(PIXELS[0]).permute(2, 0, 1),
        Image.fromarray(PIXELS[0]),
        Image.fromarray(PIXELS[0]).convert("RGBA"),
    ],
)
def test_kinds_of_colour_images(image: Any) -> None:
    pixels = to_pixels(image, "x", Decoding())
    assert np.array_equal(pixels, PIXELS[0])
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize(
    "image",
    [
        PIXELS[0, ..., 0],
        PIXELS[0, ..., :1],
        torch.from_numpy(PIXELS[0, ..., 0]),
        torch.from_numpy(PIXELS[0, ..., 0])[None],
        Image.fromarray(PIXELS[0, ..., 0]),
    ],
)
def test_kinds_of_grey_images(image: Any) -> None:
    assert np.array_equal(to_pixels(image, "x", Decoding()), np.repeat(PIXELS[0, ..., :1], 3, 2))


def test_images_of_five_channels_and_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    five = np.random.default_rng(0).integers(0, 256, (6, 7, 5)).astype(np.uint8)
    for image in (five, torch.from_numpy(five).permute(2, 0, 1)):
        assert np.array_equal(to_pixels(image, "x", Decoding(channels=5)), five)
    with pytest.raises(DataError, match=r"should be an image of PIL, an array \(H, W, 5\) .* not \(6, 7, 3\) uint8"):
        to_pixels(PIXELS[0], "x", Decoding(channels=5))
    grey = to_pixels(PIXELS[0], "x", Decoding(channels=1))
    assert np.array_equal(grey[..., 0], np.array(Image.fromarray(PIXELS[0]).convert("L")))


def test_images_of_pil_are_turned_upright() -> None:
    image = Image.fromarray(PIXELS[0])
    image.getexif()[0x0112] = 6
    assert np.array_equal(to_pixels(image, "x", Decoding()), np.rot90(PIXELS[0], -1))
    assert np.array_equal(to_pixels(image, "x", Decoding(exif="ignore")), PIXELS[0])


def test_images_of_more_than_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = Image.fromarray(PIXELS[0, ..., 0].astype(np.uint16) * 16)
    images = load(monkeypatch, {0: (deep, 0)})
    with pytest.raises(ConfigError, match=r"Photos\('train'\)\[0\] has 16-bit"):
        images.image(0)
    (measured,) = inspection.measure_values(images, np.arange(4))
    assert measured.path == images.locate(0)
    assert np.array_equal(to_pixels(deep, "x", Decoding((0, 4080))), np.repeat(PIXELS[0, ..., :1], 3, 2))


@pytest.mark.parametrize(
    ("items", "changes", "phrase"),
    [
        ({0: PIXELS[0]}, {}, "[0] should be a pair of an image and a label, not ndarray"),
        ({0: (PIXELS[0].astype(np.float32), 0)}, {}, "[0] should be an image of PIL, an array"),
        ({0: ("a.png", 0)}, {}, "not str"),
        ({0: (PIXELS[0][..., :2], 0)}, {}, "(6, 7, 2) uint8"),
        ({2: (PIXELS[0], 1.0)}, {}, "the label of spos.Photos('train')[2] should be an integer, not float"),
        ({2: (PIXELS[0], True)}, {}, "should be an integer, not bool"),
        ({2: (PIXELS[0], -1)}, {}, "the label of index 2 is -1, but should be 0 or more"),
        ({2: (PIXELS[0], 5)}, {"classes": ["a", "b"]}, "index 2 is 5, but should be 0 to 1, since there are 2 classes"),
        ({2: KeyError("lost")}, {}, "cannot read the image spos.Photos('train')[2]: 'lost'"),
        ({}, {"targets": [0, 1, 7, 1], "classes": ["a", "b"]}, "targets: the label of index 2 is 7"),
        ({}, {"targets": [0, 1]}, "targets should be 4 integers"),
        ({}, {"targets": ["a", "b", "a", "b"]}, "targets should be 4 integers"),
        ({}, {"targets": [1, 1, 0, 1]}, "the label of index 0 is 0, but targets has 1"),
        ({}, {"classes": ["a", "a"]}, "classes should be different class names"),
        ({}, {"classes": 3}, "classes should be different class names"),
        ({}, {"paths": ["a"], "targets": [0, 1, 0, 1]}, "paths should be 4 paths"),
        ({}, {"paths": ["a", "b", "./a", "c"], "targets": [0, 1, 0, 1]}, "indices 0 and 2 have the same path, a"),
    ],
)
def test_mistakes_name_the_index(
    monkeypatch: pytest.MonkeyPatch, items: dict[int, Any], changes: dict[str, Any], phrase: str
) -> None:
    with pytest.raises(DataError) as raised:
        load(monkeypatch, items, **changes)
    message = str(raised.value).replace(f"{__name__}:", "spos.")
    assert phrase in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("Nothing", "cannot call .*Nothing.*has no attribute"),
        ("NUMBER", "'int' object is not callable"),
        ("without_split", "unexpected keyword argument 'split'"),
        ("Endless", "Endless.* is of type Endless, not a map-style data set"),
        ("Empty", "has no images"),
    ],
)
def test_what_is_no_data_set(name: str, phrase: str) -> None:
    with pytest.raises(DataError, match=phrase):
        datasets.load(f"{__name__}:{name}", "", "train")
    with pytest.raises(DataError, match="No module named 'no_such'"):
        datasets.load("no_such.module:Photos", "", "train")
