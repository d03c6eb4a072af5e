"""Read lists of image files and labels: CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import importlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spos_cli.data.file_images import ListedFiles
from spos_cli.data.image_set import GONE, list_first
from spos_cli.data.place import Place, Split
from spos_cli.errors import DataError
from spos_cli.files.home import expand_home
from spos_cli.files.os_errors import reason_of
from spos_cli.files.quoting import plural, quote_value

PATH_COLUMN, LABEL_COLUMN = "path", "label"
DELIMITERS = {".tsv": "\t"}  # by the extension of a list; others have commas
PARQUET = (".parquet", ".pq")
MAX_SHARE_ERROR = 1e-3  # How far the shares of an image may be from a sum of 1, since they were rounded.
MAX_LISTED = 3  # lines that a message lists

Rows = Iterator[tuple[int, Mapping[str, Any]]]  # the line, and its values by column


class LabelList(NamedTuple):
    """What a list says of its images, line by line.

    Attributes:
        lines: the number of each line.
        paths: of the files, absolute or below the root.
        labels: the class name of each image.
        classes: all class names, sorted.
        shares: the share of each class in each image, `(N, classes)`; None for a list of class names.
    """

    lines: list[int]
    paths: list[str]
    labels: list[str]
    classes: tuple[str, ...]
    shares: NDArray[np.float32] | None


def open_list(place: Place, split: Split) -> ListedFiles:
    """Open the images of a list, ordered by class and name as in class folders.

    Raises:
        DataError: the list cannot be read, or lines of it are wrong; the message has their numbers.
    """
    path = place.folder / place.list_of(split)
    label_list = _read_labels(path, place)
    names = [place.name_image(image, split) for image in label_list.paths]
    _require_distinct(path, label_list, names)
    label_of = {name: label for label, name in enumerate(label_list.classes)}
    labels = np.array([label_of[name] for name in label_list.labels], np.int64)
    order = np.lexsort((np.array(names), labels))
    images = ListedFiles(
        str(path),
        place.folder,
        [label_list.paths[index] for index in order.tolist()],
        [names[index] for index in order.tolist()],
        label_list.classes,
        labels[order],
        place.decoding,
        None if label_list.shares is None else label_list.shares[order],
    )
    _require_files(path, label_list, images, order)
    return images


def _read_labels(path: Path, place: Place) -> LabelList:
    """Read all lines of a list; raise DataError for the first wrong ones."""
    columns, rows = _read_parquet(path) if path.suffix.lower() in PARQUET else _read_csv(path)
    path_column, label_column = place.image_column or PATH_COLUMN, place.label_column or LABEL_COLUMN
    classes = _choose_classes(path, columns, path_column, label_column, place)
    lines, paths, labels, problems = [], [], [], []
    shares: list[list[float]] = []
    for line, row in rows:
        file, label = str(row.get(path_column) or "").strip(), ""
        try:
            if classes:
                shares.append(_read_shares(row, classes))
                label = classes[max(range(len(classes)), key=shares[-1].__getitem__)]
            else:
                label = _read_label(row.get(label_column))
            if not file:
                raise ValueError("the path is empty")
            if None in row:
                raise ValueError("it has more values than there are columns")
        except ValueError as error:
            problems.append(f"line {line}: {error}")
        lines.append(line)
        paths.append(expand_home(file))
        labels.append(label)
    _require_none(path, problems)
    if not lines:
        raise DataError(f"{path} lists no images; write a line for each below the line {','.join(columns)}")
    if classes:
        return LabelList(lines, paths, labels, classes, np.array(shares, np.float32))
    return LabelList(lines, paths, labels, tuple(sorted(set(labels))), None)


def _choose_classes(
    path: Path, columns: Sequence[str], path_column: str, label_column: str, place: Place
) -> tuple[str, ...]:
    """Check the columns of a list; return the classes if each has a column of shares, or none if there are labels."""
    if path_column not in columns:
        raise DataError(
            f"{path}, line 1: there is no column {path_column} among {list_first(columns) or 'none'}; name the column"
            " of the paths in data.image_column"
        )
    others = [column for column in columns if column != path_column]
    if len(set(columns)) < len(columns) or not all(columns):
        raise DataError(f"{path}, line 1: two columns have the same name, or one has none; name each once")
    if label_column in others:
        if len(others) > 1:
            unknown = [column for column in others if column != label_column]
            raise DataError(
                f"{path}, line 1: unknown columns {list_first(unknown)} beside {path_column} and {label_column};"
                " remove them"
            )
        return ()
    if place.label_column or len(others) < 2:
        raise DataError(
            f"{path}, line 1: there is no column {label_column} among {list_first(columns)}; name the column of the"
            " class names in data.label_column, or write a column of shares for each class"
        )
    return tuple(sorted(others))


def _read_label(value: Any) -> str:
    """Return a class name; raise ValueError if there is none."""
    label = "" if value is None else str(value).strip()
    if not label:
        raise ValueError("the label is empty")
    return label


def _read_shares(row: Mapping[str, Any], classes: Sequence[str]) -> list[float]:
    """Return the share of each class, with a sum of 1; raise ValueError if the values are not shares."""
    shares = []
    for name in classes:
        try:
            shares.append(float(row.get(name) or 0))
        except (TypeError, ValueError):
            raise ValueError(
                f"the share of {name} should be a number, not {quote_value(row.get(name))} (a list without shares has"
                " the columns path and label)"
            ) from None
    total = math.fsum(shares)
    if not all(0 <= share <= 1 for share in shares) or abs(total - 1) > MAX_SHARE_ERROR:
        raise ValueError(f"the shares of the classes should be from 0 to 1 with a sum of 1, not {total:g}")
    return [share / total for share in shares]


def _require_distinct(path: Path, label_list: LabelList, names: Sequence[str]) -> None:
    """Raise DataError if two lines have the same image."""
    first: dict[str, int] = {}
    problems = []
    for line, name in zip(label_list.lines, names, strict=True):
        if name in first:
            problems.append(f"line {line}: {name} is on line {first[name]} already")
        first.setdefault(name, line)
    _require_none(path, problems)


def _require_files(path: Path, label_list: LabelList, images: ListedFiles, order: NDArray[np.int64]) -> None:
    """Raise DataError if there is no file for some lines."""
    lines, paths = label_list.lines, label_list.paths
    missing = np.sort(order[images.versions[:, 0] == GONE]).tolist()
    _require_none(path, [f"line {lines[index]}: there is no file {paths[index]}" for index in missing])


def _require_none(path: Path, problems: Sequence[str]) -> None:
    if problems:
        more = f", and {plural(len(problems) - MAX_LISTED, 'more line')}" if len(problems) > MAX_LISTED else ""
        raise DataError(f"{path}, {', '.join(problems[:MAX_LISTED])}{more}; correct the list")


def _read_csv(path: Path) -> tuple[list[str], Rows]:
    """Return the columns and the rows of a CSV or TSV file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"cannot read the list of images {path}: it is not UTF-8; save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        raise DataError(
            f"cannot read the list of images {path}: {reason}; data.root, data.train_list and data.val_list say where"
        ) from None
    delimiter = DELIMITERS.get(path.suffix.lower(), ",")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)

    def read_rows() -> Rows:
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}; correct the list") from None

    try:
        columns = [column.strip() for column in reader.fieldnames or ()]
    except csv.Error as error:
        raise DataError(f"{path}, line 1: {error}; correct the list") from None
    reader.fieldnames = columns
    return columns, read_rows()


def _read_parquet(path: Path) -> tuple[list[str], Rows]:
    """Return the columns and the rows of a Parquet file; its first row has the number 1."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(f"{path} needs pyarrow, which is not installed; pip install 'spos[parquet]'") from None
    try:
        table = parquet.read_table(path)
    except Exception as error:  # pyarrow has errors of its own.
        raise DataError(f"cannot read {path}: {' '.join(str(error).split())[:200]}; write the list again") from None
    return list(table.column_names), iter(enumerate(table.to_pylist(), 1))
