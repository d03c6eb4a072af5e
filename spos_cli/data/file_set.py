"""The images that a user names: files, and all images below folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from spos_cli.data.file_images import FileImages
from spos_cli.data.folder_set import note_other_files, select_images, walk_folders
from spos_cli.data.image_files import DEFAULT_DECODING, Decoding, list_extensions
from spos_cli.errors import DataError

MAX_LISTED = 3  # arguments in a message


class FileSet(FileImages):
    """Image files anywhere, in the order of their paths; they have no classes, and 0 as their label.

    Args:
        paths: absolute, or from the working folder.
        decoding: how files become pixels.
    """

    def __init__(self, paths: Sequence[str], decoding: Decoding = DEFAULT_DECODING) -> None:
        self.name, self.folder, self.classes = "images to classify", Path(), ()
        self.paths, self.decoding = list(paths), decoding
        self.labels = np.zeros(len(paths), np.int64)


def find_images(named: Sequence[Path], report: Callable[[str], object] = lambda note: None) -> list[str]:
    """Return the paths of the images that a user names, each argument in its turn.

    A file counts as an image whatever its name. The images of a folder come in the order of names, folder by folder;
    hidden files and folders are left out.

    Args:
        named: files and folders.
        report: called with a text for each folder with files that are not images.

    Raises:
        DataError: a file or a folder does not exist or cannot be read, or there are no images at all.
    """
    paths: list[str] = []
    notes: list[str] = []
    for place in named:
        if place.is_dir():
            other_files = Counter[str]()
            paths += (f"{place}/{'/'.join(parts)}" for parts in sorted(_walk(place, other_files)))
            notes += note_other_files(str(place), other_files)
        elif place.exists():
            paths.append(str(place))
        else:
            raise DataError(f"there is no image or folder {place}")
    if not paths:
        folders = ", ".join(map(str, named[:MAX_LISTED])) + (", ..." if len(named) > MAX_LISTED else "")
        extensions = " ".join(sorted(list_extensions()))
        raise DataError("; ".join([f"there are no images in {folders}; images are {extensions}", *notes]))
    for note in notes:
        report(note)
    return paths


def _walk(top: Path, other_files: Counter[str]) -> Iterator[tuple[str, ...]]:
    """Yield the path of each image below a folder, as the names of its folders and its own; count other files."""
    for folder, files in walk_folders(top):
        parts = Path(folder).relative_to(top).parts
        yield from ((*parts, file) for file in select_images(files, other_files))
