"""Open a data set of the package `datasets`: saved on disk, an image folder, or on the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spos_cli.data.encoded_images import decode_bytes, find_orientation_of_bytes, measure_bytes
from spos_cli.data.image_files import DEFAULT_DECODING, UNREADABLE, Decoding, Pixels
from spos_cli.data.image_set import GONE, ImageSet
from spos_cli.data.levels import Measured
from spos_cli.data.mapped_set import name_classes, read_labels, with_advice
from spos_cli.data.place import Place, Split
from spos_cli.errors import DataError
from spos_cli.files.os_errors import reason_of
from spos_cli.files.own_code import shorten_reason
from spos_cli.files.quiet import quiet

HUB = "hf://"  # The name of a data set on the hub follows.
VALIDATION_NAMES = ("validation", "val", "valid", "test")  # of the split for validation; the first one that exists
ROWS_PER_BATCH = 1000  # of the table, when sizes are counted


class TableSet(ImageSet):
    """Images in the column of a table: encoded bytes, or paths of files.

    Args:
        name: for messages.
        images: the column by row: `bytes` and `path` of each image, one of them may be None.
        names: of the images.
        classes: the class names, by label.
        labels: `(N,)`.
        sizes: of the encoded images in bytes, `(N,)`.
        decoding: how encoded images become pixels.
    """

    def __init__(
        self,
        name: str,
        images: Any,
        names: Sequence[str],
        classes: Sequence[str],
        labels: NDArray[np.int64],
        sizes: NDArray[np.int64],
        decoding: Decoding = DEFAULT_DECODING,
    ) -> None:
        self.name, self.images, self.image_names, self.classes = name, images, names, tuple(classes)
        self.labels, self.sizes, self.decoding = labels, sizes, decoding

    def image(self, index: int) -> Pixels:
        return decode_bytes(self._read(index), self.locate(index), self.decoding)

    def path(self, index: int) -> str:
        return self.image_names[index]

    def locate(self, index: int) -> str:
        return f"{self.name}:{self.image_names[index]}"

    def count_bytes(self, index: int) -> int:
        return int(self.sizes[index])

    def read_bytes(self, index: int) -> bytes:
        encoded: dict[str, Any] = self.images[index]["image"]
        if encoded["bytes"] is not None:
            return bytes(encoded["bytes"])
        return Path(encoded["path"]).read_bytes()

    def _read(self, index: int) -> bytes:
        """Return the bytes of an image; raise DataError if they cannot be read."""
        try:
            return self.read_bytes(index)
        except OSError as error:
            raise DataError(f"{UNREADABLE}{self.locate(index)}: {reason_of(error)}") from None
        except Exception as error:  # `datasets` and Arrow have errors of their own, such as for an empty row.
            raise DataError(f"{UNREADABLE}{self.locate(index)}: {shorten_reason(error)}") from None

    def measure(self, index: int) -> Measured | None:
        return measure_bytes(self._read(index), self.locate(index), self.decoding.channels)

    def find_orientation(self, index: int) -> int:
        return find_orientation_of_bytes(self._read(index), self.locate(index))

    @property
    def contents(self) -> NDArray[np.int64]:
        return self.sizes


def open_huggingface(place: Place, split: Split) -> TableSet:
    """Open a split of a data set of the package `datasets`, in its own order.

    `data.root` is a folder that `save_to_disk` has written, a folder that the builder `imagefolder` reads, or
    `hf://NAME`. Images and labels are found by the types of their columns.

    Raises:
        DataError: the package is not installed; there is no such data set or split; or its columns do not say which
            are the images and the labels.
    """
    datasets = _import_datasets(place)
    with _quiet(datasets):
        tables = _load(datasets, place)
        name, table = _choose_split(datasets, tables, place, split)
        where = f"{place.root} ({name})"
        image_column = _choose_column(table, datasets.Image, place.image_column, "image", where)
        label_column = _choose_column(table, datasets.ClassLabel, place.label_column, "label", where)
        values = table[label_column][:]
        feature = table.features[label_column]
        if isinstance(feature, datasets.ClassLabel):
            classes = tuple(feature.names)
        else:  # Texts are class names; numbers are labels.
            classes, values = _name_values(values)
        with with_advice("set data.label_column to the column of the labels"):
            labels = read_labels(values, len(table), len(classes), f"{where}, column {label_column}")
        images, paths, sizes = _read_images(datasets, table, image_column, where)
    names = _name_images(paths, labels, classes, place, split)
    return TableSet(where, images, names, name_classes(classes, labels, where), labels, sizes, place.decoding)


def _import_datasets(place: Place) -> Any:
    """Import the package."""
    try:
        return importlib.import_module("datasets")
    except Exception as error:  # A package that does not fit another one may raise anything.
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        reason = f"{missing} is not installed" if missing else shorten_reason(error)
        raise DataError(
            f"data.source: huggingface needs the package datasets for {place.root}, but {reason}; pip install"
            " 'spos[huggingface]'"
        ) from None


@contextlib.contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Keep progress bars, warnings and log lines of the package away from the user within the block."""
    were_enabled = datasets.are_progress_bars_enabled() if hasattr(datasets, "are_progress_bars_enabled") else True
    datasets.disable_progress_bars()
    try:
        with quiet():
            yield
    finally:
        if were_enabled:
            datasets.enable_progress_bars()


