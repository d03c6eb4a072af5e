"""Images in tar files: class folders, or shards as WebDataset writes them."""

from __future__ import annotations

import functools
import json
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spos_cli.data.encoded_images import decode_bytes, find_orientation_of_bytes, measure_bytes
from spos_cli.data.folder_set import count_other_file, describe_kinds, note_other_files
from spos_cli.data.image_files import (
    DEFAULT_DECODING,
    UNREADABLE,
    Decoding,
    Pixels,
    get_extension,
    is_image,
    list_extensions,
)
from spos_cli.data.image_set import END_BYTES, GONE, ImageSet, list_first
from spos_cli.data.levels import Measured
from spos_cli.data.place import Place, Split
from spos_cli.data.tar_headers import list_entries
from spos_cli.errors import DataError
from spos_cli.files.os_errors import reason_of
from spos_cli.files.quoting import plural, quote_value

BRACES = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
INDEX = re.compile(r"0|[1-9]\d{0,8}", re.ASCII)  # a class as a number; those of numbers are in their order
MAX_SHARDS = 100_000
# The name of a sample of WebDataset up to the first point of its last part, and its extension.
SAMPLE = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)", re.DOTALL)
LABEL_ENDINGS = (".cls", ".json", ".txt")  # The first one that a sample has names its class.
LABEL_KEYS = ("cls", "label", "class")  # The first one that a JSON label has names its class.
MAX_LABEL_BYTES = 2**20


class Member(NamedTuple):
    """A file in a tar file: the index of its shard, where its bytes are, and its path in there."""

    shard: int
    offset: int
    size: int
    path: str


class TarSet(ImageSet):
    """Images in tar files, each read at its offset, so in any order.

    Args:
        name: for messages.
        shards: the tar files.
        members: the images.
        names: of the images, the same however they are divided into shards.
        classes: the class names, by label.
        labels: `(N,)`.
        decoding: how encoded images become pixels.
        other_files: how many files of each kind are neither images nor labels.
        setting: the setting that says in which folder of the tar files the class folders are; empty if there are labels
            instead.
    """

    def __init__(
        self,
        name: str,
        shards: Sequence[Path],
        members: Sequence[Member],
        names: Sequence[str],
        classes: Sequence[str],
        labels: NDArray[np.int64],
        decoding: Decoding = DEFAULT_DECODING,
        other_files: Counter[str] | None = None,
        setting: str = "",
    ) -> None:
        self.name, self.shards, self.members, self.image_names = name, shards, members, names
        self.classes, self.labels, self.decoding = tuple(classes), labels, decoding
        self.other_files, self.setting = other_files or Counter(), setting
        self.shard_times = [_get_time(shard) for shard in shards]

    def image(self, index: int) -> Pixels:
        return decode_bytes(self._read(index), self.locate(index), self.decoding)

    def path(self, index: int) -> str:
        return self.image_names[index]

    def locate(self, index: int) -> str:
        member = self.members[index]
        return f"{self.shards[member.shard]}:{member.path}"

    def count_bytes(self, index: int) -> int:
        return self.members[index].size

    def read_bytes(self, index: int) -> bytes:
        return self._read_last(index, self.members[index].size)

    def read_end(self, index: int) -> bytes:
        return self._read_last(index, min(END_BYTES, self.members[index].size))

    def _read_last(self, index: int, number: int) -> bytes:
        """Return the last bytes of an image's file, as many as asked for."""
        member = self.members[index]
        with self.shards[member.shard].open("rb", buffering=0) as file:
            file.seek(member.offset + member.size - number)
            content = file.read(number)
        if len(content) != number:
            raise OSError(f"the tar file ends after {len(content):,} of {number:,} bytes")
        return content

    def _read(self, index: int) -> bytes:
        """Return the bytes of an image; raise DataError if they cannot be read."""
        try:
            return self.read_bytes(index)
        except OSError as error:
            raise DataError(f"{UNREADABLE}{self.locate(index)}: {reason_of(error)}") from None

    def measure(self, index: int) -> Measured | None:
        return measure_bytes(self._read(index), self.locate(index), self.decoding.channels)

    def find_orientation(self, index: int) -> int:
        return find_orientation_of_bytes(self._read(index), self.locate(index))

    def list_notes(self) -> list[str]:
        return note_other_files(self.name, self.other_files)

    def explain_single_class(self) -> tuple[str, str]:
        folders = {posixpath.dirname(member.path) for member in self.members}
        if not self.setting or any(folder.startswith("/") for folder in folders):
            return super().explain_single_class()
        common = posixpath.commonpath(folders)
        inner = sorted({posixpath.relpath(folder, common).partition("/")[0] for folder in folders})
        if common in folders:
            return super().explain_single_class()
        problem = f"{self.name} holds only one folder, {common}, which holds {list_first(inner)}"
        return problem, f"set {self.setting}: {common}"

    @functools.cached_property
    def contents(self) -> NDArray[np.int64]:
        """`(N,)`: the size of each image in bytes, as for files: the same images have the same in any tar file."""
        return np.array([member.size for member in self.members], np.int64)

    @functools.cached_property
    def versions(self) -> NDArray[np.int64]:
        """`(N, 3)`: the size of each image, its offset, and the modification time of its tar file in nanoseconds."""
        numbers = [(member.size, member.offset, self.shard_times[member.shard]) for member in self.members]
        return np.array(numbers, np.int64).reshape(-1, 3)

    def is_gone(self) -> bool:
        return not any(shard.exists() for shard in self.shards)


