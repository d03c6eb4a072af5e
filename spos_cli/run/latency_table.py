"""The latency table of a run: measured on a device here, or imported."""

from __future__ import annotations

from typing import Any

from spos_cli.config.schema import SearchConfig
from spos_cli.errors import RunError
from spos_cli.files.digests import file_digest
from spos_cli.files.os_errors import os_errors_as
from spos_cli.files.reading import read_json
from spos_cli.run.command import Run
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_csv import ImportedCosts
from spos_cli.space.cost_kinds import LATENCY
from spos_cli.space.search_space import SearchSpace

UNNAMED_DEVICE = "an unnamed device"
RUNTIMES = {  # for people
    "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime-int8": "ONNX Runtime with 8 bits",
}


def uses_latency(search: SearchConfig) -> bool:
    """Return whether a search needs a table of latencies."""
    return "latency" in search.needed_costs


def read_latency(run: Run) -> CostTable:
    """Read the latencies of this run's space.

    Raises:
        RunError: there is no table, or it is of another space.
    """
    path, measure = run.folder.latency_table, run.command("flops-table --latency")
    instead = "or import latencies with --import-latency FILE"
    try:
        content = read_json(path)
        space = run.config.space.build()
        if content["space"] != space.digest:
            raise RunError(f"{path} is a table of another space; run {measure} again, {instead}")
        table = CostTable(LATENCY, int(content["fixed"]), content["table"], space.options)
    except (ValueError, KeyError, TypeError, AssertionError):
        raise RunError(f"{path} is missing or broken; run {measure} first, {instead}") from None
    return table


def digest_latency(run: Run) -> str:
    """Return the digest of the latency table, which includes where it is from.

    Raises:
        RunError: it cannot be read.
    """
    with os_errors_as(RunError, f"cannot read {run.folder.latency_table}"):
        return file_digest(run.folder.latency_table)


def describe_latency(run: Run) -> str:
    """Return where the latencies of the run are from, in words; empty if its table does not say."""
    try:
        return describe_origin(read_json(run.folder.latency_table))
    except (LookupError, TypeError):
        return ""


def summarize_import(space: SearchSpace, latencies: ImportedCosts) -> dict[str, Any]:
    """Return imported latencies as plain values for `latency_table.json`, in the form of measured ones.

    The name of the CSV file is left out, so that the same latencies of the same device are always the same table.
    """
    return {
        "space": space.digest,
        "conditions": {"device": latencies.device, "imported": True},
        "fixed": latencies.table.fixed,
        "table": [list(row) for row in latencies.table.rows],
        "whole": [],  # The sums were not compared with whole networks.
    }


def describe_origin(content: dict[str, Any]) -> str:
    """Return, in words, on which device the latencies of a `latency_table.json` were measured, and how.

    Raises:
        LookupError, TypeError: the content is not a table of latencies.
    """
    conditions = content["conditions"]
    device = str(conditions["device"]) or UNNAMED_DEVICE
    if conditions.get("imported") is True:
        return f"{device}, imported"
    settings = f"{conditions['threads']} threads, {conditions['dtype']}, batch {conditions['batch']}"
    return f"{device}, {RUNTIMES[conditions['runtime']]}, {settings}"
