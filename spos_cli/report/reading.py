"""Read what a run has left into findings; missing and torn parts are left out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spos_cli.config.schema import Config
from spos_cli.engine import checkpoint
from spos_cli.errors import ConfigError, RunError, SposError
from spos_cli.files.quoting import quote_path
from spos_cli.files.reading import read_json_lines, read_yaml
from spos_cli.report.findings import Effort, Findings, Number, Retrained, Search, Training
from spos_cli.report.reading_audit import is_of_search, read_audit
from spos_cli.report.reading_evaluation import read_evaluation
from spos_cli.report.reading_truth import read_truth_comparison
from spos_cli.report.values import as_count, as_number
from spos_cli.run.folder import RunFolder, SearchFolder, StageFolder, TrainingFolder
from spos_cli.run.recorded_config import read_recorded_config
from spos_cli.search.journal import Journal
from spos_cli.search.results import Results
from spos_cli.space import architecture
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost_kinds import COST_KINDS, OWN_NAME, get_kind
from spos_cli.space.limits import Limit, parse_limit
from spos_cli.space.search_space import SearchSpace

MAX_DEVICE_LETTERS, MAX_ORIGIN_LETTERS = 80, 160


def read_findings(run: RunFolder) -> Findings:
    """Return what the files of a run say.

    Raises:
        RunError: there is no result and no training.
        SposError: the journal is broken, or belongs to another space.
    """
    if not run.root.is_dir():
        raise RunError(f"there is no run folder {run}")
    settings = read_recorded_config(run.root)
    result = read_yaml(run.search.result)
    space = _read_space(result, read_recorded_config(run.search.path) or settings)
    search = read_search(run, space, result) if space is not None else None
    retrainings = _list_retrainings(run)
    folders = {"supernet": run.supernet, **{f"retrain {folder.path.name}": folder for folder in retrainings}}
    trainings = [training for name, folder in folders.items() if (training := read_training(name, folder)) is not None]
    truth, evaluation = read_truth_comparison(run.truth), read_evaluation(run.evaluation)
    if search is None and truth is None and evaluation is None and not trainings:
        raise RunError(
            f"{run} has neither scores nor metrics yet; spos status {quote_path(run.root)} shows the next command"
        )
    efforts = {name: measure_training(name, folder) for name, folder in folders.items()}
    searched = measure_search(run.search, search) if search is not None else None
    in_order = [efforts.pop("supernet"), searched, *efforts.values()]
    networks = [read_retrained(path) for folder in retrainings for path in (folder.model, folder.best)]
    return Findings(
        name=settings.name if settings is not None else run.root.resolve().name,
        space=space,
        search=search,
        trainings=trainings,
        retrained=[network for network in networks if network is not None],
        efforts=[effort for effort in in_order if effort is not None],
        audit=read_audit(run.audit) if is_of_search(run.audit, run.search) else None,
        truth=truth,
        evaluation=evaluation,
    )


def _list_retrainings(run: RunFolder) -> list[TrainingFolder]:
    folders = [run.retrain(path.name) for path in sorted(run.retrained.glob("*"))]
    return [folder for folder in folders if folder.metrics.exists()]


# The search.


def _read_space(result: dict[str, Any], settings: Config | None) -> SearchSpace | None:
    """Return the space that was searched, else the space in the settings."""
    with contextlib.suppress(SposError):
        if isinstance(fields := result.get("space"), dict):
            return SearchSpace.from_dict(fields)
    return settings.space.build() if settings is not None else None


def read_search(run: RunFolder, space: SearchSpace, result: dict[str, Any]) -> Search | None:
    """Return the search of a run; None if it has no scores of its own.

    Args:
        result: the content of `result.yaml`, or empty.

    Raises:
        SposError: the journal is broken, or belongs to another space.
    """
    entries = Journal(run.search.journal).read_of(space)
    results = Results.of(entries, run.search.outcomes)
    if results.winner is None:
        return None
    settings = read_recorded_config(run.search.path)
    front_cost = settings.search.pareto_cost if settings is not None else "flops"
    limits, recorded = _read_limits(result, settings), {} if settings is None else settings.cost_kinds
    names = {**COST_KINDS, **limits, **{name: None for entry in entries for name in entry.costs}}
    return Search(
        entries=entries,
        limits=limits,
        winner=results.winner.architecture,
        ties=_list_ties(results),
        ties_unknown=results.comparison.problem,
        planned=settings.search.population * (settings.search.generations + 1) if settings is not None else None,
        front_cost=front_cost,
        hypervolume=_read_hypervolume(result, front_cost),
        kinds={name: recorded.get(name) or get_kind(name) for name in names},
        latency_of=str(result.get("latency_of", ""))[:MAX_ORIGIN_LETTERS],
        exported=frozenset(_read_exported(run)),
    )


def _list_ties(results: Results) -> dict[int, float] | None:
    """Return the p-values of the lines that are statistically tied with the winner; None if nothing was compared."""
    comparison, winner = results.comparison, results.winner
    if comparison.count is None or winner is None:
        return None
    others = comparison.tied - {winner.architecture}
    return {row: comparison.p_values[arch] for arch, row in results.rows.items() if arch in others}


def _read_hypervolume(result: dict[str, Any], cost: str) -> float | None:
    """Return the hypervolume of the Pareto front as a share of its rectangle; None if the result has none."""
    with contextlib.suppress(LookupError, TypeError):
        area, corner = as_number(result["hypervolume"]), as_number(result["reference"][cost])
        return area / corner if area is not None and corner else None
    return None


def _read_limits(result: dict[str, Any], settings: Config | None) -> dict[str, Limit | None]:
    """Return the limits by cost; None is no limit.

    A search that was killed in its first generation has no result yet, but it has settings.
    """
    limits: dict[str, Limit | None] = {}
    recorded = settings.search.cost_limits if settings is not None else {}
    own = result.get("limits")
    written = {name: result[f"{name}_limit"] for name in COST_KINDS if f"{name}_limit" in result}
    written |= {name: value for name, value in own.items() if _is_own_name(name)} if isinstance(own, dict) else {}
    for name in {**COST_KINDS, **recorded, **written}:
        limit = recorded.get(name)
        if name in written:
            with contextlib.suppress(ConfigError):
                limit = written[name] and parse_limit(get_kind(name), written[name])
        if name in written or limit is not None:
            limits[name] = limit
    return limits


def _is_own_name(name: Any) -> bool:
    return isinstance(name, str) and OWN_NAME.fullmatch(name) is not None and name not in COST_KINDS


def _read_exported(run: RunFolder) -> Iterator[Architecture]:
    for path in run.list_exported_archs():
        with contextlib.suppress(SposError):
            yield architecture.read(str(path))


# Trainings.


def read_training(name: str, folder: TrainingFolder) -> Training | None:
    """Return the curves of a training; None if it has none."""
    lines = _read_metrics(folder)
    train = [line for line in lines if "loss" in line]
    val = [line for line in lines if "val_loss" in line or "val_top1" in line]
    if not train:
        return None

    def column(chosen: list[dict[str, Any]], key: str) -> list[Number]:
        return [as_number(line.get(key)) for line in chosen]

    return Training(
        name,
        steps=[line["step"] for line in train],
        loss=column(train, "loss"),
        top1=column(train, "top1"),
        lr=column(train, "lr"),
        val_steps=[line["step"] for line in val],
        val_loss=column(val, "val_loss"),
        val_top1=column(val, "val_top1"),
    )


def read_retrained(path: Path) -> Retrained | None:
    """Return the result in a retrained network's `model.pt` or `best.pt`; None if the file is missing or torn."""
    if not path.is_file():
        return None
    with contextlib.suppress(SposError, LookupError, TypeError, AttributeError):
        content = checkpoint.load(path)
        arch, metrics = Architecture.from_list(content["architecture"]), content["metrics"]
        top1, images, steps = as_number(metrics["top1"]), as_count(metrics["images"]), as_count(metrics["steps"])
        planned_steps = as_count(metrics.get("ended_early_of"))
        evaluations = as_count(content["selection"]["evaluations"]) or 0 if "selection" in content else 0
        if top1 is not None and 0 <= top1 <= 1 and images and steps is not None:
            return Retrained(arch, round(top1 * images), images, steps, planned_steps, evaluations)
    return None