def open_tar(place: Place, split: Split) -> TarSet:
    """Open the images of a split's tar files, ordered by class and name as in class folders.

    If there are labels (`.cls`, `.json` or `.txt`), the files are samples of WebDataset; else the first folder of an
    image is its class. Hidden folders and files are left out, as from class folders. Only headers and labels are read.

    Raises:
        DataError: a tar file is missing, damaged or compressed, or an image has no class.
    """
    pattern = place.shards_of(split)
    shards = find_shards(place.folder, pattern, f"data.{split}_shards")
    members: list[Member] = []
    labels: dict[str, str] = {}  # texts of labels, by path
    name_image = functools.partial(place.name_image, split=split)
    for index, shard in enumerate(shards):
        shard_members, shard_labels = _read_headers(shard, index, name_image)
        members += shard_members
        labels |= shard_labels
    name, setting = str(place.folder / pattern), f"data.{split}_folder"
    images = [member for member in members if is_image(member.path)]
    if not images:
        raise DataError(_describe_no_images(name, members, split))
    keys = [_get_key(member.path) for member in images]
    samples = set(keys)
    labels = {path: text for path, text in labels.items() if _get_key(path) in samples}
    others = Counter[str]()
    for member in members:
        if not is_image(member.path) and member.path not in labels:
            count_other_file(others, posixpath.basename(member.path))
    names = [name_image(member.path) for member in images]
    _require_distinct(name, shards, images, keys if labels else names)
    class_names = _read_classes(name, images, labels) if labels else _name_folders(name, images, names)
    classes = sorted(set(class_names))
    if labels and all(INDEX.fullmatch(class_name) for class_name in classes):
        classes.sort(key=int)
    label_of = {class_name: label for label, class_name in enumerate(classes)}
    numbers = np.array([label_of[class_name] for class_name in class_names], np.int64)
    order = np.lexsort((np.array(names), numbers)).tolist()
    return TarSet(
        name,
        shards,
        [images[index] for index in order],
        [names[index] for index in order],
        classes,
        numbers[order],
        place.decoding,
        others,
        "" if labels else setting,
    )


def _describe_no_images(name: str, members: Sequence[Member], split: Split) -> str:
    """Say what tar files without images hold, and what to do about it."""
    kinds = Counter[str]()
    for member in members:
        count_other_file(kinds, posixpath.basename(member.path))
    others = f" ({describe_kinds(kinds)})" if kinds else ""
    return (
        f"{name} holds {plural(len(members), 'file')}{others}, but no images"
        f" ({' '.join(sorted(list_extensions()))}); data.{split}_shards says which tar files"
    )


def find_shards(root: Path, pattern: str, setting: str) -> list[Path]:
    """Return the tar files that a pattern stands for, sorted.

    Args:
        root: what the pattern is below.
        pattern: a name, or a name with `*`, `?` or `[...]`, or with a range such as `{000000..000146}`.
        setting: for messages.

    Raises:
        DataError: there are none, or one of a range is missing.
    """
    ranges = BRACES.findall(pattern)
    if not ranges:
        # An absolute pattern has no part that `root` could search for.
        base, parts = (Path("/"), pattern.lstrip("/")) if pattern.startswith("/") else (root, pattern)
        try:
            paths = sorted(path for path in base.glob(parts) if path.is_file())
        except (OSError, ValueError, NotImplementedError, IndexError):  # no pattern for Path.glob
            paths = []
        if not paths:
            raise DataError(f"there are no tar files {root / pattern}; data.root and {setting} say where")
        return paths
    (first, last), *more = ranges
    if more or int(first) > int(last) or int(last) - int(first) >= MAX_SHARDS:
        raise DataError(f"{setting}: {pattern} needs one ascending range; write {{000000..000146}} or the like")
    names = [BRACES.sub(str(number).zfill(len(first)), pattern) for number in range(int(first), int(last) + 1)]
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise DataError(
            f"{len(missing):,} of the {len(names):,} tar files {root / pattern} are missing, such as {missing[0]}"
            f"; data.root and {setting} say where"
        )
    return [root / name for name in names]


