"""How far each stage of a run is, read from its files. No torch, nothing is written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from spos_cli.config.training import RetrainConfig
from spos_cli.engine import history
from spos_cli.engine.history import is_number
from spos_cli.files import lock
from spos_cli.files.reading import read_json, read_yaml
from spos_cli.run.command import Run
from spos_cli.run.folder import TrainingFolder
from spos_cli.run.latency_table import describe_origin
from spos_cli.run.recorded_config import read_recorded_config
from spos_cli.search.journal import Journal
from spos_cli.search.results import Results

MAX_TIMED_FILES = 1000  # files of a folder whose times are compared

State = Literal["not begun", "running", "stopped", "complete"]
Numbers = dict[str, Any]


@dataclass(frozen=True)
class StageProgress:
    """How far a stage is.

    Attributes:
        name: `supernet`, `search`, `retrain <id>` and so on.
        folder: of its files.
        done, total: in `unit`; a stopped training resumes from its last checkpoint.
        process: the process that is working on it, in words.
        seconds_left: at the last speed; only while it runs.
        metrics: the latest metrics, as in its files.
        best: the best result so far.
        guessing: the metrics of a training that is no better than guessing; else empty.
        changed: the last change of its files, in seconds since 1970.
        note: a remark on its state.
    """

    name: str
    state: State
    folder: Path
    done: int | None = None
    total: int | None = None
    unit: str = ""
    process: str | None = None
    seconds_left: float | None = None
    metrics: Numbers = field(default_factory=dict)
    best: Numbers = field(default_factory=dict)
    guessing: Numbers = field(default_factory=dict)
    changed: float | None = None
    note: str = ""

    @property
    def is_begun(self) -> bool:
        """Whether it has left any file."""
        return self.state != "not begun"

    @property
    def is_unfinished(self) -> bool:
        """Whether it has begun but is not complete."""
        return self.state in ("running", "stopped")

    def to_dict(self) -> Numbers:
        """Return plain types, without what is unknown."""
        fields = {key: value for key, value in asdict(self).items() if value not in (None, "", {})}
        if self.changed is not None:
            fields["changed"] = datetime.fromtimestamp(self.changed).astimezone().isoformat(timespec="seconds")
        return {**fields, "folder": str(self.folder)}


def list_progress(run: Run) -> Iterator[StageProgress]:
    """Yield the progress of all stages in the order of the commands; optional stages only if they have begun.

    Files of a running stage are read as they are at that moment; torn lines are left out.

    Raises:
        OSError: a file cannot be read.
    """
    folder = run.folder
    yield from _read_table(folder.flops_table, "flops table", _summarize_flops)
    yield from _read_table(folder.latency_table, "latency table", _summarize_latency)
    if process := lock.find_holder(folder.cache_lock):
        path = folder.cache.parent
        yield StageProgress("image cache", "running", path, process=process, changed=find_last_change(path))
    yield _read_training(run, "supernet", folder.supernet, "supernet")
    yield _read_search(run)
    yield _read_exports(run)
    retrained = sorted(path.name for path in folder.retrained.glob("*") if path.is_dir())
    for ident in retrained:
        yield _read_training(run, f"retrain {ident}", folder.retrain(ident), "retrain")
    if not retrained:
        yield StageProgress("retrain", "not begun", folder.retrained)
    if folder.audit.path.is_dir():
        yield _read_audit(run)


# Tables of costs.


def _read_table(path: Path, name: str, summarize: Callable[[Numbers], Numbers]) -> Iterator[StageProgress]:
    if path.is_file():
        content, numbers = read_json(path), {}
        with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError, AttributeError):
            numbers = summarize(content)
        yield StageProgress(name, "complete", path.parent, metrics=numbers, changed=find_last_change(path))


def _summarize_flops(content: Numbers) -> Numbers:
    """Return the main numbers of a `flops_table.json`. The size of a large space is a text of many digits."""
    pair = [content[key] for key in ("minimum", "maximum")]
    if not all(map(is_number, pair)):
        raise ValueError("a cost is not a number")
    return {"architectures": int(content["architectures"]), "flops": [int(cost) for cost in pair]}


def _summarize_latency(content: Numbers) -> Numbers:
    """Return the device of a `latency_table.json`, and how far to trust its sums; those of an import are unknown."""
    if content["conditions"].get("imported") is True:
        return {"device": describe_origin(content)}
    if not is_number(content["spearman"]):
        raise ValueError("the rank correlation is not a number")
    return {"device": str(content["conditions"]["device"]), "spearman": content["spearman"]}


# Trainings.


def _read_training(
    run: Run, name: str, folder: TrainingFolder, section: Literal["supernet", "retrain"]
) -> StageProgress:
    """Return the progress of a training, from the names of its checkpoints, its metrics and its model."""
    config = read_recorded_config(folder.path) or run.config
    settings = getattr(config, section)
    lines = history.read(folder.metrics)
    numbers = history.History(lines)
    guessing = history.find_guessing(lines, config.space.classes, settings.loss_of_labels)
    metrics = {key: value for key, value in numbers.last.items() if is_number(value)}
    process = lock.find_holder(folder.lock)
    saved = _find_saved_step(folder)
    model = folder.last if section == "supernet" else folder.model
    has_ended_early = 0 < numbers.ended_early == saved
    end = saved if has_ended_early else settings.steps
    state, done, note = _find_training_state(folder, model, process is not None, saved, end, bool(lines))
    if state == "not begun":
        return StageProgress(name, state, folder.path)
    if state == "running":
        done = max(saved, int(metrics.get("step", 0)))
    if guessing is not None:
        note = "; ".join(filter(None, (note, f"{guessing.verdict}: no better than guessing")))
    if has_ended_early and state != "running":
        note = "; ".join(filter(None, (note, f"ended early: {settings.patience} evaluations without a new best")))
    best: Numbers = {}
    if numbers.validations:
        metrics["val_top1"] = numbers.validations[-1]
        best = {"val_top1": max(numbers.validations)}
        if isinstance(settings, RetrainConfig) and settings.keep_best and folder.best.is_file():
            best |= {"evaluations": len(numbers.validations), "weights": str(folder.best)}
    images_left = (settings.steps - done) * settings.batch_size
    return StageProgress(
        name,
        state,
        folder.path,
        done=done,
        total=settings.steps,
        unit="steps",
        process=process,
        seconds_left=_estimate_time_left(images_left, metrics) if state == "running" else None,
        metrics=metrics,
        best=best,
        guessing={} if guessing is None else asdict(guessing),
        changed=find_last_change(folder.path),
        note=note,
    )


def _find_saved_step(folder: TrainingFolder) -> int:
    """Return the step of the newest checkpoint; 0 if there is none."""
    steps = [path.stem.removeprefix("step-") for path in folder.path.glob("step-*.pt")]
    return max((int(step) for step in steps if step.isdecimal()), default=0)


def _find_training_state(
    folder: TrainingFolder, model: Path, running: bool, saved: int, total: int, has_metrics: bool
) -> tuple[State, int, str]:
    """Return the state of a training, its saved steps and a remark.

    Args:
        model: the file that a complete training leaves.
        saved: the step of the newest checkpoint.
        total: the steps of the complete training.
    """
    if running:
        return "running", saved, ""
    # A model without any trace of a training was copied here.
    is_copied = not (saved or has_metrics)
    if model.is_file() and (saved >= total or is_copied):
        return "complete", saved or total, "" if saved else "weights from elsewhere"
    if saved or has_metrics or folder.config.is_file():
        note = "the last BatchNorm pass remains" if saved >= total else "" if saved else "nothing saved yet"
        return "stopped", saved, note
    return "not begun", 0, ""


def _estimate_time_left(images: int, metrics: Numbers) -> float | None:
    """Return the seconds that a training needs for its last images at its last speed; None if that is unknown."""
    rate = metrics.get("images_per_second", 0.0)
    seconds = images / rate if rate > 0 else None
    return seconds if is_number(seconds) else None


# The search and what follows it.


def _read_search(run: Run) -> StageProgress:
    """Return the progress of the search, from its journal and its result."""
    folder = run.folder.search
    settings = (read_recorded_config(folder.path) or run.config).search
    entries, broken = Journal(folder.journal).read_valid()
    results = Results.of(entries)
    new, best = results.new, results.winner
    total = settings.population * (settings.generations + 1)
    process = lock.find_holder(folder.lock)
    if process and (auditing := lock.find_holder(run.folder.audit.lock)) and _is_same_process(process, auditing):
        process = None  # an audit holds this lock only so that nobody searches meanwhile
    result = read_yaml(folder.result)
    # A search ends early when it has scored all architectures that the limits allow.
    ended = result.get("complete") is True and result.get("planned") == settings.generations
    if process:
        state: State = "running"
    elif entries and ended:
        state = "complete"
    elif entries or folder.config.is_file():
        state = "stopped"
    else:
        return StageProgress("search", "not begun", folder.path)
    notes = [f"{broken} broken lines in journal.jsonl"] if broken else []
    if len(entries) > len(new):
        notes.append(f"{len(entries) - len(new)} more from another search")
    return StageProgress(
        "search",
        state,
        folder.path,
        done=len(new),
        total=total,
        unit="candidates",
        process=process,
        metrics={"generation": new[-1].generation, "generations": settings.generations} if new else {},
        best={}
        if best is None or best.partial
        else {
            "architecture": best.architecture.to_list(),
            "flops": best.flops,
            "top1": best.top1,
            **({} if best.balanced is None else {"balanced": best.balanced}),
            **({"costs": best.costs_of_files} if best.costs else {}),
        },
        changed=find_last_change(folder.path),
        note="; ".join(notes),
    )


def _is_same_process(one: str, other: str) -> bool:
    """Return whether the holders of two locks, in words, are one process."""
    return one.partition(",")[0] == other.partition(",")[0]


def _read_exports(run: Run) -> StageProgress:
    """Return which architectures were exported, and the best of them by its one-shot score."""
    archs = {path.parent.name: read_yaml(path) for path in run.folder.list_exported_archs()}
    if not archs:
        return StageProgress("export-arch", "not begun", run.folder.archs)
    scores = {ident: content.get("fitness") for ident, content in archs.items()}
    top1 = {ident: score["top1"] for ident, score in scores.items() if isinstance(score, dict) and "top1" in score}
    known = {ident: value for ident, value in top1.items() if is_number(value)}
    best = max(known, key=lambda ident: known[ident]) if known else next(iter(archs))
    numbers = {"flops": archs[best].get("flops"), "top1": known.get(best)}
    times = [time for ident in archs if (time := find_last_change(run.folder.arch(ident)))]
    return StageProgress(
        "export-arch",
        "complete",
        run.folder.archs,
        done=len(archs),
        unit="exported",
        best={"id": best, **{key: value for key, value in numbers.items() if is_number(value)}},
        changed=max(times, default=None),
    )


def _read_audit(run: Run) -> StageProgress:
    """Return the progress of the audit, from its result and its stand-alone trainings."""
    folder = run.folder.audit
    trainings = [path for path in folder.stand_alone.glob("*") if path.is_dir()]
    settings = (read_recorded_config(folder.path) or run.config).audit
    process = lock.find_holder(folder.lock)
    result = read_json(folder.result)
    metrics: Numbers = {}
    with contextlib.suppress(KeyError, TypeError):
        metrics = {"kendall": result["fidelity"]["kendall"]["value"]}
    times = [time for path in (folder.path, *trainings) if (time := find_last_change(path)) is not None]
    return StageProgress(
        "audit",
        "running" if process else "complete" if result else "stopped",
        folder.path,
        done=sum(run.folder.stand_alone(path.name).model.is_file() for path in trainings),
        total=settings.architectures,
        unit="stand-alone trainings",
        process=process,
        metrics={key: value for key, value in metrics.items() if is_number(value)},
        changed=max(times, default=None),
    )


def find_last_change(path: Path) -> float | None:
    """Return when a file, or any file of a folder, was last written, in seconds since 1970; None without a file."""
    times = []
    files = [path]
    if not path.is_file():
        files = [file for file, _ in zip(path.glob("[!.]*"), range(MAX_TIMED_FILES), strict=False)]
    for file in files:
        with contextlib.suppress(OSError):  # a checkpoint may be removed meanwhile
            if file.is_file():
                times.append(file.stat().st_mtime)
    return max(times, default=None)
