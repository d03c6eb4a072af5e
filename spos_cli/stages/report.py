"""`spos report`: what a run has found, as one page to look at. It reads the run's files, and computes nothing anew."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from spos_cli.config.schema import Config
from spos_cli.engine import checkpoint
from spos_cli.engine.differences import differing
from spos_cli.engine.history import is_number
from spos_cli.engine.progress import warn
from spos_cli.errors import RunError, SposError, printable
from spos_cli.files.quoting import quote_path
from spos_cli.files.reading import read_json, read_yaml
from spos_cli.files.writing import write_atomically
from spos_cli.report.findings import Audit, Effort, Findings, Number, Retrained, Search, Training
from spos_cli.report.page import MISSING, page, plotly_js
from spos_cli.run.command import Run
from spos_cli.run.output import make_console
from spos_cli.run.recorded_config import read_recorded_config
from spos_cli.search import ties
from spos_cli.search.journal import Entry, Journal, ranking
from spos_cli.search.results import new, own, rows
from spos_cli.space import architecture
from spos_cli.space.architecture import Architecture
from spos_cli.space.search_space import SearchSpace

SHARE = 0.02  # of a search's time that its report may take
MENDABLE = (SposError, OSError)  # what can go wrong though there is no defect


def run(folder: Path, as_json: bool) -> None:
    """Leaves `search/report.html` in a run folder.

    Raises:
        RunError: there is nothing to report, plotly is not installed, or a file cannot be read.
    """
    path = write(folder)
    if as_json:
        print(json.dumps({"file": str(path)}))
    else:
        make_console().print(Text(f"report: {path}"), soft_wrap=True)


def write(folder: Path) -> Path:
    """Reads a run and writes its report."""
    plotly_js()  # fails before any work
    path = folder / "search" / "report.html"
    content = page(read(folder)).encode()
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)
    return path


class LiveReport:
    """The report of a search that is running: up to date, as far as that takes no more than `SHARE` of its time.

    What goes wrong with it is said in a line, and costs no more than the report.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._end, self._took = -math.inf, 0.0  # of the last report
        self._error: Exception | None = None

    def update(self) -> None:
        """Writes it anew if it is time, unless that has gone wrong before."""
        begin = time.monotonic()
        if self._error is not None or begin - self._end < self._took / SHARE:
            return
        with self._guarded():
            if _has_plotly():  # else `finish` says it
                write(self.run.folder.root)
        self._end = time.monotonic()
        self._took = self._end - begin

    def finish(self) -> None:
        """Writes it once more, and says where it is, or how to get it. By now, there may be room on a full disk."""
        if self._error is not None and not isinstance(self._error, MENDABLE):
            return
        said = ""
        with self._guarded():
            missing = f"{MISSING}, then {self.run.command('report')}"
            said = f"report: {write(self.run.folder.root)}" if _has_plotly() else missing
        if said:
            self.run.say(said)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except MENDABLE as error:
            self._error = error
            warn(f"no report: {error}")
        except Exception as error:  # a defect of ours; it must not end a search that took days
            self._error = error
            first = printable(str(error).partition("\n")[0])
            warn(f"no report: {type(error).__name__}: {first}; {self.run.command('report')} shows all of it")


def _has_plotly() -> bool:
    with contextlib.suppress(RunError):
        return bool(plotly_js())
    return False


def read(folder: Path) -> Findings:
    """What the files of a run say.

    Raises:
        RunError: there is neither a search nor a training.
        SposError: the journal is broken, or of another space.
    """
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}")
    settings = read_recorded_config(folder)
    result = read_yaml(folder / "search" / "result.yaml")
    space = _space(result, read_recorded_config(folder / "search") or settings)
    search = read_search(folder, space, result) if space is not None else None
    supernet = folder / "supernet" / "metrics.jsonl"
    alone = sorted(folder.glob("retrain/*/metrics.jsonl"))
    named = [("supernet", supernet), *((f"retrain {path.parent.name}", path) for path in alone)]
    trainings = [training for name, path in named if (training := read_training(name, path)) is not None]
    if search is None and not trainings:
        raise RunError(
            f"{folder} has neither scores nor metrics yet; spos status {quote_path(folder)} says what comes first"
        )
    efforts = [effort for name, path in named[:1] if (effort := training_effort(name, path.parent)) is not None]
    if search is not None:
        efforts.append(search_effort(folder / "search", search))
    efforts += [effort for name, path in named[1:] if (effort := training_effort(name, path.parent)) is not None]
    return Findings(
        name=settings.name if settings is not None else folder.resolve().name,
        space=space,
        search=search,
        trainings=trainings,
        retrained=[found for path in alone if (found := read_retrained(path.with_name("model.pt"))) is not None],
        efforts=efforts,
        audit=read_audit(folder / "audit" / "result.json") if _audits_search(folder) else None,
    )


