"""From the Enter key to the help: `spos --help` against what importing PyTorch alone takes."""

from __future__ import annotations

import subprocess
import sys

from tests.benchmarks.comparison import Comparison, compare

TURNS = 7


def started(*arguments: str) -> None:
    """Runs this Python to its end."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def help_text() -> Comparison:
    """Starts a second. The baseline is what any program pays that imports PyTorch at its top."""
    return compare(
        "start: --help, against import torch",
        "starts/s",
        1,
        lambda: started("-c", "import torch"),
        lambda: started("-m", "spos_cli", "--help"),
        TURNS,
    )
