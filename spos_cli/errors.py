"""What can go wrong in a way that the user can mend.

    SposError                 one short message on stderr, exit code 2, no traceback
    ├── ConfigError           a setting: unknown, of the wrong type, or at odds with another
    ├── ArchitectureError     an ARCH that cannot be read, or that the space does not have
    ├── LimitError            a cost range that no architecture of the space meets
    ├── DataError             images or labels that are missing, broken or too few
    ├── CheckpointError       a weights file that is torn, foreign or for another model
    ├── RunError              a run folder that lacks a stage, or holds another run
    └── TrainingError         a training that cannot go on (a loss that is not finite)

A message says what was seen, what is allowed, and what to do next. Anything else that is raised is a bug.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Text for a terminal: what might move its cursor or change its colours is shown as an escape, such as `\\x1b`.

    Names of files and classes, and words of a weights file, come from others.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class SposError(Exception):
    """A mistake that the user can mend; the command ends with exit code 2."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(SposError):
    """A setting is unknown, of the wrong type, or at odds with another; there may be a line for each."""

    def __str__(self) -> str:
        return "\n".join(map(printable, Exception.__str__(self).split("\n")))


class ArchitectureError(SposError):
    """An architecture cannot be read, or the space does not have it."""


class LimitError(SposError):
    """No architecture of the space meets the cost range asked for."""


class DataError(SposError):
    """Images or labels are missing, broken or too few."""


class CheckpointError(SposError):
    """A weights file is torn, foreign, or belongs to another model."""


class RunError(SposError):
    """A run folder lacks what a stage needs, or holds a different run."""


class TrainingError(SposError):
    """A training cannot go on."""
