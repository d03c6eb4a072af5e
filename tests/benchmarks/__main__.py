"""`make bench` and `make bench-full`: speed against the official procedure, and how cost grows.

    python -m tests.benchmarks                  all lines, about 5 minutes on two cores
    python -m tests.benchmarks --full           more batch sizes and the largest space
    python -m tests.benchmarks --only training  one group of lines; --help lists the groups

Each comparison does a piece of work in two ways, in turns; the ratio is that of the medians. The baseline is
`official.py`, with the same model, images and threads. Machines are noisy, so look at the range too. Writes bench.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from tests.benchmarks import candidates, growth, inputs, paths, processes, roofline, startup, training
from tests.benchmarks.comparison import Comparison
from tests.benchmarks.measure import Row
from tests.benchmarks.roofline import Roofline

Result = Comparison | Roofline | Row
OUTPUT = Path("bench.json")

# The groups of lines, in the order of the tables. The argument is whether the run is a full one. For another
# comparison, write a function `lines(full)` in a module of its own and name it here.
GROUPS: dict[str, Callable[[bool], Iterator[Result]]] = {
    "training": training.lines,
    "roofline": lambda full: iter([roofline.measure_roofline(training.BATCH)]),
    "candidates": candidates.lines,
    "processes": processes.lines,
    "paths": lambda full: iter([paths.compare_draws()]),
    "inputs": inputs.lines,
    "startup": lambda full: iter([startup.compare_help()]),
    "batches": training.growth,
    "journal": lambda full: growth.journals(),
    "space": growth.spaces,
    "loader": growth.loaders,
}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--full", action="store_true", help="more batch sizes and the largest space")
    parser.add_argument("--only", action="append", choices=GROUPS, metavar="NAME", help=", ".join(GROUPS))
    return parser.parse_args()


def run(names: list[str], full: bool, console: Console) -> list[Result]:
    """Run one group after another, and print each result when it is there."""
    results: list[Result] = []
    begin = time.monotonic()
    for name in names:
        console.print(f"{name} ...", style="dim")
        for result in GROUPS[name](full):
            results.append(result)
            console.print(f"  {time.monotonic() - begin:4.0f} s  {format_result(result)}", style="dim", highlight=False)
    return results


def format_result(result: Result) -> str:
    """Format a result as a line."""
    if isinstance(result, Comparison):
        return f"{result.what}: {result.ratio:.2f}x"
    if isinstance(result, Roofline):
        return f"roofline: {result.fraction:.0%} of the bound"
    return f"{result.what}, {result.size}: {result.value:.4g} {result.unit}"


def make_comparison_table(results: list[Comparison]) -> Table:
    """Make the table of both sides, as medians and ranges."""
    table = Table(title=f"medians (least to most); {torch.get_num_threads()} threads, PyTorch {torch.__version__}")
    for title in ("what", "unit", "official procedure", "spos", "ratio"):
        table.add_column(title)
    for result in results:
        sides = (
            f"{statistics.median(side):.4g} ({min(side):.4g} to {max(side):.4g})"
            for side in (result.baseline, result.ours)
        )
        table.add_row(result.what, result.unit, *sides, f"{result.ratio:.2f}x")
    return table


def make_roofline_table(result: Roofline) -> Table:
    """Make the table of what the machine can do, the bounds for a step, and the measured rate."""
    machine = result.machine
    table = Table(title=f"a supernet step at 224 px, batch {result.batch}, fp32: bounds of this machine")
    for title in ("what", "measured rate", "an image needs", "images/s"):
        table.add_column(title)
    operations, traffic = f"{result.operations / 1e9:.2f} GFLOP", f"{result.traffic / 1e6:.0f} MB"
    table.add_row("arithmetic, fp32", f"{machine.gemm_fp32 / 1e9:.0f} GFLOP/s", operations, f"{result.by_compute:.1f}")
    table.add_row(
        "arithmetic, bf16", f"{machine.gemm_bf16 / 1e9:.0f} GFLOP/s", operations, f"{result.by_compute_bf16:.1f}"
    )
    table.add_row("memory, eager fp32", f"{machine.copy / 1e9:.1f} GB/s", traffic, f"{result.by_memory:.1f}")
    table.add_row(f"reached: {result.fraction:.0%} of the lower fp32 bound", "", "", f"{result.reached:.1f}")
    return table


def make_growth_table(rows: list[Row]) -> Table:
    """Make the table of growing costs; memory is what the work needs above Python and PyTorch at rest."""
    table = Table(title="how cost grows")
    for title in ("what", "size", "median", "peak memory", "target"):
        table.add_column(title)
    for row in rows:
        memory = "" if row.memory is None else f"{row.memory:,.0f} MB"
        table.add_row(row.what, row.size, f"{row.value:.4g} {row.unit}", memory, row.target)
    return table


def show(results: list[Result], console: Console) -> None:
    """Print all tables."""
    comparisons = [result for result in results if isinstance(result, Comparison)]
    rows = [result for result in results if isinstance(result, Row)]
    if comparisons:
        console.print(make_comparison_table(comparisons))
    for result in results:
        if isinstance(result, Roofline):
            console.print(make_roofline_table(result))
    if rows:
        console.print(make_growth_table(rows))


def to_dict(results: list[Result]) -> dict[str, Any]:
    """Return the content of bench.json; rates are units per second, memory is in MB."""
    bounds = ("by_compute", "by_compute_bf16", "by_memory", "fraction")
    return {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "comparisons": [{**asdict(r), "ratio": r.ratio} for r in results if isinstance(r, Comparison)],
        "roofline": [
            {**asdict(r), **{name: getattr(r, name) for name in bounds}} for r in results if isinstance(r, Roofline)
        ],
        "growth": [asdict(r) for r in results if isinstance(r, Row)],
    }


def main() -> None:
    """Run the groups that the command line names."""
    options, screen = parse_arguments(), Console()
    console = screen if screen.is_terminal else Console(width=140)
    results = run(options.only or list(GROUPS), options.full, console)
    show(results, console)
    OUTPUT.write_text(json.dumps(to_dict(results), indent=1) + "\n")


if __name__ == "__main__":
    main()
