"""Images in files: what they share, wherever the files and their labels come from."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spos_cli.data import image_files
from spos_cli.data.image_files import DEFAULT_DECODING, Decoding, Pixels, decode
from spos_cli.data.image_set import END_BYTES, GONE, ImageSet, hash_each
from spos_cli.data.levels import Measured


class FileImages(ImageSet):
    """Images with a file each.

    Attributes:
        folder: what `paths` are below; a path that is absolute stays as it is.
        paths: of the files. They are text, since a million Path objects would take a gigabyte.
    """

    folder: Path
    paths: Sequence[str]

    def file(self, index: int) -> Path:
        """Return the file of an image."""
        return self.folder / self.paths[index]

    def image(self, index: int) -> Pixels:
        return decode(self.file(index), self.decoding)

    def path(self, index: int) -> str:
        return self.paths[index]

    def locate(self, index: int) -> str:
        return str(self.file(index))

    def count_bytes(self, index: int) -> int:
        try:
            return self.file(index).stat().st_size
        except OSError:
            return GONE

    def read_bytes(self, index: int) -> bytes:
        return self.file(index).read_bytes()

    def read_end(self, index: int) -> bytes:
        with self.file(index).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - END_BYTES))
            return file.read()

    def measure(self, index: int) -> Measured | None:
        return image_files.measure(self.file(index), self.decoding.channels)

    def find_orientation(self, index: int) -> int:
        return image_files.find_orientation(self.file(index))

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
                status = os.stat(os.path.join(folder, path))  # noqa: PTH116, PTH118 - a Path takes three times as long
            except (OSError, ValueError):  # ValueError: a name that no file can have
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


class ListedFiles(FileImages):
    """Image files whose labels come from a list.

    Args:
        name: for messages.
        folder: what `paths` are below.
        paths: of the files.
        names: of the images, the same wherever the files are.
        classes: the class names, by label.
        labels: `(N,)`.
        decoding: how files become pixels.
        shares: of the classes, `(N, classes)`; None if each image is of one class.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        paths: Sequence[str],
        names: Sequence[str],
        classes: Sequence[str],
        labels: NDArray[np.int64],
        decoding: Decoding = DEFAULT_DECODING,
        shares: NDArray[np.float32] | None = None,
    ) -> None:
        self.name, self.folder, self.paths, self.image_names = name, folder, paths, names
        self.classes, self.labels, self.decoding = tuple(classes), labels, decoding
        self.shares = shares

    def path(self, index: int) -> str:
        return self.image_names[index]

    @functools.cached_property
    def contents(self) -> NDArray[np.int64]:
        """`(N,)`: the size of each file; with shares, a hash of both, since a training depends on them."""
        sizes = super().contents
        if self.shares is None:
            return sizes
        pairs = zip(sizes.tolist(), self.shares, strict=True)
        return hash_each(b"%d %s" % (size, shares.astype("<f4").tobytes()) for size, shares in pairs)
