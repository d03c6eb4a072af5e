"""The journal of a search: one scored candidate a line, in the order of scoring, never rewritten.

A line is a JSON object: `architecture` (as `Architecture.to_list` has it), `flops`, `params`, `top1` and `top5` (shares
of `images`), `images`, `generation` and `origin`: `random`, `mutation` or `crossover`; `imported` for a score that
another search found on other images, and `rescored` for such an architecture that this search has scored again.
`partial: true` is for a candidate that has lost its race, `earlier: true` for a score that another search found with
the same supernet on the same images. Lines of another search come first. There are no times, so that the same search
gives the same bytes. Beside it, `outcomes.bits` keeps which images each candidate got right.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from spos_cli.errors import ArchitectureError, RunError
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.reading import read_complete_lines
from spos_cli.files.writing import append_line, cut_torn_line
from spos_cli.search import statistics
from spos_cli.search.racing import Outcomes
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import MAX_COST
from spos_cli.space.search_space import SearchSpace

Origin = Literal["random", "mutation", "crossover", "rescored", "imported"]

# What a line raises that is no entry: no JSON, or of another form, or nested without end.
NO_ENTRY = (ArchitectureError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)  # bits of each byte
ROWS = 1024  # of outcomes that are compared at once


@dataclass(frozen=True)
class Entry:
    """One scored candidate; `top1` and `top5` are shares of `images`."""

    architecture: Architecture
    flops: int
    params: int
    top1: float
    top5: float
    images: int
    generation: int
    origin: Origin
    partial: bool = False
    earlier: bool = False

    @property
    def fitness(self) -> float:
        """What a search maximises: top-1, and below 0 for a candidate that was stopped early."""
        return self.top1 - self.partial

    @property
    def rank(self) -> tuple[bool, float, int, Architecture]:
        """Less is better: complete scores, the higher top-1, the cheaper."""
        return self.partial, -self.top1, self.flops, self.architecture

    @property
    def interval(self) -> tuple[float, float]:
        """Where the top-1 on all images of this kind lies, at 95 %; what makes a search pick the best is not in it."""
        return statistics.interval(self.right, self.images)

    @property
    def right(self) -> int:
        """Images whose label has the largest logit."""
        return round(self.top1 * self.images)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for files."""
        fields = {**asdict(self), "architecture": self.architecture.to_list()}
        for flag in ("partial", "earlier"):
            if not fields[flag]:
                del fields[flag]
        return fields

    def to_line(self) -> str:
        """The entry as one line of JSON."""
        return json.dumps(self.to_dict()) + "\n"

    @staticmethod
    def from_line(line: str) -> Entry:
        """The entry of one line. Raises one of `NO_ENTRY` if it is none."""
        fields = json.loads(line)
        entry = Entry(architecture=Architecture.from_list(fields.pop("architecture")), **fields)
        numbers = (entry.flops, entry.params, entry.images, entry.generation)
        if (
            not all(type(number) is int and 0 <= number <= MAX_COST for number in numbers)
            or entry.images * entry.flops == 0
        ):
            raise ValueError("a number that is none")
        if not (0 <= entry.top1 <= 1 and 0 <= entry.top5 <= 1 and entry.origin in get_args(Origin)):
            raise ValueError("a score outside of its range, or an unknown origin")
        if type(entry.partial) is not bool or type(entry.earlier) is not bool:
            raise ValueError("neither partial nor complete, or neither earlier nor new")
        if entry.earlier and entry.origin == "imported":
            raise ValueError("on the same images, and on others")
        return entry


