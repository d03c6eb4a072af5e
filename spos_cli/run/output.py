"""How results are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spos_cli.space.search_space import SearchSpace

WIDE = 160  # columns of a table that goes to a file


def screen() -> Console:
    """stdout, wide enough for an architecture where it is not a terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Rows under columns; whatever is in a cell is shown as it is, never read as markup."""
    result = Table()
    for column in columns:
        left = column.endswith(":")
        result.add_column(column.rstrip(":"), justify="left" if left else "right", overflow="fold")
    for row in rows:
        result.add_row(*(Text(str(cell)) for cell in row))
    return result


def in_columns(space: SearchSpace, cells: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Texts of each choice, by layer, in columns of which each is of one choice: their titles, and the rows."""
    columns = list(dict.fromkeys(choice for layer in space.layers for choice in layer.choices))
    names = Counter(choice.name for choice in columns)
    titles = [choice.name if names[choice.name] == 1 else str(choice) for choice in columns]
    by_choice = [dict(zip(layer.choices, texts, strict=True)) for layer, texts in zip(space.layers, cells, strict=True)]
    return titles, [[of_layer.get(choice, "") for choice in columns] for of_layer in by_choice]


def in_bytes(size: int) -> str:
    """`1.2 GB`, `35 MB`."""
    return (
        f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
    )
