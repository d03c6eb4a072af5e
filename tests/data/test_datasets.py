"""Image sources: every kind is read right, and everything wrong with one is a DataError that names it."""

from __future__ import annotations

import gzip
import os
import struct
import sys
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data as photographs
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from spos_cli.data import datasets, inspection
from spos_cli.errors import DataError

Pixels = NDArray[np.uint8]

PHOTO = photographs.astronaut()[:60, :80]


def tree(root: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 2) -> Path:
    """A folder of JPEG photographs in the layout of ImageNet."""
    for split in ("train", "val"):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(each):
                Image.fromarray(PHOTO).save(folder / f"{number}.JPEG", quality=95)
    return root


def test_folder_tree(tmp_path: Path) -> None:
    images = datasets.load("folder", tree(tmp_path, ("zebra", "ant", "ünï cödé")), "train")
    assert images.classes == ("ant", "zebra", "ünï cödé")
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images.path(3) == "zebra/1.JPEG"
    pixels = images.image(3)
    assert (pixels.shape, pixels.dtype) == ((60, 80, 3), np.uint8)
    assert np.abs(pixels.astype(int) - PHOTO).mean() < 5


def test_files_tell_their_size_and_time(tmp_path: Path) -> None:
    root = tree(tmp_path)
    path = root / "train" / "dog" / "1.JPEG"
    images = datasets.load("folder", root, "train")
    before = images.versions.copy()
    assert images.contents.tolist() == [(root / "train" / images.path(index)).stat().st_size for index in range(4)]
    os.utime(path, ns=(0, 123_456_789_000_000_001))
    after = datasets.load("folder", root, "train").versions
    assert (before != after).tolist() == [[False, False]] * 3 + [[False, True]]
    assert after[3, 1] == 123_456_789_000_000_001
    images = datasets.load("folder", root, "train")
    path.unlink()
    assert images.contents.tolist() == [*before[:3, 0], datasets.GONE]


