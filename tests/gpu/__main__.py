"""`make gpu`: numbers, processes and speed on this machine's accelerator, in 10 minutes at most on one H100.

    python -m tests.gpu                          all checks
    python -m tests.gpu --only logits-bf16,loader
    python -m tests.gpu --list                   names, time limits in seconds, and what is checked

Without an accelerator the same code runs on the CPU with small sizes. That tests the checks only; the figures mean
nothing. Writes gpu.json after each check; the exit code is 1 if a check has failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from spos_cli.engine import accelerator
from spos_cli.errors import ConfigError
from tests.gpu import numbers, processes, speed
from tests.gpu.checks import Check, Place, Rate, Result, find_winners, perform

OUTPUT = Path("gpu.json")
NO_ACCELERATOR = "no accelerator found: checked itself on the CPU with small sizes; the figures mean nothing"
CHECKS: dict[str, Check] = {
    check.name: check for check in (*numbers.list_checks(), *processes.list_checks(), *speed.list_checks())
}


def parse_names(text: str) -> list[str]:
    """Parse the value of `--only`."""
    names = text.split(",")
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no check {', '.join(unknown)}; --list shows them")
    return names


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", type=parse_names, metavar="NAME[,NAME]", help="run only these checks")
    parser.add_argument("--list", action="store_true", help="list the checks and exit")
    parser.add_argument("--cpu", action="store_true", help="ignore accelerators")
    return parser.parse_args(words)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Describe the device and the software that the figures belong to."""
    return {
        "device": accelerator.get_name(device),
        "kind": device.type,
        "accelerators": accelerator.count(),
        "float32": accelerator.describe_float32(device),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
    }


def make_rates_table(rates: list[Rate]) -> Table:
    """Make the table of measured speeds."""
    table = Table(title="speeds, as medians")
    for title in ("what", "way", "rate", "of the default", "peak memory beside weights"):
        table.add_column(title)
    kinds = [rate.what for rate in rates]  # Rates that were measured later are listed beside others of their kind.
    defaults = {rate.what: rate.value for rate in rates if rate.way == "default"}
    for rate in sorted(rates, key=lambda rate: kinds.index(rate.what)):
        share = f"{rate.value / defaults[rate.what]:.2f}x" if rate.what in defaults else ""
        memory = "" if rate.memory is None else f"{rate.memory / 2**30:.2f} GiB"
        table.add_row(rate.what, rate.way, f"{rate.value:,.4g} {rate.unit}", share, memory)
    return table


def make_verdicts_table(found: list[dict[str, Any]]) -> Table:
    """Make the table of the winners: a default, or another value of its setting."""
    table = Table(title="which default wins on this device")
    for title in ("what", "setting", "default", "fastest other", "against the default", "wins"):
        table.add_column(title)
    for row in found:
        *texts, ratio, wins = row.values()
        table.add_row(*texts, f"{ratio:.2f}x", wins if wins == row["default"] else f"[bold]{wins}[/]")
    return table


def write(device: torch.device, results: list[Result], rates: list[Rate], seconds: float) -> None:
    """Write gpu.json."""
    content = {
        "note": NO_ACCELERATOR if device.type == "cpu" else "",
        "machine": describe_machine(device),
        "seconds": round(seconds, 1),
        "checks": [asdict(result) for result in results],
        "rates": [asdict(rate) for rate in rates],
        "defaults": find_winners(rates),
    }
    OUTPUT.write_text(json.dumps(content, indent=1) + "\n")


def main(words: list[str] | None = None) -> int:
    """Run the chosen checks; return 1 if one has failed."""
    options, begin = parse_arguments(words), time.monotonic()
    if options.list:
        for check in CHECKS.values():
            print(f"{check.name:<18} {check.budget:4.0f} s  {check.what}")
        return 0
    try:
        accelerator.require_usable("cpu" if options.cpu else "auto")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    device = accelerator.CPU if options.cpu or not accelerator.count() else accelerator.get_device(0)
    accelerator.select(device)
    if device.type == "cpu":
        torch.set_num_threads(1)  # Several threads would wait for each other on a busy machine.
    print(f"{accelerator.get_name(device)}, PyTorch {torch.__version__}" if device.type != "cpu" else NO_ACCELERATOR)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Place(device, Path(folder))
        for name in options.only or CHECKS:
            results.append(perform(CHECKS[name], place))
            print(results[-1].line, flush=True)
            write(device, results, place.rates, time.monotonic() - begin)
    screen = Console()
    console = screen if screen.is_terminal else Console(width=140)
    if place.rates:
        console.print(make_rates_table(place.rates))
        console.print(make_verdicts_table(find_winners(place.rates)))
    failed = [result.name for result in results if result.status == "FAIL"]
    print(f"{len(results)} checks in {time.monotonic() - begin:.0f} s; failed: {', '.join(failed) or 'none'}")
    if device.type == "cpu":
        print(NO_ACCELERATOR)
    print(f"written to {OUTPUT.resolve()}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
