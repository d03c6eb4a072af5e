"""Files that may be missing, torn or foreign."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

# What PyYAML raises for bad YAML; its own constructors raise the plain ones, for `!!int ""` or `!!timestamp x`.
YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)
MOST_BYTES = 2**23  # of a file that is read as a whole; ours are far smaller


def read_json(path: Path) -> dict[str, Any]:
    """A mapping in a JSON file; empty if there is none that is whole."""
    return _mapping(path, json.loads)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping in a YAML file; empty if there is none that is whole."""
    return _mapping(path, yaml.safe_load)


def _mapping(path: Path, parse: Callable[[bytes], Any]) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        content = parse(text) if len(text) <= MOST_BYTES else None
    except (OSError, *YAML_ERRORS):
        return {}
    return content if isinstance(content, dict) else {}
