"""Where images come from: class folders, torchvision's data sets, and scikit-learn's digits."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import importlib.util
import math
import os
import stat
import struct
import warnings
import zlib
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from spos_cli import seeding
from spos_cli.data import levels
from spos_cli.data.levels import ValueRange
from spos_cli.errors import ConfigError, DataError

Source = Literal["folder", "cifar10", "cifar100", "fashion_mnist", "digits"]
Split = Literal["train", "val"]
Pixels = NDArray[np.uint8]

# Pictures of pixels. PIL would know a file by its content, whatever its name is, and it runs Ghostscript for EPS; so it
# may not try documents, drawings, icons and data sets. MPO is JPEG to it; TGA has no signature.
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "PPM", "WEBP", "TIFF", "GIF", "AVIF", "JPEG2000", "QOI", "TGA")
FEATURES = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}  # which PIL may have been built without
OF_A_SYSTEM = ("thumbs.db", "desktop.ini")  # what file managers leave behind
OUTSIDE = "in no class folder"
MAX_ASPECT = 100  # long side to short side; the resize of a line of pixels to a square would fill the memory
MAX_IDX_BYTES = 2**30
MAX_JPEG_BYTES = 2**28  # a larger file is not read as a whole
GONE = -1  # the size of a file that is not there
NAMED = 5  # classes in a message
MAX_LEVELS = 20  # of folders that hold one folder each; a link may lead back
UNREADABLE = "cannot read the image "  # begins the message of a broken one
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class ImageSet(ABC):
    """Labelled images.

    Attributes:
        name: for messages.
        classes: their names, by label.
        labels: `(N,)` int64.
        value_range: how values that are not 8 bits a channel are scaled to them.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    value_range: ValueRange = "auto"

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int) -> Pixels:
        """`(H, W, 3) uint8` RGB.

        Raises:
            DataError: the file is missing or broken.
            ConfigError: `value_range` does not fit its values.
        """

    @abstractmethod
    def path(self, index: int) -> str:
        """Where the image is, below the folder of the set; or a name for it, like `digits/train/17`."""

    @property
    @abstractmethod
    def contents(self) -> NDArray[np.int64]:
        """`(N,)`: a number of each image that is another one for other content: a file's size, or a hash of pixels."""

    @property
    def versions(self) -> NDArray[np.int64]:
        """`(N,)` or `(N, 2)`: what tells on this machine that an image was replaced, its time of change included."""
        return self.contents

    @functools.cached_property
    def names(self) -> NDArray[np.int64]:
        """`(N,)`: a hash of each image's path; the same wherever the set is, and whatever else is in it."""
        return hashes(self.path(index).encode(errors="surrogateescape") for index in range(len(self)))

    def is_gone(self) -> bool:
        """Whether there is nothing to read from any more."""
        return False


class FolderSet(ImageSet):
    """`folder/<class>/<image>`, classes and images sorted by name (as torchvision's ImageFolder has them).

    Hidden folders and files, whose names begin with a dot, are left out: copies and leftovers of other programs.

    Args:
        folder: of the classes.
        value_range: see `decode`.
        setting: what says where the folder is, such as `data.train_folder: train`, for messages.

    Attributes:
        passed_over: how many files there are beside the images, by kind.
    """

    def __init__(self, folder: Path, value_range: ValueRange = "auto", setting: str = "") -> None:
        self.value_range, self.setting = value_range, setting
        try:
            classes = _folders_in(folder)
        except (OSError, ValueError):  # ValueError: no name for a folder at all
            raise DataError(
                f"there is no image folder {folder}; it should hold a folder of images for each class"
                " (data.root, data.train_folder and data.val_folder say where)"
            ) from None
        if not classes:
            raise DataError(f"{folder} holds no class folders; images belong in {folder}/<class>/")
        self.passed_over = Counter[str]()
        files = [sorted(_images_below(folder, name, self.passed_over)) for name in classes]
        empty = [name for name, paths in zip(classes, files, strict=True) if not paths]
        if empty:
            others = f"; of other kinds: {kinds(self.passed_over)}" if self.passed_over else ""
            raise DataError(
                f"{folder}: no images for {len(empty)} of {_classes(classes)}: {_few(empty)}{others};"
                f" put some there ({' '.join(sorted(extensions()))}), or remove the empty folders"
            )
        self.passed_over[OUTSIDE] = sum(_counts(entry.name) for entry in folder.iterdir() if entry.is_file())
        self.name, self.folder, self.classes = str(folder), folder, tuple(classes)
        self.paths = [path for paths in files for path in paths]
        self.labels = np.repeat(np.arange(len(files)), [len(paths) for paths in files]).astype(np.int64)

    def image(self, index: int) -> Pixels:
        return decode(self.folder / self.paths[index], self.value_range)

    def path(self, index: int) -> str:
        return self.paths[index]

    @functools.cached_property
    def versions(self) -> NDArray[np.int64]:
        """`(N, 2)`: size in bytes and time of change in nanoseconds, of all files when this is first asked for.

        Both are `GONE` for a file that is not there any more; who reads it will say so.
        """
        found = np.fromiter(self._stats(), np.int64, 2 * len(self))
        return found.reshape(-1, 2)

    def _stats(self) -> Iterator[int]:
        folder = str(self.folder)
        for path in self.paths:
            try:
                status = os.stat(f"{folder}/{path}")  # noqa: PTH116 - a Path for each takes three times as long
            except OSError:
                yield GONE
                yield GONE
            else:
                yield status.st_size
                yield status.st_mtime_ns

    @property
    def contents(self) -> NDArray[np.int64]:
        sizes: NDArray[np.int64] = self.versions[:, 0]
        return sizes

    def is_gone(self) -> bool:
        return not os.path.isdir(self.folder)  # noqa: PTH112  (a Path would raise what a lost file system says)


