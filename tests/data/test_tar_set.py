"""Images in tar files: class folders and WebDataset's shards, links, labels, and damaged files."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spos_cli.data import datasets, inspection
from spos_cli.data.class_checks import require_classes
from spos_cli.data.image_files import Decoding
from spos_cli.data.image_set import END_BYTES
from spos_cli.data.tar_set import TarSet, find_shards
from spos_cli.errors import ConfigError, DataError


def encode(seed: int, kind: str = "PNG", dtype: Any = np.uint8) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    if dtype != np.uint8:
        pixels = pixels[..., 0].astype(dtype) * 16
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write(path: Path, members: dict[str, bytes | str], kind: str = "w") -> None:
    """Write a tar file; a text is the label of a sample, or the target of a link if it begins with `->`."""
    with tarfile.open(path, kind) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str) and content.startswith("->"):
                info.type, info.linkname = tarfile.LNKTYPE, content[2:]
                archive.addfile(info)
                continue
            data = content.encode() if isinstance(content, str) else content
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def load(root: Path, **settings: Any) -> TarSet:
    images = datasets.load("tar", root, "train", **settings)
    assert isinstance(images, TarSet)
    return images


def list_paths(images: TarSet) -> list[str]:
    return [images.path(index) for index in range(len(images))]


def test_class_folders(tmp_path: Path) -> None:
    members = {
        "./train/dog/1.png": encode(1),
        "train/cat/deep/2.jpg": encode(2, "JPEG"),
        "train/cat/._2.jpg": b"a fork of macOS",
        "train/cat/.ipynb_checkpoints/2-checkpoint.jpg": b"a copy of Jupyter",
        "./train/.ipynb_checkpoints/2.jpg": b"no class",
        "train/.cache/2.txt": b"no label: \xff",
        "train/notes.txt": "no label: there is no image notes",
        "train/dog/0.png": "->./train/dog/1.png",
    }
    write(tmp_path / "train.tar", members)
    images = load(tmp_path)
    assert images.classes == ("cat", "dog")
    assert list_paths(images) == ["cat/deep/2.jpg", "dog/0.png", "dog/1.png"]
    assert images.labels.tolist() == [0, 1, 1]
    assert images.read_bytes(0) == members["train/cat/deep/2.jpg"]
    assert images.read_bytes(1) == images.read_bytes(2) == members["./train/dog/1.png"]
    assert np.array_equal(images.image(1), np.asarray(Image.open(io.BytesIO(encode(1)))))
    assert images.contents.tolist() == [len(images.read_bytes(index)) for index in range(3)]
    assert images.locate(0) == f"{tmp_path}/train.tar:train/cat/deep/2.jpg"
    assert images.list_notes() == [f"{tmp_path}/train*.tar: 1 file is passed over: 1 .txt"]
    assert images.read_end(0) == images.read_bytes(0)[-END_BYTES:]
    assert inspection.find_equal([(images, np.arange(3))]) == [([1, 2],)]
    again = pickle.loads(pickle.dumps(images))
    assert np.array_equal(again.image(0), images.image(0))


def test_class_folders_that_are_deeper(tmp_path: Path) -> None:
    """The advice leads to the classes; a single class folder, or a single label, is not mistaken for that."""
    folders = {f"./imagenet/train/{name}/deep/{index}.png": encode(index) for index, name in enumerate(("cat", "dog"))}
    write(tmp_path / "train.tar", folders)
    with pytest.raises(DataError, match="holds only one folder, imagenet/train, which holds cat, dog; set") as raised:
        require_classes(load(tmp_path))
    setting, folder = str(raised.value).rpartition("; set data.")[2].split(": ")
    images = load(tmp_path, **{setting: folder})
    assert images.classes == ("cat", "dog")
    require_classes(images)
    for name, members in {
        "folder.tar": {"cat/0.png": encode(0), "cat/deep/a/1.png": encode(1), "cat/deep/b/2.png": encode(2)},
        "absolute.tar": {"/images/cat/0.png": encode(0), "/images/dog/1.png": encode(1)},
        "labels.tar": {"a/0.png": encode(0), "a/0.cls": "7", "b/0.png": encode(1), "b/0.cls": "7"},
    }.items():
        write(tmp_path / name, members)
        with pytest.raises(DataError, match=r"has only 1 class \(.*\); use images of two classes"):
            require_classes(load(tmp_path, train_shards=name))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("a.cls", "10", "b.cls", "9"), ("9", "10")),
        (("a.txt", "zebra\n", "b.txt", "ant"), ("ant", "zebra")),
        (("a.json", '{"label": 10, "x": 1}', "b.json", "9"), ("9", "10")),
        (("a.json", '{"cls": "z"}', "b.json", '{"class": "y"}'), ("y", "z")),
        (("a.cls", "1", "b.cls", "0", "a.txt", "a caption", "b.json", "{}"), ("0", "1")),
    ],
)
def test_labels_of_samples(tmp_path: Path, labels: tuple[str, ...], classes: tuple[str, str]) -> None:
    """The first sample has the last class."""
    write(tmp_path / "train-0.tar", {"a.png": encode(0), **dict(zip(labels[::2], labels[1::2], strict=True))})
    write(tmp_path / "train-1.tar", {"b.jpg": encode(1, "JPEG")})
    images = load(tmp_path, train_shards="train-{0..1}.tar")
    assert images.classes == classes
    assert list_paths(images) == ["b.jpg", "a.png"]
    assert images.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("members", "phrase"),
    [
        ({"a.png": b"", "b.png": b"", "a.cls": "0"}, "1 image of 2 without a label"),
        ({"a.png": b"", "a.cls": ""}, "should be one number or one class name"),
        ({"a.png": b"", "a.json": "{"}, "the label a.json is not JSON: '{'"),
        ({"a.png": b"", "a.json": '{"caption": "x"}'}, "should be one number or one class name (cls, label, class"),
        ({"a.png": b"", "a.jpg": b"", "a.cls": "0"}, "the same name, train.tar:a.png and train.tar:a.jpg"),
        ({"a.png": b""}, "a.png is in no class folder, and there are no labels"),
        ({"a.cls": "0"}, "holds 1 file (1 .cls), but no images"),
        ({"cat/a.heic": b"", "cat/b.heic": b"", "dog/Thumbs.db": b""}, "holds 3 files (2 .heic), but no images (."),
        ({"cat/a.png": b"1", "train/cat/a.png": b"2"}, "two images have the same name"),
    ],
)
def test_wrong_members(tmp_path: Path, members: dict[str, bytes | str], phrase: str) -> None:
    write(tmp_path / "train.tar", members)
    with pytest.raises(DataError) as raised:
        load(tmp_path)
    assert phrase in str(raised.value)
    assert "\n" not in str(raised.value)


def test_damaged_and_compressed_files(tmp_path: Path) -> None:
    path = tmp_path / "train.tar"
    write(path, {"a/0.png": encode(0), "b/0.png": encode(1)})
    whole = path.read_bytes()
    for content in (b"", b"no tar file" * 100, whole[:700], whole[:600] + b"x" * 600):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"train\.tar"):
            load(tmp_path)
    write(path, {"a/0.png": encode(0)}, "w:gz")
    with pytest.raises(DataError, match="should be whole and not compressed"):
        load(tmp_path)


def test_an_unreadable_image_names_its_tar_file(tmp_path: Path) -> None:
    write(tmp_path / "train.tar", {"a/0.png": encode(0)[:40], "b/0.png": encode(1)})
    images = load(tmp_path)
    with pytest.raises(DataError) as raised:
        images.image(0)
    assert str(raised.value).startswith(f"cannot read the image {tmp_path}/train.tar:a/0.png: ")
    assert inspection.find_unreadable(images, np.arange(2)).keys() == {0}
    assert not images.is_gone()
    os.truncate(tmp_path / "train.tar", 100)
    with pytest.raises(DataError, match="ends after 0 of"):
        images.image(1)
    (tmp_path / "train.tar").unlink()
    with pytest.raises(DataError, match="No such file"):
        images.image(1)
    assert images.is_gone()


def test_deep_images_are_scaled(tmp_path: Path) -> None:
    write(tmp_path / "train.tar", {"a/0.png": encode(0, dtype=np.uint16), "b/0.png": encode(1)})
    images = load(tmp_path)
    with pytest.raises(ConfigError, match=r"train\.tar:a/0\.png has 16-bit"):
        images.image(0)
    (measured,) = inspection.measure_values(images, np.arange(2))
    assert measured.path == images.locate(0)
    expected = encode(0, dtype=np.uint16)
    (tmp_path / "folder" / "a").mkdir(parents=True)
    (tmp_path / "folder" / "a" / "0.png").write_bytes(expected)
    folder = datasets.load("folder", tmp_path, "train", train_folder="folder", decoding=Decoding((0, 4080)))
    assert np.array_equal(load(tmp_path, decoding=Decoding((0, 4080))).image(0), folder.image(0))


def test_a_rewritten_tar_file_is_another_version(tmp_path: Path) -> None:
    path = tmp_path / "train.tar"
    write(path, {"a/0.png": encode(0), "b/0.png": encode(1)})
    before = load(tmp_path)
    write(path, {"b/0.png": encode(1), "a/0.png": encode(0)})
    os.utime(path, ns=(0, 1))
    after = load(tmp_path)
    assert np.array_equal(before.contents, after.contents)
    assert np.array_equal(before.names, after.names)
    assert (before.versions != after.versions).any(1).all()


def test_shards_are_found(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"t-{number:02}.tar").touch()
    names = [path.name for path in find_shards(tmp_path, "t-{08..11}.tar", "s")]
    assert names == ["t-08.tar", "t-09.tar", "t-10.tar", "t-11.tar"]
    assert len(find_shards(tmp_path, "t-0?.tar", "s")) == len(find_shards(tmp_path, f"{tmp_path}/t-0*.tar", "s")) == 10
    for pattern, phrase in {
        "t-{10..13}.tar": "2 of the 4 tar files .* are missing, such as t-12.tar",
        "t-{3..1}.tar": "needs one ascending range",
        "{0..1}-{0..1}": "needs one ascending range",
        "{0..999999999}": "needs one ascending range",
        "u*.tar": "there are no tar files .*data.root and s say where",
        "": "there are no tar files",
    }.items():
        with pytest.raises(DataError, match=phrase):
            find_shards(tmp_path, pattern, "s")


def test_rotated_images_and_arrays_are_read_as_files(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 5), np.uint8)
    exif, jpeg, array = Image.Exif(), io.BytesIO(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(pixels[..., :3]).save(jpeg, "JPEG", exif=exif)
    write(tmp_path / "train.tar", {"cat/0.jpg": jpeg.getvalue(), "dog/1.png": encode(1)})
    images = load(tmp_path)
    assert images.image(0).shape == (7, 6, 3)
    assert load(tmp_path, decoding=Decoding(exif="ignore")).image(0).shape == (6, 7, 3)
    assert inspection.find_rotated(images, np.arange(2)) == {0: 6}

    np.save(array, pixels)
    write(tmp_path / "train.tar", {"cat/0.npy": array.getvalue(), "dog/1.png": encode(1)})
    images = load(tmp_path, decoding=Decoding(channels=5))
    assert np.array_equal(images.image(0), pixels)
    with pytest.raises(DataError, match=r"train\.tar:dog/1\.png: .*3 channels, but"):
        images.image(1)
