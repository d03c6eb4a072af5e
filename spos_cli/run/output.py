"""Print results: lines and tables for people, JSON for scripts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spos_cli.files import streams
from spos_cli.space.search_space import SearchSpace

FILE_COLUMNS = 160  # characters per line where stdout is not a terminal, enough for an architecture
EXPORT_COMMANDS = {"accuracy": "export-arch", "pareto": "export-arch --pareto"}  # what follows a search, by objective


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a command prints on stdout.

    Attributes:
        flags: the CLI options that led to the settings, for the next command to type.
        as_json: print the result as JSON, and nothing else.
    """

    flags: str = ""
    as_json: bool = False

    def say(self, text: str, style: str = "") -> None:
        """Print a line, unless stdout is for JSON."""
        if not self.as_json:
            make_console().print(Text(text, style), soft_wrap=True)

    def show(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table, unless stdout is for JSON. `columns` as in `make_table`."""
        self.say(f"\n{title}", "bold")
        if not self.as_json:
            make_console().print(make_table(columns, rows))

    def result(self, value: Any) -> None:
        """Print the result as JSON, if stdout is for JSON.

        Raises:
            RunError: stdout cannot be written. What the command has saved is complete.
        """
        if self.as_json:
            with streams.require_stdout():
                print(json.dumps(value))

    def command(self, command: str) -> str:
        """Return a command line of `spos` with the options that lead to these settings."""
        return f"spos {command} {self.flags}".rstrip()

    def next(self, command: str) -> None:
        """Print the command line to type next."""
        self.say(f"next: {self.command(command)}", "bold")


def make_console() -> Console:
    """Return a console on stdout; where that is not a terminal, it is wide enough for an architecture."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=FILE_COLUMNS)


def make_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table of plain text; nothing in a cell is read as markup.

    Args:
        columns: titles. A column is aligned left if its title ends in a colon, else right.
    """
    table = Table()
    for column in columns:
        left = column.endswith(":")
        table.add_column(column.rstrip(":"), justify="left" if left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table


def arrange_by_choice(space: SearchSpace, cells: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Arrange texts in one column per choice of the space, although layers may have different choices.

    Args:
        cells: for each layer, a text for each of its choices.

    Returns:
        The titles of the columns, and a row for each layer; a cell is empty where the layer does not have the choice.
    """
    columns = list(dict.fromkeys(choice for layer in space.layers for choice in layer.choices))
    names = Counter(choice.name for choice in columns)
    titles = [choice.name if names[choice.name] == 1 else str(choice) for choice in columns]
    by_choice = [dict(zip(layer.choices, texts, strict=True)) for layer, texts in zip(space.layers, cells, strict=True)]
    return titles, [[texts.get(choice, "") for choice in columns] for texts in by_choice]


def format_bytes(size: int) -> str:
    """Return a size in words: `1.2 GB`, `35 MB`, `0.5 MB`."""
    if size >= 1e9:
        return f"{size / 1e9:,.1f} GB"
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
