"""Starts processes that meet over gloo, as `torchrun` would, for tests of what they do together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp

from spos_cli.engine import distributed
from spos_cli.engine.distributed import Processes
from tests.forks import free_port, place

Work = Callable[[Processes, Path], None]


def run_together(world_size: int, works: Sequence[Work], folder: Path) -> None:
    """Run each work in all processes, one after another, in a folder of its own: processes start slowly."""
    for work in works:
        (folder / work.__name__).mkdir()
    arguments: tuple[Any, ...] = (world_size, works, str(folder), free_port())
    mp.spawn(_run, arguments, nprocs=world_size)  # type: ignore[no-untyped-call]


def _run(rank: int, world_size: int, works: Sequence[Work], folder: str, port: int) -> None:
    os.environ |= place(rank, world_size, port)
    with distributed.join("cpu", 1, timedelta(minutes=5)) as processes:
        for work in works:
            work(processes, Path(folder) / work.__name__)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # as launched processes end: a thread of gloo can abort the interpreter's shutdown