# What each stage has cost.


def measure_training(name: str, folder: TrainingFolder) -> Effort | None:
    """Return what a training has cost; None if it has no metrics.

    A training without recorded times has at least the time that its metrics imply: images per second of each line.
    """
    lines = _read_metrics(folder)
    if not lines:
        return None
    windows = [
        (images, seconds)
        for line in lines
        if (images := as_number(line.get("images")))
        and (rate := as_number(line.get("images_per_second")))
        and (seconds := as_number(images / rate))
        and seconds > 0
    ]
    last_step = max(line["step"] for line in lines)
    steps, seconds, device = _read_timing(folder, "steps")
    in_windows = sum(seconds for _, seconds in windows)
    return Effort(
        stage=name,
        work=f"{last_step:,} steps",
        seconds=max(seconds, in_windows) or None,
        complete=steps >= last_step,
        images_per_second=sum(images for images, _ in windows) / in_windows if in_windows > 0 else None,
        device=device,
    )


def measure_search(folder: SearchFolder, search: Search) -> Effort:
    """Return what the search has cost. Images for the calibration of candidates do not count."""
    scored = Results.of(search.entries).new
    timed, seconds, device = _read_timing(folder, "candidates")
    images = sum(entry.images for entry in scored) / max(1, len(scored))
    return Effort(
        stage="search",
        work=f"{len(scored):,} candidates",
        seconds=seconds or None,
        complete=timed >= len(scored),
        images_per_second=as_number(images * timed / seconds) if seconds > 0 else None,
        device=device,
    )


def _read_timing(folder: StageFolder, unit: str) -> tuple[int, float, str]:
    """Return how many units have a recorded time, the seconds that they took, and the devices in words."""
    total, total_seconds = 0, 0.0
    devices: dict[str, None] = {}
    for line in read_lines(folder.timing):
        units, seconds = as_count(line.get("done")), as_number(line.get("seconds"))
        if line.get("unit") != unit or units is None or seconds is None or seconds < 0:
            continue
        total, total_seconds = total + units, total_seconds + seconds
        processes, threads = as_count(line.get("processes")) or 1, as_count(line.get("threads"))
        device = str(line.get("device"))[:MAX_DEVICE_LETTERS]
        words = [f"{processes} processes on {device}" if processes > 1 else device]
        if threads:
            words.append(f"{threads} thread{'' if threads == 1 else 's'}")
        devices[", ".join(words)] = None
    return total, total_seconds, "; ".join(devices)


# Lines of JSON.


def _read_metrics(folder: TrainingFolder) -> list[dict[str, Any]]:
    return [line for line in read_lines(folder.metrics) if as_count(line.get("step")) is not None]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects in a file, one per line; lines that are not a JSON object are left out."""
    with contextlib.suppress(OSError):
        return read_json_lines(path)
    return []
