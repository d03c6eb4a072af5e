"""Compare the start of `spos --help` with an import of PyTorch."""

from __future__ import annotations

import subprocess
import sys

from tests.benchmarks.comparison import Comparison, compare

TURNS = 7


def run_python(*arguments: str) -> None:
    """Run this Python to its end."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def compare_help() -> Comparison:
    """Compare starts per second. The baseline is the cost of any program that imports PyTorch at its top."""
    return compare(
        "start: --help, against import torch",
        "starts/s",
        1,
        lambda: run_python("-c", "import torch"),
        lambda: run_python("-m", "spos_cli", "--help"),
        TURNS,
    )
