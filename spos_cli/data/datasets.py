"""Sets of labelled images: class folders or arrays, held-out images, class checks."""

from __future__ import annotations

import functools
import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spos_cli.data.arrays import Split, read_cifar, read_digits, read_fashion_mnist
from spos_cli.data.channels import fit_channels
from spos_cli.data.image_files import Decoding, Pixels, decode, get_extension, is_image, list_extensions
from spos_cli.errors import DataError
from spos_cli.files.os_errors import reason_of

Source = Literal["folder", "cifar10", "cifar100", "fashion_mnist", "digits"]

SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # that file managers leave behind
OUTSIDE_CLASSES = "in no class folder"
GONE = -1  # stands for the size and the time of a file that was removed
MAX_LISTED = 5  # classes, or kinds of files, that a message lists
MAX_NESTED_FOLDERS = 20  # that hold one folder each; a link may lead back to itself


class ImageSet(ABC):
    """Labelled images.

    Attributes:
        name: for messages.
        classes: the class names, by label.
        labels: `(N,)` int64.
        decoding: how files become pixels.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    decoding: Decoding = Decoding()

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int) -> Pixels:
        """Return an image, `(H, W, C) uint8`: RGB, unless `decoding` says otherwise.

        Raises:
            DataError: the file is missing or damaged.
            ConfigError: `decoding.value_range` does not fit its values.
        """

    @abstractmethod
    def path(self, index: int) -> str:
        """Return where the image is below the set's folder, or a name for it, such as `digits/train/17`."""

    @property
    @abstractmethod
    def contents(self) -> NDArray[np.int64]:
        """`(N,)`: a number for each image's content, such as the file's size or a hash of the pixels."""

    @property
    def versions(self) -> NDArray[np.int64]:
        """`(N,)` or `(N, 2)`: numbers that change on this machine when an image is replaced: a file's size and time."""
        return self.contents

    @functools.cached_property
    def names(self) -> NDArray[np.int64]:
        """`(N,)`: a hash of each image's path, the same wherever the set is and whatever else is in it."""
        return hash_each(self.path(index).encode(errors="surrogateescape") for index in range(len(self)))

    def is_gone(self) -> bool:
        """Tell whether the whole set has disappeared, such as a disk that is no longer mounted."""
        return False


class FolderSet(ImageSet):
    """Images in `folder/<class>/<image>`, classes and images sorted by name, as in torchvision's ImageFolder.

    Hidden folders and files, whose names begin with a dot, are left out: copies and leftovers of other programs.

    Args:
        folder: holds the class folders.
        decoding: how files become pixels.
        setting: the setting that names the folder, such as `data.train_folder: train`, for messages.

    Attributes:
        other_files: counts the files that are not images of the set, by kind.

    Raises:
        DataError: there is no such folder, or a class folder holds no images.
    """

    def __init__(self, folder: Path, decoding: Decoding = Decoding(), setting: str = "") -> None:  # noqa: B008, it is immutable
        self.decoding, self.setting = decoding, setting
        try:
            classes = _list_folders(folder)
        except (OSError, ValueError):  # ValueError: a name that no folder can have
            raise DataError(
                f"there is no image folder {folder}; it should hold a folder of images for each class"
                " (data.root, data.train_folder and data.val_folder say where)"
            ) from None
        if not classes:
            raise DataError(f"{folder} holds no class folders; images belong in {folder}/<class>/")
        self.other_files = Counter[str]()
        files = [sorted(_find_images(folder, name, self.other_files)) for name in classes]
        empty = [name for name, paths in zip(classes, files, strict=True) if not paths]
        if empty:
            others = f"; of other kinds: {describe_kinds(self.other_files)}" if self.other_files else ""
            raise DataError(
                f"{folder}: no images for {len(empty)} of {_count_classes(classes)}: {_list_first(empty)}{others};"
                f" put some there ({' '.join(sorted(list_extensions()))}), or remove the empty folders"
            )
        self.other_files[OUTSIDE_CLASSES] = sum(
            _may_be_missed(entry.name) for entry in folder.iterdir() if entry.is_file()
        )
        self.name, self.folder, self.classes = str(folder), folder, tuple(classes)
        self.paths = [path for paths in files for path in paths]
        self.labels = np.repeat(np.arange(len(files)), [len(paths) for paths in files]).astype(np.int64)

    def image(self, index: int) -> Pixels:
        return decode(self.folder / self.paths[index], self.decoding)

    def path(self, index: int) -> str:
        return self.paths[index]

    @functools.cached_property
    def versions(self) -> NDArray[np.int64]:
        """`(N, 2)`: each file's size in bytes and modification time in nanoseconds, at the first call.

        Both are `GONE` for a file that was removed since; reading it will report that.
        """
        return np.fromiter(self._read_status(), np.int64, 2 * len(self)).reshape(-1, 2)

    def _read_status(self) -> Iterator[int]:
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
        return not os.path.isdir(self.folder)  # noqa: PTH112  (a Path would raise an error of a lost file system)


