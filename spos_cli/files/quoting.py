"""Write values and numbers in messages, and paths and settings for a shell."""

from __future__ import annotations

import json
import reprlib
import shlex
from pathlib import Path

import yaml

from spos_cli.files.reading import YAML_ERRORS

MAX_QUOTED = 60  # characters of a value in a message

# YAML's aliases make lists of lists that would fill any memory, so a value is never written out as a whole.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict, _SHORT.maxset = 3, 30, 30, 30, 30
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = MAX_QUOTED


def as_override(key: str, value: object) -> str:
    """Return a setting as `--set` takes it. A text that YAML would read as another value (010 as 8) is quoted."""
    text = str(value)
    try:
        same = str(yaml.safe_load(text)) == text
    except YAML_ERRORS:
        same = False
    return f"{key}={text if same else json.dumps(text, ensure_ascii=False)}"


def quote_path(path: Path | str) -> str:
    """Return a path as an argument for a shell; it may have blanks and quotes, or begin like an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def plural(number: int, one: str, many: str = "") -> str:
    """Write `1 process` or `2 processes`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def quote_value(value: object) -> str:
    """Return a value from outside as a message quotes it: at most 60 characters, and never an error of its own."""
    if isinstance(value, str):
        return repr(_shorten(value))
    try:
        return _shorten(_SHORT.repr(value))
    except (ValueError, RecursionError):  # An int may have more digits than Python writes out.
        return f"a huge {type(value).__name__}"


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_QUOTED else text[: MAX_QUOTED - 3] + "..."
