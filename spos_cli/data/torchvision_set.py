"""Open a classification data set of torchvision by its name."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from spos_cli.data.array_set import ArraySet
from spos_cli.data.file_images import ListedFiles
from spos_cli.data.image_set import ImageSet, hash_each
from spos_cli.data.mapped_set import MappedSet, read_each_label
from spos_cli.data.place import Place, Split
from spos_cli.data.splits import mark_validation
from spos_cli.errors import DataError
from spos_cli.files.own_code import shorten_reason


class Splits(NamedTuple):
    """How a data set is asked for a split.

    Attributes:
        argument: of its constructor: `train` is true or false, `split` takes a name; empty if it has no splits.
        train, val: the usual names. `val` is the split on which papers report, if its labels are public.
        fixed: other arguments of the constructor.
    """

    argument: str = "split"
    train: str = "train"
    val: str = "test"
    fixed: tuple[tuple[str, Any], ...] = ()


BY_TRAIN, UNDIVIDED = Splits("train"), Splits("")
DATA_SETS = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS"), BY_TRAIN),
    **dict.fromkeys(("Caltech101", "Caltech256", "EuroSAT", "SEMEION", "SUN397"), UNDIVIDED),
    **dict.fromkeys(("CLEVRClassification", "ImageNet", "Imagenette"), Splits(val="val")),
    **dict.fromkeys(("FGVCAircraft", "OxfordIIITPet"), Splits(train="trainval")),
    **dict.fromkeys(
        (
            *("Country211", "DTD", "FER2013", "Flowers102", "Food101", "GTSRB", "LFWPeople", "PCAM", "RenderedSST2"),
            *("STL10", "StanfordCars", "SVHN"),
        ),
        Splits(),
    ),
    "EMNIST": Splits("train", fixed=(("split", "balanced"),)),
    "Places365": Splits(train="train-standard", val="val", fixed=(("small", True),)),
}
VALIDATION_SHARE = 0.2  # of each class of an undivided set
LABEL_ATTRIBUTES = ("targets", "labels", "_labels", "y")
FILE_ATTRIBUTES = ("_image_files", "_images", "data")
SAMPLE_ATTRIBUTES = ("_samples", "samples", "imgs")  # lists of pairs, of a path and a label


def open_torchvision(name: str, place: Place, split: Split) -> ImageSet:
    """Open a split of a data set of torchvision; it is downloaded if it is missing and torchvision can do so.

    Images in files are read by `spos`, not by torchvision, so that a broken one can be replaced as in class folders.

    Raises:
        DataError: torchvision has no such data set, it is not for classification or has no such split; or it is
            missing and cannot be downloaded.
    """
    splits = _find_splits(name)
    data = _construct(name, splits, place, split)
    files, labels = _find_files(data), _find_labels(data)
    where = f"torchvision:{name}/{place.split_name(split) or split}"
    pixels = _find_pixels(data) if files is None and labels is not None else None
    hashes = None
    if labels is None:
        labels, hashes = read_each_label(data, None, where, place.decoding)
    classes = _name_classes(data, labels)
    if files is not None:
        folder = os.path.commonpath([os.path.dirname(file) for file in files])  # noqa: PTH120  (as fast as possible)
        names = [os.path.relpath(file, folder) for file in files]
    else:
        names = [str(index) for index in range(len(labels))]
    indices = np.arange(len(labels)) if splits.argument else _divide(names, labels, split)
    labels, names = labels[indices], [names[index] for index in indices.tolist()]
    if files is not None:
        paths = [os.path.abspath(files[index]) for index in indices.tolist()]  # noqa: PTH100
        return ListedFiles(where, Path(place.root), paths, names, classes, labels, place.decoding)
    if pixels is not None:
        return ArraySet(where, classes, pixels[indices], labels, place.decoding)
    versions = np.zeros(len(labels), np.int64) if hashes is None else hashes[indices]
    return MappedSet(where, data, names, classes, labels, versions, indices, place.decoding)


def _find_splits(name: str) -> Splits:
    """Look a data set up; raise DataError if there is none of this name, or it is not for classification."""
    if name in DATA_SETS:
        return DATA_SETS[name]
    import torchvision

    if name in torchvision.datasets.__all__:
        advice = "use source: folder" if name in ("ImageFolder", "DatasetFolder") else "choose another one"
        raise DataError(f"data.source: torchvision's {name} is not a classification data set with splits; {advice}")
    lower = {known.lower(): known for known in DATA_SETS}
    similar = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3)]
    hint = f"did you mean {' or '.join(similar)}?" if similar else f"known: {', '.join(sorted(DATA_SETS))}"
    raise DataError(f"data.source: torchvision has no classification data set {name}; {hint}")


def _construct(name: str, splits: Splits, place: Place, split: Split) -> Any:
    """Return a data set of torchvision, downloaded if it is missing."""
    import inspect

    import torchvision

    kind = getattr(torchvision.datasets, name)
    split_name = place.split_name(split) or (splits.train if split == "train" else splits.val)
    arguments = dict(splits.fixed)
    if splits.argument == "train":
        if split_name not in ("train", "test"):
            raise DataError(f"data.{split}_split: {name} has the splits train and test, not {split_name}")
        arguments["train"] = split_name == "train"
    elif splits.argument:
        arguments[splits.argument] = split_name
    elif place.split_name(split):
        raise DataError(
            f"data.{split}_split: {name} has no splits, so its images are divided by the hashes of their names; remove"
            f" data.{split}_split"
        )
    downloads = "download" in inspect.signature(kind).parameters or name == "EMNIST"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # Some report each download.
            try:
                return kind(place.root, **arguments)
            except (OSError, RuntimeError):
                if not downloads:
                    raise
                return kind(place.root, **arguments, download=True)
    except Exception as error:  # The network, the disk and the archive may raise any kind of error.
        reason = shorten_reason(error)
        if isinstance(error, ValueError) and "for argument" in reason:
            raise DataError(f"data.{split}_split: {name} has no split {split_name}: {reason}") from None
        raise DataError(
            f"cannot get {name} ({reason}); put its files where torchvision looks for them, below {place.root}"
            " (https://pytorch.org/vision/stable/datasets.html)"
        ) from None


def _find_files(data: Any) -> list[str] | None:
    """Return the paths of all image files; None if the data set does not list them."""
    for attribute in SAMPLE_ATTRIBUTES:
        samples = getattr(data, attribute, None)
        if isinstance(samples, (list, tuple)) and samples and isinstance(samples[0], (list, tuple)):
            files = [pair[0] for pair in samples]
            return [os.fspath(file) for file in files] if _are_paths(files) else None
    for attribute in FILE_ATTRIBUTES:
        paths = getattr(data, attribute, None)
        if isinstance(paths, (list, tuple)) and len(paths) == len(data) and _are_paths(paths):
            return [os.fspath(path) for path in paths]
    return None


def _are_paths(files: Sequence[Any]) -> bool:
    return all(isinstance(file, (str, Path)) for file in files)


def _find_labels(data: Any) -> NDArray[np.int64] | None:
    """Return the labels of all images without opening any; None if the data set does not list them."""
    for attribute in LABEL_ATTRIBUTES:
        labels = getattr(data, attribute, None)
        if isinstance(labels, (list, tuple, np.ndarray, torch.Tensor)):
            numbers = np.asarray(labels)
            if numbers.shape == (len(data),) and numbers.dtype.kind in "iu" and numbers.min(initial=0) >= 0:
                return numbers.astype(np.int64)
    for attribute in SAMPLE_ATTRIBUTES:
        samples = getattr(data, attribute, None)
        if isinstance(samples, (list, tuple)) and samples and isinstance(samples[0], (list, tuple)):
            numbers = np.asarray([pair[1] for pair in samples])
            if numbers.shape == (len(data),) and numbers.dtype.kind in "iu":
                return numbers.astype(np.int64)
    return None


def _find_pixels(data: Any) -> NDArray[np.uint8] | None:
    """Return all images in memory, `(N, H, W)` or `(N, H, W, 3)`; None if the data set does not hold them so."""
    pixels = getattr(data, "data", None)
    if isinstance(pixels, torch.Tensor):
        pixels = pixels.numpy()
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or len(pixels) != len(data):
        return None
    if pixels.ndim == 4 and pixels.shape[1] == 3 and pixels.shape[3] != 3:
        pixels = pixels.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels) if pixels.ndim == 3 or pixels.shape[3:] == (3,) else None


def _name_classes(data: Any, labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Return class names: as the data set names them, else the numbers of the labels."""
    count = int(labels.max(initial=-1)) + 1
    for attribute in ("classes", "categories"):
        class_names = getattr(data, attribute, None)
        if isinstance(class_names, (list, tuple)) and len(class_names) >= count:
            names = [", ".join(name) if isinstance(name, (list, tuple)) else str(name) for name in class_names]
            counts = Counter(names)  # Two classes of ImageNet are called crane.
            return tuple(f"{name} ({label})" if counts[name] > 1 else name for label, name in enumerate(names))
    return tuple(map(str, range(count)))


def _divide(names: Sequence[str], labels: NDArray[np.int64], split: Split) -> NDArray[np.int64]:
    """Return the indices of a split of an undivided set, ascending: the same whatever the seed is."""
    hashes = hash_each(name.encode(errors="surrogateescape") for name in names)
    is_validation = mark_validation(hashes, labels, VALIDATION_SHARE)
    return np.flatnonzero(is_validation if split == "val" else ~is_validation)
