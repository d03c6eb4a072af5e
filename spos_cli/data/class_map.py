"""Which class of a network each class of other images is, by a file of the user."""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from spos_cli.data.image_files import Pixels
from spos_cli.data.image_set import MAX_LISTED, ImageSet, list_first
from spos_cli.data.levels import Measured
from spos_cli.errors import ConfigError, DataError
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.quoting import plural, quote_value
from spos_cli.files.reading import MAX_BYTES, YAML_ERRORS

YAML_SUFFIXES = (".yaml", ".yml", ".json")
CSV_HEADER = ["folder", "class"]
PAIR = re.compile(r"(.+?):\s+(.+)")
INDEX = re.compile(r"\d{1,9}", re.ASCII)
MIN_SIMILARITY = 0.6  # of the letters of a mistyped class


class Entry(NamedTuple):
    """A line of a file: a class of the images, and what it says the class of the network is."""

    folder: str
    target: str
    line: int


@dataclass(frozen=True)
class ClassMap:
    """From classes of images, such as names of folders, to classes of a network.

    Attributes:
        path: the file.
        entries: in the order of the file.
        is_list: whether the file lists the folders of all classes of the network, in the order of its outputs.
    """

    path: Path
    entries: Sequence[Entry]
    is_list: bool

    def find_labels(self, names: Sequence[str], number: int) -> dict[str, int]:
        """Return the network's class of each folder in the file.

        Args:
            names: of the network's classes; empty if they are not known.
            number: of the network's classes.

        Raises:
            ConfigError: the file names a class that the network does not have, or the same class twice, or its list
                has another length.
        """
        if self.is_list and len(self.entries) != number:
            raise ConfigError(
                f"{self.path} lists {plural(len(self.entries), 'folder')}, one a line, but the network has {number:,}"
                " classes; list the folders of all classes in their order, or write folder: class in each line"
            )
        label_of: dict[str, int] = {}
        folder_of: dict[int, str] = {}
        for entry in self.entries:
            label = self._find_label(entry, names, number)
            if label in folder_of:
                raise ConfigError(
                    f"{self.path}:{entry.line}: {quote_value(entry.folder)} is class {entry.target}, and so is"
                    f" {quote_value(folder_of[label])}; each class of the network may have one folder"
                )
            label_of[entry.folder], folder_of[label] = label, entry.folder
        return label_of

    def _find_label(self, entry: Entry, names: Sequence[str], number: int) -> int:
        """Return the class that an entry names: a name comes before an index."""
        if not self.is_list and entry.target in names:
            return names.index(entry.target)
        if INDEX.fullmatch(entry.target) and int(entry.target) < number:
            return int(entry.target)
        place = f"{self.path}:{entry.line}: the network has no class {quote_value(entry.target)}"
        if not names:
            raise ConfigError(f"{place}, and does not name its classes; write an index from 0 to {number - 1:,}")
        similar = difflib.get_close_matches(entry.target, names, MAX_LISTED, MIN_SIMILARITY)
        similar = similar or [name for name in names if entry.target.lower() in name.lower()][:MAX_LISTED]
        if similar:
            raise ConfigError(f"{place}; did you mean {' or '.join(map(quote_value, similar))}?")
        raise ConfigError(
            f"{place}; its classes are {list_first(names)}; write one of them, or an index from 0 to {number - 1:,}"
        )