def _find_images(folder: Path, name: str, other_files: Counter[str]) -> Iterator[str]:
    """Yield the paths, below `folder`, of a class's images, and count its other files by kind.

    Paths are text, since a million Path objects would take a gigabyte.
    """
    for walked, files in walk_folders(folder / name):
        below = Path(walked).relative_to(folder)
        for file in files:
            if is_image(file):
                yield f"{below}/{file}"
            elif _may_be_missed(file):
                other_files[get_extension(file) or "without an extension"] += 1


def _may_be_missed(name: str) -> bool:
    """Tell whether somebody may wonder why a file is not used."""
    return not _is_hidden(name) and name.lower() not in SYSTEM_FILES


def describe_kinds(files: Counter[str]) -> str:
    """List the most frequent kinds of files, such as `40 .txt, 3 .heic`."""
    listed = [f"{count:,} {kind}" for kind, count in files.most_common(MAX_LISTED) if count]
    rest = files.total() - sum(count for _, count in files.most_common(MAX_LISTED))
    return ", ".join(listed) + (f" and {rest:,} more" if rest else "")


def walk_folders(top: Path) -> Iterator[tuple[str, list[str]]]:
    """Walk a folder and all folders below it; yield each with the names of its files, without hidden ones.

    Links to folders are followed last, and no folder is entered twice: a link may lead to a folder that contains it,
    and a few links may lead to each other in millions of ways.

    Raises:
        DataError: one of the folders cannot be read.
    """

    def stop(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename}: {reason_of(error)}")

    entered: set[tuple[int, int]] = set()
    waiting = deque([top])
    while waiting:
        for folder, folders, files in os.walk(waiting.popleft(), onerror=stop):
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in entered:
                folders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not _is_hidden(name))
            waiting.extend(link for name in folders if (link := Path(folder, name)).is_symlink())
            yield folder, [file for file in files if not _is_hidden(file)]


def _list_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden ones."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry.name))


def _is_hidden(name: str) -> bool:
    """Tell whether file managers and `ls` hide a file, such as `.ipynb_checkpoints` or `._00.jpg`."""
    return name.startswith(".")


def _count_classes(names: Sequence[str]) -> str:
    """Return `1 class`, `3 classes`."""
    return f"{len(names):,} {'class' if len(names) == 1 else 'classes'}"


def _list_first(names: Sequence[str]) -> str:
    """List the first names of many."""
    return ", ".join(names[:MAX_LISTED]) + (", ..." if len(names) > MAX_LISTED else "")


class ArraySet(ImageSet):
    """Images in memory: `(N, H, W)` or `(N, H, W, 3)` uint8."""

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...],
        pixels: Pixels,
        labels: NDArray[Any],
        decoding: Decoding = Decoding(),  # noqa: B008, it is immutable
    ) -> None:
        self.name, self.classes, self.pixels, self.decoding = name, classes, pixels, decoding
        self.labels = np.asarray(labels, np.int64)

    def image(self, index: int) -> Pixels:
        return fit_channels(self.pixels[index], self.decoding.channels)

    def path(self, index: int) -> str:
        return f"{self.name}/{index}"

    @functools.cached_property
    def contents(self) -> NDArray[np.int64]:
        return hash_each(pixels.tobytes() for pixels in self.pixels)


