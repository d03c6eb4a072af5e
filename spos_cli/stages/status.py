"""`spos status`: what runs or stands where, and what to type next. Without torch, and nothing is written or locked."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from spos_cli.config import loading
from spos_cli.config.identity import portable_settings
from spos_cli.config.schema import Config
from spos_cli.engine import history
from spos_cli.engine.history import is_number
from spos_cli.engine.progress import duration
from spos_cli.errors import RunError, SposError
from spos_cli.files import lock
from spos_cli.files.quoting import quote_path
from spos_cli.files.reading import read_json, read_yaml
from spos_cli.run.command import EXPORT, Command, root_from_here, settings_of
from spos_cli.search import results
from spos_cli.search.journal import Entry, Journal
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import format_cost

FILES = 1000  # of a folder that are looked at

State = Literal["not begun", "running", "stopped", "complete"]
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """How far a stage is.

    Attributes:
        name: `supernet`, `search`, `retrain <id>` and so on.
        done, total: in `unit`; a stopped training goes on from its last checkpoint.
        process: that works on it now, in words.
        seconds_left: at the last rate, while it runs.
        metrics: the last ones, as in its files.
        best: what is best so far.
        guessing: the metrics that say that a training is no better than that.
        changed: when a file of it last was, in seconds since 1970.
        folder: of its files.
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
    def begun(self) -> bool:
        """Whether there is anything of it."""
        return self.state != "not begun"

    @property
    def unfinished(self) -> bool:
        """Whether it is to go on."""
        return self.state in ("running", "stopped")

    def to_dict(self) -> Numbers:
        """Plain types, without what is not known."""
        fields = {key: value for key, value in asdict(self).items() if value not in (None, "", {})}
        if self.changed is not None:
            fields["changed"] = datetime.fromtimestamp(self.changed).astimezone().isoformat(timespec="seconds")
        return {**fields, "folder": str(self.folder)}


def run(run: Command) -> None:
    """Shows each stage of the run folder, and the next command.

    Files of a stage that runs are read as they are at the moment; what is torn is left out.

    Raises:
        RunError: the run folder cannot be read.
    """
    try:
        stages = list(stages_of(run))
    except OSError as error:
        raise RunError(f"cannot read {run.folder}: {error.strerror or error}") from None
    current = where_it_stands(stages)
    command = f"spos {next_command(run, current)}"
    running = [stage for stage in stages if stage.state == "running"]
    ends = [stage.name for stage in running if stage is current or stage.name == "audit"]
    after = ends[-1] if ends else None
    run.result(
        {"run": str(run.folder.root), "stages": [stage.to_dict() for stage in stages], "next": command, "after": after}
    )
    rows = [(stage.name, state_of(stage), numbers_of(stage), ago(stage.changed)) for stage in stages]
    run.show(str(run.folder.root), ["stage:", "state:", "so far:", "changed:"], rows)
    for stage in running:
        run.say(f"{stage.name} is run by {stage.process}")
    run.say(f"next, when {after} has ended: {command}" if after else f"next: {command}", "bold")


# What there is.


def stages_of(run: Command) -> Iterator[Stage]:
    """All stages in their order; those that are optional only where there is something of them."""
    yield from table(run, "flops_table.json", "flops table", summary_of_flops)
    yield from table(run, "latency_table.json", "latency table", summary_of_latency)
    if process := lock.holder(run.folder.cache_lock):
        folder = run.folder.cache.parent
        yield Stage("stored images", "running", folder, process=process, changed=changed(folder))
    yield training(run, "supernet", run.folder.supernet.path, "supernet")
    yield search(run)
    yield exported(run)
    folders = sorted(path for path in run.folder.retrained.glob("*") if path.is_dir())
    for folder in folders:
        yield training(run, f"retrain {folder.name}", folder, "retrain")
    if not folders:
        yield Stage("retrain", "not begun", run.folder.retrained)
    if run.folder.audit.path.is_dir():
        yield audit(run)


def table(run: Command, name: str, stage: str, summary: Callable[[Numbers], Numbers]) -> Iterator[Stage]:
    """A table of costs, if it was made."""
    path = run.folder.root / name
    if path.is_file():
        content, numbers = read_json(path), {}
        with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
            numbers = summary(content)
        yield Stage(stage, "complete", run.folder.root, metrics=numbers, changed=changed(path))


