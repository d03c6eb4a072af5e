"""What people type in a shell, quoted."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import yaml

from spos_cli.files.reading import YAML_ERRORS


def as_override(key: str, value: object) -> str:
    """A setting as `--set` takes it: a text that YAML would read as another value, such as 010 as 8, is quoted."""
    text = str(value)
    try:
        same = str(yaml.safe_load(text)) == text
    except YAML_ERRORS:
        same = False
    return f"{key}={text if same else json.dumps(text, ensure_ascii=False)}"


def quote_path(path: Path | str) -> str:
    """A path as an argument to type in a shell; it may have blanks and quotes, or begin like an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))
