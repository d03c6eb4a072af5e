"""An architecture: one choice per layer. How it is written, read and named."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spos_cli.errors import ArchitectureError

MAX_CHARACTERS = 100_000  # of a literal or a file; far above any space
ALLOWED = "write one choice per layer, such as 2,1,0,3"


@dataclass(frozen=True)
class Architecture:
    """One choice (an index into the space's choices) per layer."""

    choices: tuple[int, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.choices))

    def __len__(self) -> int:
        return len(self.choices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.choices)

    def __getitem__(self, layer: int) -> int:
        return self.choices[layer]

    @property
    def id(self) -> str:
        """Ten hex digits that name the architecture's folder."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:10]


def parse(text: str) -> Architecture:
    """Reads `2,1,0`, `2 1 0`, `(2, 1, 0)` or `[2, 1, 0]`.

    Raises:
        ArchitectureError: it is none of these.
    """
    inner = text.strip()
    for left, right in ("()", "[]"):
        if inner.startswith(left) and inner.endswith(right):
            inner = inner[1:-1].strip()
            break
    if len(inner) > MAX_CHARACTERS or not re.fullmatch(r"[0-9]{1,6}(?:(?:\s*,\s*|\s+)[0-9]{1,6})*,?", inner):
        raise ArchitectureError(f"cannot read the architecture {_cut(text)}; {ALLOWED}")
    return Architecture(tuple(int(choice) for choice in re.findall("[0-9]+", inner)))


def read(arch: str) -> Architecture:
    """Reads an ARCH of the command line: a YAML or JSON file, or a literal.

    A file holds a list of choices, or a mapping with one under `architecture`.

    Raises:
        ArchitectureError: there is no such file, or it holds no architecture.
    """
    path = Path(arch) if len(arch) < 4096 and "\0" not in arch else None
    looks_like_path = path is not None and (path.suffix in (".yaml", ".yml", ".json") or "/" in arch or "\\" in arch)
    if path is None or not looks_like_path:
        return parse(arch)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ArchitectureError(f"there is no architecture file {arch}") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ArchitectureError(f"cannot read the architecture file {arch}: {_reason(error)}") from None
    return _from_value(_load(text, arch), arch)


def _load(text: str, name: str) -> Any:
    if len(text) > MAX_CHARACTERS:
        raise ArchitectureError(f"{name} is too large for an architecture file")
    try:
        return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ArchitectureError(f"{name} is not valid {'JSON' if name.endswith('.json') else 'YAML'}") from None


def _from_value(value: Any, name: str) -> Architecture:
    if isinstance(value, dict):
        value = value.get("architecture")
    if isinstance(value, str):
        return parse(value)
    if not isinstance(value, list) or not value or any(type(c) is not int or c < 0 for c in value):
        raise ArchitectureError(f"{name} holds no architecture: expected architecture: [2, 1, 0, ...]")
    return Architecture(tuple(value))


def _cut(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "it is not UTF-8 text"