def _space(result: dict[str, Any], settings: Config | None) -> SearchSpace | None:
    """The space that was searched, or else the one of the settings."""
    with contextlib.suppress(SposError):
        if isinstance(found := result.get("space"), dict):
            return SearchSpace.from_dict(found)
    return settings.space.build() if settings is not None else None


def read_search(folder: Path, space: SearchSpace, result: dict[str, Any]) -> Search | None:
    """The search in a run folder; None if it has no scores of its own.

    Raises:
        SposError: the journal is broken, or of another space.
    """
    entries = Journal(folder / "search" / "journal.jsonl").read_of(space)
    if not own(entries):
        return None
    settings = read_recorded_config(folder / "search")
    planned = settings.search.population * (settings.search.generations + 1) if settings is not None else None
    limits = _limits(result, settings)
    winner = ranking(own(entries))[0]
    found, unknown = read_ties(folder / "search" / "outcomes.bits", entries, winner)
    return Search(
        entries=entries,
        limits=limits,
        winner=winner.architecture,
        ties=found,
        unknown=unknown,
        planned=planned,
        covered=_covered(result),
        exported=frozenset(_exported(folder)),
    )


def read_ties(bits: Path, entries: Sequence[Entry], winner: Entry) -> tuple[dict[int, float] | None, str]:
    """The lines that are tied with the winner, with p-values, or None; and what there is to say of it."""
    lines = rows(entries)
    tie = ties.find(own(entries), lines, bits)
    if tie.count is None:
        return None, tie.unknown
    others = tie.tied - {winner.architecture}
    return {row: tie.p_values[arch] for arch, row in lines.items() if arch in others}, tie.unknown


def _covered(result: dict[str, Any]) -> float | None:
    """The hypervolume of a searched front, as a share of its rectangle."""
    with contextlib.suppress(LookupError, TypeError):
        area, corner = _number(result["hypervolume"]), _number(result["reference"]["flops"])
        return area / corner if area is not None and corner else None
    return None


def _limits(result: dict[str, Any], settings: Config | None) -> dict[str, int | None]:
    """By cost; None is no limit. A search that was killed in its first generation has no result, but its settings."""
    limits: dict[str, int | None] = {}
    for name in ("flops", "params", "latency"):
        set_to = getattr(settings.search, f"{name}_limit") if settings is not None else None
        if f"{name}_limit" in result or set_to is not None:
            limits[name] = _whole(result.get(f"{name}_limit", set_to))
    return limits


def _exported(folder: Path) -> Iterator[Architecture]:
    for path in sorted(folder.glob("archs/*/arch.yaml")):
        with contextlib.suppress(SposError):
            yield architecture.read(str(path))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON objects; those that are none are left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(value := json.loads(line), dict):
                found.append(value)
    return found


