"""Rank the classes of images, and write them as a table, JSON lines or CSV."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.cells import cell_len
from torch import Tensor

from spos_cli.errors import ConfigError, make_printable
from spos_cli.files.writing import open_atomically

SUFFIXES = (".csv", ".jsonl")
CSV_COLUMNS = ("path", "rank", "index", "class", "probability")
DECIMALS = 6  # of a probability in a file
STRAY_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # The others stand for bytes of a path that are not text.
MAX_PATH_WIDTH, MAX_CLASS_WIDTH = 60, 40  # columns of the table; longer names move the rest of their line


class RankedClass(NamedTuple):
    """A class of an image: its index and its name, and its probability."""

    label: int
    name: str
    probability: float


class Form(NamedTuple):
    """How predictions are written.

    Attributes:
        header: the text before the first image.
        format: from the path of an image and its most likely classes, best first, to lines of text.
    """

    header: str
    format: Callable[[str, Sequence[RankedClass]], str]


def rank_classes(logits: Tensor, names: Sequence[str], top: int) -> list[list[RankedClass]]:
    """Return the `top` most likely classes of each image, best first; all classes if there are fewer.

    Of classes with the same logit, the first one comes first.

    Args:
        logits: `(B, classes)`, finite.
        names: of the classes; if they are not known, indices stand for them.
    """
    logits = logits.double()
    probabilities = logits.softmax(1)
    indices = logits.sort(stable=True, dim=1, descending=True).indices[:, :top]  # (B, top)
    return [
        [
            RankedClass(index, names[index] if names else str(index), probability)
            for index, probability in zip(row, shares, strict=True)
        ]
        for row, shares in zip(indices.tolist(), probabilities.gather(1, indices).tolist(), strict=True)
    ]


def require_known_form(output: Path) -> None:
    """Raise ConfigError if the suffix of a file does not tell its form, or it is a folder."""
    if output.suffix not in SUFFIXES:
        raise ConfigError(f"--output {output} is neither a .csv nor a .jsonl file; name one of them")
    if output.is_dir():
        raise ConfigError(f"--output {output} is a folder; name a file")


def choose_form(output: Path | None, as_json: bool, paths: Sequence[str], names: Sequence[str]) -> Form:
    """Return the form of a file, by its suffix, or of the screen.

    Args:
        output: the file, see `require_known_form`; None for the screen.
        as_json: JSON lines on the screen, instead of a table.
        paths: of all images.
        names: of all classes; empty if they are not known.
    """
    if output is None:
        return Form("", format_json) if as_json else make_table_form(paths, names)
    return Form("", format_json) if output.suffix == ".jsonl" else Form(format_csv_rows([CSV_COLUMNS]), format_csv)


def format_json(path: str, ranked: Sequence[RankedClass]) -> str:
    """Return an image as one line of JSON, in ASCII: a byte of its path that is not text is written as `\\udcXX`."""
    top = [{"index": one.label, "class": one.name, "probability": round(one.probability, DECIMALS)} for one in ranked]
    return json.dumps({"path": path, "top": top}) + "\n"


def format_csv(path: str, ranked: Sequence[RankedClass]) -> str:
    """Return an image as rows of CSV, one for each class."""
    return format_csv_rows(
        (path, rank, one.label, one.name, round(one.probability, DECIMALS)) for rank, one in enumerate(ranked, 1)
    )


def format_csv_rows(rows: Iterable[Sequence[object]]) -> str:
    """Return rows of CSV. All texts are quoted, since names may have any letters in them."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    return buffer.getvalue()


def make_table_form(paths: Sequence[str], names: Sequence[str]) -> Form:
    """Return the form of a table, whose columns are as wide as the longest names."""
    path_width = _measure(("image", *paths), MAX_PATH_WIDTH)
    class_width = _measure(("class", *names), MAX_CLASS_WIDTH)

    def format_line(path: str, name: str, probability: str) -> str:
        return f"{_pad(path, path_width)}  {_pad(name, class_width)}  {probability:>11}\n"

    def format_lines(path: str, ranked: Sequence[RankedClass]) -> str:
        labels = [path, *[""] * (len(ranked) - 1)]  # The path stands in the first line only.
        return "".join(
            format_line(label, one.name, f"{one.probability:.2%}") for label, one in zip(labels, ranked, strict=True)
        )

    return Form(format_line("image", "class", "probability"), format_lines)


def _measure(names: Sequence[str], most: int) -> int:
    """Return the columns of a terminal that the longest name takes, but at most `most`."""
    return min(most, max(cell_len(make_printable(name)) for name in names))


def _pad(name: str, width: int) -> str:
    """Return a name for a terminal, with blanks up to a width."""
    name = make_printable(name)
    return name + " " * (width - cell_len(name))


@contextlib.contextmanager
def open_output(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Yield a function that writes text to a file, or at once to stdout.

    The file appears as a whole, at the end of the context. A name in it keeps the bytes that it has on the disk.

    Raises:
        RunError: the file cannot be written.
    """
    if path is None:
        yield _print_now
        return
    with open_atomically(path) as file:

        def write(text: str) -> None:
            file.write(_encode(text))

        yield write


def _print_now(text: str) -> None:
    """Print text, with an escape for each letter that stdout cannot show."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="", flush=True)


def _encode(text: str) -> bytes:
    """Return the bytes of a text; those of a path are as on the disk, where they need not be text.

    The name of a class in a weights file may also have surrogates that stand for no byte. They are escaped.
    """
    text = STRAY_SURROGATE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    return text.encode("utf-8", "surrogateescape")
