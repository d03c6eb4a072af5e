"""`make bench` and `make bench-full`: speed against the official procedure or plain PyTorch, and how cost grows.

    python -m tests.benchmarks                  all lines, about 20 minutes on two cores
    python -m tests.benchmarks --full           more batch sizes and the largest space
    python -m tests.benchmarks --only training  one group of lines; --help lists the groups

Each comparison does a piece of work in two ways, in turns; the ratio is that of the medians. The baseline is
`official.py`, with the same model, images and threads, unless the row names another one. Machines are noisy: a row
whose spread (interquartile range over median) is above 20 % has no result. Writes bench.json, with all values.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks import (
    candidates,
    feeding,
    growth,
    inputs,
    neighbour,
    paths,
    processes,
    roofline,
    small_images,
    startup,
    training,
    whole_space,
)
from tests.benchmarks.comparison import MAX_SPREAD, Comparison
from tests.benchmarks.machine import Load, Machine, describe_machine, describe_noise
from tests.benchmarks.measure import Row
from tests.benchmarks.roofline import Roofline

Result = Comparison | Roofline | Row
OUTPUT = Path("bench.json")

# The groups of lines, in the order of the tables. The argument is whether the run is a full one. For another
# comparison, write a function `lines(full)` in a module of its own and name it here.
GROUPS: dict[str, Callable[[bool], Iterator[Result]]] = {
    "training": training.lines,
    "small-images": small_images.lines,
    "roofline": lambda full: iter([roofline.measure_roofline(training.BATCH)]),
    "candidates": candidates.lines,
    "whole-space": whole_space.lines,
    "neighbour": neighbour.lines,
    "processes": processes.lines,
    "paths": lambda full: iter([paths.compare_draws()]),
    "inputs": inputs.lines,
    "startup": startup.lines,
    "batches": training.growth,
    "journal": lambda full: growth.journals(),
    "space": growth.spaces,
    "loader": growth.loaders,
    "feeding": feeding.lines,
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
        return f"{result.what}, against {result.against}: {result.verdict}"
    if isinstance(result, Roofline):
        return f"roofline: {result.verdict}"
    return f"{result.what}, {result.size}: {result.verdict}"


def make_comparison_table(results: list[Comparison]) -> Table:
    """Make the table of both sides, as medians and ranges."""
    table = Table(title=f"medians (least to most); a spread above {MAX_SPREAD:.0%} is too noisy for a ratio")
    for title in ("what", "unit", "against", "baseline", "spos", "spread", "ratio"):
        table.add_column(title)
    for result in results:
        sides = (
            f"{statistics.median(side):.4g} ({min(side):.4g} to {max(side):.4g})"
            for side in (result.baseline, result.ours)
        )
        table.add_row(result.what, result.unit, result.against, *sides, f"{result.spread:.0%}", result.verdict)
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
    table.add_row(f"reached: {result.verdict}", f"spread {result.spread:.0%}", "", f"{result.reached:.1f}")
    return table


def make_growth_table(rows: list[Row]) -> Table:
    """Make the table of growing costs; memory is what the work needs above Python and PyTorch at rest."""
    table = Table(title="how cost grows")
    for title in ("what", "size", "median", "spread", "peak memory", "target"):
        table.add_column(title)
    for row in rows:
        memory = "" if row.memory is None else f"{row.memory:,.0f} MB"
        table.add_row(row.what, row.size, row.verdict, f"{row.spread:.0%}", memory, row.target)
    return table


def show(results: list[Result], machine: Machine, noise: str, console: Console) -> None:
    """Print the machine, how noisy it was, and all tables."""
    for line in (str(machine), noise):
        console.print(line, highlight=False, soft_wrap=True)
    comparisons = [result for result in results if isinstance(result, Comparison)]
    rows = [result for result in results if isinstance(result, Row)]
    if comparisons:
        console.print(make_comparison_table(comparisons))
    for result in results:
        if isinstance(result, Roofline):
            console.print(make_roofline_table(result))
    if rows:
        console.print(make_growth_table(rows))


def to_dict(results: list[Result], machine: Machine, noise: str) -> dict[str, Any]:
    """Return the content of bench.json; rates are units per second, memory is in MB."""
    bounds = ("by_compute", "by_compute_bf16", "by_memory", "fraction")
    return {
        "machine": asdict(machine),
        "noise": noise,
        "comparisons": [
            {**asdict(r), "ratio": r.ratio, "spread": r.spread} for r in results if isinstance(r, Comparison)
        ],
        "roofline": [
            {**asdict(r), **{name: getattr(r, name) for name in bounds}} for r in results if isinstance(r, Roofline)
        ],
        "growth": [asdict(r) for r in results if isinstance(r, Row)],
    }


def main() -> None:
    """Run the groups that the command line names."""
    options, screen = parse_arguments(), Console()
    console = screen if screen.is_terminal else Console(width=140)
    machine, before = describe_machine(), Load.read()
    console.print(f"{machine}; load average {before.average:.1f}", highlight=False, soft_wrap=True)
    results = run(options.only or list(GROUPS), options.full, console)
    noise = describe_noise(before, Load.read())
    show(results, machine, noise, console)
    OUTPUT.write_text(json.dumps(to_dict(results, machine, noise), indent=1) + "\n")


if __name__ == "__main__":
    main()
