"""Open the user's own map-style data set by its import path."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from spos_cli.data.image_files import UNREADABLE, Decoding
from spos_cli.data.image_set import GONE
from spos_cli.data.mapped_set import (
    MappedSet,
    get_bytes,
    get_item,
    name_classes,
    read_each_label,
    read_label,
    read_labels,
    with_advice,
)
from spos_cli.data.place import Place, Split
from spos_cli.errors import ConfigError, DataError
from spos_cli.files.own_code import call_own_code, shorten_reason
from spos_cli.files.quoting import plural


def open_own_set(path: str, place: Place, split: Split) -> MappedSet:
    """Call the class or function `path` with `split="train"` or `split="val"`, and use the data set that it returns.

    Optional attributes of the data set: `classes` (names, by label), `targets` (labels, so that they need no pass over
    all images) and `paths` (of the images: then names and file sizes identify them, not positions).

    Raises:
        DataError: it cannot be imported or called, or what it returns is not such a data set.
    """
    with with_advice(f"correct {path}"):
        return _open(path, place, split)


def _open(path: str, place: Place, split: Split) -> MappedSet:
    """Open the data set; raise DataError for the first thing that is wrong with it."""
    where = f"{path}({split!r})"
    try:
        data = call_own_code(path, f"data.source: cannot call {path}(split={split!r})", split=split)
    except ConfigError as error:
        raise DataError(str(error)) from error
    count = _count(data, where)
    targets, paths = getattr(data, "targets", None), getattr(data, "paths", None)
    first = _try_first_item(data, where, place.decoding, may_be_broken=targets is not None)
    class_names = getattr(data, "classes", None)
    classes = None if class_names is None else name_classes(class_names, np.zeros(0, np.int64), f"{where}.classes")
    class_count = None if classes is None else len(classes)
    versions = np.zeros(count, np.int64)
    if targets is None:
        labels, versions = read_each_label(data, class_count, where, place.decoding)
    else:
        labels = read_labels(targets, count, class_count, f"{where}.targets")
        if first is not None and labels[0] != first:
            raise DataError(f"{where}: the label of index 0 is {first}, but targets has {labels[0]}")
    classes = classes or name_classes(None, labels, where)
    names, files = [f"{split}/{index}" for index in range(count)], []
    if paths is not None:
        files = _read_paths(paths, count, where)
        texts = [_put_below_root(file, place) for file in files]
        names = [place.name_image(text, split) for text in texts]
        _require_distinct(names, where)
        if targets is not None:  # Otherwise, all pixels are known.
            versions = np.array([_read_status(place, text) for text in texts], np.int64)  # (N, 2)
    images = MappedSet(where, data, names, classes, labels, versions, decoding=place.decoding, files=files)
    images.known_by_position = paths is None and targets is not None
    return images


def _try_first_item(data: Any, where: str, decoding: Decoding, *, may_be_broken: bool) -> int | None:
    """Check the kinds of the first image and label; return the label, or None for a broken image, if it may be one."""
    try:
        image, label = get_item(data, 0, f"{where}[0]")
        get_bytes(image, f"{where}[0]", decoding)
    except DataError as error:
        if may_be_broken and str(error).startswith(UNREADABLE):  # The training will replace it.
            return None
        raise
    return read_label(label, f"{where}[0]")


def _count(data: Any, where: str) -> int:
    """Count the images of a data set; raise DataError if it has none, or is not map-style."""
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise DataError(
            f"{where} is of type {type(data).__name__}, not a map-style data set, which has __len__ and __getitem__"
        )
    try:
        count = len(data)
    except Exception as error:  # A user's code may raise anything.
        raise DataError(f"{where} has no length: {shorten_reason(error)}") from None
    if not count:
        raise DataError(f"{where} has no images")
    return count


def _read_paths(paths: Any, count: int, where: str) -> list[str]:
    """Return the paths of all images as text."""
    try:
        texts = [os.fspath(path) for path in paths]
    except TypeError:
        texts = []
    if len(texts) != count or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}.paths should be {plural(count, 'path')}, one for each image")
    return texts


def _put_below_root(path: str, place: Place) -> str:
    """Return the path of a file below the root as an absolute one, and any other one unchanged."""
    absolute, root = os.path.abspath(path), os.path.abspath(place.root)  # noqa: PTH100  (links stay as they are)
    return absolute if absolute.startswith(f"{root}/") and os.path.exists(absolute) else path  # noqa: PTH110


def _require_distinct(names: Sequence[str], where: str) -> None:
    """Raise DataError if two images have the same path."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if first.setdefault(name, index) != index:
            raise DataError(f"{where}.paths: indices {first[name]} and {index} have the same path, {name}")


def _read_status(place: Place, path: str) -> tuple[int, int]:
    """Return the size of a file in bytes and its modification time in nanoseconds; `GONE` if there is none.

    A path counts from the working folder, as the user's code opens it, or else from the root.
    """
    for file in (path, os.path.join(place.root, path)):  # noqa: PTH118 - a Path takes three times as long
        with contextlib.suppress(OSError, ValueError):
            status = os.stat(file)  # noqa: PTH116
            return status.st_size, status.st_mtime_ns
    return GONE, GONE
