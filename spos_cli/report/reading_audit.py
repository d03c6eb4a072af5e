"""Read the result of an audit into findings."""

from __future__ import annotations

from typing import Any

from spos_cli.engine.differences import find_differences
from spos_cli.files.reading import read_json
from spos_cli.report.findings import Audit, EqualFlops
from spos_cli.report.values import as_count, as_number, list_dicts, read_interval
from spos_cli.run.folder import AuditFolder, SearchFolder

MAX_NAME_LETTERS = 60  # of an operator


def is_of_search(audit: AuditFolder, search: SearchFolder) -> bool:
    """Return whether an audit belongs to the search in the same run, which may have more generations by now.

    Without the settings of both it is assumed to.
    """
    ours, theirs = read_json(search.settings), read_json(audit.settings)
    in_search, in_audit, training = ours.get("search"), theirs.get("search"), theirs.get("training")
    if not (isinstance(in_search, dict) and isinstance(in_audit, dict) and isinstance(training, dict)):
        return True
    same_names = {name: training.get(name) for name in ("seed", "space", "data") if name in ours}
    ours = {
        **ours,
        "search": {name: value for name, value in in_search.items() if name not in ("latency_table", "cost_tables")},
    }
    theirs = {**theirs, "search": {name: value for name, value in in_audit.items() if name != "generations"}}
    return not any(find_differences(ours, theirs | same_names))


def read_audit(folder: AuditFolder) -> Audit | None:
    """Return what `spos audit` has found; None if there is no result. Values of an unexpected form are left out."""
    content = read_json(folder.result)
    if not content:
        return None
    fidelity = content.get("fidelity")
    fidelity = fidelity if isinstance(fidelity, dict) else {}
    pairs = _pairs(fidelity.get("architectures"))
    curves = {kind: _curves(content.get(kind)) for kind in ("random", "evolution")}
    correlations = {name: read_interval(fidelity.get(name)) for name in ("kendall", "spearman", "kendall_of_flops")}
    return Audit(
        curves={kind: seeds for kind, seeds in curves.items() if seeds},
        operators=_operators(content.get("operators")),
        fidelity_steps=as_count(fidelity.get("steps")),
        one_shot=[one_shot for one_shot, _, _ in pairs],
        stand_alone=[stand_alone for _, stand_alone, _ in pairs],
        fidelity_flops=[flops for _, _, flops in pairs if flops is not None],
        winner=next(((one_shot, stand_alone) for one_shot, stand_alone, _ in _pairs([fidelity.get("winner")])), None),
        equal_flops=_equal_flops(fidelity.get("equal_flops")),
        correlations={name: interval for name, interval in correlations.items() if interval is not None},
        images=_more_images(content.get("images")),
    )


def _pairs(value: Any) -> list[tuple[float, float, int | None]]:
    """Return each architecture's one-shot top-1, stand-alone top-1 and FLOPs."""
    return [
        (one_shot, stand_alone, as_count(row.get("flops")))
        for row in list_dicts(value)
        if (one_shot := as_number(row.get("one_shot"))) is not None
        and (stand_alone := as_number(row.get("alone"))) is not None
    ]


def _equal_flops(value: Any) -> EqualFlops | None:
    pairs = _pairs(value.get("architectures")) if isinstance(value, dict) else []
    if not pairs:
        return None
    return EqualFlops(
        one_shot=[one_shot for one_shot, _, _ in pairs],
        stand_alone=[stand_alone for _, stand_alone, _ in pairs],
        kendall=read_interval(value.get("kendall")),
        difference=read_interval(value.get("difference")),
    )


def _curves(value: Any) -> list[list[float]]:
    """Return the best top-1 so far after each candidate, one curve per seed."""
    seeds = [seed["best"] for seed in list_dicts(value) if isinstance(seed.get("best"), list)]
    curves = [[number for item in seed if (number := as_number(item)) is not None] for seed in seeds]
    return [curve for curve in curves if curve]


def _operators(value: Any) -> dict[str, dict[str, int]]:
    """Return the counts of each operator."""
    operators = value.items() if isinstance(value, dict) else []
    return {
        str(name)[:MAX_NAME_LETTERS]: {
            str(key): number for key, item in counts.items() if (number := as_count(item)) is not None
        }
        for name, counts in operators
        if isinstance(counts, dict)
    }


def _more_images(value: Any) -> list[tuple[int, float, int]]:
    """Return the number of images, the smallest difference that is detected, and how many would be tied."""
    return [
        (images, width, tied)
        for row in list_dicts(value)
        if (images := as_count(row.get("images"))) is not None
        and (width := as_number(row.get("tie_width"))) is not None
        and (tied := as_count(row.get("tied"))) is not None
    ]
