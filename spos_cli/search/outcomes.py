"""The file `outcomes.bits`: which images each candidate of a journal got right."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spos_cli.errors import RunError
from spos_cli.files.os_errors import os_errors_as
from spos_cli.search.racing import Outcomes

BITS_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)  # (256,)
ROWS_AT_ONCE = 1024  # Rows that are counted together; more of them would only need more memory.


class OutcomesFile:
    """A row of bits for each line of a journal.

    The position of a row in the file follows from its line, so a row that a kill has cut short is overwritten.

    Args:
        path: the file.
        images: number of scored images. A row has a bit for each; bits after an early stop are zero.
    """

    def __init__(self, path: Path, images: int) -> None:
        self.path, self.images, self.bytes_per_row = path, images, -(-images // 8)

    def write(self, row: int, outcomes: Outcomes) -> None:
        """Write the outcomes `(n,)` of the first n images.

        Raises:
            RunError: the disk is full, or the folder cannot be written.
        """
        bits = np.packbits(np.pad(outcomes, (0, self.images - len(outcomes)))).tobytes()
        with os_errors_as(RunError, f"cannot write {self.path}", "scores so far are kept"):
            self.path.touch()
            with self.path.open("r+b") as file:
                file.seek(row * self.bytes_per_row)
                file.write(bits)
                file.flush()
                os.fsync(file.fileno())

    def read(self, row: int) -> Outcomes | None:
        """Return the outcomes `(images,)` of a row, or None if the file does not have it."""
        try:
            with self.path.open("rb") as file:
                file.seek(row * self.bytes_per_row)
                bits = file.read(self.bytes_per_row)
        except OSError:
            return None
        if len(bits) < self.bytes_per_row:
            return None
        return np.unpackbits(np.frombuffer(bits, np.uint8), count=self.images).astype(bool)

    def copy_rows(self, rows: Sequence[int]) -> bytes:
        """Return the bytes of some rows for another file, in this order; zeros for rows that the file does not have."""
        try:
            content = self.path.read_bytes()
        except OSError:
            content = b""
        size = self.bytes_per_row
        parts = (content[row * size : (row + 1) * size] for row in rows)
        return b"".join(part if len(part) == size else bytes(size) for part in parts)

    def count_overlaps(
        self, row: int, others: Sequence[int], among: Outcomes | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Count the images that each other row has right, and those that it and `row` both have right.

        Args:
            row, others: rows of the file.
            among: which images to count, `(images,)`. None: all.

        Returns:
            Two arrays `(n,)`, one number per row in `others`. Both numbers are -1 for a row that the file does not
            have, and for all rows if the file does not have `row`. The file is read once.
        """
        right, both = np.full((2, len(others)), -1, np.int64)
        try:
            content = np.fromfile(self.path, np.uint8)
        except OSError:
            return right, both
        count = len(content) // self.bytes_per_row
        bits = content[: count * self.bytes_per_row].reshape(count, self.bytes_per_row)
        if row >= count:
            return right, both
        if among is not None:
            bits = bits & np.packbits(among)
        numbers = np.array(others, np.int64)
        present = np.flatnonzero(numbers < count)
        for part in np.split(present, range(ROWS_AT_ONCE, len(present), ROWS_AT_ONCE)):
            rows = bits[numbers[part]]  # (part, bytes_per_row)
            right[part] = BITS_OF_BYTE[rows].sum(1, dtype=np.int64)
            both[part] = BITS_OF_BYTE[rows & bits[row]].sum(1, dtype=np.int64)
        return right, both