def _whole(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 and is_number(value) else None


def _number(value: Any) -> Number:
    """A number that can be reckoned with, else None."""
    return float(value) if is_number(value) else None


def read_training(name: str, path: Path) -> Training | None:
    """The curves of a training; None if it has none."""
    lines = [line for line in read_lines(path) if _whole(line.get("step")) is not None]
    train = [line for line in lines if "loss" in line]
    val = [line for line in lines if "val_loss" in line or "val_top1" in line]
    if not train:
        return None

    def column(chosen: list[dict[str, Any]], key: str) -> list[Number]:
        return [_number(line.get(key)) for line in chosen]

    return Training(
        name,
        [line["step"] for line in train],
        column(train, "loss"),
        column(train, "top1"),
        column(train, "lr"),
        [line["step"] for line in val],
        column(val, "val_loss"),
        column(val, "val_top1"),
    )


def read_retrained(path: Path) -> Retrained | None:
    """What a retrained network's file says of it; None if there is none that is whole."""
    if not path.is_file():
        return None
    with contextlib.suppress(SposError, LookupError, TypeError, AttributeError):
        content = checkpoint.load(path)
        arch, metrics = Architecture.from_list(content["architecture"]), content["metrics"]
        top1, images, steps = _number(metrics["top1"]), _whole(metrics["images"]), _whole(metrics["steps"])
        if top1 is not None and 0 <= top1 <= 1 and images and steps is not None:
            return Retrained(arch, round(top1 * images), images, steps)
    return None


def _timing(folder: Path, unit: str) -> tuple[int, float, str]:
    """Of a stage: units whose time is known, the seconds that they took, and the devices, in words."""
    done, seconds = 0, 0.0
    devices: dict[str, None] = {}
    for line in read_lines(folder / "timing.jsonl"):
        units, taken = _whole(line.get("done")), _number(line.get("seconds"))
        if line.get("unit") != unit or units is None or taken is None or taken < 0:
            continue
        done, seconds = done + units, seconds + taken
        processes, threads = _whole(line.get("processes")) or 1, _whole(line.get("threads"))
        device = str(line.get("device"))[:80]
        where = [f"{processes} processes on {device}" if processes > 1 else device]
        if threads:
            where.append(f"{threads} thread{'' if threads == 1 else 's'}")
        devices[", ".join(where)] = None
    return done, seconds, "; ".join(devices)


def training_effort(name: str, folder: Path) -> Effort | None:
    """What a training has cost; without its times, what the metrics say of their windows."""
    lines = [line for line in read_lines(folder / "metrics.jsonl") if _whole(line.get("step")) is not None]
    windows = [
        (images, seconds)
        for line in lines
        if (images := _number(line.get("images")))
        and (rate := _number(line.get("images_per_second")))
        and (seconds := _number(images / rate))
        and seconds > 0
    ]
    if not lines:
        return None
    last = max(line["step"] for line in lines)
    done, seconds, device = _timing(folder, "steps")
    in_windows = sum(seconds for _, seconds in windows)
    rate = sum(images for images, _ in windows) / in_windows if in_windows > 0 else None
    return Effort(
        stage=name,
        work=f"{last:,} steps",
        seconds=max(seconds, in_windows) or None,
        complete=done >= last,
        images_per_second=rate,
        device=device,
    )


def search_effort(folder: Path, search: Search) -> Effort:
    """What the search has cost; images that candidates are calibrated on are not counted."""
    scored = new(search.entries)
    done, seconds, device = _timing(folder, "candidates")
    images = sum(entry.images for entry in scored) / max(1, len(scored))
    return Effort(
        stage="search",
        work=f"{len(scored):,} candidates",
        seconds=seconds or None,
        complete=done >= len(scored),
        images_per_second=_number(images * done / seconds) if seconds > 0 else None,
        device=device,
    )


def read_audit(path: Path) -> Audit | None:
    """What `spos audit` has left; None if there is nothing of it. What is of another form is left out."""
    content = read_json(path)
    if not content:
        return None
    fidelity = content.get("fidelity")
    fidelity = fidelity if isinstance(fidelity, dict) else {}
    pairs = _pairs(fidelity.get("architectures"))
    return Audit(
        curves={kind: _curves(content.get(kind)) for kind in ("random", "evolution") if _curves(content.get(kind))},
        operators=_operators(content.get("operators")),
        fidelity_steps=_whole(fidelity.get("steps")),
        one_shot=[one for one, _, _ in pairs],
        alone=[alone for _, alone, _ in pairs],
        fidelity_flops=[flops for _, _, flops in pairs if flops is not None] if pairs else [],
        winner=next(((one, alone) for one, alone, _ in _pairs([fidelity.get("winner")])), None),
        correlations={
            name: values
            for name in ("kendall", "spearman", "kendall_of_flops")
            if (values := _interval(fidelity.get(name))) is not None
        },
        images=[
            (images, width, tied)
            for row in _dicts(content.get("images"))
            if (images := _whole(row.get("images"))) is not None
            and (width := _number(row.get("tie_width"))) is not None
            and (tied := _whole(row.get("tied"))) is not None
        ],
    )


def _audits_search(folder: Path) -> bool:
    """Whether an audit in a run folder is of the search that is there, with fewer generations or more.

    Where either has not kept its settings, there is no telling: it is.
    """
    search, audit = (read_json(folder / stage / "settings.json") for stage in ("search", "audit"))
    of_search, of_audit, training = search.get("search"), audit.get("search"), audit.get("training")
    if not (isinstance(of_search, dict) and isinstance(of_audit, dict) and isinstance(training, dict)):
        return True
    ours = {**search, "search": {name: value for name, value in of_search.items() if name != "latency_table"}}
    theirs = {**audit, "search": {name: value for name, value in of_audit.items() if name != "generations"}}
    theirs |= {name: training.get(name) for name in ("seed", "space", "data") if name in ours}
    return not any(differing(ours, theirs))


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _pairs(value: Any) -> list[tuple[float, float, int | None]]:
    """Of each architecture its top-1 in the supernet and alone, and its FLOPs."""
    return [
        (one, alone, _whole(row.get("flops")))
        for row in _dicts(value)
        if (one := _number(row.get("one_shot"))) is not None and (alone := _number(row.get("alone"))) is not None
    ]


def _curves(value: Any) -> list[list[float]]:
    """Of each seed the best so far."""
    seeds = [seed["best"] for seed in _dicts(value) if isinstance(seed.get("best"), list)]
    numbers = [[number for item in seed if (number := _number(item)) is not None] for seed in seeds]
    return [curve for curve in numbers if curve]


def _operators(value: Any) -> dict[str, dict[str, int]]:
    named = value.items() if isinstance(value, dict) else []
    return {
        str(name)[:60]: {str(key): number for key, item in counts.items() if (number := _whole(item)) is not None}
        for name, counts in named
        if isinstance(counts, dict)
    }


def _interval(value: Any) -> tuple[float, float, float] | None:
    found = [_number(value.get(key)) for key in ("value", "low", "high")] if isinstance(value, dict) else [None]
    numbers = [number for number in found if number is not None]
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None