def _images_below(folder: Path, name: str, passed_over: Counter[str]) -> Iterator[str]:
    """Paths below `folder` of a class's images; text, since a million Path objects would fill a gigabyte.

    Args:
        passed_over: counts the other files by kind.
    """
    for place, files in folders_below(folder / name):
        below = Path(place).relative_to(folder)
        for file in files:
            if is_image(file):
                yield f"{below}/{file}"
            elif _counts(file):
                passed_over[_kind(file) or "without an ending"] += 1


@functools.lru_cache(maxsize=1)
def formats() -> tuple[str, ...]:
    """Those of `FORMATS` that the installed PIL can decode."""
    Image.init()
    supported = features.get_supported()
    return tuple(
        name for name in FORMATS if name in Image.OPEN and (name not in FEATURES or FEATURES[name] in supported)
    )


@functools.lru_cache(maxsize=1)
def extensions() -> frozenset[str]:
    """The endings of names of images, in small letters: those that PIL has for `formats`."""
    readable = {*formats(), "MPO"}
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in readable)


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image that can be read."""
    return _kind(name) in extensions()


def _kind(name: str) -> str:
    """The ending of a file's name: `.jpg`."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  (there may be a million)


def _counts(name: str) -> bool:
    """Whether somebody may miss a file that is passed over."""
    return not _is_hidden(name) and name.lower() not in OF_A_SYSTEM


def kinds(files: Counter[str]) -> str:
    """`40 .txt, 3 .heic`: the most frequent kinds."""
    listed = [f"{count:,} {kind}" for kind, count in files.most_common(NAMED) if count]
    rest = files.total() - sum(count for _, count in files.most_common(NAMED))
    return ", ".join(listed) + (f" and {rest:,} more" if rest else "")


def folders_below(top: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and all below it, each with the names of its files; without hidden ones.

    Links to folders are followed, after all that is no link, but no folder is entered twice: a link may lead to a
    folder that it is in, and a few may lead to each other in millions of ways.

    Raises:
        DataError: one of them cannot be read.
    """

    def stop(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror or error}")

    entered: set[tuple[int, int]] = set()
    waiting = deque([top])
    while waiting:
        for place, folders, files in os.walk(waiting.popleft(), onerror=stop):
            status = Path(place).stat()
            if (status.st_dev, status.st_ino) in entered:
                folders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not _is_hidden(name))
            waiting.extend(link for name in folders if (link := Path(place, name)).is_symlink())
            yield place, [file for file in files if not _is_hidden(file)]


def _folders_in(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted; without hidden ones."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry.name))


def _is_hidden(name: str) -> bool:
    """Whether file managers and `ls` hide it: `.ipynb_checkpoints`, `._00.jpg`."""
    return name.startswith(".")


def _classes(names: Sequence[str]) -> str:
    """`1 class`, `3 classes`."""
    return f"{len(names):,} {'class' if len(names) == 1 else 'classes'}"


def _few(names: Sequence[str]) -> str:
    """The first names of many."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def decode(path: Path, value_range: ValueRange = "auto") -> Pixels:
    """One image file as `(H, W, 3) uint8` RGB; grey is repeated, transparency dropped.

    Of several frames or pages it is the first. JPEG files are decoded by simplejpeg if it is installed, in two thirds
    of PIL's time and to the same pixels.

    Args:
        value_range: which values become 0 and 255, for images whose values are not 8 bits a channel: two numbers, or
            `dtype`, the least and the largest of their type; `auto` refuses them. Others are taken as they are.

    Raises:
        DataError: it is missing, broken, or so large that it must be an attack.
        ConfigError: `value_range` does not fit its values.
    """
    with _as_data_error(path):
        pixels = _decode_fast(path) if _size_of_file(path) <= MAX_JPEG_BYTES else None
        if pixels is not None:
            return pixels
        with _opened(path) as image:
            depth = levels.depth_of(image)
            if depth is None:
                return np.array(image.convert("RGB"))
            scaled = levels.to_8_bits(image, depth, value_range)
            return scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, 2)
    raise AssertionError("an image or an error")