class RelabelledSet(ImageSet):
    """Images of other classes, as images of the classes of a network.

    Args:
        images: with classes of their own.
        mapping: says which class of the network each of them is.
        names: of all classes of the network; empty if they are not known. Then classes have the names of their folders,
            and one without a folder is `class 7`.
        number: of the network's classes.

    Raises:
        ConfigError: the mapping does not fit the network.
        DataError: the mapping does not have a class of the images.
    """

    def __init__(self, images: ImageSet, mapping: ClassMap, names: Sequence[str], number: int) -> None:
        self.images, self.name, self.in_memory = images, images.name, images.in_memory
        label_of = mapping.find_labels(names, number)
        missing = [name for name in images.classes if name not in label_of]
        if missing:
            raise DataError(
                f"{mapping.path} does not say which class of the network these are: {list_first(missing)}"
                f" ({len(missing):,} of {plural(len(images.classes), 'class', 'classes')} of {images.name}; its first"
                f" entry is {quote_value(mapping.entries[0].folder)})"
            )
        self.labels = np.array([label_of[name] for name in images.classes], np.int64)[images.labels]
        folder_of = {label: folder for folder, label in label_of.items()}
        self.classes = tuple(names) or tuple(folder_of.get(label, f"class {label}") for label in range(number))

    def image(self, index: int) -> Pixels:
        return self.images.image(index)

    def path(self, index: int) -> str:
        return self.images.path(index)

    def locate(self, index: int) -> str:
        return self.images.locate(index)

    def measure(self, index: int) -> Measured | None:
        return self.images.measure(index)

    @property
    def contents(self) -> NDArray[np.int64]:
        return self.images.contents

    def is_gone(self) -> bool:
        return self.images.is_gone()


def read_class_map(path: Path) -> ClassMap:
    """Read a file that maps classes of images to classes of a network.

    A YAML or JSON file has a mapping or a list, a CSV file two columns. In any other file, each line is
    `folder: class`, or each line is a folder; empty lines, and lines that begin with #, are left out.

    Raises:
        ConfigError: the file cannot be read, is in no such form, is empty, or names a folder twice.
    """
    with os_errors_as(ConfigError, f"cannot read {path}"), path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text in UTF-8") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} has more than {MAX_BYTES:,} bytes, which no list of classes has")
    suffix = path.suffix.lower()
    read = _read_yaml if suffix in YAML_SUFFIXES else _read_csv if suffix == ".csv" else _read_lines
    entries = list(read(path, text))
    if not entries:
        raise ConfigError(f"{path} has no classes; write folder: class in each line, such as n02102040: 217")
    lines: dict[str, int] = {}
    for entry in entries:
        if entry.folder in lines:
            raise ConfigError(
                f"{path}:{entry.line}: {quote_value(entry.folder)} is there twice; first in line {lines[entry.folder]}"
            )
        lines[entry.folder] = entry.line
    is_list = not any(entry.target for entry in entries)
    if is_list:
        entries = [entry._replace(target=str(index)) for index, entry in enumerate(entries)]
    return ClassMap(path, entries, is_list)


def _read_lines(path: Path, text: str) -> Iterator[Entry]:
    """Yield the lines of a text; the target is empty where a line is a folder only."""
    forms = set()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        pair = PAIR.fullmatch(stripped)
        forms.add(pair is None)
        if len(forms) > 1:
            raise ConfigError(
                f"{path}:{number}: some lines are folder: class, and others are not; write the same form in all of them"
            )
        yield Entry(pair[1], pair[2], number) if pair else Entry(stripped, "", number)


def _read_csv(path: Path, text: str) -> Iterator[Entry]:
    """Yield the rows of two columns, without a header."""
    reader = csv.reader(text.splitlines())
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells) or (reader.line_num == 1 and [cell.lower() for cell in cells] == CSV_HEADER):
                continue
            if len(cells) != 2 or not all(cells):
                raise ConfigError(f"{path}:{reader.line_num}: expected two columns, folder,class, not {len(cells)}")
            yield Entry(cells[0], cells[1], reader.line_num)
    except csv.Error as error:
        raise ConfigError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None


def _read_yaml(path: Path, text: str) -> Iterator[Entry]:
    """Yield the fields of a mapping, or the items of a list; all of them are taken as the text that is written."""
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except YAML_ERRORS as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML") from None
    if isinstance(node, yaml.MappingNode):
        pairs = [(key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        pairs = [(item, None) for item in node.value]
    else:
        pairs = []
    for key, value in pairs:
        number = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or not isinstance(value, (yaml.ScalarNode, type(None))):
            raise ConfigError(f"{path}:{number}: expected folder: class, such as n02102040: 217")
        if value is not None and not value.value:
            raise ConfigError(f"{path}:{number}: {quote_value(key.value)} has no class")
        yield Entry(key.value, "" if value is None else value.value, number)
