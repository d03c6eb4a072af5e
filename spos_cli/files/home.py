"""Read `~` at the beginning of a path as the user's home folder, as a shell does.

A shell leaves it in `--run-dir=~/runs`, and nothing reads it in a YAML file or in the arguments of another program.
"""

from __future__ import annotations

import os
import re

ARGUMENT = re.compile(r"(--[a-z-]+=|-[a-z])?(~.*)", re.DOTALL)  # an option or none, and its value


def expand_home(path: str) -> str:
    """Return a path with `~` or `~user` at its beginning replaced; that of an unknown user stays, as in a shell."""
    return os.path.expanduser(path)  # noqa: PTH111  (a Path would also change the rest, and `~unknown` is an error)


def expand_argument(argument: str) -> str:
    """Return an argument of a command line with `~` replaced at the beginning of its value."""
    match = ARGUMENT.fullmatch(argument)
    return argument if match is None else f"{match[1] or ''}{expand_home(match[2])}"