def _read_headers(shard: Path, index: int, name_image: Callable[[str], str]) -> tuple[list[Member], dict[str, str]]:
    """Return the files in a tar file without hidden ones, and the texts of the labels among them, by path."""
    members, labels = [], {}
    try:
        entries = list_entries(shard)
        with shard.open("rb") as file:
            for path, offset, size in entries:
                path = path.removeprefix("./")
                if any(part.startswith(".") and part != ".." for part in name_image(path).split("/")):
                    continue
                members.append(Member(index, offset, size, path))
                if path.endswith(LABEL_ENDINGS) and size <= MAX_LABEL_BYTES:
                    file.seek(offset)
                    labels[path] = file.read(size).decode().lstrip("\ufeff").strip()
    except (tarfile.TarError, OSError, EOFError, ValueError, KeyError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else " ".join(str(error).split())
        raise DataError(f"cannot read the tar file {shard}: {reason}; it should be whole and not compressed") from None
    return members, labels


def _name_folders(name: str, images: Sequence[Member], names: Sequence[str]) -> list[str]:
    """Return the first folder of each image below the folder of the split."""
    class_names = []
    for member, image_name in zip(images, names, strict=True):
        folder, slash, _ = image_name.partition("/")
        if not slash:
            raise DataError(
                f"{name}: {member.path} is in no class folder, and there are no labels; put images into"
                " <class>/<image>, or a label beside each: <key>.jpg and <key>.cls"
            )
        class_names.append(folder)
    return class_names


def _read_classes(name: str, images: Sequence[Member], labels: dict[str, str]) -> list[str]:
    """Return the class of each sample, as its label names it."""
    by_key: dict[str, str] = {}
    for path in sorted(labels, key=lambda path: LABEL_ENDINGS.index(get_extension(path)), reverse=True):
        by_key[_get_key(path)] = path
    missing = [member.path for member in images if _get_key(member.path) not in by_key]
    if missing:
        raise DataError(
            f"{name}: {plural(len(missing), 'image')} of {len(images):,} without a label (.cls, .json or .txt of the"
            f" same name): {list_first(missing)}; write a"
            " label for each"
        )
    return [_parse_label(name, by_key[_get_key(member.path)], labels) for member in images]


def _get_key(path: str) -> str:
    """Return the key of a file of a sample: `a/0001` for `a/0001.jpg` and `a/0001.cls`."""
    match = SAMPLE.fullmatch(path)
    return match[1] if match else path


def _parse_label(name: str, path: str, labels: dict[str, str]) -> str:
    """Return the class that a label names: the text itself, or a field of its JSON."""
    text = labels[path]
    if get_extension(path) == ".json":
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            raise DataError(f"{name}: the label {path} is not JSON: {quote_value(text)}; correct it") from None
        if isinstance(content, dict):
            content = next((content[key] for key in LABEL_KEYS if key in content), None)
        text = str(content).strip() if type(content) in (int, str) else ""
    if not text or "\n" in text:
        raise DataError(
            f"{name}: the label {path} should be one number or one class name ({', '.join(LABEL_KEYS)} in JSON), not"
            f" {quote_value(labels[path])}; correct it"
        )
    return text


def _require_distinct(name: str, shards: Sequence[Path], images: Sequence[Member], names: Sequence[str]) -> None:
    """Raise DataError if two images have the same name, or are of the same sample."""
    first: dict[str, Member] = {}
    for member, image_name in zip(images, names, strict=True):
        other = first.setdefault(image_name, member)
        if other is not member:
            where = " and ".join(f"{shards[one.shard].name}:{one.path}" for one in (other, member))
            raise DataError(f"{name}: two images have the same name, {where}; give each another key")


def _get_time(path: Path) -> int:
    """Return the modification time of a file in nanoseconds; `GONE` if there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return GONE
