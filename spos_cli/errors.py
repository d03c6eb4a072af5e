"""Errors that the user can fix.

    SposError                 one short message on stderr, exit code 2, no traceback
    ├── ConfigError           a setting that is unknown, has the wrong type, or contradicts another
    ├── ArchitectureError     an ARCH that cannot be read, or is not in the space
    ├── LimitError            a range of costs without an architecture
    ├── DataError             images or labels that are missing, broken or too few
    ├── CheckpointError       a weights file that is torn, foreign, or of another model
    ├── RunError              a run folder that lacks a stage, or holds another run
    └── TrainingError         a training that cannot continue (a loss that is not finite)

A message says what was seen, what is allowed, and what to do next. Any other exception is a bug.
"""

from __future__ import annotations


def make_printable(text: str) -> str:
    """Return text for a terminal, with an escape such as `\\x1b` for what could move its cursor or change its colours.

    Names of files and classes, and texts in a weights file, may come from other people.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class SposError(Exception):
    """A mistake that the user can fix; the command ends with exit code 2."""

    def __str__(self) -> str:
        return make_printable(super().__str__())


class ConfigError(SposError):
    """A setting is unknown, has the wrong type, or contradicts another. The message has a line for each."""

    def __str__(self) -> str:
        return "\n".join(map(make_printable, Exception.__str__(self).split("\n")))


class ArchitectureError(SposError):
    """An architecture cannot be read, or is not in the space."""


class LimitError(SposError):
    """No architecture of the space is in the range of costs."""


class DataError(SposError):
    """Images or labels are missing, broken or too few."""


class CheckpointError(SposError):
    """A weights file is torn, foreign, or of another model."""


class RunError(SposError):
    """A run folder lacks what a stage needs, or holds another run."""


class TrainingError(SposError):
    """A training cannot continue."""
