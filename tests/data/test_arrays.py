"""Digits, Fashion-MNIST and CIFAR are read as they are, and damaged or missing files are named."""

from __future__ import annotations

import gzip
import struct
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from spos_cli.data import arrays, datasets
from spos_cli.data.image_files import Pixels
from spos_cli.errors import DataError


def test_digits_are_split_by_class_and_always_the_same() -> None:
    train, val = datasets.load("digits", ".", "train"), datasets.load("digits", ".", "val")
    assert len(train) + len(val) == 1797
    assert np.bincount(val.labels).min() >= 34
    assert train.image(0).shape == (8, 8, 3)
    ours = {train.image(i).tobytes() for i in range(len(train))}
    assert set().union(*ours) == {round(value * 255 / 16) for value in range(17)}
    shared = sum(val.image(i).tobytes() in ours for i in range(len(val)))
    assert shared == 0
    assert (train.path(17), train.classes) == ("digits/train/17", tuple("0123456789"))


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("place", [".", "FashionMNIST/raw"])
def test_fashion_mnist_files(tmp_path: Path, ending: str, place: str) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 28))
    write_idx(folder / f"t10k-images-idx3-ubyte{ending}", pixels)
    write_idx(folder / f"t10k-labels-idx1-ubyte{ending}", np.arange(6))
    images = datasets.load("fashion_mnist", tmp_path, "val")
    assert images.labels.tolist() == list(range(6))
    assert np.array_equal(images.image(4), np.repeat(pixels[4][..., None], 3, 2))
    assert images.classes[9] == "Ankle boot"


@pytest.mark.parametrize("cut", [0, 3, 7, 15, 100, -1])
def test_torn_idx_files(tmp_path: Path, cut: int) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    write_idx(whole, np.zeros((2, 28, 28)))
    torn.write_bytes(whole.read_bytes()[:cut])
    with pytest.raises(DataError, match="torn"):
        arrays.read_idx(torn)
    packed = tmp_path / "torn.gz"
    packed.write_bytes(gzip.compress(whole.read_bytes())[:-9])
    with pytest.raises(DataError, match=r"torn\.gz"):
        arrays.read_idx(packed)


def test_idx_files_that_do_not_belong_together(tmp_path: Path) -> None:
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((3, 28, 28)))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(4))
    with pytest.raises(DataError, match="do not belong together"):
        datasets.load("fashion_mnist", tmp_path, "train")


@pytest.mark.skipif(not arrays.DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist(tmp_path: Path) -> None:
    images = datasets.load("fashion_mnist", tmp_path, "train")
    assert np.bincount(images.labels).tolist() == [6000] * 10


@pytest.mark.parametrize(("source", "archive"), [("cifar10", "cifar-10-python"), ("cifar100", "cifar-100-python")])
def test_a_download_that_fails_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: datasets.Source, archive: str
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(DataError, match=rf"no network.*put {archive}\.tar\.gz into"):
        datasets.load(source, tmp_path, "train")


def idx(array: Pixels) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Pixels, Pixels]:
    """A root, and what belongs into its training files; no other place has any."""
    monkeypatch.setattr(arrays, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    monkeypatch.setattr("torchvision.datasets.FashionMNIST.mirrors", [(tmp_path / "mirror").as_uri() + "/"])
    rng = np.random.default_rng(0)
    return tmp_path, rng.integers(0, 256, (20, 28, 28), np.uint8), rng.integers(0, 10, 20, np.uint8)


def test_fashion_mnist_that_is_nowhere(fashion: tuple[Path, Pixels, Pixels]) -> None:
    root, _, _ = fashion
    with pytest.raises(DataError, match="cannot get FashionMNIST") as raised:
        datasets.load("fashion_mnist", root, "val")
    for place in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", root, root / "FashionMNIST/raw"):
        assert str(place) in str(raised.value)
    assert str(root / "debian") in str(raised.value)


def test_an_idx_file_cut_anywhere(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
    plain, packed = tmp_path / "file", tmp_path / "file.gz"
    whole, small = idx(array), gzip.compress(idx(array))
    for path, content in ((plain, whole), (packed, small)):
        path.write_bytes(content)
        assert np.array_equal(arrays.read_idx(path), array)
        for length in range(len(content)):
            path.write_bytes(content[:length])
            with pytest.raises(DataError, match="download it again"):
                arrays.read_idx(path)
    for content in (whole + b"\0", b"\1" + whole[1:], b"\0\0\x0d\3" + whole[4:], b"\0\0\x08\xff" + whole[4:]):
        plain.write_bytes(content)
        with pytest.raises(DataError, match="download it again"):
            arrays.read_idx(plain)
    packed.write_bytes(small[:12] + b"\xff\xff" + small[14:])
    with pytest.raises(DataError, match="download it again"):
        arrays.read_idx(packed)


def test_digits_are_divided_for_good() -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    train, val = datasets.load("digits", "", "train"), datasets.load("digits", "", "val")
    assert (len(train), len(val)) == (1438, 359)
    assert np.abs(np.bincount(val.labels) / np.bincount(train.labels) - 0.25).max() < 0.01
    assert train.path(17) == "digits/train/17"
    assert train.image(0).shape == (8, 8, 3)
    every = sorted(image.image(index)[..., 1].tobytes() for image in (train, val) for index in range(len(image)))
    expected = np.rint(sklearn.load_digits().images * 255 / 16).astype(np.uint8)
    assert every == sorted(image.tobytes() for image in expected)
    assert (train.labels[:8].tolist(), val.labels[:8].tolist()) == ([0, 1, 2, 3, 5, 6, 7, 8], [4, 2, 3, 6, 0, 0, 8, 7])


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match=r"pip install 'spos\[demo\]'"):
        datasets.load("digits", "", "train")


def test_digits_of_a_scikit_learn_that_keeps_them_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sklearn.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    with pytest.raises(DataError, match=r"this scikit-learn has no .*digits\.csv\.gz; install another version"):
        datasets.load("digits", "", "train")
