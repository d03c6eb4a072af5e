"""Keep a training's checkpoints: the newest, milestones, and damaged ones aside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from spos_cli.engine import checkpoint
from spos_cli.engine.progress import warn
from spos_cli.errors import CheckpointError, RunError
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.writing import write_atomically

TRAINING_FORMAT = "spos-checkpoint-1"  # under "format" in every checkpoint of a training


class CheckpointFolder:
    """The checkpoints in a training's folder.

    `step-*.pt` are the newest ones, `last.pt` is another name of the newest, `milestone-*.pt` are kept for good, and
    `damaged/` has those that could not be read. Only the first process writes here.

    Args:
        path: the folder.
        keep: how many `step-*.pt` to keep.
        milestone_every: steps between milestones, or None.
    """

    def __init__(self, path: Path, *, keep: int, milestone_every: int | None) -> None:
        self.path, self.keep, self.milestone_every = path, keep, milestone_every

    @property
    def last(self) -> Path:
        """The newest checkpoint's other name."""
        return self.path / "last.pt"

    def is_milestone(self, step: int) -> bool:
        """Tell whether the checkpoint of a step is kept for good."""
        return self.milestone_every is not None and step % self.milestone_every == 0

    def save(self, step: int, content: dict[str, Any]) -> None:
        """Write `step-<n>.pt`, point `last.pt` to it, and remove the oldest checkpoints.

        Raises:
            RunError: the checkpoint cannot be written; `last.pt` stays the one before.
        """
        path = self.path / f"step-{step:08d}.pt"
        checkpoint.save(path, {"format": TRAINING_FORMAT, **content})
        self._add_name(path, self.last.name)
        if self.is_milestone(step):
            self._add_name(path, f"milestone-{step:08d}.pt")
        for old in sorted(self.path.glob("step-*.pt"))[: -self.keep]:
            old.unlink(missing_ok=True)

    def _add_name(self, path: Path, name: str) -> None:
        """Give a checkpoint a second name: a hard link, or a copy where the file system has no links."""
        link = self.path / f".{name}.tmp"
        try:
            link.unlink(missing_ok=True)
            os.link(path, link)
            link.replace(self.path / name)
        except OSError:
            write_atomically(self.path / name, path.read_bytes())

    def load_newest(self) -> dict[str, Any] | None:
        """Return the content of the newest whole checkpoint, and make that one `last.pt`; None if there are none.

        Damaged ones are moved to `damaged/`.

        Raises:
            CheckpointError: there are checkpoints, and all of them are damaged.
        """
        newest_first = (self.last, *sorted(self.path.glob("step-*.pt"), reverse=True))
        existing = [path for path in newest_first if path.exists()]
        for path in existing:
            try:
                content = checkpoint.load(path)
            except CheckpointError as error:
                warn(f"{error}; it is kept as {self._move_to_damaged(path)}")
                continue
            if path != self.last:
                warn(f"resuming from {path}")
                self._add_name(path, self.last.name)
            return content
        if not existing:
            return None
        raise CheckpointError(
            f"no checkpoint in {self.path} is whole (they are kept in damaged/); use --fresh to start over"
        )

    def _move_to_damaged(self, path: Path) -> Path:
        """Move a file to `damaged/`, under a name that is free there, and return its new path.

        Raises:
            RunError: it cannot be moved.
        """
        folder = self.path / "damaged"
        target, number = folder / path.name, 1
        while target.exists():
            target, number = folder / f"{path.stem}-{number}{path.suffix}", number + 1
        with os_errors_as(RunError, f"cannot move the damaged {path} to {folder}"):
            folder.mkdir(exist_ok=True)
            return path.rename(target)
