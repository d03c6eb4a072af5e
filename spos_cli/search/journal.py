"""The file `journal.jsonl`: one scored candidate per line, never rewritten.

Lines are in the order of scoring; those taken from another search come first. A line is a JSON object:

- `architecture`: as `Architecture.to_list` returns it;
- `flops`, `params`: its cost;
- `costs`: its other costs by name, if the search has any: `latency` in microseconds, and own costs in their unit;
- `top1`, `top5`: shares of `images`;
- `images`: number of images that were scored;
- `generation`: of the evolution, from 0;
- `origin`: `random`, `mutation`, `crossover` or `predicted`; `imported` for a score that another search found on other
  images, and `rescored` for such an architecture that this search has scored again;
- `balanced`: balanced accuracy, and `effective_images`, the number of images of equal weights that tell as much, with
  `search.fitness: balanced` (see `balance.py`);
- `partial: true`: scoring stopped early, since the candidate had lost its race;
- `earlier: true`: another search has found the score, with the same supernet on the same images.

There are no times, so that the same search writes the same bytes. `outcomes.bits` beside the journal keeps which images
each candidate got right.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from spos_cli.errors import ArchitectureError, RunError
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.reading import read_complete_lines
from spos_cli.files.writing import append_line, cut_torn_line
from spos_cli.search import statistics
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost_kinds import MAX_COST, OWN_NAME, get_kind
from spos_cli.space.search_space import SearchSpace

Origin = Literal["random", "mutation", "crossover", "predicted", "rescored", "imported"]

# What `Entry.from_line` raises for a line that is not JSON, has another form, or is nested too deeply.
BAD_LINE = (ArchitectureError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Entry:
    """One scored candidate; the fields are those of a line (see the module).

    Attributes:
        costs: the costs besides FLOPs and parameters, by name.
        partial: whether the candidate was stopped early.
        earlier: whether another search has found the score, on the same images.
        balanced, effective_images: with balanced accuracy as the fitness; else None.
    """

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
    costs: Mapping[str, int] = field(default_factory=dict, hash=False)
    balanced: float | None = None
    effective_images: float | None = None

    def get_cost(self, name: str) -> int:
        """Return a cost by its name; raise KeyError if it is unknown."""
        return self.known_costs[name]

    @property
    def known_costs(self) -> dict[str, int]:
        """All costs by name, in the order in which they are shown."""
        return {"flops": self.flops, "params": self.params, **self.costs}

    @property
    def costs_of_files(self) -> dict[str, int | float]:
        """The costs besides FLOPs and parameters, as files keep them: own costs in their unit."""
        return {name: get_kind(name).to_number(cost) for name, cost in self.costs.items()}

    @property
    def main_cost(self) -> int:
        """The cost that ranks candidates of equal scores: BitOPs in a space with bits, else FLOPs."""
        return self.costs.get("bitops", self.flops)

    @property
    def score(self) -> float:
        """The number that candidates are compared by: top-1, or balanced accuracy if that is the fitness."""
        return self.top1 if self.balanced is None else self.balanced

    @property
    def score_name(self) -> str:
        """What `score` is, in words."""
        return "top-1" if self.balanced is None else "balanced accuracy"

    @property
    def fitness(self) -> float:
        """What a search maximises: the score, below 0 for a candidate that was stopped early."""
        return self.score - self.partial

    @property
    def rank(self) -> tuple[bool, float, int, Architecture]:
        """The order of candidates, the best first: not stopped early, higher score, fewer FLOPs or BitOPs."""
        return self.partial, -self.score, self.main_cost, self.architecture

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the score on all such images. It does not include that a search selects the best."""
        if self.balanced is not None and self.effective_images is not None:
            return statistics.interval(self.balanced * self.effective_images, self.effective_images)
        return statistics.interval(self.right, self.images)

    @property
    def right(self) -> int:
        """Number of images whose label has the largest logit."""
        return round(self.top1 * self.images)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for files, without flags that are false and without numbers that are unknown."""
        fields = {**asdict(self), "architecture": self.architecture.to_list()}
        for name in ("balanced", "effective_images"):
            if fields[name] is None:
                del fields[name]
        fields["costs"] = self.costs_of_files
        if not self.costs:
            del fields["costs"]
        for flag in ("partial", "earlier"):
            if not fields[flag]:
                del fields[flag]
        return fields

    def to_line(self) -> str:
        """Return the entry as one line of JSON."""
        return json.dumps(self.to_dict()) + "\n"

    @staticmethod
    def from_line(line: str) -> Entry:
        """Read one line; raise one of `BAD_LINE` if it is not a scored candidate."""
        fields = json.loads(line)
        costs = _read_costs(fields.pop("costs", {}))
        entry = Entry(architecture=Architecture.from_list(fields.pop("architecture")), costs=costs, **fields)
        numbers = [entry.flops, entry.params, entry.images, entry.generation]
        if (
            not all(type(number) is int and 0 <= number <= MAX_COST for number in numbers)
            or entry.images * entry.flops == 0
        ):
            raise ValueError("a number is out of range")
        if not (0 <= entry.top1 <= 1 and 0 <= entry.top5 <= 1 and entry.origin in get_args(Origin)):
            raise ValueError("a score is out of range, or the origin is unknown")
        balanced, effective = entry.balanced, entry.effective_images
        if (balanced is None) != (effective is None):
            raise ValueError("of balanced accuracy and its effective images, one is missing")
        if balanced is not None and effective is not None and not (0 <= balanced <= 1 and 0 < effective < math.inf):
            raise ValueError("a score is out of range")
        if type(entry.partial) is not bool or type(entry.earlier) is not bool:
            raise ValueError("a flag is not true or false")
        if entry.earlier and entry.origin == "imported":
            raise ValueError("a score cannot come from the same images and from others")
        return entry


def _read_costs(numbers: dict[str, Any]) -> dict[str, int]:
    """Return the costs of a line; raise one of `BAD_LINE` if there is anything else."""
    for name in numbers:
        if not OWN_NAME.fullmatch(name) or name in ("flops", "params"):
            raise ValueError("this is not the name of a cost")
    return {name: get_kind(name).from_number(number) for name, number in numbers.items()}


class Journal:
    """The file of a search's scores. Only one process may append."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Entry]:
        """Read all entries; a last line that a kill has cut short does not count.

        Raises:
            RunError: a line is not a scored candidate, or the file cannot be read.
        """
        with os_errors_as(RunError, f"cannot read {self.path}"):
            entries = self._read_lines()
        if None in entries:
            raise RunError(
                f"{self.path}:{entries.index(None) + 1} is not a scored candidate; fix that line, or use --fresh"
            )
        return [entry for entry in entries if entry is not None]

    def read_valid(self) -> tuple[list[Entry], int]:
        """Read the entries of a journal that may be written meanwhile, and count the lines that are not entries.

        Raises:
            OSError: the file cannot be read.
        """
        lines = self._read_lines()
        entries = [entry for entry in lines if entry is not None]
        return entries, len(lines) - len(entries)

    def _read_lines(self) -> list[Entry | None]:
        """Read all whole lines; None stands for a line that is not an entry. Empty if there is no file."""
        entries: list[Entry | None] = []
        for line in read_complete_lines(self.path):
            try:
                entries.append(Entry.from_line(line.decode("utf-8")))
            except BAD_LINE:
                entries.append(None)
        return entries

    def read_of(self, space: SearchSpace) -> list[Entry]:
        """Read all entries, which must be of this space.

        Raises:
            RunError: a line is not a scored candidate, or its architecture is of another space.
        """
        entries, allowed = self.read(), [frozenset(options) for options in space.options.by_layer]
        for number, entry in enumerate(entries, 1):
            arch = entry.architecture
            options = zip(*arch.columns, strict=True)
            if len(arch) == len(allowed) and all(map(frozenset.__contains__, allowed, options)):
                continue  # `validate` takes ten times as long; it is only needed for its message.
            try:
                space.validate(arch)
            except ArchitectureError as error:
                raise RunError(f"{self.path}:{number} is a candidate of another space: {error}") from None
        return entries

    def cut_incomplete_line(self) -> None:
        """Remove what follows the last newline, so that the next entry begins a line."""
        cut_torn_line(self.path)

    def append(self, entry: Entry) -> None:
        """Add one line and flush it to the disk.

        Raises:
            RunError: the disk is full, or the folder cannot be written.
        """
        with os_errors_as(RunError, f"cannot write {self.path}", "scores so far are kept"):
            append_line(self.path, entry.to_line(), sync=True)
