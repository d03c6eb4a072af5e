"""Read the result of a comparison with the truth into findings."""

from __future__ import annotations

from typing import Any

from spos_cli.files.reading import read_json
from spos_cli.report.findings import Agreement, Pick, TruthComparison
from spos_cli.report.values import as_count, as_number, list_dicts, read_interval
from spos_cli.run.folder import TruthFolder

MAX_LETTERS = 80  # of a text in the file


def read_truth_comparison(folder: TruthFolder) -> TruthComparison | None:
    """Return what `spos audit --truth` has found; None if there is no result. Unexpected values are left out."""
    content = read_json(folder.result)
    scores = content.get("scores")
    networks, scored = as_count(content.get("networks")), as_count(content.get("scored"))
    if not isinstance(scores, dict) or networks is None or scored is None:
        return None
    points = [
        (one_shot, alone, flops)
        for one_shot, alone, flops in zip(
            *(_numbers(scores.get(key)) for key in ("one_shot", "stand_alone", "flops")), strict=False
        )
        if one_shot is not None and alone is not None and flops is not None
    ]
    return TruthComparison(
        networks=networks,
        scored=scored,
        limits=str(content.get("limits") or "")[:MAX_LETTERS],
        agreement=[row for one in list_dicts(content.get("agreement")) if (row := _agreement(one)) is not None],
        picks=[pick for one in list_dicts(content.get("choices")) if (pick := _pick(one)) is not None],
        points=points,
    )


def _numbers(value: Any) -> list[float | None]:
    return [as_number(item) for item in value] if isinstance(value, list) else []


def _agreement(row: dict[str, Any]) -> Agreement | None:
    number, kendall = as_count(row.get("networks")), read_interval(row.get("kendall"))
    if number is None or kendall is None:
        return None
    flops = read_interval(row.get("kendall_of_flops"))
    return Agreement(
        part=str(row.get("part"))[:MAX_LETTERS],
        networks=number,
        kendall=kendall,
        kendall_of_flops=None if flops is None else flops[0],
        one_training=as_number(row.get("one_training")),
    )


def _pick(row: dict[str, Any]) -> Pick | None:
    accuracy, regret, better = (as_number(row.get(key)) for key in ("accuracy", "regret", "better_than"))
    if accuracy is None or regret is None or better is None:
        return None
    return Pick(str(row.get("choice"))[:MAX_LETTERS], accuracy, regret, better)
