"""Images in class folders."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from spos_cli.data.file_images import FileImages
from spos_cli.data.image_files import DEFAULT_DECODING, Decoding, get_extension, is_image, list_extensions
from spos_cli.data.image_set import MAX_LISTED, count_classes, list_first
from spos_cli.data.place import Place, Split
from spos_cli.data.splits import divide
from spos_cli.errors import DataError
from spos_cli.files.os_errors import reason_of

SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # that file managers leave behind
PHONE_FORMATS = (".heic", ".heif")  # photographs that Pillow cannot read
OUTSIDE_CLASSES = "in no class folder"
SUGGESTED_SHARE = 0.2  # of the images, for validation
MAX_NESTED_FOLDERS = 20  # that hold one folder each; a link may lead back to itself


def open_folder(place: Place, split: Split) -> FolderSet:
    """Open class folders, or with `val_share` the part of one split.

    Raises:
        DataError: as for `FolderSet`, or a class has one image only and cannot be divided.
    """
    source: Split = split if place.val_share is None else "train"
    name = place.folder_of(source)
    advice = "" if place.val_share is not None else advise_undivided(place, split)
    images = FolderSet(place.folder / name, place.decoding, f"data.{source}_folder: {name}", advice)
    if place.val_share is not None:
        images.keep_part(split, place.val_share)
    return images


def advise_undivided(place: Place, split: Split) -> str:
    """Return the settings for images that are not divided into training and validation; empty if none would help."""
    if split == "val":
        return f"or set data.val_share={SUGGESTED_SHARE:g} to take a share of the training images of each class"
    try:
        classes = _list_folders(place.folder)
    except (OSError, ValueError):
        return ""
    settings = f"data.train_folder=. and data.val_share={SUGGESTED_SHARE:g}"
    return f"if {list_first(classes)} in {place.root} are your classes, set {settings}" if len(classes) > 1 else ""


class FolderSet(FileImages):
    """Images in `folder/<class>/<image>`, classes and images sorted by name, as in torchvision's ImageFolder.

    Hidden folders and files, whose names begin with a dot, are left out: copies and leftovers of other programs.

    Args:
        folder: holds the class folders.
        decoding: how files become pixels.
        setting: the setting that names the folder, such as `data.train_folder: train`, for messages.
        advice: what else to do if there is no such folder.

    Attributes:
        other_files: counts the files that are not images of the set, by kind.

    Raises:
        DataError: there is no such folder, or a class folder holds no images.
    """

    def __init__(
        self, folder: Path, decoding: Decoding = DEFAULT_DECODING, setting: str = "", advice: str = ""
    ) -> None:
        self.decoding, self.setting = decoding, setting
        try:
            classes = _list_folders(folder)
        except (OSError, ValueError):  # ValueError: a name that no folder can have
            raise DataError(
                f"there is no image folder {folder}; it should hold a folder of images for each class"
                " (data.root, data.train_folder and data.val_folder say where)" + (f"; {advice}" if advice else "")
            ) from None
        if not classes:
            raise DataError(f"{folder} holds no class folders; images belong in {folder}/<class>/")
        self.other_files = Counter[str]()
        files = [sorted(_find_images(folder, name, self.other_files)) for name in classes]
        empty = [name for name, paths in zip(classes, files, strict=True) if not paths]
        if empty:
            others = f"; of other kinds: {describe_kinds(self.other_files)}" if self.other_files else ""
            raise DataError(
                f"{folder}: no images for {len(empty)} of {count_classes(classes)}: {list_first(empty)}{others};"
                f" put some there ({' '.join(sorted(list_extensions()))}), or remove the empty folders"
                f"{advise_conversion(self.other_files)}"
            )
        self.other_files[OUTSIDE_CLASSES] = sum(
            _may_be_missed(entry.name) for entry in folder.iterdir() if entry.is_file()
        )
        self.name, self.folder, self.classes = str(folder), folder, tuple(classes)
        self.class_folder = folder
        self.paths = [path for paths in files for path in paths]
        self.labels = np.repeat(np.arange(len(files)), [len(paths) for paths in files]).astype(np.int64)

    def keep_part(self, split: Split, share: float) -> None:
        """Keep the images of one split only. Other files belong to the training part, so that they are reported once.

        Args:
            split: which part.
            share: of the images of each class, for validation.
        """
        training, validation = divide(self, share)
        indices = training if split == "train" else validation
        self.paths = [self.paths[index] for index in indices.tolist()]
        self.labels = self.labels[indices]
        del self.names  # It was computed for all images.
        self.name = f"the {'training' if split == 'train' else 'validation'} part of {self.folder}"
        if split == "val":
            self.other_files.clear()
            self.class_folder = None

    def list_notes(self) -> list[str]:
        return note_other_files(str(self.folder), self.other_files)

    def explain_single_class(self) -> tuple[str, str]:
        nested, inner = _skip_nested_folders(self.folder)
        if inner:
            problem = f"{self.folder} holds only one folder, {nested}, which holds {list_first(inner)}"
            return problem, f"set {self.setting}/{nested}" if self.setting else f"name {self.folder / nested}"
        problem = f"{self.folder} has only 1 class ({list_first(self.classes)})"
        return problem, f"put the images of each class into {self.folder}/<class>/, of two classes or more"


def _find_images(folder: Path, name: str, other_files: Counter[str]) -> Iterator[str]:
    """Yield the paths, below `folder`, of a class's images, and count its other files by kind.

    Paths are text, since a million Path objects would take a gigabyte.
    """
    for walked, files in walk_folders(folder / name):
        below = Path(walked).relative_to(folder)
        yield from (f"{below}/{file}" for file in select_images(files, other_files))


def select_images(files: Iterable[str], other_files: Counter[str]) -> Iterator[str]:
    """Yield the names of images, and count the other files by kind."""
    for file in files:
        if is_image(file):
            yield file
        else:
            count_other_file(other_files, file)


def count_other_file(files: Counter[str], name: str) -> None:
    """Count a file that is not used under its kind, if somebody may wonder why it is not."""
    if _may_be_missed(name):
        files[get_extension(name) or "without an extension"] += 1


def _may_be_missed(name: str) -> bool:
    """Tell whether somebody may wonder why a file is not used."""
    return not _is_hidden(name) and name.lower() not in SYSTEM_FILES


def note_other_files(where: str, files: Counter[str]) -> list[str]:
    """Return a text that says how many files of which kinds are not used; empty if there are none.

    Args:
        where: the files are.
        files: numbers of files, by kind.
    """
    count = files.total()
    if not count:
        return []
    passed_over = "1 file is" if count == 1 else f"{count:,} files are"
    return [f"{where}: {passed_over} passed over: {describe_kinds(files)}{advise_conversion(files)}"]


def describe_kinds(files: Counter[str]) -> str:
    """List the most frequent kinds of files, such as `40 .txt, 3 .heic`."""
    most_common = sorted(files.items(), key=lambda item: (-item[1], item[0]))[:MAX_LISTED]
    listed = [f"{count:,} {kind}" for kind, count in most_common if count]
    rest = files.total() - sum(count for _, count in most_common)
    return ", ".join(listed) + (f" and {rest:,} more" if rest else "")


def advise_conversion(files: Mapping[str, int]) -> str:
    """Return what to do with the files that are photographs in a format which cannot be read; empty if there are none.

    Args:
        files: numbers of files, by extension.
    """
    kinds = [kind for kind in PHONE_FORMATS if files.get(kind)]
    return f"; convert {' and '.join(kinds)} to .jpg to use these photographs" if kinds else ""


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


def _skip_nested_folders(folder: Path) -> tuple[str, list[str]]:
    """Follow folders that hold one folder only; return the path of the last one, and the folders in it."""
    nested = Path()
    for _ in range(MAX_NESTED_FOLDERS):
        inner = _list_folders(folder / nested)
        if len(inner) != 1:
            return nested.as_posix(), inner
        nested /= inner[0]
    return "", []