def _load(datasets: Any, place: Place) -> Any:
    """Return the data set: a table, or tables by split."""
    root = place.folder
    try:
        if place.root.startswith(HUB):
            return datasets.load_dataset(place.root.removeprefix(HUB))
        if not root.is_dir():
            raise DataError(
                f"there is no folder {place.root}; data.root should be a folder of the package datasets, a folder of"
                f" images, or {HUB}NAME for a data set of the hub"
            )
        if (root / "dataset_dict.json").exists() or (root / "dataset_info.json").exists():
            return datasets.load_from_disk(place.root)
        return datasets.load_dataset("imagefolder", data_dir=place.root)
    except DataError:
        raise
    except Exception as error:  # The network, the disk and the files may raise any kind of error.
        raise DataError(
            f"cannot load {place.root} with the package datasets: {shorten_reason(error)}; data.root says which"
        ) from None


def _choose_split(datasets: Any, tables: Any, place: Place, split: Split) -> tuple[str, Any]:
    """Return the name of a split, and its table."""
    if isinstance(tables, datasets.Dataset):
        raise DataError(
            f"{place.root} is one table without splits; save a DatasetDict with a split to train on and another one to"
            " validate on"
        )
    usual = ("train",) if split == "train" else VALIDATION_NAMES
    setting = place.split_name(split)
    name = next((name for name in ((setting,) if setting else usual) if name in tables), None)
    if name is None:
        raise DataError(
            f"{place.root} has no split {setting or ' or '.join(usual)}; it has {', '.join(tables)}: set"
            f" data.{split}_split"
        )
    if not len(tables[name]):
        raise DataError(f"{place.root}: the split {name} is empty; set data.{split}_split to another one")
    return name, tables[name]


def _choose_column(table: Any, kind: Any, setting: str | None, what: str, where: str) -> str:
    """Return the column that a setting names, or the only one of a type."""
    columns: list[str] = list(table.features)
    if setting is not None:
        if setting not in columns:
            raise DataError(f"data.{what}_column: {where} has no column {setting}; it has {', '.join(columns)}")
        return setting
    matches: list[str] = [name for name in columns if isinstance(table.features[name], kind)]
    if len(matches) != 1:
        raise DataError(
            f"{where} has {len(matches)} columns of type {kind.__name__} ({', '.join(matches or columns)}); set"
            f" data.{what}_column to the one of the {what}s"
        )
    return matches[0]


def _name_values(values: Sequence[Any]) -> tuple[tuple[str, ...], Sequence[Any]]:
    """Return class names for a column without names, and its labels: texts are sorted, numbers stay as they are."""
    if all(isinstance(value, str) and value for value in values):
        classes = tuple(sorted(set(values)))
        label_of = {name: label for label, name in enumerate(classes)}
        return classes, [label_of[value] for value in values]
    numbers = [value for value in values if isinstance(value, int)]
    return tuple(map(str, range(max(numbers, default=-1) + 1))), values


def _read_images(datasets: Any, table: Any, column: str, where: str) -> tuple[Any, list[str | None], NDArray[np.int64]]:
    """Return the column of the images by itself, as encoded bytes or paths, and what `_read_column` returns."""
    try:
        images = table.select_columns([column])
        if column != "image":
            images = images.rename_column(column, "image")
        images = images.cast_column("image", datasets.Image(decode=False))
        return images, *_read_column(images)
    except Exception as error:  # `datasets` and Arrow have errors of their own.
        raise DataError(
            f"{where}, column {column} cannot be read as images: {shorten_reason(error)}; set data.image_column to the"
            " column of the images"
        ) from None


def _read_column(images: Any) -> tuple[list[str | None], NDArray[np.int64]]:
    """Return the path of each image, if it has one, and the size of its encoded bytes; no image is decoded."""
    paths: list[str | None] = []
    sizes = []
    arrow = images.with_format("arrow")
    for begin in range(0, len(images), ROWS_PER_BATCH):
        column = arrow[begin : begin + ROWS_PER_BATCH]["image"].combine_chunks()
        lengths = _import_compute().binary_length(column.field("bytes")).to_pylist()
        for path, length in zip(column.field("path").to_pylist(), lengths, strict=True):
            paths.append(path)
            sizes.append(_get_size(path) if length is None else length)
    return paths, np.array(sizes, np.int64)


def _import_compute() -> Any:
    return importlib.import_module("pyarrow.compute")  # `datasets` needs it, too.


def _get_size(path: str | None) -> int:
    try:
        return Path(path or "").stat().st_size
    except OSError:
        return GONE


def _name_images(
    paths: Sequence[str | None], labels: NDArray[np.int64], classes: Sequence[str], place: Place, split: Split
) -> list[str]:
    """Return the names of images: their paths as in class folders; numbers if these are missing or not distinct."""
    names = []
    for path, label in zip(paths, labels.tolist(), strict=True):
        name = place.name_image(path, split) if path else ""
        names.append(name if "/" in name else f"{classes[label]}/{name}")
    if not all(paths) or max(Counter(names).values()) > 1:
        return [f"{split}/{index}" for index in range(len(paths))]
    return names
