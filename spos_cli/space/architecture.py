"""An architecture: one choice per layer. How it is written, read and named."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spos_cli import pickles
from spos_cli.errors import ArchitectureError, CheckpointError

MAX_CHARACTERS = 100_000  # of a literal or a file; far above any space
MAX_CHOICE = 999_999
SUFFIXES = (".yaml", ".yml", ".json", ".pkl")
# What PyYAML raises for bad YAML; its own constructors raise the plain ones, for `!!int ""` or `!!timestamp x`.
YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)
ALLOWED = "write one choice per layer, such as 2,1,0,3"


@dataclass(frozen=True, order=True)
class Architecture:
    """One choice (an index into the space's choices) per layer; written `2,1,0`."""

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
        ArchitectureError: it is none of these, or a choice has more than six digits.
    """
    inner = text.strip()
    for left, right in ("()", "[]"):
        if inner.startswith(left) and inner.endswith(right):
            inner = inner[1:-1].strip()
            break
    if len(inner) > MAX_CHARACTERS or not re.fullmatch(r"[0-9]{1,6}(?:(?:\s*,\s*|\s+)[0-9]{1,6})*,?", inner):
        raise ArchitectureError(f"cannot read the architecture {shown(text)}; {ALLOWED}")
    return Architecture(tuple(int(choice) for choice in re.findall("[0-9]+", inner)))


def read(arch: str) -> Architecture:
    """Reads an ARCH of the command line: a literal, or a file of YAML, JSON or pickle.

    A file holds a list of choices, or a mapping with a list or a literal under `architecture`; or it is the
    published code's `arch.pkl`, a pickled tuple. Which of them is told by its content.

    Raises:
        ArchitectureError: there is no such file, or it holds no architecture.
    """
    try:
        return parse(arch)
    except ArchitectureError:
        path = Path(arch) if len(arch) < 4096 and "\0" not in arch else None
        if path is None or not _is_there(path):
            if path is not None and (path.suffix.lower() in SUFFIXES or "/" in arch or "\\" in arch):
                raise ArchitectureError(f"there is no architecture file {arch}") from None
            raise
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CHARACTERS + 1)
    except OSError as error:
        raise ArchitectureError(f"cannot read the architecture file {arch}: {error.strerror or error}") from None
    if len(content) > MAX_CHARACTERS:
        raise ArchitectureError(f"{arch} is too large for an architecture file")
    return _from_value(_load(content, arch), arch)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that the file system does not take
        return False


def _load(content: bytes, name: str) -> Any:
    if pickles.is_pickle(content):
        try:
            value = pickles.loads(content, name)
        except CheckpointError as error:
            raise ArchitectureError(str(error)) from None
        return list(value) if isinstance(value, tuple) else value
    try:
        return yaml.safe_load(content.decode("utf-8-sig"))  # JSON is YAML
    except YAML_ERRORS:
        raise ArchitectureError(f"{name} is neither YAML nor JSON nor a pickled tuple") from None


def _from_value(value: Any, name: str) -> Architecture:
    if isinstance(value, dict):
        value = value.get("architecture")
    if isinstance(value, str):
        return parse(value)
    expected = f"{name} holds no architecture: expected architecture: [2, 1, 0, ...]"
    if not isinstance(value, list) or not value:
        raise ArchitectureError(f"{expected}, not {shown(value)}")
    for choice in value:
        if type(choice) is not int or not 0 <= choice <= MAX_CHOICE:
            raise ArchitectureError(f"{expected}; {shown(choice)} is no choice")
    return Architecture(tuple(value))


def shown(value: object) -> str:
    """A value from outside as an error message quotes it: short, and never an error of its own."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an int beyond Python's digit limit, nesting without end
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