def summary_of_flops(content: Numbers) -> Numbers:
    """Of a `flops_table.json`; of large spaces, the number of architectures has many digits."""
    pair = [content[key] for key in ("minimum", "maximum")]
    if not all(map(is_number, pair)):
        raise ValueError("costs that are no numbers")
    return {"architectures": int(content["architectures"]), "flops": [int(cost) for cost in pair]}


def summary_of_latency(content: Numbers) -> Numbers:
    """Of a `latency_table.json`."""
    if not is_number(content["spearman"]):
        raise ValueError("a correlation that is no number")
    return {"device": str(content["conditions"]["device"]), "spearman": content["spearman"]}


def training(run: Command, name: str, folder: Path, section: Literal["supernet", "retrain"]) -> Stage:
    """A training, by its checkpoints' names, its metrics and its model."""
    recorded = settings_of(folder) or run.config
    settings, space = getattr(recorded, section), recorded.space
    lines = history.read(folder / "metrics.jsonl")
    numbers, guessing = history.History(lines), history.find_guessing(lines, space.classes)
    saved = max((int(path.stem[5:]) for path in folder.glob("step-*.pt") if path.stem[5:].isdecimal()), default=0)
    process = lock.holder(run.folder.lock_of(folder))
    last = folder / ("last.pt" if section == "supernet" else "model.pt")
    # A supernet or a model without a trace of a training was brought here from elsewhere.
    complete = last.is_file() and (saved >= settings.steps or not (saved or lines))
    metrics = {key: value for key, value in numbers.last.items() if is_number(value)}
    if numbers.validations:
        metrics["val_top1"] = numbers.validations[-1]
    best = {"val_top1": max(numbers.validations)} if numbers.validations else {}
    note, left, done = "", None, saved
    if process:
        state: State = "running"
        done = max(saved, int(metrics.get("step", 0)))
        rate = metrics.get("images_per_second", 0.0)
        left = (settings.steps - done) * settings.batch_size / rate if rate > 0 else None
        left = left if is_number(left) else None
    elif complete:
        state, done = "complete", saved or settings.steps
        note = "" if saved else "weights from elsewhere"
    elif saved or lines or (folder / "config.yaml").is_file():
        state = "stopped"
        note = "the last BatchNorm pass is left" if saved >= settings.steps else "" if saved else "nothing saved yet"
    else:
        return Stage(name, "not begun", folder)
    if guessing is not None:
        note = "; ".join(filter(None, (note, f"{guessing.verdict}: no better than guessing")))
    return Stage(
        name,
        state,
        folder,
        done,
        settings.steps,
        "steps",
        process,
        left,
        metrics,
        best,
        {} if guessing is None else asdict(guessing),
        changed(folder),
        note,
    )


def search(run: Command) -> Stage:
    """The search, by its journal and its result."""
    folder, name = run.folder.search.path, "search"
    settings = (settings_of(folder) or run.config).search
    entries, broken = read_journal(folder / "journal.jsonl")
    own, new = results.own(entries), results.new(entries)
    total = settings.population * (settings.generations + 1)
    process = lock.holder(run.folder.lock_of(folder))
    if process and (other := lock.holder(run.folder.lock_of(run.folder.audit.path))) and _same(process, other):
        process = None  # an audit only keeps others away from it
    result = read_yaml(folder / "result.yaml")
    # It may end before: when it has seen all that the limits allow. Older results do not say that it has ended.
    ended = result.get("complete") is True and result.get("planned") == settings.generations
    notes = [f"{broken} broken lines in journal.jsonl"] if broken else []
    if process:
        state: State = "running"
    elif entries and (ended or (result and "complete" not in result and len(new) >= total)):
        state = "complete"
    elif entries or (folder / "config.yaml").is_file():
        state = "stopped"
    else:
        return Stage(name, "not begun", folder)
    if len(entries) > len(new):
        notes.append(f"{len(entries) - len(new)} more of another search")
    best = min((entry for entry in own if not entry.partial), key=lambda entry: entry.rank, default=None)
    metrics = {"generation": new[-1].generation, "generations": settings.generations} if new else {}
    found = (
        {} if best is None else {"architecture": best.architecture.to_list(), "flops": best.flops, "top1": best.top1}
    )
    return Stage(
        name,
        state,
        folder,
        len(new),
        total,
        "candidates",
        process,
        metrics=metrics,
        best=found,
        changed=changed(folder),
        note="; ".join(notes),
    )


def _same(one: str, other: str) -> bool:
    """Whether the holders of two locks are one process."""
    return one.partition(",")[0] == other.partition(",")[0]


