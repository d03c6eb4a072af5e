"""An architecture: how it is written, read and named."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from spos_cli.errors import ArchitectureError, CheckpointError
from spos_cli.files import pickles
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.quoting import quote_value
from spos_cli.files.reading import YAML_ERRORS

MAX_CHARACTERS = 100_000  # of a literal or a file; far more than any space needs
MAX_PATH_CHARACTERS = 4096
MAX_CHOICE = 999_999
WIDTH_UNIT = 1000  # Widths are whole thousandths: 1400 is a multiplier of 1.4.
SUFFIXES = (".yaml", ".yml", ".json", ".pkl")
SYNTAX_HINT = "write one choice per layer, such as 2,1,0,3, or 2@0.8,1@1.4 with widths"

_OPTION = r"[0-9]{1,6}(?:@[0-9]{1,3}(?:\.[0-9]{1,3})?)?"
_OPTIONS = re.compile(rf"{_OPTION}(?:(?:\s*,\s*|\s+){_OPTION})*,?")


class Option(NamedTuple):
    """One layer of an architecture: a choice and its width.

    Attributes:
        choice: index into the layer's choices.
        width: multiplier of the hidden channels, in thousandths: 1400 is written `@1.4`. 0 if the choice has no width.
    """

    choice: int
    width: int = 0

    def __str__(self) -> str:
        return f"{self.choice}@{format_width(self.width)}" if self.width else str(self.choice)


@dataclass(frozen=True, order=True)
class Architecture:
    """One choice per layer, written `2,1,0`; with widths `2@1.4,1@0.8,0`.

    Attributes:
        choices: by layer, the index of its choice.
        widths: by layer, in thousandths, 0 where the choice has no width; empty if no layer has one.
    """

    choices: tuple[int, ...]
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not any(self.widths):
            object.__setattr__(self, "widths", ())
        assert len(self.widths) in (0, len(self.choices)), "a width for each layer"

    @staticmethod
    def from_options(options: Iterable[Option]) -> Architecture:
        """Return the architecture with these options, one per layer."""
        choices, widths = zip(*options, strict=True)
        return Architecture(choices, widths)

    @property
    def options(self) -> tuple[Option, ...]:
        """Choice and width of each layer."""
        return tuple(map(Option, self.choices, self.widths or (0,) * len(self.choices)))

    def __str__(self) -> str:
        return ",".join(map(str, self.options))

    def __len__(self) -> int:
        return len(self.choices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.choices)

    def __getitem__(self, layer: int) -> int:
        return self.choices[layer]

    def to_list(self) -> list[int | str]:
        """Return plain types, for files: numbers, and texts such as `2@1.4` for layers with a width."""
        return [str(option) if option.width else option.choice for option in self.options]

    @staticmethod
    def from_list(values: Iterable[Any]) -> Architecture:
        """Read what `to_list` returns.

        Raises:
            ArchitectureError: the values are not an architecture.
        """
        options = list(map(_read_option, values))
        if not options:
            raise ArchitectureError("an architecture has at least one layer")
        return Architecture.from_options(options)

    @property
    def id(self) -> str:
        """Ten hex digits that name the architecture's folder."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:10]


def format_width(width: int) -> str:
    """Write thousandths as people do: `1.4`, `1.0`, `0.125`."""
    return str(width / WIDTH_UNIT)


def parse(text: str) -> Architecture:
    """Read `2,1,0`, `2 1 0`, `(2, 1, 0)` or `[2, 1, 0]`; with widths `2@1.4,1@0.8,0`.

    Raises:
        ArchitectureError: the text is none of these, or a choice has more than six digits.
    """
    inner = text.strip()
    for left, right in ("()", "[]"):
        if inner.startswith(left) and inner.endswith(right):
            inner = inner[1:-1].strip()
            break
    if len(inner) > MAX_CHARACTERS or not _OPTIONS.fullmatch(inner):
        raise ArchitectureError(f"cannot read the architecture {quote_value(text)}; {SYNTAX_HINT}")
    return Architecture.from_options(map(_parse_option, re.findall(_OPTION, inner)))


def _parse_option(text: str) -> Option:
    """Read `2` or `2@1.4`."""
    choice, at, written = text.partition("@")
    width = int(Decimal(written) * WIDTH_UNIT) if at else 0
    if at and not width:
        raise ArchitectureError(f"{text} has a width of 0; {SYNTAX_HINT}")
    return Option(int(choice), width)


def _read_option(value: Any) -> Option:
    """Read one layer of a file: a number, or a text with a width."""
    if type(value) is int and 0 <= value <= MAX_CHOICE:
        return Option(value)
    if isinstance(value, str) and "@" in value and re.fullmatch(_OPTION, value):
        return _parse_option(value)
    raise ArchitectureError(f"{quote_value(value)} is not a choice")


def read(arch: str) -> Architecture:
    """Read an ARCH of the command line: a literal, or a file of YAML, JSON or pickle.

    A file has a list of choices, or a mapping with a list or a literal under `architecture`, or is the official code's
    `arch.pkl`, a pickled tuple. Its content tells which, not its name.

    Raises:
        ArchitectureError: there is no such file, or there is no architecture in it.
    """
    try:
        return parse(arch)
    except ArchitectureError:
        path = Path(arch) if len(arch) < MAX_PATH_CHARACTERS and "\0" not in arch else None
        if path is None or not _exists(path):
            if path is not None and (path.suffix.lower() in SUFFIXES or "/" in arch or "\\" in arch):
                raise ArchitectureError(f"there is no architecture file {arch}") from None
            raise
    with os_errors_as(ArchitectureError, f"cannot read the architecture file {arch}"), path.open("rb") as file:
        content = file.read(MAX_CHARACTERS + 1)
    if len(content) > MAX_CHARACTERS:
        raise ArchitectureError(f"{arch} is too large for an architecture file")
    return _from_value(_load(content, arch), arch)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # The file system does not allow such a name.
        return False


def _load(content: bytes, name: str) -> Any:
    """Return the value that a pickle, YAML or JSON file holds."""
    if pickles.is_pickle(content):
        try:
            value = pickles.loads(content, name)
        except CheckpointError as error:
            raise ArchitectureError(str(error)) from None
        return list(value) if isinstance(value, tuple) else value
    try:
        return yaml.safe_load(content.decode("utf-8-sig"))  # JSON is YAML.
    except YAML_ERRORS:
        raise ArchitectureError(f"{name} is not YAML, JSON or a pickled tuple") from None


def _from_value(value: Any, name: str) -> Architecture:
    """Return the architecture in a file's value; `name` is the file, for messages."""
    if isinstance(value, dict):
        value = value.get("architecture")
    if isinstance(value, str):
        return parse(value)
    expected = f"{name} has no architecture: expected architecture: [2, 1, 0, ...] or [2@0.8, 1@1.4, ...]"
    if not isinstance(value, list) or not value:
        raise ArchitectureError(f"{expected}, not {quote_value(value)}")
    try:
        return Architecture.from_list(value)
    except ArchitectureError as error:
        raise ArchitectureError(f"{expected}; {error}") from None
