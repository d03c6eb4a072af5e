"""Quote settings and paths for a shell."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import yaml

from spos_cli.files.reading import YAML_ERRORS


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