def exported(run: Command) -> Stage:
    """The architectures that were written; the best of them by its one-shot score."""
    found = {path.parent.name: read_yaml(path) for path in sorted(run.folder.archs.glob("*/arch.yaml"))}
    if not found:
        return Stage("export-arch", "not begun", run.folder.archs)
    scores = {name: content.get("fitness") for name, content in found.items()}
    top1 = {name: score["top1"] for name, score in scores.items() if isinstance(score, dict) and "top1" in score}
    known = {name: score for name, score in top1.items() if is_number(score)}
    name = max(known, key=lambda name: known[name]) if known else next(iter(found))
    best = {"id": name, "flops": found[name].get("flops"), "top1": known.get(name)}
    when = [time for name in found if (time := changed(run.folder.arch(name)))]
    return Stage(
        "export-arch",
        "complete",
        run.folder.archs,
        len(found),
        unit="written",
        best={key: value for key, value in best.items() if is_number(value) or key == "id"},
        changed=max(when, default=None),
    )


def audit(run: Command) -> Stage:
    """The audit, by its result and by what it has trained alone."""
    folder, alone = run.folder.audit.path, [path for path in run.folder.audit.stand_alone.glob("*") if path.is_dir()]
    settings = (settings_of(folder) or run.config).audit
    process = lock.holder(run.folder.lock_of(folder))
    result = read_json(folder / "result.json")
    state: State = "running" if process else "complete" if result else "stopped"
    done = sum((path / "model.pt").is_file() for path in alone)
    found: Numbers = {}
    with contextlib.suppress(KeyError, TypeError):
        found = {"kendall": result["fidelity"]["kendall"]["value"]}
    times = [time for path in (folder, *alone) if (time := changed(path)) is not None]
    return Stage(
        "audit",
        state,
        folder,
        done,
        settings.architectures,
        "trained alone",
        process,
        metrics={key: value for key, value in found.items() if is_number(value)},
        changed=max(times, default=None),
    )


def read_journal(path: Path) -> tuple[list[Entry], int]:
    """The scored candidates in a journal that may be written meanwhile, and how many lines are none."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return [], 0
    found = [Journal.entry_or_none(line) for line in lines]
    entries = [entry for entry in found if entry is not None]
    return entries, len(found) - len(entries)


def changed(path: Path) -> float | None:
    """When a file, or a file of a folder, was last written: seconds since 1970; None if there is none."""
    times = []
    files = [path] if path.is_file() else [file for file, _ in zip(path.glob("[!.]*"), range(FILES), strict=False)]
    for file in files:
        with contextlib.suppress(OSError):  # a checkpoint that was removed meanwhile
            if file.is_file():
                times.append(file.stat().st_mtime)
    return max(times, default=None)


# What comes next.


def where_it_stands(stages: list[Stage]) -> Stage:
    """The stage that the next command is about: what runs, else what was begun last in the order of the commands.

    A stage that has stopped comes before later ones that are older: it was begun anew after them.
    """
    order = [stage for stage in stages if stage.name.split()[0] in ("supernet", "search", "export-arch", "retrain")]
    if running := [stage for stage in order if stage.state == "running"]:
        return running[-1]
    for stage in stages:  # the one that need not be, and that nothing waits for
        newest = all((stage.changed or 0.0) >= (other.changed or 0.0) for other in stages)
        if stage.name == "audit" and stage.state == "stopped" and newest:
            return stage
    current = order[0]
    for stage in order:
        older = (stage.changed or 0.0) < (current.changed or 0.0)
        alike = stage.name.split()[0] == current.name.split()[0]  # two retrainings
        if stage.begun and not (older and (current.unfinished or alike)):
            current = stage
    return current


def next_command(run: Command, current: Stage) -> str:
    """What to type when the current stage has ended, or to go on with it."""
    kind, _, ident = current.name.partition(" ")
    flags = options(run, current.folder)
    weights, begun_with = inputs(run)
    if current.state in ("stopped", "not begun"):
        again = {
            "supernet": "supernet-train ",
            "search": f"search {weights}{begun_with}",
            "audit": f"audit {weights}",
            "retrain": f"retrain {architecture(run, ident)} " if ident else "",
        }
        return f"{again[kind]}{flags}".rstrip()
    exported = quote_path(current.folder / str(current.best.get("id")) / "arch.yaml")
    following = {
        "supernet": "search",
        "search": EXPORT[(settings_of(current.folder) or run.config).search.objective],
        "export-arch": f"retrain {exported}",
        "retrain": f"evaluate --weights {quote_path(current.folder / 'model.pt')}",
    }
    return f"{following[kind]} {flags}".rstrip()


def inputs(run: Command) -> tuple[str, str]:
    """The options that name the supernet and the candidates which a search was begun with; empty if none is needed."""
    begun, own = read_json(run.folder.search.inputs), run.folder.supernet.last
    named, candidates = begun.get("weights"), begun.get("from")
    if isinstance(named, str) and Path(named) != own.resolve():
        weights = f"--weights {quote_path(Path(named))} "
    else:
        weights = "" if own.is_file() else "--weights FILE "
    return weights, f"--from {quote_path(Path(candidates))} " if isinstance(candidates, str) else ""


def architecture(run: Command, ident: str) -> str:
    """An exported architecture's file, or what the journal says that it is; `ARCH` if neither knows it."""
    path = run.folder.arch(ident)
    if path.is_file():
        return quote_path(path)
    known: Iterator[Architecture] = (entry.architecture for entry in read_journal(run.folder.search.journal)[0])
    return next((str(arch) for arch in known if arch.id == ident), "ARCH")