def test_images_in_memory_tell_their_pixels(tmp_path: Path) -> None:
    images = datasets.load("digits", tmp_path, "train")
    assert isinstance(images, datasets.ArraySet)
    other = images.pixels.copy()
    other[7, 3, 3] ^= 1
    changed = datasets.ArraySet(images.name, images.classes, other, images.labels)
    assert np.flatnonzero(images.contents != changed.contents).tolist() == [7]
    assert np.array_equal(images.names, changed.names)


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no image folder .*train"):
        datasets.load("folder", tmp_path / "nowhere", "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        datasets.load("folder", tmp_path, "train")
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(DataError, match="no images for 1 of 1 class: empty"):
        datasets.load("folder", tmp_path, "train")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("RGB", (200, 100, 50)),
        ("RGBA", (200, 100, 50)),
        ("P", (200, 100, 50)),
        ("L", (124, 124, 124)),
        ("LA", (124, 124, 124)),
        ("CMYK", (200, 100, 50)),
        ("1", (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, expected: tuple[int, int, int]) -> None:
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    colour = Image.new("RGB", (5, 4), (200, 100, 50)) if mode != "1" else Image.new("RGB", (5, 4), (255, 255, 255))
    colour.convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
    pixels = datasets.decode(path)
    assert pixels.shape == (4, 5, 3)
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    assert datasets.decode(tmp_path / "x.png", "dtype")[0, :, 0].tolist() == [0, 1, 128, 255]


def test_broken_images_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(PHOTO).save(whole)
    content = whole.read_bytes()
    for name, wrong in [
        ("cut", content[: len(content) // 2]),
        ("empty", b""),
        ("text", b"hello"),
        ("head", content[:20]),
    ]:
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=rf"{name}\.jpg"):
            datasets.decode(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for pixels in (1500, 100):  # a warning of PIL's, and an error of its
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
        with pytest.raises(DataError, match="too many pixels"):
            datasets.decode(whole)


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
        datasets.read_idx(torn)
    packed = tmp_path / "torn.gz"
    packed.write_bytes(gzip.compress(whole.read_bytes())[:-9])
    with pytest.raises(DataError, match=r"torn\.gz"):
        datasets.read_idx(packed)


def test_idx_files_that_do_not_belong_together(tmp_path: Path) -> None:
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((3, 28, 28)))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(4))
    with pytest.raises(DataError, match="do not belong together"):
        datasets.load("fashion_mnist", tmp_path, "train")


@pytest.mark.skipif(
    not datasets.DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
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


def test_classes_are_compared(tmp_path: Path) -> None:
    one = datasets.load("folder", tree(tmp_path / "a"), "train")
    other = datasets.load("folder", tree(tmp_path / "b", ("cat", "cow")), "val")
    with pytest.raises(DataError, match=r"only in the first \['dog'\], only in the second \['cow'\]"):
        datasets.check_classes(one, other, 2)
    with pytest.raises(DataError, match=r"has 2 classes \(cat, dog\), but space\.classes is 3; set space\.classes: 2"):
        datasets.check_classes(one, one, 3)
    many = datasets.load("digits", ".", "train")
    with pytest.raises(DataError, match=r"has 10 classes \(0, 1, 2, 3, 4, \.\.\.\), but space\.classes is 3") as raised:
        datasets.check_classes(many, many, 3)
    assert "folders" not in str(raised.value)
    datasets.check_classes(one, one, 2)


def test_a_folder_is_read_as_torchvision_does(image_root: Path) -> None:
    (image_root / "train" / "chelsea" / "notes.txt").write_text("not an image")
    (image_root / "train" / "chelsea" / "1.JPEG").rename(image_root / "train" / "chelsea" / "ä.JPEG")
    images, oracle = datasets.load("folder", image_root, "train"), ImageFolder(image_root / "train")
    assert images.classes == tuple(oracle.classes) == ("astronaut", "chelsea", "coffee", "rocket")
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == oracle.targets
    for index, (file, _) in enumerate(oracle.samples):
        assert images.path(index) == str(Path(file).relative_to(image_root / "train"))
        assert np.array_equal(images.image(index), np.asarray(oracle[index][0]))


def test_one_class_is_refused(tmp_path: Path) -> None:
    """Every network is right about it."""
    one, two = (datasets.load("folder", tree(tmp_path / str(n), ("cat", "dog")[:n]), "train") for n in (1, 2))
    for train, val in ((one, one), (one, two), (two, one)):
        with pytest.raises(DataError, match=r"has 1 class only \(cat\); put the images of each class into .*<class>/"):
            datasets.check_classes(train, val, 1)


def test_levels_that_are_too_many_are_named(tmp_path: Path) -> None:
    lone = tree(tmp_path / "train" / "images").rename(tmp_path / "moved")  # moved/train/cat, moved/val/cat
    (tmp_path / "D" / "train" / "a").mkdir(parents=True)
    (lone / "train").rename(tmp_path / "D" / "train" / "a" / "b")
    (tmp_path / "D" / "train" / ".cache").mkdir()
    train = datasets.load("folder", tmp_path / "D", "train")
    val = datasets.load("folder", lone, "val")
    for other in (val, train):
        with pytest.raises(DataError, match=r"holds one folder only, a/b, which holds cat, dog; ") as raised:
            datasets.require_classes(other, train)
        assert str(raised.value).endswith("set data.train_folder: train/a/b")
    below = datasets.load("folder", tmp_path / "D", "train", train_folder="train/a/b")
    datasets.check_classes(below, val, 2)


def test_a_link_that_leads_back_is_no_level(tmp_path: Path) -> None:
    tree(tmp_path, ("cat",))
    for path in (tmp_path / "train" / "cat").iterdir():
        path.rename(tmp_path / "train" / path.name)
    (tmp_path / "train" / "cat" / "again").symlink_to(tmp_path / "train")
    with pytest.raises(DataError, match="1 class only"):
        datasets.require_classes(datasets.load("folder", tmp_path, "train"))


@pytest.mark.parametrize(
    "hidden", ["cat/._0.JPEG", "cat/.0.JPEG", ".ipynb_checkpoints/0.JPEG", "cat/.ipynb_checkpoints/0-checkpoint.JPEG"]
)
def test_hidden_files_and_folders_are_left_out(tmp_path: Path, hidden: str) -> None:
    before = datasets.FolderSet(tree(tmp_path / ".data") / "train")
    (tmp_path / ".data" / "train" / hidden).parent.mkdir(exist_ok=True)
    Image.fromarray(PHOTO).save(tmp_path / ".data" / "train" / hidden)
    after = datasets.FolderSet(tmp_path / ".data" / "train")
    assert (after.classes, after.paths) == (before.classes, before.paths) == (("cat", "dog"), after.paths)
    assert len(after) == 4
    assert inspection.find_other_files(after) == []


KINDS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "QOI": (".qoi",),
    "TGA": (".tga", ".vda"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_that_pillow_reads_is_an_image(tmp_path: Path, name: str) -> None:
    Image.init()
    if name not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {name}")
    for ending in KINDS[name]:
        mode = {".pgm": "L", ".pbm": "1", ".gif": "P"}.get(ending, "RGB")
        for upper in (ending, ending.upper()):
            path = tmp_path / "train" / "a" / f"image{upper}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(PHOTO).convert(mode).save(path, name)
            with Image.open(path) as image:
                assert np.array_equal(datasets.decode(path), np.asarray(image.convert("RGB")))
    images = datasets.FolderSet(tmp_path / "train")
    assert len(images) == 2 * len(KINDS[name])
    assert not images.passed_over.total()


def test_torchvisions_kinds_are_among_ours() -> None:
    assert set(IMG_EXTENSIONS) <= datasets.extensions()


@pytest.mark.parametrize(
    "ending", [".eps", ".ps", ".pdf", ".wmf", ".emf", ".icns", ".ico", ".psd", ".svg", ".h5", ".heic"]
)
def test_other_kinds_are_counted_and_never_opened(tmp_path: Path, ending: str) -> None:
    folder = tree(tmp_path, each=1) / "train"
    for place in ("cat", "cat/deep", "dog", ".hidden", "dog/.hidden", "."):
        for name in (f"file{ending}", f".file{ending}", "Thumbs.db"):
            (folder / place / name).parent.mkdir(exist_ok=True)
            (folder / place / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    images = datasets.FolderSet(folder)
    assert images.passed_over == {ending: 3, datasets.OUTSIDE: 1}
    assert datasets.kinds(images.passed_over) == f"3 {ending}, 1 in no class folder"
    assert sum(images.passed_over.values()) == len(inspection.find_other_files(images))
    assert len(images) == 2


def test_a_name_does_not_make_a_document_an_image(tmp_path: Path) -> None:
    for name in ("EPS", "ICO", "TGA", "PCX"):
        Image.fromarray(PHOTO).save(tmp_path / "image.png", name)
        with pytest.raises(DataError, match="cannot identify"):
            datasets.decode(tmp_path / "image.png")
    Image.fromarray(PHOTO).save(tmp_path / "image.png", "BMP")  # but that is one
    assert np.array_equal(datasets.decode(tmp_path / "image.png"), PHOTO)


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png", "x.tif", "x.avif"])
def test_of_several_frames_the_first_is_taken(tmp_path: Path, name: str) -> None:
    if Path(name).suffix not in datasets.extensions():
        pytest.skip("this Pillow cannot read it")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / name) as image:
        assert image.n_frames == 3
    assert np.abs(datasets.decode(tmp_path / name).astype(int) - (200, 0, 0)).max() < 8


def test_many_kinds_are_cut_short() -> None:
    files = Counter({f".{letter}": 10 - place for place, letter in enumerate("abcdefgh")})
    assert datasets.kinds(files) == "10 .a, 9 .b, 8 .c, 7 .d, 6 .e and 12 more"


def test_a_class_of_another_kind_only_says_which(tmp_path: Path) -> None:
    tree(tmp_path)
    for path in (tmp_path / "train" / "dog").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(DataError, match=r"no images for 1 of 2 classes: dog; of other kinds: 2 \.heic; put .*\.avif"):
        datasets.FolderSet(tmp_path / "train")


def test_one_class_without_images_is_named(image_root: Path) -> None:
    (image_root / "train" / "empty one").mkdir()
    with pytest.raises(DataError, match="no images for 1 of 5 classes: empty one;"):
        datasets.load("folder", image_root, "train")


def test_a_palette_with_transparency(tmp_path: Path, photographs: dict[str, Pixels]) -> None:
    image = Image.fromarray(photographs["coffee"]).quantize(32)
    image.save(tmp_path / "image.png", transparency=bytes(range(32)))
    assert np.array_equal(datasets.decode(tmp_path / "image.png"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("name", ["image.png", "image.tif", "image.ppm"])
def test_16_bits_are_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    levels = np.linspace(0, 65535, 256).astype(np.uint16)
    Image.fromarray(np.tile(levels, (4, 1))).save(tmp_path / name)
    assert np.array_equal(datasets.decode(tmp_path / name, "dtype")[2, :, 1], np.arange(256))


def test_the_orientation_tag_is_left_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "image.jpg", exif=exif)
    assert datasets.decode(tmp_path / "image.jpg").shape == (20, 30, 3)


def idx(array: Pixels) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Pixels, Pixels]:
    """A root, and what belongs into its training files; no other place has any."""
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
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
        assert np.array_equal(datasets.read_idx(path), array)
        for length in range(len(content)):
            path.write_bytes(content[:length])
            with pytest.raises(DataError, match="get it again"):
                datasets.read_idx(path)
    for content in (whole + b"\0", b"\1" + whole[1:], b"\0\0\x0d\3" + whole[4:], b"\0\0\x08\xff" + whole[4:]):
        plain.write_bytes(content)
        with pytest.raises(DataError, match="get it again"):
            datasets.read_idx(plain)
    packed.write_bytes(small[:12] + b"\xff\xff" + small[14:])
    with pytest.raises(DataError, match="get it again"):
        datasets.read_idx(packed)


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
