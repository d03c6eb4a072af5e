"""An architecture: how it is written, read and named."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
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
SYNTAX_HINT = "write one choice per layer, such as 2,1,0,3 (2@0.8: a width, 2:w2a4: bits, 2x0.5: an output width)"

_MULTIPLIER = r"[0-9]{1,3}(?:\.[0-9]{1,3})?"
_OPTION = rf"[0-9]{{1,6}}(?:@{_MULTIPLIER})?(?:x{_MULTIPLIER})?(?::{WRITTEN_BITS})?"
_SIZE = r"([0-9]{1,5})px"
_SEPARATOR = r"(?:\s*,\s*|\s+)"
_OPTIONS = re.compile(rf"(?:{_SIZE}{_SEPARATOR})?({_OPTION}(?:{_SEPARATOR}{_OPTION})*),?")


class Option(NamedTuple):
    """One layer of an architecture: a choice and its width, its bits, and what begins with this layer.

    Attributes:
        choice: index into the layer's choices.
        width: multiplier of the hidden channels, in thousandths: 1400 is written `@1.4`. 0 if the choice has no width.
        bits: of weights and activations, see `space.bits`: 24 is written `:w2a4`. 0 if the choice has no bits.
        output: multiplier of the output channels of the network stage that begins here, in thousandths: 750 is written
            `x0.75`. 0 in other layers, and in spaces without output widths.
        size: side of the images, in pixels, for the first layer. An architecture writes it before its layers. 0 in
            other layers, and in spaces with one image size.
    """

    choice: int
    width: int = 0
    bits: int = 0
    output: int = 0
    size: int = 0

    def __str__(self) -> str:
        width = f"@{format_width(self.width)}" if self.width else ""
        output = f"x{format_width(self.output)}" if self.output else ""
        return f"{self.choice}{width}{output}{f':{format_bits(self.bits)}' if self.bits else ''}"


@dataclass(frozen=True, order=True)
class Architecture:
    """One choice per layer, written `2,1,0`; with widths `2@1.4,1@0.8,0`; with bits `2:w2a4,1@0.8:w4a4,0`.

    With output widths it is written `2x0.75,1,0x0.5,1`, and with an image size `160px,2,1,0`.

    Attributes:
        choices: by layer, the index of its choice.
        widths: by layer, in thousandths, 0 where the choice has no width; empty if no layer has one.
        bits: by layer, as in `space.bits`, 0 where the choice has no bits; empty if no layer has some.
        outputs: by layer, in thousandths, 0 where no network stage begins; empty without output widths.
        sizes: by layer, the side of the images in pixels for the first one and 0 for the others; empty without sizes.
    """

    choices: tuple[int, ...]
    widths: tuple[int, ...] = ()
    bits: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("widths", "bits", "outputs", "sizes"):
            values = getattr(self, name)
            if not any(values):
                object.__setattr__(self, name, ())
            assert len(values) in (0, len(self.choices)), f"{name} for each layer"

    @staticmethod
    def from_options(options: Iterable[Option]) -> Architecture:
        """Return the architecture with these options, one per layer."""
        return Architecture(*zip(*options, strict=True))

    @property
    def options(self) -> tuple[Option, ...]:
        """The option of each layer."""
        return tuple(map(Option, *self.columns))

    @property
    def columns(self) -> tuple[tuple[int, ...], ...]:
        """The fields of all options: choices, widths, bits, outputs and sizes, one of each for each layer."""
        none = (0,) * len(self.choices)
        return self.choices, self.widths or none, self.bits or none, self.outputs or none, self.sizes or none

    @property
    def image_size(self) -> int:
        """The side of the images, in pixels; 0 in a space with one image size."""
        return self.sizes[0] if self.sizes else 0

    def with_image_size(self, size: int) -> Architecture:
        """Return this architecture with another image size, in pixels; with 0, without one."""
        return replace(self, sizes=(size, *(0,) * (len(self) - 1)))

    def __str__(self) -> str:
        size = f"{self.image_size}px," if self.image_size else ""
        return size + ",".join(map(str, self.options))

    def __len__(self) -> int:
        return len(self.choices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.choices)

    def __getitem__(self, layer: int) -> int:
        return self.choices[layer]

    def to_list(self) -> list[int | str]:
        """Return plain types, for files: numbers, and texts such as `2@1.4:w2a4` for layers with more than a choice.

        An image size comes first, such as `160px`.
        """
        layers = [str(option) if any(option[1:4]) else option.choice for option in self.options]
        return [f"{self.image_size}px", *layers] if self.image_size else layers

    @staticmethod
    def from_list(values: Iterable[Any]) -> Architecture:
        """Read what `to_list` returns.

        Raises:
            ArchitectureError: the values are not an architecture.
        """
        layers = list(values)
        size = re.fullmatch(_SIZE, layers[0]) if layers and isinstance(layers[0], str) else None
        options = list(map(_read_option, layers[1:] if size else layers))
        if not options:
            raise ArchitectureError("an architecture has at least one layer")
        return _set_size(options, int(size[1]) if size else 0)

    @property
    def id(self) -> str:
        """Ten hex digits that name the architecture's folder."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:10]


def format_width(width: int) -> str:
    """Write thousandths as people do: `1.4`, `1.0`, `0.125`."""
    return str(width / WIDTH_UNIT)


def parse(text: str) -> Architecture:
    """Read `2,1,0`, `2 1 0`, `(2, 1, 0)` or `[2, 1, 0]`, and what else an architecture may have, see `Architecture`.

    Raises:
        ArchitectureError: the text is none of these, or a choice has more than six digits.
    """
    inner = text.strip()
    for left, right in ("()", "[]"):
        if inner.startswith(left) and inner.endswith(right):
            inner = inner[1:-1].strip()
            break
    match = _OPTIONS.fullmatch(inner) if len(inner) <= MAX_CHARACTERS else None
    if not match:
        raise ArchitectureError(f"cannot read the architecture {quote_value(text)}; {SYNTAX_HINT}")
    size, layers = match.groups()
    if size is not None and not int(size):
        raise ArchitectureError(f"{text} has an image size of 0; {SYNTAX_HINT}")
    return _set_size(map(_parse_option, re.findall(_OPTION, layers)), int(size or 0))


def _set_size(options: Iterable[Option], size: int) -> Architecture:
    """Return the architecture with these options, and this image size; 0 for none."""
    first, *others = options
    return Architecture.from_options([first._replace(size=size), *others])


def _parse_option(text: str) -> Option:
    """Read `2`, `2@1.4`, `2:w2a4`, `2x0.75`, or all together: `2@1.4x0.75:w2a4`."""
    rest, colon, bits = text.partition(":")
    rest, times, output = rest.partition("x")
    choice, at, width = rest.partition("@")
    for sign, multiplier in ((at, width), (times, output)):
        if sign and not Decimal(multiplier):
            raise ArchitectureError(f"{text} has a width of 0; {SYNTAX_HINT}")
    thousandths = [int(Decimal(multiplier or 0) * WIDTH_UNIT) for multiplier in (width, output)]
    return Option(int(choice), thousandths[0], parse_bits(bits) if colon else 0, thousandths[1])


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
