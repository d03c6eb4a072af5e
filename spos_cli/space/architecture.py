"""An architecture: one choice per layer, and its width where widths are searched. How it is written, read and named."""

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
from spos_cli.files.quoting import quote_value
from spos_cli.files.reading import YAML_ERRORS

MAX_CHARACTERS = 100_000  # of a literal or a file; far above any space
MAX_CHOICE = 999_999
WIDTH_UNIT = 1000  # a width of so many is 1.0
SUFFIXES = (".yaml", ".yml", ".json", ".pkl")
ALLOWED = "write one choice per layer, such as 2,1,0,3, or 2@0.8,1@1.4 with widths"

_ITEM = r"[0-9]{1,6}(?:@[0-9]{1,3}(?:\.[0-9]{1,3})?)?"
_LIST = re.compile(rf"{_ITEM}(?:(?:\s*,\s*|\s+){_ITEM})*,?")


class Option(NamedTuple):
    """What one layer is: an index into its choices, and the width of the choice, in thousandths; 0 where it has none.

    A width is what the middle channels of a block are multiplied with: 1400 is written `@1.4`.
    """

    choice: int
    width: int = 0

    def __str__(self) -> str:
        return f"{self.choice}@{format_width(self.width)}" if self.width else str(self.choice)


@dataclass(frozen=True, order=True)
class Architecture:
    """One choice (an index into the layer's choices) per layer, written `2,1,0`; with widths `2@1.4,1@0.8,0`.

    Attributes:
        choices: by layer.
        widths: by layer, in thousandths, 0 where there is none; empty if there is none at all.
    """

    choices: tuple[int, ...]
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not any(self.widths):
            object.__setattr__(self, "widths", ())
        assert len(self.widths) in (0, len(self.choices)), "a width for each layer"

    @staticmethod
    def of(options: Iterable[Option]) -> Architecture:
        """The architecture that has these options, by layer."""
        choices, widths = zip(*options, strict=True)
        return Architecture(choices, widths)

    @property
    def options(self) -> tuple[Option, ...]:
        """By layer."""
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
        """Plain types, for files: numbers, and texts such as `2@1.4` for layers with a width."""
        return [str(option) if option.width else option.choice for option in self.options]

    @staticmethod
    def from_list(values: Iterable[Any]) -> Architecture:
        """The inverse of `to_list`.

        Raises:
            ArchitectureError: it is none.
        """
        options = list(map(_option, values))
        if not options:
            raise ArchitectureError("an architecture has at least one layer")
        return Architecture.of(options)

    @property
    def id(self) -> str:
        """Ten hex digits that name the architecture's folder."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:10]


def format_width(width: int) -> str:
    """Thousandths as people write them: `1.4`, `1.0`, `0.125`."""
    return str(width / WIDTH_UNIT)


def _option(value: Any) -> Option:
    """One layer in a file."""
    if type(value) is int and 0 <= value <= MAX_CHOICE:
        return Option(value)
    if isinstance(value, str) and "@" in value and re.fullmatch(_ITEM, value):
        return _parsed(value)
    raise ArchitectureError(f"{quote_value(value)} is no choice")


def _parsed(item: str) -> Option:
    choice, at, written = item.partition("@")
    width = int(Decimal(written) * WIDTH_UNIT) if at else 0
    if at and not width:
        raise ArchitectureError(f"{item} has no width; {ALLOWED}")
    return Option(int(choice), width)


def parse(text: str) -> Architecture:
    """Reads `2,1,0`, `2 1 0`, `(2, 1, 0)` or `[2, 1, 0]`; with widths `2@1.4,1@0.8,0`.

    Raises:
        ArchitectureError: it is none of these, or a choice has more than six digits.
    """
    inner = text.strip()
    for left, right in ("()", "[]"):
        if inner.startswith(left) and inner.endswith(right):
            inner = inner[1:-1].strip()
            break
    if len(inner) > MAX_CHARACTERS or not _LIST.fullmatch(inner):
        raise ArchitectureError(f"cannot read the architecture {quote_value(text)}; {ALLOWED}")
    return Architecture.of(map(_parsed, re.findall(_ITEM, inner)))


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
    expected = f"{name} holds no architecture: expected architecture: [2, 1, 0, ...] or [2@0.8, 1@1.4, ...]"
    if not isinstance(value, list) or not value:
        raise ArchitectureError(f"{expected}, not {quote_value(value)}")
    try:
        return Architecture.from_list(value)
    except ArchitectureError as error:
        raise ArchitectureError(f"{expected}; {error}") from None