def options(run: Command, stage: Path) -> str:
    """The options that lead to the settings of a stage, or else of the run: this command's own ones, if those do."""
    for recorded in (stage / "config.yaml", run.folder.config):
        settings = settings_of(recorded.parent)
        if settings is not None:
            same_audit = settings.audit == run.config.audit or stage != run.folder.audit.path
            same_results = portable_settings(settings) == portable_settings(run.config)
            same = same_results and same_audit and settings.devices == run.config.devices
            return run.flags if same else flags_of(recorded, settings, run.folder.root)
    return run.flags


def flags_of(recorded: Path, settings: Config, folder: Path) -> str:
    """The options that name a file of settings, and the run folder where the file has another one."""
    flags = [f"--config {shlex.quote(str(recorded))}"]
    if settings.folder.resolve() != folder.resolve():
        flags.append(f"--run-dir {shlex.quote(str(folder))}")
    return " ".join([*flags, *(f"--set {shlex.quote(override)}" for override in root_from_here(recorded, folder))])


def find(folder: Path) -> tuple[str | None, str | None, list[str]]:
    """The `--config` and `--run-dir` that a run folder stands for, and what else finds its images from here.

    Raises:
        RunError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}")
    recorded = folder / "config.yaml"
    if not recorded.is_file():
        return None, str(folder), []
    try:
        same = loading.load(recorded).folder.resolve() == folder.resolve()
    except SposError as error:
        raise RunError(f"{error}; name the settings of this run with --config") from None
    return str(recorded), None if same else str(folder), root_from_here(recorded, folder)


# How it is said.


def state_of(stage: Stage) -> str:
    """In words, with how far it is."""
    words: str = stage.state
    if stage.begun and stage.done is not None:
        words += f", {stage.done:,}" + (f" of {stage.total:,}" if stage.total else "") + f" {stage.unit}"
    if stage.seconds_left is not None:
        words += f", {duration(stage.seconds_left)} left"
    return words + (f" ({stage.note})" if stage.note else "")


SHOWN: dict[str, tuple[str, Callable[[Any], str]]] = {
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
WHILE_RUNNING = ("lr", "images_per_second")


def numbers_of(stage: Stage) -> str:
    """The last metrics and the best so far, in words."""
    shown = {key: value for key, value in SHOWN.items() if stage.state == "running" or key not in WHILE_RUNNING}
    said = [f"{label} {form(stage.metrics[key])}" for key, (label, form) in shown.items() if key in stage.metrics]
    best = stage.best
    if "val_top1" in best and stage.metrics.get("val_top1") != best["val_top1"]:
        said.append(f"best {best['val_top1']:.2%}")
    if "top1" in best:
        said.append(f"best top-1 {best['top1']:.2%}")
    if "flops" in best:
        said.append(f"{format_cost(best['flops'])} FLOPs")
    if best.keys() & {"id", "architecture"}:
        said.append(best.get("id") or str(Architecture.from_list(best["architecture"])))
    return ", ".join(said)


def ago(when: float | None) -> str:
    """`12 s ago`, `5 min ago`, `3 h ago`, `2 days ago`."""
    if when is None:
        return ""
    seconds = max(0, round(time.time() - when))
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