def measure(path: Path) -> levels.Measured | None:
    """The range of an image file's values; None if they are 8 bits a channel, for which its header is enough.

    Raises:
        DataError: it is missing or broken.
    """
    with _as_data_error(path):
        _size_of_file(path)
        with _opened(path) as image:
            depth = levels.depth_of(image)
            return None if depth is None else levels.measured(image, depth)
    raise AssertionError("a range or an error")


def _size_of_file(path: Path) -> int:
    """Bytes; raises ValueError for what is no file."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device may never end
        raise ValueError("it is no regular file")
    return status.st_size


@contextlib.contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    """Whatever is wrong with an image file, as a DataError."""
    try:
        yield
    except ConfigError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{UNREADABLE}{path}: it has too many pixels to be one") from None
    except Exception as error:  # PIL raises almost anything for a broken file
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{UNREADABLE}{path}: {reason}") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An image of PIL's, of which nothing but the header is read yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning)  # metadata that PIL does not like
        # Nearly anything looks like TGA, so its name has to say so.
        named = Image.registered_extensions().get(_kind(path.name)) == "TGA"
        with Image.open(path, formats=[name for name in formats() if name != "TGA" or named]) as image:
            _check_size(*image.size)
            yield image


def _decode_fast(path: Path) -> Pixels | None:
    """A JPEG file by simplejpeg, or None where PIL has to look at it: what is not plain colour or gray, or not whole.

    Both call libjpeg-turbo, with the accurate DCT and smooth upsampling.
    """
    simplejpeg = _simplejpeg()
    if simplejpeg is None:
        return None
    with path.open("rb", buffering=0) as file:
        content = file.read(3)
        if content != b"\xff\xd8\xff":
            return None
        content += file.read()
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray") or height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
            return None
        _check_size(width, height)
        pixels: Pixels = simplejpeg.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False)
    except ValueError:  # of libjpeg's, or of ours: PIL meets it again, and decides
        return None
    return pixels


@functools.lru_cache(maxsize=1)
def _simplejpeg() -> Any:
    """The module; None if it is not installed, or PIL has another libjpeg, whose pixels may be others."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg if features.check_feature("libjpeg_turbo") else None


def _check_size(width: int, height: int) -> None:
    """Raises ValueError for what no network can look at."""
    if min(width, height) < 1:
        raise ValueError("it has no pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"it is {width} x {height} pixels, a line and no image")


class ArraySet(ImageSet):
    """Images that are in memory: `(N, H, W)` or `(N, H, W, 3)` uint8."""

    def __init__(self, name: str, classes: tuple[str, ...], pixels: Pixels, labels: NDArray[Any]) -> None:
        self.name, self.classes, self.pixels = name, classes, pixels
        self.labels = np.asarray(labels, np.int64)

    def image(self, index: int) -> Pixels:
        pixels = self.pixels[index]
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)

    def path(self, index: int) -> str:
        return f"{self.name}/{index}"

    @functools.cached_property
    def contents(self) -> NDArray[np.int64]:
        return hashes(pixels.tobytes() for pixels in self.pixels)


def load(
    source: Source,
    root: str | Path,
    split: Split,
    *,
    train_folder: str = "train",
    val_folder: str = "val",
    value_range: ValueRange = "auto",
) -> ImageSet:
    """Opens a data set.

    Args:
        source: what kind it is.
        root: its folder; torchvision's data sets are downloaded to it where they are missing.
        split: training or validation images.
        train_folder, val_folder: of class folders, below `root`.
        value_range: of images in class folders, see `decode`.

    Raises:
        DataError: images are missing or broken; the message says what was expected where.
    """
    root = Path(root)
    if source == "folder":
        name = train_folder if split == "train" else val_folder
        return FolderSet(root / name, value_range, f"data.{split}_folder: {name}")
    if source == "digits":
        return digits(split)
    if source == "fashion_mnist":
        return fashion_mnist(root, split)
    return cifar(source, root, split)


