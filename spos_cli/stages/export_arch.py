"""`spos export-arch`: write the best architectures of a search, each into a file of its own."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from spos_cli.engine import checkpoint
from spos_cli.errors import LimitError, RunError
from spos_cli.search.journal import Entry, Journal, ranking
from spos_cli.space.cost import format_cost
from spos_cli.stages.common import Run, read_settings


def run(run: Run, top: int, limit: int | None) -> None:
    """Leaves `archs/<id>/arch.yaml` for the best `top`; nothing is scored again.

    Args:
        top: how many.
        limit: FLOPs; only candidates at or under it are considered.

    Raises:
        RunError: there is no search here, or it is of another space.
        LimitError: no scored candidate is under the limit.
    """
    journal = Journal(run.search_folder / "journal.jsonl")
    entries = journal.read()
    if not entries:
        raise RunError(f"there are no scored candidates in {run.search_folder}; run spos search first")
    space = run.config.space.build()
    for entry in entries:
        space.validate(entry.architecture)
    best = ranking(entries, limit)[:top]
    if not best:
        least, most = min(entry.flops for entry in entries), max(entry.flops for entry in entries)
        raise LimitError(
            f"no scored candidate has at most {format_cost(limit or 0)} FLOPs; they have {format_cost(least)} to"
            f" {format_cost(most)}. Search again with spos search --fresh --flops-limit {format_cost(limit or 0)}"
        )
    origin = {"supernet": read_settings(run)["supernet"], "space": space.to_dict()}
    paths = [write(run, entry, origin) for entry in best]
    rows = [
        (rank, path, format_cost(entry.flops), format_cost(entry.params), f"{entry.top1:.2%}")
        for rank, (entry, path) in enumerate(zip(best, paths, strict=True), 1)
    ]
    run.show("exported", ["rank", "file:", "FLOPs", "params", "one-shot top-1"], rows)
    run.result([{"file": str(path), **entry.to_dict()} for entry, path in zip(best, paths, strict=True)])
    run.next(f"retrain {shlex.quote(paths[0])}")


def write(run: Run, entry: Entry, origin: dict[str, Any]) -> str:
    """Writes one `arch.yaml`, with what the search was made on, and returns its path."""
    content = {
        "architecture": list(entry.architecture),
        "flops": entry.flops,
        "params": entry.params,
        "fitness": {"top1": entry.top1, "top5": entry.top5, "images": entry.images},
        "found": {"generation": entry.generation, "origin": entry.origin},
        **origin,
    }
    path = run.archs_folder / entry.architecture.id / "arch.yaml"
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)
    checkpoint.write_atomically(path, text.encode())
    return str(path)