class Journal:
    """The file of a search's scores. Only one process may append."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Entry]:
        """All entries; a last line that a kill has cut short does not count.

        Raises:
            RunError: a line in the middle is not an entry.
        """
        with os_errors_as(RunError, f"cannot read {self.path}"):
            lines = read_complete_lines(self.path)
        entries = []
        for number, line in enumerate(lines, 1):
            if (entry := self.entry_or_none(line)) is None:
                raise RunError(f"{self.path}:{number} is not a scored candidate; mend it, or use --fresh")
            entries.append(entry)
        return entries

    @staticmethod
    def entry_or_none(line: bytes) -> Entry | None:
        """The entry of one line, if it is one."""
        try:
            return Entry.from_line(line.decode("utf-8"))
        except NO_ENTRY:
            return None

    def read_of(self, space: SearchSpace) -> list[Entry]:
        """All entries, of this space.

        Raises:
            RunError: a line is not an entry, or its architecture is of another space.
        """
        entries, allowed = self.read(), [frozenset(options) for options in space.options.by_layer]
        for number, entry in enumerate(entries, 1):
            arch = entry.architecture
            options = zip(arch.choices, arch.widths or (0,) * len(arch), strict=True)
            if len(arch) == len(allowed) and all(map(frozenset.__contains__, allowed, options)):
                continue  # which `validate` would take ten times as long to see
            try:
                space.validate(arch)
            except ArchitectureError as error:
                raise RunError(f"{self.path}:{number} is a candidate of another space: {error}") from None
        return entries

    def cut_incomplete_line(self) -> None:
        """Removes what follows the last newline, so that the next entry begins a line."""
        cut_torn_line(self.path)

    def append(self, entry: Entry) -> None:
        """Adds one line and flushes it to the disk.

        Raises:
            RunError: the disk is full, or the folder cannot be written.
        """
        with os_errors_as(RunError, f"cannot write {self.path}", "scores so far are kept"):
            append_line(self.path, entry.to_line(), sync=True)


class Bitmaps:
    """Which images each candidate got right: a row of bits for each line of the journal.

    Args:
        path: of the file; a row is at its line's place in it, so what a kill has cut short is written over.
        images: that are scored; a row has a bit for each, and zeros where a partial score ends.
    """

    def __init__(self, path: Path, images: int) -> None:
        self.path, self.images, self.width = path, images, -(-images // 8)

    def write(self, row: int, outcomes: Outcomes) -> None:
        """Keeps the outcomes `(n,)` of the first n images.

        Raises:
            RunError: the disk is full, or the folder cannot be written.
        """
        bits = np.packbits(np.pad(outcomes, (0, self.images - len(outcomes)))).tobytes()
        with os_errors_as(RunError, f"cannot write {self.path}", "scores so far are kept"):
            self.path.touch()
            with self.path.open("r+b") as file:
                file.seek(row * self.width)
                file.write(bits)
                file.flush()
                os.fsync(file.fileno())

    def read(self, row: int) -> Outcomes | None:
        """The outcomes `(images,)` in a row; None if they were not kept."""
        try:
            with self.path.open("rb") as file:
                file.seek(row * self.width)
                bits = file.read(self.width)
        except OSError:
            return None
        unpacked = np.unpackbits(np.frombuffer(bits, np.uint8), count=self.images) if len(bits) == self.width else None
        return None if unpacked is None else unpacked.astype(bool)

    def rows(self, rows: Sequence[int]) -> bytes:
        """These rows, one after the other, for another file; zeros for those that were not kept."""
        try:
            content = self.path.read_bytes()
        except OSError:
            content = b""
        parts = (content[row * self.width : (row + 1) * self.width] for row in rows)
        return b"".join(part if len(part) == self.width else bytes(self.width) for part in parts)

    def overlaps(self, row: int, rows: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each of `rows` `(n,)`: images that are right there, and those that are right there and in `row`.

        Both are -1 for all that were not kept, and for all rows if `row` was not. The file is read once.
        """
        right, both = np.full((2, len(rows)), -1, np.int64)
        try:
            content = np.fromfile(self.path, np.uint8)
        except OSError:
            return right, both
        kept = content[: len(content) // self.width * self.width].reshape(len(content) // self.width, self.width)
        wanted = np.array(rows, np.int64)
        there = np.flatnonzero(wanted < len(kept))
        if row < len(kept):
            for part in np.split(there, range(ROWS, len(there), ROWS)):
                bits = kept[wanted[part]]
                right[part] = ONES[bits].sum(1, dtype=np.int64)
                both[part] = ONES[bits & kept[row]].sum(1, dtype=np.int64)
        return right, both


def ranking(entries: Iterable[Entry], flops_limit: int | None = None) -> list[Entry]:
    """Best first; partial scores come last."""
    allowed = [entry for entry in entries if flops_limit is None or entry.flops <= flops_limit]
    return sorted(allowed, key=lambda entry: entry.rank)


def pareto(entries: Iterable[Entry]) -> list[Entry]:
    """The front over FLOPs and top-1 of those that were scored to the end, by FLOPs."""
    complete = [entry for entry in entries if not entry.partial]
    costs, scores = [entry.flops for entry in complete], [entry.top1 for entry in complete]
    return [complete[index] for index in statistics.front(costs, scores)]
