"""`spos status`: show how far each stage of a run is, and the next command."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spos_cli.config import loading
from spos_cli.engine.progress import format_seconds
from spos_cli.errors import RunError, SposError
from spos_cli.files.os_errors import os_errors_as
from spos_cli.run.command import Run
from spos_cli.run.folder import RunFolder
from spos_cli.run.next_command import find_current, make_next_command
from spos_cli.run.progress import StageProgress, list_progress
from spos_cli.run.recorded_config import make_root_override
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost_kinds import CostKind, format_cost

# Metrics in the order in which they are shown: title and format.
METRICS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "loss": ("loss", "{:.3f}".format),
    "top1": ("top-1", "{:.1%}".format),
    "lr": ("lr", "{:.3g}".format),
    "images_per_second": ("images/s", "{:,.0f}".format),
    "val_top1": ("validated top-1", "{:.2%}".format),
    "generation": ("generation", str),
    "architectures": ("architectures", "{:,}".format),
    "flops": ("FLOPs", lambda pair: " to ".join(map(format_cost, pair))),
    "device": ("device", str),
    "spearman": ("rank correlation", "{:.2f}".format),
    "kendall": ("Kendall's tau", "{:.2f}".format),
}
ONLY_WHILE_RUNNING = ("lr", "images_per_second")


def run(run: Run) -> None:
    """Show how far each stage of the run folder is, and the next command. Writes nothing and takes no lock.

    Raises:
        RunError: the run folder cannot be read.
    """
    # Find out how far each stage is.
    with os_errors_as(RunError, f"cannot read {run.folder}"):
        stages = list(list_progress(run))

    # Find the next command, and the stage that has to end before it.
    current = find_current(stages)
    command = make_next_command(run, current)
    running = [stage for stage in stages if stage.state == "running"]
    blocking = [stage.name for stage in running if stage is current or stage.name == "audit"]
    after = blocking[-1] if blocking else None

    # Show both, as JSON or as a table.
    folder = str(run.folder)
    run.result({"run": folder, "stages": [stage.to_dict() for stage in stages], "next": command, "after": after})
    rows = [
        (
            stage.name,
            describe_state(stage),
            describe_numbers(stage, run.config.cost_kinds),
            describe_time(stage.changed),
        )
        for stage in stages
    ]
    run.show(folder, ["stage:", "state:", "so far:", "changed:"], rows)
    for stage in running:
        run.say(f"{stage.name} is run by {stage.process}")
    run.say(f"next, when {after} has ended: {command}" if after else f"next: {command}", "bold")


def find_settings(folder: Path) -> tuple[str | None, str | None, list[str]]:
    """Return the `--config`, `--run-dir` and `--set` that a run folder stands for.

    Raises:
        RunError: there is no such folder, or its settings cannot be read.
    """
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}")
    recorded = RunFolder(folder).config
    if not recorded.is_file():
        return None, str(folder), []
    try:
        has_same_folder = loading.load(recorded).folder.resolve() == folder.resolve()
    except SposError as error:
        raise RunError(f"{error}; name the settings of this run with --config") from None
    return str(recorded), None if has_same_folder else str(folder), make_root_override(recorded, folder)


def describe_state(stage: StageProgress) -> str:
    """Return the state of a stage and how far it is, in words."""
    words: str = stage.state
    if stage.is_begun and stage.done is not None:
        words += f", {stage.done:,}" + (f" of {stage.total:,}" if stage.total else "") + f" {stage.unit}"
    if stage.seconds_left is not None:
        words += f", {format_seconds(stage.seconds_left)} left"
    return words + (f" ({stage.note})" if stage.note else "")


def describe_numbers(stage: StageProgress, kinds: Mapping[str, CostKind]) -> str:
    """Return the latest metrics and the best result so far, in words.

    Args:
        kinds: how each cost is written, by its name; others are left out.
    """
    texts = [
        f"{title} {format_value(stage.metrics[key])}"
        for key, (title, format_value) in METRICS.items()
        if key in stage.metrics and (stage.state == "running" or key not in ONLY_WHILE_RUNNING)
    ]
    best = stage.best
    if best.get("evaluations", 0) > 1:
        texts.append(f"best.pt {best['val_top1']:.2%} (optimistic: best of {best['evaluations']} evaluations)")
    elif "val_top1" in best and stage.metrics.get("val_top1") != best["val_top1"]:
        texts.append(f"best {best['val_top1']:.2%}")
    if "balanced" in best:
        texts.append(f"best balanced accuracy {best['balanced']:.2%}")
    elif "top1" in best:
        texts.append(f"best top-1 {best['top1']:.2%}")
    if "flops" in best:
        texts.append(f"{format_cost(best['flops'])} FLOPs")
    costs = {kinds[name]: number for name, number in best.get("costs", {}).items() if name in kinds}
    texts += [kind.describe(kind.from_number(number)) for kind, number in costs.items()]
    if best.keys() & {"id", "architecture"}:
        texts.append(best.get("id") or str(Architecture.from_list(best["architecture"])))
    return ", ".join(texts)


def describe_time(when: float | None) -> str:
    """Return how long ago a time was (seconds since 1970): `12 s ago`, `5 min ago`, `3 h ago`, `2 days ago`."""
    if when is None:
        return ""
    seconds = max(0, round(time.time() - when))
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
