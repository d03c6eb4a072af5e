"""What every set of labelled images has: labels, pixels, names and contents."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spos_cli.data.image_files import DEFAULT_DECODING, Decoding, Pixels
from spos_cli.data.levels import Measured
from spos_cli.data.orientation import UPRIGHT

GONE = -1  # stands for the size and the time of a file that was removed
END_BYTES = 4096  # tell most images of the same size apart
MAX_LISTED = 5  # names, or kinds of files, that a message lists


class ImageSet(ABC):
    """Labelled images.

    Attributes:
        name: for messages.
        classes: the class names, by label.
        labels: `(N,)` int64.
        shares: `(N, classes)` float32: the share of each class in each image, which a training learns; the label is the
            class with the largest one. None: each image is of its class alone.
        decoding: how files become pixels.
        in_memory: the images are arrays in memory, so that none can be unreadable.
        knows_sizes: `count_bytes` does not have to decode an image.
        known_by_position: names are positions and contents are not known, so that a name may mean another image later.
        class_folder: the folder that holds a folder for each class, if there is one.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    shares: NDArray[np.float32] | None = None
    decoding: Decoding = DEFAULT_DECODING
    in_memory: bool = False
    knows_sizes: bool = True
    known_by_position: bool = False
    class_folder: Path | None = None

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

    def locate(self, index: int) -> str:
        """Return where a user finds an image: the path of its file, or a name for it."""
        return self.path(index)

    def count_bytes(self, index: int) -> int:
        """Count the bytes that `read_bytes` returns; `GONE` for an image that does not exist any more.

        Raises:
            SposError: there are no bytes to count, as for `image`.
        """
        return self.image(index).nbytes

    def read_bytes(self, index: int) -> bytes:
        """Return the bytes of an image: of its file, or of its pixels. Equal images have equal bytes.

        Raises:
            OSError: the file cannot be read.
            SposError: the image is unreadable, as for `image`.
        """
        return self.image(index).tobytes()

    def read_end(self, index: int) -> bytes:
        """Return the last `END_BYTES` of an image's file; empty where reading a part is not faster than the whole.

        Raises:
            OSError: the file cannot be read.
        """
        return b""

    def measure(self, index: int) -> Measured | None:
        """Measure the range of an image's values; None for 8 bits per channel.

        Raises:
            DataError: the image is missing or damaged.
        """
        return None

    def find_orientation(self, index: int) -> int:
        """Return the orientation that the EXIF of an image says, from 1 to 8; 1 (upright) if it says none.

        Raises:
            DataError: the image is missing or damaged.
        """
        return UPRIGHT

    def list_notes(self) -> list[str]:
        """Return what a user may not expect of this set, each as the text of a warning."""
        return []

    def explain_single_class(self) -> tuple[str, str]:
        """Return what is wrong with a set of one class, and what to do about it."""
        return f"{self.name} has only 1 class ({list_first(self.classes)})", "use images of two classes or more"

    @functools.cached_property
    def names(self) -> NDArray[np.int64]:
        """`(N,)`: a hash of each image's path, the same wherever the set is and whatever else is in it."""
        return hash_each(self.path(index).encode(errors="surrogateescape") for index in range(len(self)))

    def is_gone(self) -> bool:
        """Tell whether the whole set has disappeared, such as a disk that is no longer mounted."""
        return False


def hash_each(texts: Iterable[bytes]) -> NDArray[np.int64]:
    """Return a hash of each text, `(N,)`, of 64 bits, the same on every machine."""
    digests = b"".join([hashlib.blake2b(text, digest_size=8).digest() for text in texts])
    return np.frombuffer(digests, "<i8").astype(np.int64)


def count_classes(names: Sequence[object]) -> str:
    """Return `1 class`, `3 classes`."""
    return f"{len(names):,} {'class' if len(names) == 1 else 'classes'}"


def list_first(names: Sequence[str]) -> str:
    """List the first names of many."""
    return ", ".join(names[:MAX_LISTED]) + (", ..." if len(names) > MAX_LISTED else "")
