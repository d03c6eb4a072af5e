"""Read files that may be missing, torn or foreign."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

# What PyYAML raises for bad YAML; its own constructors raise the plain ones, for `!!int ""` or `!!timestamp x`.
YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)
JSON_ERRORS = (ValueError, RecursionError)
MAX_BYTES = 8 * 2**20  # of a JSON or YAML file that is read whole; ours are far smaller
BEGINNING = 64  # bytes of a file that tell what it is


def explain_beginning(content: bytes) -> str:
    """Return what a file is that came instead of another one, and what to do; `""` if it does not look so.

    Args:
        content: the first `BEGINNING` bytes.
    """
    if not content:
        return "an empty file; copy it again"
    if content.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a pointer of Git LFS to it; run git lfs pull in its repository"
    if content.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, perhaps one that asks for a login; download the file itself"
    return ""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if the file is missing, broken, too large, or holds anything else."""
    return _read_mapping(path, json.loads)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; empty if the file is missing, broken, too large, or holds anything else."""
    return _read_mapping(path, yaml.safe_load)


def _read_mapping(path: Path, parse: Callable[[bytes], Any]) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        content = parse(text) if len(text) <= MAX_BYTES else None
    except (OSError, *YAML_ERRORS):
        return {}
    return content if isinstance(content, dict) else {}


def parse_object(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a line; None if the line is torn or holds anything else."""
    try:
        value = json.loads(line.decode("utf-8", "replace"))
    except JSON_ERRORS:
        return None
    return value if isinstance(value, dict) else None


def read_json_lines(path: Path, last_bytes: int | None = None) -> list[dict[str, Any]]:
    """Return the JSON objects of a file that has one in each line, oldest first; other lines are left out.

    Args:
        path: the file; if it does not exist, there are no lines.
        last_bytes: read only so many bytes at the end of the file; None reads all.

    Raises:
        OSError: the file exists, but cannot be read.
    """
    try:
        with path.open("rb") as file:
            if last_bytes is not None:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - last_bytes))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    return [value for line in lines if (value := parse_object(line)) is not None]


def read_complete_lines(path: Path) -> list[bytes]:
    """Return the lines of a file that end with a newline, without it; a last line without one may be torn.

    Raises:
        OSError: the file exists, but cannot be read.
    """
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