def digits(split: Split) -> ImageSet:
    """The 1,797 handwritten digits of 8x8 pixels that scikit-learn ships; of each class 20 % are for validation.

    Its file is read without importing it, which would take every command a second.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("data.source: digits needs scikit-learn: pip install 'spos[demo]'")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not file.exists():
        raise DataError(f"data.source: digits: this scikit-learn has no {file}; install another version of it")
    with gzip.open(file, "rt") as rows:
        values = np.loadtxt(rows, delimiter=",")
    pixels = np.rint(values[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = values[:, 64].astype(np.int64)
    chosen = []
    for label in range(10):
        members = np.flatnonzero(labels == label)
        members = seeding.generator(0, "digits", label).permutation(members)
        cut = round(len(members) * 0.8)
        chosen.append(members[:cut] if split == "train" else members[cut:])
    indices = np.sort(np.concatenate(chosen))
    return ArraySet(f"digits/{split}", tuple("0123456789"), pixels[indices], labels[indices])


def fashion_mnist(root: Path, split: Split) -> ImageSet:
    """Fashion-MNIST out of IDX files, plain or gzipped; downloaded by torchvision if there are none.

    They are looked for in `root`, where torchvision puts them below it, and where Debian's package
    `dataset-fashion-mnist` does.

    Raises:
        DataError: the files are torn, or do not belong together, or there are none and the download failed.
    """
    raw = root / "FashionMNIST" / "raw"
    prefix = "train" if split == "train" else "t10k"
    places = (root, raw, DEBIAN_FASHION_MNIST)
    found = _find_idx(places, prefix)
    if found is None:
        folders = ", ".join(str(place) for place in places)
        by_hand = f"put {prefix}-images-idx3-ubyte.gz and {prefix}-labels-idx1-ubyte.gz into one of {folders}"
        _download("FashionMNIST", root, by_hand, train=split == "train")
        found = _find_idx((raw,), prefix)
        if found is None:
            raise DataError(f"the download to {raw} left no {prefix}-images-idx3-ubyte; {by_hand}")
    pixels, labels = (read_idx(path) for path in found)
    if pixels.shape != (labels.size, 28, 28) or labels.ndim != 1 or not labels.size or labels.max() > 9:
        raise DataError(f"{found[0]} and {found[1]} do not belong together: {pixels.shape} and {labels.shape}")
    return ArraySet(f"fashion_mnist/{split}", FASHION_CLASSES, pixels, labels)


def _find_idx(places: tuple[Path, ...], prefix: str) -> tuple[Path, Path] | None:
    for place in places:
        for ending in ("", ".gz"):
            images = place / f"{prefix}-images-idx3-ubyte{ending}"
            labels = place / f"{prefix}-labels-idx1-ubyte{ending}"
            if images.is_file() and labels.is_file():
                return images, labels
    return None


def read_idx(path: Path) -> Pixels:
    """An IDX file of bytes, plain or gzipped, of up to eight dimensions.

    Raises:
        DataError: it is torn or too large, or no IDX file of bytes.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            zero, kind, dimensions = struct.unpack(">HBB", file.read(4))
            if zero != 0 or kind != 8 or dimensions > 8:
                raise ValueError("it is not an IDX file of bytes")
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            size = math.prod(shape)
            if size > MAX_IDX_BYTES:
                raise ValueError(f"it says that it holds {size:,} bytes, which is too many")
            content = file.read(size + 1)  # no more, since a small file may unpack to a huge one
        if len(content) != size:
            raise ValueError("it is torn")
        return np.frombuffer(content, np.uint8).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise DataError(f"cannot read {path} ({error}); remove it, or get it again") from None


def cifar(source: Source, root: Path, split: Split) -> ImageSet:
    """CIFAR-10 or CIFAR-100, by torchvision, which checks the files before it unpickles them.

    Raises:
        DataError: they are not in `root` and cannot be downloaded.
    """
    name = "CIFAR10" if source == "cifar10" else "CIFAR100"
    archive = "cifar-10-python.tar.gz" if source == "cifar10" else "cifar-100-python.tar.gz"
    data = _download(name, root, f"put {archive} into {root}", train=split == "train")
    return ArraySet(f"{source}/{split}", tuple(data.classes), data.data, np.array(data.targets))


def _download(name: str, root: Path, by_hand: str, *, train: bool) -> Any:
    """A torchvision data set, downloaded if it is missing."""
    import torchvision

    try:
        return getattr(torchvision.datasets, name)(root, train=train, download=True)
    except Exception as error:  # whatever the network, the disk or the archive may raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(f"cannot get {name} ({reason}); {by_hand}") from None