def hash_each(texts: Iterable[bytes]) -> NDArray[np.int64]:
    """Return a hash of each text, `(N,)`, of 64 bits, the same on every machine."""
    digests = b"".join([hashlib.blake2b(text, digest_size=8).digest() for text in texts])
    return np.frombuffer(digests, "<i8").astype(np.int64)


def load(
    source: Source,
    root: str | Path,
    split: Split,
    *,
    train_folder: str = "train",
    val_folder: str = "val",
    decoding: Decoding = Decoding(),  # noqa: B008, it is immutable
) -> ImageSet:
    """Open a data set.

    Args:
        source: its kind.
        root: its folder; data sets of torchvision are downloaded to it if they are missing.
        split: training or validation images.
        train_folder, val_folder: the folders of the splits, below `root`, for class folders.
        decoding: how files in class folders become pixels.

    Raises:
        DataError: images are missing or damaged; the message says what was expected where.
    """
    root = Path(root)
    if source == "folder":
        name = train_folder if split == "train" else val_folder
        return FolderSet(root / name, decoding, f"data.{split}_folder: {name}")
    if source == "digits":
        arrays = read_digits(split)
    elif source == "fashion_mnist":
        arrays = read_fashion_mnist(root, split)
    else:
        arrays = read_cifar("CIFAR10" if source == "cifar10" else "CIFAR100", root, split)
    return ArraySet(f"{source}/{split}", *arrays, decoding)


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


def check_classes(train: ImageSet, val: ImageSet, expected: int) -> None:
    """Compare the classes of two sets with each other and with the number that the space expects.

    Raises:
        DataError: they differ, or there is only one class.
    """
    require_classes(train, val)
    if train.classes != val.classes:
        only_train = sorted(set(train.classes) - set(val.classes))[:MAX_LISTED]
        only_val = sorted(set(val.classes) - set(train.classes))[:MAX_LISTED]
        raise DataError(
            f"{train.name} and {val.name} have different classes: only in the first {only_train}, only in the second"
            f" {only_val}"
        )
    if len(train.classes) != expected:
        folders = ", or remove the folders that are not classes" if isinstance(train, FolderSet) else ""
        raise DataError(
            f"{train.name} has {_count_classes(train.classes)} ({_list_first(train.classes)}), but space.classes is"
            f" {expected}; set space.classes: {len(train.classes)}{folders}"
        )


def require_classes(*sets: ImageSet) -> None:
    """Refuse sets of one class, for which every network is right.

    Raises:
        DataError: a set has one class. If the classes are deeper in the folders, the message says which setting to use.
    """
    single = [images for images in sets if len(images.classes) < 2]
    if not single:
        return
    problems, advice = [], []
    for images in single:
        nested, inner = _skip_nested_folders(images.folder) if isinstance(images, FolderSet) else ("", [])
        if isinstance(images, FolderSet) and inner:
            problems.append(f"{images.name} holds only one folder, {nested}, which holds {_list_first(inner)}")
            advice.append(f"set {images.setting}/{nested}" if images.setting else f"name {images.folder / nested}")
        else:
            problems.append(f"{images.name} has only 1 class ({_list_first(images.classes)})")
            advice.append(f"put the images of each class into {images.name}/<class>/, of two classes or more")
    raise DataError(f"{' and '.join(problems)}; {' and '.join(dict.fromkeys(advice))}")


def _skip_nested_folders(folder: Path) -> tuple[str, list[str]]:
    """Follow folders that hold one folder only; return the path of the last one, and the folders in it."""
    nested = Path()
    for _ in range(MAX_NESTED_FOLDERS):
        inner = _list_folders(folder / nested)
        if len(inner) != 1:
            return nested.as_posix(), inner
        nested /= inner[0]
    return "", []
