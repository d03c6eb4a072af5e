"""Read stand-alone accuracies of many architectures: a public table, or the user's own."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from spos_cli.errors import ArchitectureError, RunError
from spos_cli.files.digests import file_digest
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.quoting import quote_value
from spos_cli.files.reading import JSON_ERRORS
from spos_cli.space.architecture import Architecture, parse
from spos_cli.space.search_space import SearchSpace

MAX_BYTES = 256 * 2**20
SEED_COLUMN = re.compile(r"accuracy(_\d+)?")
ACCURACY_KEYS = ("test_acc", "acc", "accuracy", "mean_acc", "mean")  # of a JSON row; the first that is there counts
EXPECTED = (
    'expected a JSON object such as {"2,1,0": {"test_acc": [93.1, 92.9], "flops": 1000000}, ...}, or CSV with the'
    " columns architecture and accuracy"
)


class Row(NamedTuple):
    """One row of the file: an architecture, its accuracies (one for each seed) and, where given, its FLOPs."""

    where: str
    name: str
    accuracies: Sequence[Any]
    flops: Any


@dataclass(frozen=True)
class Network:
    """A network of the truth, under all of its names.

    Attributes:
        names: the architectures that are this network, in order; the first one stands for it.
        accuracies: stand-alone top-1 of each training, as shares.
    """

    names: tuple[Architecture, ...]
    accuracies: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """Mean top-1 of all trainings."""
        return math.fsum(self.accuracies) / len(self.accuracies)


@dataclass(frozen=True)
class Truth:
    """Stand-alone accuracies of networks.

    Attributes:
        path: of the file.
        digest: of the file.
        networks: each network once, in the order of their first names.
        flops: of each architecture for which the file gives them.
    """

    path: Path
    digest: str
    networks: tuple[Network, ...]
    flops: Mapping[Architecture, int]


def read_truth(path: Path, space: SearchSpace) -> Truth:
    """Read a truth: the JSON file of NAS-Bench-Macro, or CSV with the columns `architecture` and `accuracy`.

    In JSON, an architecture is a key such as `2,1,0` or `210`, and its value an object with accuracies under one of
    `ACCURACY_KEYS`, as a number or as a list with one number for each seed. In CSV, the column `accuracy`, or each of
    `accuracy_1`, `accuracy_2`, ..., is a seed, and further rows of an architecture are further seeds. A column or key
    `flops` is optional. Accuracies are shares, or percentages if they are above 1.

    Architectures that are the same network are one network. Where several have the same accuracies, these are of the
    same trainings, and count once.

    Raises:
        RunError: the file cannot be read, a row is not of this space, an accuracy is not a number from 0 to 100, or
            some accuracies are shares and some are percentages.
    """
    with os_errors_as(RunError, f"cannot read {path}"), path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise RunError(f"{path} is larger than {MAX_BYTES >> 20} MiB; {EXPECTED}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RunError(f"{path} is not text; {EXPECTED}") from None
    rows = _read_json(path, text) if text.lstrip().startswith(("{", "[")) else _read_csv(path, text)
    trainings: dict[Architecture, list[float]] = {}
    flops: dict[Architecture, int] = {}
    for row in rows:
        arch = _read_architecture(row, space)
        trainings.setdefault(arch, []).extend(_read_accuracy(row, value) for value in row.accuracies)
        if row.flops not in (None, ""):
            flops[arch] = _read_flops(row)
    if not trainings:
        raise RunError(f"{path} has no architecture; {EXPECTED}")
    values = [value for accuracies in trainings.values() for value in accuracies]
    lowest = min(filter(None, values), default=0)
    if 0 < lowest <= 1 < max(values):
        raise RunError(
            f"{path} has accuracies up to 1, such as {lowest:g}, and above it, such as {max(values):g}; write all as"
            " shares from 0 to 1"
        )
    return Truth(path, file_digest(path), _merge_names(trainings, space), flops)


def _merge_names(trainings: Mapping[Architecture, Sequence[float]], space: SearchSpace) -> tuple[Network, ...]:
    """Return each network once, with accuracies as shares."""
    scale = 100 if any(value > 1 for values in trainings.values() for value in values) else 1
    names: dict[Any, list[Architecture]] = {}
    for arch in sorted(trainings):
        names.setdefault(space.network_key(arch), []).append(arch)
    networks = []
    for archs in names.values():
        distinct = dict.fromkeys(tuple(trainings[arch]) for arch in archs)
        accuracies = tuple(value / scale for values in distinct for value in values)
        networks.append(Network(tuple(archs), accuracies))
    return tuple(networks)


def _read_json(path: Path, text: str) -> Iterator[Row]:
    """Yield the rows of a JSON object that has a key for each architecture."""
    try:
        content = json.loads(text)
    except JSON_ERRORS as error:
        raise RunError(f"{path} is not JSON ({error}); {EXPECTED}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} is a {type(content).__name__}; {EXPECTED}")
    for name, value in content.items():
        where = f"{path}: {quote_value(name)}"
        fields = value if isinstance(value, dict) else {"accuracy": value}
        accuracies = next((fields[key] for key in ACCURACY_KEYS if key in fields), None)
        if accuracies is None or accuracies == []:
            raise RunError(f"{where} has no accuracy; name it one of {', '.join(ACCURACY_KEYS)}")
        yield Row(where, name, accuracies if isinstance(accuracies, list) else [accuracies], fields.get("flops"))


def _read_csv(path: Path, text: str) -> Iterator[Row]:
    """Yield the rows of a CSV file with a header."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = [name.strip().lower() for name in reader.fieldnames or ()]
        seeds = [name for name in columns if SEED_COLUMN.fullmatch(name)]
        if "architecture" not in columns or not seeds:
            raise RunError(f"{path} has the columns {quote_value(', '.join(columns))}; {EXPECTED}")
        if len(set(columns)) < len(columns):
            raise RunError(f"{path} has a column twice: {', '.join(columns)}; name seeds accuracy_1, accuracy_2, ...")
        reader.fieldnames = columns
        for fields in reader:
            if None in fields:
                raise RunError(f"{path}:{reader.line_num} has more fields than the header has columns")
            accuracies = [fields[name] for name in seeds if fields[name] not in (None, "")]
            name = fields["architecture"] or ""
            yield Row(f"{path}:{reader.line_num}", name, accuracies, fields.get("flops"))
    except csv.Error as error:
        raise RunError(f"{path}:{reader.line_num} is not CSV ({error}); {EXPECTED}") from None


def _read_architecture(row: Row, space: SearchSpace) -> Architecture:
    """Return the architecture of a row; a name of digits only has one digit for each layer."""
    name = row.name.strip()
    try:
        digits = name.isascii() and name.isdigit() and len(name) == space.num_layers
        arch = Architecture(tuple(map(int, name))) if digits else parse(name)
        space.validate(arch)
    except ArchitectureError as error:
        raise RunError(f"{row.where}: {error}; the truth must be of the space in the config") from None
    if not row.accuracies:
        raise RunError(f"{row.where} has no accuracy")
    return arch


def _read_accuracy(row: Row, value: Any) -> float:
    number = _read_number(value)
    if number is None or not 0 <= number <= 100:
        raise RunError(f"{row.where}: accuracy {quote_value(value)} is not a number from 0 to 100")
    return number


def _read_flops(row: Row) -> int:
    number = _read_number(row.flops)
    if number is None or number < 0:
        raise RunError(f"{row.where}: flops {quote_value(row.flops)} is not a number")
    return round(number)


def _read_number(value: Any) -> float | None:
    """Return a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
