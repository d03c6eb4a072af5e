"""One command of an experiment without torch: where a run keeps what, and how results are shown."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spos_cli import config
from spos_cli.config import Config
from spos_cli.errors import ConfigError
from spos_cli.space.architecture import YAML_ERRORS

INPUTS = "inputs.json"  # which files a search was begun with, for the command that goes on with it
EXPORT = {"accuracy": "export-arch", "pareto": "export-arch --pareto"}  # what follows a search, by its objective
MOST_BYTES = 2**23  # of a file that is read as a whole; ours are far smaller
WIDE = 160  # columns of a table that goes to a file


@dataclass(frozen=True)
class Command:
    """One command of an experiment.

    Attributes:
        config: the resolved settings.
        flags: the command-line options that led to them, for the next command to type.
        as_json: print the result as JSON, for scripts.
    """

    config: Config
    flags: str = ""
    as_json: bool = False

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.folder

    @property
    def supernet_folder(self) -> Path:
        """Checkpoints and metrics of the supernet."""
        return self.folder / "supernet"

    @property
    def search_folder(self) -> Path:
        """Journal and result of the search."""
        return self.folder / "search"

    @property
    def archs_folder(self) -> Path:
        """Exported architectures, one folder each."""
        return self.folder / "archs"

    @property
    def retrain_folder(self) -> Path:
        """Retrained architectures, one folder each."""
        return self.folder / "retrain"

    @property
    def audit_folder(self) -> Path:
        """What is known of the trustworthiness of the search."""
        return self.folder / "audit"

    def lock_of(self, stage: Path) -> Path:
        """The file that a stage's process holds while it works."""
        return self.folder / f".{self.name_of(stage)}.lock"

    def name_of(self, stage: Path) -> str:
        """`retrain/<id>` as `retrain-<id>`."""
        return "-".join(stage.relative_to(self.folder).parts)

    def say(self, text: str, style: str = "") -> None:
        """A line on stdout, unless that is for JSON."""
        if not self.as_json:
            screen().print(Text(text, style), soft_wrap=True)

    def show(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table on stdout, unless that is for JSON; columns whose title ends in a colon are aligned left."""
        self.say(f"\n{title}", "bold")
        if not self.as_json:
            screen().print(table(columns, rows))

    def command(self, command: str) -> str:
        """A command of `spos` with the options that lead to these settings, as it is to be typed."""
        return f"spos {command} {self.flags}".rstrip()

    def next(self, command: str) -> None:
        """Says what to type next."""
        self.say(f"next: {self.command(command)}", "bold")

    def result(self, value: Any) -> None:
        """Prints the result for scripts, if asked for."""
        if self.as_json:
            print(json.dumps(value))


def quote_path(path: Path | str) -> str:
    """A path as an argument to type in a shell; it may have blanks and quotes, or begin like an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def settings_of(folder: Path) -> Config | None:
    """What a stage was begun with; None if that is missing, or cannot be read."""
    path = folder / "config.yaml"
    try:
        return config.load(path) if path.is_file() else None
    except ConfigError:
        return None


def root_from_here(recorded: Path, folder: Path) -> list[str]:
    """What to lay over the settings in a run folder so that they find the same images from this working folder.

    A `data.root` that is not absolute counts from where the run was begun: the folder that `run_dir` is below of.
    Nothing is laid over if that is here, or if it cannot be told, as where the run folder has been moved.

    Args:
        recorded: a file of settings in it.
        folder: the run folder.
    """
    settings = settings_of(recorded.parent)
    if settings is None or settings.data.source == "digits":
        return []
    named, root, whole = settings.folder, Path(settings.data.root), folder.resolve()
    if named.is_absolute() or root.is_absolute() or whole.parts[-len(named.parts) :] != named.parts:
        return []
    begun = Path(*whole.parts[: -len(named.parts)])
    return [] if begun == Path.cwd() else [config.as_override("data.root", begun / root)]


def read_json(path: Path) -> dict[str, Any]:
    """A mapping in a JSON file; empty if there is none that is whole."""
    return _mapping(path, json.loads)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping in a YAML file; empty if there is none that is whole."""
    return _mapping(path, yaml.safe_load)


def _mapping(path: Path, parse: Callable[[bytes], Any]) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        content = parse(text) if len(text) <= MOST_BYTES else None
    except (OSError, *YAML_ERRORS):
        return {}
    return content if isinstance(content, dict) else {}


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
