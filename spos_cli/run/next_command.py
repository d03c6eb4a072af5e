"""Which command comes next in a run, with the options that lead to its settings."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from spos_cli.config.identity import portable_settings
from spos_cli.config.schema import Config
from spos_cli.files.quoting import quote_path
from spos_cli.files.reading import read_json
from spos_cli.run.command import Run
from spos_cli.run.output import EXPORT_COMMANDS
from spos_cli.run.progress import StageProgress
from spos_cli.run.recorded_config import make_root_override, read_recorded_config
from spos_cli.search.journal import Journal

STAGES_IN_ORDER = ("supernet", "search", "export-arch", "retrain")  # Each needs the one before it.


def find_current(stages: Sequence[StageProgress]) -> StageProgress:
    """Return the stage that the next command is about: the running one, else the last one that has begun.

    A stopped stage comes before later stages with older files, because it was started over after them.
    """
    in_order = [stage for stage in stages if stage.name.split()[0] in STAGES_IN_ORDER]
    if running := [stage for stage in in_order if stage.state == "running"]:
        return running[-1]
    # No stage needs the audit, so it is the current stage only if nothing has changed since it was stopped.
    for stage in stages:
        is_newest = all((stage.changed or 0.0) >= (other.changed or 0.0) for other in stages)
        if stage.name == "audit" and stage.state == "stopped" and is_newest:
            return stage
    current = in_order[0]
    for stage in in_order:
        is_older = (stage.changed or 0.0) < (current.changed or 0.0)
        both_retrain = stage.name.split()[0] == current.name.split()[0]
        if stage.is_begun and not (is_older and (current.is_unfinished or both_retrain)):
            current = stage
    return current


def make_next_command(run: Run, current: StageProgress) -> str:
    """Return the command that resumes the current stage, or the command that follows it."""
    kind, _, ident = current.name.partition(" ")
    options = _settings_options(run, current.folder)
    if current.state in ("stopped", "not begun"):
        weights, candidates = _search_inputs(run)
        commands = {
            "supernet": "supernet-train ",
            "search": f"search {weights}{candidates}",
            "audit": f"audit {weights}",
            "retrain": f"retrain {_name_architecture(run, ident)} " if ident else "",
        }
        return f"spos {commands[kind]}{options}".rstrip()
    arch = quote_path(run.folder.arch(str(current.best.get("id"))))
    following = {
        "supernet": "search",
        "search": EXPORT_COMMANDS[(read_recorded_config(current.folder) or run.config).search.objective],
        "export-arch": f"retrain {arch}",
        "retrain": f"evaluate --weights {quote_path(run.folder.retrain(ident).model)}",
    }
    return f"spos {following[kind]} {options}".rstrip()


def _search_inputs(run: Run) -> tuple[str, str]:
    """Return the options for the supernet and the candidates with which the search was begun, if it needs any."""
    inputs, own_supernet = read_json(run.folder.search.inputs), run.folder.supernet.last
    weights, candidates = inputs.get("weights"), inputs.get("from")
    if isinstance(weights, str) and Path(weights) != own_supernet.resolve():
        weights_option = f"--weights {quote_path(Path(weights))} "
    else:
        weights_option = "" if own_supernet.is_file() else "--weights FILE "
    return weights_option, f"--from {quote_path(Path(candidates))} " if isinstance(candidates, str) else ""


def _name_architecture(run: Run, ident: str) -> str:
    """Return an architecture as an argument: its file, else its choices from the journal, else `ARCH`."""
    path = run.folder.arch(ident)
    if path.is_file():
        return quote_path(path)
    entries, _ = Journal(run.folder.search.journal).read_valid()
    return next((str(entry.architecture) for entry in entries if entry.architecture.id == ident), "ARCH")


def _settings_options(run: Run, stage: Path) -> str:
    """Return the options that lead to the settings of a stage, or else of the run.

    They are the options of this command if those lead to the same settings.
    """
    for recorded in (stage / "config.yaml", run.folder.config):
        config = read_recorded_config(recorded.parent)
        if config is not None:
            same_audit = config.audit == run.config.audit or stage != run.folder.audit.path
            same = portable_settings(config) == portable_settings(run.config) and config.devices == run.config.devices
            return run.flags if same and same_audit else _options_for(recorded, config, run.folder.root)
    return run.flags


def _options_for(recorded: Path, config: Config, folder: Path) -> str:
    """Return the options that name a recorded config file, and what it does not say correctly from here.

    Args:
        recorded: the file.
        config: its content.
        folder: the run folder, which `config` may name differently.
    """
    options = [f"--config {shlex.quote(str(recorded))}"]
    if config.folder.resolve() != folder.resolve():
        options.append(f"--run-dir {shlex.quote(str(folder))}")
    return " ".join(
        [*options, *(f"--set {shlex.quote(override)}" for override in make_root_override(recorded, folder))]
    )
