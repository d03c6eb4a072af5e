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
from spos_cli.space.bits import WRITTEN_BITS, format_bits, parse_bits

MAX_CHARACTERS = 100_000  # of a literal or a file; far more than any space needs
MAX_PATH_CHARACTERS = 4096
MAX_CHOICE = 999_999
WIDTH_UNIT = 1000  # Widths are whole thousandths: 1400 is a multiplier of 1.4.
SUFFIXES = (".yaml", ".yml", ".json", ".pkl")
SYNTAX_HINT = "write one choice per layer, such as 2,1,0,3, or 2@0.8,1@1.4 with widths, or 0:w2a4,0:w4a4 with bits"

_OPTION = rf"[0-9]{{1,6}}(?:@[0-9]{{1,3}}(?:\.[0-9]{{1,3}})?)?(?::{WRITTEN_BITS})?"
_OPTIONS = re.compile(rf"{_OPTION}(?:(?:\s*,\s*|\s+){_OPTION})*,?")


class Option(NamedTuple):
    """One layer of an architecture: a choice, its width and its bits.

    Attributes:
        choice: index into the layer's choices.
        width: multiplier of the hidden channels, in thousandths: 1400 is written `@1.4`. 0 if the choice has no width.
        bits: of weights and activations, see `space.bits`: 24 is written `:w2a4`. 0 if the choice has no bits.
    """

    choice: int
    width: int = 0
    bits: int = 0

    def __str__(self) -> str:
        width = f"@{format_width(self.width)}" if self.width else ""
        return f"{self.choice}{width}{f':{format_bits(self.bits)}' if self.bits else ''}"


@dataclass(frozen=True, order=True)
class Architecture:
    """One choice per layer, written `2,1,0`; with widths `2@1.4,1@0.8,0`; with bits `2:w2a4,1@0.8:w4a4,0`.

    Attributes:
        choices: by layer, the index of its choice.
        widths: by layer, in thousandths, 0 where the choice has no width; empty if no layer has one.
        bits: by layer, as in `space.bits`, 0 where the choice has no bits; empty if no layer has some.
    """

    choices: tuple[int, ...]
    widths: tuple[int, ...] = ()
    bits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("widths", "bits"):
            values = getattr(self, name)
            if not any(values):
                object.__setattr__(self, name, ())
            assert len(values) in (0, len(self.choices)), f"{name} for each layer"

    @staticmethod
    def from_options(options: Iterable[Option]) -> Architecture:
        """Return the architecture with these options, one per layer."""
        choices, widths, bits = zip(*options, strict=True)
        return Architecture(choices, widths, bits)

    @property
    def options(self) -> tuple[Option, ...]:
        """Choice, width and bits of each layer."""
        return tuple(map(Option, *self.columns))

    @property
    def columns(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """All choices, widths and bits, one for each layer; 0 where a layer has no width, or no bits."""
        none = (0,) * len(self.choices)
        return self.choices, self.widths or none, self.bits or none

    def __str__(self) -> str:
        return ",".join(map(str, self.options))

    def __len__(self) -> int:
        return len(self.choices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.choices)

    def __getitem__(self, layer: int) -> int:
        return self.choices[layer]

    def to_list(self) -> list[int | str]:
        """Return plain types, for files: numbers, and texts such as `2@1.4:w2a4` for layers with a width or bits."""
        return [str(option) if option.width or option.bits else option.choice for option in self.options]

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
    """Read `2,1,0`, `2 1 0`, `(2, 1, 0)` or `[2, 1, 0]`; with widths `2@1.4,1@0.8,0`; with bits `2:w2a4,1:w4a4,0`.

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
    """Read `2`, `2@1.4`, `2:w2a4` or `2@1.4:w2a4`."""
    rest, colon, bits = text.partition(":")
    choice, at, written = rest.partition("@")
    width = int(Decimal(written) * WIDTH_UNIT) if at else 0
    if at and not width:
        raise ArchitectureError(f"{text} has a width of 0; {SYNTAX_HINT}")
    return Option(int(choice), width, parse_bits(bits) if colon else 0)


def _read_option(value: Any) -> Option:
    """Read one layer of a file: a number, or a text with a width or bits."""
    if type(value) is int and 0 <= value <= MAX_CHOICE:
        return Option(value)
    if isinstance(value, str) and not value.isdigit() and re.fullmatch(_OPTION, value):
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
