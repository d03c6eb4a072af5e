"""The scored candidates of another search: to begin with them, or to export them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spos_cli.engine import checkpoint
from spos_cli.engine.distributed import Processes
from spos_cli.errors import CheckpointError, RunError
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.writing import write_atomically
from spos_cli.models.counting import Costs
from spos_cli.official import search_checkpoint
from spos_cli.run.command import Run
from spos_cli.run.search_settings import is_comparable
from spos_cli.search.evolution import Evolution
from spos_cli.search.journal import Entry, Journal
from spos_cli.search.outcomes import OutcomesFile
from spos_cli.search.results import Results, is_new
from spos_cli.space.search_space import SearchSpace


def read_candidates(path: Path, space: SearchSpace, costs: Costs) -> list[Entry]:
    """Read the scored candidates in a journal, or in the checkpoint of an official search.

    Args:
        costs: of the space.

    Raises:
        RunError: the file cannot be read, or it is a journal of another space.
        CheckpointError: it is neither a journal nor an official search of this space.
    """
    with os_errors_as(RunError, f"cannot read {path}"), path.open("rb") as file:
        is_journal = file.read(1) == b"{"
    if is_journal:
        entries = Journal(path).read_of(space)
        for number, entry in enumerate(entries, 1):
            if entry.flops != (here := costs.flops.of(entry.architecture)):
                raise RunError(
                    f"{path}:{number} is a candidate of another space: it has {entry.flops:,} FLOPs there and {here:,}"
                    " here"
                )
        return entries
    content = checkpoint.load(path)
    if not search_checkpoint.is_search(content):
        raise CheckpointError(
            f"{path} holds no search: expected a journal.jsonl, or an official checkpoint with vis_dict"
        )
    return search_checkpoint.read_entries(content, space, costs.flops, costs.params, str(path))


@dataclass(frozen=True)
class EarlierSearch:
    """Another search, with whose candidates this one begins.

    Attributes:
        path: its journal or checkpoint.
        lines: all of its scored candidates, in their order.
    """

    path: Path
    lines: Sequence[Entry]

    def as_imported(self) -> list[Entry]:
        """Return the candidates as lines of a search that scores on other images."""
        entries = Results.to_export(self.lines).candidates
        return [replace(entry, generation=0, origin="imported", earlier=False) for entry in entries]

    def as_known(self, evolution: Evolution) -> list[Entry]:
        """Return the candidates as lines of a search on the same images, without those over its limits."""
        allowed = [one for one in Results.of(self.lines).candidates if evolution.allows(one.architecture)]
        return [replace(entry, generation=0, earlier=True) for entry in allowed]

    def require_begun(self, journal: Journal, evolution: Evolution) -> None:
        """Raise RunError if there is a journal that does not begin with these candidates."""
        if not journal.path.exists():
            return
        beginning = [entry for entry in journal.read() if not is_new(entry)]
        allowed_beginnings = [self.as_imported()]
        if Results.of(self.lines).candidates:
            allowed_beginnings.append(self.as_known(evolution))
        if beginning not in allowed_beginnings:
            raise RunError(f"{journal.path} has begun without the candidates of --from; use --fresh to start over")

    def begin(
        self,
        run: Run,
        journal: Journal,
        evolution: Evolution,
        settings: dict[str, Any],
        images: int,
        processes: Processes,
    ) -> None:
        """Begin a journal with all of the candidates at once, unless it has begun.

        If the scores are comparable, the outcomes by image are copied, too.

        Args:
            settings: what the scores of this search depend on; its decoded images are beside the journal.
            images: number of images to score on.
        """
        processes.barrier()
        if processes.is_main and not journal.path.exists():
            lines, theirs = self.as_imported(), Results.of(self.lines)
            same_number = all(entry.partial or entry.images == images for entry in theirs.candidates)
            if theirs.candidates and same_number and is_comparable(run, settings, self.path.parent):
                lines = self.as_known(evolution)
                outcomes = OutcomesFile(self.path.with_name("outcomes.bits"), images)
                rows = outcomes.copy_rows([theirs.rows[entry.architecture] for entry in lines])
                write_atomically(journal.path.with_name("outcomes.bits"), rows)
            write_atomically(journal.path, "".join(entry.to_line() for entry in lines).encode())
        processes.barrier()