def hashes(texts: Iterable[bytes]) -> NDArray[np.int64]:
    """`(N,)`: a hash of each text, 64 bits, the same on every machine."""
    digests = b"".join([hashlib.blake2b(text, digest_size=8).digest() for text in texts])
    return np.frombuffer(digests, "<i8").astype(np.int64)


def holdout(images: ImageSet, per_class: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divides training images: those to train on, and those that candidates are scored on.

    Held out are the images of each class whose names have the smallest hashes. So an image stays where it is when
    others come or go, whatever the seed and wherever the folder; k files more or less in a class change at most k of
    its held-out images, and fewer held-out images are some of the same.

    Args:
        images: of which `names` and `labels` count.
        per_class: images of each class that are held out (50 for ImageNet in the paper).

    Returns:
        Indices to train on, ascending; and held-out indices with the classes in turn, so that every beginning
        of them is balanced.

    Raises:
        DataError: a class would have no image left to train on.
    """
    if not len(images):
        raise DataError("there are no training images")
    counts = np.bincount(images.labels)
    poor = [label for label, count in enumerate(counts.tolist()) if 0 < count <= per_class]
    if poor:
        smallest = min(poor, key=lambda label: int(counts[label]))
        least = int(counts[smallest])
        raise DataError(
            f"data.holdout_per_class is {per_class}, but {len(poor)} of {np.count_nonzero(counts)} classes have no more"
            f" training images than that ({images.classes[smallest]} has {least}); "
            + (
                f"set data.holdout_per_class: {least - 1} or less"
                if least > 1
                else "give it more, or hold none out (data.holdout_per_class: 0 and search.split: val)"
            )
        )
    held_out = interleave(images)[: per_class * np.count_nonzero(counts)]
    return np.setdiff1d(np.arange(len(images)), held_out), held_out


def interleave(images: ImageSet) -> NDArray[np.int64]:
    """All indices with the classes in turn, so that every beginning is balanced as far as the classes allow.

    Within a class they are in the order of the hashes of their names.
    """
    by_class = np.lexsort((images.names, images.labels))
    counts = np.bincount(images.labels)
    place = np.arange(len(images)) - np.repeat(np.cumsum(counts) - counts, counts)  # of each within its class
    order: NDArray[np.int64] = by_class[np.lexsort((images.labels[by_class], place))]
    return order


def check_classes(train: ImageSet, val: ImageSet, expected: int) -> None:
    """Compares the classes of two sets with each other and with the space.

    Raises:
        DataError: they differ, or there is only one.
    """
    require_classes(train, val)
    if train.classes != val.classes:
        only_train = sorted(set(train.classes) - set(val.classes))[:5]
        only_val = sorted(set(val.classes) - set(train.classes))[:5]
        raise DataError(
            f"{train.name} and {val.name} have different classes: only in the first {only_train}, only in the second"
            f" {only_val}"
        )
    if len(train.classes) != expected:
        folders = ", or remove the folders that are no classes" if isinstance(train, FolderSet) else ""
        raise DataError(
            f"{train.name} has {_classes(train.classes)} ({_few(train.classes)}), but space.classes is {expected}; set"
            f" space.classes: {len(train.classes)}{folders}"
        )


def require_classes(*sets: ImageSet) -> None:
    """Refuses sets of one class, for which every network is right.

    Raises:
        DataError: there are some; if there is a level of folders too much, the message says which settings skip it.
    """
    alone = [images for images in sets if len(images.classes) < 2]
    if not alone:
        return
    seen, advice = [], []
    for images in alone:
        lone, inner = _lone_levels(images.folder) if isinstance(images, FolderSet) else ("", [])
        if isinstance(images, FolderSet) and inner:
            seen.append(f"{images.name} holds one folder only, {lone}, which holds {_few(inner)}")
            advice.append(f"set {images.setting}/{lone}" if images.setting else f"name {images.folder / lone}")
        else:
            seen.append(f"{images.name} has 1 class only ({_few(images.classes)})")
            advice.append(f"put the images of each class into {images.name}/<class>/, of two classes or more")
    raise DataError(f"{' and '.join(seen)}; {' and '.join(dict.fromkeys(advice))}")


def _lone_levels(folder: Path) -> tuple[str, list[str]]:
    """The levels below a folder that are one folder each, and the folders in the last of them."""
    lone = Path()
    for _ in range(MAX_LEVELS):
        inner = _folders_in(folder / lone)
        if len(inner) != 1:
            return lone.as_posix(), inner
        lone /= inner[0]
    return "", []
