"""Read the settings that a run folder has recorded. No torch."""

from __future__ import annotations

from pathlib import Path

from spos_cli.config import loading
from spos_cli.config.schema import Config
from spos_cli.errors import ConfigError
from spos_cli.files.quoting import as_override


def read_recorded_config(folder: Path) -> Config | None:
    """Return the settings in the `config.yaml` of a folder; None if the file is missing or cannot be read.

    Args:
        folder: a run folder, or the folder of one of its stages.
    """
    path = folder / "config.yaml"
    try:
        return loading.load(path) if path.is_file() else None
    except ConfigError:
        return None


def make_root_override(recorded: Path, folder: Path) -> list[str]:
    """Return the override of `data.root` with which recorded settings find their images from this working folder.

    A relative `data.root` counts from the folder where the run was begun, as `run_dir` does. If that is the working
    folder, there is nothing to override. If the run folder was moved since, the folder is unknown.

    Args:
        recorded: a `config.yaml` in the run folder.
        folder: the run folder.

    Returns:
        One override for `--set`, or none.
    """
    settings = read_recorded_config(recorded.parent)
    if settings is None or settings.data.source == "digits" or settings.data.is_on_hub:
        return []
    run_dir, root, absolute = settings.folder, Path(settings.data.root), folder.resolve()
    if run_dir.is_absolute() or root.is_absolute() or absolute.parts[-len(run_dir.parts) :] != run_dir.parts:
        return []
    begun_in = Path(*absolute.parts[: -len(run_dir.parts)])
    return [] if begun_in == Path.cwd() else [as_override("data.root", begun_in / root)]
